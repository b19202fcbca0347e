import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import type { AgentNode, AgentPod } from '../../../agent/model/pod.ts';
import { mirrorOf, planMirrors } from '../../../agent/pods/mirror.ts';
import { startMirrors } from '../../../agent/pods/mirror-worker.ts';
import type { PodSpecRow } from '../../../agent/pods/worker.ts';

const staticPod = (hash: string, name = 'web-n1'): AgentPod => ({
  metadata: {
    name,
    namespace: 'default',
    uid: hash,
    annotations: { 'kubernetes.io/config.hash': hash, 'kubernetes.io/config.source': 'file', 'kubernetes.io/config.seen': 'then' },
  },
  spec: { containers: [{ name: 'main', image: 'i' }], nodeName: 'n1' },
  status: { phase: 'Pending' },
});
const mirror = (hash: string, uid = `m-${hash}`, more: Partial<AgentPod['metadata']> = {}): AgentPod => {
  const { metadata, spec } = staticPod(hash);
  return { metadata: { ...metadata, uid, annotations: { ...metadata.annotations, 'kubernetes.io/config.mirror': hash }, ...more }, spec };
};
const deleting = { deletionTimestamp: '2026-11-21T00:00:00Z' };
const node = { name: 'n1', uid: 'node-uid' };

const cases: { name: string; wanted: AgentPod[]; mirrors: AgentPod[]; here?: string[]; unregistered?: true; plan: string[] }[] = [
  { name: 'no mirror yet', wanted: [staticPod('a')], mirrors: [], plan: ['create a'] },
  { name: 'everything is good; do nothing', wanted: [staticPod('a')], mirrors: [mirror('a')], plan: [] },
  { name: 'not registered: nobody could own it', wanted: [staticPod('a')], mirrors: [], unregistered: true, plan: [] },
  {
    name: 'somebody deletes it: it is back at once',
    wanted: [staticPod('a')],
    mirrors: [mirror('a', 'm', deleting)],
    here: ['a'],
    plan: ['delete m deleted', 'create a'],
  },
  { name: 'the manifest changed while the old pod ends', wanted: [staticPod('b')], mirrors: [mirror('a')], here: ['a', 'b'], plan: [] },
  {
    name: 'the manifest changed and the old pod has ended',
    wanted: [staticPod('b')],
    mirrors: [mirror('a')],
    here: ['b'],
    plan: ['delete m-a outdated', 'create b'],
  },
  {
    name: 'the manifest changed before the agent started',
    wanted: [staticPod('b')],
    mirrors: [mirror('a')],
    plan: ['delete m-a outdated', 'create b'],
  },
  { name: 'the manifest is gone while the pod ends', wanted: [], mirrors: [mirror('a')], here: ['a'], plan: [] },
  { name: 'the manifest is gone and the pod has ended', wanted: [], mirrors: [mirror('a')], plan: ['delete m-a orphaned'] },
  {
    name: 'an orphan that somebody deletes goes without its grace',
    wanted: [],
    mirrors: [mirror('a', 'm', deleting)],
    plan: ['delete m orphaned'],
  },
  {
    name: 'outdated and not registered: what is wrong goes all the same',
    wanted: [staticPod('b')],
    mirrors: [mirror('a')],
    unregistered: true,
    plan: ['delete m-a outdated'],
  },
  { name: 'two sources clash: the shown one stays shown', wanted: [staticPod('a'), staticPod('b')], mirrors: [mirror('b')], plan: [] },
];

describe('planMirrors', () => {
  for (const { name, wanted, mirrors, here = [], unregistered, plan } of cases)
    test(name, () => {
      const actions = planMirrors({ wanted, mirrors, isHere: (hash) => here.includes(hash), node: unregistered ? undefined : node });
      assert.deepEqual(
        actions.map((a) => (a.kind === 'createMirror' ? `create ${a.pod.metadata.uid}` : `delete ${a.mirror.metadata.uid} ${a.reason}`)),
        plan,
      );
    });

  test('what is created: the pod itself, marked and owned', () => {
    const [action] = planMirrors({ wanted: [staticPod('a')], mirrors: [], isHere: () => true, node });
    assert.ok(action?.kind === 'createMirror');
    const { metadata, spec, status } = action.pod;
    assert.equal(metadata.annotations?.['kubernetes.io/config.mirror'], 'a');
    assert.equal(metadata.annotations?.['kubernetes.io/config.hash'], 'a');
    assert.deepEqual(metadata.ownerReferences, [{ apiVersion: 'v1', kind: 'Node', name: 'n1', uid: 'node-uid', controller: true }]);
    assert.deepEqual(spec, staticPod('a').spec);
    assert.equal(status, undefined);
  });

  test('the mirror of a status: same name, same hash, not being deleted', () => {
    const good = mirror('a');
    assert.equal(mirrorOf(staticPod('a'), [mirror('b'), mirror('a', 'x', { name: 'other' }), mirror('a', 'y', deleting), good]), good);
    assert.equal(mirrorOf(staticPod('a'), [mirror('b')]), undefined);
  });
});

/** An API that holds mirrors by name; the table is what the watch tells of it, when it is told. */
function bed() {
  const api = new Map<string, AgentPod>();
  const specs = new Table<PodSpecRow>('specs');
  const mirrors = new Table<AgentPod>('mirrors');
  const nodes = new Table<AgentNode>('nodes');
  const here = new Set<string>();
  const calls: string[] = [];
  let serial = 0;
  let down = false;
  let cacheIsEmpty = false;
  let now = 0;
  const timers: { at: number; fn: () => void }[] = [];
  let reachable = (): void => undefined;
  const worker = startMirrors({
    clock: {
      ...systemClock,
      mono: () => now,
      after: (ms, fn) => {
        const timer = { at: now + ms, fn };
        timers.push(timer);
        return { [Symbol.dispose]: () => void timers.splice(timers.indexOf(timer), timers.includes(timer) ? 1 : 0) };
      },
    },
    log: silentLog,
    signal: new AbortController().signal,
    nodeName: 'n1',
    specs,
    mirrors,
    nodes,
    isHere: (uid) => here.has(uid),
    create: async (pod) => {
      if (down) throw new AgentError('Unavailable', 'down');
      calls.push('create');
      if (api.has(pod.metadata.name)) throw new AgentError('AlreadyExists', 'taken');
      api.set(pod.metadata.name, { ...pod, metadata: { ...pod.metadata, uid: `m${++serial}` } });
    },
    onReachable: (listener) => {
      reachable = listener;
      return { [Symbol.dispose]: () => undefined };
    },
    get: async (_, name) => {
      calls.push('get');
      return api.get(name)!;
    },
    delete: async (pod) => {
      if (down) throw new AgentError('Unavailable', 'down');
      calls.push('delete');
      if (cacheIsEmpty) return;
      if (api.get(pod.metadata.name)?.metadata.uid !== pod.metadata.uid) throw new AgentError('Conflict', 'another UID');
      api.delete(pod.metadata.name);
    },
  });
  const settle = async (): Promise<void> => {
    for (let i = 0; i < 50; i++) await Promise.resolve();
  };
  return {
    api,
    specs,
    mirrors,
    nodes,
    here,
    calls,
    worker,
    settle,
    setDown: (value: boolean) => {
      down = value;
      if (!down) reachable();
    },
    setCacheIsEmpty: (value: boolean) => {
      cacheIsEmpty = value;
    },
    pass: async (ms: number) => {
      now += ms;
      for (const timer of timers.filter(({ at }) => at <= now)) timer.fn();
      await settle();
    },
    told: () => mirrors.replace([...api.values()].map((m) => [m.metadata.uid, m])),
  };
}

describe('mirrors', () => {
  const registered: AgentNode = { metadata: { name: 'n1', uid: 'node-uid' } };

  test('nothing before the tables are complete, then one mirror; a watch that lags makes no second', async () => {
    const b = bed();
    b.specs.set('a', { pod: staticPod('a'), source: 'file' });
    b.nodes.set('n1', registered);
    await b.settle();
    assert.deepEqual(b.calls, []);
    b.specs.markSynced();
    b.mirrors.markSynced();
    await b.settle();
    assert.deepEqual(b.calls, ['create']);
    b.specs.set('a', { pod: staticPod('a'), source: 'file' });
    await b.settle();
    assert.deepEqual(b.calls, ['create', 'create', 'get']);
    b.told();
    await b.settle();
    assert.deepEqual(b.calls, ['create', 'create', 'get']);
    await b.worker[Symbol.asyncDispose]();
  });

  test('an edit replaces the mirror once the old pod is gone; a removal ends it', async () => {
    const b = bed();
    b.nodes.set('n1', registered);
    b.specs.set('a', { pod: staticPod('a'), source: 'file' });
    b.specs.markSynced();
    b.mirrors.markSynced();
    await b.settle();
    b.told();
    b.here.add('a');
    b.specs.replace([['b', { pod: staticPod('b'), source: 'file' }]]);
    await b.settle();
    assert.deepEqual(b.calls, ['create']);
    b.here.delete('a');
    b.worker.gone('a');
    await b.settle();
    assert.deepEqual(b.calls, ['create', 'delete', 'create']);
    assert.equal(b.api.get('web-n1')?.metadata.annotations?.['kubernetes.io/config.mirror'], 'b');
    b.told();
    b.specs.replace([]);
    await b.settle();
    assert.equal(b.api.size, 0);
    await b.worker[Symbol.asyncDispose]();
  });

  test('a deletion that the API server only seemed to make is made again', async () => {
    const b = bed();
    b.nodes.set('n1', registered);
    b.specs.set('a', { pod: staticPod('a'), source: 'file' });
    b.specs.markSynced();
    b.mirrors.markSynced();
    await b.settle();
    b.told();
    b.setCacheIsEmpty(true);
    b.specs.replace([['b', { pod: staticPod('b'), source: 'file' }]]);
    await b.settle();
    assert.deepEqual(b.calls, ['create', 'delete', 'create', 'get']);
    b.setCacheIsEmpty(false);
    await b.pass(200);
    assert.equal(b.api.get('web-n1')?.metadata.annotations?.['kubernetes.io/config.mirror'], 'b');
    b.told();
    b.setCacheIsEmpty(true);
    b.specs.replace([]);
    await b.settle();
    assert.equal(b.api.size, 1);
    b.setCacheIsEmpty(false);
    await b.pass(2000);
    assert.equal(b.api.size, 0);
    await b.worker[Symbol.asyncDispose]();
  });

  test('pods of the API are none of its business', async () => {
    const b = bed();
    b.nodes.set('n1', registered);
    b.specs.set('u', { pod: { metadata: { name: 'web-n1', namespace: 'default', uid: 'u' }, spec: { containers: [] } }, source: 'api' });
    b.specs.markSynced();
    b.mirrors.markSynced();
    await b.settle();
    assert.deepEqual(b.calls, []);
    await b.worker[Symbol.asyncDispose]();
  });

  test('an API server that was away is told as soon as it is back', async () => {
    const b = bed();
    b.setDown(true);
    b.nodes.set('n1', registered);
    b.specs.set('a', { pod: staticPod('a'), source: 'file' });
    b.specs.markSynced();
    b.mirrors.markSynced();
    await b.settle();
    assert.equal(b.api.size, 0);
    b.setDown(false);
    await b.settle();
    assert.equal(b.api.size, 1);
    await b.worker[Symbol.asyncDispose]();
  });
});
