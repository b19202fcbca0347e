// A node in a virtual machine: containerd and a node agent as systemd units, standalone on a folder of manifests. Upstream's kubelet runs on the very same
// files, one agent after the other: it is the yardstick.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { Pod } from '../../agent/model/generated/api.ts';
import type { LocalStatus } from '../../agent/server/local.ts';
import type { Vm } from '../testbed/vm.ts';
import { waitFor } from '../testbed/wait.ts';

export type Agent = 'keelson' | 'kubelet';

export const busybox = 'registry.k8s.io/e2e-test-images/busybox:1.37.0-1';
const pause = 'registry.k8s.io/pause:3.10.2';
const manifests = '/etc/kubernetes/manifests';

// Emulated CPUs are ten times slower than real ones, and a busy machine makes that worse: waiting costs nothing when there is nothing to wait for.
export const patience = 600_000;

const containerdUnit = `[Unit]
Description=containerd under test
After=closed-network.service opt-parts.mount
[Service]
Type=notify
Environment=PATH=PROGRAMS:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=PROGRAMS/containerd --config /etc/containerd/config.toml
Delegate=yes
KillMode=process
LimitNOFILE=infinity
TasksMax=infinity
OOMScoreAdjust=-999
`;

const cniConfig = {
  cniVersion: '1.0.0',
  name: 'pods',
  plugins: [
    {
      type: 'bridge',
      bridge: 'pods0',
      isGateway: true,
      ipam: { type: 'host-local', ranges: [[{ subnet: '10.88.0.0/24' }]], routes: [{ dst: '0.0.0.0/0' }] },
    },
  ],
};

// Version 2 means containerd 1.7 of Debian 13, version 3 containerd 2. Neither is told anything about oom_score_adj: in the machine, root may lower it.
const containerdConfigs = {
  'containerd-2': `version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "${pause}"
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = true
`,
  'containerd-1.7': `version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "${pause}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = true
`,
} as const;

/** Starts containerd with the systemd cgroup driver and imports the images. */
export const startRuntime = async (vm: Vm, kind: keyof typeof containerdConfigs): Promise<void> => {
  const programs = kind === 'containerd-2' ? '/opt/parts/containerd-2/usr/bin' : '/usr/bin';
  await vm.write('/etc/containerd/config.toml', containerdConfigs[kind]);
  await vm.write('/etc/cni/net.d/10-pods.conflist', JSON.stringify(cniConfig));
  await vm.write(`${unitFolder}/runtime.service`, containerdUnit.replaceAll('PROGRAMS', programs));
  await vm.run('systemctl daemon-reload && systemctl start closed-network.service && systemctl start runtime.service', {
    timeoutMs: patience,
  });
  await vm.run(
    `for image in /opt/parts/images/*.tar; do ${programs}/ctr -n k8s.io images import --local=true $image || ${programs}/ctr -n k8s.io images import $image; done`,
    {
      timeoutMs: patience,
    },
  );
};

const flags = '--hostname-override=machine --root-dir=/var/lib/kubelet --v=2';
const configFlag = '--config=/etc/kubernetes/kubelet.yaml';
const unitFolder = '/etc/systemd/system';

/** Files by name. Ours is the unit that users are given, with a drop-in for what is another way in this machine: it can install nothing, and has no cluster. */
const units = (agent: Agent): Record<string, string> => {
  if (agent === 'kubelet')
    // Its start calls READY=1 too, but its watchdog is not what is compared here.
    return {
      'kubelet.service': `[Service]
Type=notify
TimeoutStartSec=600
KillMode=process
ExecStart=/opt/parts/kubelet ${configFlag} ${flags}
`,
    };
  const unit = readFileSync(join(import.meta.dirname, '../../packaging/systemd/keelson.service'), 'utf8');
  const start = /^ExecStart=\/opt\/keelson\/keelson (.*)$/m.exec(unit)?.[1];
  if (start === undefined) throw new Error('the unit of the agent has no ExecStart that a test could change');
  return {
    'keelson.service': unit,
    'keelson.service.d/machine.conf': `[Service]
RestartSec=1
Environment=NODE_COMPILE_CACHE=/var/cache/keelson/compile-cache
Environment=KUBELET_KUBECONFIG_ARGS=
Environment="KUBELET_CONFIG_ARGS=${configFlag}"
Environment="KUBELET_EXTRA_ARGS=${flags}"
ExecStart=
ExecStart=/opt/parts/node/bin/node --max-semi-space-size=2 --expose-gc --disable-warning=ExperimentalWarning /opt/keelson/agent/main.ts ${start}
`,
  };
};

/** Settings for both agents. The cgroup driver named is the wrong one: the runtime tells the right one. */
export const nodeConfig = (more: object = {}): object => ({
  apiVersion: 'kubelet.config.k8s.io/v1beta1',
  kind: 'KubeletConfiguration',
  staticPodPath: manifests,
  containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock',
  cgroupDriver: 'cgroupfs',
  authentication: { anonymous: { enabled: false }, webhook: { enabled: false } },
  authorization: { mode: 'AlwaysAllow' },
  failSwapOn: false,
  // On a busy machine the start of many containers at once takes an emulated one minutes.
  runtimeRequestTimeout: '20m',
  resolvConf: '/etc/resolv.conf',
  evictionHard: { 'memory.available': '20Mi', 'nodefs.available': '1%', 'imagefs.available': '1%', 'nodefs.inodesFree': '1%' },
  imageGCHighThresholdPercent: 100,
  imageGCLowThresholdPercent: 99,
  ...more,
});

/** Starts an agent with these settings and resolves when its unit is ready. */
export const startAgent = async (vm: Vm, agent: Agent, config: object): Promise<void> => {
  await vm.write('/etc/kubernetes/kubelet.yaml', stringify(config));
  for (const [name, text] of Object.entries(units(agent))) await vm.write(`${unitFolder}/${name}`, text);
  await vm.run(
    `mkdir -p ${manifests} && systemctl daemon-reload && systemctl reset-failed && systemctl start ${agent}.service || { journalctl -u ${agent} -n 30 --no-pager; exit 1; }`,
    {
      timeoutMs: 600_000,
    },
  );
};

export const stopAgent = async (vm: Vm, agent: Agent): Promise<void> =>
  void (await vm.run(`systemctl stop ${agent}.service`, { timeoutMs: patience }));

/** How often systemd has started the agent anew. */
export const restartsOf = async (vm: Vm): Promise<number> => Number((await vm.run('systemctl show -P NRestarts keelson.service')).trim());

/** Waits until systemd has started the agent anew once more, and it is ready. */
export const waitForRestart = (vm: Vm, before: number): Promise<true> =>
  waitFor(
    'systemd to start the agent anew',
    2 * patience,
    async () =>
      (await restartsOf(vm)) === before + 1 && (await vm.sh('systemctl is-active --quiet keelson.service')).code === 0 ? true : undefined,
    2000,
  );

/** Puts the manifests of these pods into the folder, and no others. */
export const setManifests = async (vm: Vm, pods: Readonly<Record<string, Pod['spec']>>): Promise<void> => {
  const files = Object.entries(pods).map(([name, spec]) => ({
    name,
    text: JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace: 'default' }, spec }),
  }));
  const script = files.map(({ name, text }) => `cat > ${manifests}/${name}.json <<'KEELSON'\n${text}\nKEELSON\n`).join('');
  const keep = files.map(({ name }) => `! -name ${name}.json`).join(' ');
  await vm.run(`mkdir -p ${manifests}; find ${manifests} -type f ${keep} -delete\n${script}`);
};

/** What our agent says of its pods, by the names of their manifests. */
export const podStatuses = async (vm: Vm): Promise<Map<string, Pod>> => {
  const text = await vm.run('curl -sSf --max-time 20 --unix-socket /run/keelson/keelson.sock http://local/status');
  const { pods } = JSON.parse(text) as LocalStatus;
  return new Map(pods.map(({ pod }) => [pod.metadata.name.replace(/-machine$/, ''), pod as Pod]));
};

/** Waits until the pod's status satisfies. */
export const waitForPod = (vm: Vm, name: string, what: string, good: (pod: Pod) => boolean): Promise<Pod> =>
  waitFor(
    `pod ${name} to be ${what}`,
    patience,
    async () => {
      const pod = (await podStatuses(vm)).get(name);
      if (pod === undefined) throw new Error('there is no such pod');
      if (!good(pod)) throw new Error(JSON.stringify(pod.status));
      return pod;
    },
    1000,
  );

export const isReady = (pod: Pod): boolean =>
  pod.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') === true;

/** Containers that run, `pod/container` → container ID, by the links that log collectors read. */
export const runningContainers = async (vm: Vm): Promise<Map<string, string>> => {
  const out = await vm.run(
    'for s in $(find /sys/fs/cgroup/kubepods.slice -name "cri-containerd-*.scope" 2>/dev/null); do basename $s; done; ls /var/log/containers 2>/dev/null; true',
  );
  const running = new Set([...out.matchAll(/^cri-containerd-([0-9a-f]{64})\.scope$/gm)].map(([, id]) => id));
  const links = [...out.matchAll(/^(.+)-machine_[^_]+_(.+)-([0-9a-f]{64})\.log$/gm)];
  return new Map(
    links.flatMap(([, pod, container, id]) => (id !== undefined && running.has(id) ? [[`${pod}/${container}`, id] as const] : [])),
  );
};

/** Waits until these containers and no others run; resolves to their IDs. */
export const waitForContainers = (vm: Vm, wanted: readonly string[]): Promise<Map<string, string>> =>
  waitFor(
    `these containers and no others: ${wanted.join(', ')}`,
    patience,
    async () => {
      const running = await runningContainers(vm);
      const there = [...running.keys()].sort();
      if (there.join() !== [...wanted].sort().join()) throw new Error(`there are: ${there.join(', ')}`);
      return running;
    },
    1000,
  );

// ------------------------------------------------------------------------------------------------------------------ the tree of cgroups

const valueFiles = [
  'cpu.weight',
  'cpu.max',
  'cpu.idle',
  'cpuset.cpus',
  'memory.min',
  'memory.low',
  'memory.high',
  'memory.max',
  'memory.swap.max',
  'memory.oom.group',
  'pids.max',
  'io.weight',
  'cgroup.controllers',
];

const dumpScript = `cd /sys/fs/cgroup || exit 1
for dir in $(find kubepods.slice -type d 2>/dev/null | sort) system.slice kubereserved.slice; do
  [ -d $dir ] || continue
  echo "@ $dir"
  for file in ${valueFiles.join(' ')} hugetlb.2MB.max hugetlb.1GB.max hugetlb.2MB.rsvd.max; do
    [ -e $dir/$file ] && echo "$file=$(cat $dir/$file)"
  done
  case $dir in kubepods*) ;; *) continue ;; esac
  for pid in $(cat $dir/cgroup.procs); do echo "oom_score_adj=$(cat /proc/$pid/oom_score_adj)"; done | sort -u
done`;

/** Cgroup → file → value: kubepods with all below it, and the reserved cgroups. Containers are called after their pods and names, pods after their names; UIDs are gone. */
export const dumpCgroups = async (vm: Vm): Promise<Record<string, Record<string, string>>> => {
  const [text, names] = await Promise.all([vm.run(dumpScript, { timeoutMs: patience }), namesOfContainers(vm)]);
  const tree: Record<string, Record<string, string>> = {};
  let at: Record<string, string> = {};
  for (const line of text.trim().split('\n')) {
    if (line.startsWith('@ ')) {
      at = {};
      tree[renamed(line.slice(2), names)] = at;
      continue;
    }
    const [file = '', value = ''] = line.split(/=(.*)/s);
    at[file] = at[file] === undefined ? value : `${at[file]},${value}`;
  }
  return tree;
};

interface Names {
  readonly containers: ReadonlyMap<string, string>;
  readonly pods: ReadonlyMap<string, string>;
}

const namesOfContainers = async (vm: Vm): Promise<Names> => {
  const out = await vm.run('ls /var/log/containers; echo; ls /var/log/pods');
  return {
    containers: new Map(
      [...out.matchAll(/^(.+)-machine_[^_]+_(.+)-([0-9a-f]{64})\.log$/gm)].map(([, pod, container, id = '']) => [
        id,
        `${pod}/${container}`,
      ]),
    ),
    pods: new Map([...out.matchAll(/^[^_\n]+_(.+)-machine_([0-9a-f]{32})$/gm)].map(([, pod = '', uid = '']) => [uid, pod])),
  };
};

const renamed = (path: string, names: Names): string =>
  path
    .replaceAll(/pod([0-9a-f]{32})/g, (all, uid: string) => (names.pods.has(uid) ? `pod(${names.pods.get(uid)})` : all))
    .replace(/cri-containerd-([0-9a-f]{64})/, (_, id: string) => `(${names.containers.get(id) ?? 'sandbox'})`);

/** What two trees differ in, a line each. */
export const diffTrees = (ours: Record<string, Record<string, string>>, theirs: Record<string, Record<string, string>>): string[] => {
  const lines: string[] = [];
  for (const cgroup of [...new Set([...Object.keys(ours), ...Object.keys(theirs)])].sort()) {
    const [our, their] = [ours[cgroup], theirs[cgroup]];
    if (our === undefined || their === undefined) {
      lines.push(`${cgroup}: ${our === undefined ? 'only the kubelet' : 'only keelson'} has it`);
      continue;
    }
    for (const file of [...new Set([...Object.keys(our), ...Object.keys(their)])].sort())
      if (our[file] !== their[file]) lines.push(`${cgroup} ${file}: keelson ${our[file]}, kubelet ${their[file]}`);
  }
  return lines;
};

/** The properties that systemd keeps of the slices below kubepods: it writes them again when it is told to reload. */
export const dumpUnits = async (vm: Vm, slices: string): Promise<Record<string, Record<string, string>>> => {
  const properties = [
    'CPUWeight',
    'CPUQuotaPerSecUSec',
    'MemoryMax',
    'MemoryMin',
    'MemoryLow',
    'MemoryHigh',
    'TasksMax',
    'AllowedCPUs',
    'CPUAccounting',
    'MemoryAccounting',
    'IOAccounting',
    'TasksAccounting',
    'DefaultDependencies',
    'Wants',
    'Slice',
  ];
  const out = await vm.run(`systemctl show --property=Id,${properties.join(',')} ${slices}`, { timeoutMs: patience });
  const names = await namesOfContainers(vm);
  return Object.fromEntries(
    out
      .trim()
      .split('\n\n')
      .map((block) => {
        const { Id = '', ...rest } = Object.fromEntries(
          block.split('\n').map((line) => line.split(/=(.*)/s).slice(0, 2) as [string, string]),
        );
        return [renamed(Id, names), rest];
      }),
  );
};
