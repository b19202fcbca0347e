import type { Endpoint } from './endpoints.ts';
import type { Pick, PickReason } from './frontend.ts';
import type { NodeFacts } from './node.ts';

/**
 * The endpoints of Cluster policy as this node sees them: the ready ones that hints give it, else
 * all ready ones, else those that still serve while they terminate (pkg/proxy/topology.go).
 */
export function clusterPick(endpoints: readonly Endpoint[], node: NodeFacts): Pick {
  const ready = endpoints.filter(isReady);
  if (ready.length === 0) return terminatingPick(endpoints);
  const why = hintedTopology(ready, node);
  if (why === 'sameNode') return { endpoints: ready.filter(({ address }) => address.nodeHints?.includes(node.name)), why };
  if (why === 'sameZone') return { endpoints: ready.filter(({ address }) => address.zoneHints?.includes(node.zone)), why };
  return { endpoints: ready, why };
}

/** The endpoints of Local policy: hints mean nothing here. */
export function localPick(endpoints: readonly Endpoint[]): Pick {
  const local = endpoints.filter((endpoint) => endpoint.local);
  const ready = local.filter(isReady);
  return ready.length > 0 ? { endpoints: ready, why: 'ready' } : terminatingPick(local);
}

/** True when the Service has an endpoint that could serve, on whatever node. */
export function hasUsable(endpoints: readonly Endpoint[]): boolean {
  return endpoints.some((endpoint) => isReady(endpoint) || servesWhileTerminating(endpoint));
}

export function isReady({ address }: Endpoint): boolean {
  return address.ready;
}

/** Why an endpoint gets no new connections from this node; undefined when it does. */
export type OutReason = 'NotReady' | 'Terminating' | 'OtherNode' | 'OtherZone';

/** For people: why `pick` left this endpoint out. */
export function outReason(endpoint: Endpoint, pick: Pick): OutReason | undefined {
  if (pick.endpoints.some(({ key }) => key === endpoint.key)) return undefined;
  if (endpoint.address.terminating && !endpoint.address.ready) return 'Terminating';
  if (!endpoint.address.ready) return 'NotReady';
  return pick.why === 'sameZone' ? 'OtherZone' : 'OtherNode';
}

function terminatingPick(endpoints: readonly Endpoint[]): Pick {
  const serving = endpoints.filter(servesWhileTerminating);
  return { endpoints: serving, why: serving.length > 0 ? 'terminating' : 'none' };
}

function servesWhileTerminating({ address }: Endpoint): boolean {
  return address.serving && address.terminating;
}

/**
 * Hints count when every ready endpoint has them and one is for us: else some endpoint might be
 * used by nobody, or we might have none. Node hints (PreferSameNode) come before those of zones.
 */
function hintedTopology(ready: readonly Endpoint[], node: NodeFacts): PickReason {
  const forNode = (each: Endpoint): readonly string[] | undefined => each.address.nodeHints;
  const forZone = (each: Endpoint): readonly string[] | undefined => each.address.zoneHints;
  if (ready.every((each) => forNode(each) !== undefined) && ready.some((each) => forNode(each)?.includes(node.name))) return 'sameNode';
  if (ready.every((each) => forZone(each) !== undefined) && ready.some((each) => forZone(each)?.includes(node.zone))) return 'sameZone';
  return 'ready';
}
