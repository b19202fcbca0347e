import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { nodeTemplate } from '../../../agent/identity/csr.ts';
import {
  type CertificatePlan,
  type CertificateState,
  lacking,
  planCertificate,
  pollDelayMs,
  rotationTime,
} from '../../../agent/identity/rotation.ts';
import type { CertificateFacts } from '../../../agent/identity/x509.ts';

const hour = 3_600_000;
const facts: CertificateFacts = {
  ...nodeTemplate('n1'),
  dnsNames: ['n1'],
  ipAddresses: ['10.0.0.1', 'fd00::1'],
  notBefore: 0,
  notAfter: 100 * hour,
  serial: '01',
};
const wanted = { ...nodeTemplate('n1'), dnsNames: ['n1'], ipAddresses: ['10.0.0.1'] };
const moved = { ...wanted, ipAddresses: ['10.0.0.2'] };
const base: CertificateState = { current: facts, rotateAt: 80 * hour, wanted, pending: undefined };

describe('planCertificate', () => {
  const cases: [string, CertificateState, number, CertificatePlan][] = [
    ['everything is good; do nothing until it is due', base, 10 * hour, { kind: 'keep', wakeAt: 80 * hour }],
    [
      'none yet: request',
      { ...base, current: undefined, rotateAt: undefined },
      0,
      { kind: 'request', template: wanted, reason: 'there is no certificate' },
    ],
    ['none yet, no addresses: wait', { ...base, current: undefined, rotateAt: undefined, wanted: undefined }, 0, { kind: 'waitForNames' }],
    [
      'due: request',
      base,
      80 * hour,
      { kind: 'request', template: wanted, reason: 'the certificate is due: it expires at 1970-01-05T04:00:00.000Z' },
    ],
    ['due, addresses unknown: wait', { ...base, wanted: undefined }, 80 * hour, { kind: 'waitForNames' }],
    ['not due, addresses unknown: keep', { ...base, wanted: undefined }, 10 * hour, { kind: 'keep', wakeAt: 80 * hour }],
    [
      'expired: request',
      base,
      101 * hour,
      { kind: 'request', template: wanted, reason: 'the certificate expired at 1970-01-05T04:00:00.000Z' },
    ],
    [
      'an address changed: request',
      { ...base, wanted: moved },
      10 * hour,
      { kind: 'request', template: moved, reason: 'the certificate no longer fits: it lacks 10.0.0.2' },
    ],
    ['requested: poll', { ...base, current: undefined, pending: wanted }, 0, { kind: 'poll' }],
    ['requested for rotation: poll, whatever the old one is like', { ...base, pending: wanted }, 99 * hour, { kind: 'poll' }],
    ['requested, addresses now unknown: poll', { ...base, wanted: undefined, pending: wanted }, 0, { kind: 'poll' }],
    [
      'requested for other names: abandon',
      { ...base, wanted: moved, pending: wanted },
      0,
      { kind: 'abandon', reason: 'the names that the certificate must cover have changed' },
    ],
  ];
  for (const [name, state, now, expected] of cases) test(name, () => assert.deepEqual(planCertificate(state, now), expected));
});

describe('rotationTime', () => {
  test('lies between 70 and 90 % of the lifetime', () => {
    assert.equal(rotationTime({ notBefore: 1000, notAfter: 2000 }, 0), 1700);
    assert.equal(rotationTime({ notBefore: 1000, notAfter: 2000 }, 0.5), 1800);
    assert.ok(rotationTime({ notBefore: 1000, notAfter: 2000 }, 0.999999) < 1900);
  });
});

describe('lacking', () => {
  const cases: [string, Parameters<typeof lacking>[1], string | undefined][] = [
    ['nothing', wanted, undefined],
    ['more in the certificate than wanted is fine', { ...wanted, ipAddresses: [], dnsNames: [] }, undefined],
    ['a name', { ...wanted, dnsNames: ['n1', 'n1.example'] }, 'it lacks n1.example'],
    ['another node', nodeTemplate('n2'), 'it names "system:node:n1", not "system:node:n2"'],
    ['an organization', { ...wanted, organizations: ['system:nodes', 'x'] }, 'it lacks x'],
  ];
  for (const [name, template, expected] of cases) test(name, () => assert.equal(lacking(facts, template), expected));
});

test('pollDelayMs: often at first, every 5 s in the end', () => {
  assert.deepEqual([0, 400, 2_000, 8_000, 60_000].map(pollDelayMs), [100, 100, 500, 2_000, 5_000]);
});
