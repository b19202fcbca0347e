// What the agent takes of the machine, over time.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

export type Sample = {
  /** Seconds since the soak began. */
  readonly at: number;
  readonly pid: number;
  readonly rssMiB: number;
  /** The part of it that is no file's. */
  readonly anonMiB: number;
  readonly fds: number;
  readonly threads: number;
  /** CPU time used so far, seconds. */
  readonly cpuS: number;
};

const number = (text: string, pattern: RegExp): number => Number(pattern.exec(text)?.[1] ?? Number.NaN);

/** Reads what the kernel says of a process; undefined when it is gone. */
export const sampleOf = (pid: number, at: number): Sample | undefined => {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    // Fields 14 and 15 (utime, stime), counted after the name, which may hold anything; in hundredths of a second (USER_HZ).
    const [, user, system] = /\) (?:\S+ ){11}(\d+) (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? [];
    return {
      at,
      pid,
      rssMiB: number(status, /^VmRSS:\s+(\d+)/m) / 1024,
      anonMiB: number(status, /^RssAnon:\s+(\d+)/m) / 1024,
      fds: readdirSync(`/proc/${pid}/fd`).length,
      threads: number(status, /^Threads:\s+(\d+)/m),
      cpuS: (Number(user) + Number(system)) / 100,
    };
  } catch {
    return undefined; // between two lives
  }
};

/** How many of each kind of file descriptor a process holds: "socket", "pipe", "anon_inode:inotify", or a file's folder. */
export const descriptorKinds = (pid: number): Map<string, number> => {
  const kinds = new Map<string, number>();
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    let target: string;
    try {
      target = readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      continue; // closed meanwhile
    }
    const kind = target.startsWith('/') ? target : target.replace(/:?\[\d+\]$/, '');
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
  return kinds;
};

/** The slope of the least-squares line through [x, y] pairs; NaN for fewer than two. */
export const slopeOf = (points: readonly (readonly [number, number])[]): number => {
  const n = points.length;
  if (n < 2) return Number.NaN;
  const meanX = points.reduce((sum, [x]) => sum + x, 0) / n;
  const meanY = points.reduce((sum, [, y]) => sum + y, 0) / n;
  const above = points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0);
  const below = points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0);
  return below === 0 ? Number.NaN : above / below;
};
