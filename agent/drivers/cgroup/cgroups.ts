import fs from 'node:fs';
import path from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { AgentError } from '../../base/errors.ts';
import { readMountinfo } from '../mounts/mounts.ts';
import { fromFsError, isErrno } from '../sys/errno.ts';
import { cgroupLayout } from './layout.ts';
import { type CgroupValues, type CgroupWrite, cgroupWrites } from './values.ts';

/** The machine's cgroups. Paths are absolute from the hierarchy's root: `/kubepods/burstable/pod1234`. Every method throws AgentError. */
export interface Cgroups {
  readonly version: 1 | 2;
  /** Controllers of this machine: mounted on v1, in the root's cgroup.controllers on v2. */
  readonly controllers: ReadonlySet<string>;
  /** True when it is there in every hierarchy that the node uses. */
  exists(cgroup: string): Promise<boolean>;
  /** Makes the cgroup and its parents in every hierarchy, then sets the values. Existence is success. */
  create(cgroup: string, values: CgroupValues, signal: AbortSignal): Promise<void>;
  /** Sets values of a cgroup that exists. Throws NotFound when it does not, Busy when more memory is in use than a new limit allows. */
  set(cgroup: string, values: CgroupValues, signal: AbortSignal): Promise<void>;
  /** Removes the cgroup with everything below it; absence is success. Throws Busy when processes stay in it until the signal aborts. */
  remove(cgroup: string, signal: AbortSignal): Promise<void>;
  /** Names of the direct children, over all hierarchies. */
  children(cgroup: string): Promise<string[]>;
  /** The processes in it and below it, over all hierarchies. */
  pids(cgroup: string): Promise<number[]>;
  /** Moves a process into it in every hierarchy, making it and its parents when they are not there. On v2 it is to hold processes, not cgroups. */
  adopt(cgroup: string, pid: number, signal: AbortSignal): Promise<void>;
  /** Bytes charged to it; undefined when it does not exist. */
  memoryUsage(cgroup: string): Promise<number | undefined>;
  /** The content of one of its files (v1: in the hierarchy of `controller`), trimmed; undefined when there is none. */
  read(cgroup: string, controller: string, file: string): Promise<string | undefined>;
  /** Huge page sizes of the kernel as cgroup files name them: `2MB`, `1GB`. */
  readonly hugePageSizes: readonly string[];
}

// Those that must be there for a cgroup to count as there; others come and go with runc (pkg/kubelet/cm/cgroup_v1_manager_linux.go, cgroup_v2_…).
const neededV1 = ['cpu', 'cpuacct', 'cpuset', 'memory', 'systemd', 'pids', 'hugetlb'];
const neededV2 = ['cpu', 'cpuset', 'memory', 'hugetlb', 'pids'];

/** Looks at the machine's cgroup mounts once. Throws AgentError NotSupported when there are none. */
export async function openCgroups(clock: Clock, root = '/sys/fs/cgroup'): Promise<Cgroups> {
  const layout = cgroupLayout(await readMountinfo(), root);
  if (layout === undefined) {
    throw new AgentError('NotSupported', `no cgroup file system is mounted below ${root}; mount one (cgroup2 on ${root}) and start again`);
  }
  const hugePageSizes = await listHugePageSizes();
  const controllers =
    layout.version === 1
      ? new Set(layout.mountPoints.keys())
      : new Set((await fs.promises.readFile(path.join(root, 'cgroup.controllers'), 'utf8')).trim().split(/\s+/));
  // v1: each controller once by its mount point (cpu and cpuacct may share one).
  const hierarchies = layout.version === 1 ? [...new Set(layout.mountPoints.values())] : [layout.mountPoint];

  function directory(controller: string, cgroup: string): string | undefined {
    const mountPoint = layout?.version === 1 ? layout.mountPoints.get(controller) : root;
    return mountPoint === undefined ? undefined : path.join(mountPoint, cgroup);
  }

  async function write({ controller, file, value, optional }: CgroupWrite, cgroup: string): Promise<void> {
    const at = controllers.has(controller) || file.startsWith('cgroup.') ? directory(controller, cgroup) : undefined;
    if (at === undefined) {
      if (optional === true) return;
      throw new AgentError('NotSupported', `cannot set ${file} of cgroup ${cgroup}: this kernel has no ${controller} controller mounted`);
    }
    try {
      await fs.promises.writeFile(path.join(at, file), value);
    } catch (error) {
      if (optional === true && isErrno(error, 'ENOENT')) return;
      throw fromFsError(error, `cannot write ${value} to ${file} of cgroup ${cgroup}`);
    }
  }

  async function set(cgroup: string, values: CgroupValues, signal: AbortSignal): Promise<void> {
    const writes = cgroupWrites(values, layout?.version ?? 2);
    // One controller's files in order, controllers side by side.
    const byController = Map.groupBy(writes, (w) => w.controller);
    await Promise.all(
      [...byController.values()].map(async (own) => {
        for (const one of own) {
          signal.throwIfAborted();
          await write(one, cgroup).catch(async (error: unknown) => {
            // A period whose ratio to the old quota is out of range (or beyond the parent's) is refused; then the quota goes first (opencontainers/cgroups fs/cpu.go).
            const quota = own.find((w) => w.file === 'cpu.cfs_quota_us');
            if (one.file !== 'cpu.cfs_period_us' || quota === undefined || !isErrno(error, 'EINVAL')) throw error;
            await write(quota, cgroup);
            await write(one, cgroup);
          });
        }
      }),
    );
  }

  async function makeV2(cgroup: string): Promise<void> {
    let at = root;
    for (const name of cgroup.split('/').filter((segment) => segment !== '')) {
      await enableControllers(at);
      at = path.join(at, name);
      await makeDirectory(at);
    }
    // A pod's containers need the controllers too, and runc expects its parent to hand them down.
    await enableControllers(at);
  }

  async function makeDirectoriesEverywhere(cgroup: string): Promise<void> {
    const cpuset = layout?.version === 1 ? layout.mountPoints.get('cpuset') : undefined;
    await Promise.all(
      hierarchies.map((mountPoint) => (mountPoint === cpuset ? makeCpuset(mountPoint, cgroup) : makeDirectories(mountPoint, cgroup))),
    );
  }

  async function enableControllers(at: string): Promise<void> {
    const available = (await fs.promises.readFile(path.join(at, 'cgroup.controllers'), 'utf8')).trim().split(/\s+/);
    const enabled = new Set((await fs.promises.readFile(path.join(at, 'cgroup.subtree_control'), 'utf8')).trim().split(/\s+/));
    const missing = available.filter((name) => name !== '' && !enabled.has(name));
    if (missing.length === 0) return;
    try {
      await fs.promises.writeFile(path.join(at, 'cgroup.subtree_control'), missing.map((name) => `+${name}`).join(' '));
    } catch {
      // One controller that cannot be enabled must not keep the others back; the values that need it fail with their own message.
      for (const name of missing) await fs.promises.writeFile(path.join(at, 'cgroup.subtree_control'), `+${name}`).catch(() => undefined);
    }
  }

  return {
    version: layout.version,
    controllers,
    hugePageSizes,
    async exists(cgroup) {
      if (layout.version === 2) {
        const text = await readIfAny(path.join(root, cgroup, 'cgroup.controllers'));
        if (text === undefined) return false;
        const own = new Set(text.split(/\s+/));
        return neededV2.every((name) => !controllers.has(name) || own.has(name));
      }
      const needed = neededV1.flatMap((name) => directory(name, cgroup) ?? []);
      return (await Promise.all(needed.map(isDirectory))).every(Boolean);
    },
    async create(cgroup, values, signal) {
      signal.throwIfAborted();
      if (layout.version === 2) await makeV2(cgroup);
      else await makeDirectoriesEverywhere(cgroup);
      await set(cgroup, values, signal);
    },
    set,
    async remove(cgroup, signal) {
      // The hybrid layout has a cgroup2 besides; runc and systemd make directories there too.
      const all = layout.version === 1 ? [...hierarchies, path.join(root, 'unified')] : hierarchies;
      await Promise.all(all.map((mountPoint) => removeTree(path.join(mountPoint, cgroup), clock, signal)));
    },
    async children(cgroup) {
      const lists = await Promise.all(hierarchies.map((mountPoint) => subdirectories(path.join(mountPoint, cgroup))));
      return [...new Set(lists.flat())].sort();
    },
    async pids(cgroup) {
      const lists = await Promise.all(hierarchies.map((mountPoint) => pidsBelow(path.join(mountPoint, cgroup))));
      return [...new Set(lists.flat())].sort((a, b) => a - b);
    },
    async adopt(cgroup, pid, signal) {
      signal.throwIfAborted();
      // A v2 cgroup that hands controllers down takes no process: only its parents do that.
      if (layout.version === 2) await makeV2(path.dirname(cgroup));
      await makeDirectoriesEverywhere(cgroup);
      for (const mountPoint of hierarchies) {
        try {
          await fs.promises.writeFile(path.join(mountPoint, cgroup, 'cgroup.procs'), String(pid));
        } catch (error) {
          throw fromFsError(error, `cannot move process ${pid} into cgroup ${cgroup} in ${mountPoint}`);
        }
      }
    },
    async memoryUsage(cgroup) {
      const at = directory('memory', cgroup);
      if (at === undefined) return undefined;
      const text = await readIfAny(path.join(at, layout.version === 1 ? 'memory.usage_in_bytes' : 'memory.current'));
      return text === undefined ? undefined : Number(text);
    },
    async read(cgroup, controller, file) {
      const at = directory(controller, cgroup);
      return at === undefined ? undefined : readIfAny(path.join(at, file));
    },
  };
}

async function makeDirectory(at: string): Promise<void> {
  try {
    await fs.promises.mkdir(at, { mode: 0o755 });
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw fromFsError(error, `cannot create cgroup ${at}`);
  }
}

async function makeDirectories(mountPoint: string, cgroup: string): Promise<void> {
  try {
    await fs.promises.mkdir(path.join(mountPoint, cgroup), { recursive: true, mode: 0o755 });
  } catch (error) {
    throw fromFsError(error, `cannot create cgroup ${cgroup} in ${mountPoint}`);
  }
}

/**
 * A new v1 cpuset has no CPUs and no memory nodes and takes no process: each level gets its parent's. Only the levels that are missing are looked at, and the
 * one above them, since pods start in a cgroup whose parents are all there.
 */
async function makeCpuset(mountPoint: string, cgroup: string): Promise<void> {
  // The root has them all.
  if (cgroup === '/' || cgroup === '') return;
  const at = path.join(mountPoint, cgroup);
  const parent = path.dirname(cgroup);
  const read = async (where: string, file: string): Promise<string> =>
    (await fs.promises.readFile(path.join(mountPoint, where, file), 'utf8')).trim();
  try {
    await fs.promises.mkdir(at, { mode: 0o755 }).catch(async (error: unknown) => {
      if (isErrno(error, 'EEXIST')) return;
      if (!isErrno(error, 'ENOENT')) throw error;
      await makeCpuset(mountPoint, parent);
      await makeDirectory(at);
    });
    for (const file of ['cpuset.cpus', 'cpuset.mems']) {
      if ((await read(cgroup, file)) !== '') continue;
      // Somebody has made the parent and not filled it: it goes first.
      if ((await read(parent, file)) === '') await makeCpuset(mountPoint, parent);
      await fs.promises.writeFile(path.join(at, file), await read(parent, file));
    }
  } catch (error) {
    throw error instanceof AgentError ? error : fromFsError(error, `cannot create cgroup ${cgroup} in ${mountPoint}`);
  }
}

async function removeTree(at: string, clock: Clock, signal: AbortSignal): Promise<void> {
  for (const child of await subdirectories(at)) await removeTree(path.join(at, child), clock, signal);
  // A process that has been killed leaves its cgroup a moment later, and v1 tells nobody: try again, first after 5 ms, later every 160.
  for (let delayMs = 5; ; delayMs = Math.min(delayMs * 2, 160)) {
    try {
      await fs.promises.rmdir(at);
      return;
    } catch (error) {
      if (isErrno(error, 'ENOENT', 'ENOTDIR')) return;
      if (!isErrno(error, 'EBUSY')) throw fromFsError(error, `cannot remove cgroup ${at}`);
      try {
        await clock.sleep(delayMs, signal);
      } catch {
        throw new AgentError('Busy', `cannot remove cgroup ${at}: processes or cgroups are still in it`, { cause: error });
      }
      for (const child of await subdirectories(at)) await removeTree(path.join(at, child), clock, signal);
    }
  }
}

async function subdirectories(at: string): Promise<string[]> {
  try {
    return (await fs.promises.readdir(at, { withFileTypes: true })).filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch (error) {
    // ENODEV: the cgroup went away while its directory was open.
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'ENODEV')) return [];
    throw fromFsError(error, `cannot list cgroup ${at}`);
  }
}

async function pidsBelow(at: string): Promise<number[]> {
  const text = await readIfAny(path.join(at, 'cgroup.procs'));
  const own = (text ?? '').split('\n').filter((line) => line !== '');
  const below = await Promise.all((await subdirectories(at)).map((child) => pidsBelow(path.join(at, child))));
  return [...own.map(Number), ...below.flat()];
}

async function isDirectory(at: string): Promise<boolean> {
  try {
    return (await fs.promises.stat(at)).isDirectory();
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return false;
    throw fromFsError(error, `cannot look at cgroup ${at}`);
  }
}

async function readIfAny(at: string): Promise<string | undefined> {
  try {
    return (await fs.promises.readFile(at, 'utf8')).trim();
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'ENODEV')) return undefined;
    throw fromFsError(error, `cannot read ${at}`);
  }
}

/** /sys/kernel/mm/hugepages/hugepages-2048kB → `2MB`. */
async function listHugePageSizes(): Promise<string[]> {
  try {
    const names = await fs.promises.readdir('/sys/kernel/mm/hugepages');
    return names.flatMap((name) => {
      const kib = /^hugepages-(\d+)kB$/.exec(name)?.[1];
      return kib === undefined ? [] : [hugePageSizeName(Number(kib))];
    });
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw fromFsError(error, 'cannot list huge page sizes');
  }
}

function hugePageSizeName(kib: number): string {
  if (kib >= 1 << 20) return `${kib >> 20}GB`;
  if (kib >= 1 << 10) return `${kib >> 10}MB`;
  return `${kib}KB`;
}
