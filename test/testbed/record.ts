// What a lab has started, kept on disk from the first step on, so that any later command can find, restart or clear it, also after a crash.
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cgroupProcs, makeCgroup, parentCgroup } from './cgroups.ts';
import { namespaceOf } from './network.ts';
import { endProcess, isAlive, type SpawnOptions, spawnTracked, type Tracked } from './process.ts';
import type { RuntimeKind } from './runtimes.ts';

export type AgentKind = 'keelson' | 'upstream';
export type ProxyMode = 'nftables' | 'iptables' | 'ipvs';
/** Who programs Services: `keelson proxy` or upstream's kube-proxy. */
export type ProxyKind = 'keelson' | 'upstream';

/** Where a process runs: in a network namespace only ("cp", "out", "n1", …), or inside a node (its network, mount, pid and host name namespaces). */
export type Place = { network: string } | { node: string };

export type Component = Tracked & { argv: string[]; env: Record<string, string>; place: Place; logFile: string };

/** `id` is "n1", "n2", …; `name` the Kubernetes node name. */
export type NodeRecord = {
  id: string;
  index: number;
  name: string;
  zone?: string | undefined;
  podCidrs: string[];
  /** Where nodes have different agents; default: the lab's. */
  agent?: AgentKind | undefined;
  /** The node sees the cgroups below its own alone, with its own as their root. */
  ownCgroups?: boolean | undefined;
};

export type LabRecord = {
  name: string;
  bootId: string;
  agent: AgentKind;
  proxyMode: ProxyMode;
  /** Undefined: upstream. */
  proxy?: ProxyKind | undefined;
  runtime: RuntimeKind;
  bootstrapToken: string;
  /** Nodes join by token, as `keelson join` does it, and are not given their credentials. */
  joins?: boolean | undefined;
  /** One node without a cluster: what runs on it brings its own. */
  alone?: boolean | undefined;
  /** Nodes have a login by ssh and a journal. */
  machines?: boolean | undefined;
  nodes: NodeRecord[];
  /** By name: "etcd", "apiserver", "n1/agent", … */
  components: Record<string, Component>;
  /** `up` came to its end. */
  complete: boolean;
};

const varRoot = '/var/lib/keelson-lab';
const runRoot = '/run/keelson-lab';

/** Folders and files of a lab. Sockets are in `run`, whose path is short enough for them. */
export const labPaths = (name: string) => {
  const home = join(varRoot, name);
  const runFolder = join(runRoot, name);
  return {
    home,
    run: runFolder,
    record: join(home, 'lab.json'),
    pki: join(home, 'pki'),
    kubeconfigs: join(home, 'kubeconfig'),
    /** Cluster administrator (system:masters). */
    kubeconfig: join(home, 'kubeconfig', 'super-admin.conf'),
    logs: join(home, 'logs'),
    reports: join(home, 'reports'),
    /** Store, rules and sockets of the lab's registry. */
    registry: join(home, 'registry'),
    apiSocket: join(runFolder, 'api.sock'),
    /** kubectl's discovery cache: labs have the same address, and must not share what was learnt there. */
    kubectlCache: join(home, 'kubectl-cache'),
    cgroup: `${parentCgroup}/${name}`,
    node: (id: string) => ({
      home: join(home, id),
      run: join(runFolder, id),
      /** containerd's socket as seen from anywhere on the machine; inside the node it is /run/containerd/containerd.sock. */
      socket: join(runFolder, id, 'containerd', 'containerd.sock'),
      /** The agent's cgroupRoot. */
      cgroup: `${parentCgroup}/${name}/${id}`,
    }),
  };
};

export const bootId = (): string => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();

export const readRecord = (name: string): LabRecord | undefined => {
  const file = labPaths(name).record;
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as LabRecord) : undefined;
};

export const writeRecord = (lab: LabRecord): void => {
  const { record, home } = labPaths(lab.name);
  mkdirSync(home, { recursive: true });
  writeFileSync(`${record}.new`, `${JSON.stringify(lab, undefined, 1)}\n`);
  renameSync(`${record}.new`, record);
};

/** Names of the labs that have a folder on this machine, whole or not. */
export const labNames = (): string[] => (existsSync(varRoot) ? readdirSync(varRoot).filter((name) => !name.startsWith('.')) : []);

/** The command line prefix that enters a place of the lab. */
export const enter = (lab: LabRecord, place: Place): string[] => {
  if ('network' in place) return ['nsenter', `--net=/run/netns/${namespaceOf(lab.name, place.network)}`, '--'];
  const holder = lab.components[`${place.node}/holder`];
  if (holder === undefined || lab.bootId !== bootId() || !isAlive(holder))
    throw new Error(`node ${place.node} of lab ${lab.name} is not up`);
  const own = lab.nodes.some(({ id, ownCgroups }) => id === place.node && ownCgroups === true) ? ['--cgroup'] : [];
  return ['nsenter', '--target', String(holder.pid), '--mount', '--uts', '--pid', '--net', ...own, '--'];
};

/** The cgroup of a process of the lab; on a node that sees its own cgroups alone it is among them. */
export const componentCgroup = (lab: LabRecord, place: Place, name: string): string => {
  const paths = labPaths(lab.name);
  const flat = name.replaceAll('/', '-');
  const node = lab.nodes.find(({ id, ownCgroups }) => 'node' in place && place.node === id && ownCgroups === true);
  return `${node === undefined ? paths.cgroup : paths.node(node.id).cgroup}/sys/${flat}`;
};

export type ComponentSpec = {
  argv: string[];
  env?: Record<string, string> | undefined;
  place: Place;
  /** Default: NAME.log in the lab's log folder. */
  logFile?: string | undefined;
};

/** Starts a process of the lab in its place and cgroup, and records it under `name`. */
export const startComponent = async (
  lab: LabRecord,
  name: string,
  spec: ComponentSpec,
  how: Pick<SpawnOptions, 'forks'> & { cgroup?: string | undefined } = {},
): Promise<Component> => {
  const paths = labPaths(lab.name);
  const cgroup = how.cgroup ?? componentCgroup(lab, spec.place, name);
  await makeCgroup(cgroup);
  const logFile = spec.logFile ?? join(paths.logs, `${name.replaceAll('/', '-')}.log`);
  const env = spec.env ?? {};
  const inNode = 'node' in spec.place;
  const tracked = await spawnTracked([...enter(lab, spec.place), ...spec.argv], {
    logFile,
    env,
    cgroupProcs: cgroupProcs(cgroup),
    // Entering a pid namespace takes a fork.
    forks: how.forks ?? inNode,
  });
  const component = { ...tracked, argv: spec.argv, env, place: spec.place, logFile };
  lab.components[name] = component;
  writeRecord(lab);
  return component;
};

/** Ends one recorded process; one that is gone already is fine. */
export const endComponent = async (lab: LabRecord, name: string, signal: NodeJS.Signals = 'SIGTERM', graceMs?: number): Promise<void> => {
  const component = lab.components[name];
  if (component !== undefined && lab.bootId === bootId()) await endProcess(component, signal, graceMs);
};
