// Rules of KubeProxyConfiguration (pkg/proxy/apis/config/validation/validation.go), in upstream's words.
import { isIP } from 'node:net';
import { checkLogging } from '../codecs.ts';
import { formatDuration } from '../duration.ts';
import { checkFeatureGates } from '../feature-gates.ts';
import type { ProxyConfiguration } from './defaults.ts';

const at = 'KubeProxyConfiguration';

/** Every problem, by its field's path; empty when there is none. */
export function validateProxyConfiguration(config: ProxyConfiguration): string[] {
  return [
    ...checkFeatureGates(config.featureGates).map((problem) => `${at}.featureGates: ${problem}`),
    ...checkMode(config),
    ...checkPeriods(config),
    ...checkConntrack(config),
    ...checkAddresses(config),
    ...checkNodePortAddresses(config.nodePortAddresses),
    ...checkDetectLocal(config),
    ...checkLogging(config.logging, config.featureGates),
  ];
}

const invalid = (field: string, value: unknown, why: string): string => `${at}.${field}: Invalid value: ${JSON.stringify(value)}: ${why}`;

function checkMode({ mode, masqueradeBit, ipvs, oomScoreAdj }: ProxyConfiguration): string[] {
  const problems: string[] = [];
  if (mode !== 'nftables' && mode !== 'iptables' && mode !== 'ipvs')
    problems.push(
      invalid(
        'Mode.ProxyMode',
        mode,
        'must be iptables, ipvs, nftables or blank (blank means the best-available proxy [currently iptables])',
      ),
    );
  const part = mode === 'nftables' ? 'KubeProxyNFTablesConfiguration' : 'KubeProxyIPTablesConfiguration';
  if (masqueradeBit < 0 || masqueradeBit > 31)
    problems.push(invalid(`${part}.MasqueradeBit`, masqueradeBit, 'must be within the range [0, 31]'));
  if (oomScoreAdj < -1000 || oomScoreAdj > 1000)
    problems.push(invalid('KubeProxyLinuxConfiguration.OOMScoreAdj', oomScoreAdj, 'must be within the range [-1000, 1000]'));
  if (mode === 'ipvs') {
    for (const name of ['tcpTimeout', 'tcpFinTimeout', 'udpTimeout'] as const)
      problems.push(...notNegative(`KubeProxyIPVSConfiguration.${goName(name)}`, ipvs[name]));
    ipvs.excludeCIDRs.forEach((cidr, i) => {
      if (!isCidr(cidr)) problems.push(invalid(`KubeProxyIPVSConfiguration.ExcludeCidrs[${i}]`, cidr, 'must be a valid CIDR'));
    });
  }
  return problems;
}

function checkPeriods({ configSyncPeriod, syncPeriod, minSyncPeriod, clientConnection }: ProxyConfiguration): string[] {
  const problems: string[] = [];
  if (configSyncPeriod <= 0) problems.push(invalid('ConfigSyncPeriod', formatDuration(configSyncPeriod), 'must be greater than 0'));
  if (syncPeriod <= 0) problems.push(invalid('SyncPeriod', formatDuration(syncPeriod), 'must be greater than 0'));
  problems.push(...notNegative('MinSyncPeriod', minSyncPeriod));
  if (minSyncPeriod > syncPeriod)
    problems.push(invalid('SyncPeriod', formatDuration(minSyncPeriod), `must be greater than or equal to ${at}.MinSyncPeriod`));
  if (clientConnection.burst < 0)
    problems.push(invalid('ClientConnection.Burst', clientConnection.burst, 'must be greater than or equal to 0'));
  return problems;
}

function checkConntrack({ conntrack }: ProxyConfiguration): string[] {
  const field = (name: string): string => `KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration.${goName(name)}`;
  return (['maxPerCore', 'min'] as const)
    .filter((name) => conntrack[name] < 0)
    .map((name) => invalid(field(name), conntrack[name], 'must be greater than or equal to 0'))
    .concat(
      (['tcpEstablishedTimeout', 'tcpCloseWaitTimeout', 'udpTimeout', 'udpStreamTimeout'] as const).flatMap((name) =>
        notNegative(field(name), conntrack[name]),
      ),
    );
}

function checkAddresses(config: ProxyConfiguration): string[] {
  const problems: string[] = [];
  if (isIP(config.bindAddress) === 0)
    problems.push(invalid('BindAddress', config.bindAddress, 'not a valid textual representation of an IP address'));
  for (const name of ['healthzBindAddress', 'metricsBindAddress'] as const) {
    // Empty: nothing listens there (--healthz-port=0, --metrics-port=0).
    if (config[name] !== '' && splitHostPort(config[name]) === undefined)
      problems.push(invalid(goName(name), config[name], 'must be IP:port'));
  }
  return problems;
}

function checkNodePortAddresses(words: readonly string[]): string[] {
  const problems: string[] = [];
  words.forEach((word, i) => {
    if (word === 'primary' || word === 'all') {
      // `localhost` is keelson's own word: it adds loopback to any of the others.
      if (words.some((other) => other !== word && other !== 'localhost'))
        problems.push(invalid(`NodePortAddresses[${i}]`, word, `can't use both '${word}' and CIDRs`));
    } else if (word !== 'localhost' && !isCidr(word)) problems.push(invalid(`NodePortAddresses[${i}]`, word, 'must be a valid CIDR'));
  });
  return problems;
}

function checkDetectLocal({ detectLocalMode, detectLocal }: ProxyConfiguration): string[] {
  const { bridgeInterface, interfaceNamePrefix, clusterCIDRs } = detectLocal;
  switch (detectLocalMode) {
    case 'NodeCIDR':
      return [];
    case 'BridgeInterface':
      return bridgeInterface === '' ? [invalid('DetectLocalConfiguration.InterfaceName', '', 'must not be empty')] : [];
    case 'InterfaceNamePrefix':
      return interfaceNamePrefix === '' ? [invalid('DetectLocalConfiguration.InterfacePrefix', '', 'must not be empty')] : [];
    case 'ClusterCIDR':
      return checkClusterCidrs(clusterCIDRs);
    default:
      return [
        `${at}.DetectLocalMode: Unsupported value: "${detectLocalMode}": supported values: "BridgeInterface", "ClusterCIDR", "InterfaceNamePrefix", "NodeCIDR"`,
      ];
  }
}

function checkClusterCidrs(cidrs: readonly string[]): string[] {
  const field = 'DetectLocalConfiguration.ClusterCIDRs';
  const pair = 'must be a either a single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]';
  if (cidrs.length > 2) return [invalid(field, cidrs, pair)];
  const problems = cidrs.flatMap((cidr, i) =>
    isCidr(cidr) ? [] : [invalid(`${field}[${i}]`, cidr, 'must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)')],
  );
  const [first = '', other] = cidrs;
  if (problems.length === 0 && other !== undefined && first.includes(':') === other.includes(':'))
    problems.push(invalid(field, cidrs, pair));
  return problems;
}

function notNegative(field: string, ms: number): string[] {
  return ms < 0 ? [invalid(field, formatDuration(ms), 'must be greater than or equal to 0')] : [];
}

const goName = (name: string): string =>
  name.replace(/^(tcp|udp)/, (word) => word.toUpperCase()).replace(/^[a-z]/, (letter) => letter.toUpperCase());

function isCidr(text: string): boolean {
  const [address = '', bits = '', ...rest] = text.split('/');
  const version = isIP(address);
  return rest.length === 0 && version !== 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= (version === 4 ? 32 : 128);
}

/** The parts of `IP:port` or `[IPv6]:port`; undefined for anything else. */
export function splitHostPort(text: string): { host: string; port: number } | undefined {
  const match = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2] ?? '';
  const port = Number(match?.[3]);
  if (match === null || isIP(host) === 0 || port < 1 || port > 65_535) return undefined;
  return { host, port };
}
