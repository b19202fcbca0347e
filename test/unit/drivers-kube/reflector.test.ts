import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import type { KubeClient } from '../../../agent/drivers/kube/client.ts';
import { type ReflectOptions, type Reflector, reflect } from '../../../agent/drivers/kube/reflector.ts';
import type { Pod } from '../../../agent/model/generated/api.ts';
import { type FakeKubeApi, type FakeObject, type SeenRequest, startFakeKubeApi } from '../../fakes/kube-api.ts';
import { clientOf, keepingLog, pods, signal, until } from './fixtures.ts';

interface World extends AsyncDisposable {
  readonly api: FakeKubeApi;
  readonly client: KubeClient;
  readonly table: Table<Pod>;
  readonly reflector: Reflector;
  /** `set ns/a`, `deleted ns/a` in order. */
  readonly events: string[];
  readonly log: string[];
  readonly watches: () => SeenRequest[];
}

/** A reflector of all pods on a fake server that holds pods `names`. No jitter, so quick retries come at once. */
async function start(names: string[], more: Partial<ReflectOptions<Pod, Pod>> = {}, prepare?: (api: FakeKubeApi) => void): Promise<World> {
  const api = await startFakeKubeApi();
  for (const name of names) api.put(pods, { metadata: { name } });
  prepare?.(api);
  const client = clientOf(api);
  const table = new Table<Pod>('pods');
  const events: string[] = [];
  const log: string[] = [];
  const reflector = reflect<Pod>({
    client,
    clock: systemClock,
    log: keepingLog(log),
    path: '/api/v1/pods',
    signal,
    table,
    random: () => 0,
    onEvent: (event) => events.push(`${event.type} ${event.key}`),
    ...more,
  });
  return {
    api,
    client,
    table,
    reflector,
    events,
    log,
    watches: () => api.seen.filter((r) => r.query.get('watch') === 'true'),
    async [Symbol.asyncDispose]() {
      await reflector[Symbol.asyncDispose]();
      await client[Symbol.asyncDispose]();
      await api[Symbol.asyncDispose]();
    },
  };
}

const keys = (w: World): string[] => [...w.table.keys()].sort();

test('WatchList: synced once complete, then each change', async () => {
  await using w = await start(['a', 'b']);
  assert.equal(w.table.synced, false);
  await until('synced', () => w.table.synced && w.reflector.connected);
  assert.deepEqual(keys(w), ['ns/a', 'ns/b']);
  assert.equal(w.reflector.disconnectedSince, undefined);
  w.api.put(pods, { metadata: { name: 'c', managedFields: [{}] } });
  w.api.put(pods, { metadata: { name: 'a', labels: { x: '1' } } });
  w.api.remove(pods, 'ns', 'b');
  await until('all told', () => w.events.length === 5);
  assert.deepEqual(w.events, ['set ns/a', 'set ns/b', 'set ns/c', 'set ns/a', 'deleted ns/b']);
  assert.deepEqual(keys(w), ['ns/a', 'ns/c']);
  assert.equal('managedFields' in (w.table.get('ns/c')?.metadata ?? {}), false);
  const [request] = w.watches();
  assert.equal(request?.query.get('sendInitialEvents'), 'true');
  assert.equal(request?.query.get('resourceVersionMatch'), 'NotOlderThan');
  assert.equal(request?.query.get('allowWatchBookmarks'), 'true');
  assert.equal(request?.query.get('timeoutSeconds'), '300');
  assert.equal(w.watches().length, 1);
});

test('a selector and an empty collection', async () => {
  await using w = await start(['a'], { query: { fieldSelector: 'spec.nodeName=n1' } });
  await until('synced', () => w.table.synced);
  assert.equal(w.table.size, 0);
  w.api.put(pods, { metadata: { name: 'mine' }, spec: { nodeName: 'n1' } });
  await until('mine', () => w.table.has('ns/mine'));
});

test('transform keeps out what it does not want', async () => {
  await using w = await start(['a', 'b'], { transform: (pod) => (pod.metadata?.labels?.skip === '1' ? undefined : pod) });
  await until('synced', () => w.table.synced);
  w.api.put(pods, { metadata: { name: 'a', labels: { skip: '1' } } });
  await until('a is out', () => !w.table.has('ns/a'));
  w.api.put(pods, { metadata: { name: 'a', labels: { skip: '0' } } });
  await until('a is back', () => w.table.has('ns/a'));
});

test('a server without WatchList is listed in pages, then watched from there', async () => {
  const names = Array.from({ length: 1200 }, (_, i) => `p${i}`);
  await using w = await start(names, {}, (api) => {
    api.watchList = false;
  });
  await until('synced', () => w.table.synced && w.reflector.connected);
  assert.equal(w.table.size, 1200);
  assert.equal(w.api.seen.filter((r) => r.query.has('limit')).length, 3);
  w.api.put(pods, { metadata: { name: 'later' } });
  await until('later', () => w.table.has('ns/later'));
  assert.equal(w.log.filter((line) => line.startsWith('warn')).length, 0);
});

test('a page that expired midway: the whole list at once', async () => {
  const names = Array.from({ length: 600 }, (_, i) => `p${i}`);
  await using w = await start(names, {}, (api) => {
    api.watchList = false;
    api.answer = (r) => {
      if (r.query.has('continue')) return { status: 410, body: { kind: 'Status', reason: 'Expired', message: 'too old' } };
      return undefined;
    };
  });
  await until('synced', () => w.table.synced);
  assert.equal(w.table.size, 600);
});

test('a broken connection: resumed from the last version, nothing told twice', async () => {
  await using w = await start(['a', 'b']);
  await until('connected', () => w.reflector.connected);
  w.api.put(pods, { metadata: { name: 'c' } });
  await until('c', () => w.table.has('ns/c'));
  w.api.dropConnections();
  await until('down', () => !w.reflector.connected);
  w.api.remove(pods, 'ns', 'a');
  await until('a gone', () => !w.table.has('ns/a'));
  assert.deepEqual(w.events, ['set ns/a', 'set ns/b', 'set ns/c', 'deleted ns/a']);
  assert.notEqual(w.watches().at(-1)?.query.get('resourceVersion'), null);
  assert.equal(w.watches().at(-1)?.query.has('sendInitialEvents'), false);
  assert.deepEqual(
    w.log.filter((line) => line.startsWith('warn')),
    [],
    'one break is not news',
  );
});

test('a stream that breaks in the middle of a line resumes before it', async () => {
  await using w = await start(['a']);
  await until('connected', () => w.reflector.connected);
  w.api.sendRaw('/api/v1/pods', '{"type":"ADDED","object":{"metadata":{"name":"half","namespace":"ns"');
  w.api.endWatches();
  await until('a new watch', () => w.watches().length === 2 && w.reflector.connected);
  w.api.put(pods, { metadata: { name: 'b' } });
  await until('b', () => w.table.has('ns/b'));
  assert.deepEqual(keys(w), ['ns/a', 'ns/b']);
});

test('bookmarks move the version from which a watch resumes', async () => {
  await using w = await start(['a']);
  await until('connected', () => w.reflector.connected);
  const lease: FakeObject = w.api.put('/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases', { metadata: { name: 'n1' } });
  w.api.bookmark();
  w.api.sendRaw('/api/v1/pods', '\n');
  // A change after it, so that the bookmark is known to have arrived.
  w.api.put(pods, { metadata: { name: 'b' } });
  await until('b', () => w.table.has('ns/b'));
  w.api.put('/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases', { metadata: { name: 'n1' } });
  w.api.bookmark();
  w.api.compact();
  w.api.bookmark();
  w.api.endWatches();
  await until('a new watch', () => w.watches().length === 2 && w.reflector.connected);
  const resumed = Number(w.watches()[1]?.query.get('resourceVersion'));
  assert.equal(resumed > Number(lease.metadata.resourceVersion) + 2, true, 'a compaction after the last change did not matter');
});

test('410: the complete state again, deletions noticed, unchanged objects not told', async () => {
  await using w = await start(['a', 'b', 'c']);
  await until('connected', () => w.reflector.connected);
  const before = w.table.get('ns/a');
  await w.api.stop();
  w.api.remove(pods, 'ns', 'b');
  w.api.put(pods, { metadata: { name: 'c', labels: { x: '1' } } });
  w.api.put(pods, { metadata: { name: 'd' } });
  w.api.compact();
  w.events.length = 0;
  await w.api.resume();
  await until('caught up', () => w.table.has('ns/d') && w.reflector.connected);
  assert.deepEqual(w.events, ['deleted ns/b', 'set ns/c', 'set ns/d']);
  assert.equal(w.table.get('ns/a'), before);
});

test('410 as an HTTP answer, and for a server without WatchList', async () => {
  await using w = await start(['a'], {}, (api) => {
    api.watchList = false;
  });
  await until('connected', () => w.reflector.connected);
  let gone = 1;
  w.api.answer = (r) => (r.query.get('watch') === 'true' && gone-- > 0 ? { status: 410 } : undefined);
  w.api.put(pods, { metadata: { name: 'b' } });
  await until('b', () => w.table.has('ns/b'));
  w.api.endWatches();
  await until('listed again', () => w.api.seen.filter((r) => Number(r.query.get('limit')) > 1).length === 2 && w.reflector.connected);
});

test('an object that was replaced under its name while we were away is set, not deleted', async () => {
  await using w = await start(['a']);
  await until('connected', () => w.reflector.connected);
  const old = w.table.get('ns/a')?.metadata?.uid;
  await w.api.stop();
  w.api.remove(pods, 'ns', 'a');
  w.api.put(pods, { metadata: { name: 'a' } });
  w.api.compact();
  await w.api.resume();
  await until('the new a', () => w.table.get('ns/a')?.metadata?.uid !== old);
  assert.deepEqual(w.events, ['set ns/a', 'set ns/a']);
});

test('what cannot be understood is skipped, the watch goes on', async () => {
  await using w = await start(['a']);
  await until('connected', () => w.reflector.connected);
  w.api.sendRaw('/api/v1/pods', '{"type":"ADDED"}\n{"type":"ADDED","object":{"metadata":{}}}\n{"type":"NEWS","object":{}}\n');
  w.api.put(pods, { metadata: { name: 'b' } });
  await until('b', () => w.table.has('ns/b'));
  assert.equal(w.log.filter((line) => line.startsWith('error')).length, 3);
  assert.equal(w.watches().length, 1);
});

test('a line that is no JSON may have been any event: the watch resumes before it', async () => {
  await using w = await start(['a']);
  await until('connected', () => w.reflector.connected);
  w.api.sendRaw('/api/v1/pods', '{"type":"ADDED","object":{"metadata":{"name":"b","names\n');
  w.api.put(pods, { metadata: { name: 'c' } });
  await until('c', () => w.table.has('ns/c'));
  assert.equal(w.watches().length, 2);
  assert.deepEqual(w.events, ['set ns/a', 'set ns/c']);
});

test('the server away: told once; up again at once when another call gets through', async () => {
  // Back-offs last longer than the test.
  const clock = { ...systemClock, sleep: (ms: number, stop: AbortSignal) => systemClock.sleep(ms < 300 ? ms : 60_000, stop) };
  await using w = await start(['a'], { clock });
  await until('connected', () => w.reflector.connected);
  await w.api.stop();
  await until('told', () => w.log.includes('warn watch is down; retrying'));
  assert.equal(w.reflector.connected, false);
  assert.equal(typeof w.reflector.disconnectedSince, 'number');
  assert.deepEqual(keys(w), ['ns/a'], 'the table keeps what was known');
  await w.api.resume();
  await assert.rejects(w.client.get('/api/v1/nodes/n', signal), { code: 'NotFound' });
  await until('up', () => w.reflector.connected);
  assert.deepEqual(
    w.log.filter((line) => !line.startsWith('debug')),
    ['warn watch is down; retrying', 'info watch is up again'],
  );
});

test('Forbidden is retried, and told to who asked', async () => {
  const failures: unknown[] = [];
  let forbidden = true;
  await using w = await start(['a'], { onFailure: (error) => failures.push(error) }, (api) => {
    api.answer = () => (forbidden ? { status: 403, body: { kind: 'Status', reason: 'Forbidden', message: 'no' } } : undefined);
  });
  await until('refused', () => failures.length >= 1);
  assert.equal((failures[0] as { code: string }).code, 'Forbidden');
  forbidden = false;
  await until('synced', () => w.table.synced);
});

test('disposing ends the watch, and the signal too', async () => {
  await using api = await startFakeKubeApi();
  await using client = clientOf(api);
  const stop = new AbortController();
  const options = { client, clock: systemClock, log: silentLog, path: '/api/v1/pods' };
  const one = reflect<Pod>({ ...options, signal });
  const two = reflect<Pod>({ ...options, signal: stop.signal });
  await until('both', () => api.watches.length === 2);
  await one[Symbol.asyncDispose]();
  await until('one', () => api.watches.length === 1);
  stop.abort(new Error('done'));
  await until('none', () => api.watches.length === 0);
  assert.equal(two.connected, false);
});

// An etcd restored from a snapshot: each object as it was, versions that begin again, and watches from the future that hear nothing.
for (const [name, more] of [
  ['a whole collection', {}],
  ['what a selector narrows down', { query: { fieldSelector: 'metadata.namespace=ns' } }],
] as const)
  test(`a server restored to an older state is read anew: ${name}`, async () => {
    await using w = await start(['kept', 'edited', 'deleted', 'made again'], more);
    await until('connected', () => w.reflector.connected);
    const kept = w.table.get('ns/kept');
    const before = w.api.snapshot();
    w.api.put(pods, { metadata: { name: 'edited' }, spec: { now: 'later' } });
    w.api.put(pods, { metadata: { name: 'new' } });
    w.api.remove(pods, 'ns', 'deleted');
    await until('all told', () => w.table.has('ns/new') && !w.table.has('ns/deleted'));
    w.events.length = 0;
    await w.api.stop();
    w.api.restore(before);
    await w.api.resume();
    await until('the old state', () => w.table.has('ns/deleted') && !w.table.has('ns/new'));
    assert.equal(w.table.get('ns/edited')?.spec, undefined);
    assert.equal(w.table.get('ns/kept'), kept, 'what has not changed is not told');
    assert.deepEqual(w.events.sort(), ['deleted ns/new', 'set ns/deleted', 'set ns/edited']);
    await until('connected again', () => w.reflector.connected);
    // What comes now has versions that were known before.
    w.api.put(pods, { metadata: { name: 'edited' }, spec: { now: 'again' } });
    await until('a later change', () => JSON.stringify(w.table.get('ns/edited')?.spec) === '{"now":"again"}');
  });

test('a version that a restored server has given out again stands for something else', async () => {
  await using w = await start(['a'], { query: { fieldSelector: 'metadata.namespace=ns' } });
  await until('connected', () => w.reflector.connected);
  const before = w.api.snapshot();
  w.api.put(pods, { metadata: { name: 'a' }, spec: { now: 'one' } });
  await until('one', () => JSON.stringify(w.table.get('ns/a')?.spec) === '{"now":"one"}');
  const version = w.table.get('ns/a')?.metadata?.resourceVersion;
  await w.api.stop();
  w.api.restore(before);
  w.api.put(pods, { metadata: { name: 'a' }, spec: { now: 'other' } });
  assert.equal(w.api.read(pods, 'ns', 'a')?.metadata.resourceVersion, version);
  await w.api.resume();
  await until('other', () => JSON.stringify(w.table.get('ns/a')?.spec) === '{"now":"other"}');
});
