import { isIP, isIPv6 } from 'node:net';
import type { InterfaceAddress, NetworkFacts } from '../drivers/proc/machine.ts';
import type { NodeAddress } from '../model/generated/api.ts';

export interface AddressInput {
  /** Addresses of --node-ip. */
  readonly nodeIPs: readonly string[];
  /** The host name, or what --hostname-override says. */
  readonly hostname: string;
  /** True when a cloud controller fills in the addresses. */
  readonly cloudProviderExternal: boolean;
  readonly network: NetworkFacts;
  /** What the node's name resolves to. */
  readonly resolved: readonly string[];
  /** The addresses that the Node object has. */
  readonly before: readonly NodeAddress[];
}

/** The node's addresses, or why they can't be told (then those of before stay). */
export type AddressPlan = { kind: 'addresses'; addresses: readonly NodeAddress[] } | { kind: 'problem'; message: string };

const unspecified = (ip: string): boolean => ip === '0.0.0.0' || ip === '::';

/** Chooses the node's addresses by kubelet's rules (pkg/kubelet/nodestatus NodeAddress). */
export function planAddresses(input: AddressInput): AddressPlan {
  const [first, second] = input.nodeIPs;
  const specified = input.nodeIPs.filter((ip) => !unspecified(ip));
  for (const ip of specified) {
    const problem = nodeIpProblem(ip, input.network.addresses);
    if (problem !== undefined) return { kind: 'problem', message: `failed to validate nodeIP: ${problem}` };
  }
  const hostname: NodeAddress = { type: 'Hostname', address: input.hostname };
  if (input.cloudProviderExternal) {
    if (input.before.length > 0) return { kind: 'addresses', addresses: input.before };
    if (first === undefined) return { kind: 'addresses', addresses: [hostname] };
  }
  const internal = (address: string): NodeAddress => ({ type: 'InternalIP', address });
  if (first !== undefined && second !== undefined) return { kind: 'addresses', addresses: [internal(first), internal(second), hostname] };

  const family = first === undefined || isIP(first) === 4 ? 4 : 6;
  const chosen =
    specified[0] ??
    (isIP(input.hostname) !== 0 ? input.hostname : undefined) ??
    fromName(input.resolved, family, input.network.addresses) ??
    fromRoutes(input.network, family);
  if (chosen === undefined)
    return { kind: 'problem', message: `can't get ip address of node ${input.hostname}: no default route leads to one; set --node-ip` };
  return { kind: 'addresses', addresses: [internal(chosen), hostname] };
}

/**
 * A node's address as pods see it, and the first of the other family if it has one: internal ones first, external ones where there are none
 * (pkg/util/node GetNodeHostIPs). A machine with several networks has more addresses than pods are told of.
 */
export function hostIPs(addresses: readonly NodeAddress[] | undefined): string[] {
  const ofType = (type: string): string[] =>
    (addresses ?? []).flatMap((one) => (one.type === type && isIP(one.address) !== 0 ? [one.address] : []));
  const [first, ...others] = [...ofType('InternalIP'), ...ofType('ExternalIP')];
  if (first === undefined) return [];
  const second = others.find((ip) => isIPv6(ip) !== isIPv6(first));
  return second === undefined ? [first] : [first, second];
}

/** The annotation that tells a cloud controller which addresses --node-ip asks for; undefined: there must be none. */
export function providedIpAnnotation(nodeIPs: readonly string[], cloudProviderExternal: boolean): string | undefined {
  const specified = nodeIPs.filter((ip) => !unspecified(ip));
  return cloudProviderExternal && specified.length > 0 ? specified.join(',') : undefined;
}

/** Why an address can't be this node's; undefined when it can. */
function nodeIpProblem(ip: string, own: readonly InterfaceAddress[]): string | undefined {
  if (isIP(ip) === 0) return 'nodeIP must be a valid IP address';
  if (isLoopback(ip)) return "nodeIP can't be loopback address";
  if (isMulticast(ip)) return "nodeIP can't be a multicast address";
  if (isLinkLocal(ip)) return "nodeIP can't be a link-local unicast address";
  if (unspecified(ip)) return "nodeIP can't be an all zeros address";
  return own.some((a) => canonical(a.address) === canonical(ip))
    ? undefined
    : `node IP: "${ip}" not found in the host's network interfaces`;
}

function fromName(resolved: readonly string[], family: 4 | 6, own: readonly InterfaceAddress[]): string | undefined {
  const valid = resolved.filter((ip) => nodeIpProblem(ip, own) === undefined);
  return valid.find((ip) => isIP(ip) === family) ?? valid[0];
}

// The address of the interface that the default route goes through, the wanted family first; where interfaces have link-local addresses
// only (RFC 5549), the global one of lo (apimachinery's ChooseHostInterface).
function fromRoutes(network: NetworkFacts, preferred: 4 | 6): string | undefined {
  const global = (name: string, family: 4 | 6): string | undefined =>
    network.addresses.find((a) => a.interface === name && a.family === family && isGlobal(a.address))?.address;
  for (const family of [preferred, preferred === 4 ? 6 : 4] as const)
    for (const route of network.defaultRoutes) {
      if (route.family !== family) continue;
      const address = global(route.interface, family) ?? global('lo', family);
      if (address !== undefined) return address;
    }
  return undefined;
}

function isGlobal(ip: string): boolean {
  return !isLoopback(ip) && !isMulticast(ip) && !isLinkLocal(ip) && !unspecified(ip) && ip !== '255.255.255.255';
}

function isLoopback(ip: string): boolean {
  return ip.startsWith('127.') || canonical(ip) === '::1';
}

function isMulticast(ip: string): boolean {
  return isIP(ip) === 4 ? /^(22[4-9]|23\d)\./.test(ip) : /^ff/i.test(ip);
}

function isLinkLocal(ip: string): boolean {
  return isIP(ip) === 4 ? ip.startsWith('169.254.') : /^fe[89ab]/i.test(ip);
}

function canonical(ip: string): string {
  return isIP(ip) === 6 ? new URL(`http://[${ip.split('%')[0]}]`).hostname.slice(1, -1) : ip;
}
