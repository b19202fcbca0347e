// A cluster whose etcd is restored from a snapshot under a running node: objects go back, and so do resource versions. The node follows what the API then
// says, tells it anew what it shows wrongly, and no container notices that needs not. Upstream's kubelet has to be started anew after a restore.
import assert from 'node:assert/strict';
import { cpSync, globSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { systemClock } from '../../agent/base/clock.ts';
import { silentLog } from '../../agent/base/log.ts';
import { connectCri } from '../../agent/drivers/cri/client.ts';
import type { ConfigMap, Lease, Node, Pod } from '../../agent/model/generated/api.ts';
import { api, waitForApiserver } from '../testbed/control-plane.ts';
import { openLab, startAgain, startLab, stopComponent, stopLab } from '../testbed/lab.ts';
import { labPaths } from '../testbed/record.ts';
import { waitFor } from '../testbed/wait.ts';

const name = `restore-${process.pid}`;
const node = 'n1';
const nodeName = `${name}-${node}`;
const image = 'registry.k8s.io/e2e-test-images/busybox:1.37.0-1';
const signal = new AbortController().signal;
const paths = labPaths(name);
const data = join(paths.home, 'etcd');
const snapshot = join(paths.home, 'etcd-snapshot');
const root = '/api/v1/namespaces/default';
const patience = 120_000;

const call = <T>(path: string, method?: string, body?: unknown): Promise<T> =>
  api<T>(openLab(name), path, { ...(method === undefined ? {} : { method }), body });
const pod = (podName: string): Promise<Pod> => call(`${root}/pods/${podName}`);
const setMap = (mapName: string, value: string): Promise<ConfigMap> =>
  call(`${root}/configmaps/${mapName}`, 'PUT', { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: mapName }, data: { value } });
const makeMap = (mapName: string, value: string): Promise<ConfigMap> =>
  call(`${root}/configmaps`, 'POST', { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: mapName }, data: { value } });

const makePod = (podName: string, maps: readonly string[] = []): Promise<Pod> =>
  call(`${root}/pods`, 'POST', {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: podName },
    spec: {
      nodeName,
      terminationGracePeriodSeconds: 2,
      containers: [
        {
          name: 'main',
          image,
          command: ['sh', '-c', 'trap "exit 0" TERM; while :; do sleep 0.2; done'],
          readinessProbe: { exec: { command: ['test', '-e', '/ready'] }, periodSeconds: 1, timeoutSeconds: 10 },
          volumeMounts: maps.map((each) => ({ name: each, mountPath: `/${each}` })),
        },
      ],
      volumes: maps.map((each) => ({ name: each, configMap: { name: each, optional: true } })),
    },
  });

const isReady = (one: Pod): boolean => one.status?.conditions?.find((c) => c.type === 'Ready')?.status === 'True';
const shown = (podName: string, what: string, good: (one: Pod) => boolean): Promise<Pod> =>
  waitFor(`pod ${podName} to be ${what}`, patience, async () => {
    const one = await pod(podName);
    if (!good(one)) throw new Error(JSON.stringify(one.status));
    return one;
  });
const running = (podName: string): Promise<Pod> =>
  shown(podName, 'running', (one) => one.status?.containerStatuses?.[0]?.state?.running !== undefined);

/** What the pod's file says, as it lies on the node. */
const fileSays = (map: string, value: string): Promise<true> =>
  waitFor(`the file of ${map} to say ${value}`, patience, () => {
    const files = globSync(join(paths.node(node).home, '**/kubernetes.io~configmap', map, 'value'));
    const said = files.map((file) => readFileSync(file, 'utf8'));
    if (said.length !== 1 || said[0] !== value) throw new Error(`there are: ${said.join(', ')}`);
    return Promise.resolve(true);
  });

before(async () => {
  await startLab({ name, agent: 'keelson', registry: false, images: ['busybox'] });
});
after(() => stopLab(name));

const controllers = ['controller-manager', 'scheduler'];
const down = async (): Promise<void> => {
  for (const each of [...controllers, 'apiserver', 'etcd']) await stopComponent(name, each);
};
const up = async (): Promise<void> => {
  for (const each of ['etcd', 'apiserver']) await startAgain(name, each);
  await waitForApiserver(openLab(name));
  for (const each of controllers) await startAgain(name, each);
};

test('a node follows an etcd that was restored from a snapshot', { timeout: 600_000 }, async () => {
  await using cri = connectCri({ endpoint: `unix://${paths.node(node).socket}`, clock: systemClock, log: silentLog });
  const containers = async (podName: string): Promise<string[]> =>
    (await cri.listContainers({ filter: { label_selector: { 'io.kubernetes.pod.name': podName } } }, signal)).containers?.map(
      ({ id = '', state = '' }) => `${id} ${state}`,
    ) ?? [];
  const beReady = async (podName: string): Promise<void> => {
    const [id = ''] = (await containers(podName)).map((each) => each.split(' ')[0] ?? '');
    await cri.execSync({ container_id: id, cmd: ['touch', '/ready'], timeout: 10 }, signal);
  };

  await makeMap('edited', 'of the snapshot');
  await makeMap('again', 'of the snapshot');
  await makePod('steady', ['edited', 'again', 'made-later']);
  await makePod('turned');
  await makePod('deleted');
  for (const each of ['steady', 'turned', 'deleted']) await running(each);
  await beReady('steady');
  await shown('steady', 'ready', isReady);
  await fileSays('edited', 'of the snapshot');

  await down();
  cpSync(data, snapshot, { recursive: true });
  await up();

  // What the snapshot does not know.
  for (let i = 0; i < 200; i++) await setMap('edited', `later ${i}`);
  await call(`${root}/configmaps/again`, 'DELETE');
  await makeMap('again', 'later');
  await makePod('later');
  await running('later');
  await beReady('turned');
  const turned = await shown('turned', 'ready', isReady);
  await call(`${root}/pods/deleted?gracePeriodSeconds=0`, 'DELETE');
  await waitFor('the deleted pod to end', patience, async () => ((await containers('deleted')).length === 0 ? true : undefined));
  await fileSays('edited', 'later 199');
  await fileSays('again', 'later');
  const steady = await containers('steady');
  const turning = await containers('turned');
  const versionBefore = Number(turned.metadata?.resourceVersion);

  await down();
  rmSync(data, { recursive: true });
  cpSync(snapshot, data, { recursive: true });
  await up();
  const restored = await pod('turned');
  assert.ok(Number(restored.metadata?.resourceVersion) < versionBefore, 'resource versions went back');
  const leaseOf = (): Promise<Lease> => call(`/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/${nodeName}`);
  const renewed = (await leaseOf()).spec?.renewTime;

  // Objects as they were, and followed from there.
  await fileSays('edited', 'of the snapshot');
  await fileSays('again', 'of the snapshot');
  await setMap('edited', 'edited again');
  await fileSays('edited', 'edited again');
  await call(`${root}/configmaps/again`, 'DELETE');
  await makeMap('again', 'made again');
  await fileSays('again', 'made again');
  await makeMap('made-later', 'made');
  await fileSays('made-later', 'made');

  // Statuses are told again: the snapshot is of a time when it was not ready.
  await shown('turned', 'ready again', isReady);
  await shown('steady', 'ready', isReady);
  await waitFor('the node to be ready', patience, async () => {
    const { status } = await call<Node>(`/api/v1/nodes/${nodeName}`);
    return status?.conditions?.find((c) => c.type === 'Ready')?.status === 'True' ? true : undefined;
  });
  await waitFor('the lease to be renewed', patience, async () => ((await leaseOf()).spec?.renewTime === renewed ? undefined : true));

  // The pod that the API no longer knows ends; nothing that it knows has noticed.
  await waitFor('the pod that is gone to end', patience, async () => ((await containers('later')).length === 0 ? true : undefined));
  assert.deepEqual(await containers('steady'), steady);
  assert.deepEqual(await containers('turned'), turning);
  assert.equal((await pod('steady')).status?.containerStatuses?.[0]?.restartCount, 0);

  // A new pod runs, and a deletion ends one, as ever.
  await makePod('new');
  await running('new');
  await call(`${root}/pods/turned`, 'DELETE');
  await waitFor('the deleted pod to go', patience, async () =>
    (await call<{ items: Pod[] }>(`${root}/pods`)).items.some((each) => each.metadata?.name === 'turned') ? undefined : true,
  );
});
