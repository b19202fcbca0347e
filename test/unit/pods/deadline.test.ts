import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import type { PodSpecRow } from '../../../agent/pods/worker.ts';
import { instance, pod, runtimePod, sandbox } from './build.ts';
import { exitAll, startWorld, stopSandboxes } from './worker-world.ts';

// Where the API does not tell the start of a pod: of a manifest's it knows none, and of any other's only when a status has got through to it.
for (const source of ['file', 'api'] as const) {
  test(`activeDeadlineSeconds counts from the start that we know of: a pod from ${source}`, { timeout: 5000 }, async () => {
    let aheadMs = 0;
    const events: string[] = [];
    const stopped = Promise.withResolvers<void>();
    const nothing = async (): Promise<void> => undefined;
    const row = (): PodSpecRow => ({ pod: pod({ activeDeadlineSeconds: 600 }), source });
    await using at = startWorld({
      wants: [row()],
      holds: [runtimePod([sandbox()], [instance('a')])],
      options: { clock: { ...systemClock, wall: () => systemClock.wall() + aheadMs } },
      cri: (w) => ({
        stopContainer: async () => {
          exitAll(w, 'u1');
          stopped.resolve();
        },
        stopPodSandbox: async () => stopSandboxes(w, 'u1'),
      }),
      apply: () => ({
        recordEvent: (_pod, type, reason, message) => void events.push(`${type} ${reason} ${message}`),
        ensureCgroup: nothing,
        mountVolumes: nothing,
        unmountVolumes: nothing,
        removeCgroup: nothing,
      }),
    });
    const first = Promise.withResolvers<void>();
    using _ = at.pods.statuses.subscribe(() => first.resolve());
    if (!at.pods.statuses.has('u1')) await first.promise;
    aheadMs = 600_000;
    at.specs.set('u1', row());
    await stopped.promise;
    assert.equal(at.pods.activity('u1')?.lifecycle, 'terminating');
    assert.equal(events[0], 'Normal DeadlineExceeded Pod was active on the node longer than the specified deadline');
  });
}
