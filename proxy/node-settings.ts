// What the Node object and the configuration say, in the words that planning and backends take.
import type { Node } from '../agent/model/generated/api.ts';
import type { BackendSettings } from './backends/backend.ts';
import type { EligibilityNode } from './health/proxier-health.ts';
import { type Cidr, type Family, families, parseAddress, parseCidr } from './model/address.ts';
import { type DetectLocal, detectLocalIn, type NodeFacts, nodePortAddressesIn } from './model/node.ts';

/**
 * What planning knows of the node. Its addresses are the Node's internal ones, else the external ones (GetNodeHostIPs of
 * pkg/util/node); `bindAddress` comes before them where it is a real address.
 */
export function nodeFactsOf(node: Node | undefined, name: string, bindAddress: string): NodeFacts {
  const addresses: Partial<Record<Family, string>> = {};
  const given = node?.status?.addresses ?? [];
  const own = parseAddress(bindAddress);
  const unspecified = own === undefined || own.text === '0.0.0.0' || own.text === '::';
  const candidates = [
    ...(unspecified ? [] : [bindAddress]),
    ...given.filter(({ type }) => type === 'InternalIP').map(({ address }) => address),
    ...given.filter(({ type }) => type === 'ExternalIP').map(({ address }) => address),
  ];
  for (const candidate of candidates) {
    const address = parseAddress(candidate);
    if (address !== undefined) addresses[address.family] ??= address.text;
  }
  return { name, zone: node?.metadata?.labels?.['topology.kubernetes.io/zone'] ?? '', addresses };
}

/** What load balancers' traffic depends on; undefined without a Node. */
export function eligibilityOf(node: Node | undefined): EligibilityNode | undefined {
  if (node === undefined) return undefined;
  return {
    deleting: node.metadata?.deletionTimestamp !== undefined,
    taintKeys: (node.spec?.taints ?? []).map(({ key }) => key),
  };
}

/** The part of KubeProxyConfiguration that rules depend on. */
export interface RuleSettings {
  readonly detectLocalMode: string;
  readonly detectLocal: {
    readonly clusterCIDRs: readonly string[];
    readonly bridgeInterface: string;
    readonly interfaceNamePrefix: string;
  };
  readonly masqueradeAll: boolean;
  readonly masqueradeBit: number;
  readonly nodePortAddresses: readonly string[];
  /** Serve node ports on 127.0.0.1 too. */
  readonly localhostNodePorts: boolean;
}

/** How packets of this node's pods are told. NodeCIDR knows them once the Node has a pod CIDR. */
function detectLocalOf(settings: RuleSettings, node: Node | undefined): DetectLocal {
  const { detectLocalMode, detectLocal } = settings;
  switch (detectLocalMode) {
    case 'BridgeInterface':
      return { kind: 'interface', name: detectLocal.bridgeInterface };
    case 'InterfaceNamePrefix':
      return { kind: 'interfacePrefix', prefix: detectLocal.interfaceNamePrefix };
    default: {
      const { podCIDR, podCIDRs = podCIDR === undefined ? [] : [podCIDR] } = node?.spec ?? {};
      const cidrs = parseCidrs(detectLocalMode === 'NodeCIDR' ? podCIDRs : detectLocal.clusterCIDRs);
      return cidrs.length === 0 ? { kind: 'none' } : { kind: 'cidrs', cidrs };
    }
  }
}

/** Settings of a backend in each family. `interfaceAddresses` are those that the node has now. */
export function backendSettings(
  settings: RuleSettings,
  node: Node | undefined,
  facts: NodeFacts,
  interfaceAddresses: readonly string[],
  serviceCidrs: readonly string[],
): Record<Family, BackendSettings> {
  const detectLocal = detectLocalOf(settings, node);
  const cidrs = parseCidrs(serviceCidrs);
  const words = { words: settings.nodePortAddresses, localhost: settings.localhostNodePorts };
  const of = (family: Family): BackendSettings => ({
    detectLocal: detectLocalIn(family, detectLocal),
    masqueradeAll: settings.masqueradeAll,
    masqueradeBit: settings.masqueradeBit,
    nodePorts: nodePortAddressesIn(family, words, facts, interfaceAddresses),
    serviceCidrs: cidrs.filter((cidr) => cidr.family === family),
  });
  return Object.fromEntries(families.map((family) => [family, of(family)])) as Record<Family, BackendSettings>;
}

/** Where health-check node ports listen: as node ports do, in the families that this machine has. */
export function healthCheckAddresses(settings: Record<Family, Pick<BackendSettings, 'nodePorts'>>, served: readonly Family[]): string[] {
  const all = { ip: '0.0.0.0', ip6: '::' };
  const lists = served.map((family) => {
    const { nodePorts } = settings[family];
    return nodePorts.kind === 'all' ? [all[family]] : nodePorts.addresses;
  });
  const addresses = lists.flat();
  // All of both families is one socket.
  return addresses.length === 2 && addresses.includes(all.ip) && addresses.includes(all.ip6) ? [all.ip6] : addresses;
}

function parseCidrs(texts: readonly string[]): Cidr[] {
  return texts.flatMap((text) => parseCidr(text.trim()) ?? []);
}
