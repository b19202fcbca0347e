// Chains that are made when the first Service needs them, and shared by all that do. Those that pick
// one of N endpoints depend on N alone: numgen's modulus has to be a constant. Those that remember a
// client depend on how long. None is ever deleted: older kernels (< 6.2) forget slowly that a chain is
// no longer referred to, and the next Service may need it.
import { createHash } from 'node:crypto';
import { type Protocol, protocols } from '../../model/service-row.ts';
import type { Chain, Field, NftSet, Rule } from './rule.ts';

/** What a chain that picks an endpoint does on the way. */
export interface PickVariant {
  /** For a node port, whose elements have no address in their keys. */
  readonly nodePort: boolean;
  readonly masquerade: boolean;
  /**
   * Asks first which endpoint the client had: in the one map of all clients, or in the maps of a
   * frontend (its `stickyId`), as IPv6 needs it.
   */
  readonly sticky: boolean | string;
  /** Chooses from the list of Local policy of an external frontend. */
  readonly local: boolean;
  /** How many endpoints there are; at least 1. */
  readonly count: number;
}

/** `pick-5`, `np-masq-sticky-local-pick-5`. */
export function pickChainName({ nodePort, masquerade, sticky, local, count }: PickVariant): string {
  const clients = sticky === true ? 'sticky-' : sticky === false ? '' : `sticky-${sticky}-`;
  return `${nodePort ? 'np-' : ''}${masquerade ? 'masq-' : ''}${clients}${local ? 'local-' : ''}pick-${count}`;
}

/** A short name of a frontend by the key of its elements, the same after a restart. */
export function stickyId(key: string): string {
  return createHash('sha256').update(key).digest('hex').slice(0, 12);
}

/** The chain that remembers for so many seconds which endpoint a client got. */
export function rememberChainName(seconds: number, id: string | undefined): string {
  return `remember-${seconds}${id === undefined ? '' : `-${id}`}`;
}

/** The maps of clients of one frontend: of addresses and of ports. */
export function clientMaps(id: string): { readonly map: string; readonly ports: string } {
  return { map: `clients-${id}`, ports: `client-ports-${id}` };
}

/** The `stickyId` in a chain's name or a verdict; undefined for what frontends share. */
export function ownerOf(name: string): string | undefined {
  return /(?:sticky-|remember-\d+-)([0-9a-f]{12})(?:-|$)/.exec(name)?.[1];
}

/** What chains made on demand need besides chains. */
export interface Demand {
  readonly sets: readonly NftSet[];
  /** Each after those it goes to. */
  readonly chains: readonly Chain[];
}

/** What a chain of this name consists of; undefined for names that are not made on demand. */
export function demandOf(name: string, markBit: number): Demand | undefined {
  const [, seconds, id] = /^remember-([1-9]\d*)(?:-([0-9a-f]{12}))?$/.exec(name) ?? [];
  if (seconds !== undefined) {
    const maps = id === undefined ? { map: 'affinity' } : clientMaps(id);
    const fields: readonly Field[] = id === undefined ? ['originalSaddr', 'originalDaddr', 'protocol', 'originalDport'] : ['originalSaddr'];
    const rules: Rule[] = [[anyTransport, { do: 'remember', fields, ...maps, seconds: Number(seconds) }]];
    return { sets: id === undefined ? [] : clientSets(id), chains: [{ name, hook: undefined, rules }] };
  }
  const variant = parsePickChainName(name);
  if (variant === undefined) return undefined;
  return { sets: typeof variant.sticky === 'string' ? clientSets(variant.sticky) : [], chains: pickChains(variant, markBit) };
}

function clientSets(id: string): NftSet[] {
  const { map, ports } = clientMaps(id);
  const rest = 'flags dynamic,timeout; timeout 3h; size 65536;';
  return [
    { name: map, kind: 'map', spec: `typeof ip6 saddr : ip6 daddr; ${rest}` },
    { name: ports, kind: 'map', spec: `typeof ip6 saddr : tcp dport; ${rest}` },
  ];
}

/** Undefined for other chains. */
function parsePickChainName(name: string): PickVariant | undefined {
  const match = /^(np-)?(masq-)?(sticky-(?:([0-9a-f]{12})-)?)?(local-)?pick-([1-9]\d{0,4})$/.exec(name);
  if (match === null) return undefined;
  const [, np, masq, sticky, id, local, count] = match;
  return { nodePort: !!np, masquerade: !!masq, sticky: id ?? !!sticky, local: !!local, count: Number(count) };
}

/** The chain with those it goes to, these first. */
export function pickChains(variant: PickVariant, markBit: number): Chain[] {
  const name = pickChainName(variant);
  const chain = (rules: readonly Rule[]): Chain => ({ name, hook: undefined, rules });
  const then = (rest: PickVariant, ...rules: Rule[]): Chain[] => [
    ...pickChains(rest, markBit),
    chain([...rules, [{ do: 'goto', chain: pickChainName(rest) }]]),
  ];
  if (variant.masquerade) return then({ ...variant, masquerade: false }, [{ do: 'mark', bit: markBit }]);
  if (variant.sticky !== false) {
    const own = typeof variant.sticky === 'string';
    const maps = typeof variant.sticky === 'string' ? clientMaps(variant.sticky) : { map: 'affinity' };
    const client: readonly Field[] = own ? ['saddr'] : ['saddr', 'daddr', 'protocol', 'dport'];
    return then({ ...variant, sticky: false }, [anyTransport, { do: 'translate', fields: client, ...maps }]);
  }
  const frontend: readonly Field[] = variant.nodePort ? ['protocol', 'dport'] : ['daddr', 'protocol', 'dport'];
  const fields: readonly Field[] = [...frontend, { random: variant.count }];
  return [chain(protocols.map((protocol) => [{ do: 'translate', fields, map: endpointMap(variant, protocol) }]))];
}

/**
 * Endpoints of each protocol are in a map of their own. nft takes the port of a map's value for a port of one protocol, and
 * adds a match on that protocol to the first rule of a run that uses the map, and to no other (1.0.6, seen with
 * `--debug=netlink`). The protocol is in the key as well, so either is right.
 */
export function endpointMap({ nodePort, local }: Pick<PickVariant, 'nodePort' | 'local'>, protocol: Protocol): string {
  return `${nodePort ? 'nodeport-' : ''}${protocol}-endpoints${local ? '-local' : ''}`;
}

// nft 1.0.6 wants to know that there is a port before it takes `th dport` in such a lookup.
const anyTransport = { if: 'protocol', protocols: ['tcp', 'udp', 'sctp'] } as const;
