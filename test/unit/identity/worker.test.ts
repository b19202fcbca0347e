import assert from 'node:assert/strict';
import { lstatSync, mkdtempSync, readFileSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { openCertificateStore } from '../../../agent/drivers/kube/certificates-store.ts';
import { buildCertificateRequest, newPrivateKey, nodeTemplate, servingSigner, servingTemplate } from '../../../agent/identity/csr.ts';
import { selfSignedPair } from '../../../agent/identity/self-signed.ts';
import {
  type BootstrapKeyFile,
  bootstrapClientCertificate,
  type PairStore,
  type RotationOptions,
  startRotation,
} from '../../../agent/identity/worker.ts';
import { leafFacts } from '../../../agent/identity/x509.ts';
import { type FakeSigner, fakeSigner } from './fake-signer.ts';
import { type ManualClock, manualClock } from './manual-clock.ts';

const dayMs = 24 * 3_600_000;
let dir: string;
let signer: FakeSigner;
let clock: ManualClock;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'keelson-worker-'));
  signer = fakeSigner();
  clock = manualClock(Date.now());
});
afterEach(() => {
  signer[Symbol.dispose]();
  rmSync(dir, { recursive: true, force: true });
});

const openStore = () => openCertificateStore({ prefix: 'kubelet-client', dir, now: () => clock.wall() });

/** In memory: real files take real time, which a manual clock cannot wait for. */
function memoryStore(): PairStore & { texts: { certText: string; keyText: string; where: string } | undefined } {
  const store: ReturnType<typeof memoryStore> = {
    texts: undefined,
    currentPath: 'memory',
    load: async () => store.texts,
    save: async (certText, keyText) => {
      store.texts = { certText, keyText, where: 'memory' };
    },
  };
  return store;
}

async function rotation(over: Partial<RotationOptions> = {}) {
  return await startRotation({
    purpose: 'client',
    store: memoryStore(),
    wanted: () => nodeTemplate('n1'),
    api: async () => signer,
    clock,
    log: silentLog,
    signal: new AbortController().signal,
    random: () => 0.5,
    ...over,
  });
}

const onlyRequest = (): string => {
  assert.equal(signer.requests.size, 1);
  return [...signer.requests.keys()][0] as string;
};

describe('startRotation', () => {
  test('no certificate: requests, waits for approval and signature, stores, tells', async () => {
    const store = memoryStore();
    await using certificate = await rotation({ store });
    let told = 0;
    using _listener = certificate.onChange(() => told++);
    await clock.advance(1);
    assert.equal(certificate.current(), undefined);
    const name = onlyRequest();
    assert.deepEqual(signer.requests.get(name)?.spec.usages, ['digital signature', 'client auth']);
    await clock.advance(3_600_000);
    const waiting = certificate.status();
    assert.equal(waiting.kind, 'requested');
    assert.match(waiting.kind === 'requested' ? waiting.message : '', new RegExp(`kubectl certificate approve ${name}`));
    assert.equal(onlyRequest(), name, 'an hour of waiting makes no second request');
    signer.approve(name);
    await clock.advance(10_000);
    assert.match(JSON.stringify(certificate.status()), /csrsigning/);
    signer.sign(name, 10);
    await clock.advance(10_000);
    assert.equal(told, 1);
    assert.equal(leafFacts(certificate.current()?.certPem ?? '').commonName, 'system:node:n1');
    assert.equal(certificate.status().kind, 'valid');
    assert.deepEqual([store.texts?.certText, store.texts?.keyText], [certificate.current()?.certPem, certificate.current()?.keyPem]);
  });

  test('a stored certificate is used at once, and replaced when 80 % of its life have passed', async () => {
    const store = memoryStore();
    {
      await using first = await rotation({ store });
      await clock.advance(1);
      signer.approve(onlyRequest());
      signer.sign(onlyRequest(), 10);
      await clock.advance(1_000);
      assert.equal(first.status().kind, 'valid');
    }
    signer.requests.clear();
    await using certificate = await rotation({ store });
    const old = certificate.current();
    assert.ok(old);
    await clock.advance(7.9 * dayMs);
    assert.equal(signer.requests.size, 0);
    await clock.advance(0.2 * dayMs);
    const name = onlyRequest();
    assert.equal(certificate.current(), old, 'the old one serves while the new one is on its way');
    signer.approve(name);
    signer.sign(name, 20);
    await clock.advance(10_000);
    assert.notEqual(certificate.current(), old);
  });

  test('an expired certificate is not current, and the request knows that there is none', async () => {
    const asked: unknown[] = [];
    const store = memoryStore();
    const pair = selfSignedPair('x', [], clock.wall() - 400 * dayMs);
    await store.save(pair.certPem, pair.keyPem);
    await using certificate = await rotation({
      store,
      api: async (current) => {
        asked.push(current);
        throw new AgentError('Unauthorized', 'join the node again');
      },
    });
    assert.equal(certificate.current(), undefined);
    await clock.advance(1);
    assert.deepEqual(asked, [undefined]);
    assert.deepEqual(certificate.status(), { kind: 'failing', message: 'join the node again' });
  });

  test('failures are retried after 2, 4, 8, … seconds, and the request is made when the server is back', async () => {
    signer.failure = new AgentError('Unavailable', 'down');
    await using certificate = await rotation();
    await clock.advance(5_000);
    assert.deepEqual(certificate.status(), { kind: 'failing', message: 'down' });
    signer.failure = undefined;
    await clock.advance(0);
    assert.equal(signer.requests.size, 0);
    await clock.advance(8_000);
    assert.equal(signer.requests.size, 1);
  });

  test('denied: says so, and asks again later with a new request', async () => {
    await using certificate = await rotation();
    await clock.advance(1);
    const name = onlyRequest();
    signer.deny(name, 'NotOurs');
    await clock.advance(500);
    assert.match(JSON.stringify(certificate.status()), /denied \(NotOurs\)/);
    await clock.advance(3_000);
    assert.equal(signer.requests.size, 2);
  });

  test('serving: waits for addresses, covers them, and follows when they change', async () => {
    let addresses: { type: string; address: string }[] = [{ type: 'Hostname', address: 'n1' }];
    await using certificate = await rotation({ purpose: 'serving', wanted: () => servingTemplate('n1', addresses) });
    await clock.advance(1);
    assert.equal(certificate.status().kind, 'waitingForAddresses');
    addresses = [...addresses, { type: 'InternalIP', address: '10.0.0.5' }];
    certificate.namesChanged();
    await clock.advance(1);
    const first = onlyRequest();
    assert.equal(signer.requests.get(first)?.spec.signerName, servingSigner);
    assert.deepEqual(signer.requests.get(first)?.spec.usages, ['digital signature', 'server auth']);

    addresses = [
      { type: 'Hostname', address: 'n1' },
      { type: 'InternalIP', address: 'fd00::7' },
    ];
    certificate.namesChanged();
    await clock.advance(10);
    assert.equal(signer.requests.size, 2, 'a request for the old address is abandoned');
    const second = [...signer.requests.keys()][1] as string;
    signer.approve(second);
    signer.sign(second);
    await clock.advance(1_000);
    const facts = leafFacts(certificate.current()?.certPem ?? '');
    assert.deepEqual([facts.dnsNames, facts.ipAddresses], [['n1'], ['fd00::7']]);

    addresses = [...addresses, { type: 'InternalIP', address: '10.0.0.9' }];
    certificate.namesChanged();
    await clock.advance(10);
    assert.equal(signer.requests.size, 3, 'a new address asks for a new certificate');
  });
});

describe('certificate store', () => {
  test('a dated file, readable by root only, and a link to it', async () => {
    const store = await openStore();
    assert.equal(await store.load(), undefined);
    const current = join(dir, 'kubelet-client-current.pem');
    for (const host of ['first', 'second']) {
      const pair = selfSignedPair(host, [], clock.wall());
      await store.save(pair.certPem, pair.keyPem);
      assert.equal(lstatSync(current).isSymbolicLink(), true);
      assert.match(readlinkSync(current), /\/kubelet-client-\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d\.pem$/);
      assert.equal(statSync(current).mode & 0o777, 0o600);
      const text = pair.certPem + pair.keyPem;
      assert.deepEqual(await store.load(), { certText: text, keyText: text, where: current });
    }
  });

  test('a switch that was interrupted is finished at the next start', async () => {
    const pair = selfSignedPair('x', [], clock.wall());
    const path = join(dir, 'kubelet-client-2026-01-01-00-00-00.pem');
    writeFileSync(path, pair.certPem + pair.keyPem);
    symlinkSync(path, join(dir, 'kubelet-client-updated.pem'));
    const store = await openStore();
    assert.equal((await store.load())?.certText, pair.certPem + pair.keyPem);
    assert.equal(lstatSync(store.currentPath).isSymbolicLink(), true);
  });

  test('a real file where the link belongs is not overwritten', async () => {
    writeFileSync(join(dir, 'kubelet-client-current.pem'), 'precious');
    await assert.rejects(openStore(), { code: 'Io', message: /should be a symbolic link/ });
    assert.equal(readFileSync(join(dir, 'kubelet-client-current.pem'), 'utf8'), 'precious');
  });
});

describe('bootstrapClientCertificate', () => {
  const never = new AbortController().signal;
  let keyOnDisk: string | undefined;
  const keyFile: BootstrapKeyFile = {
    path: 'kubelet-client.key.tmp',
    load: async () => keyOnDisk,
    save: async (pem) => {
      keyOnDisk = pem;
    },
    remove: async () => {
      keyOnDisk = undefined;
    },
  };
  const said: string[] = [];
  beforeEach(() => {
    keyOnDisk = undefined;
    said.length = 0;
  });
  let store = memoryStore();
  const start = (): { done: Promise<void> } => {
    store = memoryStore();
    const done = bootstrapClientCertificate(
      { nodeName: 'n1', api: signer, store, keyFile, clock, log: silentLog, timeoutMs: 300_000, onWaiting: (m) => said.push(m) },
      never,
    );
    // Looked at later: not unhandled meanwhile.
    done.catch(() => undefined);
    return { done };
  };

  test('gets a certificate, stores it and forgets the temporary key', async () => {
    const { done } = start();
    await clock.advance(1);
    const name = onlyRequest();
    assert.match(name, /^node-csr-/);
    assert.ok(keyOnDisk);
    await clock.advance(5_000);
    assert.deepEqual(said, [`certificate signing request ${name} awaits approval: kubectl certificate approve ${name}`]);
    signer.approve(name);
    signer.sign(name);
    await clock.advance(5_000);
    await done;
    assert.equal(keyOnDisk, undefined);
    assert.equal(leafFacts(store.texts?.certText ?? '').commonName, 'system:node:n1');
  });

  test('interrupted and started again: the same key finds the same request', async () => {
    start();
    await clock.advance(1);
    const name = onlyRequest();
    const { done } = start();
    await clock.advance(1);
    assert.equal(onlyRequest(), name);
    signer.approve(name);
    signer.sign(name);
    await clock.advance(5_000);
    await done;
  });

  test('a request under our name that asks for something else is not trusted', async () => {
    start();
    await clock.advance(1);
    const name = onlyRequest();
    const csr = signer.requests.get(name);
    assert.ok(csr);
    const request = Buffer.from(buildCertificateRequest(nodeTemplate('evil'), newPrivateKey())).toString('base64');
    signer.requests.set(name, { ...csr, spec: { ...csr.spec, request } });
    const { done } = start();
    await clock.advance(1);
    await assert.rejects(done, { code: 'CsrFailed', message: /asks for something else/ });
  });

  const failures: [string, (name: string) => void, string, RegExp][] = [
    ['nobody approves', () => undefined, 'CsrTimeout', /within 300 s: .*kubectl certificate approve node-csr-.*nodeclient/],
    ['approved but never signed', (name) => signer.approve(name), 'CsrTimeout', /csrsigning/],
    ['denied', (name) => signer.deny(name, 'No'), 'CsrDenied', /denied \(No\)/],
    ['deleted', (name) => signer.requests.delete(name), 'CsrFailed', /deleted/],
  ];
  for (const [what, act, code, message] of failures) {
    test(`${what}: ${code}`, async () => {
      const { done } = start();
      await clock.advance(1);
      act(onlyRequest());
      await clock.advance(301_000);
      await assert.rejects(done, { code, message });
      assert.ok(keyOnDisk, 'the key stays for the next try');
    });
  }

  test('forbidden: names the role that is missing', async () => {
    signer.failure = new AgentError('Forbidden', 'certificatesigningrequests is forbidden');
    const { done } = start();
    await clock.advance(1);
    await assert.rejects(done, { code: 'CsrForbidden', message: /system:node-bootstrapper/ });
  });

  test('a server that is away is waited for', async () => {
    signer.failure = new AgentError('Unavailable', 'connection refused');
    const { done } = start();
    await clock.advance(30_000);
    assert.deepEqual(said, ['connection refused']);
    signer.failure = undefined;
    await clock.advance(1_500);
    signer.approve(onlyRequest());
    signer.sign(onlyRequest());
    await clock.advance(5_000);
    await done;
  });
});
