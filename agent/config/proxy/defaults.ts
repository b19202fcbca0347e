// Defaults of KubeProxyConfiguration (pkg/proxy/apis/config/v1alpha1/defaults.go and conversion.go; platformApplyDefaults of
// cmd/kube-proxy/app/server_linux.go).
import { isIPv6 } from 'node:net';
import type { GivenProxyConfiguration } from './schema.ts';

export type ProxyMode = 'nftables' | 'iptables' | 'ipvs';

/**
 * KubeProxyConfiguration with every default filled in and what depends on the mode chosen. Durations are milliseconds.
 * `mode` and `detectLocalMode` are plain text until they have been validated.
 */
export interface ProxyConfiguration {
  readonly featureGates: Readonly<Record<string, boolean>>;
  readonly clientConnection: {
    readonly kubeconfig: string;
    readonly acceptContentTypes: string;
    readonly contentType: string;
    readonly qps: number;
    readonly burst: number;
  };
  readonly logging: {
    readonly format: string;
    readonly flushFrequency: number;
    readonly verbosity: number;
    readonly vmodule: readonly { filePattern: string; verbosity: number }[];
    readonly options: Readonly<Record<'text' | 'json', { splitStream: boolean; infoBufferSize: string }>>;
  };
  readonly hostnameOverride: string;
  readonly bindAddress: string;
  /** `IP:port`; empty where nothing is to listen. */
  readonly healthzBindAddress: string;
  readonly metricsBindAddress: string;
  readonly bindAddressHardFail: boolean;
  readonly enableProfiling: boolean;
  readonly showHiddenMetricsForVersion: string;
  readonly mode: string;
  /** Of the mode's own part of the file. */
  readonly syncPeriod: number;
  readonly minSyncPeriod: number;
  readonly masqueradeAll: boolean;
  /** Of the mode's own part; IPVS takes the one of iptables. */
  readonly masqueradeBit: number;
  readonly localhostNodePorts: boolean;
  readonly ipvs: {
    readonly scheduler: string;
    readonly excludeCIDRs: readonly string[];
    readonly strictARP: boolean;
    readonly tcpTimeout: number;
    readonly tcpFinTimeout: number;
    readonly udpTimeout: number;
  };
  readonly detectLocalMode: string;
  readonly detectLocal: {
    readonly clusterCIDRs: readonly string[];
    readonly bridgeInterface: string;
    readonly interfaceNamePrefix: string;
  };
  readonly nodePortAddresses: readonly string[];
  readonly oomScoreAdj: number;
  readonly conntrack: {
    readonly maxPerCore: number;
    readonly min: number;
    readonly tcpEstablishedTimeout: number;
    readonly tcpCloseWaitTimeout: number;
    readonly tcpBeLiberal: boolean;
    readonly udpTimeout: number;
    readonly udpStreamTimeout: number;
  };
  readonly configSyncPeriod: number;
}

const second = 1000;
const minute = 60 * second;
const hour = 60 * minute;

const healthzPort = 10_256;
const metricsPort = 10_249;

/** Fills in what is absent. `unchosenMode` is the mode where none is named: iptables for a file, as upstream. */
export function withProxyDefaults(given: GivenProxyConfiguration, unchosenMode: ProxyMode): ProxyConfiguration {
  const mode = given.mode === undefined || given.mode === '' ? unchosenMode : given.mode;
  const bindAddress = given.bindAddress || '0.0.0.0';
  const six = isIPv6(bindAddress);
  const client = given.clientConnection ?? {};
  return {
    featureGates: given.featureGates ?? {},
    clientConnection: {
      kubeconfig: client.kubeconfig ?? '',
      acceptContentTypes: client.acceptContentTypes ?? '',
      contentType: client.contentType || 'application/vnd.kubernetes.protobuf',
      qps: client.qps || 5,
      burst: client.burst || 10,
    },
    logging: loggingDefaults(given.logging),
    hostnameOverride: given.hostnameOverride ?? '',
    bindAddress,
    healthzBindAddress: withPort(given.healthzBindAddress || (six ? '[::]' : '0.0.0.0'), healthzPort),
    metricsBindAddress: withPort(given.metricsBindAddress || (six ? '[::1]' : '127.0.0.1'), metricsPort),
    bindAddressHardFail: given.bindAddressHardFail ?? false,
    enableProfiling: given.enableProfiling ?? false,
    showHiddenMetricsForVersion: given.showHiddenMetricsForVersion ?? '',
    mode,
    ...modeDefaults(given, mode),
    localhostNodePorts: given.iptables?.localhostNodePorts ?? true,
    ipvs: {
      scheduler: given.ipvs?.scheduler ?? '',
      excludeCIDRs: given.ipvs?.excludeCIDRs ?? [],
      strictARP: given.ipvs?.strictARP ?? false,
      tcpTimeout: given.ipvs?.tcpTimeout ?? 0,
      tcpFinTimeout: given.ipvs?.tcpFinTimeout ?? 0,
      udpTimeout: given.ipvs?.udpTimeout ?? 0,
    },
    detectLocalMode: given.detectLocalMode || 'ClusterCIDR',
    detectLocal: {
      clusterCIDRs: given.clusterCIDR ? given.clusterCIDR.split(',') : [],
      bridgeInterface: given.detectLocal?.bridgeInterface ?? '',
      interfaceNamePrefix: given.detectLocal?.interfaceNamePrefix ?? '',
    },
    nodePortAddresses: nodePortAddressesOf(given, mode),
    oomScoreAdj: given.oomScoreAdj ?? -999,
    conntrack: conntrackDefaults(given.conntrack),
    configSyncPeriod: given.configSyncPeriod || 15 * minute,
  };
}

/** Periods and masquerading stand in each mode's own part of the file. */
function modeDefaults(
  given: GivenProxyConfiguration,
  mode: string,
): Pick<ProxyConfiguration, 'syncPeriod' | 'minSyncPeriod' | 'masqueradeAll' | 'masqueradeBit'> {
  const bit = (part: { masqueradeBit?: number | undefined } | undefined): number => part?.masqueradeBit ?? 14;
  switch (mode) {
    case 'nftables':
      return {
        syncPeriod: given.nftables?.syncPeriod || 30 * second,
        minSyncPeriod: given.nftables?.minSyncPeriod || second,
        masqueradeAll: given.nftables?.masqueradeAll ?? false,
        masqueradeBit: bit(given.nftables),
      };
    case 'ipvs':
      return {
        syncPeriod: given.ipvs?.syncPeriod || 30 * second,
        minSyncPeriod: given.ipvs?.minSyncPeriod ?? 0,
        masqueradeAll: given.iptables?.masqueradeAll ?? false,
        masqueradeBit: bit(given.iptables),
      };
    default:
      return {
        syncPeriod: given.iptables?.syncPeriod || 30 * second,
        minSyncPeriod: given.iptables?.minSyncPeriod || second,
        masqueradeAll: given.iptables?.masqueradeAll ?? false,
        masqueradeBit: bit(given.iptables),
      };
  }
}

/** In nftables mode node ports are served on the node's primary addresses unless others are named. */
function nodePortAddressesOf(given: GivenProxyConfiguration, mode: string): readonly string[] {
  const named = given.nodePortAddresses ?? [];
  return named.length === 0 && mode === 'nftables' ? ['primary'] : named;
}

function conntrackDefaults(given: GivenProxyConfiguration['conntrack']): ProxyConfiguration['conntrack'] {
  return {
    maxPerCore: given?.maxPerCore ?? 32 * 1024,
    min: given?.min ?? 128 * 1024,
    tcpEstablishedTimeout: given?.tcpEstablishedTimeout ?? 24 * hour,
    tcpCloseWaitTimeout: given?.tcpCloseWaitTimeout ?? hour,
    tcpBeLiberal: given?.tcpBeLiberal ?? false,
    udpTimeout: given?.udpTimeout ?? 0,
    udpStreamTimeout: given?.udpStreamTimeout ?? 0,
  };
}

function loggingDefaults(given: GivenProxyConfiguration['logging']): ProxyConfiguration['logging'] {
  const output = (name: 'text' | 'json'): { splitStream: boolean; infoBufferSize: string } => ({
    splitStream: given?.options?.[name]?.splitStream ?? false,
    infoBufferSize: given?.options?.[name]?.infoBufferSize ?? '0',
  });
  return {
    format: given?.format || 'text',
    flushFrequency: given?.flushFrequency || 5 * second,
    verbosity: given?.verbosity ?? 0,
    vmodule: given?.vmodule ?? [],
    options: { text: output('text'), json: output('json') },
  };
}

/** Adds a port to an address that has none: `10.0.0.1`, `fd00::1` and `[fd00::1]` have none (AppendPortIfNeeded of pkg/proxy/util). */
export function withPort(address: string, port: number): string {
  if (isIPv6(address)) return `[${address}]:${port}`;
  if (/^\[[^\]]*\]$/.test(address)) return `${address}:${port}`;
  return address.includes(':') ? address : `${address}:${port}`;
}
