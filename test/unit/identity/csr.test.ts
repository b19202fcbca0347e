import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import {
  bootstrapRequestName,
  buildCertificateRequest,
  newPrivateKey,
  nodeTemplate,
  sameSubjectAndKey,
  servingNames,
  servingTemplate,
  usagesFor,
} from '../../../agent/identity/csr.ts';
import { canonicalIp, ipBytes } from '../../../agent/identity/der.ts';
import { selfSignedPair } from '../../../agent/identity/self-signed.ts';
import { checkedPair, leafFacts, readCertificates } from '../../../agent/identity/x509.ts';

let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'keelson-csr-'));
});
after(() => rmSync(dir, { recursive: true, force: true }));

const openssl = (...args: string[]): string => execFileSync('openssl', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

function file(name: string, text: string): string {
  const path = join(dir, name);
  writeFileSync(path, text);
  return path;
}

describe('certificate requests', () => {
  const serving = { ...nodeTemplate('node-1'), dnsNames: ['node-1', 'node-1.example'], ipAddresses: ['10.0.0.5', 'fd00::5'] };
  const rsaKey = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ type: 'pkcs8', format: 'pem' }) as string;

  for (const [what, keyPem] of [
    ['ECDSA', newPrivateKey()],
    ['RSA', rsaKey],
  ] as const) {
    test(`openssl verifies an ${what} request and reads subject and names`, () => {
      const path = file(`${what}.csr`, buildCertificateRequest(serving, keyPem));
      // openssl req -verify exits 0 even for a bad signature in some versions: the word decides.
      const verdict = execFileSync('sh', ['-c', `openssl req -in ${path} -verify -noout 2>&1`], { encoding: 'utf8' });
      assert.match(verdict, /verify OK/);
      const text = openssl('req', '-in', path, '-noout', '-text', '-nameopt', 'RFC2253,sep_comma_plus');
      assert.match(text, /CN=system:node:node-1,O=system:nodes/);
      assert.match(text, /DNS:node-1, DNS:node-1\.example, IP Address:10\.0\.0\.5, IP Address:FD00:0:0:0:0:0:0:5/);
    });
  }

  test('a request without names has no extensions', () => {
    const path = file('plain.csr', buildCertificateRequest(nodeTemplate('n'), newPrivateKey()));
    const text = openssl('req', '-in', path, '-noout', '-text', '-verify');
    assert.doesNotMatch(text, /Alternative Name/);
  });

  test('sameSubjectAndKey: signatures may differ, subject and key may not', () => {
    const key = newPrivateKey();
    const one = buildCertificateRequest(nodeTemplate('a'), key);
    assert.notEqual(one, buildCertificateRequest(nodeTemplate('a'), key));
    assert.equal(sameSubjectAndKey(one, buildCertificateRequest(nodeTemplate('a'), key)), true);
    assert.equal(sameSubjectAndKey(one, buildCertificateRequest(nodeTemplate('b'), key)), false);
    assert.equal(sameSubjectAndKey(one, buildCertificateRequest(nodeTemplate('a'), newPrivateKey())), false);
    assert.throws(() => sameSubjectAndKey(one, 'nonsense'), { code: 'InvalidDer' });
  });

  test('usages: RSA keys may encipher keys, EC keys may not', () => {
    assert.deepEqual(usagesFor('client', newPrivateKey()), ['digital signature', 'client auth']);
    assert.deepEqual(usagesFor('serving', newPrivateKey()), ['digital signature', 'server auth']);
    assert.deepEqual(usagesFor('client', rsaKey), ['digital signature', 'client auth', 'key encipherment']);
  });

  test('the bootstrap name depends on key, subject and usages only', () => {
    const key = newPrivateKey();
    const usages = usagesFor('client', key);
    const name = bootstrapRequestName(key, nodeTemplate('a'), usages);
    assert.match(name, /^node-csr-[A-Za-z0-9_-]{43}$/);
    assert.equal(bootstrapRequestName(key, nodeTemplate('a'), usages), name);
    assert.notEqual(bootstrapRequestName(key, nodeTemplate('b'), usages), name);
    assert.notEqual(bootstrapRequestName(newPrivateKey(), nodeTemplate('a'), usages), name);
    assert.notEqual(bootstrapRequestName(key, nodeTemplate('a'), [...usages, 'key encipherment']), name);
  });

  test('the bootstrap name is the one that kubelet gives', () => {
    // Key and name from a run of upstream's digestedName (pkg/kubelet/certificate/bootstrap, v1.36.1).
    const key = `-----BEGIN EC PRIVATE KEY-----
MHcCAQEEILGM4fulhXGpQ9Omjbx08FtBKYFhvCDxGOr5sgRALKlsoAoGCCqGSM49
AwEHoUQDQgAENRVhC175vhJ8KbRCsVZOpYMzof8TN6qQK/ulBM9ZcXOgtB+gultK
F35TYAjzuWf6yYP8SDTsB/i1NFOKgaWb6A==
-----END EC PRIVATE KEY-----
`;
    assert.equal(
      bootstrapRequestName(key, nodeTemplate('worker-7'), ['digital signature', 'client auth']),
      'node-csr-XviyfnJSiMBiSMni_DUxNVREq94aXAy7KhzrRC9rcgg',
    );
  });
});

describe('names of a serving certificate', () => {
  const cases: [string, { type: string; address: string }[], { dnsNames: string[]; ipAddresses: string[] }][] = [
    ['nothing known', [], { dnsNames: [], ipAddresses: [] }],
    [
      'sorted, without doubles',
      [
        { type: 'InternalIP', address: '10.0.0.9' },
        { type: 'ExternalIP', address: '10.0.0.10' },
        { type: 'InternalIP', address: '10.0.0.9' },
        { type: 'Hostname', address: 'b' },
        { type: 'InternalDNS', address: 'a.local' },
      ],
      { dnsNames: ['a.local', 'b'], ipAddresses: ['10.0.0.10', '10.0.0.9'] },
    ],
    ['a hostname that is an address', [{ type: 'Hostname', address: '10.1.1.1' }], { dnsNames: [], ipAddresses: ['10.1.1.1'] }],
    ['IPv6 in one spelling', [{ type: 'InternalIP', address: 'FD00:0:0::5' }], { dnsNames: [], ipAddresses: ['fd00::5'] }],
    [
      'empty and senseless ones are left out',
      [
        { type: 'InternalIP', address: '' },
        { type: 'InternalIP', address: 'not-an-ip' },
        { type: 'Other', address: '1.2.3.4' },
      ],
      { dnsNames: [], ipAddresses: [] },
    ],
  ];
  for (const [name, addresses, expected] of cases) test(name, () => assert.deepEqual(servingNames(addresses), expected));

  test('no request without an address, unless DNS-only ones are allowed', () => {
    const named = [{ type: 'Hostname', address: 'n1' }];
    assert.equal(servingTemplate('n1', named), undefined);
    assert.deepEqual(servingTemplate('n1', named, true)?.dnsNames, ['n1']);
    assert.equal(servingTemplate('n1', [], true), undefined);
  });
});

describe('addresses', () => {
  const cases: [string, string | undefined, string | undefined][] = [
    ['10.0.0.1', '10.0.0.1', '0a000001'],
    ['::1', '::1', '00000000000000000000000000000001'],
    ['FD00:0::A:1', 'fd00::a:1', 'fd0000000000000000000000000a0001'],
    ['::ffff:10.0.0.1', '10.0.0.1', '0a000001'],
    ['1::', '1::', '00010000000000000000000000000000'],
    ['nope', undefined, undefined],
  ];
  for (const [text, canonical, hex] of cases) {
    test(text, () => {
      assert.equal(canonicalIp(text), canonical);
      if (hex === undefined) assert.throws(() => ipBytes(text), { code: 'InvalidAddress' });
      else assert.equal(ipBytes(text).toString('hex'), hex);
    });
  }
});

describe('self-signed serving certificate', () => {
  const now = Date.UTC(2026, 10, 21, 8, 0, 0);
  for (const [host, addresses, names] of [
    ['node-1', ['10.0.0.5', 'fd00::5'], { dnsNames: ['node-1'], ipAddresses: ['10.0.0.5', 'fd00::5'] }],
    ['10.0.0.5', [], { dnsNames: [], ipAddresses: ['10.0.0.5'] }],
  ] as const) {
    test(`${host}: openssl verifies the chain strictly, for a server`, () => {
      const pair = selfSignedPair(host, addresses, now);
      const [leaf, authority] = readCertificates(pair.certPem);
      assert.ok(leaf && authority);
      const leafPath = file('leaf.pem', leaf.toString());
      const caPath = file('ca.pem', authority.toString());
      const said = openssl('verify', '-x509_strict', '-purpose', 'sslserver', '-attime', String(now / 1000), '-CAfile', caPath, leafPath);
      assert.match(said, /: OK/);
      const facts = leafFacts(pair.certPem);
      assert.deepEqual({ dnsNames: facts.dnsNames, ipAddresses: facts.ipAddresses }, names);
      assert.equal(facts.notBefore, now - 3_600_000);
      assert.equal(facts.notAfter, now - 3_600_000 + 365 * 24 * 3_600_000);
      assert.equal(facts.commonName, `${host}@${now / 1000}`);
      assert.deepEqual(checkedPair(pair.certPem, pair.keyPem, 'here').keyPem, pair.keyPem);
    });
  }

  test('a pair whose key is another one is refused, and so are missing parts', () => {
    const pair = selfSignedPair('a', [], now);
    assert.throws(() => checkedPair(pair.certPem, newPrivateKey(), 'x.pem'), {
      code: 'InvalidCertificate',
      message: /x\.pem: .*does not belong/,
    });
    assert.throws(() => checkedPair('', pair.keyPem, 'x.pem'), { message: /no certificate/ });
    assert.throws(() => checkedPair(pair.certPem, '', 'x.pem'), { message: /no private key/ });
  });
});
