import { createHash, randomBytes } from 'node:crypto';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Duplex } from 'node:stream';
import { AgentError, messageOf } from '../../base/errors.ts';
import { outliveWriteErrors } from '../../server/stream-proxy.ts';

// A WebSocket (RFC 6455) with back-pressure both ways. The one of browsers and Node has none: what is sent or received faster than it is taken lies in memory. undici's
// WebSocketStream is meant to have it, and loses it with reads of 64 KiB (8.12).

const opcode = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;
// Of a control frame; a longer one is against the protocol.
const longestControl = 125;

export type Frame =
  /** A piece of a message as it arrives; `first` of the message's pieces. Never empty. */
  | { readonly kind: 'data'; readonly first: boolean; readonly body: Buffer }
  | { readonly kind: 'ping' | 'pong' | 'close'; readonly body: Buffer };

/** Reads a server's bytes, however they are cut; keeps no more than a header or a control frame. Throws AgentError InvalidResponse. */
export function createFrameReader(): (chunk: Buffer) => Frame[] {
  let kept = Buffer.alloc(0);
  let left = 0;
  let first = true;
  const fail = (problem: string): never => {
    throw new AgentError('InvalidResponse', `a WebSocket frame ${problem}`);
  };
  return (chunk) => {
    const frames: Frame[] = [];
    let bytes = kept.length === 0 ? chunk : Buffer.concat([kept, chunk]);
    for (;;) {
      if (left > 0) {
        if (bytes.length === 0) break;
        const body = bytes.subarray(0, left);
        frames.push({ kind: 'data', first, body });
        first = false;
        left -= body.length;
        bytes = bytes.subarray(body.length);
        continue;
      }
      const head = bytes[0];
      const size = bytes[1];
      if (head === undefined || size === undefined) break;
      if ((head & 0x70) !== 0) fail('has bits of an extension that was not agreed on');
      if ((size & 0x80) !== 0) fail('of a server is masked');
      const headLength = size === 127 ? 10 : size === 126 ? 4 : 2;
      if (bytes.length < headLength) break;
      const length = size === 127 ? Number(bytes.readBigUInt64BE(2)) : size === 126 ? bytes.readUInt16BE(2) : size;
      const code = head & 0x0f;
      if (code === opcode.continuation || code === opcode.text || code === opcode.binary) {
        if (code !== opcode.continuation) first = true;
        left = length;
        bytes = bytes.subarray(headLength);
        continue;
      }
      const kind = code === opcode.close ? 'close' : code === opcode.ping ? 'ping' : code === opcode.pong ? 'pong' : undefined;
      if (kind === undefined) return fail(`has the unknown opcode ${code}`);
      if (length > longestControl) fail(`of kind ${kind} has ${length} bytes`);
      if (bytes.length < headLength + length) break;
      frames.push({ kind, body: Buffer.from(bytes.subarray(headLength, headLength + length)) });
      bytes = bytes.subarray(headLength + length);
    }
    // A copy, which holds no whole chunk in memory.
    kept = Buffer.from(bytes);
    return frames;
  };
}

/** A whole message or control frame of a client, which masks what it sends. */
export function clientFrame(code: number, body: Uint8Array, mask: Uint8Array = randomBytes(4)): Buffer {
  const { length } = body;
  const headLength = length > 0xffff ? 10 : length > longestControl ? 4 : 2;
  const frame = Buffer.allocUnsafe(headLength + 4 + length);
  frame[0] = 0x80 | code;
  frame[1] = 0x80 | (headLength === 10 ? 127 : headLength === 4 ? 126 : length);
  if (headLength === 10) frame.writeBigUInt64BE(BigInt(length), 2);
  else if (headLength === 4) frame.writeUInt16BE(length, 2);
  frame.set(mask, headLength);
  for (let i = 0; i < length; i++) frame[headLength + 4 + i] = (body[i] ?? 0) ^ (mask[i & 3] ?? 0);
  return frame;
}

export interface WebSocketConnection extends Disposable {
  /** The protocol that the server chose; '' for none. */
  readonly protocol: string;
  /** Sends one message. False: send no more before the next `onDrain`. */
  send(message: Uint8Array): boolean;
  onDrain(listener: () => void): void;
  /** The server takes nothing any more; what it has sent can still be read. */
  onBroken(listener: () => void): void;
  /** What the server sends, no faster than it is taken. Ends when the server closes the connection; throws when it breaks. */
  pieces(): AsyncGenerator<{ readonly first: boolean; readonly body: Buffer }>;
}

/** Connects to `http:` or `https:` `url`. Throws AgentError Unavailable; the signal's reason when it aborts before the connection stands. */
export async function openWebSocket(url: string, protocols: readonly string[], signal: AbortSignal): Promise<WebSocketConnection> {
  signal.throwIfAborted();
  const key = randomBytes(16).toString('base64');
  const headers = {
    connection: 'Upgrade',
    upgrade: 'websocket',
    'sec-websocket-version': '13',
    'sec-websocket-key': key,
    'sec-websocket-protocol': protocols.join(', '),
  };
  // The runtime on this machine shows a certificate that it signed itself.
  const asked = url.startsWith('https:')
    ? httpsRequest(url, { agent: false, headers, rejectUnauthorized: false, signal })
    : httpRequest(url, { agent: false, headers, signal });
  const { promise, resolve, reject } = Promise.withResolvers<{ answer: IncomingMessage; socket: Duplex; head: Buffer }>();
  const refused = (why: string, cause?: unknown): void =>
    reject(signal.aborted ? signal.reason : new AgentError('Unavailable', `the stream to the container did not open: ${why}`, { cause }));
  asked.once('upgrade', (answer, socket, head) => resolve({ answer, socket, head }));
  asked.once('response', (answer) => {
    answer.destroy();
    refused(`HTTP ${answer.statusCode} ${answer.statusMessage}`);
  });
  asked.once('error', (error) => refused(messageOf(error), error));
  asked.end();
  const { answer, socket, head } = await promise;
  const accept = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
  if (answer.headers['sec-websocket-accept'] !== accept) {
    socket.destroy();
    throw new AgentError('Unavailable', 'the stream to the container did not open: the server does not speak WebSocket');
  }
  // An error also reaches whoever reads; whoever does not read any more has no use for it.
  socket.on('error', () => undefined);
  let onBroken: (() => void) | undefined;
  outliveWriteErrors(socket, () => onBroken?.());
  if (head.length > 0) socket.unshift(head);
  const read = createFrameReader();
  return {
    protocol: answer.headers['sec-websocket-protocol'] ?? '',
    send: (message) => !socket.writable || socket.write(clientFrame(opcode.binary, message)),
    onDrain: (listener) => void socket.on('drain', listener),
    onBroken: (listener) => {
      onBroken = listener;
    },
    async *pieces() {
      for await (const chunk of socket as AsyncIterable<Buffer>) {
        for (const frame of read(chunk)) {
          if (frame.kind === 'data') yield frame;
          else if (frame.kind === 'ping' && socket.writable) socket.write(clientFrame(opcode.pong, frame.body));
          else if (frame.kind === 'close') {
            if (socket.writable) socket.end(clientFrame(opcode.close, frame.body.subarray(0, 2)));
            return;
          }
        }
      }
    },
    [Symbol.dispose]: () => socket.destroy(),
  };
}
