// Names of chains: upstream's, since other tools read them (pkg/proxy/iptables/proxier.go).
import { createHash } from 'node:crypto';
import { hostPort } from '../../model/address.ts';
import type { Endpoint } from '../../model/endpoints.ts';
import type { Frontend } from '../../model/frontend.ts';

export type TableName = 'nat' | 'filter' | 'mangle';

/** `nat KUBE-SERVICES`: a chain and the table it is in. */
export type ChainId = `${TableName} ${string}`;

export const canary = 'KUBE-PROXY-CANARY';

export const chainId = (table: TableName, name: string): ChainId => `${table} ${name}`;
export const tableOf = (id: ChainId): TableName => id.slice(0, id.indexOf(' ')) as TableName;
export const nameOf = (id: ChainId): string => id.slice(id.indexOf(' ') + 1);

/** One port of a Service: whose frontends share chains. */
export type ServicePort = Pick<Frontend, 'service' | 'portName' | 'protocol'>;

/** `namespace/name:port`, and without the port where it has no name. */
export function portText({ service, portName }: ServicePort): string {
  return portName === '' ? service : `${service}:${portName}`;
}

export type ServiceChain = 'SVC' | 'SVL' | 'EXT' | 'FW';

export function serviceChain(kind: ServiceChain, port: ServicePort): string {
  return `KUBE-${kind}-${hash(portText(port) + port.protocol)}`;
}

export function endpointChain(port: ServicePort, target: string): string {
  return `KUBE-SEP-${hash(portText(port) + port.protocol + target)}`;
}

/** `10.1.0.7:8080`: where an endpoint's connections go. */
export function targetOf(frontend: Pick<Frontend, 'family'>, { address, port }: Endpoint): string {
  return hostPort(frontend.family, address.ip, port);
}

/** Chains that Services have of their own; all others of ours are there whatever Services there are. */
export function isServiceChain(name: string): boolean {
  return /^KUBE-(SVC|SVL|EXT|FW|SEP)-/.test(name);
}

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
const hashLength = 16;

/** The first characters of the base32 of the SHA-256: ten bytes. */
function hash(text: string): string {
  const digest = createHash('sha256').update(text).digest();
  const bits = [...digest.subarray(0, (hashLength * 5) / 8)].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  return (bits.match(/.{5}/g) ?? []).map((five) => alphabet[Number.parseInt(five, 2)]).join('');
}
