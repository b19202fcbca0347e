import { isIP } from 'node:net';
import { AgentError } from '../base/errors.ts';

// DER (ITU-T X.690) as far as certificate requests and self-signed certificates need it.

/** The tags used here: universal ones, and `context0`… for the constructed context-specific ones. */
export const tag = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  oid: 0x06,
  utf8String: 0x0c,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
  context0: 0xa0,
  context3: 0xa3,
} as const;

/** Encodes one value: its tag, its length and its content. */
export function encode(tagByte: number, ...content: Uint8Array[]): Buffer {
  const body = Buffer.concat(content);
  if (body.length < 0x80) return Buffer.concat([Buffer.from([tagByte, body.length]), body]);
  const length: number[] = [];
  for (let rest = body.length; rest > 0; rest = Math.floor(rest / 256)) length.unshift(rest % 256);
  return Buffer.concat([Buffer.from([tagByte, 0x80 | length.length, ...length]), body]);
}

/** SEQUENCE of already encoded values. */
export function sequence(...content: Uint8Array[]): Buffer {
  return encode(tag.sequence, ...content);
}

/** SET OF already encoded values, in the order that DER demands. */
export function setOf(...content: Uint8Array[]): Buffer {
  return encode(tag.set, ...content.toSorted((a, b) => Buffer.compare(a, b)));
}

/** INTEGER from big-endian bytes of a number that is not negative. */
export function integer(bytes: Uint8Array): Buffer {
  let start = 0;
  while (start < bytes.length - 1 && bytes[start] === 0) start++;
  const trimmed = bytes.subarray(start);
  // A leading bit of 1 would make it negative.
  return encode(tag.integer, (trimmed[0] ?? 0) & 0x80 ? Buffer.concat([Buffer.from([0]), trimmed]) : trimmed);
}

/** OBJECT IDENTIFIER from its dotted form. */
export function oid(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number);
  const bytes = [first * 40 + second];
  for (const arc of rest) {
    const group = [arc % 128];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128)) group.unshift(0x80 | (left % 128));
    bytes.push(...group);
  }
  return encode(tag.oid, Buffer.from(bytes));
}

/** UTF8String. */
export function utf8(text: string): Buffer {
  return encode(tag.utf8String, Buffer.from(text, 'utf8'));
}

/** BIT STRING of whole bytes; `unused` counts the unused bits of the last one. */
export function bitString(bytes: Uint8Array, unused = 0): Buffer {
  return encode(tag.bitString, Buffer.from([unused]), bytes);
}

/** A time in whole seconds: UTCTime until 2049, GeneralizedTime after (RFC 5280, 4.1.2.5). */
export function time(epochMs: number): Buffer {
  const digits = `${new Date(epochMs).toISOString().slice(0, 19).replace(/[-:T]/g, '')}Z`;
  return new Date(epochMs).getUTCFullYear() < 2050
    ? encode(tag.utcTime, Buffer.from(digits.slice(2), 'ascii'))
    : encode(tag.generalizedTime, Buffer.from(digits, 'ascii'));
}

/** One decoded value: its tag, its content, and its whole encoding. */
export interface DerValue {
  readonly tag: number;
  readonly content: Buffer;
  readonly raw: Buffer;
}

/** The values that lie one after another in `bytes`. Throws AgentError `InvalidDer` on anything cut short. */
export function decodeAll(bytes: Buffer): DerValue[] {
  const values: DerValue[] = [];
  let at = 0;
  while (at < bytes.length) {
    const tagByte = bytes[at];
    const short = bytes[at + 1];
    if (tagByte === undefined || short === undefined) throw new AgentError('InvalidDer', `value at byte ${at} is cut short`);
    let start = at + 2;
    let length = short;
    if (short >= 0x80) {
      const count = short & 0x7f;
      if (count === 0 || count > 4 || start + count > bytes.length) throw new AgentError('InvalidDer', `bad length at byte ${at}`);
      length = bytes.readUIntBE(start, count);
      start += count;
    }
    if (start + length > bytes.length) throw new AgentError('InvalidDer', `value at byte ${at} is cut short`);
    values.push({ tag: tagByte, content: bytes.subarray(start, start + length), raw: bytes.subarray(at, start + length) });
    at = start + length;
  }
  return values;
}

/** PEM of one block, lines of 64 characters. */
export function toPem(label: string, bytes: Uint8Array): string {
  const lines =
    Buffer.from(bytes)
      .toString('base64')
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}

/** The blocks with this label in a PEM text, decoded. Other blocks and text between are skipped. */
export function fromPem(label: string, pem: string): Buffer[] {
  const blocks = pem.matchAll(/-----BEGIN ([A-Z0-9 ]+)-----([\s\S]*?)-----END \1-----/g);
  return [...blocks].filter((m) => m[1] === label).map((m) => Buffer.from(m[2] ?? '', 'base64'));
}

/** An address in its one canonical spelling (`fd00::1`), so that addresses can be compared as text; `undefined` when it is none. */
export function canonicalIp(address: string): string | undefined {
  const family = isIP(address);
  if (family === 0) return undefined;
  if (family === 4) return address;
  const bytes = ipBytes(address.split('%')[0] ?? address);
  // An IPv4 address in IPv6 clothing is that IPv4 address for X.509 (Go's net.IP does the same).
  if (bytes.length === 4) return [...bytes].join('.');
  const bracketed = new URL(`http://[${address.split('%')[0]}]`).hostname;
  return bracketed.slice(1, -1);
}

/** The 4 or 16 bytes of an address. Throws AgentError `InvalidAddress` when it is none. */
export function ipBytes(address: string): Buffer {
  const family = isIP(address);
  if (family === 4) return Buffer.from(address.split('.').map(Number));
  if (family !== 6 || address.includes('%')) throw new AgentError('InvalidAddress', `${JSON.stringify(address)} is not an IP address`);
  const hex = new URL(`http://[${address}]`).hostname.slice(1, -1);
  const [head = '', tail] = hex.split('::');
  const words = (part: string): number[] => (part === '' ? [] : part.split(':').map((word) => Number.parseInt(word, 16)));
  const left = words(head);
  const right = tail === undefined ? [] : words(tail);
  const all = [...left, ...new Array<number>(8 - left.length - right.length).fill(0), ...right];
  const bytes = Buffer.from(all.flatMap((word) => [word >> 8, word & 0xff]));
  const mapped = bytes.subarray(0, 10).every((b) => b === 0) && bytes[10] === 0xff && bytes[11] === 0xff;
  return mapped ? bytes.subarray(12) : bytes;
}
