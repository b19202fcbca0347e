import type { EndpointSlice, Endpoint as SliceEndpoint } from '../../agent/model/generated/api.ts';
import { type Family, isUnusable, parseAddress } from './address.ts';
import { isPort, type Protocol, protocolOf, serviceProxyNameLabel } from './service-row.ts';
import { type SkipCounter, type Skipped, skipCounter } from './skipped.ts';

/** The label of a slice that names its Service. */
const serviceNameLabel = 'kubernetes.io/service-name';
/** Set on slices of headless Services, which no proxy serves. */
const headlessLabel = 'service.kubernetes.io/headless';
/** When the change happened that the slice was last written for. */
const triggerTimeAnnotation = 'endpoints.kubernetes.io/last-change-trigger-time';

export interface SlicePort {
  readonly name: string;
  readonly protocol: Protocol;
  readonly port: number;
}

/** One address of a slice with its conditions; absent conditions have the API's meaning. */
export interface SliceAddress {
  readonly ip: string;
  /** UID of the target, which tells pods apart that had one address after another. */
  readonly uid: string | undefined;
  /** `namespace/name` of the pod; undefined for targets that are no pods. */
  readonly pod: string | undefined;
  readonly nodeName: string | undefined;
  /** May get new connections; false while terminating, unless publishNotReadyAddresses. */
  readonly ready: boolean;
  /** Passes its readiness probe, terminating or not. */
  readonly serving: boolean;
  readonly terminating: boolean;
  /** Names of zones that should use it; undefined without hints. */
  readonly zoneHints: readonly string[] | undefined;
  /** Names of nodes that should use it; undefined without hints. */
  readonly nodeHints: readonly string[] | undefined;
}

/** What is kept of an EndpointSlice. */
export interface SliceRow {
  /** `namespace/name` of the slice. */
  readonly key: string;
  /** `namespace/name` of its Service. */
  readonly service: string;
  readonly family: Family;
  readonly ports: readonly SlicePort[];
  readonly addresses: readonly SliceAddress[];
  /** Wall milliseconds, with fractions; undefined when the slice does not say. */
  readonly triggeredMs: number | undefined;
  readonly resourceVersion: string;
  readonly skipped: readonly Skipped[] | undefined;
}

/**
 * The row of a slice; undefined for those that are not proxied: without a Service, with names
 * (FQDN) for addresses, of headless Services or of another proxy. A reflector's `transform`.
 */
export function sliceRow(slice: EndpointSlice): SliceRow | undefined {
  const labels = slice.metadata?.labels ?? {};
  const service = labels[serviceNameLabel];
  const family = slice.addressType === 'IPv4' ? 'ip' : slice.addressType === 'IPv6' ? 'ip6' : undefined;
  if (!service || family === undefined || slice.metadata?.name === undefined) return undefined;
  if (labels[serviceProxyNameLabel] !== undefined || labels[headlessLabel] !== undefined) return undefined;
  const counter = skipCounter();
  const namespace = slice.metadata.namespace ?? 'default';
  const triggered = Date.parse(slice.metadata.annotations?.[triggerTimeAnnotation] ?? '');
  return {
    key: `${namespace}/${slice.metadata.name}`,
    service: `${namespace}/${service}`,
    family,
    ports: portsOf(slice.ports, counter),
    addresses: (slice.endpoints ?? []).flatMap((endpoint) => addressOf(endpoint, family, counter) ?? []),
    triggeredMs: Number.isNaN(triggered) ? undefined : triggered,
    resourceVersion: slice.metadata.resourceVersion ?? '',
    skipped: counter.rows(),
  };
}

/** A port without a name or a number means "any", which no proxy can serve: it is skipped. */
function portsOf(ports: EndpointSlice['ports'], counter: SkipCounter): SlicePort[] {
  const rows: SlicePort[] = [];
  for (const given of ports ?? []) {
    const protocol = protocolOf(given?.protocol ?? 'TCP');
    // A defaulted name is empty; a missing one is upstream's "nil name", which it skips as well.
    if (typeof given?.name !== 'string') counter.skip('UnnamedPort', given);
    else if (!isPort(given.port)) counter.skip('InvalidPort', given);
    else if (protocol === undefined) counter.skip('InvalidProtocol', given.protocol);
    else rows.push({ name: given.name, protocol, port: given.port });
  }
  return rows;
}

/** Only the first address counts; the others of an endpoint are the same target's (API docs). */
function addressOf(endpoint: SliceEndpoint, family: Family, counter: SkipCounter): SliceAddress | undefined {
  const [text] = endpoint?.addresses ?? [];
  if (typeof text !== 'string') {
    counter.skip('NoAddress', endpoint);
    return undefined;
  }
  const address = parseAddress(text);
  if (address === undefined || isUnusable(address)) {
    counter.skip('InvalidAddress', text);
    return undefined;
  }
  if (address.family !== family) {
    counter.skip('WrongFamily', text);
    return undefined;
  }
  const { conditions, targetRef, hints } = endpoint;
  const isPod = targetRef?.kind === 'Pod' && targetRef.name !== undefined;
  return {
    ip: address.text,
    uid: targetRef?.uid,
    pod: isPod ? `${targetRef.namespace ?? 'default'}/${targetRef.name}` : undefined,
    nodeName: endpoint.nodeName,
    ready: conditions?.ready ?? true,
    serving: conditions?.serving ?? true,
    terminating: conditions?.terminating ?? false,
    zoneHints: namesOf(hints?.forZones),
    nodeHints: namesOf(hints?.forNodes),
  };
}

function namesOf(hints: readonly { readonly name: string }[] | undefined): readonly string[] | undefined {
  return hints == null || hints.length === 0 ? undefined : hints.map(({ name }) => name);
}
