import type { IncomingMessage, ServerResponse } from 'node:http';
import { AgentError, hasCode, messageOf, unreachable } from '../base/errors.ts';
import { ownValue } from '../base/own.ts';
import { attributesOf, forbiddenText, type RequestAttributes, type User } from './attributes.ts';
import type { Authenticate } from './authenticate.ts';
import type { Authorize } from './authorize.ts';
import { sendContainerLog } from './container-log.ts';
import type { Call, ServerOptions } from './contracts.ts';
import { answerHealthz, type HealthCheck } from './healthz.ts';
import type { Handler } from './listener.ts';
import { type Counter, type Gauge, type Histogram, type MetricsRegistry, metricsContentType } from './metrics.ts';
import { serveNodeLogs, serveQueriedLogs } from './node-logs.ts';
import { sendError, sendJson, sendPodList, sendText } from './reply.ts';
import { metricLabelsOf, type Route, type RouteSwitches, routeOf } from './routes.ts';
import { serveStream } from './streams.ts';

const reviewDeadlineMs = 10_000;

export interface HandlerOptions {
  /** Absent on the read-only port: everybody may. */
  readonly authenticate?: Authenticate;
  readonly authorize?: Authorize;
  readonly switches: RouteSwitches;
  readonly type: 'readwrite' | 'readonly';
  readonly http: HttpMetrics;
}

/** Counts, authenticates, authorizes and answers the requests of one port. */
export function handlerOf(options: ServerOptions, own: HandlerOptions, closing: AbortSignal): Handler {
  const { log, clock } = options;
  const { http } = own;
  return (request, response, upgraded) => {
    const { pathname, searchParams } = urlOf(request);
    const method = request.method ?? 'GET';
    const bounded = metricLabelsOf(method, pathname);
    const labels = [bounded.method, bounded.path, own.type, bounded.longRunning];
    const startedAt = clock.mono();
    http.requests.inc(labels);
    http.inflight.add(1, labels);

    const controller = new AbortController();
    const stop = (): void => controller.abort(closing.reason);
    closing.addEventListener('abort', stop, { once: true });
    // For a stream the socket's end is the call's, not the response's: that one is given up at the upgrade.
    const gone = (): void => controller.abort(new AgentError('Closed', 'the client has gone'));
    if (upgraded === undefined) response.once('close', gone);
    else upgraded.socket.once('close', gone);

    const call: Call = { request, response, upgraded, query: searchParams, signal: controller.signal, closing };
    void serve(call, method, pathname)
      .catch((error: unknown) => {
        if (controller.signal.aborted) return;
        log.error({ method, path: pathname, err: messageOf(error) }, 'request failed');
        sendError(response, 500, messageOf(error));
      })
      .finally(() => {
        closing.removeEventListener('abort', stop);
        http.inflight.add(-1, labels);
        http.duration.observe((clock.mono() - startedAt) / 1000, labels);
      });
  };

  async function serve(call: Call, method: string, path: string): Promise<void> {
    if (own.authenticate !== undefined && own.authorize !== undefined) {
      const may = await mayPass(call, own.authenticate, own.authorize, attributesOf(method, path));
      if (!may) return;
    }
    await answer(options, call, routeOf(method, path, own.switches));
  }

  /** False when the request has been refused, and answered so. */
  async function mayPass(call: Call, authenticate: Authenticate, authorize: Authorize, attributes: RequestAttributes): Promise<boolean> {
    using deadline = clock.deadline(closing, reviewDeadlineMs);
    let user: User | undefined;
    try {
      user = await authenticate(call.request, deadline.signal);
    } catch (error) {
      if (hasCode(error, 'Throttled')) return throttle(call.response, error.message);
      // Upstream refuses too when it cannot ask.
      log.warn({ err: messageOf(error) }, 'cannot authenticate a request');
    }
    if (user === undefined) {
      sendText(call.response, 401, 'Unauthorized');
      return false;
    }
    try {
      if (await authorize(user, attributes, deadline.signal)) return true;
      log.debug({ user: user.name, ...attributes }, 'request forbidden');
      sendText(call.response, 403, forbiddenText(user, attributes));
    } catch (error) {
      if (hasCode(error, 'Throttled')) return throttle(call.response, error.message);
      if (!hasCode(error, 'AuthorizationFailed')) throw error;
      log.warn({ user: user.name, err: messageOf(error.cause) }, 'cannot authorize a request');
      sendText(call.response, 500, error.message);
    }
    return false;
  }

  function throttle(response: ServerResponse, text: string): false {
    log.debug({ err: text }, 'clients ask for too many reviews');
    response.setHeader('retry-after', '1');
    sendText(response, 429, text);
    return false;
  }
}

async function answer(options: ServerOptions, call: Call, route: Route): Promise<void> {
  const { response, query, signal } = call;
  switch (route.kind) {
    case 'healthz':
      sendHealthz(options, response, route.check, query);
      return;
    case 'pods':
      sendPodList(response, options.node.pods());
      return;
    case 'runningPods':
      sendPodList(response, options.node.runningPods());
      return;
    case 'configz':
      sendJson(response, { kubeletconfig: options.configz() });
      return;
    case 'page':
      await sendPage(options, response, route.path, query, signal);
      return;
    case 'nodeLogs':
      await sendNodeLogs(options, call, route.path);
      return;
    case 'setVerbosity':
      await setVerbosity(options, call);
      return;
    case 'containerLogs':
      await sendContainerLog(options, call, route);
      return;
    case 'exec':
    case 'attach':
    case 'portForward':
      await serveStream(options, call, route);
      return;
    case 'run':
      await runCommand(options, call, route);
      return;
    case 'debuggingDisabled':
      sendText(response, 405, 'Debug endpoints are disabled.\n');
      return;
    case 'disabled':
      sendText(response, 405, `${route.text}\n`);
      return;
    case 'notFound':
      sendText(response, 404, '404 page not found\n');
      return;
    case 'methodNotAllowed':
      response.setHeader('Allow', route.allow);
      sendText(response, 405, '405: Method Not Allowed');
      return;
    default:
      unreachable(route);
  }
}

async function sendNodeLogs(options: ServerOptions, call: Call, path: string): Promise<void> {
  const { clock, journalctl, lookWithin: within, nodeLogFolder: folder = '/var/log' } = options;
  if (journalctl === undefined) await serveNodeLogs({ folder, within }, path, call.response, call.signal);
  else await serveQueriedLogs({ folder, within, clock, journalctl }, path, call);
}

async function runCommand(options: ServerOptions, call: Call, route: Extract<Route, { kind: 'run' }>): Promise<void> {
  const { response } = call;
  const pod = options.node.pod(route.namespace, route.pod);
  if (pod === undefined) {
    sendText(response, 404, 'pod does not exist');
    return;
  }
  const container = options.node.runningContainer(pod.metadata.uid, route.container);
  if (container === undefined) {
    sendText(response, 500, `container not found ("${route.container}")`);
    return;
  }
  const cmd = (call.query.get('cmd') ?? '').split(' ');
  const result = await options.runtime.execSync({ container_id: container, cmd, timeout: 0 }, call.signal);
  const stderr = Buffer.from(result.stderr ?? []);
  if (result.exit_code) {
    sendText(response, 500, `command '${cmd.join(' ')}' exited with ${result.exit_code}: ${stderr.toString('utf8')}`);
    return;
  }
  response.writeHead(200, { 'content-type': 'application/json' });
  response.end(Buffer.concat([Buffer.from(result.stdout ?? []), stderr]));
}

async function setVerbosity(options: ServerOptions, call: Call): Promise<void> {
  let text = '';
  for await (const chunk of call.request) {
    text += String(chunk);
    if (text.length > 100) break;
  }
  const level = /^\d+$/.test(text.trim()) ? Number(text.trim()) : Number.NaN;
  if (options.setVerbosity === undefined || Number.isNaN(level)) {
    sendText(call.response, 400, `error setting klog.logging.verbosity to ${text}: not a number\n`);
    return;
  }
  options.setVerbosity(level);
  sendText(call.response, 200, `successfully set klog.logging.verbosity to ${level}`);
}

async function sendPage(
  options: ServerOptions,
  response: ServerResponse,
  path: string,
  query: URLSearchParams,
  signal: AbortSignal,
): Promise<void> {
  const page = ownValue(options.pages, path);
  const { contentType, body } =
    page === undefined ? { contentType: metricsContentType, body: options.metrics.text() } : await page(query, signal);
  response.writeHead(200, { 'content-type': contentType });
  response.end(body);
}

export function sendHealthz(options: ServerOptions, response: ServerResponse, name: string | undefined, query: URLSearchParams): void {
  const ping: HealthCheck = { name: 'ping', check: () => undefined };
  const found = answerHealthz([ping, ...options.checks.filter((c) => c.name !== ping.name)], name, query);
  if (found === undefined) {
    sendText(response, 404, '404 page not found\n');
    return;
  }
  for (const { name: failed, error } of found.failed) options.log.warn({ check: failed, err: error.message }, 'health check failed');
  sendText(response, found.status, found.body);
}

/** A request's target as a URL whose host is of no account. */
export function urlOf(request: IncomingMessage): URL {
  // The host is of no account: paths are the same on every address. A target such as `//x` must stay a path.
  const target = request.url ?? '/';
  return URL.parse(`http://node${target.startsWith('/') ? target : '/'}`) ?? new URL('http://node/');
}

export interface HttpMetrics {
  readonly requests: Counter;
  readonly inflight: Gauge;
  readonly duration: Histogram;
}

/** The HTTP metrics of all ports. */
export function httpMetrics(registry: MetricsRegistry): HttpMetrics {
  const labels = ['method', 'path', 'server_type', 'long_running'];
  return {
    requests: registry.counter({
      name: 'kubelet_http_requests_total',
      help: 'Number of the http requests received since the server started',
      labels,
    }),
    inflight: registry.gauge({ name: 'kubelet_http_inflight_requests', help: 'Number of the inflight http requests', labels }),
    duration: registry.histogram({
      name: 'kubelet_http_requests_duration_seconds',
      help: 'Duration in seconds to serve http requests',
      labels,
    }),
  };
}
