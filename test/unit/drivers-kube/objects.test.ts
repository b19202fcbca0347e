import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { createObjects, type Objects } from '../../../agent/drivers/kube/objects.ts';
import type { ConfigMap } from '../../../agent/model/generated/api.ts';
import { type FakeKubeApi, startFakeKubeApi } from '../../fakes/kube-api.ts';
import { clientOf, signal, until } from './fixtures.ts';

const maps = '/api/v1/namespaces/ns/configmaps';

interface World extends AsyncDisposable {
  readonly api: FakeKubeApi;
  readonly objects: Objects<ConfigMap>;
  readonly told: string[];
}

async function start(): Promise<World> {
  const api = await startFakeKubeApi();
  const client = clientOf(api);
  const objects = createObjects({ client, clock: systemClock, log: silentLog, resource: 'configmaps', signal });
  const told: string[] = [];
  objects.subscribe((key) => told.push(key));
  return {
    api,
    objects,
    told,
    async [Symbol.asyncDispose]() {
      await objects[Symbol.asyncDispose]();
      await client[Symbol.asyncDispose]();
      await api[Symbol.asyncDispose]();
    },
  };
}

const put = (w: World, name: string, value: string, more: object = {}): void => {
  w.api.put(maps, { metadata: { name }, data: { v: value }, ...more });
};
const read = async (w: World, name: string): Promise<string | undefined> => (await w.objects.get('ns', name, signal))?.data?.v;

test('one watch of one object while anybody holds it', async () => {
  await using w = await start();
  put(w, 'a', '1');
  put(w, 'b', '1');
  const one = w.objects.acquire('ns', 'a');
  const two = w.objects.acquire('ns', 'a');
  assert.equal(await read(w, 'a'), '1');
  await until('watched', () => w.api.watches.length === 1);
  assert.equal(w.api.seen.find((r) => r.query.has('watch'))?.query.get('fieldSelector'), 'metadata.name=a');
  put(w, 'b', '2');
  put(w, 'a', '2');
  await until('a is 2', () => w.objects.peek('ns', 'a')?.data?.v === '2');
  assert.deepEqual(w.told, ['ns/a', 'ns/a']);
  one[Symbol.dispose]();
  one[Symbol.dispose]();
  assert.deepEqual(w.objects.size, { held: 1, watched: 1 });
  two[Symbol.dispose]();
  await until('not watched', () => w.api.watches.length === 0);
  assert.deepEqual(w.objects.size, { held: 0, watched: 0 });
});

test('an object that nobody holds is asked for', async () => {
  await using w = await start();
  put(w, 'a', '1');
  assert.equal(await read(w, 'a'), '1');
  assert.equal(await read(w, 'none'), undefined);
  assert.equal(w.api.watches.length, 0);
});

test('absent, then made, then deleted', async () => {
  await using w = await start();
  using _held = w.objects.acquire('ns', 'a');
  assert.equal(await read(w, 'a'), undefined);
  await until('watched', () => w.api.watches.length === 1);
  put(w, 'a', '1');
  await until('made', () => w.objects.peek('ns', 'a') !== undefined);
  assert.equal(await read(w, 'a'), '1');
  w.api.remove(maps, 'ns', 'a');
  await until('gone', () => w.objects.peek('ns', 'a') === undefined);
  assert.equal(await read(w, 'a'), undefined);
});

test('a later claim gets nothing older than itself, even while the watch lags', async () => {
  await using w = await start();
  put(w, 'a', '1');
  // A watch that never tells anything, as one whose delivery hangs.
  w.api.answer = (r) => (r.query.has('watch') ? new Promise(() => undefined) : undefined);
  using _one = w.objects.acquire('ns', 'a');
  assert.equal(await read(w, 'a'), '1');
  put(w, 'a', '2');
  assert.equal(await read(w, 'a'), '1');
  using _two = w.objects.acquire('ns', 'a');
  assert.equal(await read(w, 'a'), '2');
});

test('a cache that lags does not bring an older state back', async () => {
  await using w = await start();
  put(w, 'a', 'old');
  const old = structuredClone(w.api.read(maps, 'ns', 'a'));
  put(w, 'a', 'new');
  using _held = w.objects.acquire('ns', 'a');
  assert.equal(await read(w, 'a'), 'new');
  await until('watched', () => w.api.watches.length === 1);
  w.api.sendRaw(maps, `${JSON.stringify({ type: 'MODIFIED', object: old })}\n`);
  put(w, 'a', 'newer');
  await until('newer', () => w.objects.peek('ns', 'a')?.data?.v === 'newer');
  assert.deepEqual(w.told, ['ns/a', 'ns/a']);
});

test('immutable objects are not watched', async () => {
  await using w = await start();
  put(w, 'a', '1', { immutable: true });
  using _held = w.objects.acquire('ns', 'a');
  assert.equal(await read(w, 'a'), '1');
  await until('not watched', () => w.objects.size.watched === 0 && w.api.watches.length === 0);
  assert.equal(await read(w, 'a'), '1');
});

test('Forbidden for a moment is the authorizer catching up; for longer it is an error', async () => {
  await using w = await start();
  put(w, 'a', '1');
  let refusals = 2;
  w.api.answer = (r) => (r.query.has('watch') || refusals-- > 0 ? { status: 403 } : undefined);
  using _a = w.objects.acquire('ns', 'a');
  assert.equal(await read(w, 'a'), '1');
  w.api.answer = () => ({ status: 403, body: { kind: 'Status', reason: 'Forbidden', message: 'no relationship found' } });
  using _b = w.objects.acquire('ns', 'b');
  await assert.rejects(read(w, 'b'), { code: 'Forbidden', message: /no relationship found/ });
  w.api.answer = undefined;
  put(w, 'b', '1');
  assert.equal(await read(w, 'b'), '1');
});

test('the server away: what is known is still given, what is not is waited for', async () => {
  await using w = await start();
  put(w, 'a', '1');
  using _one = w.objects.acquire('ns', 'a');
  assert.equal(await read(w, 'a'), '1');
  await w.api.stop();
  using _two = w.objects.acquire('ns', 'a');
  assert.equal(await read(w, 'a'), '1');
  using _b = w.objects.acquire('ns', 'b');
  using short = systemClock.deadline(signal, 50);
  await assert.rejects(w.objects.get('ns', 'b', short.signal), { code: 'DeadlineExceeded' });
  const waiting = read(w, 'b');
  put(w, 'b', 'x');
  await w.api.resume();
  assert.equal(await waiting, 'x');
});

test('a server restored to an older state: edited, deleted and made again there, all are found', async () => {
  await using w = await start();
  put(w, 'edited', 'snapshot');
  put(w, 'again', 'snapshot');
  put(w, 'fixed', 'snapshot', { immutable: true });
  const before = w.api.snapshot();
  const held = ['edited', 'again', 'fixed'].map((name) => w.objects.acquire('ns', name));
  for (let i = 0; i < 20; i++) put(w, 'edited', `later ${i}`);
  for (const name of ['again', 'fixed']) {
    w.api.remove(maps, 'ns', name);
    put(w, name, 'later', name === 'fixed' ? { immutable: true } : {});
  }
  await until('all later', () =>
    ['edited', 'again', 'fixed'].every((name) => w.objects.peek('ns', name)?.data?.v?.startsWith('later') === true),
  );
  await until('watched', () => w.objects.size.watched === 2);
  await w.api.stop();
  w.api.restore(before);
  await w.api.resume();
  await until('the snapshot', () => ['edited', 'again'].every((name) => w.objects.peek('ns', name)?.data?.v === 'snapshot'));
  await until('the snapshot of what is not watched', () => w.objects.peek('ns', 'fixed')?.data?.v === 'snapshot');
  put(w, 'edited', 'edited');
  w.api.remove(maps, 'ns', 'again');
  put(w, 'again', 'made again');
  await until('edited', () => w.objects.peek('ns', 'edited')?.data?.v === 'edited');
  await until('made again', () => w.objects.peek('ns', 'again')?.data?.v === 'made again');
  for (const one of held) one[Symbol.dispose]();
});

test('absent for a while on a restored server, then made with an old version: it is found', async () => {
  await using w = await start();
  const before = w.api.snapshot();
  for (let i = 0; i < 20; i++) put(w, 'a', `later ${i}`);
  using _held = w.objects.acquire('ns', 'a');
  await until('known', () => w.objects.peek('ns', 'a')?.data?.v === 'later 19');
  await until('watched', () => w.api.watches.length === 1);
  await w.api.stop();
  w.api.restore(before);
  await w.api.resume();
  await until('gone', () => w.objects.peek('ns', 'a') === undefined);
  put(w, 'a', 'anew');
  await until('found', () => w.objects.peek('ns', 'a')?.data?.v === 'anew');
});
