import assert from 'node:assert/strict';
import { test } from 'node:test';
import { configFirstSeenAnnotation } from '../../../agent/model/pod.ts';
import type { Occurrence } from '../../../agent/pods/apply.ts';
import type { PodSpecRow } from '../../../agent/pods/worker.ts';
import { instance, pod, runtimePod, sandbox } from './build.ts';
import { exitAll, startWorld, stopSandboxes } from './worker-world.ts';

const seenAt = (time: string): PodSpecRow => ({ pod: pod({}, { annotations: { [configFirstSeenAnnotation]: time } }), source: 'file' });
const nothing = async (): Promise<void> => undefined;

/** A static pod that runs; `stopped` resolves when its container is told to stop, `begun` when a pod is prepared anew after that. */
function world() {
  const stopped = Promise.withResolvers<void>();
  const release = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  const counted: Occurrence[] = [];
  const at = startWorld({
    wants: [seenAt('first')],
    holds: [runtimePod([sandbox()], [instance('a')])],
    cri: (w) => ({
      stopPodSandbox: async () => stopSandboxes(w, 'u1'),
      removePodSandbox: nothing,
      stopContainer: async () => {
        stopped.resolve();
        await release.promise;
        exitAll(w, 'u1');
      },
      removeContainer: nothing,
    }),
    apply: ({ runtime }) => ({
      count: (what) => void counted.push(what),
      ensureCgroup: async () => {
        if (runtime.get('u1')?.containers[0]?.state === 'exited') begun.resolve();
      },
      removeCgroup: nothing,
      mountVolumes: nothing,
      unmountVolumes: nothing,
      removePodDir: nothing,
    }),
  });
  return {
    specs: at.specs,
    pods: at.pods,
    counted,
    stopped: stopped.promise,
    release: release.resolve,
    begun: begun.promise,
    /** Resolves when the pod has a status. */
    async shown() {
      const first = Promise.withResolvers<void>();
      using _ = at.pods.statuses.subscribe(() => first.resolve());
      if (!at.pods.statuses.has('u1')) await first.promise;
    },
    async [Symbol.asyncDispose]() {
      release.resolve();
      await at[Symbol.asyncDispose]();
    },
  };
}

for (const [name, known] of [
  ['a manifest that is put back while its pod ends begins a second life', true],
  ['so does one whose pod an earlier agent has left running', false],
] as const)
  test(name, { timeout: 5000 }, async () => {
    await using at = world();
    if (known) await at.shown();
    at.specs.delete('u1');
    await at.stopped;
    at.specs.set('u1', seenAt('second'));
    at.release();
    await at.begun;
    assert.equal(at.pods.activity('u1')?.lifecycle, 'syncing');
  });

test('one that was gone for a moment nobody noticed, too', { timeout: 5000 }, async () => {
  await using at = world();
  await at.shown();
  at.specs.set('u1', seenAt('second'));
  await at.stopped;
  at.release();
  await at.begun;
  assert.equal(at.pods.activity('u1')?.lifecycle, 'syncing');
  assert.deepEqual(
    at.counted.filter(({ kind }) => kind === 'returned'),
    [{ kind: 'returned', isStatic: true }],
  );
});
