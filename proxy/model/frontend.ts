// What every backend (nftables, iptables, IPVS) programs, and what a person is shown.
import type { Cidr, Family } from './address.ts';
import type { Endpoint } from './endpoints.ts';
import type { Protocol } from './service-row.ts';

/** A traffic policy: `Cluster` sends to all usable endpoints, `Local` to those of this node. */
export type Policy = 'Cluster' | 'Local';

export type FrontendKind = 'clusterIP' | 'loadBalancerIP' | 'externalIP' | 'nodePort';

/**
 * What clients connect to: an address (or any node-port address), a protocol and a port.
 *
 * What becomes of a new connection to it, in this order:
 * 1. `sources` is set, and the client's address is in none of them: dropped.
 * 2. `kind` is clusterIP: it goes to an endpoint of `policy`. Its source is masqueraded when
 *    masqueradeAll is set or when it is not known to come from a pod of this node.
 * 3. Else, with `policy` Cluster: it goes to an endpoint of `cluster`, always masqueraded, since
 *    the endpoint may be on another node, whose answer has to come back through here.
 * 4. Else, from a pod of this node: an endpoint of `cluster`, not masqueraded. From the node
 *    itself: an endpoint of `cluster`, masqueraded. From elsewhere: an endpoint of `local`, not
 *    masqueraded.
 * 5. Where the list that applies is empty, `closed` says what happens.
 * In all cases a connection of a pod that is sent to itself is masqueraded (hairpin).
 */
export interface Frontend {
  /** `ip|10.96.0.1|tcp|80`, `ip|nodeport|tcp|30080`: unique, by `frontendKey`. */
  readonly key: string;
  readonly kind: FrontendKind;
  readonly family: Family;
  /** Undefined for a node port. */
  readonly address: string | undefined;
  readonly protocol: Protocol;
  /** The port that clients use: the Service's or the node port. */
  readonly port: number;
  /** `namespace/name` of the Service. */
  readonly service: string;
  /** Name of the Service's port; empty for an unnamed one. */
  readonly portName: string;
  /** The internal policy for a cluster IP, the external one for the others. */
  readonly policy: Policy;
  /** Undefined where this frontend never sends by Cluster policy. */
  readonly cluster: Pick | undefined;
  /** Undefined where this frontend never sends by Local policy. */
  readonly local: Pick | undefined;
  /**
   * What is done with a connection that has no endpoint to go to: `reject` (TCP reset, ICMP port
   * unreachable for others) when the Service has no endpoint anywhere, `drop` when only this node
   * has none, so that a load balancer's other nodes can answer. Undefined while the list is not
   * empty.
   */
  readonly closed: 'reject' | 'drop' | undefined;
  /** Seconds for which a client's next connections go to the same endpoint; undefined: any. */
  readonly affinitySeconds: number | undefined;
  /** Who may connect at all; undefined: everybody. Disjoint CIDRs; empty: nobody. */
  readonly sources: readonly Cidr[] | undefined;
}

/** The endpoints that one policy chose, ordered by key, and why these. */
export interface Pick {
  readonly endpoints: readonly Endpoint[];
  readonly why: PickReason;
}

/**
 * - `ready`: every ready endpoint (of the node, for Local);
 * - `sameNode`, `sameZone`: the ready ones that hints give to this node or zone;
 * - `terminating`: none is ready, these still serve while they terminate (KEP-1669);
 * - `none`: there is no usable one.
 */
export type PickReason = 'ready' | 'sameNode' | 'sameZone' | 'terminating' | 'none';

/** The part of a frontend that identifies it. */
export interface FrontendAddress {
  readonly family: Family;
  readonly address: string | undefined;
  readonly protocol: Protocol;
  readonly port: number;
}

export function frontendKey({ family, address, protocol, port }: FrontendAddress): string {
  return `${family}|${address ?? 'nodeport'}|${protocol}|${port}`;
}

/** The list that connections from other hosts go to; for a cluster IP, all connections. */
export function policyPick(frontend: Frontend): Pick | undefined {
  return frontend.policy === 'Local' ? frontend.local : frontend.cluster;
}
