import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import WebSocket, { createWebSocketStream } from 'ws';
import { AgentError, messageOf } from '../../base/errors.ts';
import { watchWrites } from '../../server/stream-proxy.ts';

/**
 * A WebSocket with back-pressure both ways. The one of browsers and Node has none: what is sent or received faster than it is taken lies in memory. undici's
 * WebSocketStream is meant to have it, and loses it with reads of 64 KiB (8.12).
 */
export interface WebSocketConnection extends Disposable {
  /** The protocol that the server chose; '' for none. */
  readonly protocol: string;
  /** Sends one message. False: send no more before the next `onDrain`. */
  send(message: Uint8Array): boolean;
  onDrain(listener: () => void): void;
  /** The server takes nothing any more; what it has sent can still be read. */
  onBroken(listener: () => void): void;
  /** What the server sends, no faster than it is taken. Ends when the connection does, or breaks. */
  messages(): AsyncIterable<Buffer>;
}

/** Connects to `http:` or `https:` `url`. Throws AgentError Unavailable; the signal's reason when it aborts before the connection stands. */
export async function openWebSocket(url: string, protocols: readonly string[], signal: AbortSignal): Promise<WebSocketConnection> {
  signal.throwIfAborted();
  // The runtime on this machine shows a certificate that it signed itself.
  const socket = new WebSocket(url, [...protocols], { rejectUnauthorized: false, perMessageDeflate: false });
  // Made before the connection stands: its first message may come with the server's consent.
  const stream: Duplex = createWebSocketStream(socket, { readableObjectMode: true, readableHighWaterMark: 1 });
  // An error also reaches whoever reads; whoever does not read any more has no use for it.
  stream.on('error', () => undefined);
  let onBroken: (() => void) | undefined;
  socket.once('upgrade', (answer: IncomingMessage) => watchWrites(answer.socket, { onBroken: () => onBroken?.() }));
  const onAbort = (): void => socket.terminate();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    await new Promise<void>((resolve, reject) => {
      const refused = (why: string, cause?: unknown): void =>
        reject(new AgentError('Unavailable', `the stream to the container did not open: ${why}`, { cause }));
      socket.once('open', resolve);
      socket.on('error', (error) => refused(messageOf(error), error));
      socket.once('unexpected-response', (request, answer) => {
        refused(`HTTP ${answer.statusCode} ${answer.statusMessage}`);
        request.destroy();
      });
    });
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
  return {
    protocol: socket.protocol,
    send: (message) => !stream.writable || stream.write(message),
    onDrain: (listener) => void stream.on('drain', listener),
    onBroken: (listener) => {
      onBroken = listener;
    },
    messages: () => stream,
    [Symbol.dispose]: () => socket.terminate(),
  };
}
