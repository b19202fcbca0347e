// A watch on pods that outlives restarts of the API server, as a test sees the cluster.
import { get, type IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Pod } from '../../agent/model/generated/api.ts';
import { api } from './control-plane.ts';
import { labPaths } from './record.ts';

export type PodEvent = {
  type: 'ADDED' | 'MODIFIED' | 'DELETED';
  pod: Pod;
  /** performance.now() when it came. */
  at: number;
};

export type PodWatch = AsyncDisposable & {
  /** The newest state of every pod there is, by name. */
  readonly pods: ReadonlyMap<string, Pod>;
  /** Resolves once `done` is true, which is asked at once and after every event. Rejects after `timeoutMs` with `what` and with what `trouble` says. */
  until(what: string, timeoutMs: number, done: () => boolean, trouble?: () => string): Promise<void>;
};

type WatchLine = { type: string; object: Pod & { code?: number; metadata?: { resourceVersion?: string } } };

/**
 * Watches a namespace of a lab; `onEvent` is told every state in order. A broken stream goes on where it broke; when the server remembers no longer
 * what came between (410), every pod is told once more as MODIFIED.
 */
export const watchPods = async (lab: { name: string }, namespace: string, onEvent: (event: PodEvent) => void): Promise<PodWatch> => {
  const path = `/api/v1/namespaces/${namespace}/pods`;
  const pods = new Map<string, Pod>();
  const waiters = new Set<() => void>();
  const ended = new AbortController();
  let version = '';

  const tell = (type: PodEvent['type'], pod: Pod): void => {
    const name = pod.metadata?.name ?? '';
    if (type === 'DELETED') pods.delete(name);
    else pods.set(name, pod);
    onEvent({ type, pod, at: performance.now() });
    for (const wake of [...waiters]) wake();
  };

  const list = async (): Promise<void> => {
    const { metadata, items } = await api<{ metadata: { resourceVersion: string }; items: Pod[] }>(lab, path);
    const names = new Set(items.map((pod) => pod.metadata?.name ?? ''));
    for (const [name, pod] of [...pods]) if (!names.has(name)) tell('DELETED', pod);
    for (const pod of items) {
      const known = pods.get(pod.metadata?.name ?? '');
      if (known === undefined) tell('ADDED', pod);
      else if (known.metadata?.resourceVersion !== pod.metadata?.resourceVersion) tell('MODIFIED', pod);
    }
    version = metadata.resourceVersion;
  };

  const follow = async (): Promise<void> => {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const query = `watch=1&allowWatchBookmarks=1&resourceVersion=${version}`;
      const call = get({ socketPath: labPaths(lab.name).apiSocket, path: `${path}?${query}`, signal: ended.signal }, resolve);
      call.on('error', reject);
    });
    if (response.statusCode !== 200) {
      response.resume();
      if (response.statusCode === 410) await list();
      return;
    }
    let rest = '';
    for await (const chunk of response.setEncoding('utf8')) {
      const lines = (rest + String(chunk)).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const { type, object } = JSON.parse(line) as WatchLine;
        if (type === 'ERROR') return object.code === 410 ? await list() : undefined;
        version = object.metadata?.resourceVersion ?? version;
        if (type === 'ADDED' || type === 'MODIFIED' || type === 'DELETED') tell(type, object);
      }
    }
  };

  await list();
  const loop = (async (): Promise<void> => {
    while (!ended.signal.aborted) {
      // The server is down, or has closed the stream: either is what this watch is there to outlive.
      await follow().catch(() => undefined);
      await sleep(50, undefined, { signal: ended.signal }).catch(() => undefined);
    }
  })();

  return {
    pods,
    until: (what, timeoutMs, done, trouble) =>
      new Promise((resolve, reject) => {
        const finish = (settle: () => void): void => {
          clearTimeout(timer);
          waiters.delete(look);
          settle();
        };
        const look = (): void => {
          if (done()) finish(resolve);
        };
        const timer = setTimeout(() => {
          const words = trouble?.() ?? '';
          finish(() =>
            reject(new Error(`gave up waiting for ${what} after ${Math.round(timeoutMs / 1000)} s${words === '' ? '' : `:\n${words}`}`)),
          );
        }, timeoutMs);
        waiters.add(look);
        look();
      }),
    async [Symbol.asyncDispose]() {
      ended.abort();
      await loop;
    },
  };
};
