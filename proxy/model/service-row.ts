import type { Service } from '../../agent/model/generated/api.ts';
import { type Cidr, type Family, families, isEverything, isUnusable, mergeCidrs, parseAddress, parseCidr } from './address.ts';
import { type SkipCounter, type Skipped, skipCounter } from './skipped.ts';

/** A transport protocol, named as nft and iptables name it. */
export type Protocol = 'tcp' | 'udp' | 'sctp';

export const protocols: readonly Protocol[] = ['tcp', 'udp', 'sctp'];

/** A Service with this label belongs to another proxy; its slices carry it too. */
export const serviceProxyNameLabel = 'service.kubernetes.io/service-proxy-name';

export interface ServicePortRow {
  /** Empty for the only port of a Service. */
  readonly name: string;
  readonly protocol: Protocol;
  readonly port: number;
  /** Undefined where the port has none. */
  readonly nodePort: number | undefined;
}

/** What a Service has in one family. */
export interface ServiceAddresses {
  readonly clusterIP: string;
  /** Ingress addresses of load balancers with ipMode VIP; those with Proxy are not ours. */
  readonly loadBalancerIPs: readonly string[];
  readonly externalIPs: readonly string[];
  /** Who may use the load balancer's addresses; disjoint. Undefined: everybody. Empty: nobody. */
  readonly sourceRanges: readonly Cidr[] | undefined;
}

/** What is kept of a Service that is proxied. */
export interface ServiceRow {
  /** `namespace/name`. */
  readonly key: string;
  readonly uid: string;
  /** creationTimestamp in ms since the epoch; 0 when it has none. */
  readonly createdMs: number;
  /** A family without a cluster IP has no entry: nothing of the Service is proxied in it. */
  readonly addresses: Readonly<Partial<Record<Family, ServiceAddresses>>>;
  readonly ports: readonly ServicePortRow[];
  /** externalTrafficPolicy Local, for types that have the field. */
  readonly externalLocal: boolean;
  /** internalTrafficPolicy Local. */
  readonly internalLocal: boolean;
  /** Seconds a client stays with its endpoint; undefined without session affinity ClientIP. */
  readonly affinitySeconds: number | undefined;
  readonly healthCheckNodePort: number | undefined;
  readonly skipped: readonly Skipped[] | undefined;
}

/** The API's default of sessionAffinityConfig.clientIP.timeoutSeconds. */
const defaultAffinitySeconds = 10_800;

/**
 * The row of a Service; undefined for those that no proxy serves: headless, ExternalName, without
 * a cluster IP, or labelled for another proxy. A reflector's `transform`.
 */
export function serviceRow(service: Service): ServiceRow | undefined {
  const { metadata, spec } = service;
  if (metadata?.name === undefined || spec == null || spec.type === 'ExternalName') return undefined;
  if (metadata.labels?.[serviceProxyNameLabel] !== undefined) return undefined;
  const counter = skipCounter();
  const addresses = addressesOf(service, counter);
  if (Object.keys(addresses).length === 0) return undefined;
  const external = spec.type === 'NodePort' || spec.type === 'LoadBalancer' || (spec.externalIPs?.length ?? 0) > 0;
  const externalLocal = external && spec.externalTrafficPolicy === 'Local';
  const healthPort = spec.type === 'LoadBalancer' && externalLocal ? spec.healthCheckNodePort : undefined;
  const created = Date.parse(metadata.creationTimestamp ?? '');
  return {
    key: `${metadata.namespace ?? 'default'}/${metadata.name}`,
    uid: metadata.uid ?? '',
    createdMs: Number.isNaN(created) ? 0 : created,
    addresses,
    ports: portsOf(spec.ports ?? [], counter),
    externalLocal,
    internalLocal: spec.internalTrafficPolicy === 'Local',
    affinitySeconds: affinityOf(spec),
    healthCheckNodePort: isPort(healthPort) ? healthPort : undefined,
    skipped: counter.rows(),
  };
}

type Spec = NonNullable<Service['spec']>;

function addressesOf(service: Service, counter: SkipCounter): Partial<Record<Family, ServiceAddresses>> {
  const spec = service.spec as Spec;
  const clusterIPs = clusterIPsOf(spec, counter);
  if (Object.keys(clusterIPs).length === 0) return {};
  const loadBalancer = (service.status?.loadBalancer?.ingress ?? [])
    .filter((ingress) => ingress?.ip !== undefined && (ingress.ipMode ?? 'VIP') === 'VIP')
    .map((ingress) => ingress.ip ?? '');
  const loadBalancerIPs = byFamily(loadBalancer, counter);
  const externalIPs = byFamily(spec.externalIPs ?? [], counter);
  const ranges = sourceRangesOf(spec.loadBalancerSourceRanges ?? [], counter);
  const result: Partial<Record<Family, ServiceAddresses>> = {};
  for (const family of families) {
    const clusterIP = clusterIPs[family];
    if (clusterIP === undefined) continue;
    result[family] = {
      clusterIP,
      loadBalancerIPs: loadBalancerIPs[family],
      externalIPs: externalIPs[family],
      sourceRanges: ranges[family],
    };
  }
  return result;
}

/** The first cluster IP of each family (GetClusterIPByFamily of pkg/proxy/util). */
function clusterIPsOf(spec: Spec, counter: SkipCounter): Partial<Record<Family, string>> {
  const given = (spec.clusterIPs?.length ?? 0) > 0 ? (spec.clusterIPs ?? []) : [spec.clusterIP ?? ''];
  if (given[0] === 'None') return {};
  const read = byFamily(given, counter);
  const [four] = read.ip;
  const [six] = read.ip6;
  // While a Service goes from two families to one, ipFamilies says which are still its own.
  const named = spec.ipFamilies?.length ? spec.ipFamilies : ['IPv4', 'IPv6'];
  return {
    ...(four !== undefined && named.includes('IPv4') ? { ip: four } : {}),
    ...(six !== undefined && named.includes('IPv6') ? { ip6: six } : {}),
  };
}

function byFamily(texts: readonly string[], counter: SkipCounter): Record<Family, string[]> {
  const result: Record<Family, string[]> = { ip: [], ip6: [] };
  for (const text of texts) {
    const address = typeof text === 'string' ? parseAddress(text.trim()) : undefined;
    if (address === undefined || isUnusable(address)) {
      // Empty ones are in old objects and mean nothing.
      if (text !== '') counter.skip('InvalidAddress', text);
    } else if (!result[address.family].includes(address.text)) result[address.family].push(address.text);
  }
  return result;
}

/**
 * As upstream, a range of everything is no limit, and ranges of one family alone leave the other
 * open. Ranges none of which can be read let nobody in: they were meant as a limit.
 */
function sourceRangesOf(texts: readonly string[], counter: SkipCounter): Record<Family, Cidr[] | undefined> {
  const cidrs: Cidr[] = [];
  let unreadable = false;
  for (const text of texts) {
    const cidr = typeof text === 'string' ? parseCidr(text) : undefined;
    if (cidr !== undefined) cidrs.push(cidr);
    else if (text !== '') {
      counter.skip('InvalidRange', text);
      unreadable = true;
    }
  }
  const limitOf = (family: Family): Cidr[] | undefined => {
    const own = cidrs.filter((cidr) => cidr.family === family);
    if (own.some(isEverything)) return undefined;
    if (own.length === 0) return unreadable && cidrs.length === 0 ? [] : undefined;
    return mergeCidrs(own);
  };
  return { ip: limitOf('ip'), ip6: limitOf('ip6') };
}

function portsOf(ports: readonly unknown[], counter: SkipCounter): ServicePortRow[] {
  const rows: ServicePortRow[] = [];
  for (const given of ports) {
    const { name, port, protocol = 'TCP', nodePort } = (given ?? {}) as Record<string, unknown>;
    const known = protocolOf(protocol);
    const row = { name: typeof name === 'string' ? name : '', nodePort: isPort(nodePort) ? nodePort : undefined };
    if (!isPort(port)) counter.skip('InvalidPort', given);
    else if (known === undefined) counter.skip('InvalidProtocol', protocol);
    else if (rows.some((other) => other.protocol === known && (other.port === port || other.name === row.name)))
      counter.skip('DuplicatePort', given);
    else rows.push({ ...row, protocol: known, port });
  }
  return rows;
}

function affinityOf(spec: Spec): number | undefined {
  if (spec.sessionAffinity !== 'ClientIP') return undefined;
  const seconds = spec.sessionAffinityConfig?.clientIP?.timeoutSeconds;
  return typeof seconds === 'number' && seconds > 0 ? seconds : defaultAffinitySeconds;
}

/** Undefined for what no proxy of Kubernetes serves. */
export function protocolOf(protocol: unknown): Protocol | undefined {
  if (protocol === 'TCP') return 'tcp';
  if (protocol === 'UDP') return 'udp';
  return protocol === 'SCTP' ? 'sctp' : undefined;
}

export function isPort(port: unknown): port is number {
  return Number.isInteger(port) && (port as number) > 0 && (port as number) < 65_536;
}
