// Which tracked connections have to be forgotten when rules change, so that their next packet meets the new rules. Pure.
import { type Family, hostPort } from '../model/address.ts';
import type { Endpoint } from '../model/endpoints.ts';
import type { Frontend } from '../model/frontend.ts';
import type { Protocol } from '../model/service-row.ts';
import type { Commit } from '../programmed.ts';

/** One tracked connection, as far as it is looked at. Addresses in the spelling of `parseAddress`. */
export interface Flow {
  /** Where the client sent to. */
  readonly to: { readonly address: string; readonly port: number };
  /** Who answers: an endpoint, or the same as `to` where nobody translated it. */
  readonly answeredBy: { readonly address: string; readonly port: number };
  /** A packet came back. */
  readonly replied: boolean;
  /** TCP: SYN_SENT, nothing else yet. */
  readonly opening: boolean;
}

/** Which flows to look at, and which of them go. */
export interface ForgetRequest {
  readonly family: Family;
  readonly protocol: Protocol;
  /** Undefined for node ports: then only flows to an address of this node count. */
  readonly address: string | undefined;
  readonly port: number;
  /** `IP:port` of endpoints that the frontend no longer sends to. */
  readonly endpoints: ReadonlySet<string>;
  /** Flows of clients that tried before the frontend had endpoints: translated by nobody, and answered by nobody. */
  readonly untranslated: boolean;
}

/**
 * What a change of rules makes stale. TCP connections to endpoints that go end by themselves, or are meant to drain; UDP and
 * SCTP have no end that the kernel sees, and would go on to an endpoint that is gone for as long as the client sends.
 * A client that tried before there was an endpoint is remembered as a flow to the Service's address itself.
 */
export function forgetRequests(commits: readonly Commit[]): ForgetRequest[] {
  return commits.flatMap(({ before, after }): ForgetRequest[] => {
    const frontend = after ?? before;
    if (frontend === undefined) return [];
    const [had, has] = [endpointKeys(before), endpointKeys(after)];
    const endpoints = frontend.protocol === 'tcp' ? new Set<string>() : new Set([...had].filter((key) => !has.has(key)));
    const untranslated = had.size === 0 && has.size > 0 && frontend.protocol !== 'sctp';
    if (endpoints.size === 0 && !untranslated) return [];
    const { family, protocol, address, port } = frontend;
    return [{ family, protocol, address, port, endpoints, untranslated }];
  });
}

/** Whether a flow to the frontend of the request goes. `isLocal`: the address is one of this node's own. */
export function isForgotten(flow: Flow, request: ForgetRequest, isLocal: (address: string) => boolean): boolean {
  if (flow.to.port !== request.port) return false;
  if (request.address === undefined ? !isLocal(flow.to.address) : flow.to.address !== request.address) return false;
  const translated = flow.answeredBy.address !== flow.to.address || flow.answeredBy.port !== flow.to.port;
  if (translated) return request.endpoints.has(hostPort(request.family, flow.answeredBy.address, flow.answeredBy.port));
  return request.untranslated && !flow.replied && (request.protocol === 'udp' || flow.opening);
}

function endpointKeys(frontend: Frontend | undefined): Set<string> {
  const { cluster, local } = frontend ?? {};
  const list: Endpoint[] = [...(cluster?.endpoints ?? []), ...(local?.endpoints ?? [])];
  return new Set(list.map(({ key }) => key));
}
