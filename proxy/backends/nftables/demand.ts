// Chains that are made when the first Service needs them, and shared by all that do. Those that pick
// one of N endpoints depend on N alone: numgen's modulus has to be a constant. Those that remember a
// client depend on how long. None is ever deleted: older kernels (< 6.2) forget slowly that a chain is
// no longer referred to, and the next Service may need it.
import type { Chain, Field, Rule } from './rule.ts';

/** What a chain that picks an endpoint does on the way. */
export interface PickVariant {
  /** For a node port, whose elements have no address in their keys. */
  readonly nodePort: boolean;
  readonly masquerade: boolean;
  /** Asks first which endpoint the client had. */
  readonly sticky: boolean;
  /** Chooses from the list of Local policy of an external frontend. */
  readonly local: boolean;
  /** How many endpoints there are; at least 1. */
  readonly count: number;
}

/** `pick-5`, `np-masq-sticky-local-pick-5`. */
export function pickChainName({ nodePort, masquerade, sticky, local, count }: PickVariant): string {
  return `${nodePort ? 'np-' : ''}${masquerade ? 'masq-' : ''}${sticky ? 'sticky-' : ''}${local ? 'local-' : ''}pick-${count}`;
}

/** The chain that remembers for so many seconds which endpoint a client got. */
export function rememberChainName(seconds: number): string {
  return `remember-${seconds}`;
}

/** A chain made on demand, with those it goes to before it; undefined for names of other chains. */
export function chainsFor(name: string, markBit: number): Chain[] | undefined {
  const seconds = /^remember-([1-9]\d*)$/.exec(name)?.[1];
  if (seconds !== undefined) {
    const rules: Rule[] = [[anyTransport, { do: 'remember', map: 'affinity', seconds: Number(seconds) }]];
    return [{ name, hook: undefined, rules }];
  }
  const variant = parsePickChainName(name);
  return variant === undefined ? undefined : pickChains(variant, markBit);
}

/** Undefined for other chains. */
function parsePickChainName(name: string): PickVariant | undefined {
  const match = /^(np-)?(masq-)?(sticky-)?(local-)?pick-([1-9]\d{0,4})$/.exec(name);
  if (match === null) return undefined;
  const [, np, masq, sticky, local, count] = match;
  return { nodePort: !!np, masquerade: !!masq, sticky: !!sticky, local: !!local, count: Number(count) };
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
  if (variant.sticky)
    return then({ ...variant, sticky: false }, [anyTransport, { do: 'translate', fields: clientFields, map: 'affinity' }]);
  const frontend: readonly Field[] = variant.nodePort ? ['protocol', 'dport'] : ['daddr', 'protocol', 'dport'];
  const fields: readonly Field[] = [...frontend, { random: variant.count }];
  return [chain([[{ do: 'translate', fields, map: endpointMap(variant) }]])];
}

export function endpointMap({ nodePort, local }: Pick<PickVariant, 'nodePort' | 'local'>): string {
  return `${nodePort ? 'nodeport-' : ''}endpoints${local ? '-local' : ''}`;
}

const clientFields: readonly Field[] = ['saddr', 'daddr', 'protocol', 'dport'];
// nft 1.0.6 wants to know that there is a port before it takes `th dport` in such a lookup.
const anyTransport = { if: 'protocol', protocols: ['tcp', 'udp', 'sctp'] } as const;
