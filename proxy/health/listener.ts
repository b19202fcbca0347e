// Listens on addresses of the node and answers plain HTTP: for health checks and metrics.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type Clock, pause } from '../../agent/base/clock.ts';
import { messageOf } from '../../agent/base/errors.ts';
import type { Log } from '../../agent/base/log.ts';

export interface ListenerOptions {
  /** For logs: `healthz`, `metrics`, a Service's name. */
  readonly name: string;
  readonly host: string;
  readonly port: number;
  readonly handle: (request: IncomingMessage, response: ServerResponse) => void;
  readonly clock: Clock;
  readonly log: Log;
  /** Is told each time it cannot listen. */
  readonly failed?: ((error: unknown) => void) | undefined;
}

// kube-proxy tries again after as long (cmd/kube-proxy/app/server.go).
const retryMs = 5_000;
// Health checks are one short request: whoever holds a connection or dawdles over a request holds a file descriptor of ours.
const requestTimeoutMs = 10_000;
const maxConnections = 1_000;

/**
 * Listens until it is disposed of, and tries again every 5 s while the port is taken. `firstTry` resolves after the first
 * try, with what went wrong.
 */
export function startListener(options: ListenerOptions): AsyncDisposable & { readonly firstTry: Promise<Error | undefined> } {
  const { clock, log, name, host, port } = options;
  const stopping = new AbortController();
  let server: Server | undefined;
  let settle: (error: Error | undefined) => void = () => undefined;
  const firstTry = new Promise<Error | undefined>((resolve) => {
    settle = resolve;
  });
  const run = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      try {
        server = await listen(options);
        settle(undefined);
        // Disposed of while the port was being bound.
        if (stopping.signal.aborted) server.close().closeAllConnections();
        log.debug({ listener: name, host, port }, 'listening');
        await closed(server);
        if (stopping.signal.aborted) return;
      } catch (error) {
        log.warn({ listener: name, host, port, err: messageOf(error), retryInMs: retryMs }, 'cannot listen');
        options.failed?.(error);
        settle(error instanceof Error ? error : new Error(String(error)));
      }
      await pause(clock, retryMs, stopping.signal);
    }
  };
  const running = run();
  return {
    firstTry,
    async [Symbol.asyncDispose]() {
      stopping.abort();
      server?.close();
      server?.closeAllConnections();
      await running;
    },
  };
}

function listen({ host, port, handle, log, name }: ListenerOptions): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer({
      requestTimeout: requestTimeoutMs,
      headersTimeout: requestTimeoutMs,
      keepAliveTimeout: requestTimeoutMs,
      // Nothing here speaks another protocol: the request is answered as any other.
      shouldUpgradeCallback: () => false,
    });
    server.maxConnections = maxConnections;
    server.on('request', (request: IncomingMessage, response: ServerResponse) => {
      // A client that goes away in the middle is no news.
      request.on('error', (error) => log.debug({ listener: name, err: messageOf(error) }, 'request failed'));
      response.on('error', (error) => log.debug({ listener: name, err: messageOf(error) }, 'response failed'));
      request.resume();
      try {
        handle(request, response);
      } catch (error) {
        // Thrown in an event it would end the process.
        log.error({ listener: name, path: request.url, err: messageOf(error) }, 'request failed');
        if (!response.headersSent) response.writeHead(500);
        response.end();
      }
    });
    server.on('clientError', (error, socket) => {
      log.debug({ listener: name, err: messageOf(error) }, 'bad request');
      socket.destroy();
    });
    // For good: an error of accepting comes at any time, and without a listener it would end the process.
    server.on('error', (error) => {
      log.debug({ listener: name, err: messageOf(error) }, 'listener failed');
      reject(error);
    });
    server.listen({ host, port, ipv6Only: host.includes(':') && host !== '::' }, () => resolve(server));
  });
}

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => server.once('close', resolve));
}
