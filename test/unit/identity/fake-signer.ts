import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AgentError } from '../../../agent/base/errors.ts';
import type { CsrApi } from '../../../agent/identity/worker.ts';
import type { CertificateSigningRequest } from '../../../agent/model/generated/api.ts';

/** CertificateSigningRequests in memory, signed by openssl on demand. */
export interface FakeSigner extends CsrApi, Disposable {
  readonly requests: Map<string, CertificateSigningRequest>;
  readonly caPem: string;
  /** Thrown by the next calls, while set. */
  failure: Error | undefined;
  approve(name: string): void;
  deny(name: string, reason: string): void;
  /** Signs an approved request; valid from an hour ago (openssl's clock) for `days`. */
  sign(name: string, days?: number): void;
}

/** Makes a signer with an authority of its own. */
export function fakeSigner(): FakeSigner {
  const dir = mkdtempSync(join(tmpdir(), 'keelson-signer-'));
  const openssl = (...args: string[]): void => void execFileSync('openssl', args, { cwd: dir, stdio: ['ignore', 'ignore', 'pipe'] });
  openssl(
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
    ...['-keyout', 'ca.key', '-out', 'ca.crt', '-days', '30', '-subj', '/CN=signer'],
  );
  const requests = new Map<string, CertificateSigningRequest>();
  let count = 0;
  const must = (name: string): CertificateSigningRequest => {
    const csr = requests.get(name);
    if (csr === undefined) throw new Error(`no request ${name}`);
    return csr;
  };
  const condition = (name: string, type: string, reason: string): void => {
    const csr = must(name);
    requests.set(name, {
      ...csr,
      status: { ...csr.status, conditions: [...(csr.status?.conditions ?? []), { type, status: 'True', reason }] },
    });
  };
  const fake: FakeSigner = {
    requests,
    caPem: readFileSync(join(dir, 'ca.crt'), 'utf8'),
    failure: undefined,
    async create(request) {
      if (fake.failure !== undefined) throw fake.failure;
      const name = request.metadata?.name ?? `${request.metadata?.generateName}${++count}`;
      if (requests.has(name)) throw new AgentError('AlreadyExists', `${name} already exists`);
      const made = { ...request, metadata: { name, uid: `uid-${name}-${++count}` } };
      requests.set(name, made);
      return made;
    },
    async get(name) {
      if (fake.failure !== undefined) throw fake.failure;
      return requests.get(name);
    },
    approve: (name) => condition(name, 'Approved', 'Test'),
    deny: (name, reason) => condition(name, 'Denied', reason),
    sign(name, days = 1) {
      const csr = must(name);
      writeFileSync(join(dir, 'r.csr'), Buffer.from(csr.spec.request, 'base64'));
      openssl(
        ...['x509', '-req', '-in', 'r.csr', '-CA', 'ca.crt', '-CAkey', 'ca.key', '-set_serial', String(1000 + ++count)],
        ...['-days', String(days), '-copy_extensions', 'copy', '-out', 'r.crt'],
      );
      const certificate = readFileSync(join(dir, 'r.crt')).toString('base64');
      requests.set(name, { ...csr, status: { ...csr.status, certificate } });
    },
    [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }),
  };
  return fake;
}
