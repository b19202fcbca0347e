import { constants } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Server as HttpServer, IncomingMessage, ServerResponse } from 'node:http';
import type { Server as HttpsServer, ServerOptions as TlsOptions } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { SecureContextOptions } from 'node:tls';
import { AgentError, messageOf } from '../base/errors.ts';
import { createAuthenticator } from './authenticate.ts';
import { alwaysAllow, createWebhookAuthorizer } from './authorize.ts';
import type { ServerOptions } from './contracts.ts';
import { handlerOf, httpMetrics, sendHealthz, urlOf } from './handle.ts';
import { createListener, type Handler, listen } from './listener.ts';
import { sendText } from './reply.ts';
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

  const handler = handlerOf(options, { authenticate, authorize, switches, type: 'readwrite', http }, closing.signal);
  const secure = stack.use(await secureServer(options, handler));
  const port = await listenOn(stack, secure.server, settings.address, settings.port);

  let readOnlyPort: number | undefined;
  if (settings.readOnlyPort > 0) {
    const handle = handlerOf(options, { switches: { ...switches, debugging: false }, type: 'readonly', http }, closing.signal);
    readOnlyPort = await listenOn(stack, createListener({ clock, log, handle }), settings.address, settings.readOnlyPort);
  }
  let healthzPort: number | undefined;
  if (settings.healthzPort > 0) {
    const handle: Handler = (request, response) => serveHealthz(options, request, response);
    healthzPort = await listenOn(stack, createListener({ clock, log, handle }), settings.healthzBindAddress, settings.healthzPort);
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

async function secureServer(options: ServerOptions, handle: Handler): Promise<{ server: HttpsServer } & AsyncDisposable> {
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
  const listening: TlsOptions = {
    ...context(),
    // Who shows no certificate, or one of another CA, may still have a token.
    requestCert: ca !== undefined,
    rejectUnauthorized: false,
    handshakeTimeout: handshakeTimeoutMs,
    keepAlive: true,
    keepAliveInitialDelay: 15_000,
    // A stream's client may end its input and still wait for the output.
    allowHalfOpen: true,
  };
  const upgrades = settings.enableDebuggingHandlers ? isStreamRequest : undefined;
  const server = createListener({ clock, log, handle, upgrades, tls: listening });
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

async function listenOn(stack: AsyncDisposableStack, server: HttpServer | HttpsServer, host: string, port: number): Promise<number> {
  await listen(stack, server, { host, port });
  return (server.address() as AddressInfo).port;
}

function serveHealthz(options: ServerOptions, request: IncomingMessage, response: ServerResponse): void {
  const { pathname, searchParams } = urlOf(request);
  const nothingElse = { debugging: false, systemLogs: false, debugFlags: false, pages: new Set<string>() };
  const route = routeOf(request.method ?? 'GET', pathname, nothingElse);
  if (route.kind === 'healthz') sendHealthz(options, response, route.check, searchParams);
  else sendText(response, 404, '404 page not found\n');
}

function isStreamRequest(request: IncomingMessage): boolean {
  return streamingKinds.has(urlOf(request).pathname.split('/')[1] ?? '');
}
