// The kernel's connection tracking as kube-proxy sets it (pkg/proxy/conntrack/sysctls.go). Pure.

/** The `conntrack` part of KubeProxyConfiguration; times in ms, 0 leaves the kernel's value. */
export interface ConntrackSettings {
  readonly maxPerCore: number;
  readonly min: number;
  readonly tcpEstablishedTimeout: number;
  readonly tcpCloseWaitTimeout: number;
  readonly tcpBeLiberal: boolean;
  readonly udpTimeout: number;
  readonly udpStreamTimeout: number;
}

/** One value to be set below /proc/sys. */
export interface Sysctl {
  /** Such as `net/netfilter/nf_conntrack_max`. */
  readonly name: string;
  readonly value: number;
  /** A higher value that is there stays: somebody needed it. */
  readonly atLeast: boolean;
}

/** Beyond this the table costs more memory than it is worth. */
const maxEntries = 1_048_576;

export function conntrackSysctls(settings: ConntrackSettings, cpus: number): Sysctl[] {
  const entry = (name: string, value: number, atLeast = false): Sysctl => ({ name: `net/netfilter/nf_conntrack_${name}`, value, atLeast });
  const seconds = (name: string, ms: number): Sysctl[] => (ms > 0 ? [entry(name, Math.floor(ms / 1000))] : []);
  const entries = maxConntrackEntries(settings, cpus);
  return [
    ...(entries > 0 ? [entry('max', entries, true)] : []),
    ...seconds('tcp_timeout_established', settings.tcpEstablishedTimeout),
    ...seconds('tcp_timeout_close_wait', settings.tcpCloseWaitTimeout),
    ...(settings.tcpBeLiberal ? [entry('tcp_be_liberal', 1)] : []),
    ...seconds('udp_timeout', settings.udpTimeout),
    ...seconds('udp_timeout_stream', settings.udpStreamTimeout),
  ];
}

/** maxPerCore 0 leaves the kernel's limit as it is, whatever `min` says. */
function maxConntrackEntries({ maxPerCore, min }: ConntrackSettings, cpus: number): number {
  if (maxPerCore <= 0) return 0;
  return Math.min(Math.max(maxPerCore * cpus, min), Math.max(maxEntries, min));
}
