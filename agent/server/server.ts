import { constants } from 'node:crypto';
import type { Server as HttpServer, IncomingMessage, ServerResponse } from 'node:http';
import type { Server as HttpsServer, ServerOptions as TlsOptions } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { SecureContextOptions } from 'node:tls';
import { AgentError, messageOf } from '../base/errors.ts';
import { createAuthenticator } from './authenticate.ts';
import { alwaysAllow, createWebhookAuthorizer } from './authorize.ts';
import { type ClientCa, openClientCa } from './client-ca.ts';
import type { ServerOptions } from './contracts.ts';
import { handlerOf, httpMetrics, sendHealthz, urlOf } from './handle.ts';
import { createListener, type Handler, listen } from './listener.ts';
import { sendText } from './reply.ts';
import { accessReviewLimits, createReviewBudget, tokenReviewLimits } from './review-budget.ts';
import { type RouteSwitches, routeOf } from './routes.ts';
import { tlsSettings } from './tls-options.ts';

/** The servers that listen; disposing ends them, streams included. Ports are as bound. */
export interface Server extends AsyncDisposable {
  readonly port: number;
  readonly readOnlyPort: number | undefined;
  readonly healthzPort: number | undefined;
}

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
  const clientCa = stack.use(await openClientCa(settings.clientCaFile, clock, log));
  const authenticate = createAuthenticator({
    clock,
    clientCa,
    budget: createReviewBudget(clock, tokenReviewLimits),
    anonymous: settings.anonymous,
    tokenTtlMs: settings.tokenTtlMs,
    ...(settings.tokenWebhook ? { reviewToken: options.reviewToken } : {}),
  });
  const authorize =
    settings.authorizationMode === 'AlwaysAllow'
      ? alwaysAllow
      : createWebhookAuthorizer({
          clock,
          budget: createReviewBudget(clock, accessReviewLimits),
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
  const secure = stack.use(secureServer(options, clientCa, handler));
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

function secureServer(options: ServerOptions, clientCa: ClientCa, handle: Handler): { server: HttpsServer } & Disposable {
  const { settings, certificate, clock, log } = options;
  const tls = tlsSettings(settings.tlsMinVersion, settings.tlsCipherSuites, settings.tlsCurvePreferences);
  const context = (): SecureContextOptions => {
    const now = certificate.current();
    return {
      ...(now === undefined ? {} : { cert: now.certPem, key: now.keyPem }),
      ...(clientCa.pem === undefined ? {} : { ca: clientCa.pem }),
      minVersion: tls.minVersion,
      ciphers: tls.ciphers,
      ...(tls.curves === undefined ? {} : { ecdhCurve: tls.curves }),
      // A resumed session would carry OpenSSL's verdict past a change of the CA; and as Go's servers, none takes another certificate in mid-connection.
      secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
    };
  };
  const listening: TlsOptions = {
    ...context(),
    // Who shows no certificate, or one of another CA, may still have a token.
    requestCert: clientCa.pem !== undefined,
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
  clientCa.guard(server, apply);
  return { server, [Symbol.dispose]: () => subscription[Symbol.dispose]() };
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
