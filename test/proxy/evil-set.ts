// Makes a set whose metadata nft 1.0.6 cannot read (kubernetes#136786): newer versions of nft write such.
// With it in some table, that nft dies of SIGSEGV when it changes a table of anybody's.
import koffi from 'koffi';

const libc = koffi.load('libc.so.6');
const socket = libc.func('int socket(int, int, int)');
const bind = libc.func('int bind(int, const void *, int)');
const send = libc.func('long send(int, const void *, size_t, int)');
const recv = libc.func('long recv(int, _Out_ void *, size_t, int)');

const padded = (data: Buffer): Buffer => Buffer.concat([data, Buffer.alloc(-data.length & 3)]);
const u32be = (value: number): Buffer => Buffer.from([value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255]);

function attribute(type: number, data: Buffer): Buffer {
  const header = Buffer.alloc(4);
  header.writeUInt16LE(4 + data.length, 0);
  header.writeUInt16LE(type, 2);
  return padded(Buffer.concat([header, data]));
}

let sequence = 0;

/** A netlink message with nfnetlink's header; `family` 1 is inet. */
function message(type: number, flags: number, data: Buffer, resource = 0, family = 1): Buffer {
  const header = Buffer.alloc(20);
  header.writeUInt32LE(20 + data.length, 0);
  header.writeUInt16LE(type, 4);
  header.writeUInt16LE(flags, 6);
  header.writeUInt32LE(++sequence, 8);
  header[16] = family;
  header.writeUInt16BE(resource, 18);
  return Buffer.concat([header, data]);
}

const newTable = 10 << 8;
const newSet = (10 << 8) | 9;
const name = (text: string): Buffer => Buffer.from(`${text}\0`);
// A typeof of an expression that is not known (30): NFTNL_UDATA_SET_KEY_TYPEOF { EXPR 30, DATA }.
const userdata = Buffer.from([3, 8, 0, 4, 30, 0, 0, 0, 1, 0]);
const set = Buffer.concat([
  attribute(1, name('other')),
  attribute(2, name('evil')),
  attribute(3, u32be(0)),
  attribute(4, u32be(41)),
  attribute(5, u32be(16)),
  attribute(10, u32be(1)),
  attribute(13, userdata),
]);
const request = 1;
const acknowledge = 4;
const create = 0x400;
const batch = Buffer.concat([
  message(0x10, request, Buffer.alloc(0), 10),
  message(newTable, create | request, attribute(1, name('other'))),
  message(newSet, create | request | acknowledge, set),
  message(0x11, request, Buffer.alloc(0), 10),
]);

const netlink = socket(16, 3, 12);
const address = Buffer.alloc(12);
address.writeUInt16LE(16, 0);
if (bind(netlink, address, 12) !== 0) throw new Error('no netlink socket');
send(netlink, batch, batch.length, 0);
const answer = Buffer.alloc(65536);
recv(netlink, answer, answer.length, 0);
const error = answer.readInt32LE(16);
if (error !== 0) throw new Error(`the kernel refuses the set: error ${error}`);
