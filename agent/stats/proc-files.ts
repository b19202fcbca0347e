import type { InterfaceStats, NetworkStats } from './summary.ts';

/** The node's memory and CPU as /proc tells them: for machines whose root cgroup does not count. */
export interface ProcReading {
  readonly memoryBytes: number;
  readonly usedBytes: number;
  readonly workingSetBytes: number;
  readonly swapBytes: number;
  readonly swapUsedBytes: number;
  /** CPU time of all that ran, in ns. */
  readonly cpuNs: number;
}

/** /proc/meminfo and /proc/stat. A working set is what is in use less the file pages that could go first. */
export function parseNode(meminfo: string, procStat: string): ProcReading {
  const bytes = (field: string): number => Number(new RegExp(`^${field}: +(\\d+) kB$`, 'm').exec(meminfo)?.[1] ?? 0) * 1024;
  // user nice system idle iowait irq softirq steal guest guest_nice, in hundredths of a second (USER_HZ); guest is in user already.
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = (/^cpu +(.*)$/m.exec(procStat)?.[1] ?? '').split(' ').map(Number);
  const used = bytes('MemTotal') - bytes('MemFree');
  return {
    memoryBytes: bytes('MemTotal'),
    usedBytes: used,
    workingSetBytes: Math.max(0, used - bytes('Inactive\\(file\\)')),
    swapBytes: bytes('SwapTotal'),
    swapUsedBytes: bytes('SwapTotal') - bytes('SwapFree'),
    cpuNs: (user + nice + system + irq + softirq) * 1e7,
  };
}

/** The processes and threads that there are, of /proc/loadavg: `0.20 0.18 0.12 1/80 11206`. */
export function parseLoadavg(text: string): number | undefined {
  const total = /^\S+ \S+ \S+ \d+\/(\d+)/.exec(text)?.[1];
  return total === undefined ? undefined : Number(total);
}

// The other ends of pods' interfaces and bridges would count traffic twice (cadvisor leaves them out too).
const notCounted = /^(lo|veth|docker|nerdctl)/;

/** /proc/PID/net/dev. `eth0`, where there is one, stands for the whole. */
export function parseNetDev(text: string, time: number): NetworkStats {
  const interfaces: InterfaceStats[] = [];
  for (const line of text.split('\n').slice(2)) {
    const [, name, counts] = /^\s*([^:]+):\s*(.*)$/.exec(line) ?? [];
    if (name === undefined || counts === undefined || notCounted.test(name)) continue;
    const fields = counts.trim().split(/\s+/).map(Number);
    interfaces.push({ name, rxBytes: fields[0], rxErrors: fields[2], txBytes: fields[8], txErrors: fields[10] });
  }
  return { time, ...(interfaces.find(({ name }) => name === 'eth0') ?? { name: '' }), interfaces };
}
