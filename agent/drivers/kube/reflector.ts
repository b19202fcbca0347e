import { isDeepStrictEqual } from 'node:util';
import { backoffDelayMs, jittered } from '../../base/backoff.ts';
import type { Clock } from '../../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { Table } from '../../base/table.ts';
import type { ObjectMeta } from '../../model/generated/api.ts';
import { isOlderVersion } from '../../model/resource-version.ts';
import { ApiError, type ApiStatus, apiErrorOf, type KubeClient, type Query } from './client.ts';

/** Anything with Kubernetes metadata. */
export interface ApiObject {
  metadata?: ObjectMeta | undefined;
}

interface ReflectEvent<T> {
  /** `set`: added or changed, or seen for the first time. `deleted`: the last known object. */
  readonly type: 'set' | 'deleted';
  readonly key: string;
  readonly object: T;
}

export interface ReflectOptions<T extends ApiObject, R> {
  readonly client: KubeClient;
  readonly clock: Clock;
  readonly log: Log;
  /** The collection, such as `/api/v1/pods`. */
  readonly path: string;
  readonly query?: { readonly fieldSelector?: string | undefined; readonly labelSelector?: string | undefined } | undefined;
  readonly signal: AbortSignal;
  /** The table's key of an object; default `namespace/name`, or `name` where there is no namespace. */
  readonly keyOf?: ((object: T) => string) | undefined;
  /** What to keep of an object; undefined keeps it out. Default: the object. managedFields are dropped before. */
  readonly transform?: ((object: T) => R | undefined) | undefined;
  /** Is written by this reflector alone, and marked synced after the first complete state. */
  readonly table?: Table<R> | undefined;
  /** Is told each change in order, and after a relist only what really changed. Must be quick. */
  readonly onEvent?: ((event: ReflectEvent<R>) => void) | undefined;
  /** Is called after every complete state (the first, and after each relist). */
  readonly onSynced?: (() => void) | undefined;
  /** Is told each failure of list or watch, which is retried in any case. */
  readonly onFailure?: ((error: unknown) => void) | undefined;
  /**
   * `latest` (default): the first state is not older than this call. `any`: what the server has in its cache, which may lag but comes at once
   * (a consistent start waits for the server's watch cache to catch up with etcd, up to 100 ms).
   */
  readonly freshness?: 'latest' | 'any' | undefined;
  /** In [0, 1), for jitter. */
  readonly random?: (() => number) | undefined;
}

/** A running reflector. Disposing stops the watch and waits for it. */
export interface Reflector extends AsyncDisposable {
  /** A watch is open and its state complete: the table lags the server by no more than a delivery. */
  readonly connected: boolean;
  /** The first complete state has arrived. */
  readonly synced: boolean;
  /** When the watch broke, on the clock's mono; undefined while connected. */
  readonly disconnectedSince: number | undefined;
}

/** The annotation on the bookmark that ends the initial events of a WatchList (KEP-3157). */
const initialEventsEnd = 'k8s.io/initial-events-end';
// client-go's reflector backs off 0.8 s → 30 s; one quick retry comes before, as most breaks are a restarted server or a rotated certificate.
const retryPolicy = { initialMs: 800, maxMs: 30_000 };
const quickRetryMs = 50;
const healthyAfterMs = 5_000;
// A server older than WatchList's bookmarks would leave us waiting for the end of the initial events for good.
const initialSilenceMs = 30_000;
const watchGraceMs = 30_000;
// Servers end watches a moment before or after the time that was asked for.
const endSlackMs = 2_000;

/**
 * Keeps a table (or a listener) equal to a collection on the server: WatchList, or a paged LIST where the server refuses it; resumed from the last version
 * after any break that the server's history has survived, else listed again with deletions noticed. Trouble with the server is logged once and retried until `signal` aborts.
 */
export function reflect<T extends ApiObject, R = T>(options: ReflectOptions<T, R>): Reflector {
  const { client, clock, path, table } = options;
  const log = options.log.child({ watch: path, ...options.query });
  const random = options.random ?? Math.random;
  const keyOf = options.keyOf ?? defaultKey;
  const transform = options.transform ?? ((object: T) => object as unknown as R);
  const controller = new AbortController();
  const stop = (): void => controller.abort(options.signal.reason);
  if (options.signal.aborted) stop();
  else options.signal.addEventListener('abort', stop, { once: true });
  const signal = controller.signal;

  type Entry = { version: string; uid: string | undefined; value: R | undefined };
  /** Everything the server has of this collection, kept or not by `transform`. */
  const known = new Map<string, Entry>();
  /** Where to resume; undefined: a complete state is needed. */
  let version: string | undefined;
  let watchListRefused = false;
  /** The last watch broke: the server may be back with an older state (an etcd that was restored), to which `version` says nothing. */
  let doubtful = false;
  /** Ends the watch that is open. */
  let breakOff: ((why: Error) => void) | undefined;
  let connected = false;
  let synced = false;
  let disconnectedSince: number | undefined = clock.mono();
  let failures = 0;
  let toldDown = false;
  let wake: (() => void) | undefined;

  function setConnected(): void {
    if (connected) return;
    connected = true;
    disconnectedSince = undefined;
    if (toldDown) log.info({}, 'watch is up again');
    toldDown = false;
  }

  function setDisconnected(): void {
    if (!connected) return;
    connected = false;
    disconnectedSince = clock.mono();
  }

  /** The entry of an object as it came from the server; undefined when it can't be understood, which must not end the watch. */
  function entryOf(object: T): { key: string; entry: Entry } | undefined {
    try {
      const metadata = object.metadata;
      if (metadata?.name === undefined) throw new AgentError('InvalidResponse', 'object without metadata.name');
      delete metadata.managedFields;
      return { key: keyOf(object), entry: { version: metadata.resourceVersion ?? '', uid: metadata.uid, value: transform(object) } };
    } catch (error) {
      log.error({ object: object?.metadata?.name, err: messageOf(error) }, 'object from the API server skipped');
      return undefined;
    }
  }

  function tell(type: 'set' | 'deleted', key: string, value: R): void {
    if (type === 'set') table?.set(key, value);
    else table?.delete(key);
    try {
      options.onEvent?.({ type, key, object: value });
    } catch (error) {
      log.error({ key, err: messageOf(error) }, 'watch listener failed');
    }
  }

  function apply(key: string, entry: Entry | undefined, isSame = sameVersion): void {
    const old = known.get(key);
    // Unchanged objects keep their identity, so that readers who compare by it see no change.
    if (old !== undefined && entry !== undefined && isSame(old, entry)) return;
    if (entry === undefined) known.delete(key);
    else known.set(key, entry);
    if (entry?.value !== undefined) tell('set', key, entry.value);
    else if (old?.value !== undefined) tell('deleted', key, old.value);
  }

  function sameVersion(a: Entry, b: Entry): boolean {
    return a.version === b.version && a.uid === b.uid;
  }

  /** Between two complete states the history may be another one, in which a version stands for something else. */
  function sameContent(a: Entry, b: Entry): boolean {
    return sameVersion(a, b) && isDeepStrictEqual(a.value, b.value);
  }

  function replaceAll(next: Map<string, Entry>, at: string): void {
    for (const key of [...known.keys()]) if (!next.has(key)) apply(key, undefined);
    for (const [key, entry] of next) apply(key, entry, sameContent);
    version = at;
    doubtful = false;
    synced = true;
    table?.markSynced();
    options.onSynced?.();
  }

  async function relist(): Promise<void> {
    const fresh = options.freshness === 'any' ? { resourceVersion: '0' } : {};
    const { items, resourceVersion } = await client.list<T>(path, signal, { query: { ...options.query, ...fresh } });
    const next = new Map<string, Entry>();
    for (const item of items) {
      const found = entryOf(item);
      if (found !== undefined) next.set(found.key, found.entry);
    }
    replaceAll(next, resourceVersion);
  }

  /**
   * Drops `version` when the server's history may not be the one that it is of: an API server takes a watch from a version in its future, and tells nothing
   * until it gets there. What a selector narrows down is small, and is read whole; of others the server is asked how far it is. (It may have got further than
   * we were in its new history; then it is somebody's object that has become older, such as the node's lease, by which that is noticed.)
   */
  async function checkHistory(): Promise<void> {
    if (options.query?.fieldSelector !== undefined) version = undefined;
    else {
      const query = { ...options.query, limit: 1 };
      const { metadata } = await client.get<{ metadata?: { resourceVersion?: string } }>(path, signal, { query });
      if (isOlderVersion(metadata?.resourceVersion, version)) version = undefined;
    }
    if (version === undefined) log.debug({}, 'reading the complete state again after the watch broke');
    doubtful = false;
  }

  /** One watch from `version`, or with initial events when there is none. Returns when the server ends it in the ordinary way. */
  async function watchOnce(): Promise<void> {
    let initial: Map<string, Entry> | undefined = version === undefined ? new Map() : undefined;
    const timeoutSeconds = Math.round(300 + 300 * random());
    const query: Query = {
      ...options.query,
      allowWatchBookmarks: true,
      timeoutSeconds,
      ...(initial === undefined
        ? { resourceVersion: version }
        : {
            sendInitialEvents: true,
            resourceVersionMatch: 'NotOlderThan',
            resourceVersion: options.freshness === 'any' ? '0' : undefined,
          }),
    };
    using stream = clock.deadline(signal, timeoutSeconds * 1000 + watchGraceMs);
    const abort = new AbortController();
    const onAbort = (): void => abort.abort(stream.signal.reason);
    stream.signal.addEventListener('abort', onAbort, { once: true });
    let openedAt: number | undefined;
    let lastLineAt = 0;
    let silence: Disposable | undefined;
    let failed: unknown;
    const fail = (error: unknown): void => {
      failed ??= error;
      abort.abort(error);
    };
    breakOff = fail;
    const checkSilence = (): void => {
      if (initial === undefined) return;
      const left = lastLineAt + initialSilenceMs - clock.mono();
      if (left <= 0) fail(new AgentError('Invalid', 'the initial events did not end'));
      else silence = clock.after(left, checkSilence);
    };

    const onLine = (line: Buffer): void => {
      // The rest of a chunk, after an ERROR or after the reflector was closed.
      if (failed !== undefined || signal.aborted) return;
      lastLineAt = clock.mono();
      let event: { type?: string; object?: T };
      try {
        event = JSON.parse(line.toString('utf8'));
      } catch (error) {
        // It may have been any event: reading on would move the version past it. Resumed before it, the server tells it again.
        const begin = line.toString('utf8', 0, 200);
        fail(new AgentError('InvalidResponse', `WATCH ${path}: an event is not JSON (${messageOf(error)}): ${begin}`, { cause: error }));
        return;
      }
      const object = event.object;
      if (object === undefined || object === null) {
        log.error({ type: event.type }, 'watch event skipped: no object');
        return;
      }
      switch (event.type) {
        case 'ERROR': {
          const status = object as ApiStatus;
          fail(apiErrorOf(`WATCH ${path}`, 'GET', status.code ?? 500, JSON.stringify({ kind: 'Status', ...status })));
          return;
        }
        case 'BOOKMARK': {
          const at = object.metadata?.resourceVersion;
          if (initial === undefined) {
            if (at !== undefined) version = at;
          } else if (object.metadata?.annotations?.[initialEventsEnd] === 'true' && at !== undefined) {
            const complete = initial;
            initial = undefined;
            silence?.[Symbol.dispose]();
            replaceAll(complete, at);
            setConnected();
          }
          failures = 0;
          return;
        }
        case 'ADDED':
        case 'MODIFIED':
        case 'DELETED': {
          const found = entryOf(object);
          if (found === undefined) return;
          const { key, entry } = found;
          if (initial !== undefined) {
            if (event.type === 'DELETED') initial.delete(key);
            else initial.set(key, entry);
            return;
          }
          failures = 0;
          // The version of a DELETED event is that of the deletion.
          if (entry.version !== '') version = entry.version;
          if (event.type === 'DELETED') apply(key, undefined);
          else apply(key, entry);
          return;
        }
        default:
          log.error({ type: event.type }, 'watch event skipped: unknown type');
      }
    };

    try {
      await client.watch(path, abort.signal, {
        query,
        onOpen: () => {
          openedAt = clock.mono();
          lastLineAt = openedAt;
          if (initial === undefined) setConnected();
          else checkSilence();
        },
        onLine,
      });
      if (failed !== undefined) throw failed;
      if (initial !== undefined) throw new AgentError('Unavailable', `WATCH ${path}: ended before its initial events did`);
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      if (stream.signal.aborted) throw new AgentError('Unavailable', `WATCH ${path}: outlived its timeout`);
      throw failed ?? error;
    } finally {
      silence?.[Symbol.dispose]();
      breakOff = undefined;
      stream.signal.removeEventListener('abort', onAbort);
      if (openedAt !== undefined && clock.mono() - openedAt >= healthyAfterMs) failures = 0;
      // Only one that has come to its time ended for no other reason.
      doubtful = openedAt === undefined || clock.mono() - openedAt < timeoutSeconds * 1000 - endSlackMs;
      setDisconnected();
    }
  }

  async function pause(ms: number): Promise<void> {
    const waking = new AbortController();
    const onAbort = (): void => waking.abort(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    wake = () => waking.abort();
    try {
      await clock.sleep(ms, waking.signal);
    } catch {
      // Woken: by the end of all, or by a server that answers again.
    } finally {
      wake = undefined;
      signal.removeEventListener('abort', onAbort);
    }
  }

  async function run(): Promise<void> {
    // Another call has reached the server: no need to sit out the back-off. Spread a little, as every watch of this node wakes.
    using _reachable = client.onReachable(() => {
      const sleeping = wake;
      if (sleeping !== undefined) clock.after(200 * random(), sleeping);
    });
    using _restored = client.onRestored(() => {
      version = undefined;
      breakOff?.(new AgentError('Unavailable', `WATCH ${path}: the server has gone back to an older state`));
    });
    while (!signal.aborted) {
      try {
        if (doubtful && version !== undefined) await checkHistory();
        if (version === undefined && watchListRefused) await relist();
        await watchOnce();
        // Ended by its timeout, or by a server that goes down in good order. Ended at once, each time: that counts as failing.
        failures++;
      } catch (error) {
        if (signal.aborted) return;
        if (version === undefined && !watchListRefused && refusesWatchList(error)) {
          log.debug({ err: messageOf(error) }, 'server refuses WatchList; listing instead');
          watchListRefused = true;
          continue;
        }
        failures++;
        options.onFailure?.(error);
        if (isExpired(error)) {
          log.debug({ version }, 'watch is too far behind; reading the complete state again');
          version = undefined;
          // A server upgraded meanwhile may know WatchList now.
          watchListRefused = false;
        }
        if (failures >= 2 && !toldDown) {
          toldDown = true;
          log.warn({ err: messageOf(error) }, 'watch is down; retrying');
        } else {
          log.debug({ err: messageOf(error), failures }, 'watch broke');
        }
      }
      const delayMs = failures <= 1 ? quickRetryMs * random() : jittered(backoffDelayMs(retryPolicy, failures - 1), 0.5, random());
      await pause(delayMs);
    }
  }

  const done = run()
    .catch((error: unknown) => {
      if (!signal.aborted) log.error({ err: messageOf(error) }, 'reflector ended');
    })
    .finally(setDisconnected);

  return {
    get connected() {
      return connected;
    },
    get synced() {
      return synced;
    },
    get disconnectedSince() {
      return disconnectedSince;
    },
    async [Symbol.asyncDispose]() {
      options.signal.removeEventListener('abort', stop);
      controller.abort(new AgentError('Canceled', 'reflector closed'));
      await done;
    },
  };
}

function defaultKey(object: ApiObject): string {
  const { namespace, name } = object.metadata ?? {};
  return namespace === undefined || namespace === '' ? (name ?? '') : `${namespace}/${name}`;
}

// A server without the feature says 422 "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled" or 400.
function refusesWatchList(error: unknown): boolean {
  return hasCode(error, 'Invalid', 'BadRequest', 'MethodNotAllowed', 'NotAcceptable');
}

function isExpired(error: unknown): boolean {
  if (hasCode(error, 'Gone', 'Expired')) return true;
  // "Too large resource version": the server was restored from an older state, and ours lies in its future (kubernetes#91073).
  return error instanceof ApiError && (error.httpStatus === 410 || isFutureVersion(error));
}

function isFutureVersion(error: ApiError): boolean {
  return error.httpStatus === 504 && (error.status?.details?.causes ?? []).some((cause) => cause.reason === 'ResourceVersionTooLarge');
}
