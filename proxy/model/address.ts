// Addresses and ranges as the proxy compares and prints them: one spelling each, so that equal
// addresses are equal strings, as keys and as what the kernel's tools print.
import { isIPv6, SocketAddress } from 'node:net';

/** An address family, named as nft names it. Each is programmed by itself. */
export type Family = 'ip' | 'ip6';

export const families: readonly Family[] = ['ip', 'ip6'];

export interface Address {
  readonly family: Family;
  /** The one spelling: no leading zeros in IPv4, RFC 5952 in IPv6. */
  readonly text: string;
}

/** A range of addresses in CIDR notation, host bits zero. */
export interface Cidr {
  readonly family: Family;
  /** The one spelling, such as `10.96.0.0/12`. */
  readonly text: string;
  readonly first: bigint;
  readonly last: bigint;
}

/**
 * Reads an address as Kubernetes does (k8s.io/utils/net ParseIPSloppy): leading zeros of IPv4
 * numbers mean nothing, an IPv4-mapped IPv6 address is an IPv4 address, a zone is an error.
 */
export function parseAddress(text: string): Address | undefined {
  const four = parseIPv4(text);
  if (four !== undefined) return { family: 'ip', text: four };
  if (!isIPv6(text) || text.includes('%')) return undefined;
  const value = ipv6Value(text);
  if (value >> 32n === 0xffffn) return { family: 'ip', text: addressText('ip', value & 0xffffffffn) };
  return { family: 'ip6', text: addressText('ip6', value) };
}

function parseIPv4(text: string): string | undefined {
  const match = /^(\d{1,16})\.(\d{1,16})\.(\d{1,16})\.(\d{1,16})$/.exec(text);
  if (match === null) return undefined;
  const numbers = match.slice(1).map(Number);
  return numbers.every((number) => number <= 255) ? numbers.join('.') : undefined;
}

/** Reads a CIDR; host bits are cut off, as Go's ParseCIDR does. Blanks around it mean nothing. */
export function parseCidr(text: string): Cidr | undefined {
  const match = /^(.+)\/(\d{1,3})$/.exec(text.trim());
  const address = parseAddress(match?.[1] ?? '');
  if (match === null || address === undefined) return undefined;
  const mapped = address.family === 'ip' && match[1]?.includes(':') === true;
  const length = Number(match[2]) - (mapped ? 96 : 0);
  const width = widthOf(address.family);
  if (length < 0 || length > width) return undefined;
  const hostBits = BigInt(width - length);
  const first = (addressValue(address) >> hostBits) << hostBits;
  const last = first + (1n << hostBits) - 1n;
  return { family: address.family, text: `${addressText(address.family, first)}/${length}`, first, last };
}

/** The range that holds this address alone. */
export function hostCidr(address: Address): Cidr {
  const value = addressValue(address);
  return { family: address.family, text: `${address.text}/${widthOf(address.family)}`, first: value, last: value };
}

/** True for `0.0.0.0/0` and `::/0`. */
export function isEverything(cidr: Cidr): boolean {
  return cidr.text.endsWith('/0');
}

export function cidrContains(cidr: Cidr, address: Address): boolean {
  if (cidr.family !== address.family) return false;
  const value = addressValue(address);
  return cidr.first <= value && value <= cidr.last;
}

/**
 * The ranges without those that lie inside another one, in order. Two CIDRs are nested or apart,
 * so the rest is disjoint: nft refuses overlapping intervals in one set ("File exists").
 */
export function mergeCidrs(cidrs: readonly Cidr[]): Cidr[] {
  const sorted = [...cidrs].sort((a, b) => compare(a.first, b.first) || compare(b.last, a.last));
  const merged: Cidr[] = [];
  for (const cidr of sorted) {
    const before = merged.at(-1);
    if (before === undefined || cidr.first > before.last) merged.push(cidr);
  }
  return merged;
}

/**
 * True for addresses that never name a Service or an endpoint: unspecified, loopback, multicast.
 * The API refuses them; taken from an older object they would capture the node's own traffic.
 */
export function isUnusable(address: Address): boolean {
  const { family, text } = address;
  if (family === 'ip') return /^(0|127)\./.test(text) || text === '255.255.255.255' || /^2(2[4-9]|3\d)\./.test(text);
  return text === '::' || text === '::1' || text.startsWith('ff');
}

/** `10.1.0.7:80` or `[fd00::7]:80`. */
export function hostPort(family: Family, ip: string, port: number): string {
  return family === 'ip' ? `${ip}:${port}` : `[${ip}]:${port}`;
}

/** The address as a number, most significant byte first. */
function addressValue({ family, text }: Address): bigint {
  if (family === 'ip6') return ipv6Value(text);
  return text.split('.').reduce((value, part) => (value << 8n) | BigInt(part), 0n);
}

function addressText(family: Family, value: bigint): string {
  if (family === 'ip') return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 0xffn).join('.');
  const digits = value.toString(16).padStart(32, '0');
  return new SocketAddress({ address: digits.match(/.{4}/g)?.join(':') ?? '::', family: 'ipv6' }).address;
}

/** Expects text that `isIPv6` took, without a zone. */
function ipv6Value(text: string): bigint {
  const hex = text.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, a, b, c, d) => `${pair(a, b)}:${pair(c, d)}`);
  const [head = '', tail] = hex.split('::');
  const front = head === '' ? [] : head.split(':');
  const back = tail === undefined || tail === '' ? [] : tail.split(':');
  const groups = tail === undefined ? front : [...front, ...Array<string>(8 - front.length - back.length).fill('0'), ...back];
  return groups.reduce((value, group) => (value << 16n) | BigInt(`0x${group}`), 0n);
}

const pair = (high: string, low: string): string => (Number(high) * 256 + Number(low)).toString(16);
const widthOf = (family: Family): number => (family === 'ip' ? 32 : 128);
const compare = (a: bigint, b: bigint): number => (a < b ? -1 : a > b ? 1 : 0);

/** True when the address (its text) lies in the CIDR (its text); false when either is unreadable. */
export function addressIn(address: string, cidr: string): boolean {
  const range = parseCidr(cidr);
  const parsed = parseAddress(address);
  return range !== undefined && parsed !== undefined && cidrContains(range, parsed);
}
