// The health-check node ports of Services with externalTrafficPolicy Local.
import type { Clock } from '../../agent/base/clock.ts';
import { messageOf } from '../../agent/base/errors.ts';
import type { Log } from '../../agent/base/log.ts';
import { type ListenerOptions, startListener } from './listener.ts';
import { serviceHealthReply } from './proxier-health.ts';

/** One Service's port, and how many ready pods of the Service are on this node. */
export interface ServiceHealthCheck {
  /** `namespace/name`. */
  readonly service: string;
  readonly port: number;
  readonly localEndpoints: number;
}

export interface ServiceHealthOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly nodeName: string;
  /** Whether the proxy keeps up: a node whose rules are late gets no new connections. */
  readonly proxyHealthy: () => boolean;
  /** An event on the Service, which lies in `namespace/name`. */
  readonly event: (service: string, reason: string, message: string) => void;
}

export interface ServiceHealth extends AsyncDisposable {
  /** Makes the ports that listen exactly these. Two Services that name one port: the first listens. */
  sync(checks: Iterable<ServiceHealthCheck>, addresses: readonly string[]): void;
}

interface Open {
  readonly port: number;
  readonly addresses: string;
  readonly listeners: readonly AsyncDisposable[];
  localEndpoints: number;
}

export function startServiceHealth(options: ServiceHealthOptions): ServiceHealth {
  const { clock, log, nodeName } = options;
  const open = new Map<string, Open>();
  const closing = new Set<Promise<void>>();

  function close(service: string): void {
    const entry = open.get(service);
    open.delete(service);
    for (const listener of entry?.listeners ?? []) {
      const done = Promise.resolve(listener[Symbol.asyncDispose]()).catch((error: unknown) =>
        log.warn({ service, err: messageOf(error) }, 'could not close a health check port'),
      );
      closing.add(done);
      void done.finally(() => closing.delete(done));
    }
  }

  function start({ service, port, localEndpoints }: ServiceHealthCheck, addresses: readonly string[]): void {
    let told = false;
    const failed = (error: unknown): void => {
      if (told) return;
      told = true;
      const message = `node ${nodeName} failed to start healthcheck "${service}" on port ${port}: ${messageOf(error)}`;
      options.event(service, 'FailedToStartServiceHealthcheck', message);
    };
    const handle: ListenerOptions['handle'] = (_request, response) => {
      const { status, headers, body } = serviceHealthReply(service, open.get(service)?.localEndpoints ?? 0, options.proxyHealthy());
      response.writeHead(status, headers).end(body);
    };
    const listeners = addresses.map((host) => startListener({ name: service, host, port, handle, clock, log, failed }));
    open.set(service, { port, addresses: addresses.join(), listeners, localEndpoints });
  }

  return {
    sync(checks, addresses) {
      const wanted = new Map([...checks].map((check) => [check.service, check]));
      const where = addresses.join();
      for (const [service, entry] of [...open]) if (wanted.get(service)?.port !== entry.port || entry.addresses !== where) close(service);
      for (const check of wanted.values()) {
        const entry = open.get(check.service);
        if (entry === undefined) start(check, addresses);
        else entry.localEndpoints = check.localEndpoints;
      }
    },
    async [Symbol.asyncDispose]() {
      for (const service of [...open.keys()]) close(service);
      await Promise.all(closing);
    },
  };
}
