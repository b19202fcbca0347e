import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, test } from 'node:test';
import { detachedSignatureIsValid, judgeClusterInfo, readBootstrapToken } from '../../../agent/identity/bootstrap-token.ts';
import { readPins } from '../../../agent/identity/x509.ts';

const token = { id: 'abcdef', secret: '0123456789abcdef' };

function signed(content: string, header: object, secret: string): string {
  const head = Buffer.from(JSON.stringify(header)).toString('base64url');
  const mac = createHmac('sha256', secret)
    .update(`${head}.${Buffer.from(content).toString('base64url')}`)
    .digest('base64url');
  return `${head}..${mac}`;
}

describe('readBootstrapToken', () => {
  test('a good one', () => assert.deepEqual(readBootstrapToken('abcdef.0123456789abcdef'), token));
  for (const [text, why] of [
    ['', /two parts/],
    ['abcdef0123456789abcdef', /two parts/],
    ['abcdef.0123456789abcdef.x', /two parts/],
    ['abcde.0123456789abcdef', /id .* 5 characters/],
    ['ABCDEF.0123456789abcdef', /id/],
    ['abcdef.0123456789abcde', /secret .* 15 characters/],
    ['abcdef.0123456789abcdeF', /secret/],
    ['abcdef.0123456789abcdef\n', /secret/],
  ] as const) {
    test(JSON.stringify(text), () => assert.throws(() => readBootstrapToken(text), { code: 'MalformedToken', message: why }));
  }
  test('the secret is not repeated', () => {
    assert.throws(
      () => readBootstrapToken('abcdef.SECRETsecret'),
      (error: Error) => !error.message.includes('SECRETsecret'),
    );
  });
});

describe('detached signatures', () => {
  // What k8s.io/cluster-bootstrap/token/jws makes of this content and token (its jws_test.go).
  const upstream = 'eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8';
  test("upstream's own example", () => {
    assert.equal(
      detachedSignatureIsValid(upstream, 'Hello from the other side. I must have called a thousand times.', {
        id: 'joshua',
        secret: 'my voice is my passcode',
      }),
      true,
    );
  });
  const good = { alg: 'HS256', kid: 'abcdef' };
  const cases: [string, string, boolean][] = [
    ['good', signed('x', good, token.secret), true],
    ['another secret', signed('x', good, 'fedcba9876543210'), false],
    ['another content', signed('y', good, token.secret), false],
    ['another key id', signed('x', { ...good, kid: 'zzzzzz' }, token.secret), false],
    ['another algorithm', signed('x', { ...good, alg: 'HS512' }, token.secret), false],
    ['algorithm none', `${Buffer.from('{"alg":"none","kid":"abcdef"}').toString('base64url')}..`, false],
    ['content attached', signed('x', good, token.secret).replace('..', '.eA.'), false],
    ['no JWS', 'nonsense', false],
    ['a header that is not JSON', 'AAAA..AAAA', false],
    ['a header that is null', `${Buffer.from('null').toString('base64url')}..AAAA`, false],
  ];
  for (const [name, jws, valid] of cases) test(name, () => assert.equal(detachedSignatureIsValid(jws, 'x', token), valid));
});

describe('judgeClusterInfo', () => {
  const kubeconfig = 'kind: Config\n';
  const jws = signed(kubeconfig, { alg: 'HS256', kid: 'abcdef' }, token.secret);
  const cases: [string, Record<string, string> | undefined, string][] = [
    ['trusted', { kubeconfig, 'jws-kubeconfig-abcdef': jws }, 'trusted'],
    ['no data', undefined, 'noKubeconfig'],
    ['no kubeconfig', { 'jws-kubeconfig-abcdef': jws }, 'noKubeconfig'],
    ['unknown or expired token', { kubeconfig, 'jws-kubeconfig-zzzzzz': jws }, 'unknownToken'],
    ['changed on the way', { kubeconfig: 'kind: Evil\n', 'jws-kubeconfig-abcdef': jws }, 'badSignature'],
  ];
  for (const [name, data, kind] of cases) test(name, () => assert.equal(judgeClusterInfo(data, token).kind, kind));
});

describe('readPins', () => {
  const hex = 'ab'.repeat(32);
  test('canonical', () => assert.deepEqual(readPins([`SHA256:${hex.toUpperCase()}`]), [`sha256:${hex}`]));
  for (const [pin, why] of [
    [hex, /form sha256/],
    [`sha512:${hex}`, /form sha256/],
    ['sha256:abcd', /4 characters/],
    [`sha256:${'zz'.repeat(32)}`, /64 hex digits/],
  ] as const) {
    test(pin, () => assert.throws(() => readPins([pin]), { code: 'InvalidPin', message: why }));
  }
});
