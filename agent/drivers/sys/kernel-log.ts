import fs from 'node:fs';
import { fromFsError, isErrno } from './errno.ts';

/** Processes that the kernel killed for want of memory, as one read of its log names them. */
export interface OomKills {
  /** By container ID: how many of its processes, and the last one. */
  readonly containers: ReadonlyMap<string, { readonly count: number; readonly process: string; readonly pid: number }>;
  /** Kills because the whole machine had no memory left. */
  readonly system: readonly { readonly sequence: number; readonly process: string; readonly pid: number }[];
}

/** The kernel's log (/dev/kmsg): each message is read once, and never waited for. */
export interface KernelLog extends Disposable {
  /** What has been logged since the last call; the first call tells all that the kernel still has. */
  read(): OomKills;
}

// A record is `priority,sequence,microseconds,flags;text`, then lines of key=value that begin with a space (Documentation/ABI/testing/dev-kmsg).
// The kernel's own have facility 0, a priority below 8; what a process writes there never has (kernel/printk/printk.c, devkmsg_write).
const record = /^[0-7],(\d+),\d+,[^;]*;([^\n]*)/;
// mm/oom_kill.c dump_oom_victim (5.0 and later): `oom_memcg=/a` or `global_oom`, then whose process it is. Rate-limited to ten in five seconds.
const victimLine = /^oom-kill:constraint=[^,]*,.*?,(global_oom|oom_memcg=[^,]*),task_memcg=(.*),task=.*,pid=\d+,uid=\d+$/;
// mm/memcontrol.c mem_cgroup_print_oom_group: all processes of this cgroup go with the first one (memory.oom.group).
const groupLine = /^Tasks in (.+) are going to be killed due to memory\.oom\.group set$/;
// mm/oom_kill.c __oom_kill_process, for each process, never rate-limited: `Memory cgroup out of memory: Killed process 7 (sh) total-vm:…`.
const killedLine = /\bKilled process (\d+) \((.*?)\)(?:,? |$)/;

/** `/kubepods.slice/…/cri-containerd-<id>.scope`, `/kubepods/…/<id>`, or a cgroup that the container has made below: its ID. */
function containerIdOf(cgroup: string): string | undefined {
  return /(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])/.exec(cgroup)?.[0];
}

/** Puts together what records tell of OOM kills. Keeps its place between calls: one kill is told by several records. */
export function createOomParser(): (records: readonly string[]) => OomKills {
  let victim: { readonly containerId: string | undefined; readonly system: boolean; readonly group: boolean; left: number } | undefined;
  return (records) => {
    const containers = new Map<string, { count: number; process: string; pid: number }>();
    const system: { sequence: number; process: string; pid: number }[] = [];
    for (const one of records) {
      const [, sequence = '', text = ''] = record.exec(one) ?? [];
      const [, domain, task] = victimLine.exec(text) ?? [];
      if (domain !== undefined) {
        const isSystem = domain === 'global_oom' || domain === 'oom_memcg=/';
        victim = { containerId: containerIdOf(task ?? ''), system: isSystem, group: false, left: 1 };
        continue;
      }
      const group = groupLine.exec(text)?.[1];
      if (group !== undefined) {
        victim = { containerId: containerIdOf(group), system: victim?.system ?? false, group: true, left: 0 };
        continue;
      }
      const [, pid, process = ''] = killedLine.exec(text) ?? [];
      if (pid === undefined || victim === undefined || !(victim.group || victim.left > 0)) continue;
      victim.left--;
      const { containerId } = victim;
      if (containerId !== undefined)
        containers.set(containerId, { count: (containers.get(containerId)?.count ?? 0) + 1, process, pid: Number(pid) });
      if (victim.system) system.push({ sequence: Number(sequence), process, pid: Number(pid) });
    }
    return { containers, system };
  };
}

const longestRecord = 8192; // kernel/printk PRINTK_MESSAGE_MAX is 2048; older kernels' records are up to 8 KiB.
// A ring of the largest size that kernels are built with holds fewer.
const mostRecords = 100_000;

/** Opens the kernel's log. Throws AgentError: PermissionDenied without CAP_SYSLOG, NotFound in a container without the device. */
export function openKernelLog(path = '/dev/kmsg'): KernelLog {
  let fd: number;
  try {
    fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  } catch (error) {
    throw fromFsError(error, `cannot open the kernel's log ${path}`);
  }
  const buffer = Buffer.alloc(longestRecord);
  const parse = createOomParser();
  return {
    read() {
      const records: string[] = [];
      while (records.length < mostRecords) {
        try {
          const length = fs.readSync(fd, buffer, 0, longestRecord, null);
          if (length === 0) break;
          records.push(buffer.toString('utf8', 0, length));
        } catch (error) {
          if (isErrno(error, 'EAGAIN')) break;
          // Messages were overwritten before they were read: the next read begins at the oldest one there is.
          if (!isErrno(error, 'EPIPE')) throw fromFsError(error, `cannot read the kernel's log ${path}`);
        }
      }
      return parse(records);
    },
    [Symbol.dispose]: () => fs.closeSync(fd),
  };
}
