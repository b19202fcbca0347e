import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { type Clock, systemClock } from '../../../agent/base/clock.ts';
import { type Log, silentLog } from '../../../agent/base/log.ts';
import { ensureNodeCredentials, prepareClientRotation, startServingCertificate } from '../../../agent/cli/node-identity.ts';
import type { KubeAuth } from '../../../agent/drivers/kube/kubeconfig.ts';
import { nodeKubeconfig } from '../../../agent/identity/kubeconfig-text.ts';
import { selfSignedPair } from '../../../agent/identity/self-signed.ts';
import type { CertificatePair } from '../../../agent/identity/x509.ts';

const signal = new AbortController().signal;
// Files are looked at every 10 s in real life.
const hasty: Clock = { ...systemClock, after: (ms, fn) => systemClock.after(Math.min(ms, 5), fn) };
const yearMs = 365 * 86_400_000;

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'keelson-node-identity-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const options = (clock: Clock = systemClock) => ({ clock, log: silentLog, userAgent: 'test', certDir: join(dir, 'pki'), nodeName: 'n1' });
const serving = (more: object = {}, clock?: Clock) =>
  startServingCertificate(
    { ...options(clock), hostname: 'n1', addresses: () => [{ type: 'InternalIP', address: '10.0.0.5' }], ...more },
    signal,
  );

describe('serving certificate', () => {
  test('self-signed: made once, kept over restarts', async () => {
    await using first = await serving();
    const pair = first.current();
    assert.ok(pair);
    assert.equal(readFileSync(join(dir, 'pki/kubelet.crt'), 'utf8'), pair.certPem);
    assert.equal(statSync(join(dir, 'pki/kubelet.key')).mode & 0o777, 0o600);
    assert.equal(first.status(), undefined);
    await using second = await serving();
    assert.deepEqual(second.current(), pair);
  });

  test('self-signed: half a pair is an error that says what is missing', async () => {
    await using _made = await serving();
    rmSync(join(dir, 'pki/kubelet.key'));
    await assert.rejects(serving(), { code: 'InvalidConfig', message: /kubelet\.key is missing, but .*kubelet\.crt is there/ });
  });

  test('from files: read again when they change, and a pair that does not fit is not taken', async () => {
    const [tlsCertFile, tlsPrivateKeyFile] = [join(dir, 'tls.crt'), join(dir, 'tls.key')];
    const write = (pair: CertificatePair): void => {
      writeFileSync(tlsPrivateKeyFile, pair.keyPem);
      writeFileSync(tlsCertFile, pair.certPem);
    };
    const [one, two] = [selfSignedPair('a', [], Date.now()), selfSignedPair('b', [], Date.now())];
    await assert.rejects(serving({ tlsCertFile, tlsPrivateKeyFile }), { code: 'NotFound' });
    await assert.rejects(serving({ tlsCertFile }), { code: 'InvalidConfig', message: /belong together/ });
    write(one);
    const refused = Promise.withResolvers<void>();
    const log: Log = { ...silentLog, warn: () => refused.resolve() };
    await using certificate = await serving({ tlsCertFile, tlsPrivateKeyFile, log }, hasty);
    assert.deepEqual(certificate.current(), one);
    const changed = new Promise<void>((resolve) => certificate.onChange(resolve));
    writeFileSync(tlsPrivateKeyFile, two.keyPem);
    await refused.promise;
    assert.deepEqual(certificate.current(), one, 'the old pair stays while only half of the new one is there');
    writeFileSync(tlsCertFile, two.certPem);
    await changed;
    assert.deepEqual(certificate.current(), two);
  });

  test('by request without an API server: an error', async () => {
    await assert.rejects(serving({ serverTLSBootstrap: true }), {
      code: 'InvalidConfig',
      message: /serverTLSBootstrap needs an API server/,
    });
  });
});

describe('kubeconfig', () => {
  test('without bootstrap credentials it is used as it is, or its absence is the error', async () => {
    const kubeconfig = join(dir, 'kubelet.conf');
    await assert.rejects(ensureNodeCredentials({ ...options(), kubeconfig }, signal), { code: 'NotFound' });
    writeFileSync(kubeconfig, nodeKubeconfig('https://x:6443', { pem: undefined }, '/nowhere.pem'));
    assert.equal((await ensureNodeCredentials({ ...options(), kubeconfig }, signal)).server, 'https://x:6443');
  });

  test('an expired certificate and no usable bootstrap kubeconfig: the error names both', async () => {
    const kubeconfig = join(dir, 'kubelet.conf');
    const old = selfSignedPair('n1', [], Date.now() - 2 * yearMs);
    writeFileSync(join(dir, 'old.pem'), old.certPem + old.keyPem);
    writeFileSync(kubeconfig, nodeKubeconfig('https://x:6443', { pem: undefined }, join(dir, 'old.pem')));
    await assert.rejects(ensureNodeCredentials({ ...options(), kubeconfig, bootstrapKubeconfig: join(dir, 'none.conf') }, signal), {
      code: 'InvalidConfig',
      message: /old|expired at .* and the bootstrap kubeconfig does not help: .*none\.conf: no such file/,
    });
  });
});

describe('rotation takes the kubeconfig’s certificate in', () => {
  const auth = (pair: CertificatePair): KubeAuth => ({
    server: 'https://x:6443',
    clientCert: { kind: 'data', pem: pair.certPem },
    clientKey: { kind: 'data', pem: pair.keyPem },
  });
  const current = (): string => readFileSync(join(dir, 'pki/kubelet-client-current.pem'), 'utf8');
  const text = (pair: CertificatePair): string => pair.certPem + pair.keyPem;
  const prepare = async (pair: CertificatePair): Promise<KubeAuth> => {
    await using rotation = await prepareClientRotation(auth(pair), { ...options(), kubeconfig: 'kubelet.conf' }, signal);
    return rotation.auth;
  };
  const fresh = selfSignedPair('fresh', [], Date.now());
  const other = selfSignedPair('other', [], Date.now());
  const expired = selfSignedPair('expired', [], Date.now() - 2 * yearMs);

  test('when there is none; a valid one that is there stays; an expired one gives way', async () => {
    const path = { kind: 'file', path: join(dir, 'pki/kubelet-client-current.pem') };
    assert.deepEqual((await prepare(expired)).clientCert, path);
    assert.equal(current(), text(expired));
    await prepare(fresh);
    assert.equal(current(), text(fresh));
    await prepare(other);
    assert.equal(current(), text(fresh));
  });

  test('tokens and plugins have nothing to rotate', async () => {
    const token: KubeAuth = { server: 'https://x:6443', token: 't' };
    await using rotation = await prepareClientRotation(token, { ...options(), kubeconfig: 'k' }, signal);
    assert.equal(rotation.auth, token);
  });
});
