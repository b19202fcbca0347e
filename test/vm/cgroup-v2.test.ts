// A node on cgroup v2 with the systemd driver, beside upstream's kubelet on the same manifests in the same machine: the same cgroups with the same values,
// and what follows from them.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Container, ContainerStatus, Pod } from '../../agent/model/generated/api.ts';
import { startVm, type Vm } from '../testbed/vm.ts';
import { waitFor } from '../testbed/wait.ts';
import {
  type Agent,
  busybox,
  diffTrees,
  dumpCgroups,
  dumpUnits,
  isReady,
  nodeConfig,
  patience,
  podStatuses,
  restartsOf,
  runningContainers,
  setManifests,
  startAgent,
  startRuntime,
  stopAgent,
  waitForContainers,
  waitForPod,
  waitForRestart,
} from './guest-node.ts';

const waits = 'trap "exit 0" TERM; sleep 1000000 & wait';
const container = (name: string, resources: Container['resources'], more: Partial<Container> = {}): Container => ({
  name,
  image: busybox,
  command: ['sh', '-c', waits],
  ...(resources === undefined ? {} : { resources }),
  ...more,
});
const spec = (containers: Container[], more: Partial<Pod['spec']> = {}): Pod['spec'] => ({
  containers,
  terminationGracePeriodSeconds: 2,
  ...more,
});

// No CPU limit is small: the runtime's own start is held to it too, which in an emulated machine takes minutes.
const pods: Record<string, Pod['spec']> = {
  guaranteed: spec([container('main', { limits: { cpu: '300m', memory: '64Mi' } })]),
  limited: spec([
    container('first', { requests: { cpu: '150m', memory: '32Mi' }, limits: { cpu: '600m', memory: '96Mi' } }),
    container('second', { requests: { cpu: '7m', memory: '16Mi' }, limits: { cpu: '415m', memory: '48Mi' } }),
  ]),
  'half-limited': spec([container('bound', { limits: { cpu: '300m', memory: '32Mi' } }), container('free', undefined)]),
  'best-effort': spec([container('main', undefined)]),
  'pod-level': spec([container('asks', { requests: { cpu: '50m', memory: '24Mi' } }), container('silent', undefined)], {
    resources: { requests: { cpu: '200m', memory: '64Mi' }, limits: { cpu: '800m', memory: '128Mi' } },
  }),
  sidecar: spec([container('main', { requests: { cpu: '20m', memory: '20Mi' } })], {
    initContainers: [container('side', { requests: { cpu: '30m', memory: '40Mi' } }, { restartPolicy: 'Always' })],
  }),
  huge: spec([container('main', { limits: { cpu: '200m', memory: '32Mi', 'hugepages-2Mi': '4Mi' } })]),
};

const containersOf = (all: Record<string, Pod['spec']>): string[] =>
  Object.entries(all).flatMap(([name, s]) => [...(s?.initContainers ?? []), ...(s?.containers ?? [])].map((c) => `${name}/${c.name}`));

const config = nodeConfig({
  podPidsLimit: 300,
  memorySwap: { swapBehavior: 'LimitedSwap' },
  kubeReserved: { cpu: '100m', memory: '64Mi', pid: '500' },
  systemReserved: { cpu: '200m', memory: '128Mi' },
  enforceNodeAllocatable: ['pods', 'kube-reserved', 'system-reserved-compressible'],
  kubeReservedCgroup: '/kubereserved.slice',
  systemReservedCgroup: '/system.slice',
});

let vm: Vm;

before(async () => {
  vm = await startVm(`cg-${process.pid}`);
  await vm.run(
    [
      'dd if=/dev/zero of=/swap bs=1M count=128 status=none && chmod 600 /swap && mkswap -q /swap && swapon /swap',
      'sysctl -q -w vm.nr_hugepages=8',
      'systemctl start kubereserved.slice',
    ].join(' && '),
    { timeoutMs: patience },
  );
  await startRuntime(vm, 'containerd-2');
});
after(async () => {
  await vm?.[Symbol.asyncDispose]();
});

interface Tree {
  readonly cgroups: Record<string, Record<string, string>>;
  readonly units: Record<string, Record<string, string>>;
}

const dumpOnce = async (): Promise<Tree> => ({
  cgroups: await dumpCgroups(vm),
  units: await dumpUnits(vm, "'kubepods*.slice' system.slice kubereserved.slice"),
});

/** The tree when it has come to rest: a container's scope is there before its values are. */
const dump = (): Promise<Tree> => {
  let before = '';
  return waitFor(
    'the tree to rest',
    patience,
    async () => {
      const now = await dumpOnce();
      const text = JSON.stringify(now);
      if (text === before) return now;
      before = text;
      return undefined;
    },
    2000,
  );
};

/** Runs the pods with this agent until all of their containers run and what follows from that is written. */
const settle = async (agent: Agent): Promise<Tree> => {
  await setManifests(vm, pods);
  await startAgent(vm, agent, config);
  await waitForContainers(vm, containersOf(pods));
  // The shares of the Burstable class follow the pods: (150 + 7 + 300 + 200 + 30 + 20) m of CPU are 723 shares, which are a weight of 28.
  await waitFor(
    'the shares of the Burstable class',
    patience,
    async () => (await vm.run('cat /sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/cpu.weight')).trim() === '28' || undefined,
    2000,
  );
  return dump();
};

const podSlices = async (): Promise<string> =>
  (
    await vm.run(
      "find /sys/fs/cgroup/kubepods.slice -name '*pod*-pod*' -o -name 'kubepods-pod*'; systemctl list-units --all --plain --no-legend 'kubepods*-pod*'",
    )
  ).trim();

const clear = async (agent: Agent): Promise<void> => {
  await setManifests(vm, {});
  await waitForContainers(vm, []);
  await waitFor('the slices of the pods to go', patience, async () => ((await podSlices()) === '' ? true : undefined), 2000);
  await stopAgent(vm, agent);
};

/** As it was before any agent. */
const reset = async (): Promise<void> => {
  const slices = 'kubepods-burstable.slice kubepods-besteffort.slice kubepods.slice kubereserved.slice';
  await vm.run(
    [
      `systemctl stop ${slices}`,
      'rm -rf /run/systemd/transient/kube* /run/systemd/system.control/system.slice.d /run/systemd/system.control/kube* /run/systemd/transient/system.slice.d',
      'systemctl daemon-reload',
      'systemctl set-property --runtime system.slice CPUWeight= AllowedCPUs=',
      'systemctl start kubereserved.slice',
      'rm -rf /var/lib/kubelet/* /var/log/pods/* /var/log/containers/*',
    ].join('; '),
    { timeoutMs: patience },
  );
};

let ours: Tree;

test('the same cgroups with the same values as kubelet', async () => {
  const theirs = await settle('kubelet');
  await clear('kubelet');
  await reset();
  ours = await settle('keelson');
  assert.deepEqual(diffTrees(ours.cgroups, theirs.cgroups), []);
  assert.deepEqual(diffTrees(ours.units, theirs.units), []);
});

test('the values that follow from the manifests', () => {
  const at = (path: string): Record<string, string> =>
    ours.cgroups[path] ?? assert.fail(`there is no ${path}: ${Object.keys(ours.cgroups).join('\n')}`);
  const burstable = 'kubepods.slice/kubepods-burstable.slice';
  const guaranteed = at('kubepods.slice/kubepods-pod(guaranteed).slice');
  assert.equal(guaranteed['cpu.max'], '30000 100000');
  assert.equal(guaranteed['memory.max'], String(64 << 20));
  assert.equal(guaranteed['pids.max'], '300');
  const main = at('kubepods.slice/kubepods-pod(guaranteed).slice/(guaranteed/main).scope');
  assert.equal(main.oom_score_adj, '-997');
  assert.equal(main['memory.oom.group'], '1');
  // A static pod counts as critical, and no critical pod swaps.
  assert.equal(main['memory.swap.max'], '0');
  const limited = at(`${burstable}/kubepods-burstable-pod(limited).slice`);
  assert.equal(limited['memory.max'], String((96 + 48) << 20));
  // systemd keeps whole percents, and the file says what systemd does.
  assert.equal(limited['cpu.max'], '102000 100000');
  assert.equal(at(`${burstable}/kubepods-burstable-pod(half-limited).slice`)['memory.max'], 'max');
  assert.equal(at(`${burstable}/kubepods-burstable-pod(pod-level).slice`)['memory.max'], String(128 << 20));
  assert.equal(at('kubepods.slice/kubepods-besteffort.slice')['cpu.weight'], '1');
  assert.equal(
    at('kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod(best-effort).slice/(best-effort/main).scope').oom_score_adj,
    '1000',
  );
  assert.equal(at('kubepods.slice/kubepods-pod(huge).slice')['hugetlb.2MB.max'], String(4 << 20));
  assert.equal(at('kubereserved.slice')['memory.max'], String(64 << 20));
});

test('they outlast a reload of systemd', async () => {
  await vm.run('systemctl daemon-reload', { timeoutMs: patience });
  assert.deepEqual(diffTrees((await dump()).cgroups, ours.cgroups), []);
});

const eats = ['sh', '-c', '(x=$(tr "\\0" x < /dev/zero | head -c 60000000); sleep 1); sleep 1000000'];
const oomKilled = (statuses: ContainerStatus[] | undefined, name: string): boolean => {
  const ended = statuses?.find((status) => status.name === name)?.state?.terminated;
  return ended?.exitCode === 137 && ended.reason === 'OOMKilled';
};

const workload: Record<string, Pod['spec']> = {
  probed: spec([
    container('main', undefined, {
      command: ['sh', '-c', `touch /tmp/ok; ${waits}`],
      readinessProbe: { exec: { command: ['cat', '/tmp/ok'] }, periodSeconds: 5, timeoutSeconds: 60 },
    }),
  ]),
  // The shell would go on when its child alone were killed.
  hungry: spec([container('main', { limits: { memory: '24Mi' } }, { command: eats })], { restartPolicy: 'Never' }),
  'hungry-init': spec([container('main', undefined)], {
    initContainers: [container('eats', { limits: { memory: '24Mi' } }, { command: eats })],
    restartPolicy: 'Never',
  }),
  // The pod's limit, which one of its containers reaches: the other one lives, and its end by somebody's hand is another.
  shared: spec([container('eats', undefined, { command: eats }), container('small', undefined)], {
    resources: { limits: { cpu: '800m', memory: '40Mi' } },
    restartPolicy: 'Never',
  }),
  memory: spec([container('main', undefined, { volumeMounts: [{ name: 'ram', mountPath: '/ram' }] })], {
    volumes: [{ name: 'ram', emptyDir: { medium: 'Memory', sizeLimit: '8Mi' } }],
  }),
};

test('exec probes, a container out of memory, a volume in memory', async () => {
  await setManifests(vm, workload);
  await waitForPod(vm, 'probed', 'ready', isReady);
  // A runtime may hear of the end before it hears why (containerd's TaskOOM after its TaskExit): the status follows what it says then.
  const over = 'over for want of memory';
  await waitForPod(vm, 'hungry', over, ({ status }) => status?.phase === 'Failed' && oomKilled(status.containerStatuses, 'main'));
  await waitForPod(vm, 'hungry-init', over, ({ status }) => status?.phase === 'Failed' && oomKilled(status.initContainerStatuses, 'eats'));
  await waitForPod(vm, 'shared', `${over} in one container`, ({ status }) => oomKilled(status?.containerStatuses, 'eats'));
  await waitForPod(vm, 'memory', 'ready', isReady);
  const mount = (await vm.run("grep 'kubernetes.io~empty-dir/ram' /proc/mounts")).trim();
  assert.match(mount, /size=8192k/);
  assert.match(mount, /noswap/);
});

test('a killed agent takes over what runs', async () => {
  const held = await runningContainers(vm);
  assert.deepEqual([...held.keys()].sort(), ['memory/main', 'probed/main', 'shared/small']);
  const before = await restartsOf(vm);
  await vm.run('systemctl kill --signal=KILL --kill-whom=main keelson.service');
  await waitForRestart(vm, before);
  await waitForPod(vm, 'probed', 'ready', isReady);
  await waitForPod(vm, 'shared', 'told as before', ({ status }) => oomKilled(status?.containerStatuses, 'eats'));
  assert.deepEqual(await runningContainers(vm), held);
  const restarts = [...(await podStatuses(vm)).values()].flatMap((pod) => pod.status?.containerStatuses?.map((s) => s.restartCount) ?? []);
  assert.deepEqual(restarts, [0, 0, 0, 0, 0, 0]);
});

test('nothing of a pod stays behind', async () => {
  await clear('keelson');
  assert.equal(
    (await vm.run('ls -d /sys/fs/cgroup/kubepods.slice/*/ | xargs -n1 basename')).trim(),
    'kubepods-besteffort.slice\nkubepods-burstable.slice',
  );
  assert.equal((await vm.sh('grep -c /var/lib/kubelet/pods /proc/mounts')).out.trim(), '0');
});

test('swap that must not be', async () => {
  await assert.rejects(
    startAgent(vm, 'keelson', { ...config, failSwapOn: true }),
    /running with swap on is not supported, please disable swap \(swapoff -a\) or set --fail-swap-on flag to false/,
  );
});
