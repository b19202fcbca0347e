// What there is on a lab's node at one moment, so that a test can say in words what it has left behind, or taken away from others.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { cgroupsBelow, processesIn } from './cgroups.ts';
import { run } from './images-debian.ts';
import { openLab } from './lab.ts';
import { type LabRecord, labPaths } from './record.ts';
import { ensureRuntime } from './runtimes.ts';

/** By kind ("mount", "cgroup", …): what there is, a line of text each. */
export type Inventory = ReadonlyMap<string, ReadonlySet<string>>;

const linesOf = (text: string): string[] => text.split('\n').filter((line) => line !== '');

/** Containers (sandboxes are containers too) and tasks in all of containerd's namespaces, also those the CRI plugin knows nothing of. */
const containersAndTasks = async (ctr: string, socket: string): Promise<{ containers: string[]; tasks: string[] }> => {
  const ask = async (...args: string[]): Promise<string[]> => linesOf(await run(ctr, ['--address', socket, '--timeout', '20s', ...args]));
  const containers: string[] = [];
  const tasks: string[] = [];
  for (const namespace of await ask('namespaces', 'ls', '-q')) {
    for (const id of await ask('--namespace', namespace, 'containers', 'ls', '-q')) containers.push(`${namespace}/${id}`);
    // "ID PID STATUS" below a heading. A task that has ended and is not removed is a leftover too.
    for (const line of (await ask('--namespace', namespace, 'tasks', 'ls')).slice(1)) {
      const [id, , status] = line.split(/\s+/);
      tasks.push(`${namespace}/${id} ${status}`);
    }
  }
  return { containers, tasks };
};

/** Full paths of what is below a folder, down to `depth` levels; what goes away meanwhile is not there. */
const filesBelow = (folder: string, depth: number): string[] => {
  if (!existsSync(folder)) return [];
  const found: string[] = [];
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    found.push(path);
    if (depth > 1 && entry.isDirectory()) found.push(...filesBelow(path, depth - 1));
  }
  return found;
};

/** Every mount in the mount namespace of `pid`; those of network namespaces apart. */
const mountsOf = (pid: number): { mounts: string[]; namespaces: string[] } => {
  const mounts: string[] = [];
  const namespaces: string[] = [];
  const counts = new Map<string, number>();
  for (const line of linesOf(readFileSync(`/proc/${pid}/mountinfo`, 'utf8'))) {
    const mountPoint = line.split(' ')[4];
    const type = line.split(' - ')[1]?.split(' ')[0];
    const count = (counts.get(mountPoint ?? '') ?? 0) + 1;
    counts.set(mountPoint ?? '', count);
    // Two mounts on one path are two: the upper one hides the other, and must not hide it from us.
    (type === 'nsfs' ? namespaces : mounts).push(`${mountPoint} (${type}${count > 1 ? `, the ${count}. on this path` : ''})`);
  }
  return { mounts, namespaces };
};

/** Empty for one that has ended meanwhile. */
const commandLine = (pid: number): string => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
  } catch {
    return '';
  }
};

/** The nft that a living agent or proxy keeps while it has something to say to it. One whose parent has died is left behind. */
const isProxyHelper = (pid: number): boolean => {
  if (!/(^|\/)nft -i$/.test(commandLine(pid))) return false;
  try {
    const parent = /^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '0';
    return / (run|proxy) .*--(proxy-)?config=/.test(commandLine(Number(parent)));
  } catch {
    return true; // ended meanwhile
  }
};

/** Command lines of the processes in the node's cgroups, but for the components of the lab: those may be restarted. */
const processesOf = (lab: LabRecord, node: string): string[] => {
  const paths = labPaths(lab.name);
  const components = Object.entries(lab.components).filter(([name]) => name.startsWith(`${node}/`));
  const own = new Set(components.map(([, { pid }]) => pid));
  return (
    [paths.node(node).cgroup, ...components.map(([name]) => `${paths.cgroup}/sys/${name.replaceAll('/', '-')}`)]
      .flatMap((cgroup) => processesIn(cgroup))
      .filter((pid) => !own.has(pid) && !isProxyHelper(pid))
      .map(commandLine)
      .filter((text) => text !== '')
      // What has put a component into the node's namespaces waits for its end; the command line of the holder's own is its whole script.
      .filter((text) => !text.startsWith('nsenter ') && !text.startsWith('unshare ') && text !== 'sleep infinity')
  );
};

/**
 * Takes stock of a node: containers and tasks of every containerd namespace, network namespaces, network devices, addresses and host ports given to pods, mounts,
 * cgroups, processes, and the files of the agent, of containerd's CRI plugin and of pods' logs. containerd has to be up.
 */
export const takeInventory = async (name: string, node: string): Promise<Inventory> => {
  // Read anew: restarts give components other pids.
  const lab = openLab(name);
  const { home, run: runFolder, socket, cgroup } = labPaths(name).node(node);
  const holder = lab.components[`${node}/holder`];
  if (holder === undefined) throw new Error(`lab ${name} has no node ${node}`);
  const { ctr } = await ensureRuntime(lab.runtime);
  const inNetwork = (...command: string[]): Promise<string> => run('nsenter', ['--target', String(holder.pid), '--net', '--', ...command]);
  const [{ containers, tasks }, links, ...rules] = await Promise.all([
    containersAndTasks(ctr, socket),
    inNetwork('ip', '-oneline', 'link', 'show'),
    inNetwork('iptables-save', '--table', 'nat'),
    inNetwork('ip6tables-save', '--table', 'nat'),
  ]);
  // The machine's other mounts, among them those of other labs, are copied into each node at its start, and come and go there as they like.
  const own = [`${runFolder}/`, `${home}/`, '/var/lib/kubelet/', '/var/lib/keelson/', '/run/keelson/', '/run/containerd/'];
  const isOwn = (mount: string): boolean => own.some((folder) => mount.startsWith(folder));
  const { mounts, namespaces } = mountsOf(holder.pid);
  const state = join(runFolder, 'containerd-state');
  const found: Record<string, string[]> = {
    container: containers,
    task: tasks,
    'network namespace': [...namespaces.filter(isOwn), ...filesBelow(join(state, 'io.containerd.grpc.v1.cri', 'netns'), 1)],
    // "7: veth1a2b@if2: <…"
    'network device': linesOf(links).map((line) => line.split(': ')[1]?.split('@')[0] ?? line),
    // Chains of the CNI plugin for one pod's host ports each.
    'host port rule': rules.flatMap(linesOf).filter((line) => /^-A CNI-(DN|SN)-/.test(line)),
    'pod address': [...filesBelow(join(home, 'cni', 'networks'), 2), ...filesBelow(join(home, 'cni', 'results'), 1)].filter(
      // host-local's notes of what it gave out last
      (path) => !/\/(last_reserved_ip\.\d+|lock)$/.test(path),
    ),
    mount: mounts.filter(isOwn),
    cgroup: cgroupsBelow(cgroup),
    process: processesOf(lab, node),
    'pod folder': filesBelow(join(home, 'kubelet', 'pods'), 1),
    'file of the agent': filesBelow(join(home, 'kubelet'), 3).filter((path) => !path.startsWith(join(home, 'kubelet', 'pods', ''))),
    'pod log': filesBelow(join(home, 'pod-logs'), 1),
    'container log link': filesBelow(join(home, 'container-logs'), 1),
    'file of the runtime': [
      ...filesBelow(join(state, 'io.containerd.runtime.v2.task'), 2),
      ...filesBelow(join(state, 'io.containerd.grpc.v1.cri'), 2),
      ...filesBelow(join(state, 'runc'), 2),
      ...filesBelow(join(home, 'containerd', 'io.containerd.grpc.v1.cri'), 2),
      ...filesBelow(join(home, 'containerd', 'io.containerd.runtime.v2.task'), 2),
    ],
  };
  return new Map(Object.entries(found).map(([kind, all]) => [kind, new Set(all)]));
};

/**
 * True for what containerd no longer knows of: shims and runc's notes of its containers, and network namespaces when no container but those before is
 * left that could have one. It loses the first when its caller goes away in the middle of a start ("cleaning up dead shim", and the shim lives on: with
 * upstream's kubelet here, eighteen and more are left), and all of them when it is ended itself while it makes a sandbox. A task's folder is called `.ID`
 * while containerd removes it, and is never looked at again when it is ended itself meanwhile (its atomicDelete, and loadTasks, which skips such names).
 */
export const isLostByRuntime = (line: string, before: Inventory, now: Inventory): boolean => {
  const id =
    /^process left behind: \S+\/containerd-shim-runc-v2 -namespace k8s\.io -id ([0-9a-f]{64}) /.exec(line)?.[1] ??
    /^file of the runtime left behind: \S+\/containerd-state\/runc\/k8s\.io\/([0-9a-f]{64})$/.exec(line)?.[1] ??
    /^file of the runtime left behind: \S+\/io\.containerd\.runtime\.v2\.task\/k8s\.io\/\.([0-9a-f]{64})$/.exec(line)?.[1];
  if (id !== undefined) return now.get('container')?.has(`k8s.io/${id}`) === false;
  const isNetns =
    /^(network namespace|file of the runtime) left behind: \S+\/io\.containerd\.grpc\.v1\.cri\/netns\/cni-[0-9a-f-]{36}( \(nsfs\))?$/;
  return isNetns.test(line) && [...(now.get('container') ?? [])].every((container) => before.get('container')?.has(container) === true);
};

/** What came and what went between two inventories, a line each ("mount left behind: …"); nothing when they are equal. */
export const compareInventories = (before: Inventory, after: Inventory): string[] => {
  const words: string[] = [];
  for (const kind of new Set([...before.keys(), ...after.keys()])) {
    const had = before.get(kind) ?? new Set();
    const has = after.get(kind) ?? new Set();
    for (const each of has) if (!had.has(each)) words.push(`${kind} left behind: ${each}`);
    for (const each of had) if (!has.has(each)) words.push(`${kind} gone: ${each}`);
  }
  return words;
};
