import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { createKubeClient, pathOf } from '../../../agent/drivers/kube/client.ts';
import type { ExecPlugin } from '../../../agent/drivers/kube/kubeconfig.ts';
import { createLineSplitter } from '../../../agent/drivers/kube/lines.ts';
import { type FakeObject, startFakeKubeApi } from '../../fakes/kube-api.ts';
import { clientOf, pods, signal, until } from './fixtures.ts';

test('paths', () => {
  assert.equal(pathOf('v1', 'pods', 'ns', 'a', 'status'), '/api/v1/namespaces/ns/pods/a/status');
  assert.equal(pathOf('v1', 'nodes', undefined, 'n1'), '/api/v1/nodes/n1');
  assert.equal(
    pathOf('coordination.k8s.io/v1', 'leases', 'kube-node-lease'),
    '/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases',
  );
});

test('lines: split anywhere, none lost, empty ones left out', () => {
  const text = '{"a":"ä"}\n\n{"b":2}\nrest';
  const bytes = Buffer.from(text);
  for (let size = 1; size <= bytes.length; size++) {
    const lines: string[] = [];
    const splitter = createLineSplitter((line) => lines.push(line.toString()));
    for (let at = 0; at < bytes.length; at += size) splitter.push(bytes.subarray(at, at + size));
    assert.deepEqual(lines, ['{"a":"ä"}', '{"b":2}']);
  }
});

describe('calls', () => {
  test('create, get, list in pages, replace, patch and delete over one HTTP/2 connection', async () => {
    await using api = await startFakeKubeApi();
    await using client = clientOf(api);
    const made = await client.create<FakeObject>(pods, { metadata: { name: 'a' }, spec: { x: 1 } }, signal);
    assert.equal((await client.get<FakeObject>(`${pods}/a`, signal)).metadata.uid, made.metadata.uid);
    const patched = await client.patch<FakeObject>(
      `${pods}/a/status`,
      { status: { conditions: [{ type: 'Ready', status: 'True' }] } },
      'application/strategic-merge-patch+json',
      signal,
    );
    assert.deepEqual(patched.status, { conditions: [{ type: 'Ready', status: 'True' }] });
    await assert.rejects(client.replace(`${pods}/a`, made, signal), { code: 'Conflict', httpStatus: 409 });
    await client.replace(`${pods}/a`, { ...patched, spec: { x: 2 } }, signal);
    for (let i = 0; i < 1100; i++) api.put(pods, { metadata: { name: `p${i}` } });
    const listed = await client.list<FakeObject>('/api/v1/pods', signal);
    assert.equal(listed.items.length, 1101);
    assert.notEqual(listed.resourceVersion, '');
    assert.equal(api.seen.filter((r) => r.query.has('limit')).length, 3);
    await client.delete(`${pods}/a`, { gracePeriodSeconds: 0 }, signal);
    assert.equal(await client.delete(`${pods}/a`, undefined, signal), undefined, 'absence is success');
    await assert.rejects(client.get(`${pods}/a`, signal), {
      code: 'NotFound',
      message: /GET \/api\/v1\/namespaces\/ns\/pods\/a: pods "a" not found/,
    });
    assert.deepEqual([...new Set(api.seen.map((r) => `${r.httpVersion} ${r.connection}`))], ['2.0 1']);
    assert.equal(api.seen[0]?.headers['user-agent'], 'test/1');
  });

  test('HTTP/1.1 without TLS works too', async () => {
    await using api = await startFakeKubeApi({ plainHttp1: true });
    await using client = clientOf(api);
    api.put(pods, { metadata: { name: 'a' } });
    await Promise.all(Array.from({ length: 5 }, () => client.get(`${pods}/a`, signal)));
    assert.equal(api.seen[0]?.httpVersion, '1.1');
  });

  const answers: { name: string; status: number; body: unknown; code: string; message: RegExp }[] = [
    {
      name: 'a Status',
      status: 422,
      body: { kind: 'Status', reason: 'Invalid', message: 'spec.x: Required value', code: 422 },
      code: 'Invalid',
      message: /^GET \/api\/v1\/nodes\/n: spec.x: Required value$/,
    },
    { name: 'plain text', status: 503, body: 'upstream away', code: 'ServiceUnavailable', message: /upstream away/ },
    { name: 'nothing', status: 403, body: '', code: 'Forbidden', message: /HTTP 403/ },
    { name: 'expired', status: 410, body: { kind: 'Status', reason: 'Expired', message: 'old' }, code: 'Expired', message: /old/ },
  ];
  for (const { name, status, body, code, message } of answers) {
    test(`error from ${name}`, async () => {
      await using api = await startFakeKubeApi();
      await using client = clientOf(api);
      api.answer = () => ({ status, body });
      await assert.rejects(client.get('/api/v1/nodes/n', signal), { name: 'AgentError', code, message });
    });
  }

  test('429 with Retry-After is tried again; 500 without it is not', async () => {
    await using api = await startFakeKubeApi();
    await using client = clientOf(api);
    api.put(pods, { metadata: { name: 'a' } });
    let refusals = 2;
    api.answer = () => (refusals-- > 0 ? { status: 429, headers: { 'retry-after': '0' }, body: 'slow down' } : undefined);
    await client.create(pods, { metadata: { name: 'b' } }, signal);
    assert.equal(api.seen.length, 3);
    api.answer = () => ({ status: 500, body: 'broken' });
    await assert.rejects(client.get(`${pods}/a`, signal), { code: 'InternalError' });
    assert.equal(api.seen.length, 4);
    api.answer = () => ({ status: 429, headers: { 'retry-after': '0' } });
    await assert.rejects(client.get(`${pods}/a`, signal), { code: 'TooManyRequests' });
    assert.equal(api.seen.length, 10);
  });

  test('deadline, abort and a server that is away', async () => {
    await using api = await startFakeKubeApi();
    await using client = clientOf(api);
    api.answer = () => new Promise(() => undefined);
    await assert.rejects(client.get('/api/v1/nodes/n', signal, { timeoutMs: 30 }), { code: 'DeadlineExceeded', message: /within 30 ms/ });
    const abort = new AbortController();
    const call = client.get('/api/v1/nodes/n', abort.signal);
    const why = new Error('no longer needed');
    abort.abort(why);
    await assert.rejects(call, why);
    api.answer = undefined;
    await api.stop();
    await assert.rejects(client.get('/api/v1/nodes/n', signal), { code: 'Unavailable', message: /ECONNREFUSED/ });
    assert.equal(client.reachable, false);
    let told = 0;
    using _listening = client.onReachable(() => told++);
    await api.resume();
    await assert.rejects(client.get('/api/v1/nodes/n', signal), { code: 'NotFound' });
    assert.equal(client.reachable, true);
    assert.equal(told, 1);
  });

  // With the signal handed on to undici this never ends: the process spins in nghttp2 (see exchange in client.ts).
  test('requests with a body that are aborted at any moment leave the connection in order', async () => {
    await using api = await startFakeKubeApi();
    await using client = clientOf(api);
    await client.create<FakeObject>(pods, { metadata: { name: 'a' } }, signal);
    // Between a request's way into the connection and its way out of it lie some turns of promises, while others are being written.
    const abortAfter = async (turns: number): Promise<void> => {
      const controller = new AbortController();
      const patch = client.patch(
        `${pods}/a`,
        { metadata: { labels: { turns: `${turns}` } } },
        'application/merge-patch+json',
        controller.signal,
      );
      patch.catch(() => undefined);
      for (let turn = 0; turn < turns; turn++) await (turn < 60 ? undefined : setImmediate());
      controller.abort(new Error('enough'));
      await patch.catch((error: Error) => assert.equal(error.message, 'enough'));
    };
    await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        for (let round = 0; round < 8; round++) await abortAfter((i * 8 + round * 13) % 70);
      }),
    );
    assert.equal((await client.get<FakeObject>(`${pods}/a`, signal)).metadata.name, 'a');
  });

  test('a server with a certificate that nobody vouches for', async () => {
    await using api = await startFakeKubeApi();
    await using other = await startFakeKubeApi();
    await using client = clientOf(api, { ca: { kind: 'data', pem: other.caPem } });
    await assert.rejects(client.get('/api/v1/nodes/n', signal), { code: 'Unavailable', message: /certificate/ });
    await using careless = clientOf(api, { ca: undefined, insecureSkipVerify: true });
    await assert.rejects(careless.get('/api/v1/nodes/n', signal), { code: 'NotFound' });
    await using misnamed = clientOf(api, { tlsServerName: 'kubernetes.example' });
    await assert.rejects(misnamed.get('/api/v1/nodes/n', signal), { code: 'Unavailable', message: /kubernetes\.example/ });
  });

  test('250 watches open more connections and block no call', async () => {
    await using api = await startFakeKubeApi();
    await using client = clientOf(api);
    const stop = new AbortController();
    const watches = Array.from({ length: 250 }, (_, i) =>
      client.watch('/api/v1/namespaces/ns/secrets', stop.signal, {
        query: { fieldSelector: `metadata.name=s${i}` },
        onLine: () => undefined,
      }),
    );
    await until('250 watches', () => api.watches.length === 250);
    api.put(pods, { metadata: { name: 'a' } });
    await client.replace(`${pods}/a`, { metadata: { name: 'a' } }, signal, { timeoutMs: 1000 });
    stop.abort(new Error('done'));
    await Promise.all(watches.map((watch) => assert.rejects(watch, /done/)));
    await until('no watches', () => api.watches.length === 0);
  });
});

test('a peer that goes silent is noticed by missing PING answers', async () => {
  await using api = await startFakeKubeApi();
  // A relay that stops relaying: the connection stays open, as behind a dead link.
  let silent = false;
  const { connect } = await import('node:net');
  const target = new URL(api.url);
  const relay = createServer((inner) => {
    const outer = connect(Number(target.port), '127.0.0.1');
    inner.on('data', (data) => silent || outer.write(data));
    outer.on('data', (data) => silent || inner.write(data));
    inner.on('close', () => outer.destroy());
    outer.on('close', () => inner.destroy());
    for (const socket of [inner, outer]) socket.on('error', () => undefined);
  });
  await new Promise<void>((resolve) => relay.listen(0, '127.0.0.1', resolve));
  const { port } = relay.address() as { port: number };
  await using closing = new AsyncDisposableStack();
  closing.defer(() => void relay.close());
  // Time runs 100 times faster for the liveness check (its ticks are 5 s apart), and for nothing else; the silence lasts four ticks.
  const clock = { ...systemClock, after: (ms: number, fn: () => void) => systemClock.after(ms === 5000 ? 50 : ms, fn) };
  await using client = createKubeClient({
    auth: { ...api.auth, server: `https://127.0.0.1:${port}` },
    clock,
    log: silentLog,
    userAgent: 'test',
  });
  const watching = client.watch('/api/v1/pods', signal, { query: {}, onLine: () => undefined });
  await until('the watch', () => api.watches.length === 1);
  silent = true;
  await assert.rejects(watching, { code: 'Unavailable', message: /PING/ });
});

describe('identities', () => {
  const newDir = (): { dir: string } & Disposable => {
    const dir = mkdtempSync(join(tmpdir(), 'kube-client-'));
    return { dir, [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }) };
  };

  test('client certificates are read again when a symbolic link is swapped; watches move over', async () => {
    using files = newDir();
    await using api = await startFakeKubeApi();
    const write = (file: string, name: string): void => {
      const { cert, key } = api.issue(name);
      writeFileSync(join(files.dir, file), cert + key);
    };
    write('one.pem', 'system:node:one');
    write('two.pem', 'system:node:two');
    const current = join(files.dir, 'current.pem');
    symlinkSync('one.pem', current);
    const source = { kind: 'file' as const, path: current };
    await using client = clientOf(api, { clientCert: source, clientKey: source });
    api.put(pods, { metadata: { name: 'a' } });
    const watching = client.watch('/api/v1/pods', signal, { query: {}, onLine: () => undefined });
    watching.catch(() => undefined);
    await client.get(`${pods}/a`, signal);
    await until('the watch', () => api.watches.length === 1);
    assert.deepEqual([...new Set(api.seen.map((r) => r.clientName))], ['system:node:one']);
    await client.reload();
    assert.equal(api.watches.length, 1, 'nothing changed, nothing closed');
    symlinkSync('two.pem', join(files.dir, 'next'));
    renameSync(join(files.dir, 'next'), current);
    await client.reload();
    await assert.rejects(watching, { code: 'Unavailable' });
    await client.get(`${pods}/a`, signal);
    assert.equal(api.seen.at(-1)?.clientName, 'system:node:two');
  });

  test('a token file is read again after a 401', async () => {
    using files = newDir();
    await using api = await startFakeKubeApi();
    const tokenFile = join(files.dir, 'token');
    writeFileSync(tokenFile, 'first\n');
    let valid = 'first';
    api.answer = (r) => (r.headers.authorization === `Bearer ${valid}` ? undefined : { status: 401 });
    api.put(pods, { metadata: { name: 'a' } });
    await using client = clientOf(api, { tokenFile });
    await client.get(`${pods}/a`, signal);
    writeFileSync(tokenFile, 'second\n');
    await client.get(`${pods}/a`, signal);
    assert.equal(api.seen.length, 2, 'the old token is good for a minute');
    valid = 'second';
    await client.get(`${pods}/a`, signal);
    assert.equal(api.seen.length, 4);
    valid = 'third';
    await assert.rejects(client.get(`${pods}/a`, signal), { code: 'Unauthorized' });
  });

  function plugin(dir: string, script: string, more: Partial<ExecPlugin> = {}): ExecPlugin {
    const command = join(dir, 'login');
    writeFileSync(command, `#!/bin/sh\n${script}\n`);
    chmodSync(command, 0o755);
    return { command, args: [], env: [], apiVersion: 'client.authentication.k8s.io/v1', provideClusterInfo: false, baseDir: dir, ...more };
  }
  const credential = (status: object): string =>
    `printf '%s' '${JSON.stringify({ apiVersion: 'client.authentication.k8s.io/v1', kind: 'ExecCredential', status })}'`;

  test('an exec plugin gives a token, runs once for many calls, again after a 401 and after its expiry', async () => {
    using files = newDir();
    await using api = await startFakeKubeApi();
    const runs = (): string[] => readFileSync(join(files.dir, 'runs'), 'utf8').trim().split('\n');
    const print = `printf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"t%s","expirationTimestamp":"%s"}}'`;
    const exec = plugin(
      files.dir,
      `printf '%s\\n' "$KUBERNETES_EXEC_INFO" >>${files.dir}/runs; ${print} $(wc -l <${files.dir}/runs) "$(cat ${files.dir}/expiry)"`,
      { provideClusterInfo: true, clusterConfig: { audience: 'here' } },
    );
    writeFileSync(join(files.dir, 'expiry'), '2100-01-01T00:00:00Z');
    let valid = 't1';
    api.answer = (r) => (r.headers.authorization === `Bearer ${valid}` ? { status: 200, body: {} } : { status: 401 });
    let skippedMs = 0;
    const clock = { ...systemClock, mono: () => systemClock.mono() + skippedMs };
    await using client = createKubeClient({ auth: { ...api.auth, exec }, clock, log: silentLog, userAgent: 'test' });
    const call = (): Promise<unknown> => client.get('/api/v1/nodes/n', signal);
    await Promise.all(Array.from({ length: 5 }, call));
    assert.equal(runs().length, 1);
    const info = JSON.parse(runs()[0] as string);
    assert.equal(info.kind, 'ExecCredential');
    assert.equal(info.spec.interactive, false);
    assert.equal(info.spec.cluster.server, api.url);
    assert.deepEqual(info.spec.cluster.config, { audience: 'here' });
    assert.equal(Buffer.from(info.spec.cluster['certificate-authority-data'], 'base64').toString(), api.caPem);
    valid = 't2';
    writeFileSync(join(files.dir, 'expiry'), '2000-01-01T00:00:00Z');
    await call();
    await call();
    assert.equal(runs().length, 2, 'run again because of the 401, and only once');
    skippedMs = 60_000;
    valid = 't3';
    const refusals = api.seen.length;
    await call();
    assert.equal(runs().length, 3, 'an expired credential is not used');
    assert.equal(api.seen.length, refusals + 1, 'nor sent');
  });

  test('an exec plugin whose credential has no expiry prints null for it', async () => {
    using files = newDir();
    await using api = await startFakeKubeApi();
    api.answer = (r) => (r.headers.authorization === 'Bearer t' ? { status: 200, body: {} } : { status: 401 });
    const exec = plugin(files.dir, credential({ token: 't', expirationTimestamp: null }));
    await using client = createKubeClient({ auth: { ...api.auth, exec }, clock: systemClock, log: silentLog, userAgent: 'test' });
    await client.get('/api/v1/nodes/n', signal);
    assert.equal(api.seen.length, 1);
  });

  test('an exec plugin gives a client certificate', async () => {
    using files = newDir();
    await using api = await startFakeKubeApi();
    const { cert, key } = api.issue('system:node:exec');
    writeFileSync(
      join(files.dir, 'answer'),
      JSON.stringify({
        apiVersion: 'client.authentication.k8s.io/v1',
        kind: 'ExecCredential',
        status: { clientCertificateData: cert, clientKeyData: key },
      }),
    );
    await using client = clientOf(api, { exec: plugin(files.dir, `cat ${files.dir}/answer`) });
    api.put(pods, { metadata: { name: 'a' } });
    await client.get(`${pods}/a`, signal);
    assert.equal(api.seen[0]?.clientName, 'system:node:exec');
  });

  const broken: { name: string; script: string; says: RegExp; more?: Partial<ExecPlugin> }[] = [
    { name: 'fails', script: 'echo no such user >&2; exit 3', says: /exit code 3: no such user/ },
    { name: 'prints text', script: 'echo hello', says: /printed kind \(none\), expected ExecCredential/ },
    { name: 'prints half of it', script: `echo '{"kind": "SECRET'`, says: /printed something that is neither JSON nor YAML$/ },
    { name: 'prints nothing useful', script: credential({}), says: /neither a token nor a client certificate/ },
    { name: 'prints half a pair', script: credential({ clientCertificateData: 'x' }), says: /without its key/ },
    {
      name: 'is missing',
      script: '',
      says: /not found\. apt install login/,
      more: { command: '/nowhere/login', installHint: 'apt install login' },
    },
  ];
  for (const { name, script, says, more } of broken) {
    test(`an exec plugin that ${name}`, async () => {
      using files = newDir();
      await using api = await startFakeKubeApi();
      await using client = clientOf(api, { exec: plugin(files.dir, script, more) });
      await assert.rejects(client.get('/api/v1/nodes/n', signal), { code: 'Unauthorized', message: says });
    });
  }
});
