// The kernel's connection tracking over netlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h). Pure.
import type { Family } from '../model/address.ts';
import { addressBytes, addressOfBytes } from '../model/address-bytes.ts';
import type { Protocol } from '../model/service-row.ts';
import type { NetfilterMessage, ReadAttributes } from '../netlink.ts';
import type { Flow } from './forget.ts';

/** A flow as the kernel told it, with what it takes to delete this one and no successor. */
export interface KernelFlow extends Flow {
  readonly tuple: Buffer;
  readonly id: Buffer;
  readonly zone: Buffer | undefined;
}

const NFNL_SUBSYS_CTNETLINK = 1 << 8;
const IPCTNL_MSG_CT_GET = 1;
const IPCTNL_MSG_CT_DELETE = 2;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLM_F_DUMP = 0x300;

const CTA_TUPLE_ORIG = 1;
const CTA_TUPLE_REPLY = 2;
const CTA_STATUS = 3;
const CTA_PROTOINFO = 4;
const CTA_ID = 12;
const CTA_ZONE = 18;
const CTA_FILTER = 25;
const CTA_TUPLE_IP = 1;
const CTA_TUPLE_PROTO = 2;
const CTA_PROTO_NUM = 1;
const CTA_PROTO_SRC_PORT = 2;
const CTA_PROTO_DST_PORT = 3;
const CTA_PROTOINFO_TCP = 1;
const CTA_PROTOINFO_TCP_STATE = 1;
const CTA_FILTER_ORIG_FLAGS = 1;
const CTA_FILTER_REPLY_FLAGS = 2;
// include/net/netfilter/nf_conntrack_l4proto.h and nf_internals.h: what of the tuple the kernel compares while it dumps.
const CTA_FILTER_F_CTA_IP_DST = 1 << 1;
const CTA_FILTER_F_CTA_PROTO_NUM = 1 << 3;
const CTA_FILTER_F_CTA_PROTO_DST_PORT = 1 << 5;

const IPS_SEEN_REPLY = 1 << 1;
const TCP_CONNTRACK_SYN_SENT = 1;

const protocolNumbers: Readonly<Record<Protocol, number>> = { tcp: 6, udp: 17, sctp: 132 };
/** Type and number of the attributes of an address: source, destination. */
const addressAttributes: Readonly<Record<Family, readonly [number, number]>> = { ip: [1, 2], ip6: [3, 4] };

/**
 * A dump of the flows of a protocol, to a port where one is given, and to an IPv4 address where one is given: the kernel leaves the others out (since Linux 5.8).
 * IPv6 addresses are for the reader to compare: the kernel's own comparison leaves out the equal ones
 * (ctnetlink_filter_match_tuple of net/netfilter/nf_conntrack_netlink.c, seen on 6.18).
 */
export function dumpMessage(family: Family, protocol: Protocol, to: string | undefined, port: number | undefined): NetfilterMessage {
  const address = family === 'ip' ? to : undefined;
  const flags =
    CTA_FILTER_F_CTA_PROTO_NUM |
    (port === undefined ? 0 : CTA_FILTER_F_CTA_PROTO_DST_PORT) |
    (address === undefined ? 0 : CTA_FILTER_F_CTA_IP_DST);
  return {
    type: NFNL_SUBSYS_CTNETLINK | IPCTNL_MSG_CT_GET,
    flags: NLM_F_REQUEST | NLM_F_DUMP,
    family,
    write(attributes) {
      attributes.nested(CTA_TUPLE_ORIG, () => {
        if (address !== undefined)
          attributes.nested(CTA_TUPLE_IP, () => attributes.bytes(addressAttributes[family][1], addressBytes(family, address)));
        attributes.nested(CTA_TUPLE_PROTO, () => {
          attributes.u8(CTA_PROTO_NUM, protocolNumbers[protocol]);
          if (port !== undefined) attributes.u16(CTA_PROTO_DST_PORT, port);
        });
      });
      attributes.nested(CTA_FILTER, () => {
        const number = (value: number): Buffer => {
          const bytes = Buffer.alloc(4);
          // The kernel reads these two in its own byte order.
          bytes.writeUInt32LE(value);
          return bytes;
        };
        attributes.bytes(CTA_FILTER_ORIG_FLAGS, number(flags));
        attributes.bytes(CTA_FILTER_REPLY_FLAGS, number(0));
      });
    },
  };
}

/** Deletes one flow. The ID keeps a successor with the same addresses and ports alive. */
export function deleteMessage(family: Family, { tuple, id, zone }: KernelFlow): NetfilterMessage {
  return {
    type: NFNL_SUBSYS_CTNETLINK | IPCTNL_MSG_CT_DELETE,
    flags: NLM_F_REQUEST | NLM_F_ACK,
    family,
    write(attributes) {
      attributes.bytes(CTA_TUPLE_ORIG | 0x8000, tuple);
      attributes.bytes(CTA_ID, id);
      if (zone !== undefined) attributes.bytes(CTA_ZONE, zone);
    },
  };
}

const nfgenmsgBytes = 4;

/** The flow that a message of a dump tells; undefined for one that lacks what has to be known. */
export function parseFlow(family: Family, payload: Buffer, read: ReadAttributes): KernelFlow | undefined {
  const attributes = read(payload, nfgenmsgBytes);
  const [orig, id, status] = [attributes.get(CTA_TUPLE_ORIG), attributes.get(CTA_ID), attributes.get(CTA_STATUS)];
  const reply = attributes.get(CTA_TUPLE_REPLY);
  if (orig === undefined || reply === undefined || id === undefined || status?.length !== 4) return undefined;
  const to = placeOf(family, orig, 'destination', read);
  const answeredBy = placeOf(family, reply, 'source', read);
  if (to === undefined || answeredBy === undefined) return undefined;
  const tcp = attributes.get(CTA_PROTOINFO);
  const state = tcp && read(read(tcp).get(CTA_PROTOINFO_TCP) ?? Buffer.alloc(0)).get(CTA_PROTOINFO_TCP_STATE)?.[0];
  return {
    to,
    answeredBy,
    replied: (status.readUInt32BE(0) & IPS_SEEN_REPLY) !== 0,
    opening: state === TCP_CONNTRACK_SYN_SENT,
    tuple: orig,
    id,
    zone: attributes.get(CTA_ZONE),
  };
}

function placeOf(
  family: Family,
  tuple: Buffer,
  end: 'source' | 'destination',
  read: ReadAttributes,
): { address: string; port: number } | undefined {
  const parts = read(tuple);
  const [ip, proto] = [parts.get(CTA_TUPLE_IP), parts.get(CTA_TUPLE_PROTO)];
  if (ip === undefined || proto === undefined) return undefined;
  const address = read(ip).get(addressAttributes[family][end === 'source' ? 0 : 1]);
  const port = read(proto).get(end === 'source' ? CTA_PROTO_SRC_PORT : CTA_PROTO_DST_PORT);
  if (address?.length !== (family === 'ip' ? 4 : 16) || port?.length !== 2) return undefined;
  return { address: addressOfBytes(address), port: port.readUInt16BE(0) };
}
