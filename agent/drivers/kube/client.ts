import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { Agent, buildConnector, type Dispatcher, Pool, ProxyAgent } from 'undici';
import type { Clock } from '../../base/clock.ts';
import { AgentError, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { createCredentials, type TlsMaterial } from './credentials.ts';
import type { KubeAuth } from './kubeconfig.ts';
import { createLineSplitter } from './lines.ts';
import { chooseProxy, type HttpProxy } from './proxy.ts';
import { createRateLimit } from './rate-limit.ts';
import { openTunnel, type ProxyTrust, proxyAgentOptions, systemRoots } from './tunnel.ts';

export type Query = Readonly<Record<string, string | number | boolean | undefined>>;

type PatchType =
  | 'application/strategic-merge-patch+json'
  | 'application/merge-patch+json'
  | 'application/json-patch+json'
  | 'application/apply-patch+yaml';

interface CallOptions {
  readonly query?: Query | undefined;
  /** Deadline of the whole call with its retries; default 30 s. */
  readonly timeoutMs?: number | undefined;
  /** Passes the client-side rate limit: for what must not wait behind a burst (leases, node status, objects a pod start waits for). */
  readonly urgent?: boolean | undefined;
}

interface RawRequest extends CallOptions {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Absolute path on the server, such as `/api/v1/nodes/n1`. */
  readonly path: string;
  /** Sent as JSON unless it is a string. */
  readonly body?: unknown;
  /** Default application/json. */
  readonly contentType?: string | undefined;
  /** Default application/json. */
  readonly accept?: string | undefined;
}

interface RawResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
}

interface ListResult<T> {
  readonly items: T[];
  readonly resourceVersion: string;
}

interface WatchOptions {
  readonly query: Query;
  /** The server has accepted the watch. */
  readonly onOpen?: (() => void) | undefined;
  /** Each line of the stream, without its line break. */
  readonly onLine: (line: Buffer) => void;
}

/** The Status object that an API server answers errors with: the parts that we read. */
export interface ApiStatus {
  readonly message?: string | undefined;
  readonly reason?: string | undefined;
  readonly code?: number | undefined;
  readonly details?:
    | {
        readonly retryAfterSeconds?: number | undefined;
        readonly causes?: readonly { reason?: string; message?: string; field?: string }[] | undefined;
      }
    | undefined;
}

/**
 * An answer of the API server that is not a success. `code` is Status.reason: NotFound, AlreadyExists, Conflict, Forbidden, Unauthorized, Invalid,
 * Gone, Expired, TooManyRequests, BadRequest, MethodNotAllowed, InternalError, ServiceUnavailable, Timeout, …
 */
export class ApiError extends AgentError {
  readonly httpStatus: number;
  readonly status: ApiStatus | undefined;

  constructor(code: string, message: string, httpStatus: number, status: ApiStatus | undefined) {
    super(code, message);
    this.httpStatus = httpStatus;
    this.status = status;
  }
}

/**
 * A client of one API server. Every call ends within its deadline. Errors: ApiError (the server's answer), AgentError `Unavailable` (no answer: connection
 * trouble), `DeadlineExceeded` (no answer in time); when the caller's signal aborts, its reason.
 */
export interface KubeClient extends AsyncDisposable {
  readonly server: string;
  get<T>(path: string, signal: AbortSignal, options?: CallOptions): Promise<T>;
  /** Every page of a collection (500 objects a page). */
  list<T>(path: string, signal: AbortSignal, options?: CallOptions): Promise<ListResult<T>>;
  create<T>(path: string, body: unknown, signal: AbortSignal, options?: CallOptions): Promise<T>;
  replace<T>(path: string, body: unknown, signal: AbortSignal, options?: CallOptions): Promise<T>;
  patch<T>(path: string, body: unknown, contentType: PatchType, signal: AbortSignal, options?: CallOptions): Promise<T>;
  /** Deletes with DeleteOptions `body` (gracePeriodSeconds, preconditions, …). An object that is gone already is success: undefined. */
  delete<T>(path: string, body: unknown, signal: AbortSignal, options?: CallOptions): Promise<T | undefined>;
  /** One call with its retries; a status ≥ 400 is thrown as ApiError. */
  request(request: RawRequest, signal: AbortSignal): Promise<RawResponse>;
  /** Streams a watch on connections of its own; resolves when the server ends it, throws when it breaks. Not rate limited. */
  watch(path: string, signal: AbortSignal, options: WatchOptions): Promise<void>;
  /** False from the first connection failure until the server answers again. */
  readonly reachable: boolean;
  /** Calls `listener` each time the server answers after having been unreachable. */
  onReachable(listener: () => void): Disposable;
  /** Tells that the server has gone back to an older state (an etcd restored from a snapshot): an object that only grows newer was found older than before. */
  noteRestored(): void;
  /** Calls `listener` each time that was found. */
  onRestored(listener: () => void): Disposable;
  /** Reads certificate files again now; connections are replaced when they changed. */
  reload(): Promise<void>;
}

export interface KubeClientOptions {
  readonly auth: KubeAuth;
  readonly clock: Clock;
  readonly log: Log;
  readonly userAgent: string;
  /** KubeletConfiguration.kubeAPIQPS; default 50; 0 or less: no limit. */
  readonly qps?: number | undefined;
  /** KubeletConfiguration.kubeAPIBurst; default 100. */
  readonly burst?: number | undefined;
  /** Names proxies (HTTPS_PROXY, HTTP_PROXY, NO_PROXY) for where the kubeconfig names none; default the process's own. */
  readonly env?: Readonly<Record<string, string | undefined>> | undefined;
}

/** The name of a namespaced or cluster-scoped resource's path: `pathOf('v1', 'pods', 'ns', 'name')`, `pathOf('coordination.k8s.io/v1', 'leases', 'ns')`. */
export function pathOf(groupVersion: string, resource: string, namespace?: string, name?: string, subresource?: string): string {
  const root = groupVersion.includes('/') ? `/apis/${groupVersion}` : `/api/${groupVersion}`;
  const scope = namespace === undefined || namespace === '' ? '' : `/namespaces/${encodeURIComponent(namespace)}`;
  const item = name === undefined ? '' : `/${encodeURIComponent(name)}`;
  return `${root}${scope}/${resource}${item}${subresource === undefined ? '' : `/${subresource}`}`;
}

const defaultTimeoutMs = 30_000;
// Of TCP, of TLS, and of a proxy's answer before it.
const connectTimeoutMs = 10_000;
const watchHeadersTimeoutMs = 30_000;
const pageSize = 500;
const maxThrottledRetries = 5;
// A dead peer is noticed after at most pingMs + silentTicks × livenessTickMs = 25 s (kubernetes#87615 took 15 minutes).
const pingMs = 5_000;
const livenessTickMs = 5_000;
const silentTicks = 4;
const certificateCheckMs = 10_000;

/**
 * Opens a client. Nothing is sent before the first call; files named by `auth` are read at the first call and re-read while it lives. Throws AgentError `InvalidConfig` for
 * a proxy that cannot be used.
 */
export function createKubeClient(options: KubeClientOptions): KubeClient {
  const { auth, clock, log } = options;
  const base = new URL(auth.server);
  const prefix = base.pathname.replace(/\/+$/, '');
  const proxy = chooseProxy(auth.server, auth.proxyUrl, options.env ?? process.env);
  if (proxy !== undefined) log.info({ server: auth.server, proxy: proxy.url.origin }, 'the API server is reached through a proxy');
  const closing = new AbortController();
  const credentials = createCredentials(auth, clock, log);
  const limit = createRateLimit(clock, options.qps ?? 50, options.burst ?? 100);
  const reachableListeners = new Set<() => void>();
  const restoredListeners = new Set<() => void>();
  let reachable = true;
  let toldUnreachable = false;
  let closed = false;
  let connections: { tls: TlsMaterial; requests: Dispatcher; watches: Dispatcher } | undefined;
  const draining = new Set<Promise<void>>();
  let certificateTimer: Disposable | undefined;

  async function connected(signal: AbortSignal): Promise<{ requests: Dispatcher; watches: Dispatcher }> {
    const tls = await credentials.tls(signal);
    if (closed) throw new AgentError('Unavailable', `client of ${auth.server} is closed`);
    if (connections?.tls === tls) return connections;
    const old = connections;
    connections = { tls, requests: newAgent(tls), watches: newAgent(tls) };
    if (old !== undefined) {
      log.info({ server: auth.server }, 'client certificates changed, connections replaced');
      // Watches resume from their last version at once; calls under way may end on the old connection within their deadlines.
      drain(old.watches.destroy(new AgentError('Unavailable', 'client certificates changed')));
      drain(closeSoon(old.requests));
    }
    return connections;
  }

  function drain(done: Promise<void>): void {
    const tracked = done.catch((error: unknown) => log.debug({ err: messageOf(error) }, 'closing a connection failed'));
    draining.add(tracked);
    void tracked.finally(() => draining.delete(tracked));
  }

  async function closeSoon(agent: Dispatcher): Promise<void> {
    using _force = clock.after(defaultTimeoutMs, () => drain(agent.destroy()));
    await agent.close();
  }

  function newAgent(tls: TlsMaterial): Dispatcher {
    const lasting = {
      // Quiet watches live for minutes; calls have deadlines of their own.
      bodyTimeout: 0,
      headersTimeout: 0,
      // Idle connections stay warm between heartbeats.
      keepAliveTimeout: 90_000,
    };
    const trust = { ca: tls.ca, rejectUnauthorized: auth.insecureSkipVerify !== true };
    if (proxy !== undefined && base.protocol === 'http:') {
      // Without TLS the proxy is not asked for a connection, but for the answer.
      return new ProxyAgent({
        ...proxyAgentOptions(proxy),
        factory: (origin, poolOptions) => new Pool(origin, { ...poolOptions, ...lasting }),
      });
    }
    const connector = buildConnector({
      allowH2: true,
      // Not in undici 8's types: offers h2 first, for servers that let the client choose.
      ...{ preferH2: true },
      timeout: connectTimeoutMs,
      // For HTTP/1.1 connections, which have no pings: libuv then probes each second, ten times.
      keepAliveInitialDelay: 10_000,
      cert: tls.cert,
      key: tls.key,
      ...trust,
      ca: tls.ca ?? systemRoots(),
      ...(auth.tlsServerName === undefined ? {} : { servername: auth.tlsServerName }),
    });
    return new Agent({
      allowH2: true,
      ...lasting,
      h2Options: { pingInterval: pingMs },
      connect: (target, callback) => {
        const connected: typeof callback = (...result) => {
          const [error, socket] = result;
          if (error === null && socket instanceof TLSSocket && socket.alpnProtocol === 'h2') watchLiveness(socket, clock);
          callback(...result);
        };
        if (proxy === undefined) return void connector(target, connected);
        // undici leaves out the port that a scheme has by itself.
        const authority = target.port === '' ? `${target.host}:443` : (target.host ?? '');
        tunnelTo(proxy, authority, trust).then(
          (httpSocket) => void connector({ ...target, httpSocket }, connected),
          (error: Error) => callback(error, null),
        );
      },
    });
  }

  async function tunnelTo(through: HttpProxy, authority: string, trust: ProxyTrust): Promise<Socket> {
    using deadline = clock.deadline(closing.signal, connectTimeoutMs);
    try {
      return await openTunnel(through, authority, trust, deadline.signal);
    } catch (error) {
      if (closing.signal.aborted || !deadline.signal.aborted) throw error;
      throw new AgentError('Unavailable', `proxy ${through.url.origin} has given no connection within ${connectTimeoutMs / 1000} s`);
    }
  }

  function checkCertificatesLater(): void {
    if (closed || !credentials.hasFiles) return;
    certificateTimer = clock.after(certificateCheckMs, () => {
      void reload()
        .catch((error: unknown) =>
          log.warn({ err: messageOf(error) }, 'client certificates could not be read again; the old ones stay in use'),
        )
        .finally(checkCertificatesLater);
    });
  }
  checkCertificatesLater();

  async function reload(): Promise<void> {
    if (closed) return;
    await credentials.reload();
    if (connections === undefined) return;
    using deadline = clock.deadline(new AbortController().signal, defaultTimeoutMs);
    await connected(deadline.signal);
  }

  function answered(): void {
    if (reachable) return;
    reachable = true;
    if (toldUnreachable) log.info({ server: auth.server }, 'API server answers again');
    toldUnreachable = false;
    for (const listener of [...reachableListeners]) listener();
  }

  function unavailable(what: string, error: unknown): AgentError {
    // One broken connection is ordinary (a server restarting, a rotated certificate); two failures in a row are news.
    if (!reachable && !toldUnreachable && !closed) {
      toldUnreachable = true;
      log.warn({ server: auth.server, err: explain(error) }, 'API server does not answer');
    }
    reachable = false;
    return new AgentError('Unavailable', `${what}: ${auth.server} does not answer: ${explain(error)}`, { cause: error });
  }

  async function headersFor(request: { accept?: string | undefined; contentType?: string | undefined }, signal: AbortSignal) {
    const token = await credentials.token(signal);
    return {
      token,
      headers: {
        accept: request.accept ?? 'application/json',
        'user-agent': options.userAgent,
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(request.contentType === undefined ? {} : { 'content-type': request.contentType }),
      },
    };
  }

  /**
   * One request and its whole answer. One that has a body is never called off at undici, only not waited for any more: undici 8.12 destroys an aborted
   * stream without a RST_STREAM when its body is still to be sent, and Node 26 then sends empty DATA frames of it for ever, the process at 100 % and its
   * memory growing (node_http2.cc, Stream::OnRead returns 0 for a stream it cannot find). What became of the request is unknown either way.
   */
  async function exchange(
    agent: Dispatcher,
    head: { path: string; method: RawRequest['method']; headers: Record<string, string> },
    payload: string | undefined,
    signal: AbortSignal,
  ): Promise<RawResponse> {
    const send = async (attended: AbortSignal | null): Promise<RawResponse> => {
      const answer = await agent.request({ origin: base.origin, ...head, body: payload ?? null, signal: attended });
      return { status: answer.statusCode, headers: answer.headers, text: await answer.body.text() };
    };
    if (payload === undefined) return await send(signal);
    signal.throwIfAborted();
    const { promise: abandoned, reject } = Promise.withResolvers<never>();
    const onAbort = (): void => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      return await Promise.race([send(null), abandoned]);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  async function request(call: RawRequest, caller: AbortSignal): Promise<RawResponse> {
    const what = `${call.method} ${call.path}`;
    caller.throwIfAborted();
    const timeoutMs = call.timeoutMs ?? defaultTimeoutMs;
    using deadline = clock.deadline(caller, timeoutMs);
    const signal = deadline.signal;
    const payload = call.body === undefined ? undefined : typeof call.body === 'string' ? call.body : JSON.stringify(call.body);
    const path = prefix + call.path + queryString(call.query);
    const contentType = payload === undefined ? undefined : (call.contentType ?? 'application/json');
    let throttled = 0;
    let reconnected = false;
    let renewed = false;
    try {
      if (call.urgent !== true) await limit.take(signal, timeoutMs);
      for (;;) {
        const { headers, token } = await headersFor({ accept: call.accept, contentType }, signal);
        const { requests } = await connected(signal);
        let response: RawResponse;
        try {
          response = await exchange(requests, { path, method: call.method, headers }, payload, signal);
        } catch (error) {
          if (signal.aborted) throw error;
          // A kept-alive connection may have died unseen: reading once more is safe and usually lands on a new one.
          if (call.method === 'GET' && !reconnected) {
            reconnected = true;
            continue;
          }
          throw unavailable(what, error);
        }
        answered();
        if (response.status < 400) return response;
        if (response.status === 401 && !renewed && (await credentials.renew(token, signal))) {
          renewed = true;
          continue;
        }
        const retryMs = retryDelayMs(call.method, response);
        if (retryMs === undefined || ++throttled > maxThrottledRetries) throw apiErrorOf(what, call.method, response.status, response.text);
        log.debug({ call: what, status: response.status, retryInMs: retryMs }, 'API server asks to try later');
        await clock.sleep(retryMs, signal);
      }
    } catch (error) {
      if (caller.aborted) throw caller.reason;
      if (signal.aborted) {
        throw new AgentError('DeadlineExceeded', `${what}: no answer from ${auth.server} within ${timeoutMs} ms`, { cause: error });
      }
      throw error;
    }
  }

  async function json<T>(call: RawRequest, signal: AbortSignal): Promise<T> {
    const response = await request(call, signal);
    try {
      return JSON.parse(response.text) as T;
    } catch (error) {
      throw new AgentError('InvalidResponse', `${call.method} ${call.path}: the answer is not JSON: ${response.text.slice(0, 200)}`, {
        cause: error,
      });
    }
  }

  async function list<T>(path: string, signal: AbortSignal, call: CallOptions = {}): Promise<ListResult<T>> {
    type Page = { metadata?: { resourceVersion?: string; continue?: string }; items?: T[] | null };
    const items: T[] = [];
    let next: string | undefined;
    let limitTo: number | undefined = pageSize;
    for (;;) {
      const { resourceVersion, resourceVersionMatch, ...others } = call.query ?? {};
      const query =
        next === undefined
          ? { ...others, resourceVersion, resourceVersionMatch, limit: limitTo }
          : { ...others, limit: limitTo, continue: next };
      let page: Page;
      try {
        page = await json<Page>({ ...call, method: 'GET', path, query }, signal);
      } catch (error) {
        // The continue token is too old: the whole list in one piece, as client-go's pager does.
        if (next !== undefined && error instanceof ApiError && error.httpStatus === 410) {
          items.length = 0;
          next = undefined;
          limitTo = undefined;
          continue;
        }
        throw error;
      }
      for (const item of page.items ?? []) items.push(item);
      next = page.metadata?.continue || undefined;
      if (next === undefined) return { items, resourceVersion: page.metadata?.resourceVersion ?? '' };
    }
  }

  async function watch(path: string, caller: AbortSignal, watching: WatchOptions): Promise<void> {
    const what = `WATCH ${path}`;
    caller.throwIfAborted();
    // A child signal: undici's listener on it dies with this call, not with the caller's long-lived signal.
    const controller = new AbortController();
    const onAbort = (): void => controller.abort(caller.reason);
    caller.addEventListener('abort', onAbort, { once: true });
    using noAnswer = clock.after(watchHeadersTimeoutMs, () => controller.abort(new AgentError('DeadlineExceeded', `${what}: no answer`)));
    const signal = controller.signal;
    try {
      for (let attempt = 0; ; attempt++) {
        const { headers, token } = await headersFor({}, signal);
        const { watches } = await connected(signal);
        const answer = await watches.request({
          origin: base.origin,
          path: prefix + path + queryString({ ...watching.query, watch: true }),
          method: 'GET',
          headers,
          signal,
        });
        noAnswer[Symbol.dispose]();
        answered();
        if (answer.statusCode >= 400) {
          const text = await answer.body.text();
          if (answer.statusCode === 401 && attempt === 0 && (await credentials.renew(token, signal))) continue;
          throw apiErrorOf(what, 'GET', answer.statusCode, text);
        }
        watching.onOpen?.();
        const splitter = createLineSplitter(watching.onLine);
        await new Promise<void>((resolve, reject) => {
          answer.body.on('data', (chunk: Buffer) => splitter.push(chunk));
          answer.body.on('end', resolve);
          answer.body.on('error', reject);
        });
        // What is left without a line break is half an object of a broken stream; the watch is resumed before it.
        return;
      }
    } catch (error) {
      if (caller.aborted) throw caller.reason;
      if (error instanceof AgentError && error.code !== 'Unavailable') {
        if (error.code === 'DeadlineExceeded') throw unavailable(what, error);
        throw error;
      }
      throw unavailable(what, error);
    } finally {
      caller.removeEventListener('abort', onAbort);
    }
  }

  return {
    server: auth.server,
    get: (path, signal, call) => json({ ...call, method: 'GET', path }, signal),
    list,
    create: (path, body, signal, call) => json({ ...call, method: 'POST', path, body }, signal),
    replace: (path, body, signal, call) => json({ ...call, method: 'PUT', path, body }, signal),
    patch: (path, body, contentType, signal, call) => json({ ...call, method: 'PATCH', path, body, contentType }, signal),
    async delete<T>(path: string, body: unknown, signal: AbortSignal, call?: CallOptions): Promise<T | undefined> {
      try {
        return await json<T>({ ...call, method: 'DELETE', path, body }, signal);
      } catch (error) {
        if (error instanceof ApiError && error.code === 'NotFound') return undefined;
        throw error;
      }
    },
    request,
    watch,
    get reachable() {
      return reachable;
    },
    onReachable(listener) {
      reachableListeners.add(listener);
      return { [Symbol.dispose]: () => void reachableListeners.delete(listener) };
    },
    noteRestored() {
      log.warn({ server: auth.server }, 'the API server shows older states than before: its etcd was restored; everything is read again');
      for (const listener of [...restoredListeners]) listener();
    },
    onRestored(listener) {
      restoredListeners.add(listener);
      return { [Symbol.dispose]: () => void restoredListeners.delete(listener) };
    },
    reload,
    async [Symbol.asyncDispose]() {
      closed = true;
      closing.abort(new AgentError('Unavailable', `client of ${auth.server} is closed`));
      certificateTimer?.[Symbol.dispose]();
      credentials[Symbol.dispose]();
      if (connections !== undefined) {
        drain(connections.requests.destroy());
        drain(connections.watches.destroy());
      }
      await Promise.all(draining);
    },
  };
}

/**
 * Destroys an HTTP/2 connection whose peer has gone silent. undici sends a PING each `pingMs` but waits for its answer forever; an answer counts in
 * `bytesRead`. Ticks are counted, not time: a process that was stopped for a while must not take its own pause for the peer's.
 */
function watchLiveness(socket: TLSSocket, clock: Clock): void {
  let seen = socket.bytesRead;
  let silent = 0;
  let timer: Disposable;
  const tick = (): void => {
    const now = socket.bytesRead;
    silent = now === seen ? silent + 1 : 0;
    seen = now;
    if (silent >= silentTicks) {
      socket.destroy(new Error(`no HTTP/2 PING answer for ${(silentTicks * livenessTickMs) / 1000} s`));
      return;
    }
    timer = clock.after(livenessTickMs, tick);
  };
  timer = clock.after(livenessTickMs, tick);
  socket.once('close', () => timer[Symbol.dispose]());
}

function queryString(query: Query | undefined): string {
  if (query === undefined) return '';
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== undefined) params.set(name, String(value));
  const text = params.toString();
  return text === '' ? '' : `?${text}`;
}

/**
 * How long to wait before the call may be repeated, or undefined when it may not: only a server that sets Retry-After is asked again (as client-go does), and
 * a create only after 429, which is refused before anything is done.
 */
function retryDelayMs(method: string, response: RawResponse): number | undefined {
  if (response.status !== 429 && (response.status < 500 || method === 'POST')) return undefined;
  const header = response.headers['retry-after'];
  const seconds = Number(Array.isArray(header) ? header[0] : header);
  return header === undefined || !Number.isFinite(seconds) || seconds < 0 ? undefined : seconds * 1000;
}

/** The error for an HTTP answer ≥ 400 with the Status object or plain text `text`. */
export function apiErrorOf(what: string, method: string, httpStatus: number, text: string): ApiError {
  let status: ApiStatus | undefined;
  try {
    const parsed: unknown = JSON.parse(text);
    if (parsed !== null && typeof parsed === 'object' && (parsed as { kind?: unknown }).kind === 'Status') status = parsed as ApiStatus;
  } catch {
    // A proxy or an aggregated server may answer in plain text: it becomes the message.
  }
  const reason = status?.reason || reasonOfHttpStatus(httpStatus, method);
  const message = status?.message || text.trim().slice(0, 500) || `HTTP ${httpStatus}`;
  return new ApiError(reason, `${what}: ${message}`, httpStatus, status);
}

function reasonOfHttpStatus(httpStatus: number, method: string): string {
  switch (httpStatus) {
    case 400:
      return 'BadRequest';
    case 401:
      return 'Unauthorized';
    case 403:
      return 'Forbidden';
    case 404:
      return 'NotFound';
    case 405:
      return 'MethodNotAllowed';
    case 406:
      return 'NotAcceptable';
    case 409:
      return method === 'POST' ? 'AlreadyExists' : 'Conflict';
    case 410:
      return 'Gone';
    case 413:
      return 'RequestEntityTooLarge';
    case 415:
      return 'UnsupportedMediaType';
    case 422:
      return 'Invalid';
    case 429:
      return 'TooManyRequests';
    case 503:
      return 'ServiceUnavailable';
    case 504:
      return 'Timeout';
    default:
      return httpStatus >= 500 ? 'InternalError' : 'Unknown';
  }
}

function explain(error: unknown): string {
  // An AggregateError of a dual-stack connect has an empty message of its own.
  if (error instanceof AggregateError && error.errors.length > 0) return error.errors.map(messageOf).join('; ');
  return messageOf(error);
}
