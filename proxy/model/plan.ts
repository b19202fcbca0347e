import { type Cidr, cidrContains, type Family, hostCidr, mergeCidrs, parseAddress } from './address.ts';
import { type Endpoint, type EndpointsByPort, portKey } from './endpoints.ts';
import { type Frontend, type FrontendKind, frontendKey, type Pick, type Policy } from './frontend.ts';
import type { NodeFacts } from './node.ts';
import type { ServiceAddresses, ServicePortRow, ServiceRow } from './service-row.ts';
import { clusterPick, hasUsable, isReady, localPick } from './topology.ts';

/** What a load balancer asks this node about a Service with externalTrafficPolicy Local. */
export interface HealthCheck {
  /** `namespace/name`. */
  readonly service: string;
  readonly port: number;
  /** Ready pods of the Service on this node; the answer is 503 when there is none. */
  readonly localEndpoints: number;
}

/** All that one Service asks of this node in one family. */
export interface ServicePlan {
  /** In the order of the Service's ports; no two have one key. */
  readonly frontends: readonly Frontend[];
  readonly healthCheck: HealthCheck | undefined;
}

const nothing: ServicePlan = { frontends: [], healthCheck: undefined };
const noEndpoints: readonly Endpoint[] = [];

/** Decides what the node has to do for a Service. `service` undefined: nothing. */
export function planService(service: ServiceRow | undefined, endpoints: EndpointsByPort, node: NodeFacts, family: Family): ServicePlan {
  const addresses = service?.addresses[family];
  if (service === undefined || addresses === undefined) return nothing;
  const frontends = new Map<string, Frontend>();
  const sources = addresses.loadBalancerIPs.length > 0 ? sourcesOf(addresses, node, family) : undefined;
  for (const port of service.ports) {
    const picks = pickFor(service, addresses, port, endpoints.get(portKey(port.name, port.protocol)) ?? noEndpoints, node);
    for (const frontend of frontendsOf(service, addresses, port, picks, family)) {
      // The stricter kind of an address comes first: a load balancer's address that is an external
      // IP too keeps its ranges.
      if (frontends.has(frontend.key)) continue;
      frontends.set(frontend.key, frontend.kind === 'loadBalancerIP' ? { ...frontend, sources } : frontend);
    }
  }
  return { frontends: [...frontends.values()], healthCheck: healthCheckOf(service, endpoints) };
}

interface Picks {
  readonly cluster: Pick | undefined;
  readonly local: Pick | undefined;
  readonly usable: boolean;
}

/** Only lists that some frontend of the port uses are made. */
function pickFor(
  service: ServiceRow,
  addresses: ServiceAddresses,
  port: ServicePortRow,
  endpoints: readonly Endpoint[],
  node: NodeFacts,
): Picks {
  const external = port.nodePort !== undefined || addresses.loadBalancerIPs.length + addresses.externalIPs.length > 0;
  return {
    // Even with external policy Local, pods and the node itself send to all of the cluster.
    cluster: !service.internalLocal || external ? clusterPick(endpoints, node) : undefined,
    local: service.internalLocal || (service.externalLocal && external) ? localPick(endpoints) : undefined,
    usable: hasUsable(endpoints),
  };
}

function frontendsOf(service: ServiceRow, addresses: ServiceAddresses, port: ServicePortRow, picks: Picks, family: Family): Frontend[] {
  const internal: Policy = service.internalLocal ? 'Local' : 'Cluster';
  const external: Policy = service.externalLocal ? 'Local' : 'Cluster';
  const make = (kind: FrontendKind, policy: Policy, address: string | undefined, number: number): Frontend => {
    const place = { family, address, protocol: port.protocol, port: number };
    const pick = policy === 'Local' ? picks.local : picks.cluster;
    const empty = (pick?.endpoints.length ?? 0) === 0;
    return {
      key: frontendKey(place),
      kind,
      ...place,
      service: service.key,
      portName: port.name,
      policy,
      cluster: policy === 'Cluster' || kind !== 'clusterIP' ? picks.cluster : undefined,
      local: policy === 'Local' ? picks.local : undefined,
      closed: empty ? (picks.usable ? 'drop' : 'reject') : undefined,
      affinitySeconds: service.affinitySeconds,
      sources: undefined,
    };
  };
  return [
    make('clusterIP', internal, addresses.clusterIP, port.port),
    ...addresses.loadBalancerIPs.map((address) => make('loadBalancerIP', external, address, port.port)),
    ...addresses.externalIPs.map((address) => make('externalIP', external, address, port.port)),
    ...(port.nodePort === undefined ? [] : [make('nodePort', external, undefined, port.nodePort)]),
  ];
}

/**
 * Where the node itself may use the load balancer, it may also with the balancer's address as its
 * source: the kernel picks that one where the address is configured on the node.
 */
function sourcesOf(addresses: ServiceAddresses, node: NodeFacts, family: Family): readonly Cidr[] | undefined {
  const ranges = addresses.sourceRanges;
  const own = parseAddress(node.addresses[family] ?? '');
  if (ranges === undefined || own === undefined || !ranges.some((range) => cidrContains(range, own))) return ranges;
  const balancers = addresses.loadBalancerIPs.flatMap((text) => parseAddress(text) ?? []).map(hostCidr);
  return mergeCidrs([...ranges, ...balancers]);
}

/** Pods count once, whatever number of ports they serve. */
function healthCheckOf(service: ServiceRow, endpoints: EndpointsByPort): HealthCheck | undefined {
  const port = service.healthCheckNodePort;
  if (port === undefined) return undefined;
  const local = new Set<string>();
  for (const list of endpoints.values())
    for (const endpoint of list) if (endpoint.local && isReady(endpoint)) local.add(endpoint.address.ip);
  return { service: service.key, port, localEndpoints: local.size };
}
