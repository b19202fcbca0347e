import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import { type Allocation, podSize } from '../../../agent/pods/allocation.ts';
import type { PodSpecRow, PodsOptions } from '../../../agent/pods/worker.ts';
import { container, instance, pod, sandbox } from './build.ts';
import { startWorld } from './worker-world.ts';

const asking = (uid: string, milli: number, generation = 1): AgentPod =>
  pod(
    { containers: [container('a', { resources: { requests: { cpu: `${milli}m` } } })] },
    { uid, name: uid, generation },
    { phase: 'Running', qosClass: 'Burstable' },
  );

/** A node of one CPU, on which every pod runs and every call succeeds. */
function node(first: readonly AgentPod[]) {
  const wanted = (p: AgentPod): PodSpecRow => ({ pod: p, source: 'api' });
  const record = (): PodsOptions['allocated'] => {
    const rows = new Map<string, Allocation>();
    return { get: (uid) => rows.get(uid), set: (uid, a) => rows.set(uid, a), delete: (uid) => rows.delete(uid), prune: () => undefined };
  };
  const nothing = async (): Promise<void> => undefined;
  const milli = (p: AgentPod): number => podSize(p).cpuRequest;
  const at = startWorld({
    wants: first.map(wanted),
    holds: first.map(({ metadata: { uid, name, namespace } }) => ({
      uid,
      name,
      namespace,
      sandboxes: [sandbox()],
      containers: [instance('a', { id: `${uid}-a` })],
    })),
    cri: () => ({
      stopPodSandbox: nothing,
      removePodSandbox: nothing,
      stopContainer: nothing,
      removeContainer: nothing,
      updateContainerResources: nothing,
      updatePodSandboxResources: nothing,
      containerStats: async () => ({}),
    }),
    apply: () => ({
      updateCgroup: nothing,
      memoryUsage: async () => 0,
      containerResources: () => ({}),
      podResources: () => ({ overhead: {}, resources: {} }),
      removeCgroup: nothing,
      mountVolumes: nothing,
      unmountVolumes: nothing,
      removePodDir: nothing,
    }),
    options: {
      allocated: record(),
      actuated: record(),
      admit: (p, others) =>
        others.reduce((sum, o) => sum + milli(o), milli(p)) > 1000 ? { reason: 'OutOfcpu', message: 'the node is full' } : undefined,
    },
  });
  return Object.assign(at, {
    want: (p: AgentPod): void => at.specs.set(p.metadata.uid, wanted(p)),
    /** Resolves when every pod has been given this many millicores, or rejects after two seconds with what they have. */
    async given(expected: Record<string, number>): Promise<void> {
      const have = (): Record<string, number> => Object.fromEntries([...at.admitted.entries()].map(([uid, row]) => [uid, milli(row.pod)]));
      const same = (): boolean => JSON.stringify(Object.entries(have()).sort()) === JSON.stringify(Object.entries(expected).sort());
      const done = Promise.withResolvers<void>();
      const check = (): void => void (same() && done.resolve());
      using _ = at.admitted.subscribe(check);
      check();
      const over = new AbortController();
      const late = systemClock.sleep(2000, over.signal).then(
        () => assert.deepEqual(have(), expected),
        () => undefined,
      );
      await Promise.race([done.promise, late]);
      over.abort();
    },
    condition: (uid: string) => at.pods.statuses.get(uid)?.status.conditions?.find((c) => c.type === 'PodResizePending')?.reason,
  });
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

test('a generation that a restored API server has given out again may ask for something else', async () => {
  await using n = node([asking('big', 600), asking('x', 100)]);
  await n.given({ big: 600, x: 100 });
  n.want(asking('x', 5000, 2));
  await n.given({ big: 600, x: 100 });
  n.want(asking('x', 300, 2));
  await n.given({ big: 600, x: 300 });
});
