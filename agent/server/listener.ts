import { createServer as createHttpServer, type Server as HttpServer, type IncomingMessage, ServerResponse } from 'node:http';
import { createServer as createHttpsServer, type Server as HttpsServer, type ServerOptions as TlsOptions } from 'node:https';
import type { ListenOptions, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { AgentError, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { during } from '../base/work.ts';
import { headerLimit } from './header-limit.ts';
import { sendError } from './reply.ts';
import type { UpgradedClient } from './stream-proxy.ts';

/** Answers a request. `upgraded` is the connection behind one that asks for another protocol. */
export type Handler = (request: IncomingMessage, response: ServerResponse, upgraded: UpgradedClient | undefined) => void;

export interface ListenerOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly handle: Handler;
  /** Which requests may change protocol, when they ask for it; default none. All others are answered as if they had not asked. */
  readonly upgrades?: ((request: IncomingMessage) => boolean) | undefined;
  /** Absent: plain HTTP. */
  readonly tls?: TlsOptions | undefined;
}

// As long as a Go server waits for the other side before it closes a connection with something unread (net/http, rstAvoidanceDelay).
const lastReadMs = 500;
// As kubelet's servers (pkg/kubelet/server/server.go, IdleTimeout): longer than clients keep an idle connection.
const keepAliveTimeoutMs = 90_000;

/** A server that does not listen yet, of the kind that its options name: for TLS an HttpsServer. */
export function createListener(options: ListenerOptions & { readonly tls: TlsOptions }): HttpsServer;
export function createListener(options: ListenerOptions): HttpServer;
/**
 * Every server of the agent is made here, because each event of a connection that throws, or has no listener for its error, would end the process: whatever a
 * stranger's connection does stays with that connection.
 */
export function createListener(options: ListenerOptions): HttpServer | HttpsServer {
  const { log } = options;
  const unanswered = new WeakMap<Socket, Set<ServerResponse>>();
  const isBusy = (socket: Socket): boolean => (unanswered.get(socket)?.size ?? 0) > 0;
  const http = {
    keepAliveTimeout: keepAliveTimeoutMs,
    // Behind an unanswered request there is no place for another protocol: such a one is answered in its turn.
    shouldUpgradeCallback: (request: IncomingMessage) => options.upgrades?.(request) === true && !isBusy(request.socket),
  };
  const server = options.tls === undefined ? createHttpServer(http) : createHttpsServer({ ...http, ...options.tls });
  let open = 0;
  // Before the server's own listener, which reads the limit for the new connection.
  server.prependListener('connection', (socket: Socket) => {
    open++;
    socket.once('close', () => open--);
  });
  Object.defineProperty(server, 'maxHeaderSize', { get: () => headerLimit(open) });
  server.on('error', (error) => log.error({ err: messageOf(error) }, 'a connection could not be accepted'));
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    const { socket } = request;
    const pending = unanswered.get(socket) ?? new Set();
    const pipelined = pending.size > 0;
    unanswered.set(socket, pending.add(response));
    response.once('close', () => pending.delete(response));
    // Node 26 breaks a TLS connection (HPE_PAUSED) whose many requests in one piece are answered before the piece has been read to its end.
    if (pipelined) setImmediate(take, options, request, response);
    else take(options, request, response);
  });
  const change = (request: IncomingMessage, stream: Duplex, head: Buffer): void => {
    // The server has let go of the connection, so nobody else hears its errors. The stream is another object than the socket when a body is still to come.
    const { socket } = request;
    socket.on('error', () => socket.destroy());
    stream.on('error', () => stream.destroy());
    if (isBusy(socket)) {
      // A CONNECT behind requests that are not answered yet. The server does not tell their responses of the end any more.
      socket.once('close', () => {
        for (const response of unanswered.get(socket) ?? []) response.emit('close');
      });
      socket.destroy();
      return;
    }
    const response = new ServerResponse(request);
    response.shouldKeepAlive = false;
    response.assignSocket(socket);
    response.once('finish', () => endSoon(socket, stream, options.clock));
    take(options, request, response, { socket: stream, head });
  };
  server.on('upgrade', change);
  server.on('connect', change);
  return server;
}

function take(options: ListenerOptions, request: IncomingMessage, response: ServerResponse, upgraded?: UpgradedClient): void {
  const { log, handle } = options;
  const broken = (error: Error): void => log.debug({ err: messageOf(error) }, 'the connection of a request broke');
  request.on('error', broken);
  response.on('error', broken);
  during(nameOf(request), () => {
    try {
      handle(request, response, upgraded);
    } catch (error) {
      log.error({ err: messageOf(error), method: request.method }, 'request failed');
      sendError(response, 500, messageOf(error));
    }
  });
}

/** Ends a connection after its last answer. What still comes is read for a moment: closing at once would reset the connection, and the answer be lost. */
function endSoon(socket: Socket, stream: Duplex, clock: Clock): void {
  const timer = clock.after(lastReadMs, () => socket.destroy());
  socket.once('close', () => timer[Symbol.dispose]());
  if (stream.readableEnded) {
    socket.destroySoon();
    return;
  }
  stream.once('end', () => socket.destroySoon());
  stream.resume();
  socket.end();
}

/** A request's name for whoever tells of an error: without its query, which may hold a command. */
function nameOf(request: IncomingMessage): string {
  const path = (request.url ?? '').split('?', 1)[0] ?? '';
  return `request ${request.method} ${path.slice(0, 200)} of ${request.socket.remoteAddress ?? 'a local client'}`;
}

/**
 * Binds the port or path. Disposing the stack ends every connection, also those that the server does not know of as its own (in their handshake, or upgraded).
 * Throws an AgentError of code AddressInUse or Io.
 */
export async function listen(stack: AsyncDisposableStack, server: HttpServer | HttpsServer, where: ListenOptions): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const onError = (error: NodeJS.ErrnoException): void => {
    const code = error.code === 'EADDRINUSE' ? 'AddressInUse' : 'Io';
    const name = where.path ?? `${where.host}:${where.port}`;
    reject(new AgentError(code, `cannot listen on ${name}: ${messageOf(error)}`, { cause: error }));
  };
  server.on('error', onError);
  server.listen(where, resolve);
  await promise;
  server.off('error', onError);
  const connections = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    connections.add(socket);
    socket.once('close', () => connections.delete(socket));
  });
  stack.defer(
    () =>
      new Promise<void>((closed) => {
        server.close(() => closed());
        server.closeAllConnections();
        for (const socket of connections) socket.destroy();
      }),
  );
}
