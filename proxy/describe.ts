// What a person is shown of a Service: what is programmed for it, and why an endpoint is out.
import type { FamilyState } from './family-state.ts';
import type { Family } from './model/address.ts';
import type { Endpoint, EndpointsByPort } from './model/endpoints.ts';
import { portKey } from './model/endpoints.ts';
import { type Frontend, policyPick } from './model/frontend.ts';
import type { ServiceRow } from './model/service-row.ts';
import type { Skipped } from './model/skipped.ts';
import { type OutReason, outReason } from './model/topology.ts';

export interface FrontendDescription {
  readonly frontend: Frontend;
  /**
   * - `programmed`: the kernel has it as it is wanted;
   * - `waiting`: the next transactions bring it;
   * - `conflict`: another Service owns the address and port;
   * - `refused`: the kernel refused it, and it is tried again with a back-off.
   */
  readonly state: 'programmed' | 'waiting' | 'conflict' | 'refused';
  /** For `conflict`: `namespace/name` of the owner. For `refused`: what the kernel's tool said. */
  readonly detail: string | undefined;
}

export interface EndpointDescription {
  readonly endpoint: Endpoint;
  readonly portName: string;
  /** Why this node sends it no connections by the policy of clusterIP; undefined when it does. */
  readonly out: OutReason | undefined;
}

export interface FamilyDescription {
  readonly family: Family;
  readonly frontends: readonly FrontendDescription[];
  readonly endpoints: readonly EndpointDescription[];
}

export interface Description {
  /** `namespace/name`. */
  readonly service: string;
  /** False for Services that are not proxied or do not exist. */
  readonly proxied: boolean;
  readonly families: readonly FamilyDescription[];
  /** Parts of the Service and its slices that cannot be served. */
  readonly skipped: readonly Skipped[];
}

export interface FamilyFacts {
  readonly state: FamilyState;
  readonly endpoints: EndpointsByPort;
  /** Why the kernel refuses the Service; undefined when it does not. */
  readonly refused: string | undefined;
}

export function describeService(
  key: string,
  service: ServiceRow | undefined,
  families: readonly FamilyFacts[],
  skipped: readonly Skipped[],
): Description {
  return {
    service: key,
    proxied: service !== undefined,
    families: families.map((facts) => describeFamily(key, service, facts)),
    skipped: [...(service?.skipped ?? []), ...skipped],
  };
}

function describeFamily(key: string, service: ServiceRow | undefined, { state, endpoints, refused }: FamilyFacts): FamilyDescription {
  const wanted = state.wanted(key);
  return {
    family: state.family,
    frontends: wanted.map((frontend) => ({ frontend, ...stateOf(frontend, state, refused) })),
    endpoints: (service?.ports ?? []).flatMap(({ name, protocol }) => {
      const clusterIP = wanted.find((each) => each.kind === 'clusterIP' && each.portName === name && each.protocol === protocol);
      const pick = clusterIP === undefined ? undefined : policyPick(clusterIP);
      const list = pick === undefined ? [] : (endpoints.get(portKey(name, protocol)) ?? []);
      return list.map((endpoint) => ({ endpoint, portName: name, out: pick && outReason(endpoint, pick) }));
    }),
  };
}

function stateOf(frontend: Frontend, state: FamilyState, refused: string | undefined): Pick<FrontendDescription, 'state' | 'detail'> {
  const owner = state.owner(frontend.key);
  if (owner !== undefined && owner.service !== frontend.service) return { state: 'conflict', detail: owner.service };
  if (state.acknowledged(frontend.key) === frontend) return { state: 'programmed', detail: undefined };
  return refused === undefined ? { state: 'waiting', detail: undefined } : { state: 'refused', detail: refused };
}
