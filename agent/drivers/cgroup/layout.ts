import type { MountEntry } from '../mounts/mountinfo.ts';

/** Where the machine's cgroup hierarchies are. On v1, one mount a controller (or a few together); on v2, one for all. */
export type CgroupLayout =
  | { readonly version: 1; readonly mountPoints: ReadonlyMap<string, string> }
  | { readonly version: 2; readonly mountPoint: string };

// The controllers that runc knows (opencontainers/cgroups/fs): it makes a directory in each that is mounted, so that is where a pod's must be removed.
const v1Controllers = new Set([
  'cpuset',
  'devices',
  'memory',
  'cpu',
  'cpuacct',
  'pids',
  'blkio',
  'hugetlb',
  'net_cls',
  'net_prio',
  'perf_event',
  'freezer',
  'rdma',
  'misc',
]);

/** The layout from the mount table; undefined when no cgroup file system is mounted. `root` is /sys/fs/cgroup. */
export function cgroupLayout(mounts: readonly MountEntry[], root: string): CgroupLayout | undefined {
  // Unified mode is when the root itself is a cgroup2 (opencontainers/cgroups IsCgroup2UnifiedMode); a cgroup2 below it is "hybrid", which counts as v1.
  const atRoot = mounts.findLast((entry) => entry.mountPoint === root);
  if (atRoot?.fsType === 'cgroup2') return { version: 2, mountPoint: root };
  const mountPoints = new Map<string, string>();
  for (const entry of mounts) {
    if (entry.fsType !== 'cgroup') continue;
    for (const option of entry.superOptions) {
      const name = option.startsWith('name=') ? option.slice('name='.length) : v1Controllers.has(option) ? option : undefined;
      if (name === undefined) continue;
      // A hierarchy may be mounted several times; kubelet takes the shortest path, so that both find the same (kubernetes#95488).
      const before = mountPoints.get(name);
      if (before === undefined || entry.mountPoint.length < before.length) mountPoints.set(name, entry.mountPoint);
    }
  }
  return mountPoints.size === 0 ? undefined : { version: 1, mountPoints };
}

/** The cgroup that /proc/PID/cgroup tells; undefined for the root, and on v1 when CPU and memory are counted in different ones. */
export function ownCgroup(text: string): string | undefined {
  const of = (controller: string): string | undefined =>
    text
      .split('\n')
      .map((line) => line.split(':'))
      .find(([, controllers = '']) => controllers.split(',').includes(controller))?.[2];
  // The hybrid layout has "0::" besides.
  const cpu = of('cpu');
  const found = cpu === undefined ? of('') : cpu === of('memory') ? cpu : undefined;
  return found === '/' ? undefined : found;
}
