import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pod } from './build.ts';
import { startWorld } from './worker-world.ts';

test('a pod that came before the node’s network says so and starts when it is there, although nothing else happens to it', {
  timeout: 8000,
}, async () => {
  let problem: string | undefined = 'network is not ready: container runtime network not ready: NetworkReady=false';
  const told: string[] = [];
  const waiting = Promise.withResolvers<void>();
  const made = Promise.withResolvers<void>();
  const nothing = async (): Promise<void> => undefined;
  await using _ = startWorld({
    wants: [{ pod: pod(), source: 'api' }],
    cri: () => ({
      runPodSandbox: async () => {
        made.resolve();
        return { pod_sandbox_id: 's0' };
      },
    }),
    apply: () => ({
      ensureCgroup: nothing,
      mountVolumes: nothing,
      unmountVolumes: nothing,
      removeCgroup: nothing,
      ensureImage: async () => 'ref',
      sandboxConfig: async () => ({}),
      runtimeHandler: async () => '',
      recordEvent: (_pod, _type, reason, message) => {
        if (reason === 'NetworkNotReady') waiting.resolve();
        told.push(`${reason}: ${message}`);
      },
    }),
    options: { networkProblem: () => problem },
  });
  await waiting.promise;
  assert.equal(told.filter((event) => event.startsWith('NetworkNotReady')).length, 1);
  problem = undefined;
  await made.promise;
});
