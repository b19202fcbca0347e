// What kube-proxy serves: health on --healthz-bind-address, metrics and itself on --metrics-bind-address.
import type { IncomingMessage, ServerResponse } from 'node:http';
import { startListener } from '../../../proxy/health/listener.ts';
import { healthzReply, isNodeEligible, livezReply, type ProxierHealth } from '../../../proxy/health/proxier-health.ts';
import { eligibilityOf } from '../../../proxy/node-settings.ts';
import type { Clock } from '../../base/clock.ts';
import { messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { ProxyConfiguration } from '../../config/proxy/defaults.ts';
import { splitHostPort } from '../../config/proxy/validate.ts';
import type { Node } from '../../model/generated/api.ts';
import { metricsContentType } from '../../server/metrics.ts';
import type { ProxyMetrics } from './proxy-metrics.ts';

export interface ProxyServersOptions {
  readonly config: ProxyConfiguration;
  /** The configuration as `/configz` shows it. */
  readonly configz: unknown;
  readonly metrics: ProxyMetrics;
  readonly health: () => ProxierHealth;
  readonly node: () => Node | undefined;
  /** An event about the node. */
  readonly event: (type: 'Warning', reason: string, message: string) => void;
  readonly clock: Clock;
  readonly log: Log;
}

export interface ProxyServers extends AsyncDisposable {
  /** What kept a port from being listened on at the first try; with bindAddressHardFail the proxy ends with it. */
  readonly firstTry: Promise<Error | undefined>;
}

interface Page {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

const plainText = { 'Content-Type': 'text/plain; charset=utf-8', 'X-Content-Type-Options': 'nosniff' };

/** Starts both servers; an empty address is none. A port that is taken is tried again every 5 s. */
export function startProxyServers(options: ProxyServersOptions): ProxyServers {
  const { config, clock, log } = options;
  const listen = (name: string, address: string, reason: string, pageOf: (path: string) => Page | undefined) => {
    const at = splitHostPort(address);
    if (at === undefined) return undefined;
    return startListener({
      name,
      ...at,
      handle: (request, response) => answer(request, response, pageOf),
      clock,
      log,
      failed: (error) => options.event('Warning', reason, `${name} server failed: ${messageOf(error)}`),
    });
  };
  const listeners = [
    listen('healthz', config.healthzBindAddress, 'FailedToStartProxierHealthcheck', (path) => healthPage(path, options)),
    listen('metrics', config.metricsBindAddress, 'FailedToStartMetricServer', (path) => metricsPage(path, options)),
  ].filter((listener) => listener !== undefined);
  return {
    firstTry: Promise.all(listeners.map((listener) => listener.firstTry)).then((errors) => errors.find((error) => error !== undefined)),
    async [Symbol.asyncDispose]() {
      await Promise.all(listeners.map((listener) => listener[Symbol.asyncDispose]()));
    },
  };
}

function answer(request: IncomingMessage, response: ServerResponse, pageOf: (path: string) => Page | undefined): void {
  const path = (request.url ?? '/').split('?', 1)[0] ?? '/';
  const page = pageOf(path) ?? { status: 404, headers: plainText, body: '404 page not found\n' };
  response.writeHead(page.status, page.headers).end(request.method === 'HEAD' ? undefined : page.body);
}

function healthPage(path: string, { health, node, metrics, clock }: ProxyServersOptions): Page | undefined {
  if (path !== '/healthz' && path !== '/livez') return undefined;
  const now = clock.wall();
  const reply = path === '/healthz' ? healthzReply(health(), isNodeEligible(eligibilityOf(node())), now) : livezReply(health(), now);
  metrics.answered(path === '/healthz' ? 'healthz' : 'livez', reply.status);
  return reply;
}

function metricsPage(path: string, { config, configz, metrics }: ProxyServersOptions): Page | undefined {
  switch (path) {
    case '/healthz':
      return { status: 200, headers: plainText, body: 'ok' };
    case '/metrics':
      return { status: 200, headers: { 'Content-Type': metricsContentType }, body: metrics.registry.text() };
    case '/proxyMode':
      return { status: 200, headers: plainText, body: config.mode };
    case '/configz':
      return { status: 200, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ 'kubeproxy.config.k8s.io': configz }) };
    default:
      return undefined;
  }
}
