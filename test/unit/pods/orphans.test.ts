import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { RuntimePod } from '../../../agent/pods/observed.ts';
import { instance, runtimePod, sandbox } from './build.ts';
import { exitAll, startWorld, stopSandboxes } from './worker-world.ts';

/** Everything has been looked at, and no source wants anything. */
function unwanted(found: RuntimePod | undefined, leftOnDisk: readonly { uid: string; namespace: string; name: string }[]) {
  const done: string[] = [];
  const forgotten = Promise.withResolvers<string>();
  const note = (what: string) => async () => void done.push(what);
  const at = startWorld({
    holds: found === undefined ? [] : [found],
    cri: (w) => ({
      stopPodSandbox: async () => {
        done.push('stopPodSandbox');
        stopSandboxes(w, 'u1');
      },
      removePodSandbox: note('removePodSandbox'),
      stopContainer: async () => {
        done.push('stopContainer');
        exitAll(w, 'u1');
      },
      removeContainer: note('removeContainer'),
    }),
    apply: () => ({ removeCgroup: note('removeCgroup'), unmountVolumes: note('unmountVolumes'), removePodDir: note('removePodDir') }),
    options: { forgotten: (uid) => forgotten.resolve(uid), leftovers: async () => leftOnDisk },
  });
  return Object.assign(at, { done, forgotten: forgotten.promise });
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
  [
    // Which may still hold its address: nobody knows whether it was stopped or died.
    'a stopped sandbox',
    runtimePod([sandbox({ ready: false })]),
    ['stopPodSandbox', 'unmountVolumes', 'removeCgroup', 'removePodSandbox', 'removePodDir'],
  ],
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
