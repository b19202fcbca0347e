import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { clientSigner } from '../../../agent/identity/csr.ts';
import { csrVerdict } from '../../../agent/identity/csr-verdict.ts';
import type { CertificateSigningRequest, CertificateSigningRequestStatus } from '../../../agent/model/generated/api.ts';

const csr = (status?: CertificateSigningRequestStatus, uid = 'u1'): CertificateSigningRequest => ({
  metadata: { name: 'csr-x', uid },
  spec: { request: '', signerName: clientSigner },
  status,
});
const condition = (type: string, reason?: string, message?: string) => ({ type, status: 'True', reason, message });
const pem = '-----BEGIN CERTIFICATE-----\n';
const certificate = Buffer.from(pem).toString('base64');

describe('csrVerdict', () => {
  const cases: [string, CertificateSigningRequest | undefined, string, RegExp | undefined][] = [
    ['deleted', undefined, 'gone', /csr-x was deleted/],
    ['made anew', csr(undefined, 'u2'), 'gone', /made anew/],
    ['not looked at', csr(), 'pending', /kubectl certificate approve csr-x/],
    ['approved, not signed', csr({ conditions: [condition('Approved')] }), 'pending', /csrsigning/],
    ['a certificate without approval does not count', csr({ certificate }), 'pending', /approve/],
    ['denied', csr({ conditions: [condition('Denied', 'Policy', 'not today')] }), 'denied', /Policy: not today.*kubectl delete csr csr-x/],
    ['denied after approval', csr({ conditions: [condition('Approved'), condition('Denied')], certificate }), 'denied', /no reason given/],
    ['failed', csr({ conditions: [condition('Approved'), condition('Failed', 'SignerValidationFailure', 'usages')] }), 'failed', /usages/],
    ['issued', csr({ conditions: [condition('Approved')], certificate }), 'issued', undefined],
  ];
  for (const [name, object, kind, message] of cases) {
    test(name, () => {
      const verdict = csrVerdict('csr-x', 'u1', object);
      assert.equal(verdict.kind, kind);
      if (verdict.kind === 'issued') assert.equal(verdict.certPem, pem);
      else assert.match(verdict.message, message ?? /./);
    });
  }
});
