import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import { type Allocation, podSize } from '../../../agent/pods/allocation.ts';
import type { Ending } from '../../../agent/pods/lifecycle.ts';
import type { RuntimePod } from '../../../agent/pods/observed.ts';
import { type PodSpecRow, type PodsOptions, startPods } from '../../../agent/pods/worker.ts';
import { container, instance, pod, sandbox } from './build.ts';

const asking = (uid: string, milli: number, generation = 1): AgentPod =>
  pod(
    { containers: [container('a', { resources: { requests: { cpu: `${milli}m` } } })] },
    { uid, name: uid, generation },
    { phase: 'Running', qosClass: 'Burstable' },
  );

/** A pods worker on a node of one CPU, over a runtime in which every pod runs and every call succeeds. */
function node(first: readonly AgentPod[]) {
  const specs = new Table<PodSpecRow>('specs');
  const runtime = new Table<RuntimePod>('runtime');
  const admitted = new Table<PodSpecRow>('admitted');
  const want = (p: AgentPod): void => specs.set(p.metadata.uid, { pod: p, source: 'api' });
  for (const p of first) {
    const { uid, name, namespace } = p.metadata;
    runtime.set(uid, { uid, name, namespace, sandboxes: [sandbox()], containers: [instance('a', { id: `${uid}-a` })] });
    want(p);
  }
  const record = (): PodsOptions['allocated'] => {
    const rows = new Map<string, Allocation>();
    return { get: (uid) => rows.get(uid), set: (uid, a) => rows.set(uid, a), delete: (uid) => rows.delete(uid), prune: () => undefined };
  };
  const nothing = async (): Promise<void> => undefined;
  const never = (): never => {
    throw new AgentError('Internal', 'nothing is to be started');
  };
  const controller = new AbortController();
  const milli = (p: AgentPod): number => podSize(p).cpuRequest;
  const resized: string[] = [];
  const pods = startPods({
    clock: systemClock,
    log: silentLog,
    signal: controller.signal,
    specs,
    runtime,
    admitted,
    allocated: record(),
    actuated: record(),
    swaps: () => false,
    verdicts: new Table('verdicts'),
    endings: new Table<Ending>('endings'),
    observe: nothing,
    apply: {
      cri: {
        runPodSandbox: never,
        createContainer: never,
        startContainer: never,
        execSync: never,
        stopPodSandbox: nothing,
        removePodSandbox: nothing,
        stopContainer: nothing,
        removeContainer: nothing,
        updateContainerResources: async ({ container_id }) => void resized.push(container_id),
        updatePodSandboxResources: nothing,
        containerStats: async () => ({}),
      },
      clock: systemClock,
      recordEvent: () => undefined,
      podLogsDir: '/nonexistent',
      containerLogsDir: '/nonexistent',
      podDir: () => '/nonexistent',
      ensureCgroup: never,
      updateCgroup: nothing,
      memoryUsage: async () => 0,
      containerResources: () => ({}),
      podResources: () => ({ overhead: {}, resources: {} }),
      removeCgroup: nothing,
      mountVolumes: nothing,
      unmountVolumes: nothing,
      removePodDir: nothing,
      runtimeHandler: never,
      sandboxConfig: never,
      ensureImage: never,
      containerConfig: never,
    },
    admit: (p, others) =>
      others.reduce((sum, o) => sum + milli(o), milli(p)) > 1000 ? { reason: 'OutOfcpu', message: 'the node is full' } : undefined,
    preempt: () => undefined,
    networkProblem: () => undefined,
    hostIps: () => [],
    runtimeName: 'containerd',
    crashPolicy: { initialMs: 1, maxMs: 1 },
    remembered: () => undefined,
    remember: () => undefined,
    forgotten: () => undefined,
    leftovers: async () => [],
  });
  specs.markSynced();
  runtime.markSynced();
  return {
    specs,
    runtime,
    want,
    resized,
    /** Resolves when every pod has been given this many millicores, or rejects after two seconds with what they have. */
    async given(expected: Record<string, number>): Promise<void> {
      const have = (): Record<string, number> => Object.fromEntries([...admitted.entries()].map(([uid, row]) => [uid, milli(row.pod)]));
      const same = (): boolean => JSON.stringify(Object.entries(have()).sort()) === JSON.stringify(Object.entries(expected).sort());
      const done = Promise.withResolvers<void>();
      const check = (): void => void (same() && done.resolve());
      using _ = admitted.subscribe(check);
      check();
      const late = systemClock.sleep(2000, controller.signal).then(() => assert.deepEqual(have(), expected));
      await Promise.race([done.promise, late]);
    },
    condition: (uid: string) => pods.statuses.get(uid)?.status.conditions?.find((c) => c.type === 'PodResizePending')?.reason,
    async [Symbol.asyncDispose]() {
      controller.abort(new Error('test over'));
      await pods[Symbol.asyncDispose]();
    },
  };
}

test('of two resizes that wait for the same room one is given it, the more important one', async () => {
  await using n = node([asking('big', 600), asking('x', 100), asking('y', 100)]);
  await n.given({ big: 600, x: 100, y: 100 });
  const important = asking('y', 700, 2);
  n.want(asking('x', 700, 2));
  n.want({ ...important, spec: { ...important.spec, priority: 10 } });
  await n.given({ big: 600, x: 100, y: 100 });
  n.specs.delete('big');
  n.runtime.delete('big');
  await n.given({ x: 100, y: 700 });
  assert.equal(n.condition('x'), 'Deferred');
  assert.equal(n.condition('y'), undefined);
});

test('one that shrinks makes room for one that waits', async () => {
  await using n = node([asking('big', 800), asking('x', 100)]);
  await n.given({ big: 800, x: 100 });
  n.want(asking('x', 500, 2));
  await n.given({ big: 800, x: 100 });
  n.want(asking('big', 200, 2));
  await n.given({ big: 200, x: 500 });
});
