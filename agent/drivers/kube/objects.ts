import { isDeepStrictEqual } from 'node:util';
import { backoffDelayMs } from '../../base/backoff.ts';
import type { Clock } from '../../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { ConfigMap, ObjectMeta, Secret } from '../../model/generated/api.ts';
import { isOlderVersion } from '../../model/resource-version.ts';
import { type KubeClient, pathOf } from './client.ts';
import { type Reflector, reflect } from './reflector.ts';

/** A claim on one object: while any is held, the object is watched. Disposing twice is fine. */
export interface ObjectHandle extends Disposable {
  readonly namespace: string;
  readonly name: string;
}

/** Objects that pods refer to, each watched alone while somebody refers to it (the node authorizer allows no more). */
export interface Objects<T> extends AsyncDisposable {
  /** Starts watching at the first claim. The next `get` gives nothing older than this call, unless the server is away and an older state is known. */
  acquire(namespace: string, name: string): ObjectHandle;
  /**
   * The object; undefined when the server says that there is none. Waits for the first state of an acquired object, and asks the server for others.
   * Throws AgentError `Forbidden` when the node may not read it, `Unavailable` and the like only for objects that nobody acquired; otherwise waits for
   * the server until `signal` aborts.
   */
  get(namespace: string, name: string, signal: AbortSignal): Promise<T | undefined>;
  /** The last known state, without waiting. */
  peek(namespace: string, name: string): T | undefined;
  /** Calls `listener` with `namespace/name` of each acquired object that changed or went. */
  subscribe(listener: (key: string) => void): Disposable;
  /** How many objects are held, and how many of them are watched (immutable ones are not). */
  readonly size: { readonly held: number; readonly watched: number };
}

interface WatchedKinds {
  secrets: Secret;
  configmaps: ConfigMap;
}

interface Watchable {
  metadata?: ObjectMeta | undefined;
  immutable?: boolean | undefined;
}

interface Entry<T> {
  readonly namespace: string;
  readonly name: string;
  readonly path: string;
  refs: number;
  /** False until the server said what there is. */
  known: boolean;
  value: T | undefined;
  /** The version of the last state that was taken over, kept when the object is gone: a lagging cache may still show older ones. */
  version: string | undefined;
  error: AgentError | undefined;
  fetching: Promise<void> | undefined;
  fetchAgain: boolean;
  reflector: Reflector | undefined;
  readonly stop: AbortController;
  readonly waiters: Set<() => void>;
}

// The node authorizer learns of a pod a moment after the kubelet does: Forbidden counts only when it lasts about a second.
const forbiddenRetries = 5;
const forbiddenRetry = { initialMs: 40, maxMs: 500 };
const awayRetry = { initialMs: 200, maxMs: 5_000 };

/** Opens the objects of one kind. */
export function createObjects<K extends keyof WatchedKinds>(options: {
  readonly client: KubeClient;
  readonly clock: Clock;
  readonly log: Log;
  readonly resource: K;
  readonly signal: AbortSignal;
}): Objects<WatchedKinds[K]> {
  type T = WatchedKinds[K];
  const { client, clock, resource } = options;
  const log = options.log.child({ resource });
  const entries = new Map<string, Entry<T>>();
  const listeners = new Set<(key: string) => void>();
  const stopping = new Set<Promise<void>>();

  function tell(entry: Entry<T>): void {
    const key = `${entry.namespace}/${entry.name}`;
    if (entries.get(key) !== entry) return;
    for (const listener of listeners) listener(key);
  }

  function wakeWaiters(entry: Entry<T>): void {
    for (const waiter of [...entry.waiters]) waiter();
  }

  /**
   * Takes over a state. `mark`: for the server's own answer, the version that was known when it was asked. A watch starts from a cache, which may lag behind
   * the GET beside it; so what it tells is asked for when it is not newer than what is known. An answer that is not newer either, although that was known
   * before the question, is of a server with another history (an etcd that was restored), and counts.
   */
  function accept(entry: Entry<T>, value: T, answer?: { readonly mark: string | undefined }): void {
    const { resourceVersion: version } = (value as Watchable).metadata ?? {};
    if (entry.known && !isOlderVersion(entry.version, version)) {
      const same = entry.version === version && isDeepStrictEqual(entry.value, value);
      if (!same && (answer === undefined || answer.mark !== entry.version)) {
        refresh(entry);
        return;
      }
      if (!same) take(entry, value);
    } else take(entry, value);
    entry.error = undefined;
    watchOrNot(entry);
    wakeWaiters(entry);
  }

  function take(entry: Entry<T>, value: T): void {
    entry.known = true;
    entry.value = Object.freeze(value);
    entry.version = (value as Watchable).metadata?.resourceVersion;
    tell(entry);
  }

  function acceptAbsence(entry: Entry<T>, mark: string | undefined): void {
    // It was made after the question.
    if (entry.known && entry.version !== mark) {
      entry.fetchAgain = true;
      return;
    }
    const changed = !entry.known || entry.value !== undefined;
    entry.known = true;
    entry.error = undefined;
    entry.value = undefined;
    if (changed) tell(entry);
    watchOrNot(entry);
    wakeWaiters(entry);
  }

  function watchOrNot(entry: Entry<T>): void {
    if (entry.refs === 0 || entry.stop.signal.aborted) return;
    const wanted = (entry.value as Watchable | undefined)?.immutable !== true;
    if (wanted && entry.reflector === undefined) {
      entry.reflector = reflect<Watchable>({
        client,
        clock,
        log: options.log,
        path: pathOf('v1', resource, entry.namespace),
        query: { fieldSelector: `metadata.name=${entry.name}` },
        signal: entry.stop.signal,
        // The GET beside it is what guarantees freshness.
        freshness: 'any',
        onEvent: (event) => {
          if (event.type === 'set') accept(entry, event.object as T);
          // The server has the last word: after a relist, a cache that lags may lack what was just made.
          else refresh(entry);
        },
      });
    } else if (!wanted && entry.reflector !== undefined) {
      log.debug({ object: `${entry.namespace}/${entry.name}` }, 'object is immutable, no longer watched');
      stopReflector(entry);
    }
  }

  function stopReflector(entry: Entry<T>): void {
    const reflector = entry.reflector;
    if (reflector === undefined) return;
    entry.reflector = undefined;
    const done = Promise.resolve(reflector[Symbol.asyncDispose]());
    stopping.add(done);
    void done.finally(() => stopping.delete(done));
  }

  /** Asks the server for the object itself; asked again while it runs, it runs once more. */
  function refresh(entry: Entry<T>): void {
    if (entry.fetching !== undefined) {
      entry.fetchAgain = true;
      return;
    }
    entry.fetching = (async () => {
      do {
        entry.fetchAgain = false;
        await fetchOnce(entry);
      } while (entry.fetchAgain && !entry.stop.signal.aborted);
    })()
      .catch((error: unknown) => {
        if (!entry.stop.signal.aborted) log.error({ object: `${entry.namespace}/${entry.name}`, err: messageOf(error) }, 'fetch failed');
      })
      .finally(() => {
        entry.fetching = undefined;
        wakeWaiters(entry);
      });
  }

  async function fetchOnce(entry: Entry<T>): Promise<void> {
    const signal = entry.stop.signal;
    for (let failures = 1; !signal.aborted; failures++) {
      const mark = entry.version;
      try {
        accept(entry, await client.get<T>(entry.path, signal, { urgent: true, timeoutMs: 10_000 }), { mark });
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (hasCode(error, 'NotFound')) {
          acceptAbsence(entry, mark);
          return;
        }
        if (!(error instanceof AgentError)) throw error;
        entry.error = error;
        const refused = hasCode(error, 'Forbidden', 'Unauthorized');
        // While the server is away, the old state is what running pods live on; and the watch brings the new one.
        if (refused ? failures > forbiddenRetries : entry.known) return;
        await clock.sleep(backoffDelayMs(refused ? forbiddenRetry : awayRetry, failures), signal);
      }
    }
  }

  function release(entry: Entry<T>): void {
    entry.refs--;
    if (entry.refs > 0) return;
    entries.delete(`${entry.namespace}/${entry.name}`);
    entry.stop.abort(new AgentError('Canceled', `${resource} ${entry.namespace}/${entry.name} is no longer in use`));
    stopReflector(entry);
    wakeWaiters(entry);
  }

  function changed(entry: Entry<T>, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const done = (): void => {
        entry.waiters.delete(done);
        signal.removeEventListener('abort', onAbort);
        resolve();
      };
      const onAbort = (): void => {
        entry.waiters.delete(done);
        reject(signal.reason);
      };
      entry.waiters.add(done);
      signal.addEventListener('abort', onAbort, { once: true });
    });
  }

  async function fetchAlone(namespace: string, name: string, signal: AbortSignal): Promise<T | undefined> {
    try {
      return await client.get<T>(pathOf('v1', resource, namespace, name), signal, { urgent: true });
    } catch (error) {
      if (hasCode(error, 'NotFound')) return undefined;
      throw error;
    }
  }

  const stopAll = (): void => {
    for (const entry of entries.values()) entry.stop.abort(options.signal.reason);
  };
  options.signal.addEventListener('abort', stopAll, { once: true });
  // What is immutable is not watched, and a server that was restored may have another object of that name.
  const reachable = client.onReachable(() => {
    for (const entry of entries.values()) if (entry.reflector === undefined) refresh(entry);
  });

  return {
    acquire(namespace, name) {
      const key = `${namespace}/${name}`;
      let entry = entries.get(key);
      if (entry === undefined) {
        entry = {
          namespace,
          name,
          path: pathOf('v1', resource, namespace, name),
          refs: 0,
          known: false,
          value: undefined,
          version: undefined,
          error: undefined,
          fetching: undefined,
          fetchAgain: false,
          reflector: undefined,
          stop: new AbortController(),
          waiters: new Set(),
        };
        entries.set(key, entry);
        if (options.signal.aborted) entry.stop.abort(options.signal.reason);
      }
      entry.refs++;
      const held = entry;
      refresh(held);
      watchOrNot(held);
      let released = false;
      return {
        namespace,
        name,
        [Symbol.dispose]: () => {
          if (released) return;
          released = true;
          release(held);
        },
      };
    },
    async get(namespace, name, signal) {
      for (;;) {
        const entry = entries.get(`${namespace}/${name}`);
        if (entry === undefined) return fetchAlone(namespace, name, signal);
        if (entry.fetching === undefined) {
          if (entry.known) return entry.value;
          const error = entry.error;
          // The next caller gets a fresh answer rather than this old one.
          entry.error = undefined;
          if (error !== undefined) throw error;
          refresh(entry);
        } else if (entry.known && entry.error !== undefined && !hasCode(entry.error, 'Forbidden', 'Unauthorized')) {
          return entry.value;
        }
        await changed(entry, signal);
      }
    },
    peek: (namespace, name) => entries.get(`${namespace}/${name}`)?.value,
    subscribe(listener) {
      listeners.add(listener);
      return { [Symbol.dispose]: () => void listeners.delete(listener) };
    },
    get size() {
      return { held: entries.size, watched: [...entries.values()].filter((entry) => entry.reflector !== undefined).length };
    },
    async [Symbol.asyncDispose]() {
      reachable[Symbol.dispose]();
      options.signal.removeEventListener('abort', stopAll);
      for (const entry of entries.values()) {
        entry.stop.abort(new AgentError('Canceled', `${resource} closed`));
        stopReflector(entry);
        if (entry.fetching !== undefined) stopping.add(entry.fetching);
      }
      entries.clear();
      await Promise.all(stopping);
    },
  };
}
