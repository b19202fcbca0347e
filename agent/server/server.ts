import { constants } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer as createHttpServer, type Server as HttpServer, type IncomingMessage, ServerResponse } from 'node:http';
import { createServer as createHttpsServer, type Server as HttpsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { SecureContextOptions } from 'node:tls';
import { AgentError, messageOf } from '../base/errors.ts';
import { createAuthenticator } from './authenticate.ts';
import { alwaysAllow, createWebhookAuthorizer } from './authorize.ts';
import type { ServerOptions } from './contracts.ts';
import { type Handler, handlerOf, httpMetrics, sendHealthz, urlOf } from './handle.ts';
import { maxHeaderSize, sendText } from './reply.ts';
import { type RouteSwitches, routeOf } from './routes.ts';
import { tlsSettings } from './tls-options.ts';

/** The servers that listen; disposing ends them, streams included. Ports are as bound. */
export interface Server extends AsyncDisposable {
  readonly port: number;
  readonly readOnlyPort: number | undefined;
  readonly healthzPort: number | undefined;
}

const caCheckIntervalMs = 10_000;
// As long as a Go client waits for a handshake. One that has gone in the middle of it would be kept for the two minutes that are Node's default.
const handshakeTimeoutMs = 10_000;
const streamingKinds = new Set(['exec', 'attach', 'portForward']);

/**
 * Starts the node's servers: HTTPS with authentication and authorization for every request, and as configured the read-only and the healthz port.
 * Throws an AgentError of code Invalid for a setting that cannot be honoured, and of code AddressInUse for a port that is taken.
 */
export async function startServer(options: ServerOptions): Promise<Server> {
  const { settings, clock, log } = options;
  const closing = new AbortController();
  await using stack = new AsyncDisposableStack();
  const http = httpMetrics(options.metrics);
  const authenticate = createAuthenticator({
    clock,
    anonymous: settings.anonymous,
    tokenTtlMs: settings.tokenTtlMs,
    ...(settings.tokenWebhook ? { reviewToken: options.reviewToken } : {}),
  });
  const authorize =
    settings.authorizationMode === 'AlwaysAllow'
      ? alwaysAllow
      : createWebhookAuthorizer({
          clock,
          nodeName: options.nodeName,
          reviewAccess: options.reviewAccess,
          allowedTtlMs: settings.authorizedTtlMs,
          deniedTtlMs: settings.unauthorizedTtlMs,
        });
  const pages = new Set(['/metrics', ...Object.keys(options.pages ?? {})]);
  const switches: RouteSwitches = {
    debugging: settings.enableDebuggingHandlers,
    systemLogs: settings.enableSystemLogHandler,
    debugFlags: settings.enableDebugFlagsHandler,
    pages,
  };

  const secure = stack.use(await secureServer(options));
  attach(secure.server, handlerOf(options, { authenticate, authorize, switches, type: 'readwrite', http }, closing.signal), switches);
  const port = await listen(stack, secure.server, settings.address, settings.port);

  let readOnlyPort: number | undefined;
  if (settings.readOnlyPort > 0) {
    const open: RouteSwitches = { ...switches, debugging: false };
    const server = createHttpServer({ keepAliveTimeout: 90_000, maxHeaderSize });
    attach(server, handlerOf(options, { switches: open, type: 'readonly', http }, closing.signal), open);
    readOnlyPort = await listen(stack, server, settings.address, settings.readOnlyPort);
  }
  let healthzPort: number | undefined;
  if (settings.healthzPort > 0) {
    const server = createHttpServer((request, response) => {
      const { pathname, searchParams } = urlOf(request);
      const route = routeOf(request.method ?? 'GET', pathname, {
        debugging: false,
        systemLogs: false,
        debugFlags: false,
        pages: new Set(),
      });
      if (route.kind === 'healthz') sendHealthz(options, response, route.check, searchParams);
      else sendText(response, 404, '404 page not found\n');
    });
    healthzPort = await listen(stack, server, settings.healthzBindAddress, settings.healthzPort);
  }
  log.info({ address: settings.address, port, readOnlyPort, healthzPort }, 'serving');
  const kept = stack.move();
  return {
    port,
    readOnlyPort,
    healthzPort,
    async [Symbol.asyncDispose]() {
      // First the streams: a server that is closed waits for its connections.
      closing.abort(new AgentError('Closed', 'the server is closing'));
      await kept.disposeAsync();
    },
  };
}

async function secureServer(options: ServerOptions): Promise<{ server: HttpsServer } & AsyncDisposable> {
  const { settings, certificate, clock, log } = options;
  const tls = tlsSettings(settings.tlsMinVersion, settings.tlsCipherSuites, settings.tlsCurvePreferences);
  const readCa = async (file: string): Promise<string> => {
    const pem = await readFile(file, 'utf8');
    if (!pem.includes('-----BEGIN CERTIFICATE-----')) throw new AgentError('Invalid', `no certificate in the client CA file ${file}`);
    return pem;
  };
  let ca: string | undefined;
  if (settings.clientCaFile !== undefined && settings.clientCaFile !== '') {
    ca = await readCa(settings.clientCaFile).catch((error: unknown) => {
      throw new AgentError('Invalid', `authentication.x509.clientCAFile: ${messageOf(error)}`, { cause: error });
    });
  }
  const context = (): SecureContextOptions => {
    const now = certificate.current();
    return {
      ...(now === undefined ? {} : { cert: now.certPem, key: now.keyPem }),
      ...(ca === undefined ? {} : { ca }),
      minVersion: tls.minVersion,
      ciphers: tls.ciphers,
      ...(tls.curves === undefined ? {} : { ecdhCurve: tls.curves }),
      // A resumed session would carry the verdict on a client certificate past a change of the CA.
      secureOptions: constants.SSL_OP_NO_TICKET,
    };
  };
  const server = createHttpsServer({
    ...context(),
    // Who shows no certificate, or one of another CA, may still have a token.
    requestCert: ca !== undefined,
    rejectUnauthorized: false,
    maxHeaderSize,
    handshakeTimeout: handshakeTimeoutMs,
    keepAliveTimeout: 90_000,
    keepAlive: true,
    keepAliveInitialDelay: 15_000,
    // A stream's client may end its input and still wait for the output.
    allowHalfOpen: true,
    shouldUpgradeCallback: isStreamRequest,
  } as Parameters<typeof createHttpsServer>[0]);
  const apply = (): void => {
    try {
      server.setSecureContext(context());
    } catch (error) {
      log.error({ err: messageOf(error) }, 'serving certificate cannot be used, the one before stays');
    }
  };
  const subscription = certificate.onChange(apply);
  let timer: Disposable | undefined;
  const checkCa = (file: string): void => {
    timer = clock.after(caCheckIntervalMs, async () => {
      try {
        const now = await readCa(file);
        if (now !== ca) {
          ca = now;
          apply();
          log.info({ file }, 'client CA reloaded');
        }
      } catch (error) {
        log.warn({ file, err: messageOf(error) }, 'client CA cannot be read, the one before stays');
      }
      if (timer !== undefined) checkCa(file);
    });
  };
  if (settings.clientCaFile) checkCa(settings.clientCaFile);
  return {
    server,
    async [Symbol.asyncDispose]() {
      subscription[Symbol.dispose]();
      timer?.[Symbol.dispose]();
      timer = undefined;
    },
  };
}

/** Binds the port. The connections that the server does not know of as its own (in their handshake, or upgraded) end with it too. */
async function listen(stack: AsyncDisposableStack, server: HttpServer | HttpsServer, host: string, port: number): Promise<number> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const code = error.code === 'EADDRINUSE' ? 'AddressInUse' : 'Io';
      reject(new AgentError(code, `cannot listen on ${host}:${port}: ${messageOf(error)}`, { cause: error }));
    });
    server.listen({ host, port }, resolve);
  });
  const connections = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    connections.add(socket);
    socket.once('close', () => connections.delete(socket));
  });
  stack.defer(
    () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
        for (const socket of connections) socket.destroy();
      }),
  );
  return (server.address() as AddressInfo).port;
}

function attach(server: HttpServer | HttpsServer, handle: Handler, switches: RouteSwitches): void {
  server.on('request', (request: IncomingMessage, response: ServerResponse) => handle(request, response, undefined));
  if (!switches.debugging) return;
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    // The server has let go of the socket: an error that nobody hears would end the process.
    socket.on('error', () => socket.destroy());
    const response = new ServerResponse(request);
    response.shouldKeepAlive = false;
    response.assignSocket(socket as Socket);
    response.once('finish', () => (socket as Socket).destroySoon());
    handle(request, response, { socket, head });
  });
}

function isStreamRequest(request: IncomingMessage): boolean {
  return streamingKinds.has(urlOf(request).pathname.split('/')[1] ?? '');
}
