import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import { request as httpsRequest, type RequestOptions } from 'node:https';
import type { Duplex } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { AgentError, messageOf } from '../base/errors.ts';
import { setOwn } from '../base/own.ts';
import { withoutTokenProtocol } from './authenticate.ts';

/** The client's end of an upgrade: its raw connection, and what it sent already. */
export interface UpgradedClient {
  readonly socket: Duplex;
  readonly head: Buffer;
}

export interface ProxyOptions {
  readonly clock: Clock;
  /** The runtime's streaming server: http or https, as it named itself. */
  readonly url: string;
  /** The stream is ended when nothing moved for so long: `streamingConnectionIdleTimeout`. 0 is never. */
  readonly idleTimeoutMs: number;
  /** Gives up the request as long as nothing is answered. */
  readonly signal: AbortSignal;
  /** Ends the stream at any time. */
  readonly closing: AbortSignal;
  /** How long a side may stay after the other has ended; default 30 s. */
  readonly lingerMs?: number | undefined;
}

// Not for the runtime: our client's credentials, and what belongs to its connection with us.
const dropped = new Set(['host', 'authorization', 'sec-websocket-protocol', 'content-length', 'transfer-encoding']);

const defaultLingerMs = 30_000;

/**
 * Passes an upgrade request (SPDY or WebSocket: the bytes are not looked at) on to the runtime's streaming server, and the streams after it in both directions,
 * with back-pressure and half-close. An answer other than 101 is passed to the client as a plain response, and its connection closed: without an upgrade no
 * client may talk to the runtime's server (CVE-2018-1002105). Resolves when the stream has ended. Throws an AgentError of code Unavailable while nothing has
 * been answered yet.
 */
export async function proxyUpgrade(
  request: IncomingMessage,
  response: ServerResponse,
  client: UpgradedClient,
  options: ProxyOptions,
): Promise<void> {
  const url = new URL(options.url);
  const secure = url.protocol === 'https:';
  const host = url.hostname.replace(/^\[|\]$/g, '');
  const port = Number(url.port) || (secure ? 443 : 80);
  const target: RequestOptions = {
    host,
    port,
    method: request.method ?? 'GET',
    path: `${url.pathname}${url.search}`,
    headers: headersFor(request, url.host),
    agent: false,
    // The runtime on this machine shows a certificate that it signed itself; upstream does not check it either.
    ...(secure ? { rejectUnauthorized: false } : {}),
  };
  const outgoing = secure ? httpsRequest(target) : httpRequest(target);
  const giveUp = (): void => void outgoing.destroy(new AgentError('Closed', 'the stream is no longer wanted'));
  options.signal.addEventListener('abort', giveUp, { once: true });
  if (options.signal.aborted) giveUp();
  try {
    const answered = new Promise<{ answer: IncomingMessage; upgraded?: { socket: Duplex; head: Buffer } }>((resolve, reject) => {
      outgoing.once('upgrade', (answer, socket, head) => resolve({ answer, upgraded: { socket, head } }));
      outgoing.once('response', (answer) => resolve({ answer }));
      outgoing.on('error', (error) =>
        reject(new AgentError('Unavailable', `cannot reach the runtime's streaming server: ${messageOf(error)}`, { cause: error })),
      );
    });
    // An upgrade request has no body: what follows its head belongs to the stream.
    outgoing.end();
    const { answer, upgraded } = await answered;
    if (upgraded === undefined) {
      await refuse(answer, response);
      return;
    }
    // From here on the connection is the stream's, not the response's.
    response.detachSocket(request.socket);
    client.socket.write(headText(answer));
    if (upgraded.head.length > 0) client.socket.write(upgraded.head);
    if (client.head.length > 0) upgraded.socket.write(client.head);
    // Now each side's end is passed on by itself: a client that has gone must not cut off what it sent last.
    options.signal.removeEventListener('abort', giveUp);
    await passThrough(client.socket, upgraded.socket, options);
  } finally {
    options.signal.removeEventListener('abort', giveUp);
    outgoing.destroy();
  }
}

function headersFor(request: IncomingMessage, host: string): Record<string, string | string[]> {
  const headers: Record<string, string | string[]> = { host };
  for (const [name, value] of Object.entries(request.headersDistinct)) {
    if (value !== undefined && !dropped.has(name)) setOwn(headers, name, value);
  }
  const protocols = request.headers['sec-websocket-protocol'];
  const kept = protocols === undefined ? undefined : withoutTokenProtocol(protocols);
  if (kept !== undefined) headers['sec-websocket-protocol'] = kept;
  return headers;
}

function headText(answer: IncomingMessage): string {
  const lines = [`HTTP/1.1 ${answer.statusCode} ${answer.statusMessage}`];
  for (let i = 0; i + 1 < answer.rawHeaders.length; i += 2) lines.push(`${answer.rawHeaders[i]}: ${answer.rawHeaders[i + 1]}`);
  return `${lines.join('\r\n')}\r\n\r\n`;
}

async function refuse(answer: IncomingMessage, response: ServerResponse): Promise<void> {
  const type = answer.headers['content-type'];
  response.writeHead(answer.statusCode ?? 502, { ...(type === undefined ? {} : { 'content-type': type }), connection: 'close' });
  for await (const chunk of answer) response.write(chunk);
  response.end();
}

/**
 * Copies both ways between client `a` and runtime `b` until both are closed. However one side ends, by an end of its own or by a break, the other gets all that had
 * come from it, and then an end: a runtime that closes with something of the client's unread breaks the connection, right after the output.
 */
async function passThrough(a: Duplex, b: Duplex, options: ProxyOptions): Promise<void> {
  const { lingerMs = defaultLingerMs } = options;
  const closeBoth = (): void => {
    a.destroy();
    b.destroy();
  };
  options.closing.addEventListener('abort', closeBoth, { once: true });
  if (options.closing.aborted) closeBoth();
  using idle = startIdleTimer(options.clock, options.idleTimeoutMs, closeBoth);
  const linger = (): void => idle.shorten(lingerMs);
  for (const [side, other] of [[a, b] as const, [b, a] as const]) {
    // A client that is gone and whose input nobody takes is not read to its end: it is waited for, but not for ever.
    watchWrites(side, { onBroken: side === a ? linger : undefined, onWritten: idle.moved });
    // An error now is a peer that went away. It closes the stream, and there is nobody left to tell.
    side.on('error', () => undefined);
    side.on('data', idle.moved);
    const letGo = (): void => {
      if (!other.writableEnded) other.end();
      // Whoever has been given all and keeps its half open would hold the connection for hours; whoever is slow to take the last of it may be.
      if (other.writableFinished || other.destroyed) linger();
      else other.once('finish', linger);
    };
    side.once('close', () => {
      letGo();
      // Nobody takes what still comes from there; its end is read, and so the connection closes.
      other.resume();
    });
    // Runtimes end a stream as a whole.
    if (side === b) side.once('end', letGo);
  }
  const ended = Promise.all([closed(a), closed(b)]);
  a.pipe(b);
  b.pipe(a);
  try {
    await ended;
  } finally {
    options.closing.removeEventListener('abort', closeBoth);
  }
}

/** Calls `onIdle` once when nothing has moved for `limitMs` (0: never). It knows of streams only what it is told: not every Duplex has a timer of its own. */
function startIdleTimer(clock: Clock, limitMs: number, onIdle: () => void): Disposable & { moved(): void; shorten(ms: number): void } {
  let limit = limitMs > 0 ? limitMs : Number.POSITIVE_INFINITY;
  let movedAt = clock.mono();
  let timer: Disposable | undefined;
  const arm = (): void => {
    timer?.[Symbol.dispose]();
    timer = undefined;
    if (limit === Number.POSITIVE_INFINITY) return;
    const left = movedAt + limit - clock.mono();
    if (left <= 0) onIdle();
    else timer = clock.after(left, arm);
  };
  arm();
  return {
    moved() {
      movedAt = clock.mono();
    },
    shorten(ms) {
      if (ms >= limit) return;
      limit = ms;
      movedAt = clock.mono();
      arm();
    },
    [Symbol.dispose]: () => timer?.[Symbol.dispose](),
  };
}

/**
 * Node destroys a socket that could not be written to, and with it what has come in and was not read yet: the output of an exec whose runtime closed while its client
 * still spoke. Here such a write is dropped, and reading goes on to the connection's end, which comes by itself. `onWritten` is called after each write.
 */
export function watchWrites(socket: Duplex, on: { onBroken?: (() => void) | undefined; onWritten?: (() => void) | undefined }): void {
  const write = socket._write.bind(socket);
  const writev = socket._writev?.bind(socket);
  let broken = false;
  const outlive =
    (callback: (error?: Error | null) => void) =>
    (error?: Error | null): void => {
      if (error == null) on.onWritten?.();
      else if (!broken) {
        broken = true;
        on.onBroken?.();
      }
      callback();
    };
  socket._write = (chunk, encoding, callback) => {
    if (broken) callback();
    else write(chunk, encoding, outlive(callback));
  };
  if (writev !== undefined)
    socket._writev = (chunks, callback) => {
      if (broken) callback();
      else writev(chunks, outlive(callback));
    };
}

async function closed(socket: Duplex): Promise<void> {
  if (!socket.closed) await new Promise<void>((resolve) => socket.once('close', () => resolve()));
}
