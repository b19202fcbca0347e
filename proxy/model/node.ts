import { type Address, type Cidr, cidrContains, type Family, isEverything, parseAddress, parseCidr } from './address.ts';

/** What planning has to know of the node. */
export interface NodeFacts {
  readonly name: string;
  /** Label topology.kubernetes.io/zone; empty without it. */
  readonly zone: string;
  /** The node's primary address of each family it has one of. */
  readonly addresses: Readonly<Partial<Record<Family, string>>>;
}

/** How a packet of a pod on this node is told from others (detectLocalMode). */
export type DetectLocal =
  /** ClusterCIDR and NodeCIDR: the source address lies in one of these. */
  | { readonly kind: 'cidrs'; readonly cidrs: readonly Cidr[] }
  /** BridgeInterface: it comes in through this interface. */
  | { readonly kind: 'interface'; readonly name: string }
  /** InterfaceNamePrefix: it comes in through an interface whose name begins so. */
  | { readonly kind: 'interfacePrefix'; readonly prefix: string }
  /** No way to tell: no packet counts as a pod's, and none is masqueraded for not being one. */
  | { readonly kind: 'none' };

/** The part of a detector that means something in one family. */
export function detectLocalIn(family: Family, detect: DetectLocal): DetectLocal {
  if (detect.kind !== 'cidrs') return detect;
  const cidrs = detect.cidrs.filter((cidr) => cidr.family === family);
  return cidrs.length === 0 ? { kind: 'none' } : { kind: 'cidrs', cidrs };
}

/** Which of the node's own addresses node ports are served on, in one family. */
export type NodePortAddresses =
  /** Every address of the node; loopback only with `localhost`. */
  | { readonly kind: 'all'; readonly localhost: boolean }
  /** These alone, in order; loopback only with `localhost`, and then all of 127.0.0.0/8. */
  | { readonly kind: 'list'; readonly addresses: readonly string[]; readonly localhost: boolean };

/** What nodePortAddresses of a KubeProxyConfiguration says, in all families. */
export interface NodePortSetting {
  /** CIDRs, or the words `primary`, `localhost` and `all`; empty means `all`. */
  readonly words: readonly string[];
  /**
   * Serve node ports on loopback too (IPv4 only: the kernel routes no other host's ::1), where no
   * word rules loopback out.
   */
  readonly localhost: boolean;
}

/** What is wrong with nodePortAddresses; undefined when nothing is. */
export function nodePortAddressesProblem(words: readonly string[]): string | undefined {
  for (const word of words) {
    if ((word === 'primary' || word === 'all') && words.some((other) => other !== word && other !== 'localhost'))
      return `nodePortAddresses: '${word}' stands alone or with 'localhost'`;
    if (!isWord(word) && parseCidr(word) === undefined)
      return `nodePortAddresses: ${JSON.stringify(word)} is neither a CIDR nor primary, localhost or all`;
  }
  return undefined;
}

/**
 * Resolves nodePortAddresses with the addresses that the node has now. As upstream, a family that
 * no CIDR is of serves on all its addresses (pkg/proxy/util/nodeport_addresses.go), and `primary`
 * in a family where the node has no primary address does too.
 */
export function nodePortAddressesIn(
  family: Family,
  setting: NodePortSetting,
  node: NodeFacts,
  interfaceAddresses: readonly string[],
): NodePortAddresses {
  const { words } = setting;
  const cidrs = words.flatMap((word) => parseCidr(word) ?? []).filter((cidr) => cidr.family === family);
  const own = addressesIn(family, interfaceAddresses);
  const primary = words.includes('primary') ? node.addresses[family] : undefined;
  const named = words.includes('localhost');
  if (primary === undefined && cidrs.length === 0) {
    const onlyLocalhost = named && words.every((word) => word === 'localhost');
    if (onlyLocalhost) return { kind: 'list', addresses: [], localhost: family === 'ip' };
    return { kind: 'all', localhost: family === 'ip' && (setting.localhost || named) };
  }
  if (cidrs.some(isEverything)) return { kind: 'all', localhost: family === 'ip' && (setting.localhost || named) };
  const matching = own.filter((address) => cidrs.some((cidr) => cidrContains(cidr, address)));
  const texts = [...matching.map(({ text }) => text), ...(primary === undefined ? [] : [primary])];
  const loopback = cidrs.some((cidr) => cidrsTouchLoopback(cidr));
  return {
    kind: 'list',
    addresses: [...new Set(texts)].filter((text) => !isLoopback(text)).sort(),
    localhost: family === 'ip' && (named || (loopback && setting.localhost)),
  };
}

const loopback4 = parseCidr('127.0.0.0/8') as Cidr;

function cidrsTouchLoopback(cidr: Cidr): boolean {
  return cidr.family === 'ip' && cidr.first <= loopback4.last && cidr.last >= loopback4.first;
}

function isLoopback(text: string): boolean {
  return text.startsWith('127.') || text === '::1';
}

function addressesIn(family: Family, texts: readonly string[]): Address[] {
  return texts.flatMap((text) => parseAddress(text) ?? []).filter((address) => address.family === family);
}

function isWord(word: string): boolean {
  return word === 'primary' || word === 'localhost' || word === 'all';
}
