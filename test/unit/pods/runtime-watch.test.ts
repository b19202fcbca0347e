import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import { createLastWords } from '../../../agent/cli/wiring/last-words.ts';
import { openMounts } from '../../../agent/drivers/mounts/mounts.ts';
import type { RuntimePod } from '../../../agent/pods/observed.ts';
import { type RuntimeView, watchRuntime } from '../../../agent/pods/runtime-watch.ts';
import type { ContainerEventResponse, ContainerStatus } from '../../../cri-protos/generated/cri.ts';

const labels = { 'io.kubernetes.pod.uid': 'u1', 'io.kubernetes.pod.name': 'web', 'io.kubernetes.pod.namespace': 'default' };
type Held = {
  sandboxes: Set<string>;
  containers: Map<string, 'CONTAINER_CREATED' | 'CONTAINER_RUNNING' | 'CONTAINER_EXITED'>;
  /** Why containers that have exited did. */
  reason: string;
  /** What else their status says. */
  more: Partial<ContainerStatus>;
};

/** A runtime that holds what the test says, counts its calls, and answers lists when the test lets it. */
function fakeRuntime() {
  const held: Held = { sandboxes: new Set(), containers: new Map(), reason: 'Error', more: {} };
  const calls: string[] = [];
  let gate: Promise<void> = Promise.resolve();
  let next = Promise.withResolvers<ContainerEventResponse>();
  const lists = async <T>(name: string, answer: () => T): Promise<T> => {
    calls.push(name);
    // What is answered is how it was when the call came.
    const value = answer();
    await gate;
    return value;
  };
  const cri: RuntimeView = {
    listPodSandbox: () =>
      lists('sandboxes', () => ({ items: [...held.sandboxes].map((id) => ({ id, state: 'SANDBOX_READY' as const, labels })) })),
    listContainers: () =>
      lists('containers', () => ({
        containers: [...held.containers].map(([id, state]) => ({ id, state, pod_sandbox_id: 's1', metadata: { name: id }, labels })),
      })),
    async podSandboxStatus({ pod_sandbox_id }) {
      calls.push(`sandbox ${pod_sandbox_id}`);
      if (!held.sandboxes.has(pod_sandbox_id)) throw new AgentError('NotFound', pod_sandbox_id);
      return { status: { id: pod_sandbox_id, state: 'SANDBOX_READY', network: { ip: '10.0.0.9' }, labels } };
    },
    async containerStatus({ container_id }) {
      calls.push(`container ${container_id}`);
      const state = held.containers.get(container_id);
      if (state === undefined) throw new AgentError('NotFound', container_id);
      const end = state === 'CONTAINER_EXITED' ? { exit_code: 137, reason: held.reason, finished_at: systemClock.wall() * 1e6 } : {};
      return { status: { id: container_id, state, metadata: { name: container_id }, labels, ...end, ...held.more } };
    },
    async *containerEvents(signal) {
      signal.addEventListener('abort', () => next.reject(signal.reason), { once: true });
      for (;;) {
        yield await next.promise;
      }
    },
  };
  return {
    cri,
    held,
    calls,
    /** Lists called from now on wait for what this returns to be called. */
    hold(): () => void {
      const { promise, resolve } = Promise.withResolvers<void>();
      gate = promise;
      return () => {
        gate = Promise.resolve();
        resolve();
      };
    },
    tell(container_event_type: NonNullable<ContainerEventResponse['container_event_type']>, container_id: string): void {
      const { resolve } = next;
      next = Promise.withResolvers();
      resolve({ container_event_type, container_id, pod_sandbox_status: { metadata: { uid: 'u1' } } });
    },
  };
}

const lastWords = createLastWords('/none', openMounts());

async function watching() {
  const runtime = fakeRuntime();
  const table = new Table<RuntimePod>('runtime');
  const controller = new AbortController();
  const synced = new Promise<void>((resolve) => table.onSynced(resolve));
  const common = {
    lastWords,
    clock: systemClock,
    log: silentLog,
    signal: controller.signal,
    auditIntervalMs: 60_000,
    relistIntervalMs: 60_000,
  };
  const unseen: string[] = [];
  const watch = watchRuntime({ ...common, cri: runtime.cri, table, unseen: (uid, error) => void unseen.push(`${uid} ${error}`) });
  await synced;
  runtime.calls.length = 0;
  const row = (): string => {
    const pod = table.get('u1');
    return [...(pod?.sandboxes ?? []).map((s) => s.id), ...(pod?.containers ?? []).map((c) => `${c.id} ${c.state}`)].toSorted().join(', ');
  };
  const quiet = (): Promise<void> => systemClock.sleep(60, controller.signal);
  return {
    ...runtime,
    table,
    watch,
    unseen,
    row,
    quiet,
    signal: controller.signal,
    [Symbol.asyncDispose]: () => watch[Symbol.asyncDispose](),
  };
}

test('what has just been made costs one call each', async () => {
  await using w = await watching();
  w.held.sandboxes.add('s1');
  await w.watch.observe('u1', w.signal, { sandboxId: 's1' });
  assert.equal(w.row(), 's1');
  w.held.containers.set('c1', 'CONTAINER_RUNNING');
  await w.watch.observe('u1', w.signal, { sandboxId: 's1', containerId: 'c1' });
  assert.equal(w.row(), 'c1 running, s1');
  assert.deepEqual(w.calls, ['sandbox s1', 'container c1']);
});

test('whoever is told of a pod that the runtime cannot tell about learns why', async () => {
  await using w = await watching();
  w.held.sandboxes.add('s1');
  w.cri.podSandboxStatus = async () => {
    throw new AgentError('Internal', 'no such shim');
  };
  w.tell('CONTAINER_STOPPED_EVENT', 's1');
  await w.quiet();
  assert.deepEqual(w.unseen, ['u1 AgentError: no such shim']);
});

test('what was made and is gone again makes a look at the whole', async () => {
  await using w = await watching();
  w.held.sandboxes.add('s1');
  await w.watch.observe('u1', w.signal, { sandboxId: 's1', containerId: 'c1' });
  assert.equal(w.row(), 's1');
});

test('a look at the whole that a look at a part has overtaken is done again', async () => {
  await using w = await watching();
  w.held.sandboxes.add('s1');
  w.held.containers.set('c1', 'CONTAINER_RUNNING');
  const letGo = w.hold();
  const whole = w.watch.observe('u1', w.signal);
  w.held.containers.set('c2', 'CONTAINER_RUNNING');
  await w.watch.observe('u1', w.signal, { sandboxId: 's1', containerId: 'c2' });
  assert.equal(w.row(), 'c2 running');
  letGo();
  await whole;
  assert.equal(w.row(), 'c1 running, c2 running, s1');
});

// Events: which of them make a look.
const table: [string, (held: Held) => void, NonNullable<ContainerEventResponse['container_event_type']>, string, boolean][] = [
  ['a creation', (h) => h.containers.set('c2', 'CONTAINER_CREATED'), 'CONTAINER_CREATED_EVENT', 'c2', false],
  ['a start that is known', () => undefined, 'CONTAINER_STARTED_EVENT', 'c1', false],
  ["a sandbox's start that is known", () => undefined, 'CONTAINER_STARTED_EVENT', 's1', false],
  ['a start that is not known', (h) => h.containers.set('c2', 'CONTAINER_RUNNING'), 'CONTAINER_STARTED_EVENT', 'c2', true],
  ['an end', (h) => h.containers.delete('c1'), 'CONTAINER_STOPPED_EVENT', 'c1', true],
];

for (const [name, change, type, id, looks] of table) {
  test(`event of ${name}: ${looks ? 'a look' : 'no look'}`, async () => {
    await using w = await watching();
    w.held.sandboxes.add('s1');
    w.held.containers.set('c1', 'CONTAINER_RUNNING');
    await w.watch.observe('u1', w.signal);
    w.calls.length = 0;
    change(w.held);
    w.tell(type, id);
    await w.quiet();
    assert.equal(w.calls.includes('containers'), looks);
  });
}

test('why a container was killed may be known a moment after its end', { timeout: 10_000 }, async () => {
  await using at = await watching();
  at.held.sandboxes.add('s1');
  at.held.containers.set('c1', 'CONTAINER_EXITED');
  await at.watch.observe('u1', at.signal);
  assert.equal(at.table.get('u1')?.containers[0]?.reason, 'Error');
  at.held.reason = 'OOMKilled';
  const told = Promise.withResolvers<void>();
  using _ = at.table.subscribe(() => told.resolve());
  await told.promise;
  assert.equal(at.table.get('u1')?.containers[0]?.reason, 'OOMKilled');
  const asked = at.calls.length;
  await at.watch.observe('u1', at.signal);
  assert.deepEqual(at.calls.slice(asked), ['sandboxes', 'containers'], 'and then it is not asked again');
});

const words: [path: string, mountedAt: string, message: string][] = [
  ['/dev/log', '/dev/log', 'good bye'],
  ['a path without a leading slash', '/a path without a leading slash', 'good bye'],
  ['/elsewhere', '/dev/log', ''],
];
for (const [path, mountedAt, message] of words) {
  test(`last words at ${path}`, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'runtime-watch-'));
    try {
      writeFileSync(join(folder, 'words'), 'good bye');
      await using w = await watching();
      w.held.sandboxes.add('s1');
      w.held.containers.set('c1', 'CONTAINER_EXITED');
      w.held.more = {
        annotations: { 'io.kubernetes.container.terminationMessagePath': path },
        mounts: [{ container_path: mountedAt, host_path: join(folder, 'words') }],
      };
      await w.watch.observe('u1', w.signal);
      assert.equal(w.table.get('u1')?.containers[0]?.message, message);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}
