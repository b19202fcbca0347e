// The API client against a real kube-apiserver and etcd, both on loopback and ours alone.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, openSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { systemClock } from '../../agent/base/clock.ts';
import { hasCode } from '../../agent/base/errors.ts';
import type { Log } from '../../agent/base/log.ts';
import { Table } from '../../agent/base/table.ts';
import { createKubeClient, type KubeClient, pathOf } from '../../agent/drivers/kube/client.ts';
import { createEventRecorder } from '../../agent/drivers/kube/events.ts';
import type { KubeAuth } from '../../agent/drivers/kube/kubeconfig.ts';
import { createObjects } from '../../agent/drivers/kube/objects.ts';
import { reflect } from '../../agent/drivers/kube/reflector.ts';
import type { ConfigMap, Event, Lease, Node, Pod, Secret } from '../../agent/model/generated/api.ts';
import { makeCa } from '../fakes/certs.ts';
import { ensureBinaries } from '../testbed/binaries.ts';
import { tailOf } from '../testbed/process.ts';
import { GiveUp, waitFor } from '../testbed/wait.ts';

const signal = new AbortController().signal;
const pods = pathOf('v1', 'pods', 'default');
const maps = pathOf('v1', 'configmaps', 'default');

let dir: string;
let ports: { etcd: number; api: number };
let binaries: Record<'etcd' | 'kube-apiserver', string>;
let ca: ReturnType<typeof makeCa>;
let etcd: ChildProcess;
let apiserver: ChildProcess | undefined;
let admin: KubeClient;
const log: string[] = [];

function keepingLog(): Log {
  const keep =
    (level: string) =>
    (fields: object, message: string): void =>
      void log.push(`${level} ${message} ${JSON.stringify(fields)}`);
  const self: Log = { debug: keep('debug'), info: keep('info'), warn: keep('warn'), error: keep('error'), child: () => self };
  return self;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function start(name: string, binary: string, args: string[]): ChildProcess {
  const out = openSync(join(dir, `${name}.log`), 'a');
  return spawn(binary, args, { stdio: ['ignore', out, out] });
}

async function end(child: ChildProcess | undefined, how: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise((resolve) => child.once('exit', resolve));
  child.kill(how);
  using _force = systemClock.after(15_000, () => child.kill('SIGKILL'));
  await exited;
}

async function startApiserver(featureGates = ''): Promise<void> {
  const file = (name: string): string => join(dir, name);
  const child = start('apiserver', binaries['kube-apiserver'], [
    '--bind-address=127.0.0.1',
    '--advertise-address=127.0.0.1',
    `--secure-port=${ports.api}`,
    `--etcd-servers=http://127.0.0.1:${ports.etcd}`,
    `--client-ca-file=${file('ca.crt')}`,
    `--tls-cert-file=${file('server.crt')}`,
    `--tls-private-key-file=${file('server.key')}`,
    `--token-auth-file=${file('tokens.csv')}`,
    '--authorization-mode=Node,RBAC',
    '--enable-admission-plugins=NodeRestriction',
    '--disable-admission-plugins=ServiceAccount',
    '--service-account-issuer=https://kubernetes.default.svc',
    `--service-account-key-file=${file('sa.key')}`,
    `--service-account-signing-key-file=${file('sa.key')}`,
    '--service-cluster-ip-range=10.96.0.0/16',
    '--shutdown-send-retry-after=true',
    ...(featureGates === '' ? [] : [`--feature-gates=${featureGates}`]),
  ]);
  apiserver = child;
  await waitFor('the API server', 90_000, async () => {
    if (child.exitCode !== null) throw new GiveUp(`kube-apiserver ended:\n${tailOf(file('apiserver.log'))}`);
    return (await admin.request({ method: 'GET', path: '/readyz', accept: '*/*', urgent: true }, signal)).status === 200 ? true : undefined;
  });
}

function authOf(pair: { cert: string; key: string } | undefined, more: Partial<KubeAuth> = {}): KubeAuth {
  return {
    server: `https://127.0.0.1:${ports.api}`,
    ca: { kind: 'data', pem: ca.cert },
    ...(pair === undefined ? {} : { clientCert: { kind: 'data', pem: pair.cert }, clientKey: { kind: 'data', pem: pair.key } }),
    ...more,
  };
}

function clientOf(auth: KubeAuth): KubeClient {
  return createKubeClient({ auth, clock: systemClock, log: keepingLog(), userAgent: 'keelson-test', qps: 0 });
}

const podOf = (name: string, spec: object = {}): object => ({
  metadata: { name },
  spec: { containers: [{ name: 'c', image: 'busybox' }], ...spec },
});

before(async () => {
  binaries = await ensureBinaries(['etcd', 'kube-apiserver']);
  dir = mkdtempSync(join(tmpdir(), 'api-client-'));
  ca = makeCa('test-ca');
  const serving = ca.issue({ commonName: 'kube-apiserver', sans: ['IP:127.0.0.1'] });
  const { privateKey } = generateKeyPairSync('rsa', {
    modulusLength: 2048,
    privateKeyEncoding: { type: 'pkcs1', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  });
  const files = { 'ca.crt': ca.cert, 'server.crt': serving.cert, 'server.key': serving.key, 'sa.key': privateKey };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text, { mode: 0o600 });
  writeFileSync(join(dir, 'tokens.csv'), 'token-one,one,1\ntoken-two,two,2\n', { mode: 0o600 });
  ports = { etcd: await freePort(), api: await freePort() };
  const peer = await freePort();
  etcd = start('etcd', binaries.etcd, [
    `--data-dir=${join(dir, 'etcd')}`,
    '--unsafe-no-fsync',
    `--listen-client-urls=http://127.0.0.1:${ports.etcd}`,
    `--advertise-client-urls=http://127.0.0.1:${ports.etcd}`,
    `--listen-peer-urls=http://127.0.0.1:${peer}`,
    `--initial-advertise-peer-urls=http://127.0.0.1:${peer}`,
    `--initial-cluster=default=http://127.0.0.1:${peer}`,
  ]);
  admin = clientOf(authOf(ca.issue({ commonName: 'admin', organization: 'system:masters' })));
  await startApiserver();
  await waitFor('the default namespace', 20_000, () => admin.get('/api/v1/namespaces/default', signal).then(() => true));
});

after(async () => {
  await admin[Symbol.asyncDispose]();
  await end(apiserver);
  await end(etcd);
  ca[Symbol.dispose]();
  rmSync(dir, { recursive: true, force: true });
});

async function tableOf(client: KubeClient, path: string): Promise<{ table: Table<Pod>; connected: () => boolean } & AsyncDisposable> {
  const table = new Table<Pod>(path);
  const reflector = reflect<Pod>({ client, clock: systemClock, log: keepingLog(), path, signal, table });
  await waitFor(`${path} to be synced`, 10_000, () => (table.synced && reflector.connected ? true : undefined), 5);
  return { table, connected: () => reflector.connected, [Symbol.asyncDispose]: () => Promise.resolve(reflector[Symbol.asyncDispose]()) };
}

const removed = (name: string): Promise<unknown> => admin.delete(`${pods}/${name}`, { gracePeriodSeconds: 0 }, signal);

describe('one server', () => {
  test('create, read, patch, apply, delete; what is refused has its reason as code', async () => {
    await admin.create(pods, podOf('a'), signal);
    await assert.rejects(admin.create(pods, podOf('a'), signal), { code: 'AlreadyExists' });
    await assert.rejects(admin.create(pods, podOf('B_'), signal), { code: 'Invalid', message: /metadata.name: Invalid value/ });
    const status = { status: { conditions: [{ type: 'x.io/ok', status: 'True' }] } };
    await admin.patch(`${pods}/a/status`, status, 'application/strategic-merge-patch+json', signal);
    const pod = await admin.get<Pod>(`${pods}/a`, signal);
    assert.equal(pod.status?.conditions?.[0]?.type, 'x.io/ok');
    await admin.patch(`${pods}/a`, { metadata: { labels: { x: '1' } } }, 'application/merge-patch+json', signal);
    await assert.rejects(admin.replace(`${pods}/a`, pod, signal), { code: 'Conflict' });
    await admin.patch(`${pods}/a`, [{ op: 'remove', path: '/metadata/labels/x' }], 'application/json-patch+json', signal);
    const applied = await admin.patch<ConfigMap>(
      `${maps}/applied`,
      { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'applied' }, data: { a: '1' } },
      'application/apply-patch+yaml',
      signal,
      { query: { fieldManager: 'test' } },
    );
    assert.equal(applied.data?.a, '1');
    await assert.rejects(admin.delete(`${pods}/a`, { preconditions: { uid: 'other' } }, signal), { code: 'Conflict' });
    await removed('a');
    await assert.rejects(admin.get(`${pods}/a`, signal), { code: 'NotFound' });
    assert.equal(await removed('a'), undefined);
    await using nobody = clientOf(authOf(undefined, { token: 'wrong' }));
    await assert.rejects(nobody.get('/api/v1/nodes', signal), { code: 'Unauthorized' });
    await using one = clientOf(authOf(undefined, { token: 'token-one' }));
    await assert.rejects(one.get('/api/v1/nodes', signal), { code: 'Forbidden', message: /User "one" cannot list resource "nodes"/ });
  });

  test('WatchList gives the state and each change', async () => {
    await admin.create(pods, podOf('w1'), signal);
    await using watched = await tableOf(admin, pods);
    assert.deepEqual([...watched.table.keys()], ['default/w1']);
    await admin.create(pods, podOf('w2'), signal);
    await waitFor('w2', 2000, () => watched.table.get('default/w2'), 5);
    await removed('w1');
    await waitFor('w1 to go', 2000, () => (watched.table.has('default/w1') ? undefined : true), 5);
    await removed('w2');
    assert.deepEqual(
      log.filter((line) => line.includes('refuses WatchList')),
      [],
    );
  });

  test('latencies: a status patch and a watch event', async (t) => {
    await admin.create(pods, podOf('timed'), signal);
    await using watched = await tableOf(admin, pods);
    let seen: (at: number) => void = () => undefined;
    using _listening = watched.table.subscribe(() => seen(systemClock.mono()));
    const patches: number[] = [];
    const events: number[] = [];
    for (let i = 0; i < 200; i++) {
      const began = systemClock.mono();
      const event = new Promise<number>((resolve) => {
        seen = resolve;
      });
      const change = { status: { conditions: [{ type: 'x.io/n', status: 'True', message: String(i) }] } };
      await admin.patch(`${pods}/timed/status`, change, 'application/strategic-merge-patch+json', signal);
      patches.push(systemClock.mono() - began);
      events.push((await event) - began);
    }
    await removed('timed');
    const p = (values: number[], share: number): number => values.toSorted((a, b) => a - b)[Math.floor(values.length * share)] as number;
    t.diagnostic(`status patch p50 ${p(patches, 0.5).toFixed(1)} ms, p95 ${p(patches, 0.95).toFixed(1)} ms`);
    t.diagnostic(`patch → event p50 ${p(events, 0.5).toFixed(1)} ms, p95 ${p(events, 0.95).toFixed(1)} ms`);
    assert.equal(p(patches, 0.5) < 30, true);
  });

  test('a node: its lease beside 150 watches of single secrets, and no secret that it has no pod for', async (t) => {
    await admin.create(pathOf('v1', 'nodes'), { metadata: { name: 'n1' } } satisfies Node, signal);
    const count = 150;
    const names = Array.from({ length: count }, (_, i) => `s${i}`);
    await Promise.all(
      [...names, 'other'].map((name) =>
        admin.create(pathOf('v1', 'secrets', 'default'), { metadata: { name }, stringData: { v: '1' } }, signal),
      ),
    );
    await using node = clientOf(authOf(ca.issue({ commonName: 'system:node:n1', organization: 'system:nodes' })));
    await using secrets = createObjects({ client: node, clock: systemClock, log: keepingLog(), resource: 'secrets', signal });
    const volumes = names.map((name) => ({ name, secret: { secretName: name } }));
    await admin.create(pods, podOf('user', { nodeName: 'n1', volumes }), signal);
    const began = systemClock.mono();
    const handles = names.map((name) => secrets.acquire('default', name));
    const values = await Promise.all(names.map((name) => secrets.get('default', name, signal)));
    t.diagnostic(`${count} secrets acquired and read in ${(systemClock.mono() - began).toFixed(0)} ms`);
    assert.equal(
      values.every((secret: Secret | undefined) => secret?.data?.v === 'MQ=='),
      true,
    );
    const key = await new Promise<string>((resolve) => {
      secrets.subscribe(resolve);
      void admin.patch(pathOf('v1', 'secrets', 'default', 's149'), { stringData: { v: '2' } }, 'application/merge-patch+json', signal);
    });
    assert.equal(key, 'default/s149');
    const lease: Lease = {
      metadata: { name: 'n1', namespace: 'kube-node-lease' },
      spec: { holderIdentity: 'n1', leaseDurationSeconds: 40, renewTime: new Date(systemClock.wall()).toISOString().replace('Z', '000Z') },
    };
    await waitFor('the lease namespace', 20_000, () => admin.get('/api/v1/namespaces/kube-node-lease', signal).then(() => true));
    const made = await node.create<Lease>(pathOf('coordination.k8s.io/v1', 'leases', 'kube-node-lease'), lease, signal, {
      timeoutMs: 3000,
    });
    await node.replace(pathOf('coordination.k8s.io/v1', 'leases', 'kube-node-lease', 'n1'), made, signal, { timeoutMs: 3000 });
    using _other = secrets.acquire('default', 'other');
    await assert.rejects(secrets.get('default', 'other', signal), { code: 'Forbidden', message: /no relationship found/ });
    for (const handle of handles) handle[Symbol.dispose]();
    await removed('user');
  });

  test('events: recorded, counted, combined', async () => {
    await using recorder = createEventRecorder({ client: admin, clock: systemClock, log: keepingLog(), nodeName: 'n1' });
    const pod = await admin.create<Pod>(pods, podOf('talks'), signal);
    for (let i = 0; i < 3; i++) recorder.event(pod, 'Normal', 'Pulled', 'image is there', 'spec.containers{c}');
    for (let i = 0; i < 12; i++) recorder.event(pod, 'Warning', 'Failed', `failure ${i}`);
    await recorder.flush(signal);
    const query = { fieldSelector: `involvedObject.name=talks,involvedObject.uid=${pod.metadata?.uid}` };
    const { items } = await admin.list<Event>(pathOf('v1', 'events', 'default'), signal, { query });
    const pulled = items.filter((event) => event.reason === 'Pulled');
    assert.deepEqual(
      pulled.map((event) => [event.count, event.source?.host, event.involvedObject.fieldPath, event.reportingComponent]),
      [[3, 'n1', 'spec.containers{c}', 'kubelet']],
    );
    const failed = items.filter((event) => event.reason === 'Failed');
    assert.equal(failed.length, 10);
    assert.deepEqual(
      failed.filter((event) => event.message?.startsWith('(combined')).map((event) => [event.count, event.message]),
      [[3, '(combined from similar events): failure 11']],
    );
    await removed('talks');
  });

  test('a token file and a certificate that change', async () => {
    const tokenFile = join(dir, 'token');
    writeFileSync(tokenFile, 'token-one');
    await using client = clientOf(authOf(undefined, { tokenFile }));
    const whoAmI = async (of: KubeClient): Promise<string | undefined> => {
      const path = '/apis/authentication.k8s.io/v1/selfsubjectreviews';
      const review = await of.create<{ status: { userInfo: { username: string } } }>(
        path,
        { kind: 'SelfSubjectReview', apiVersion: 'authentication.k8s.io/v1' },
        signal,
      );
      return review.status.userInfo.username;
    };
    assert.equal(await whoAmI(client), 'one');
    const current = join(dir, 'current.pem');
    for (const name of ['first', 'second']) {
      const { cert, key } = ca.issue({ commonName: name });
      writeFileSync(join(dir, `${name}.pem`), cert + key);
    }
    symlinkSync('first.pem', current);
    const source = { kind: 'file' as const, path: current };
    await using rotating = clientOf(authOf(undefined, { clientCert: source, clientKey: source }));
    assert.equal(await whoAmI(rotating), 'first');
    symlinkSync('second.pem', join(dir, 'next.pem'));
    renameSync(join(dir, 'next.pem'), current);
    await rotating.reload();
    assert.equal(await whoAmI(rotating), 'second');
    assert.notEqual(readFileSync(current, 'utf8'), '');
  });
});

describe('a server that goes and comes back', () => {
  test('restarted: the watch resumes by itself and loses nothing', async (t) => {
    await admin.create(pods, podOf('kept'), signal);
    await using watched = await tableOf(admin, pods);
    const kept = watched.table.get('default/kept');
    await end(apiserver);
    assert.equal(watched.table.get('default/kept'), kept);
    await startApiserver();
    const up = systemClock.mono();
    await waitFor('the watch', 20_000, () => (watched.connected() ? true : undefined), 5);
    t.diagnostic(`watch is back ${(systemClock.mono() - up).toFixed(0)} ms after the server is ready`);
    assert.equal(watched.table.get('default/kept'), kept, 'nothing was told again');
    await admin.create(pods, podOf('after'), signal);
    await waitFor('after', 5000, () => watched.table.get('default/after'), 5);
    await removed('kept');
    await removed('after');
  });

  test('history compacted while we were away: 410, and deletions are noticed', async () => {
    await using client = clientOf(authOf(ca.issue({ commonName: 'watcher', organization: 'system:masters' })));
    await admin.create(pods, podOf('goes'), signal);
    await admin.create(pods, podOf('stays'), signal);
    await using watched = await tableOf(client, pods);
    const stays = watched.table.get('default/stays');
    const port = ports.api;
    await end(apiserver);
    // Behind the watcher's back: the same cluster on another port.
    ports = { ...ports, api: await freePort() };
    await using other = clientOf(authOf(ca.issue({ commonName: 'admin', organization: 'system:masters' })));
    const before = admin;
    admin = other;
    await startApiserver();
    await removed('goes');
    for (let i = 0; i < 5; i++) await admin.create(pods, podOf(`new${i}`), signal);
    await end(apiserver);
    admin = before;
    ports = { ...ports, api: port };
    const gateway = `http://127.0.0.1:${ports.etcd}/v3/kv`;
    const range = await fetch(`${gateway}/range`, { method: 'POST', body: JSON.stringify({ key: Buffer.from('a').toString('base64') }) });
    const { header } = (await range.json()) as { header: { revision: string } };
    await fetch(`${gateway}/compaction`, { method: 'POST', body: JSON.stringify({ revision: header.revision, physical: true }) });
    await startApiserver();
    await waitFor('the new state', 30_000, () => (watched.connected() && watched.table.has('default/new4') ? true : undefined), 10);
    assert.equal(watched.table.has('default/goes'), false);
    assert.equal(watched.table.get('default/stays'), stays);
    assert.equal(
      log.some((line) => line.includes('too far behind')),
      true,
    );
    for (const name of ['stays', 'new0', 'new1', 'new2', 'new3', 'new4']) await removed(name);
  });

  test('without WatchList: listed in pages', async () => {
    await end(apiserver);
    await startApiserver('WatchList=false');
    await Promise.all(Array.from({ length: 520 }, (_, i) => admin.create(maps, { metadata: { name: `m${i}` } }, signal)));
    log.length = 0;
    await using watched = await tableOf(admin, maps);
    assert.equal(watched.table.size >= 520, true);
    assert.equal(
      log.some((line) => line.includes('refuses WatchList')),
      true,
    );
    await admin.create(maps, { metadata: { name: 'late' } }, signal);
    await waitFor('late', 2000, () => watched.table.get('default/late'), 5);
  });

  test('silent (stopped, connections open): noticed within 30 s, calls end by their deadline', async (t) => {
    const client = clientOf(authOf(ca.issue({ commonName: 'watcher', organization: 'system:masters' })));
    await using watched = await tableOf(client, pods);
    apiserver?.kill('SIGSTOP');
    const began = systemClock.mono();
    try {
      // Its threads stop one by one, and on a busy machine the last may answer yet.
      const tasks = `/proc/${apiserver?.pid}/task`;
      const isStopped = (task: string): boolean => /\) T /.test(readFileSync(join(tasks, task, 'stat'), 'utf8'));
      await waitFor('the API server to stand still', 10_000, () => (readdirSync(tasks).every(isStopped) ? true : undefined), 1);
      await assert.rejects(client.get('/api/v1/nodes', signal, { timeoutMs: 1000 }), { code: 'DeadlineExceeded' });
      await waitFor('the watch to be found dead', 30_000, () => (watched.connected() ? undefined : true), 50);
      t.diagnostic(`noticed after ${((systemClock.mono() - began) / 1000).toFixed(1)} s`);
    } finally {
      apiserver?.kill('SIGCONT');
    }
    await waitFor('the watch', 30_000, () => (watched.connected() ? true : undefined), 10);
    await client[Symbol.asyncDispose]().then(undefined, (error: unknown) => assert.equal(hasCode(error, 'Unavailable'), true));
  });
});
