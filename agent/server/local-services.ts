// `keelson services`, and what `keelson why` tells of Services: the answers of a daemon that programs them.
import type { ServerResponse } from 'node:http';
import { AgentError } from '../base/errors.ts';
import { sendJson } from './reply.ts';

/** A Service whose rules on this node send to a pod. */
export interface InRules {
  /** `namespace/name`. */
  readonly service: string;
  /** Since when, wall ms; for what was found at the daemon's start, when it was found. */
  readonly sinceMs: number;
  /** When the pod became Ready, wall ms; undefined when this daemon did not see it happen. */
  readonly readyMs: number | undefined;
}

/** An address and port that clients use. */
export interface LocalFrontend {
  readonly kind: 'clusterIP' | 'loadBalancerIP' | 'externalIP' | 'nodePort';
  readonly family: 'ip' | 'ip6';
  /** `10.96.0.1:80`, or the port alone for a node port. */
  readonly address: string;
  readonly protocol: string;
  readonly portName: string;
  readonly policy: 'Cluster' | 'Local';
  readonly state: 'programmed' | 'waiting' | 'conflict' | 'refused';
  /** The owner of the address for `conflict`, what the kernel's tool said for `refused`. */
  readonly detail: string | undefined;
  /** How many endpoints it sends to by its policy. */
  readonly endpoints: number;
  /** What becomes of connections while there is no endpoint. */
  readonly closed: 'reject' | 'drop' | undefined;
  readonly affinitySeconds: number | undefined;
  /** Who may connect at all; undefined: everybody. */
  readonly sources: readonly string[] | undefined;
}

export interface LocalEndpoint {
  readonly family: 'ip' | 'ip6';
  /** `10.1.0.7:8080`. */
  readonly address: string;
  readonly portName: string;
  /** `namespace/name`; undefined for targets that are no pods. */
  readonly pod: string | undefined;
  readonly node: string | undefined;
  /** Why this node sends it nothing: NotReady, Terminating, OtherNode, OtherZone; undefined when it does. */
  readonly out: string | undefined;
}

/** Answer of `GET /services/NAMESPACE/NAME`. */
export interface LocalService {
  /** `namespace/name`. */
  readonly service: string;
  readonly frontends: readonly LocalFrontend[];
  readonly endpoints: readonly LocalEndpoint[];
  /** Parts of the Service and its EndpointSlices that cannot be served. */
  readonly skipped: readonly { readonly reason: string; readonly count: number; readonly example: string }[];
}

/** Whether the kernel had all of a family's rules when they were read back. */
export interface Verified {
  readonly family: 'ip' | 'ip6';
  readonly whole: boolean;
}

/** Answer of `GET /services`, and of a Service by name. */
export interface LocalServices {
  /** Ordered by name. */
  readonly services: readonly LocalService[];
  /** With `?verify`. */
  readonly verified?: readonly Verified[] | undefined;
}

/** What the proxy of this daemon tells. */
export interface ProxyView {
  /** Names, ordered. */
  services(): readonly string[];
  /** Undefined for one that is not proxied. */
  describe(service: string): LocalService | undefined;
  /** Reads the rules back from the kernel; what they lack is made anew. */
  verify(signal: AbortSignal): Promise<readonly Verified[]>;
  inRulesOf(pod: PodAddresses): readonly InRules[];
}

/** What of a pod tells whether rules send to it. */
export interface PodAddresses {
  readonly metadata: { readonly uid: string };
  readonly status?: { readonly podIP?: string | undefined; readonly podIPs?: readonly { readonly ip: string }[] | undefined } | undefined;
}

export interface LocalProxy {
  /** Undefined while this daemon programs no Services. */
  view(): ProxyView | undefined;
  /** Why it does not; for people. */
  whyOff(): string;
}

/**
 * Answers for all Services, or for the one that `path` names. Throws AgentError NotFound for one that is not programmed here, Conflict where none are.
 */
export async function answerServices(
  proxy: LocalProxy,
  path: readonly string[],
  verify: boolean,
  response: ServerResponse,
  signal: AbortSignal,
): Promise<void> {
  const view = proxy.view();
  if (view === undefined) throw new AgentError('Conflict', `this daemon programs no Services: ${proxy.whyOff()}`);
  const [namespace = '', name] = path;
  const names = name === undefined ? view.services() : [`${namespace}/${name}`];
  const services = names.map((each) => view.describe(each)).filter((each) => each !== undefined);
  if (name !== undefined && services.length === 0) throw notProxied(`${namespace}/${name}`, view.services());
  const verified = verify ? await view.verify(signal) : undefined;
  sendJson(response, { services, verified } satisfies LocalServices);
}

function notProxied(service: string, known: readonly string[]): AgentError {
  const alike = known.filter((each) => each.split('/')[1] === service.split('/')[1]).slice(0, 5);
  const hint = alike.length > 0 ? `there is ${alike.join(', ')}` : `${known.length} are: "keelson services" lists them`;
  return new AgentError(
    'NotFound',
    `no Service ${service} is programmed on this node (there is none, it is headless or an ExternalName, or service.kubernetes.io/service-proxy-name gives it to another proxy); ${hint}`,
  );
}
