// Netlink sockets (netlink(7)): requests to the kernel's network parts and their answers, whole messages at a time.
import koffi from 'koffi';
import { AgentError } from '../../base/errors.ts';
import { codeOfErrno } from '../sys/errno.ts';

/** NETLINK_NETFILTER of include/uapi/linux/netlink.h: nftables and connection tracking. */
export const netfilterProtocol = 12;

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_RCVTIMEO = 20;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;
const SOL_NETLINK = 270;
const NETLINK_CAP_ACK = 10;

const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const NLM_F_DUMP_INTR = 0x10;
const headerBytes = 16;

// A dump comes in pieces of at most 32 KiB; the kernel writes as much as the reader's buffer takes.
const receiveBytes = 64 * 1024;
// What the kernel keeps for a reader that is slower than it.
const queueBytes = 8 * 1024 * 1024;
const timeoutSeconds = 10;
// The largest batch that may be written. It takes no memory before there is such a one.
const sendBytes = 64 * 1024 * 1024;

/** One message of an answer: its type, and what follows the netlink header. */
export interface NetlinkMessage {
  readonly type: number;
  readonly payload: Buffer;
}

/** A netlink socket. Requests are answered one after another. */
export interface Netlink extends AsyncDisposable {
  /**
   * Sends one message, whose header's length and sequence number are filled in here, and resolves with the answer's messages.
   * The message asks for an acknowledgement (NLM_F_ACK) or a dump (NLM_F_DUMP). Throws AgentError with the errno's code
   * (`NotFound`, `PermissionDenied`, `InvalidArgument`, …), and `Interrupted` for a dump that a change made inconsistent.
   */
  request(message: Buffer): Promise<NetlinkMessage[]>;
  /**
   * Sends messages in one datagram: a batch of nfnetlink, from its begin to its end. `acknowledged` is the index of the last
   * message that asks for an acknowledgement. Resolves with what the kernel refused first, undefined when it took all.
   * Throws AgentError when the socket fails.
   */
  batch(messages: readonly Buffer[], acknowledged: number): Promise<BatchRefusal | undefined>;
}

/** A message of a batch that the kernel refused, and with it the whole batch. */
export interface BatchRefusal {
  readonly index: number;
  /** With the errno's code. */
  readonly error: AgentError;
}

type Call = (...args: unknown[]) => number;
type AsyncCall = (...args: [...unknown[], (error: Error | null, result: number) => void]) => void;

interface Calls {
  readonly socket: Call;
  readonly bind: Call;
  readonly setsockopt: Call;
  readonly send: Call;
  readonly sendAsync: AsyncCall;
  readonly recv: AsyncCall;
  readonly close: Call;
}

let calls: Calls | undefined;
let errnoNames: Map<number, string> | undefined;

function libc(): Calls {
  if (calls === undefined) {
    const lib = koffi.load('libc.so.6');
    const send = lib.func('long send(int fd, const void *buffer, size_t length, int flags)');
    calls = {
      socket: lib.func('int socket(int domain, int type, int protocol)') as Call,
      bind: lib.func('int bind(int fd, const void *address, uint32_t length)') as Call,
      setsockopt: lib.func('int setsockopt(int fd, int level, int name, const void *value, uint32_t length)') as Call,
      send: send as Call,
      // A batch waits for the transactions of others.
      sendAsync: send.async as AsyncCall,
      // On a worker thread: a dump of a large table takes longer than the event loop may be held.
      recv: lib.func('long recv(int fd, _Out_ void *buffer, size_t length, int flags)').async as AsyncCall,
      close: lib.func('int close(int fd)') as Call,
    };
  }
  return calls;
}

function errorOf(errno: number, what: string): AgentError {
  errnoNames ??= new Map(Object.entries(koffi.os.errno as Record<string, number>).map(([name, value]) => [value, name]));
  const name = errnoNames.get(errno) ?? `errno ${errno}`;
  return new AgentError(codeOfErrno(name), `${what}: ${name}`);
}

/** Opens a socket of a netlink protocol in the network namespace of this process. Throws AgentError. */
export function openNetlink(protocol: number): Netlink {
  const { socket, bind, setsockopt, send, sendAsync, recv, close } = libc();
  const fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
  if (fd < 0) throw errorOf(koffi.errno(), 'cannot open a netlink socket');
  const address = Buffer.alloc(12);
  address.writeUInt16LE(AF_NETLINK, 0);
  if (bind(fd, address, address.length) < 0) {
    const error = errorOf(koffi.errno(), 'cannot bind a netlink socket');
    close(fd);
    throw error;
  }
  const timeout = Buffer.alloc(16);
  timeout.writeBigInt64LE(BigInt(timeoutSeconds), 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, timeout, timeout.length);
  const set = (level: number, name: number, value: number): void => {
    const bytes = Buffer.alloc(4);
    bytes.writeInt32LE(value);
    setsockopt(fd, level, name, bytes, bytes.length);
  };
  // Without CAP_NET_ADMIN the default stays, which holds what is asked for here in all but odd cases.
  set(SOL_SOCKET, SO_RCVBUFFORCE, queueBytes);
  set(SOL_SOCKET, SO_SNDBUFFORCE, sendBytes);
  // An error repeats the header of what it is about, and not all of it: a message may be as large as the reader's buffer.
  set(SOL_NETLINK, NETLINK_CAP_ACK, 1);

  const received = Buffer.alloc(receiveBytes);
  let sequence = 0;
  let last: Promise<unknown> = Promise.resolve();
  let closed = false;

  function receive(): Promise<number> {
    return new Promise((resolve, reject) => {
      recv(fd, received, received.length, 0, (error, length) => {
        const errno = koffi.errno();
        if (error !== null) reject(new AgentError('Internal', `cannot read from netlink: ${error.message}`, { cause: error }));
        else if (length >= 0) resolve(length);
        else reject(errorOf(errno, 'cannot read from netlink'));
      });
    });
  }

  async function exchange(message: Buffer): Promise<NetlinkMessage[]> {
    if (closed) throw new AgentError('Closed', 'the netlink socket is closed');
    sequence = (sequence + 1) >>> 0;
    message.writeUInt32LE(message.length, 0);
    message.writeUInt32LE(sequence, 8);
    if (send(fd, message, message.length, 0) < 0) throw errorOf(koffi.errno(), 'cannot write to netlink');
    const answer: NetlinkMessage[] = [];
    for (;;) {
      const length = await receive();
      if (collect(received.subarray(0, length), sequence, answer)) return answer;
    }
  }

  function write(bytes: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      sendAsync(fd, bytes, bytes.length, 0, (error, length) => {
        const errno = koffi.errno();
        if (error !== null) reject(new AgentError('Internal', `cannot write to netlink: ${error.message}`, { cause: error }));
        else if (length >= 0) resolve();
        else reject(errorOf(errno, 'cannot write to netlink'));
      });
    });
  }

  async function exchangeBatch(messages: readonly Buffer[], acknowledged: number): Promise<BatchRefusal | undefined> {
    if (closed) throw new AgentError('Closed', 'the netlink socket is closed');
    const first = (sequence + 1) >>> 0;
    for (const message of messages) {
      sequence = (sequence + 1) >>> 0;
      message.writeUInt32LE(message.length, 0);
      message.writeUInt32LE(sequence, 8);
    }
    await write(Buffer.concat(messages));
    let refusal: BatchRefusal | undefined;
    for (;;) {
      const length = await receive();
      for (const { type, sequence: answered, payload } of messagesIn(received.subarray(0, length))) {
        const index = (answered - first) >>> 0;
        // What comes late of a batch that failed is not of this one.
        if (index >= messages.length || type !== NLMSG_ERROR) continue;
        const errno = -payload.readInt32LE(0);
        if (errno !== 0) refusal ??= { index, error: errorOf(errno, 'the kernel refused a netlink batch') };
        // An error of the begin is one of the whole: nothing else is sure to follow.
        if (index === acknowledged || (index === 0 && errno !== 0)) return refusal;
      }
    }
  }

  function inTurn<T>(run: () => Promise<T>): Promise<T> {
    const result = last.then(run);
    last = result.catch(() => undefined);
    return result;
  }

  return {
    request: (message) => inTurn(() => exchange(message)),
    batch: (messages, acknowledged) => inTurn(() => exchangeBatch(messages, acknowledged)),
    async [Symbol.asyncDispose]() {
      if (closed) return;
      closed = true;
      await last;
      close(fd);
    },
  };
}

interface Received extends NetlinkMessage {
  readonly flags: number;
  readonly sequence: number;
  /** Port ID of the socket whose request it belongs to; 0 for the kernel's own. */
  readonly portId: number;
}

/** The messages of one datagram; a malformed end is left out. Payloads are views. */
function* messagesIn(datagram: Buffer): Generator<Received> {
  let at = 0;
  while (at + headerBytes <= datagram.length) {
    const length = datagram.readUInt32LE(at);
    if (length < headerBytes || at + length > datagram.length) return;
    yield {
      type: datagram.readUInt16LE(at + 4),
      flags: datagram.readUInt16LE(at + 6),
      sequence: datagram.readUInt32LE(at + 8),
      portId: datagram.readUInt32LE(at + 12),
      payload: datagram.subarray(at + headerBytes, at + length),
    };
    at += (length + 3) & ~3;
  }
}

/** Takes the messages of one datagram; true when the answer is complete. Throws AgentError for an error message. */
export function collect(datagram: Buffer, sequence: number, answer: NetlinkMessage[]): boolean {
  let complete = false;
  for (const { type, flags, sequence: answered, payload } of messagesIn(datagram)) {
    // What comes late of a request that failed is not of this one.
    if (answered !== sequence) continue;
    if ((flags & NLM_F_DUMP_INTR) !== 0) throw new AgentError('Interrupted', 'what netlink lists changed meanwhile');
    if (type === NLMSG_ERROR || type === NLMSG_DONE) {
      // A dump that breaks off says so in its last message (netlink_dump of net/netlink/af_netlink.c).
      const errno = payload.length < 4 ? 0 : -payload.readInt32LE(0);
      if (errno > 0) throw errorOf(errno, 'the kernel refused a netlink request');
      complete = true;
    } else answer.push({ type, payload: Buffer.from(payload) });
  }
  return complete;
}

/** Writes one netlink message with its attributes (TLVs, aligned to 4 bytes, little-endian header, values as given). */
export interface AttributeWriter {
  u8(type: number, value: number): void;
  /** Big-endian, as netfilter wants numbers. */
  u16(type: number, value: number): void;
  u32(type: number, value: number): void;
  bytes(type: number, value: Uint8Array): void;
  nested(type: number, write: () => void): void;
}

const NLA_F_NESTED = 0x8000;

/** A message for `Netlink.request`: header with type and flags, `head` (such as nfgenmsg), attributes. */
export function netlinkMessage(type: number, flags: number, head: Uint8Array, write: (attributes: AttributeWriter) => void): Buffer {
  const parts: Buffer[] = [];
  let length = headerBytes + head.length;
  const push = (part: Buffer): void => {
    parts.push(part);
    length += part.length;
  };
  const bytes = (attribute: number, value: Uint8Array): void => {
    const part = Buffer.alloc((4 + value.length + 3) & ~3);
    part.writeUInt16LE(4 + value.length, 0);
    part.writeUInt16LE(attribute, 2);
    part.set(value, 4);
    push(part);
  };
  const number = (attribute: number, size: 1 | 2 | 4, value: number): void => {
    const buffer = Buffer.alloc(size);
    buffer.writeUIntBE(value, 0, size);
    bytes(attribute, buffer);
  };
  const writer: AttributeWriter = {
    u8: (attribute, value) => number(attribute, 1, value),
    u16: (attribute, value) => number(attribute, 2, value),
    u32: (attribute, value) => number(attribute, 4, value),
    bytes,
    nested(attribute, inner) {
      const header = Buffer.alloc(4);
      const before = length;
      push(header);
      inner();
      header.writeUInt16LE(length - before, 0);
      header.writeUInt16LE(attribute | NLA_F_NESTED, 2);
    },
  };
  write(writer);
  const header = Buffer.alloc(headerBytes);
  header.writeUInt32LE(length, 0);
  header.writeUInt16LE(type, 4);
  header.writeUInt16LE(flags, 6);
  return Buffer.concat([header, head, ...parts]);
}

/** The attributes of a message, by type without its flags; the last of a type counts. Malformed ends are left out. */
export function readAttributes(payload: Buffer, from = 0): Map<number, Buffer> {
  const found = new Map<number, Buffer>();
  let at = from;
  while (at + 4 <= payload.length) {
    const length = payload.readUInt16LE(at);
    if (length < 4 || at + length > payload.length) break;
    found.set(payload.readUInt16LE(at + 2) & 0x3fff, payload.subarray(at + 4, at + length));
    at += (length + 3) & ~3;
  }
  return found;
}
