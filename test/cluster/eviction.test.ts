// A node that runs short: pods over their limits of local storage, memory and disk under pressure, images that nobody uses; and what it tells of all that.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { parse, stringify } from 'yaml';
import type { Container, Event, Node, Pod, PodSpec } from '../../agent/model/generated/api.ts';
import { parseQuantity } from '../../agent/model/quantity.ts';
import type { Summary } from '../../agent/stats/summary.ts';
import { api } from '../testbed/control-plane.ts';
import { openLab, restartAgent, startLab, stopLab } from '../testbed/lab.ts';
import { labPaths } from '../testbed/record.ts';
import { waitFor } from '../testbed/wait.ts';

const name = `evict-${process.pid}`;
const node = 'n1';
const busybox = 'registry.k8s.io/e2e-test-images/busybox:1.37.0-1';
const podsPath = '/api/v1/namespaces/default/pods';
const MiB = 1024 ** 2;

let original: string;
const kubeletFile = (): string => join(labPaths(name).node(node).home, 'etc-kubernetes', 'kubelet.yaml');
const nodeName = (): string => openLab(name).nodes[0]?.name ?? '';
const lab = <T>(path: string, options = {}): Promise<T> => api<T>(openLab(name), path, options);
const theNode = (): Promise<Node> => lab<Node>(`/api/v1/nodes/${nodeName()}`);
const summary = (query = ''): Promise<Summary> => lab<Summary>(`/api/v1/nodes/${nodeName()}/proxy/stats/summary${query}`);

/** Starts the agent anew with other settings than the lab's. */
async function configure(settings: Record<string, unknown>): Promise<void> {
  writeFileSync(kubeletFile(), stringify({ ...(parse(original) as object), evictionPressureTransitionPeriod: '5s', ...settings }));
  await restartAgent(name);
}

const shell = (script: string, more: Partial<Container> = {}): Container => ({
  name: 'main',
  image: busybox,
  command: ['sh', '-c', script],
  ...more,
});

/** Bound to the node by hand: no scheduler keeps it away from a node under pressure. */
const create = (podName: string, container: Container, more: Partial<PodSpec> = {}): Promise<Pod> =>
  lab<Pod>(podsPath, {
    method: 'POST',
    body: {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: podName },
      spec: { nodeName: nodeName(), terminationGracePeriodSeconds: 1, containers: [container], ...more },
    },
  });
const get = (podName: string): Promise<Pod> => lab<Pod>(`${podsPath}/${podName}`);
const inPhase = (podName: string, phase: string): Promise<Pod> =>
  waitFor(`pod ${podName} to be ${phase}`, 120_000, async () => {
    const pod = await get(podName);
    return pod.status?.phase === phase ? pod : undefined;
  });
const shows = (type: string, status: string): Promise<boolean> =>
  waitFor(`${type}=${status}`, 60_000, async () =>
    (await theNode()).status?.conditions?.some((c) => c.type === type && c.status === status) === true ? true : undefined,
  );
const eventOf = (reason: string, object: string): Promise<Event> =>
  waitFor(`event ${reason} of ${object}`, 30_000, async () => {
    const { items } = await lab<{ items: Event[] }>(`/api/v1/namespaces/default/events?fieldSelector=reason=${reason}`);
    return items.find((event) => event.involvedObject.name === object);
  });
const remove = async (...names: string[]): Promise<void> => {
  for (const one of names) await lab(`${podsPath}/${one}`, { method: 'DELETE', body: { gracePeriodSeconds: 0 } });
};
const waitsTo = (exitCode: number): string => `trap "exit ${exitCode}" TERM; while :; do sleep 0.2; done`;
/** Ends as a program does that does not know of SIGTERM. */
const waits = waitsTo(143);

before(async () => {
  await startLab({ name, agent: 'keelson', nodes: 1 });
  original = readFileSync(kubeletFile(), 'utf8');
});
after(() => stopLab(name));

describe('a node that runs short', () => {
  test('limits of local storage: over them a pod ends, and stays Evicted when the agent is killed', async () => {
    const fill = `dd if=/dev/zero of=/data/file bs=1M count=10; ${waits}`;
    const data = { volumeMounts: [{ name: 'data', mountPath: '/data' }] };
    await create('bounded', shell(fill, data), { volumes: [{ name: 'data', emptyDir: { sizeLimit: '5Mi' } }] });
    await create('limited', shell(fill, { ...data, resources: { limits: { 'ephemeral-storage': '5Mi' } } }), {
      volumes: [{ name: 'data', emptyDir: {} }],
    });
    // Upstream's kubelet tells of this one that it has succeeded, and not why it ended.
    const bow = `dd if=/dev/zero of=/data/file bs=1M count=10; ${waitsTo(0)}`;
    await create('bowing', shell(bow, data), { volumes: [{ name: 'data', emptyDir: { sizeLimit: '5Mi' } }] });
    await create('modest', shell(fill, data), { volumes: [{ name: 'data', emptyDir: { sizeLimit: '50Mi' } }] });
    const bounded = await inPhase('bounded', 'Failed');
    assert.equal(bounded.status?.reason, 'Evicted');
    assert.equal(bounded.status?.message, 'Usage of EmptyDir volume "data" exceeds the limit "5Mi". ');
    const limited = await inPhase('limited', 'Failed');
    assert.equal(limited.status?.message, 'Pod ephemeral local storage usage exceeds the total limit of containers 5Mi. ');
    assert.equal((await eventOf('Evicted', 'bounded')).message, 'Usage of EmptyDir volume "data" exceeds the limit "5Mi". ');
    const bowing = await inPhase('bowing', 'Succeeded');
    assert.equal(bowing.status?.reason, undefined);
    await restartAgent(name, { signal: 'SIGKILL' });
    // The pod that runs is looked at again, so the others have been too.
    await waitFor('the agent to answer', 60_000, async () => ((await summary().catch(() => undefined)) === undefined ? undefined : true));
    for (const one of ['bounded', 'limited']) {
      const { status } = await get(one);
      assert.deepEqual([status?.phase, status?.reason], ['Failed', 'Evicted']);
    }
    assert.equal((await get('modest')).status?.phase, 'Running');
  });

  test('/stats/summary tells what pods use, and with only_cpu_and_memory no more than that', async () => {
    const whole = await summary();
    const modest = whole.pods.find((pod) => pod.podRef.name === 'modest');
    assert.ok(modest !== undefined, 'modest is told');
    const volume = modest.volume?.find((one) => one.name === 'data');
    assert.ok((volume?.usedBytes ?? 0) >= 10 * MiB && (volume?.usedBytes ?? 0) < 12 * MiB, `volume: ${volume?.usedBytes} bytes`);
    assert.ok((modest['ephemeral-storage']?.usedBytes ?? 0) >= 10 * MiB);
    assert.equal(modest.containers[0]?.name, 'main');
    assert.ok((modest.memory?.workingSetBytes ?? 0) > 0 && (modest.cpu?.usageCoreNanoSeconds ?? 0) > 0);
    assert.ok((modest.network?.rxBytes ?? -1) >= 0 && modest.network?.name === 'eth0');
    assert.ok((modest.process_stats?.process_count ?? 0) >= 1);
    assert.equal(whole.node.nodeName, nodeName());
    assert.ok((whole.node.fs?.capacityBytes ?? 0) > 0 && (whole.node.runtime?.imageFs?.usedBytes ?? 0) > 0);
    assert.ok(whole.node.systemContainers.some((one) => one.name === 'pods' && (one.memory?.workingSetBytes ?? 0) > 0));
    const little = await summary('?only_cpu_and_memory=true');
    assert.equal(little.node.fs, undefined);
    assert.deepEqual(
      little.pods.filter((pod) => pod.volume !== undefined || pod['ephemeral-storage'] !== undefined),
      [],
    );
    await remove('bounded', 'limited', 'bowing', 'modest');
  });

  test('memory: the pod furthest above its request ends, and the node says so until it is over', async () => {
    // Pods have 400 MiB together, of which 100 are to stay free: the machine's own memory, which others use too, decides nothing.
    const capacity = parseQuantity((await theNode()).status?.capacity?.memory ?? '0');
    await configure({
      systemReserved: { memory: String(capacity - 400 * MiB) },
      enforceNodeAllocatable: ['pods'],
      evictionHard: { 'memory.available': '100Mi' },
      kernelMemcgNotification: true,
    });
    await create('small', shell(waits, { resources: { requests: { memory: '20Mi' } } }));
    await inPhase('small', 'Running');
    // dd keeps its one block, since nobody takes it.
    await create('hog', shell('dd if=/dev/zero bs=330M count=1 | sleep 100000'));
    const hog = await inPhase('hog', 'Failed');
    assert.equal(hog.status?.reason, 'Evicted');
    assert.match(
      hog.status?.message ?? '',
      /^The node was low on resource: memory\. Threshold quantity: 100Mi, available: \d+[KM]?i?\. Container main was using \d+[KM]?i?, request is 0, has larger consumption of memory\. $/,
    );
    const target = hog.status?.conditions?.find((c) => c.type === 'DisruptionTarget');
    assert.deepEqual([target?.status, target?.reason, target?.message], ['True', 'TerminationByKubelet', hog.status?.message]);
    const event = await eventOf('Evicted', 'hog');
    assert.equal(event.metadata.annotations?.starved_resource, 'memory');
    assert.equal(event.metadata.annotations?.offending_containers, 'main');
    assert.equal((await eventOf('EvictionThresholdMet', nodeName())).message, 'Attempting to reclaim memory');
    assert.equal((await get('small')).status?.phase, 'Running');
    const metrics = await lab<string>(`/api/v1/nodes/${nodeName()}/proxy/metrics`).catch(String);
    assert.match(String(metrics), /kubelet_evictions\{eviction_signal="allocatableMemory.available"\} 1/);
    await shows('MemoryPressure', 'False');
    await remove('small', 'hog');
  });

  test('disk: unused images go first, then pods; new ones are refused', async () => {
    const imagesOf = async (): Promise<string[]> => ((await theNode()).status?.images ?? []).flatMap((image) => image.names ?? []);
    await create('witness', shell(waits));
    await inPhase('witness', 'Running');
    assert.ok(
      (await imagesOf()).some((image) => image.includes('nginx')),
      'the lab has images that nobody uses',
    );
    // More than any disk has free.
    await configure({ evictionHard: { 'nodefs.available': '99%' }, imageMinimumGCAge: '1ms', imageGCHighThresholdPercent: 100 });
    await shows('DiskPressure', 'True');
    const witness = await inPhase('witness', 'Failed');
    assert.match(
      witness.status?.message ?? '',
      /^The node was low on resource: ephemeral-storage\. Threshold quantity: \d+[KMG]?i?, available: /,
    );
    await create('late', shell(waits, { resources: { requests: { memory: '1Mi' } } }));
    const late = await inPhase('late', 'Failed');
    assert.equal(late.status?.reason, 'Evicted');
    assert.equal(late.status?.message, 'Pod was rejected: The node had condition: [DiskPressure]. ');
    await waitFor('unused images to be gone', 60_000, async () =>
      (await imagesOf()).some((image) => image.includes('nginx')) ? undefined : true,
    );
    // CoreDNS is critical: it runs on, and so does its image.
    assert.ok((await imagesOf()).some((image) => image.includes('coredns')));
    assert.ok((await imagesOf()).some((image) => image.includes('pause')));
    const { items } = await lab<{ items: Pod[] }>('/api/v1/namespaces/kube-system/pods');
    assert.ok(items.some((pod) => pod.metadata?.name?.startsWith('coredns') && pod.status?.phase === 'Running'));
    await remove('witness', 'late');
  });

  test('a file system of images above the high threshold: what can go goes, and an event says that it does not suffice', async () => {
    await configure({ imageGCHighThresholdPercent: 1, imageGCLowThresholdPercent: 0, imageMinimumGCAge: '1ms' });
    const event = await eventOf('FreeDiskSpaceFailed', nodeName());
    assert.match(
      event.message ?? '',
      /^Insufficient free disk space on the node's image filesystem \(\d+% of \d+\.\d GiB used\)\. Failed to free/,
    );
  });
});
