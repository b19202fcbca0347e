// What a pod puts where the node expects a text: the node goes on, also when its agent is started anew, and tells the pod's end as kubelet would.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Node, Pod } from '../../agent/model/generated/api.ts';
import { api } from '../testbed/control-plane.ts';
import { openLab, restartAgent, startLab, stopLab } from '../testbed/lab.ts';
import { type PodWatch, watchPods } from '../testbed/pod-watch.ts';
import { waitFor } from '../testbed/wait.ts';

const name = `hostile-${process.pid}`;
const namespace = 'hostile';
const busybox = 'registry.k8s.io/e2e-test-images/busybox:1.37.0-1';

/** A pod that makes something by `make` and has it for its last words. */
const ending = (make: string): Pod['spec'] => ({
  restartPolicy: 'Never',
  volumes: [{ name: 'v', emptyDir: {} }],
  initContainers: [{ name: 'make', image: busybox, command: ['sh', '-c', make], volumeMounts: [{ name: 'v', mountPath: '/v' }] }],
  containers: [
    {
      name: 'main',
      image: busybox,
      command: ['sh', '-c', 'exit 3'],
      volumeMounts: [{ name: 'v', mountPath: '/dev/termination-log', subPath: 'f' }],
    },
  ],
});

let watch: PodWatch | undefined;
const terminated = (pod: string) => watch?.pods.get(pod)?.status?.containerStatuses?.[0]?.state?.terminated;

before(async () => {
  await startLab({ name, agent: 'keelson' });
});
after(async () => {
  await watch?.[Symbol.asyncDispose]();
  await stopLab(name);
});

test('FIFOs as termination logs, through a restart of the agent', async () => {
  const lab = openLab(name);
  const node = lab.nodes[0]?.name ?? '';
  await api(lab, '/api/v1/namespaces', { method: 'POST', body: { metadata: { name: namespace } } });
  await waitFor('the default service account', 30_000, async () => {
    const { items } = await api<{ items: unknown[] }>(lab, `/api/v1/namespaces/${namespace}/serviceaccounts`);
    return items.length > 0;
  });
  watch = await watchPods(lab, namespace, () => undefined);
  const create = (pod: string, spec: Pod['spec']): Promise<unknown> =>
    api(lab, `/api/v1/namespaces/${namespace}/pods`, { method: 'POST', body: { metadata: { name: pod }, spec } });
  const tell = (): string => JSON.stringify([...(watch?.pods ?? [])].map(([pod, { status }]) => [pod, status]));

  // More than the four threads that do file I/O.
  const fifos = Array.from({ length: 6 }, (_, i) => `fifo-${i}`);
  for (const pod of fifos) await create(pod, ending('mkfifo /v/f'));
  await create('words', ending('echo good bye > /v/f'));
  const all = [...fifos, 'words'];
  await watch.until('all to have ended', 120_000, () => all.every((pod) => watch?.pods.get(pod)?.status?.phase === 'Failed'), tell);
  for (const pod of fifos) {
    assert.equal(terminated(pod)?.exitCode, 3);
    assert.match(terminated(pod)?.message ?? '', /^Error on reading termination log \/.*: \/.* is a FIFO, not a regular file$/);
  }
  assert.equal(terminated('words')?.message, 'good bye\n');

  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    const since = Date.now();
    await restartAgent(name, { signal });
    await waitFor('the agent to renew its lease', 60_000, async () => {
      const path = `/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/${node}`;
      return Date.parse((await api<{ spec: { renewTime: string } }>(lab, path)).spec.renewTime) > since;
    });
    const pod = `after-${signal.toLowerCase()}`;
    await create(pod, ending('echo again > /v/f'));
    await watch.until('a pod to run and end', 60_000, () => watch?.pods.get(pod)?.status?.phase === 'Failed', tell);
    assert.equal(terminated(pod)?.message, 'again\n');
    const { status } = await api<Node>(lab, `/api/v1/nodes/${node}`);
    const ready = status?.conditions?.find((c) => c.type === 'Ready');
    assert.equal(ready?.status, 'True', JSON.stringify(ready));
    // What the words said is not asked again: the volume that held them is gone by now.
    for (const fifo of fifos) assert.equal(terminated(fifo)?.exitCode, 3);
  }
});
