import { mkdir } from 'node:fs/promises';
import type { Clock } from '../../base/clock.ts';
import { openCgroups } from '../../drivers/cgroup/cgroups.ts';
import { cgroupLayout } from '../../drivers/cgroup/layout.ts';
import { readMountinfo } from '../../drivers/mounts/mounts.ts';
import { isErrno } from '../../drivers/sys/errno.ts';
import { standalone } from './paths.ts';

const cgroupRoot = '/sys/fs/cgroup';

/**
 * Makes our cgroup and one in it for a daemon (`agent`, `containerd`): what is up is all in one place, which is how `down` finds what is left. Resolves to
 * the cgroup.procs files to join.
 */
export async function ensureDaemonCgroup(name: string, clock: Clock, signal: AbortSignal): Promise<string[]> {
  const cgroups = await openCgroups(clock, cgroupRoot);
  const layout = cgroupLayout(await readMountinfo(), cgroupRoot);
  await cgroups.create(standalone.cgroup, {}, signal);
  const cgroup = `${standalone.cgroup}/${name}`;
  if (layout === undefined || layout.version === 2) {
    const folder = `${cgroupRoot}${cgroup}`;
    // Made by hand: a cgroup whose controllers are handed down may hold no processes itself.
    await mkdir(folder).catch((error: unknown) => {
      if (!isErrno(error, 'EEXIST')) throw error;
    });
    return [`${folder}/cgroup.procs`];
  }
  await cgroups.create(cgroup, {}, signal);
  return [...new Set(layout.mountPoints.values())].map((mountPoint) => `${mountPoint}${cgroup}/cgroup.procs`);
}

const pollMs = 25;
const endDeadlineMs = 20_000;

/** Kills whatever is left in our cgroups and removes them; resolves to how many processes there were. Absence is success. */
export async function clearCgroups(clock: Clock, signal: AbortSignal): Promise<number> {
  const cgroups = await openCgroups(clock, cgroupRoot);
  const killed = new Set<number>();
  const until = clock.mono() + endDeadlineMs;
  for (;;) {
    const pids = (await cgroups.pids(standalone.cgroup)).filter((pid) => pid !== process.pid);
    if (pids.length === 0 || clock.mono() > until) break;
    for (const pid of pids) {
      killed.add(pid);
      try {
        process.kill(pid, 'SIGKILL');
      } catch (error) {
        if (!isErrno(error, 'ESRCH')) throw error;
      }
    }
    await clock.sleep(pollMs, signal);
  }
  using deadline = clock.deadline(signal, endDeadlineMs);
  await cgroups.remove(standalone.cgroup, deadline.signal);
  return killed.size;
}
