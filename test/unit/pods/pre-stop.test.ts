import assert from 'node:assert/strict';
import { test } from 'node:test';
import { container, instance, pod, runtimePod, sandbox } from './build.ts';
import { exitAll, startWorld } from './worker-world.ts';

const nothing = async (): Promise<void> => undefined;

test('a preStop hook that takes longer than the grace is waited for no longer, and not called off: it ends with its container', {
  timeout: 10_000,
}, async () => {
  const story: string[] = [];
  const stopped = Promise.withResolvers<void>();
  let hook: AbortSignal | undefined;
  const hooked = container('a', { lifecycle: { preStop: { exec: { command: ['sleep', '1000'] } } } });
  const running = pod({ containers: [hooked] }, { deletionTimestamp: '2026-01-01T00:00:00Z', deletionGracePeriodSeconds: 1 });
  await using _at = startWorld({
    wants: [{ pod: running, source: 'api' }],
    holds: [runtimePod([sandbox()], [instance('a')])],
    cri: (w) => ({
      execSync: (_, signal) => {
        hook = signal;
        return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
      },
      stopContainer: async ({ timeout }) => {
        story.push(`stop after ${timeout} s, hook ${hook?.aborted === false ? 'runs' : 'called off'}`);
        exitAll(w, 'u1');
        stopped.resolve();
      },
      stopPodSandbox: nothing,
      removePodSandbox: nothing,
      removeContainer: nothing,
    }),
    apply: () => ({
      recordEvent: (_, type, reason) => void story.push(`${type} ${reason}`),
      removeCgroup: nothing,
      unmountVolumes: nothing,
      removePodDir: nothing,
    }),
  });
  await stopped.promise;
  assert.deepEqual(story, ['Normal Killing', 'stop after 2 s, hook runs']);
});
