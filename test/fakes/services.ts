// Services and EndpointSlices for tests of the proxy: what matters to a test is said, the rest is filled in.
import type { Endpoint, EndpointSlice, ObjectMeta, Service, ServicePort, ServiceSpec } from '../../agent/model/generated/api.ts';

interface ServiceFacts {
  readonly name?: string;
  readonly uid?: string;
  readonly created?: string;
  readonly metadata?: ObjectMeta;
  readonly spec?: ServiceSpec;
  /** Ingress addresses with ipMode VIP. */
  readonly ingress?: readonly string[];
  readonly ports?: ServicePort[];
}

/** A Service `default/web` on 10.96.0.1:80 (TCP, port name `http`), unless said otherwise. */
export function aService(facts: ServiceFacts = {}): Service {
  const { name = 'web', spec = {}, ingress = [] } = facts;
  return {
    metadata: {
      namespace: 'default',
      name,
      uid: facts.uid ?? `uid-${name}`,
      creationTimestamp: facts.created ?? '2026-01-01T00:00:00Z',
      ...facts.metadata,
    },
    spec: {
      type: ingress.length > 0 ? 'LoadBalancer' : 'ClusterIP',
      clusterIP: '10.96.0.1',
      ports: facts.ports ?? [{ name: 'http', port: 80, protocol: 'TCP', targetPort: 8080 }],
      ...spec,
    },
    status: { loadBalancer: { ingress: ingress.map((ip) => ({ ip })) } },
  };
}

interface EndpointFacts {
  readonly node?: string;
  readonly uid?: string;
  /** `ready` (default), `notReady`, `terminating` (still serves) or `gone` (terminates and serves no more). */
  readonly state?: 'ready' | 'notReady' | 'terminating' | 'gone';
  readonly zones?: readonly string[];
  readonly nodes?: readonly string[];
}

/** An endpoint of a slice; its pod's UID is `uid-<ip>` unless said otherwise. */
export function anEndpoint(ip: string, facts: EndpointFacts = {}): Endpoint {
  const { state = 'ready', uid = `uid-${ip}` } = facts;
  return {
    addresses: [ip],
    nodeName: facts.node ?? 'far',
    targetRef: { kind: 'Pod', namespace: 'default', name: `pod-${uid}`, uid },
    conditions: {
      ready: state === 'ready',
      serving: state === 'ready' || state === 'terminating',
      terminating: state === 'terminating' || state === 'gone',
    },
    ...(facts.zones === undefined && facts.nodes === undefined
      ? {}
      : { hints: { forZones: facts.zones?.map((name) => ({ name })), forNodes: facts.nodes?.map((name) => ({ name })) } }),
  };
}

interface SliceFacts {
  readonly name?: string;
  readonly service?: string;
  readonly ports?: EndpointSlice['ports'];
  readonly addressType?: string;
  readonly triggered?: string;
  readonly resourceVersion?: string;
  readonly labels?: Record<string, string>;
}

/** A slice of `default/web` with port `http` on 8080, unless said otherwise. */
export function aSlice(endpoints: Endpoint[], facts: SliceFacts = {}): EndpointSlice {
  const { service = 'web' } = facts;
  return {
    metadata: {
      namespace: 'default',
      name: facts.name ?? `${service}-1`,
      resourceVersion: facts.resourceVersion ?? '1',
      labels: { 'kubernetes.io/service-name': service, ...facts.labels },
      ...(facts.triggered === undefined ? {} : { annotations: { 'endpoints.kubernetes.io/last-change-trigger-time': facts.triggered } }),
    },
    addressType: facts.addressType ?? 'IPv4',
    endpoints,
    ports: facts.ports ?? [{ name: 'http', port: 8080, protocol: 'TCP' }],
  };
}
