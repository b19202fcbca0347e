import { ownValue } from '../base/own.ts';
import type { CpuStats, IoStats, MemoryStats, PsiStats, SwapStats } from './summary.ts';

/** What a cgroup's files say at one moment. */
export interface CgroupReading {
  /** Wall, ms. */
  readonly at: number;
  /** CPU time used so far, ns. */
  readonly cpuNs: number | undefined;
  readonly memory: Omit<MemoryStats, 'time' | 'availableBytes' | 'psi'> | undefined;
  /** Bytes; undefined: no limit. */
  readonly memoryLimit: number | undefined;
  readonly swapBytes: number | undefined;
  readonly swapLimit: number | undefined;
  readonly processes: readonly number[];
  readonly psi: { readonly cpu?: PsiStats | undefined; readonly memory?: PsiStats | undefined; readonly io?: PsiStats | undefined };
}

interface CgroupFile {
  readonly controller: string;
  readonly file: string;
}

const memoryFiles: Readonly<Record<1 | 2, readonly CgroupFile[]>> = {
  1: [
    { controller: 'memory', file: 'memory.usage_in_bytes' },
    { controller: 'memory', file: 'memory.stat' },
    { controller: 'memory', file: 'memory.limit_in_bytes' },
  ],
  2: [
    { controller: 'memory', file: 'memory.current' },
    { controller: 'memory', file: 'memory.stat' },
    { controller: 'memory', file: 'memory.max' },
  ],
};

/** The files to read, by cgroup version: those of memory alone, or all. */
export const cgroupFiles: Readonly<Record<1 | 2, { readonly memory: readonly CgroupFile[]; readonly all: readonly CgroupFile[] }>> = {
  1: {
    memory: memoryFiles[1],
    all: [
      ...memoryFiles[1],
      { controller: 'memory', file: 'memory.memsw.limit_in_bytes' },
      { controller: 'cpuacct', file: 'cpuacct.usage' },
      { controller: 'memory', file: 'cgroup.procs' },
    ],
  },
  2: {
    memory: memoryFiles[2],
    all: [
      ...memoryFiles[2],
      { controller: 'memory', file: 'memory.swap.current' },
      { controller: 'memory', file: 'memory.swap.max' },
      { controller: 'memory', file: 'memory.pressure' },
      { controller: 'cpu', file: 'cpu.stat' },
      { controller: 'cpu', file: 'cpu.pressure' },
      { controller: 'io', file: 'io.pressure' },
      { controller: 'memory', file: 'cgroup.procs' },
    ],
  },
};

/** Reads the texts of a cgroup's files, each absent where the kernel has none. */
export function parseCgroup(version: 1 | 2, texts: Readonly<Record<string, string>>, at: number): CgroupReading {
  const number = (file: string): number | undefined => parseLimit(ownValue(texts, file));
  const stat = parseFlat(texts['memory.stat'] ?? '');
  const usage = number(version === 1 ? 'memory.usage_in_bytes' : 'memory.current');
  // v1 counts what is below under names of its own.
  const prefix = version === 1 ? 'total_' : '';
  const inactiveFile = stat.get(`${prefix}inactive_file`) ?? 0;
  const cpuUs = parseFlat(texts['cpu.stat'] ?? '').get('usage_usec');
  const memoryAndSwap = number('memory.memsw.limit_in_bytes');
  const limit = number(version === 1 ? 'memory.limit_in_bytes' : 'memory.max');
  // v1 has no such files, and a kubelet tells zeros there.
  const pressure = (file: string): PsiStats | undefined => (version === 1 ? noPressure : parsePressure(ownValue(texts, file)));
  return {
    at,
    // cpu.stat counts µs, cpuacct.usage ns.
    cpuNs: version === 1 ? number('cpuacct.usage') : cpuUs === undefined ? undefined : cpuUs * 1000,
    memory:
      usage === undefined
        ? undefined
        : {
            usageBytes: usage,
            workingSetBytes: Math.max(0, usage - inactiveFile),
            rssBytes: stat.get(version === 1 ? 'total_rss' : 'anon') ?? 0,
            pageFaults: stat.get(`${prefix}pgfault`) ?? 0,
            majorPageFaults: stat.get(`${prefix}pgmajfault`) ?? 0,
          },
    memoryLimit: limit,
    swapBytes: version === 1 ? stat.get('total_swap') : number('memory.swap.current'),
    swapLimit:
      version === 2
        ? number('memory.swap.max')
        : memoryAndSwap === undefined || limit === undefined
          ? undefined
          : Math.max(0, memoryAndSwap - limit),
    processes: (texts['cgroup.procs'] ?? '')
      .split('\n')
      .filter((line) => line !== '')
      .map(Number),
    psi: {
      cpu: pressure('cpu.pressure'),
      memory: pressure('memory.pressure'),
      io: pressure('io.pressure'),
    },
  };
}

// Beyond this v1 means "no limit": the largest signed number, rounded down to pages (cadvisor's isMemoryUnlimited).
const unlimited = 2 ** 62;

/** A number, or undefined for no file, `max` and what v1 says for it. */
function parseLimit(text: string | undefined): number | undefined {
  const value = text === undefined ? Number.NaN : Number(text);
  return Number.isNaN(value) || value > unlimited ? undefined : value;
}

/** `key value` lines. */
function parseFlat(text: string): Map<string, number> {
  const found = new Map<string, number>();
  for (const line of text.split('\n')) {
    const space = line.indexOf(' ');
    if (space > 0) found.set(line.slice(0, space), Number(line.slice(space + 1)));
  }
  return found;
}

const calm: PsiStats['some'] = { total: 0, avg10: 0, avg60: 0, avg300: 0 };
const noPressure: PsiStats = { full: calm, some: calm };

/** `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and `full …` (Documentation/accounting/psi.rst; total in µs). */
export function parsePressure(text: string | undefined): PsiStats | undefined {
  if (text === undefined || text === '') return undefined;
  const line = (kind: string): PsiStats['some'] => {
    const fields = Object.fromEntries(
      (new RegExp(`^${kind} (.*)$`, 'm').exec(text)?.[1] ?? '').split(' ').map((field) => field.split('=') as [string, string]),
    );
    const of = (name: string): number => Number(ownValue(fields, name) ?? 0);
    return { total: of('total'), avg10: of('avg10'), avg60: of('avg60'), avg300: of('avg300') };
  };
  return { full: line('full'), some: line('some') };
}

/** The parts of the Summary API that come out of a cgroup. `usageNanoCores` is the rate since an earlier reading, if there was one. */
export function statsOf(
  reading: CgroupReading,
  usageNanoCores: number | undefined,
): { cpu: CpuStats; memory: MemoryStats; io: IoStats; swap: SwapStats | undefined } {
  const { at: time, memory, memoryLimit, psi } = reading;
  const workingSet = memory?.workingSetBytes ?? 0;
  return {
    cpu: { time, usageNanoCores, usageCoreNanoSeconds: reading.cpuNs, psi: psi.cpu },
    memory: {
      time,
      ...(memory ?? { workingSetBytes: 0 }),
      availableBytes: memoryLimit === undefined ? undefined : Math.max(0, memoryLimit - workingSet),
      psi: psi.memory,
    },
    io: { time, psi: psi.io },
    swap:
      reading.swapBytes === undefined
        ? undefined
        : {
            time,
            swapUsageBytes: reading.swapBytes,
            swapAvailableBytes: reading.swapLimit === undefined ? undefined : Math.max(0, reading.swapLimit - reading.swapBytes),
          },
  };
}
