import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Duplex } from 'node:stream';
import { AgentError, messageOf } from '../../base/errors.ts';
import { watchWrites } from '../../server/stream-proxy.ts';
import { channel, type RemoteStreams } from './remote-streams.ts';
import { controlFrame, createFrameReader, dataHead, type Frame, frameType, openingFrames } from './spdy-frames.ts';

const protocol = 'v4.channel.k8s.io';

/**
 * Opens the streams of a command over SPDY/3.1, as kubectl does for runtimes older than WebSocket's version 5: here the end of the input can be told to all of
 * them. Throws AgentError Unavailable; the signal's reason when it aborts before the connection stands.
 */
export async function openSpdyStreams(
  url: string,
  channels: readonly (keyof typeof channel)[],
  signal: AbortSignal,
): Promise<RemoteStreams> {
  const socket = await upgraded(new URL(url), signal);
  let onBroken: (() => void) | undefined;
  watchWrites(socket, { onBroken: () => onBroken?.() });
  // Whoever reads hears of it too.
  socket.on('error', () => undefined);
  // A client's streams have odd numbers. The one for the status comes first, as from kubectl.
  const streams = channels.map((name, i) => ({ id: 2 * i + 1, name }));
  const idOf = (wanted: number): number => streams.find(({ name }) => channel[name] === wanted)?.id ?? 0;
  const channelOf = new Map(streams.map(({ id, name }) => [id, channel[name]]));
  socket.write(await openingFrames(streams.map(({ id, name }) => ({ id, headers: { streamtype: name } }))));
  const ended = new Set<number>();

  function end(id: number): void {
    ended.add(id);
    if (channelOf.get(id) === channel.stdin) onBroken?.();
  }

  /** What a frame says to whoever reads the streams. */
  function take(frame: Frame): { from: number; data: Buffer } | undefined {
    if (frame.kind === 'data') {
      const from = channelOf.get(frame.stream);
      if (frame.fin) end(frame.stream);
      return from === undefined || frame.data.length === 0 ? undefined : { from, data: frame.data };
    }
    if (frame.payload.length < 4) return undefined;
    const id = frame.payload.readUInt32BE(0);
    if (frame.type === frameType.rstStream) end(id);
    // A server's pings have even numbers, and want to be sent back.
    if (frame.type === frameType.ping && id % 2 === 0) socket.write(controlFrame(frameType.ping, frame.payload));
    return undefined;
  }

  return {
    send(to, data) {
      if (!socket.writable) return true;
      socket.write(dataHead(idOf(to), data.length, false));
      return socket.write(data);
    },
    endInput() {
      if (socket.writable) socket.write(dataHead(idOf(channel.stdin), 0, true));
      return true;
    },
    onDrain: (listener) => void socket.on('drain', listener),
    onBroken: (listener) => {
      onBroken = listener;
    },
    async *messages() {
      const read = createFrameReader();
      for await (const chunk of socket) {
        for (const frame of read(chunk as Buffer)) {
          const message = take(frame);
          if (message !== undefined) yield message;
        }
        // The server closes its streams at the command's end, and the connection some time after.
        if (streams.every(({ id, name }) => name === 'stdin' || name === 'resize' || ended.has(id))) return;
      }
    },
    [Symbol.dispose]: () => void socket.destroy(),
  };
}

function upgraded(url: URL, signal: AbortSignal): Promise<Duplex> {
  signal.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<Duplex>();
  const refused = (why: string, cause?: unknown): void =>
    reject(new AgentError('Unavailable', `the stream to the container did not open: ${why}`, { cause }));
  const secure = url.protocol === 'https:';
  const headers = { connection: 'Upgrade', upgrade: 'SPDY/3.1', 'x-stream-protocol-version': protocol };
  // The runtime on this machine shows a certificate that it signed itself.
  const request = secure
    ? httpsRequest(url, { method: 'POST', headers, agent: false, rejectUnauthorized: false })
    : httpRequest(url, { method: 'POST', headers, agent: false });
  const onAbort = (): void => void request.destroy();
  signal.addEventListener('abort', onAbort, { once: true });
  request.on('upgrade', (answer: IncomingMessage, socket, head) => {
    const spoken = answer.headers['x-stream-protocol-version'];
    if (spoken !== protocol) {
      socket.destroy();
      refused(`the runtime speaks ${spoken ?? 'no known protocol'}, not ${protocol}`);
      return;
    }
    if (head.length > 0) socket.unshift(head);
    resolve(socket);
  });
  request.on('response', (answer) => {
    answer.resume();
    refused(`HTTP ${answer.statusCode} ${answer.statusMessage}`);
    request.destroy();
  });
  request.on('error', (error) => (signal.aborted ? reject(signal.reason) : refused(messageOf(error), error)));
  request.end();
  return promise.finally(() => signal.removeEventListener('abort', onAbort));
}
