import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentError, hasCode } from '../../../agent/base/errors.ts';
import { createPodObjects } from '../../../agent/cli/wiring/pod-objects.ts';
import type { Objects } from '../../../agent/drivers/kube/objects.ts';
import type { ConfigMap, Secret } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';

const signal = new AbortController().signal;

/** Objects by name; `forbidden` ones cannot be read. */
function fakeObjects<T extends object>(there: readonly string[], forbidden: readonly string[]): Objects<T> {
  return {
    acquire: (namespace, name) => ({ namespace, name, [Symbol.dispose]: () => undefined }),
    get: async (_, name) => {
      if (forbidden.includes(name)) throw new AgentError('Forbidden', `${name} is forbidden`);
      return there.includes(name) ? ({ metadata: { name } } as T) : undefined;
    },
    peek: () => undefined,
    subscribe: () => ({ [Symbol.dispose]: () => undefined }),
    size: { held: 0, watched: 0 },
    [Symbol.asyncDispose]: async () => undefined,
  };
}

const pod: AgentPod = {
  metadata: { name: 'p', namespace: 'ns', uid: 'u' },
  spec: {
    imagePullSecrets: [{ name: 'pull' }, { name: '' }, { name: 'gone' }, { name: 'locked' }],
    containers: [
      { name: 'a', env: [{ name: 'X', valueFrom: { secretKeyRef: { name: 'env', key: 'k' } } }] },
      { name: 'b', envFrom: [{ configMapRef: { name: 'locked' } }] },
    ],
  },
};
const objects = createPodObjects(fakeObjects<ConfigMap>([], ['locked']), fakeObjects<Secret>(['pull', 'env'], ['locked']));

test('pull secrets that cannot be had are named, the others count', async () => {
  const { found, failed } = await objects.pullSecrets(pod, signal);
  assert.deepEqual(
    found.map((s) => s.metadata?.name),
    ['pull'],
  );
  assert.deepEqual(failed, ['gone', 'locked']);
});

test("a container's environment needs neither pull secrets nor what other containers refer to", async () => {
  const [a, b] = pod.spec.containers;
  assert.ok(a !== undefined && b !== undefined);
  const lookup = await objects.lookup(pod, a, signal);
  assert.equal(lookup.secret('env')?.metadata?.name, 'env');
  await assert.rejects(objects.lookup(pod, b, signal), (e) => hasCode(e, 'Forbidden'));
});
