import { hostPort } from './address.ts';
import type { Protocol } from './service-row.ts';
import type { SliceAddress, SlicePort, SliceRow } from './slice-row.ts';

/** One place that a Service's port sends to. */
export interface Endpoint {
  /** `10.1.0.7:8080` or `[fd00::7]:8080`. */
  readonly key: string;
  readonly port: number;
  /** On this node. */
  readonly local: boolean;
  readonly address: SliceAddress;
}

/** Endpoints of a Service in one family, by `portKey`, each list ordered by key. */
export type EndpointsByPort = ReadonlyMap<string, readonly Endpoint[]>;

/** The key of a Service's port among its endpoints. Names hold no blanks. */
export function portKey(name: string, protocol: Protocol): string {
  return `${protocol} ${name}`;
}

/**
 * Merges the slices of a Service of one family. An address may be in several of them (moving from
 * one to another), or in one twice (its last pod is not gone while the next one has it):
 * - the same pod: the newer slice is right, since the older has not heard the news yet;
 * - different pods: the one that does not terminate wins, then the one that is ready.
 * Upstream leaves these to the order of a Go map (kubernetes#135266, endpointslicecache.go).
 */
export function mergeEndpoints(slices: readonly SliceRow[], nodeName: string): EndpointsByPort {
  const claimed = new Map<string, Map<string, Claim | Claim[]>>();
  for (const slice of slices) {
    for (const port of slice.ports) {
      const key = portKey(port.name, port.protocol);
      let byAddress = claimed.get(key);
      if (byAddress === undefined) {
        byAddress = new Map();
        claimed.set(key, byAddress);
      }
      addClaims(byAddress, slice, port);
    }
  }
  const merged = new Map<string, readonly Endpoint[]>();
  for (const [key, byAddress] of claimed) {
    const endpoints: Endpoint[] = [];
    for (const [endpointKey, given] of byAddress) {
      const { port, address } = Array.isArray(given) ? winnerOf(given) : given;
      endpoints.push({ key: endpointKey, port: port.port, local: address.nodeName === nodeName && nodeName !== '', address });
    }
    merged.set(
      key,
      endpoints.sort((a, b) => (a.key < b.key ? -1 : 1)),
    );
  }
  return merged;
}

/** One mention of an address in a slice. */
interface Claim {
  readonly slice: SliceRow;
  readonly port: SlicePort;
  readonly address: SliceAddress;
}

function addClaims(byAddress: Map<string, Claim | Claim[]>, slice: SliceRow, port: SlicePort): void {
  for (const address of slice.addresses) {
    const key = hostPort(slice.family, address.ip, port.port);
    const claim = { slice, port, address };
    const others = byAddress.get(key);
    if (others === undefined) byAddress.set(key, claim);
    else if (Array.isArray(others)) others.push(claim);
    else byAddress.set(key, [others, claim]);
  }
}

// Two rules in turn, so that no order of slices matters: the newest word on each pod, then the
// best pod.
function winnerOf(claims: readonly Claim[]): Claim {
  const newest = [...Map.groupBy(claims, ({ address }) => address.uid ?? '').values()].map(newestOf);
  return newest.sort((a, b) => byState(a, b) || byVersion(a, b) || compareText(a.address.uid ?? '', b.address.uid ?? ''))[0] as Claim;
}

function newestOf(claims: readonly Claim[]): Claim {
  // A slice without a moment makes the others' moments useless: then writes are compared.
  const timed = claims.every(({ slice }) => slice.triggeredMs !== undefined);
  const byTime = (a: Claim, b: Claim): number => (timed ? (b.slice.triggeredMs ?? 0) - (a.slice.triggeredMs ?? 0) : 0);
  return [...claims].sort((a, b) => byTime(a, b) || byVersion(a, b) || byState(a, b))[0] as Claim;
}

/** Newer first; slices of one version (none has one) by name, so that there is an order. */
function byVersion(a: Claim, b: Claim): number {
  const versions = compareVersions(b.slice.resourceVersion, a.slice.resourceVersion);
  return versions || compareText(a.slice.key, b.slice.key);
}

/** The one to send to first. */
function byState({ address: a }: Claim, { address: b }: Claim): number {
  return Number(a.terminating) - Number(b.terminating) || Number(b.ready) - Number(a.ready) || Number(b.serving) - Number(a.serving);
}

/** Resource versions are numbers without leading zeros (KEP-5504): the longer one is greater. */
function compareVersions(a: string, b: string): number {
  return a.length - b.length || compareText(a, b);
}

const compareText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
