// Elements of our sets and maps as the kernel takes and tells them: include/uapi/linux/netfilter/nf_tables.h. Pure.
// Throws AgentError `BatchRefused` for an element that is none of its set.
import { AgentError } from '../../../agent/base/errors.ts';

import { type Cidr, type Family, hostCidr, mergeCidrs, parseAddress, parseCidr } from '../../model/address.ts';
import { addressBytes, addressOfBytes } from '../../model/address-bytes.ts';
import { protocols } from '../../model/service-row.ts';
import type { NetfilterMessage } from '../../netlink.ts';
import { batchRefused } from '../backend.ts';
import { attributesOf, find, NLA_F_NESTED, nulEnded, textOf, Writer } from './attributes.ts';
import type { ElementOp } from './batch.ts';
import { endpointMap } from './demand.ts';
import { tableName } from './layout.ts';

const subsystem = 10 << 8;
const NFT_MSG_GETTABLE = 1;
const NFT_MSG_DELTABLE = 2;
const NFT_MSG_NEWSETELEM = 12;
const NFT_MSG_GETSETELEM = 13;
const NFT_MSG_DELSETELEM = 14;
const NLM_F_REQUEST = 1;
const NLM_F_DUMP = 0x300;
const NLM_F_CREATE = 0x400;

const NFTA_TABLE_NAME = 1;
const NFTA_SET_ELEM_LIST_TABLE = 1;
const NFTA_SET_ELEM_LIST_SET = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS = 3;
const NFTA_LIST_ELEM = 1;
const NFTA_SET_ELEM_KEY = 1;
const NFTA_SET_ELEM_DATA = 2;
const NFTA_SET_ELEM_FLAGS = 3;
const NFTA_SET_ELEM_KEY_END = 10;
const NFT_SET_ELEM_INTERVAL_END = 1;
const NFTA_DATA_VALUE = 1;
const NFTA_DATA_VERDICT = 2;
const NFTA_VERDICT_CODE = 1;
const NFTA_VERDICT_CHAIN = 2;

// NF_DROP, NF_ACCEPT, NFT_JUMP, NFT_GOTO.
const verdictCodes = new Map([
  ['drop', 0],
  ['accept', 1],
  ['jump', -3],
  ['goto', -4],
]);
const protocolNumbers = new Map([
  ['tcp', 6],
  ['udp', 17],
  ['sctp', 132],
]);

/**
 * A field of a key or value. Each takes whole registers of 4 bytes, but for a value that is a port and nothing else
 * (`lonePort`). `range` is an address or a CIDR.
 */
type Field = 'address' | 'protocol' | 'port' | 'lonePort' | 'slot' | 'range';

interface Schema {
  readonly key: readonly Field[];
  /** Undefined in sets. */
  readonly value?: readonly Field[] | 'verdict';
}

const place: readonly Field[] = ['address', 'protocol', 'port'];
const port: readonly Field[] = ['protocol', 'port'];
const endpoint: readonly Field[] = ['address', 'port'];

const schemas = new Map<string, Schema>([
  ...['frontends', 'frontends-cluster', 'frontends-local', 'closed', 'remember'].map(
    (name) => [name, { key: place, value: 'verdict' }] as const,
  ),
  ...['nodeports', 'nodeports-cluster', 'nodeports-local', 'closed-nodeports', 'remember-nodeports'].map(
    (name) => [name, { key: port, value: 'verdict' }] as const,
  ),
  ...protocols.flatMap((protocol) =>
    [false, true].flatMap((local) => [
      [endpointMap({ nodePort: false, local }, protocol), { key: [...place, 'slot'], value: endpoint }] as const,
      [endpointMap({ nodePort: true, local }, protocol), { key: [...port, 'slot'], value: endpoint }] as const,
    ]),
  ),
  ['cluster-ips', { key: ['address'] }],
  ['guarded', { key: place }],
  ['allowed-sources', { key: [...place, 'range'] }],
  ['hairpin', { key: ['address', 'address'] }],
  ['affinity', { key: ['address', ...place], value: endpoint }],
]);

/** Undefined for sets whose elements are not written one by one, and for those of others. */
export function schemaOf(set: string): Schema | undefined {
  if (/^clients-[0-9a-f]{12}$/.test(set)) return { key: ['address'], value: ['address'] };
  if (/^client-ports-[0-9a-f]{12}$/.test(set)) return { key: ['address'], value: ['lonePort'] };
  return schemas.get(set);
}

/** An attribute's length has 16 bits; no element takes more than the rest. */
const listBytes = 65_000;

/** The messages of these operations, in order; undefined when one is about a set without a schema. */
export function elementMessages(family: Family, elements: readonly ElementOp[]): NetfilterMessage[] | undefined {
  const messages: NetfilterMessage[] = [];
  const writer = new Writer();
  let run: Pick<ElementOp, 'op' | 'set'> | undefined;
  const flush = (): void => {
    if (run !== undefined && writer.length > 0) messages.push(listMessage(family, run.op, run.set, writer.take()));
  };
  for (const element of elements) {
    const schema = schemaOf(element.set);
    if (schema === undefined) return undefined;
    if (run?.op !== element.op || run.set !== element.set || writer.length > listBytes - 400) {
      flush();
      run = element;
    }
    writeElement(writer, family, schema, element);
  }
  flush();
  return messages;
}

function listMessage(family: Family, op: ElementOp['op'], set: string, elements: Buffer | undefined): NetfilterMessage {
  return {
    type: subsystem | (op === 'add' ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM),
    flags: NLM_F_REQUEST | (op === 'add' ? NLM_F_CREATE : 0),
    family,
    write(attributes) {
      attributes.bytes(NFTA_SET_ELEM_LIST_TABLE, nulEnded(tableName));
      attributes.bytes(NFTA_SET_ELEM_LIST_SET, nulEnded(set));
      // A deletion without elements empties the set.
      if (elements !== undefined) attributes.bytes(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, elements);
    },
  };
}

function writeElement(writer: Writer, family: Family, { key, value }: Schema, element: ElementOp): void {
  const parts = element.key.split(' . ');
  writer.attribute(NFTA_LIST_ELEM | NLA_F_NESTED, () => {
    writeFields(writer, NFTA_SET_ELEM_KEY, family, key, parts, 'first');
    if (key.includes('range')) writeFields(writer, NFTA_SET_ELEM_KEY_END, family, key, parts, 'last');
    // A deletion is by key alone.
    if (element.op === 'delete' || value === undefined) return;
    if (value !== 'verdict') writeFields(writer, NFTA_SET_ELEM_DATA, family, value, (element.value ?? '').split(' . '), 'first');
    else writeVerdict(writer, element.value ?? '');
  });
}

function writeFields(
  writer: Writer,
  type: number,
  family: Family,
  fields: readonly Field[],
  parts: readonly string[],
  end: 'first' | 'last',
): void {
  if (fields.length !== parts.length)
    throw new AgentError(batchRefused, `not a key or value of ${fields.join(' . ')}: ${parts.join(' . ')}`);
  writer.attribute(type | NLA_F_NESTED, () =>
    writer.attribute(NFTA_DATA_VALUE, () =>
      fields.forEach((field, index) => void writeField(writer, family, field, parts[index] ?? '', end)),
    ),
  );
}

function writeField(writer: Writer, family: Family, field: Field, text: string, end: 'first' | 'last'): void {
  if (field === 'address') writer.bytes(addressBytes(family, text));
  else if (field === 'range') writer.bytes(valueBytes(family, rangeOf(text)[end]));
  else if (field === 'protocol') {
    writer.u8(protocolNumbers.get(text) ?? Number(text));
    writer.u8(0);
    writer.u16(0);
  } else if (field === 'port') {
    writer.u16(Number(text));
    writer.u16(0);
  } else if (field === 'lonePort') writer.u16(Number(text));
  else writer.hostU32(Number(text));
}

function writeVerdict(writer: Writer, text: string): void {
  const [word = '', chain] = text.split(' ');
  const code = verdictCodes.get(word);
  if (code === undefined) throw new AgentError(batchRefused, `not a verdict: ${text}`);
  writer.attribute(NFTA_SET_ELEM_DATA | NLA_F_NESTED, () =>
    writer.attribute(NFTA_DATA_VERDICT | NLA_F_NESTED, () => {
      writer.attribute(NFTA_VERDICT_CODE, () => writer.i32(code));
      if (chain !== undefined) writer.attribute(NFTA_VERDICT_CHAIN, () => writer.bytes(nulEnded(chain)));
    }),
  );
}

function rangeOf(text: string): Cidr {
  const address = parseAddress(text);
  const cidr = address === undefined ? parseCidr(text) : hostCidr(address);
  if (cidr === undefined) throw new AgentError(batchRefused, `not an address or CIDR: ${text}`);
  return cidr;
}

function valueBytes(family: Family, value: bigint): Buffer {
  const bytes = Buffer.alloc(family === 'ip' ? 4 : 16);
  bytes.write(value.toString(16).padStart(bytes.length * 2, '0'), 'hex');
  return bytes;
}

/** Replaces all elements of a set of intervals of addresses by these addresses and CIDRs. */
export function fillMessages(family: Family, set: string, keys: readonly string[]): NetfilterMessage[] {
  const writer = new Writer();
  const messages = [listMessage(family, 'delete', set, undefined)];
  const flush = (): void => {
    if (writer.length > 0) messages.push(listMessage(family, 'add', set, writer.take()));
  };
  const edge = (value: bigint, isEnd: boolean): void => {
    if (writer.length > listBytes - 400) flush();
    writer.attribute(NFTA_LIST_ELEM | NLA_F_NESTED, () => {
      writer.attribute(NFTA_SET_ELEM_KEY | NLA_F_NESTED, () =>
        writer.attribute(NFTA_DATA_VALUE, () => writer.bytes(valueBytes(family, value))),
      );
      if (isEnd) writer.attribute(NFTA_SET_ELEM_FLAGS, () => writer.i32(NFT_SET_ELEM_INTERVAL_END));
    });
  };
  const end = 1n << (family === 'ip' ? 32n : 128n);
  let open: bigint | undefined;
  for (const { first, last } of mergeCidrs(keys.map(rangeOf))) {
    if (open !== first) {
      if (open !== undefined) edge(open, true);
      edge(first, false);
    }
    // Ranges that touch are one.
    open = last + 1n;
  }
  // What reaches to the last address has no end.
  if (open !== undefined && open < end) edge(open, true);
  flush();
  return messages;
}

/** Asks for all elements of a set. */
export function dumpElements(family: Family, set: string): NetfilterMessage {
  return {
    type: subsystem | NFT_MSG_GETSETELEM,
    flags: NLM_F_REQUEST | NLM_F_DUMP,
    family,
    write(attributes) {
      attributes.bytes(NFTA_SET_ELEM_LIST_TABLE, nulEnded(tableName));
      attributes.bytes(NFTA_SET_ELEM_LIST_SET, nulEnded(set));
    },
  };
}

const nfgenmsgBytes = 4;

/** The elements in the payloads of a dump, spelled as we spell them. */
export function parseElements(family: Family, set: string, payloads: readonly Buffer[]): Map<string, string | undefined> {
  const elements = new Map<string, string | undefined>();
  const schema = schemaOf(set);
  if (schema === undefined) return elements;
  for (const payload of payloads) {
    const list = find(payload.subarray(nfgenmsgBytes), NFTA_SET_ELEM_LIST_ELEMENTS);
    for (const [type, element] of attributesOf(list)) {
      if (type !== NFTA_LIST_ELEM) continue;
      const key = find(find(element, NFTA_SET_ELEM_KEY), NFTA_DATA_VALUE);
      const last = find(find(element, NFTA_SET_ELEM_KEY_END), NFTA_DATA_VALUE);
      const data = find(element, NFTA_SET_ELEM_DATA);
      const { value } = schema;
      const text =
        value === undefined ? undefined : value === 'verdict' ? verdictText(data) : fieldsText(family, value, find(data, NFTA_DATA_VALUE));
      elements.set(fieldsText(family, schema.key, key, last), text);
    }
  }
  return elements;
}

function verdictText(data: Buffer): string {
  const verdict = find(data, NFTA_DATA_VERDICT);
  const code = find(verdict, NFTA_VERDICT_CODE);
  const chain = find(verdict, NFTA_VERDICT_CHAIN);
  const number = code.length === 4 ? code.readInt32BE(0) : undefined;
  const word = [...verdictCodes].find(([, each]) => each === number)?.[0] ?? `verdict ${number}`;
  return chain.length === 0 ? word : `${word} ${textOf(chain)}`;
}

function fieldsText(family: Family, fields: readonly Field[], data: Buffer, last: Buffer = data): string {
  let at = 0;
  return fields
    .map((field) => {
      const size = fieldBytes(family, field);
      const [bytes, end] = [data.subarray(at, at + size), last.subarray(at, at + size)];
      at += size;
      return bytes.length < size ? '' : fieldText(field, bytes, end);
    })
    .join(' . ');
}

function fieldBytes(family: Family, field: Field): number {
  if (field === 'lonePort') return 2;
  return family === 'ip6' && (field === 'address' || field === 'range') ? 16 : 4;
}

function fieldText(field: Field, bytes: Buffer, last: Buffer): string {
  switch (field) {
    case 'address':
      return addressOfBytes(bytes);
    case 'range':
      return rangeText(bytes, last);
    case 'protocol':
      return [...protocolNumbers].find(([, number]) => number === bytes[0])?.[0] ?? String(bytes[0]);
    case 'port':
    case 'lonePort':
      return String(bytes.readUInt16BE(0));
    default:
      return String(bytes.readUInt32LE(0));
  }
}

/** `10.0.0.0/8`; `first-last` for what is no CIDR, which is nobody's of ours. */
function rangeText(first: Buffer, last: Buffer): string {
  const width = first.length * 8;
  const [from, to] = [first, last].map((bytes) => BigInt(`0x${bytes.toString('hex') || '0'}`));
  const size = (to ?? 0n) - (from ?? 0n) + 1n;
  const bits = size > 0n ? size.toString(2).length - 1 : 0;
  const cidr = `${addressOfBytes(first)}/${width - bits}`;
  return size === 1n << BigInt(bits) && parseCidr(cidr)?.first === from ? cidr : `${addressOfBytes(first)}-${addressOfBytes(last)}`;
}

/** Asks for all tables of the family. */
export function dumpTables(family: Family): NetfilterMessage {
  return { type: subsystem | NFT_MSG_GETTABLE, flags: NLM_F_REQUEST | NLM_F_DUMP, family, write: () => undefined };
}

export function parseTableName(payload: Buffer): string {
  return textOf(find(payload.subarray(nfgenmsgBytes), NFTA_TABLE_NAME));
}

/** Removes a table with all that is in it. */
export function deleteTable(family: Family, name: string): NetfilterMessage {
  return {
    type: subsystem | NFT_MSG_DELTABLE,
    flags: NLM_F_REQUEST,
    family,
    write: (attributes) => attributes.bytes(NFTA_TABLE_NAME, nulEnded(name)),
  };
}
