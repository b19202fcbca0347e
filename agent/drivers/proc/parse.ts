// Parsers of what the kernel and the distribution say about a machine. Each takes the text of one file.

/** /proc/meminfo, in bytes; undefined when the text has no such line. */
export function parseMeminfo(text: string): { totalBytes: number | undefined; availableBytes: number | undefined; swapTotalBytes: number } {
  // The kernel's "kB" are KiB.
  const of = (name: string): number | undefined => {
    const match = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text);
    return match === null ? undefined : Number(match[1]) * 1024;
  };
  return { totalBytes: of('MemTotal'), availableBytes: of('MemAvailable'), swapTotalBytes: of('SwapTotal') ?? 0 };
}

/** The PRETTY_NAME of /etc/os-release; `Linux` when it has none. */
export function parseOsName(text: string): string {
  const match = /^PRETTY_NAME=(.*)$/m.exec(text);
  return match?.[1]?.trim().replace(/^(["'])(.*)\1$/, '$2') || 'Linux';
}

/** How many CPUs a kernel list such as `0-3,8` names (/sys/devices/system/cpu/online). */
export function countCpuList(text: string): number {
  let count = 0;
  for (const range of text.trim().split(',')) {
    const [first, last] = range.split('-').map(Number);
    if (first === undefined || range === '' || Number.isNaN(first)) continue;
    count += (last ?? first) - first + 1;
  }
  return count;
}

/** The processors of /proc/cpuinfo. */
export function countProcessors(text: string): number {
  return text.match(/^processor\s*:/gm)?.length ?? 0;
}

export interface DefaultRoute {
  readonly family: 4 | 6;
  readonly interface: string;
}

/** Default routes of /proc/net/route and /proc/net/ipv6_route, IPv4 first, each in the kernel's order. */
export function parseDefaultRoutes(ipv4: string, ipv6: string): DefaultRoute[] {
  const routes: DefaultRoute[] = [];
  for (const line of ipv4.split('\n').slice(1)) {
    const [name = '', destination, , , , , , mask] = line.trim().split(/\s+/);
    if (destination === '00000000' && mask === '00000000') routes.push({ family: 4, interface: name });
  }
  for (const line of ipv6.split('\n')) {
    const fields = line.trim().split(/\s+/);
    const name = fields[9] ?? '';
    // The kernel keeps a catch-all "unreachable" route on lo.
    if (fields[0] === '0'.repeat(32) && fields[1] === '00' && name !== 'lo') routes.push({ family: 6, interface: name });
  }
  return routes;
}
