// Messages of NETLINK_NETFILTER, as the proxy asks for them; a socket reaches it as a parameter.
import type { Family } from './model/address.ts';

/** Writes attributes of a netlink message; numbers are big-endian. */
export interface AttributeWriter {
  u8(type: number, value: number): void;
  u16(type: number, value: number): void;
  u32(type: number, value: number): void;
  bytes(type: number, value: Uint8Array): void;
  nested(type: number, write: () => void): void;
}

/** What is sent: a message's type with its subsystem, flags, and attributes behind its nfgenmsg. */
export interface NetfilterMessage {
  readonly type: number;
  readonly flags: number;
  readonly family: Family;
  write(attributes: AttributeWriter): void;
}

/** Splits a payload into attributes by type. */
export type ReadAttributes = (payload: Buffer, from?: number) => Map<number, Buffer>;
