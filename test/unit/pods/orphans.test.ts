import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import type { Ending } from '../../../agent/pods/lifecycle.ts';
import type { RuntimePod } from '../../../agent/pods/observed.ts';
import { type PodSpecRow, type PodsOptions, startPods } from '../../../agent/pods/worker.ts';
import { instance, runtimePod, sandbox } from './build.ts';

const folder = mkdtempSync(join(tmpdir(), 'orphans-'));
after(() => rmSync(folder, { recursive: true }));

/** A pods worker over tables that say that everything has been looked at, and no source wants anything. */
function unwanted(found: RuntimePod | undefined, leftOnDisk: readonly { uid: string; namespace: string; name: string }[]) {
  const runtime = new Table<RuntimePod>('runtime');
  if (found !== undefined) runtime.set(found.uid, found);
  runtime.markSynced();
  const specs = new Table<PodSpecRow>('specs');
  specs.markSynced();
  const done: string[] = [];
  const forgotten = Promise.withResolvers<string>();
  const controller = new AbortController();
  const note = (what: string) => async () => void done.push(what);
  const never = (): never => {
    throw new AgentError('Internal', 'nothing of this pod is to be started');
  };
  const nothing = { get: () => undefined, set: () => undefined, delete: () => undefined, prune: () => undefined };
  const apply: PodsOptions['apply'] = {
    cri: {
      runPodSandbox: never,
      createContainer: never,
      startContainer: never,
      execSync: never,
      stopPodSandbox: async () => {
        done.push('stopPodSandbox');
        const pod = runtime.get('u1');
        if (pod !== undefined) runtime.set('u1', { ...pod, sandboxes: pod.sandboxes.map((s) => ({ ...s, ready: false })) });
      },
      removePodSandbox: note('removePodSandbox'),
      stopContainer: async () => {
        done.push('stopContainer');
        const pod = runtime.get('u1');
        if (pod !== undefined) runtime.set('u1', { ...pod, containers: pod.containers.map((c) => ({ ...c, state: 'exited' as const })) });
      },
      removeContainer: note('removeContainer'),
      updateContainerResources: never,
      updatePodSandboxResources: never,
      containerStats: never,
    },
    clock: systemClock,
    recordEvent: () => undefined,
    podLogsDir: join(folder, 'logs'),
    containerLogsDir: join(folder, 'links'),
    podDir: (uid) => join(folder, uid),
    ensureCgroup: never,
    updateCgroup: never,
    memoryUsage: never,
    containerResources: never,
    podResources: never,
    removeCgroup: note('removeCgroup'),
    mountVolumes: never,
    unmountVolumes: note('unmountVolumes'),
    removePodDir: note('removePodDir'),
    runtimeHandler: never,
    sandboxConfig: never,
    ensureImage: never,
    containerConfig: never,
  };
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
    forgotten: (uid) => forgotten.resolve(uid),
    leftovers: async () => leftOnDisk,
  });
  return {
    done,
    forgotten: forgotten.promise,
    async [Symbol.asyncDispose]() {
      controller.abort(new Error('test over'));
      await pods[Symbol.asyncDispose]();
    },
  };
}

// What an agent that is killed while pods end leaves to the next one: each has to be cleaned up without anybody telling of it again.
const table: [string, RuntimePod | undefined, string[]][] = [
  [
    'a pod that runs',
    runtimePod([sandbox()], [instance('a')]),
    ['stopContainer', 'stopPodSandbox', 'unmountVolumes', 'removeCgroup', 'removeContainer', 'removePodSandbox', 'removePodDir'],
  ],
  [
    'a sandbox whose containers have ended',
    runtimePod([sandbox()], [instance('a', { state: 'exited' })]),
    ['stopPodSandbox', 'unmountVolumes', 'removeCgroup', 'removeContainer', 'removePodSandbox', 'removePodDir'],
  ],
  ['a stopped sandbox', runtimePod([sandbox({ ready: false })]), ['unmountVolumes', 'removeCgroup', 'removePodSandbox', 'removePodDir']],
  ['a folder', undefined, ['unmountVolumes', 'removeCgroup', 'removePodDir']],
];

for (const [name, found, steps] of table) {
  test(`nobody's: ${name}`, { timeout: 5000 }, async () => {
    const left = found === undefined ? [{ uid: 'u1', namespace: 'default', name: 'web' }] : [];
    await using worker = unwanted(found, left);
    assert.equal(await worker.forgotten, 'u1');
    assert.deepEqual(worker.done.toSorted(), steps.toSorted());
  });
}
