// What the proxy tells people: Events, with the fix in their message.
import type { Conflict } from './model/claims.ts';
import type { ServiceRow } from './model/service-row.ts';

/** An Event to be written. `service` undefined: it is about the node. */
export interface ProxyEvent {
  /** The Service it is about. */
  readonly service: { readonly namespace: string; readonly name: string; readonly uid: string } | undefined;
  readonly type: 'Normal' | 'Warning';
  readonly reason: ProxyEventReason;
  /** The `action` of events.k8s.io. */
  readonly action: string;
  readonly message: string;
}

export type ProxyEventReason =
  /** Another Service has the address and port. */
  | 'FrontendConflict'
  /** The kernel refuses what this Service asks for. */
  | 'FailedToProgramService'
  /** The kernel or its tool does not take anything. */
  | 'ProxyBackendFailed'
  /** The rules were gone or changed, and were made anew. */
  | 'ProxyRulesRepaired';

export function conflictEvent({ frontend, owner }: Conflict, service: ServiceRow | undefined): ProxyEvent {
  const what = frontend.address === undefined ? `Node port ${frontend.port}` : `${frontend.address} port ${frontend.port}`;
  return {
    service: regarding(frontend.service, service),
    type: 'Warning',
    reason: 'FrontendConflict',
    action: 'Program',
    message: `${what} (${frontend.protocol.toUpperCase()}) belongs to Service ${owner}, and is served for it until it lets go`,
  };
}

export function refusedEvent(key: string, service: ServiceRow | undefined, backend: string, message: string): ProxyEvent {
  return {
    service: regarding(key, service),
    type: 'Warning',
    reason: 'FailedToProgramService',
    action: 'Program',
    message: `${backend} refuses the rules of this Service, which keeps those it had: ${message}`,
  };
}

export function backendEvent(reason: 'ProxyBackendFailed' | 'ProxyRulesRepaired', message: string): ProxyEvent {
  return { service: undefined, type: reason === 'ProxyBackendFailed' ? 'Warning' : 'Normal', reason, action: 'Program', message };
}

function regarding(key: string, service: ServiceRow | undefined): ProxyEvent['service'] {
  const [namespace = '', name = ''] = key.split('/');
  return { namespace, name, uid: service?.uid ?? '' };
}
