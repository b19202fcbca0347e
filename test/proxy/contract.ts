// What every backend has to do with packets, as one table: run against the kernel by real packets, and
// against the interpreter of the nftables backend.
import type { EndpointSlice, Service, ServiceSpec } from '../../agent/model/generated/api.ts';
import type { Family } from '../../proxy/model/address.ts';
import { anEndpoint, aService, aSlice } from '../fakes/services.ts';
import { addresses, addresses6, type Place } from './network.ts';

export type Client = 'node' | 'pod-a' | 'pod-b' | 'outside' | 'guest';

export interface Probe {
  readonly from: Client;
  /** `10.96.0.1:80`, `[fd96::1]:80`. */
  readonly to: string;
  readonly protocol?: 'tcp' | 'udp';
  /**
   * Who may answer: `a`, `b`, `far`, `host`, each with a star when it sees an address of the node
   * instead of the client's; or `refused`, `dropped`.
   */
  readonly is: string;
}

export interface Contract {
  readonly objects: readonly (Service | EndpointSlice)[];
  /** Node-port addresses, as nodePortAddresses says them. */
  readonly nodePortAddresses?: readonly string[];
  readonly localhostNodePorts?: boolean;
  readonly masqueradeAll?: boolean;
  readonly serviceCidrs?: readonly string[];
  readonly family?: Family;
  /** What this backend alone does: iptables mode does no more than upstream's here. */
  readonly only?: 'nftables';
  readonly probes: readonly Probe[];
}

/** Servers of the network: by the name that a probe expects. */
export const servers: Record<string, Server> = {
  a: { place: 'pod-a', address: addresses['pod-a'], address6: addresses6['pod-a'], port: 8080 },
  b: { place: 'pod-b', address: addresses['pod-b'], address6: addresses6['pod-b'], port: 8080 },
  far: { place: 'far', address: addresses['far-pod'], address6: addresses6['far-pod'], port: 8080 },
  host: { place: 'node', address: addresses.node, address6: addresses6.node, port: 8080 },
  'far-host': { place: 'far', address: addresses.far, address6: addresses6.far, port: 10250 },
};

interface Server {
  readonly place: Place;
  readonly address: string;
  readonly address6: string;
  readonly port: number;
}

type State = 'ready' | 'notReady' | 'terminating' | 'gone';

/** An endpoint on a server; those of `far` are not on the node. */
const on = (server: string, state: State = 'ready', uid?: string) =>
  anEndpoint(servers[server]?.address ?? '', { node: server === 'far' ? 'far' : 'node', state, ...(uid && { uid }) });
const on6 = (server: string) => anEndpoint(servers[server]?.address6 ?? '', { node: server === 'far' ? 'far' : 'node' });
const slice = (...endpoints: ReturnType<typeof on>[]) => aSlice(endpoints);
const webPort = { name: 'http', port: 80, nodePort: 30080, targetPort: 8080 };
const balanced = (spec: ServiceSpec, ...ingress: string[]) => aService({ spec, ingress, ports: [webPort] });
const local = { externalTrafficPolicy: 'Local', healthCheckNodePort: 31555 };

const clusterIP = '10.96.0.1:80';
const nodePort = '172.30.0.2:30080';
const localhost = '127.0.0.1:30080';

export const contracts: Record<string, Contract> = {
  'a cluster IP': {
    objects: [aService(), slice(on('a'), on('b'), on('far'))],
    probes: [
      { from: 'pod-a', to: clusterIP, is: 'a* b far' },
      { from: 'node', to: clusterIP, is: 'a* b* far*' },
      { from: 'outside', to: clusterIP, is: 'a* b* far*' },
    ],
  },
  'a cluster IP, UDP': {
    objects: [
      aService({ ports: [{ name: 'dns', port: 53, protocol: 'UDP' }] }),
      aSlice([on('a'), on('far')], { ports: [{ name: 'dns', port: 8080, protocol: 'UDP' }] }),
    ],
    probes: [
      { from: 'pod-b', to: '10.96.0.1:53', protocol: 'udp', is: 'a far' },
      { from: 'node', to: '10.96.0.1:53', protocol: 'udp', is: 'a* far*' },
    ],
  },
  // With one endpoint, and with so many that their chain is made on demand.
  'a cluster IP, UDP with one endpoint': {
    objects: [
      aService({ ports: [{ name: 'dns', port: 53, protocol: 'UDP' }] }),
      aSlice([on('a')], { ports: [{ name: 'dns', port: 8080, protocol: 'UDP' }] }),
    ],
    probes: [
      { from: 'pod-b', to: '10.96.0.1:53', protocol: 'udp', is: 'a' },
      { from: 'node', to: '10.96.0.1:53', protocol: 'udp', is: 'a*' },
    ],
  },
  masqueradeAll: {
    objects: [aService(), slice(on('b'))],
    masqueradeAll: true,
    probes: [{ from: 'pod-a', to: clusterIP, is: 'b*' }],
  },
  'a pod that reaches itself': { objects: [aService(), slice(on('a'))], probes: [{ from: 'pod-a', to: clusterIP, is: 'a*' }] },
  'an endpoint in the host network': {
    objects: [aService(), slice(on('host'))],
    probes: [
      { from: 'pod-a', to: clusterIP, is: 'host' },
      { from: 'node', to: clusterIP, is: 'host*' },
    ],
  },
  'no endpoints: refused, every time': {
    objects: [balanced({ type: 'NodePort', externalIPs: ['192.0.2.9'] }), slice()],
    probes: [
      { from: 'pod-a', to: clusterIP, is: 'refused' },
      { from: 'node', to: clusterIP, is: 'refused' },
      { from: 'outside', to: clusterIP, is: 'refused' },
      { from: 'outside', to: '192.0.2.9:80', is: 'refused' },
      { from: 'outside', to: nodePort, is: 'refused' },
      { from: 'node', to: nodePort, is: 'refused' },
    ],
  },
  'another port of a cluster IP: refused': {
    only: 'nftables',
    objects: [aService(), slice(on('a'))],
    probes: [
      { from: 'pod-a', to: '10.96.0.1:81', is: 'refused' },
      { from: 'node', to: '10.96.0.1:81', is: 'refused' },
    ],
  },
  'an address of the Service range that no Service has: dropped': {
    only: 'nftables',
    objects: [aService(), slice(on('a'))],
    serviceCidrs: ['10.96.0.0/16'],
    probes: [
      { from: 'pod-b', to: '10.96.7.7:80', is: 'dropped' },
      { from: 'pod-b', to: clusterIP, is: 'a' },
    ],
  },
  'two pods, one address: the live one (kubernetes#135266)': {
    objects: [
      balanced({ type: 'NodePort', ...local }),
      aSlice([anEndpoint(addresses['pod-a'], { uid: 'u1', node: 'gone', state: 'gone' }), on('a', 'ready', 'u2')]),
    ],
    probes: [
      { from: 'pod-b', to: clusterIP, is: 'a' },
      { from: 'outside', to: nodePort, is: 'a' },
    ],
  },
  'one pod in two slices: the newer word (kubernetes#135334)': {
    objects: [
      aService(),
      aSlice([on('a', 'ready', 'u1')], { name: 'web-1', triggered: '2026-01-01T00:00:01Z' }),
      aSlice([on('a', 'notReady', 'u1')], { name: 'web-2', triggered: '2026-01-01T00:00:02Z' }),
    ],
    probes: [{ from: 'pod-b', to: clusterIP, is: 'refused' }],
  },
  'a load balancer with Local policy and no endpoint here (kubernetes#131765)': {
    objects: [balanced(local, '192.0.2.20'), slice(on('far'))],
    probes: [
      { from: 'pod-a', to: '192.0.2.20:80', is: 'far' },
      { from: 'node', to: '192.0.2.20:80', is: 'far*' },
      { from: 'outside', to: '192.0.2.20:80', is: 'dropped' },
      { from: 'pod-a', to: nodePort, is: 'far' },
      { from: 'node', to: nodePort, is: 'far*' },
      { from: 'outside', to: nodePort, is: 'dropped' },
      { from: 'outside', to: clusterIP, is: 'far*' },
    ],
  },
  'a load balancer with Local policy: clients from outside keep their address': {
    objects: [balanced(local, '192.0.2.20'), slice(on('a'), on('far'))],
    probes: [
      { from: 'outside', to: '192.0.2.20:80', is: 'a' },
      { from: 'outside', to: nodePort, is: 'a' },
      { from: 'pod-b', to: '192.0.2.20:80', is: 'a far' },
    ],
  },
  'a load balancer with Cluster policy': {
    objects: [balanced({}, '192.0.2.20'), slice(on('a'), on('far'))],
    probes: [
      { from: 'outside', to: '192.0.2.20:80', is: 'a* far*' },
      { from: 'pod-b', to: '192.0.2.20:80', is: 'a* far*' },
      { from: 'outside', to: nodePort, is: 'a* far*' },
      { from: 'node', to: nodePort, is: 'a* far*' },
    ],
  },
  'internal Local policy': {
    objects: [aService({ spec: { internalTrafficPolicy: 'Local' } }), slice(on('a'), on('far'))],
    probes: [
      { from: 'pod-b', to: clusterIP, is: 'a' },
      { from: 'node', to: clusterIP, is: 'a*' },
    ],
  },
  'internal Local policy without an endpoint here': {
    objects: [aService({ spec: { internalTrafficPolicy: 'Local' } }), slice(on('far'))],
    probes: [{ from: 'pod-b', to: clusterIP, is: 'dropped' }],
  },
  'one that terminates serves while nobody else does': {
    objects: [aService(), slice(on('a', 'terminating'), on('far', 'notReady'))],
    probes: [{ from: 'pod-b', to: clusterIP, is: 'a' }],
  },
  'an external IP that is another node’s address (kubernetes#104679)': {
    objects: [aService({ spec: { externalIPs: [addresses.far] } }), slice(on('a'))],
    probes: [
      { from: 'node', to: '172.30.0.3:80', is: 'a*' },
      { from: 'node', to: '172.30.0.3:10250', is: 'far-host*' },
    ],
  },
  'a shared load balancer address, ranges on one Service only (kubernetes#119791, #109826)': {
    objects: [
      aService({ name: 'open', spec: { clusterIP: '10.96.0.71' }, ports: [{ name: 'http', port: 8001 }], ingress: ['192.0.2.70'] }),
      aService({
        name: 'guard',
        spec: { clusterIP: '10.96.0.72', loadBalancerSourceRanges: [' 198.51.100.0/24', '198.51.100.0/25', '172.30.0.0/24'] },
        ports: [{ name: 'http', port: 7001, nodePort: 30071 }],
        ingress: ['192.0.2.70', '192.0.2.71'],
      }),
      aSlice([on('a')], { service: 'open' }),
      aSlice([on('b')], { service: 'guard' }),
    ],
    probes: [
      { from: 'outside', to: '192.0.2.70:8001', is: 'a*' },
      { from: 'outside', to: '192.0.2.70:7001', is: 'b*' },
      { from: 'guest', to: '192.0.2.70:8001', is: 'a*' },
      { from: 'guest', to: '192.0.2.70:7001', is: 'dropped' },
      { from: 'guest', to: '172.30.0.2:30071', is: 'b*' },
      { from: 'node', to: '192.0.2.70:7001', is: 'b*' },
      { from: 'node', to: '192.0.2.71:7001', is: 'b*' },
    ],
  },
  'two Services claim one address (kube-vip#1006)': {
    objects: [
      aService({ name: 'young', created: '2026-01-02T00:00:00Z', spec: { clusterIP: '10.96.0.2' }, ingress: ['192.0.2.80'] }),
      aService({ name: 'old', spec: { clusterIP: '10.96.0.1' }, ingress: ['192.0.2.80'] }),
      aSlice([on('a')], { service: 'old' }),
      aSlice([on('b')], { service: 'young' }),
    ],
    probes: [
      { from: 'outside', to: '192.0.2.80:80', is: 'a*' },
      { from: 'outside', to: '10.96.0.2:80', is: 'b*' },
      { from: 'outside', to: clusterIP, is: 'a*' },
    ],
  },
  'node ports on the primary address alone': {
    objects: [balanced({ type: 'NodePort' }), slice(on('a'))],
    nodePortAddresses: ['primary'],
    localhostNodePorts: true,
    probes: [
      { from: 'outside', to: nodePort, is: 'a*' },
      { from: 'pod-b', to: '10.244.1.1:30080', is: 'refused' },
      { from: 'node', to: localhost, is: 'refused' },
    ],
  },
  'node ports on all addresses, loopback too': {
    objects: [balanced({ type: 'NodePort' }), slice(on('a'), on('far'))],
    localhostNodePorts: true,
    probes: [
      { from: 'node', to: localhost, is: 'a* far*' },
      { from: 'pod-b', to: '10.244.1.1:30080', is: 'a* far*' },
    ],
  },
  'node ports on loopback: Local policy reaches all endpoints': {
    objects: [balanced({ type: 'NodePort', ...local }), slice(on('far'))],
    nodePortAddresses: ['primary', 'localhost'],
    probes: [{ from: 'node', to: localhost, is: 'far*' }],
  },
  IPv6: {
    objects: [
      aService({ spec: { type: 'NodePort', clusterIP: 'fd96::1', ipFamilies: ['IPv6'], externalIPs: ['2001:db8::9'] }, ports: [webPort] }),
      aSlice([on6('a'), on6('far')], { addressType: 'IPv6' }),
    ],
    family: 'ip6',
    probes: [
      { from: 'pod-a', to: '[fd96::1]:80', is: 'a* far' },
      { from: 'node', to: '[fd96::1]:80', is: 'a* far*' },
      { from: 'outside', to: '[2001:db8::9]:80', is: 'a* far*' },
      { from: 'outside', to: '[fd30::2]:30080', is: 'a* far*' },
    ],
  },
  'IPv6: another port of a cluster IP: refused': {
    only: 'nftables',
    objects: [
      aService({ spec: { clusterIP: 'fd96::1', ipFamilies: ['IPv6'] }, ports: [webPort] }),
      aSlice([on6('a')], { addressType: 'IPv6' }),
    ],
    family: 'ip6',
    probes: [{ from: 'pod-b', to: '[fd96::1]:81', is: 'refused' }],
  },
};
