import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import type { Lease } from '../../../agent/model/generated/api.ts';
import type { AgentNode } from '../../../agent/model/pod.ts';
import { type NodeConfig, type NodeOptions, type NodeRoom, startNode } from '../../../agent/node/worker.ts';
import { config, machine, network, runtimeStatus } from './fixtures.ts';

/** The two collections that a node writes, with the merge rules of a Node's status. */
function fakeApi() {
  const watched = new Table<AgentNode>('nodes');
  watched.markSynced();
  const listeners = new Set<() => void>();
  const api = {
    watched,
    node: undefined as AgentNode | undefined,
    lease: undefined as Lease | undefined,
    calls: [] as string[],
    /** Throws or delays before a call. */
    before: (_call: string): Promise<void> | void => undefined,
    version: 1,
    set(node: AgentNode | undefined): void {
      api.node = node;
      if (node === undefined) watched.delete('n1');
      else {
        node.metadata.resourceVersion = String(++api.version);
        watched.set('n1', structuredClone(node));
      }
    },
    nowReachable(): void {
      for (const listener of listeners) listener();
    },
    client: {
      async get<T>(path: string): Promise<T> {
        await enter(`GET ${path}`);
        const found = path.includes('/leases/') ? api.lease : api.node;
        if (found === undefined) throw new AgentError('NotFound', path);
        return structuredClone(found) as T;
      },
      async create<T>(path: string, body: unknown): Promise<T> {
        await enter(`POST ${path}`);
        if (path.endsWith('/leases')) {
          api.lease = structuredClone(body) as Lease;
          return structuredClone(api.lease) as T;
        }
        if (api.node !== undefined) throw new AgentError('AlreadyExists', path);
        const node = structuredClone(body) as AgentNode;
        node.metadata.uid = `uid-${++api.version}`;
        api.set(node);
        return structuredClone(api.node) as T;
      },
      async replace<T>(path: string, body: unknown): Promise<T> {
        await enter(`PUT ${path}`);
        if (api.lease === undefined) throw new AgentError('NotFound', path);
        const lease = structuredClone(body) as Lease;
        if (lease.metadata?.resourceVersion !== api.lease.metadata?.resourceVersion) throw new AgentError('Conflict', path);
        lease.metadata = { ...lease.metadata, resourceVersion: String(++api.version) };
        api.lease = lease;
        return structuredClone(api.lease) as T;
      },
      async patch<T>(path: string, body: unknown): Promise<T> {
        await enter(`PATCH ${path}`);
        if (api.node === undefined) throw new AgentError('NotFound', path);
        const patch = structuredClone(body) as { metadata?: object; status?: Record<string, unknown> };
        const node = structuredClone(api.node);
        merge(node.metadata as unknown as Record<string, unknown>, patch.metadata ?? {});
        const { conditions, addresses, ...rest } = patch.status ?? {};
        node.status ??= {};
        merge(node.status as Record<string, unknown>, rest);
        for (const change of (conditions ?? []) as { type: string; status: string }[]) {
          node.status.conditions ??= [];
          const old = node.status.conditions.find((c) => c.type === change.type);
          if (old === undefined) node.status.conditions.push(change);
          else Object.assign(old, change);
        }
        if (addresses !== undefined) node.status.addresses = (addresses as never[]).slice(0, -1);
        api.set(node);
        return structuredClone(api.node) as T;
      },
      noteRestored: () => void api.calls.push('restored'),
      onReachable(listener: () => void): Disposable {
        listeners.add(listener);
        return { [Symbol.dispose]: () => void listeners.delete(listener) };
      },
    },
  };
  async function enter(call: string): Promise<void> {
    api.calls.push(call);
    await api.before(call);
  }
  function merge(into: Record<string, unknown>, patch: object): void {
    for (const [key, value] of Object.entries(patch)) {
      if (value === null) delete into[key];
      else if (typeof value === 'object' && !Array.isArray(value)) {
        into[key] ??= {};
        merge(into[key] as Record<string, unknown>, value);
      } else into[key] = value;
    }
  }
  return api;
}

interface Running {
  readonly room: NodeRoom;
  readonly events: string[];
  readonly cidrs: string[];
}

/** Starts a room on a fake API with short rounds. */
function start(api: ReturnType<typeof fakeApi>, change: Partial<NodeConfig> = {}, options: Partial<NodeOptions> = {}): Running {
  const events: string[] = [];
  const cidrs: string[] = [];
  const settings = {
    ...config,
    nodeStatusUpdateFrequencyMs: 20,
    nodeStatusReportFrequencyMs: 60_000,
    nodeLeaseDurationSeconds: 0.08,
    ...change,
  };
  const room = startNode({
    client: api.client,
    watched: api.watched,
    config: () => settings,
    clock: systemClock,
    log: silentLog,
    signal: new AbortController().signal,
    machine: async () => machine,
    network: async () => network,
    resolve: async () => [],
    runtime: async () => ({ name: 'containerd', version: 'v2.1.9', status: runtimeStatus() }),
    listImages: async () => [],
    updatePodCidr: async (value) => void cidrs.push(value),
    event: (event) => void events.push(event.reason),
    random: () => 0.5,
    ...options,
  });
  return { room, events, cidrs };
}

/** Waits until a state is reached, or fails after 2 s. */
async function until(what: string, holds: () => boolean): Promise<void> {
  const signal = AbortSignal.timeout(2000);
  while (!holds()) {
    if (signal.aborted) assert.fail(`not reached: ${what}`);
    await systemClock.sleep(2, new AbortController().signal);
  }
}

const ready = (api: ReturnType<typeof fakeApi>): string | undefined =>
  api.node?.status?.conditions?.find((c) => c.type === 'Ready')?.status;

test('a fresh node registers, becomes ready and holds its lease', async () => {
  const api = fakeApi();
  const { room, events } = start(api);
  await using _ = room;
  await until('ready', () => ready(api) === 'True');
  assert.equal(room.standing.kind, 'registered');
  assert.equal(api.calls.filter((call) => call === 'POST /api/v1/nodes').length, 1);
  assert.ok(events.includes('Starting'));
  assert.ok(events.includes('NodeHasSufficientMemory'));
  await until('a lease', () => api.lease !== undefined);
  assert.equal(api.lease?.metadata?.ownerReferences?.[0]?.uid, api.node?.metadata.uid);
  const first = api.lease?.spec?.renewTime;
  await until('a renewal', () => api.lease?.spec?.renewTime !== first);
});

test('nothing changed: nothing is sent', async () => {
  const api = fakeApi();
  const { room } = start(api);
  await using _ = room;
  await until('ready', () => ready(api) === 'True');
  await systemClock.sleep(60, new AbortController().signal);
  const patches = (): number => api.calls.filter((call) => call.startsWith('PATCH')).length;
  const before = patches();
  await systemClock.sleep(100, new AbortController().signal);
  assert.equal(patches(), before);
});

test('a heartbeat is sent when its time has come', async () => {
  const api = fakeApi();
  const { room } = start(api, { nodeStatusReportFrequencyMs: 50 });
  await using _ = room;
  await until('ready', () => ready(api) === 'True');
  const patches = (): number => api.calls.filter((call) => call.startsWith('PATCH')).length;
  const before = patches();
  // Timestamps have whole seconds: a patch needs the second to change.
  await until('heartbeat', () => patches() > before);
});

test('registration is tried until it succeeds', async () => {
  const api = fakeApi();
  let failures = 2;
  api.before = (call) => {
    if (call.startsWith('POST /api/v1/nodes') && failures-- > 0) throw new AgentError('Unavailable', 'no server');
  };
  const { room } = start(api);
  await using _ = room;
  await room.known;
  assert.equal(room.node()?.metadata.name, 'n1');
  await until('registered', () => room.standing.kind === 'registered');
});

test('a server that is back is tried at once', async () => {
  const api = fakeApi();
  let down = true;
  api.before = () => {
    if (down) throw new AgentError('Unavailable', 'no server');
  };
  const { room } = start(api);
  await using _ = room;
  await until('several failures', () => room.standing.kind === 'registering' && room.standing.failures >= 3);
  down = false;
  api.nowReachable();
  await until('registered', () => room.standing.kind === 'registered');
});

test('an existing Node is reconciled, not made again, and its readiness does not flip', async () => {
  const api = fakeApi();
  const first = start(api);
  await until('ready', () => ready(api) === 'True');
  await first.room[Symbol.asyncDispose]();
  const transition = api.node?.status?.conditions?.find((c) => c.type === 'Ready')?.lastTransitionTime;
  api.set({ ...(api.node as AgentNode), metadata: { ...(api.node as AgentNode).metadata, labels: { keep: 'me' } } });
  const seen: (string | undefined)[] = [];
  using _watching = api.watched.subscribe(() => seen.push(ready(api)));
  const { room, events } = start(api);
  await using _ = room;
  await until('labels are back', () => api.node?.metadata.labels?.['kubernetes.io/arch'] === 'amd64');
  assert.equal(api.node?.metadata.labels?.keep, 'me');
  await systemClock.sleep(60, new AbortController().signal);
  assert.ok(!events.includes('NodeNotReady'), events.join());
  assert.deepEqual([...new Set(seen)], ['True']);
  assert.equal(api.node?.status?.conditions?.find((c) => c.type === 'Ready')?.lastTransitionTime, transition);
});

test('a deleted Node is not registered again', async () => {
  const api = fakeApi();
  const { room } = start(api);
  await using _ = room;
  await until('ready', () => ready(api) === 'True');
  api.set(undefined);
  await until('noticed', () => room.standing.kind === 'deleted');
  assert.match(room.standing.kind === 'deleted' ? room.standing.message : '', /registered again when the agent restarts/);
  const before = api.calls.length;
  await systemClock.sleep(60, new AbortController().signal);
  assert.deepEqual(
    api.calls.slice(before).filter((call) => call.includes('/nodes')),
    [],
  );
  assert.equal(room.node()?.metadata.name, 'n1');
});

test('the runtime is told the pods’ range once it is assigned', async () => {
  const api = fakeApi();
  const { room, cidrs } = start(api);
  await using _ = room;
  await until('ready', () => ready(api) === 'True');
  api.set({ ...(api.node as AgentNode), spec: { podCIDR: '10.1.0.0/24', podCIDRs: ['10.1.0.0/24', 'fd00:1::/64'] } });
  await until('told', () => cidrs.length > 0);
  await systemClock.sleep(50, new AbortController().signal);
  assert.deepEqual(cidrs, ['10.1.0.0/24,fd00:1::/64']);
});

test('a status call that hangs does not stop the lease', async () => {
  const api = fakeApi();
  const { room } = start(api);
  await using _ = room;
  await until('lease', () => api.lease !== undefined);
  const hang = Promise.withResolvers<void>();
  api.before = (call) => (call.startsWith('PATCH') ? hang.promise : undefined);
  room.refresh();
  const first = api.lease?.spec?.renewTime;
  await until('renewed', () => api.lease?.spec?.renewTime !== first);
  hang.resolve();
});

test('a lease that someone removed is made again', async () => {
  const api = fakeApi();
  const { room } = start(api);
  await using _ = room;
  await until('lease', () => api.lease !== undefined);
  api.lease = undefined;
  await until('lease again', () => api.lease !== undefined);
});

test('pressure is told at once', async () => {
  const api = fakeApi();
  let memory = false;
  const { room } = start(api, { nodeStatusUpdateFrequencyMs: 60_000 }, { pressure: () => ({ memory, disk: false, pid: false }) });
  await using _ = room;
  await until('ready', () => ready(api) === 'True');
  memory = true;
  room.refresh();
  await until('pressure', () => api.node?.status?.conditions?.find((c) => c.type === 'MemoryPressure')?.status === 'True');
});

test('a cordon is an event', async () => {
  const api = fakeApi();
  const { room, events } = start(api);
  await using _ = room;
  await until('ready', () => ready(api) === 'True');
  api.set({ ...(api.node as AgentNode), spec: { unschedulable: true } });
  await until('event', () => events.includes('NodeNotSchedulable'));
});

test('standalone: a Node in memory, no calls', async () => {
  const api = fakeApi();
  const { room, cidrs } = start(api, { podCidr: '10.9.0.0/24' }, { client: undefined, watched: undefined });
  await using _ = room;
  const node = await room.known;
  assert.equal(node.metadata.name, 'n1');
  await until('ready', () => room.nodes.get('n1')?.status?.conditions?.find((c) => c.type === 'Ready')?.status === 'True');
  assert.equal(room.standing.kind, 'standalone');
  assert.ok(room.nodes.synced);
  await until('told', () => cidrs.length > 0);
  assert.deepEqual(cidrs, ['10.9.0.0/24']);
  assert.deepEqual(api.calls, []);
});

test('a server restored to an older state: its Node counts, and is brought up to date', async () => {
  const api = fakeApi();
  const { room } = start(api);
  await using _ = room;
  await until('ready', () => ready(api) === 'True');
  await until('the watch shows it', () => api.watched.get('n1')?.metadata.resourceVersion === api.node?.metadata.resourceVersion);
  const old = structuredClone(api.node as AgentNode);
  // Many changes later; the snapshot was taken when the node was not ready, and had a label.
  for (let i = 0; i < 5; i++) api.set(structuredClone(api.node as AgentNode));
  await until('the room knows', () => room.node()?.metadata.resourceVersion === api.node?.metadata.resourceVersion);
  api.version = 1;
  old.metadata.labels = { ...old.metadata.labels, keep: 'me' };
  for (const condition of old.status?.conditions ?? []) if (condition.type === 'Ready') condition.status = 'False';
  api.set(old);
  await until('ready again', () => ready(api) === 'True');
  await until('the label is known', () => room.node()?.metadata.labels?.keep === 'me');
  assert.equal(api.node?.metadata.labels?.keep, 'me');
});

test('what is read for an admission is known at once, and never goes back in time', async () => {
  const api = fakeApi();
  const { room } = start(api, { nodeStatusUpdateFrequencyMs: 60_000 });
  await using _ = room;
  await until('ready', () => ready(api) === 'True');
  const signal = new AbortController().signal;
  api.node = {
    ...(api.node as AgentNode),
    metadata: { ...(api.node as AgentNode).metadata, labels: { fresh: 'yes' }, resourceVersion: '900' },
  };
  await room.read(signal);
  assert.equal(room.node()?.metadata.labels?.fresh, 'yes');
  // The watch lags.
  api.watched.set('n1', { ...api.node, metadata: { ...api.node.metadata, labels: {}, resourceVersion: '899' } });
  assert.equal(room.node()?.metadata.labels?.fresh, 'yes');
});

test('a lease that has become older tells that the server was restored, once', async () => {
  const api = fakeApi();
  const { room } = start(api);
  await using _ = room;
  const version = (): number => Number(api.lease?.metadata?.resourceVersion ?? 0);
  await until('renewed', () => version() > 0);
  const old = structuredClone(api.lease as Lease);
  const first = version();
  await until('renewed again', () => version() > first);
  assert.ok(!api.calls.includes('restored'));
  api.lease = old;
  api.version = first;
  await until('told', () => api.calls.includes('restored'));
  await until('renewed from there', () => version() > first);
  await systemClock.sleep(100, new AbortController().signal);
  assert.equal(api.calls.filter((call) => call === 'restored').length, 1);
});
