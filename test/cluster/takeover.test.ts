// A node changes hands while its pods run: from a kubelet to keelson and back. No container is restarted, no Ready flips, and whoever has the node ends the pods.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Pod } from '../../agent/model/generated/api.ts';
import { api } from '../testbed/control-plane.ts';
import { run, say } from '../testbed/images-debian.ts';
import { compareInventories, type Inventory, takeInventory } from '../testbed/inventory.ts';
import { openLab, startLab, stopLab, switchAgent } from '../testbed/lab.ts';
import { type PodWatch, watchPods } from '../testbed/pod-watch.ts';
import type { AgentKind } from '../testbed/record.ts';
import { waitFor } from '../testbed/wait.ts';

const name = `hand-${process.pid}`;
const namespace = 'takeover';
const busybox = 'registry.k8s.io/e2e-test-images/busybox:1.37.0-1';
const waits = 'trap "exit 0" TERM; sleep 1000000 & wait';

const pods: Record<string, Pod['spec']> = {
  plain: { containers: [{ name: 'main', image: busybox, command: ['sh', '-c', waits] }] },
  probed: {
    containers: [
      {
        name: 'main',
        image: busybox,
        command: ['sh', '-c', `touch /tmp/ok; ${waits}`],
        readinessProbe: { exec: { command: ['cat', '/tmp/ok'] }, periodSeconds: 1, timeoutSeconds: 5 },
      },
    ],
  },
  'with-sidecar': {
    initContainers: [
      { name: 'first', image: busybox, command: ['true'] },
      { name: 'side', image: busybox, restartPolicy: 'Always', command: ['sh', '-c', waits] },
    ],
    containers: [
      {
        name: 'main',
        image: busybox,
        command: ['sh', '-c', `cat /config/key && ${waits}`],
        volumeMounts: [
          { name: 'config', mountPath: '/config' },
          { name: 'memory', mountPath: '/memory' },
        ],
      },
    ],
    volumes: [
      { name: 'config', configMap: { name: 'config' } },
      { name: 'memory', emptyDir: { medium: 'Memory' } },
    ],
  },
};

let watch: PodWatch | undefined;
const flips: string[] = [];
const wasReady = new Set<string>();

const ready = (pod: Pod): boolean => pod.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True') === true;
const instances = (): Record<string, string> =>
  Object.fromEntries(
    [...(watch?.pods ?? [])].flatMap(([pod, { status }]) =>
      [...(status?.containerStatuses ?? []), ...(status?.initContainerStatuses ?? [])].map((s) => [
        `${pod}/${s.name}`,
        `${s.containerID} restarts ${s.restartCount}`,
      ]),
    ),
  );

/** The node's Lease was renewed by whoever has the node now: it is at work. */
const atWork = async (since: number): Promise<void> => {
  const lab = openLab(name);
  const node = lab.nodes[0]?.name ?? '';
  await waitFor(`the new agent to renew the lease of ${node}`, 60_000, async () => {
    const lease = await api<{ spec: { renewTime: string } }>(lab, `/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/${node}`);
    return Date.parse(lease.spec.renewTime) > since;
  });
};

before(async () => {
  await startLab({ name, agent: 'upstream' });
});
after(async () => {
  await watch?.[Symbol.asyncDispose]();
  await stopLab(name);
});

test('pods do not notice that the node has changed hands', async () => {
  const lab = openLab(name);
  const node = lab.nodes[0];
  assert.ok(node);
  await api(lab, '/api/v1/namespaces', { method: 'POST', body: { metadata: { name: namespace } } });
  await waitFor('the default service account', 30_000, async () => {
    const { items } = await api<{ items: unknown[] }>(lab, `/api/v1/namespaces/${namespace}/serviceaccounts`);
    return items.length > 0;
  });
  await api(lab, `/api/v1/namespaces/${namespace}/configmaps`, {
    method: 'POST',
    body: { metadata: { name: 'config' }, data: { key: 'value' } },
  });
  const before: Inventory = await takeInventory(name, node.id);
  watch = await watchPods(lab, namespace, ({ type, pod }) => {
    const id = pod.metadata?.name ?? '';
    if (type === 'DELETED' || pod.metadata?.deletionTimestamp !== undefined) return;
    if (ready(pod)) wasReady.add(id);
    else if (wasReady.has(id)) flips.push(`${id}: ${JSON.stringify(pod.status?.conditions)}`);
  });
  const create = async (prefix: string): Promise<void> => {
    for (const [sort, spec] of Object.entries(pods)) {
      const body = { metadata: { name: `${prefix}-${sort}` }, spec: { ...spec, terminationGracePeriodSeconds: 5 } };
      await api(lab, `/api/v1/namespaces/${namespace}/pods`, { method: 'POST', body });
    }
  };
  const allReady = (): boolean => [...(watch?.pods.values() ?? [])].every(ready);

  await create('theirs');
  await watch.until('their pods to be Ready', 120_000, () => watch?.pods.size === 3 && allReady());
  const hands: AgentKind[] = ['keelson', 'upstream', 'keelson'];
  for (const [turn, agent] of hands.entries()) {
    const held = instances();
    const since = Date.now();
    say(`takeover: the node goes to ${agent}`);
    await switchAgent(name, agent);
    await atWork(since);
    if (turn === 0) {
      await create('ours');
      await watch.until('our pods to be Ready', 120_000, () => watch?.pods.size === 6 && allReady());
    } else {
      // Three rounds of its audit: an agent that wanted to change something would have.
      await waitFor('the new agent to settle', 60_000, async () => Date.now() - since > 30_000);
    }
    const now = instances();
    for (const [container, instance] of Object.entries(held))
      assert.equal(now[container], instance, `${container} after the node went to ${agent}`);
    assert.deepEqual(flips, [], `Ready flipped after the node went to ${agent}`);
  }

  await api(lab, `/api/v1/namespaces/${namespace}/pods`, { method: 'DELETE' });
  await watch.until('all pods to be gone', 60_000, () => watch?.pods.size === 0);
  const left = await waitForSame(before, () => takeInventory(name, node.id));
  assert.deepEqual(left, [], 'left on the node');
});

async function waitForSame(before: Inventory, look: () => Promise<Inventory>): Promise<readonly string[]> {
  let left: readonly string[] = [];
  const until = performance.now() + 60_000;
  do {
    // keelson came in between: its journal tells of CoreDNS, which runs on, and its QoS cgroups are there in hierarchies where kubelet makes none.
    left = compareInventories(before, await look()).filter(
      (line) => !line.includes('/kubelet/keelson') && !line.endsWith('/kubepods/besteffort'),
    );
    if (left.length > 0) await run('sleep', ['1']);
  } while (left.length > 0 && performance.now() < until);
  return left;
}
