// The lab's own cgroups, below /keelson-lab/NAME in every hierarchy of the machine: everything a lab runs is in them, which is how leftovers are found.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdir, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { waitFor } from './wait.ts';

/** `type` is "cgroup" or "cgroup2"; `options` say which hierarchy of v1 it is: "memory", "none,name=systemd". */
export type CgroupMount = { point: string; type: string; options: string };

/** The machine's cgroup hierarchies out of /proc/mounts: one on cgroup v2, one for each controller on v1. */
export const parseCgroupMounts = (text: string): CgroupMount[] =>
  text
    .split('\n')
    .map((line) => line.split(' '))
    .flatMap(([, point = '', type = '', options = '']) => {
      if (type === 'cgroup2') return [{ point, type, options: 'rw' }];
      if (type !== 'cgroup') return [];
      // What is left after the options that any mount may have, and those of how a hierarchy is run.
      const which = options
        .split(',')
        .filter((each) => !/^(rw|ro|nosuid|nodev|noexec|\w+atime|xattr|seclabel|clone_children|release_agent=.*)$/.test(each));
      return [{ point, type, options: [...(which.some((each) => each.startsWith('name=')) ? ['none'] : []), ...which].join(',') }];
    });

export const cgroupMounts = (): CgroupMount[] => parseCgroupMounts(readFileSync('/proc/self/mounts', 'utf8'));

/** Their mount points. */
const hierarchies = (): string[] => cgroupMounts().map(({ point }) => point);

export const parentCgroup = '/keelson-lab';

const readTrimmed = (file: string): string => readFileSync(file, 'utf8').trim();

/** Makes the cgroup `path` (such as "/keelson-lab/a/n1") in every hierarchy. */
export const makeCgroup = async (path: string): Promise<void> => {
  for (const mount of hierarchies()) {
    let folder = mount;
    for (const part of path.split('/').filter((each) => each !== '')) {
      const parent = folder;
      folder = join(folder, part);
      await mkdir(folder, { recursive: true });
      // A v1 cpuset starts empty, and takes no process until it is given CPUs and memory nodes.
      for (const file of ['cpuset.cpus', 'cpuset.mems']) {
        if (!existsSync(join(mount, 'cgroup.sane_behavior')) || !existsSync(join(folder, file))) continue;
        if (readTrimmed(join(folder, file)) === '') writeFileSync(join(folder, file), readTrimmed(join(parent, file)));
      }
    }
  }
};

/** The files to write to for joining `path` in every hierarchy. */
export const cgroupProcs = (path: string): string[] => hierarchies().map((mount) => join(mount, path, 'cgroup.procs'));

const below = (folder: string): string[] => {
  if (!existsSync(folder)) return [];
  const inner = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return [...inner.flatMap((entry) => below(join(folder, entry.name))), folder];
};

/** Every cgroup below `path`, in every hierarchy: full paths of their folders. */
export const cgroupsBelow = (path: string): string[] =>
  hierarchies().flatMap((mount) => below(join(mount, path)).filter((folder) => folder !== join(mount, path)));

/** Every process in `path` and below it, in any hierarchy. */
export const processesIn = (path: string): number[] => {
  const pids = new Set<number>();
  for (const mount of hierarchies())
    for (const folder of below(join(mount, path))) {
      try {
        for (const line of readFileSync(join(folder, 'cgroup.procs'), 'utf8').split('\n'))
          if (line !== '' && line !== '0') pids.add(Number(line));
      } catch {
        // removed while we looked
      }
    }
  return [...pids];
};

/** Kills every process in `path` and below, then removes the cgroups; absence is success. */
export const removeCgroup = async (path: string): Promise<void> => {
  await waitFor(`the processes in cgroup ${path} to end`, 30_000, () => {
    const pids = processesIn(path);
    for (const pid of pids) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // gone meanwhile
      }
    }
    return pids.length === 0 ? true : undefined;
  });
  // The kernel lets go of a just emptied cgroup a moment later.
  for (const mount of hierarchies())
    for (const folder of below(join(mount, path)))
      await waitFor(`cgroup ${folder} to be removable`, 10_000, async () => {
        await rmdir(folder).catch((error: NodeJS.ErrnoException) => {
          if (error.code !== 'ENOENT') throw error;
        });
        return true;
      });
  for (const mount of hierarchies()) {
    // Other labs may be in the parent; the last one out removes it.
    await rmdir(join(mount, parentCgroup)).catch(() => {});
  }
};
