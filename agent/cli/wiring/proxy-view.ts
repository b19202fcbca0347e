// What commands are told of the service proxy of this process.
import type { Description, EndpointDescription, FrontendDescription } from '../../../proxy/describe.ts';
import { type Family, hostPort } from '../../../proxy/model/address.ts';
import { policyPick } from '../../../proxy/model/frontend.ts';
import type { Proxy as ServiceProxy } from '../../../proxy/worker.ts';
import type { InRules, LocalEndpoint, LocalFrontend, LocalService, PodAddresses, ProxyView } from '../../server/local-services.ts';

export interface ProxyViewOptions {
  readonly proxy: Pick<ServiceProxy, 'programmed' | 'describe' | 'verify' | 'families'>;
  /** By `namespace/name`. */
  readonly services: { keys(): Iterable<string> };
  /** When a pod became Ready, wall ms, by UID; undefined when nobody saw it. */
  readonly readyMs: (podUid: string) => number | undefined;
}

export function createProxyView({ proxy, services, readyMs }: ProxyViewOptions): ProxyView {
  /** A pod of the host network has its node's address, as others have; an address may have been another pod's before. */
  const isEndpoint = (service: string, uid: string): boolean =>
    proxy
      .describe(service)
      .families.some(({ endpoints }) => endpoints.some(({ endpoint: { address } }) => address.uid === undefined || address.uid === uid));
  return {
    services: () => [...services.keys()].sort(),
    describe(service) {
      const description = proxy.describe(service);
      return description.proxied ? localService(description) : undefined;
    },
    verify: async (signal) =>
      await Promise.all(proxy.families.map(async (family) => ({ family, whole: await proxy.verify(family, signal) }))),
    inRulesOf(pod) {
      const { uid } = pod.metadata;
      const found = new Map<string, InRules>();
      for (const address of addressesOf(pod))
        for (const { service, sinceMs } of proxy.programmed.get(address)?.services ?? []) {
          // Dual stack: the family that came first.
          if ((found.get(service)?.sinceMs ?? Number.POSITIVE_INFINITY) <= sinceMs || !isEndpoint(service, uid)) continue;
          found.set(service, { service, sinceMs, readyMs: readyMs(uid) });
        }
      return [...found.values()].sort((a, b) => (a.service < b.service ? -1 : 1));
    },
  };
}

function addressesOf({ status }: PodAddresses): ReadonlySet<string> {
  const all = [status?.podIP, ...(status?.podIPs ?? []).map(({ ip }) => ip)];
  return new Set(all.filter((each) => each !== undefined));
}

function localService({ service, families, skipped }: Description): LocalService {
  return {
    service,
    frontends: families.flatMap(({ frontends }) => frontends.map(localFrontend)),
    endpoints: families.flatMap(({ family, endpoints }) => endpoints.map((each) => localEndpoint(family, each))),
    skipped,
  };
}

function localFrontend({ frontend, state, detail }: FrontendDescription): LocalFrontend {
  const { kind, family, address, port, protocol, portName, policy, closed, affinitySeconds, sources } = frontend;
  return {
    ...{ kind, family, protocol, portName, policy, state, detail, closed, affinitySeconds },
    address: address === undefined ? String(port) : hostPort(family, address, port),
    endpoints: policyPick(frontend)?.endpoints.length ?? 0,
    sources: sources?.map(({ text }) => text),
  };
}

function localEndpoint(family: Family, { endpoint, portName, out }: EndpointDescription): LocalEndpoint {
  const { pod, nodeName } = endpoint.address;
  return { family, address: endpoint.key, portName, pod, node: nodeName, out };
}
