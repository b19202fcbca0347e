import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import { configFirstSeenAnnotation } from '../../../agent/model/pod.ts';
import type { Ending } from '../../../agent/pods/lifecycle.ts';
import type { RuntimePod } from '../../../agent/pods/observed.ts';
import { type PodSpecRow, type PodsOptions, startPods } from '../../../agent/pods/worker.ts';
import { instance, pod, runtimePod, sandbox } from './build.ts';

const folder = mkdtempSync(join(tmpdir(), 'returning-'));
after(() => rmSync(folder, { recursive: true }));

const seenAt = (time: string): PodSpecRow => ({ pod: pod({}, { annotations: { [configFirstSeenAnnotation]: time } }), source: 'file' });

/** A pods worker over a static pod that runs; `stopped` resolves when its container is told to stop, `begun` when a pod is prepared anew after that. */
function world() {
  const runtime = new Table<RuntimePod>('runtime');
  runtime.set('u1', runtimePod([sandbox()], [instance('a')]));
  runtime.markSynced();
  const specs = new Table<PodSpecRow>('specs');
  specs.set('u1', seenAt('first'));
  specs.markSynced();
  const stopped = Promise.withResolvers<void>();
  const release = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  const never = (): never => {
    throw new AgentError('Internal', 'not in this story');
  };
  const nothing = { get: () => undefined, set: () => undefined, delete: () => undefined, prune: () => undefined };
  const apply: PodsOptions['apply'] = {
    cri: {
      runPodSandbox: never,
      createContainer: never,
      startContainer: never,
      execSync: never,
      stopPodSandbox: async () => {
        const one = runtime.get('u1');
        if (one !== undefined) runtime.set('u1', { ...one, sandboxes: one.sandboxes.map((s) => ({ ...s, ready: false })) });
      },
      removePodSandbox: async () => undefined,
      stopContainer: async () => {
        stopped.resolve();
        await release.promise;
        const one = runtime.get('u1');
        if (one !== undefined) runtime.set('u1', { ...one, containers: one.containers.map((c) => ({ ...c, state: 'exited' as const })) });
      },
      removeContainer: async () => undefined,
      updateContainerResources: never,
      updatePodSandboxResources: never,
      containerStats: never,
    },
    clock: systemClock,
    recordEvent: () => undefined,
    podLogsDir: join(folder, 'logs'),
    containerLogsDir: join(folder, 'links'),
    podDir: (uid) => join(folder, uid),
    ensureCgroup: async () => {
      if (runtime.get('u1')?.containers[0]?.state === 'exited') begun.resolve();
    },
    updateCgroup: never,
    memoryUsage: never,
    containerResources: never,
    podResources: never,
    removeCgroup: async () => undefined,
    mountVolumes: async () => undefined,
    unmountVolumes: async () => undefined,
    removePodDir: async () => undefined,
    runtimeHandler: never,
    sandboxConfig: never,
    ensureImage: never,
    containerConfig: never,
  };
  const controller = new AbortController();
  const pods = startPods({
    clock: systemClock,
    log: silentLog,
    signal: controller.signal,
    specs,
    runtime,
    verdicts: new Table('verdicts'),
    endings: new Table<Ending>('endings'),
    observe: async () => undefined,
    admitted: new Table('admitted'),
    allocated: nothing,
    actuated: nothing,
    swaps: () => false,
    apply,
    admit: () => undefined,
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
  return {
    specs,
    pods,
    stopped: stopped.promise,
    release: release.resolve,
    begun: begun.promise,
    /** Resolves when the pod has a status. */
    async shown() {
      const first = Promise.withResolvers<void>();
      using _ = pods.statuses.subscribe(() => first.resolve());
      if (!pods.statuses.has('u1')) await first.promise;
    },
    async [Symbol.asyncDispose]() {
      release.resolve();
      controller.abort(new Error('test over'));
      await pods[Symbol.asyncDispose]();
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
});
