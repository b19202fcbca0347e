import { createHash } from 'node:crypto';
import type { Clock } from '../base/clock.ts';

/** Answers remembered for a while; questions asked twice at once are put once. */
export interface TtlCache<T> {
  /** The remembered answer for `key`, or that of `ask`. What `ask` throws is remembered for nobody. */
  get(key: string, ask: () => Promise<T>): Promise<T>;
  /** What is kept now, for whoever watches its bounds. */
  readonly size: { readonly entries: number; readonly bytes: number };
}

export interface TtlCacheOptions<T> {
  readonly clock: Clock;
  /** How long an answer holds; 0 or less: not at all. */
  readonly ttlMs: (answer: T) => number;
  /** Each kind has a room of its own: what strangers are refused never pushes out what guests are granted. */
  readonly isGood: (answer: T) => boolean;
  /** Bounds of each of the two rooms; those not used for the longest time go first. */
  readonly entries: number;
  readonly bytes: number;
}

interface Kept<T> {
  readonly answer: T;
  readonly until: number;
  readonly bytes: number;
}

// A digest, the entry, and what a Map needs for it.
const entryBytes = 200;

/** A cache of JSON-like answers. It holds digests of its keys: they may be secrets, and as long as clients like. */
export function createTtlCache<T>(options: TtlCacheOptions<T>): TtlCache<T> {
  const { clock } = options;
  const good = createRoom<T>(options);
  const bad = createRoom<T>(options);
  const asked = new Map<string, Promise<T>>();
  return {
    get(key, ask) {
      const digest = createHash('sha256').update(key).digest('base64');
      const now = clock.mono();
      const known = good.get(digest, now) ?? bad.get(digest, now);
      if (known !== undefined) return Promise.resolve(known.answer);
      const pending = asked.get(digest);
      if (pending !== undefined) return pending;
      const question = ask()
        .then((answer) => {
          const ttlMs = options.ttlMs(answer);
          if (ttlMs > 0) (options.isGood(answer) ? good : bad).add(digest, answer, clock.mono() + ttlMs);
          return answer;
        })
        .finally(() => asked.delete(digest));
      asked.set(digest, question);
      return question;
    },
    get size() {
      return { entries: good.entries() + bad.entries(), bytes: good.bytes() + bad.bytes() };
    },
  };
}

function createRoom<T>(bounds: { readonly entries: number; readonly bytes: number }) {
  const kept = new Map<string, Kept<T>>();
  let bytes = 0;
  const drop = (digest: string): void => {
    bytes -= kept.get(digest)?.bytes ?? 0;
    kept.delete(digest);
  };
  return {
    entries: () => kept.size,
    bytes: () => bytes,
    get(digest: string, now: number): Kept<T> | undefined {
      const found = kept.get(digest);
      if (found === undefined) return undefined;
      kept.delete(digest);
      if (found.until > now) kept.set(digest, found);
      else bytes -= found.bytes;
      return found.until > now ? found : undefined;
    },
    add(digest: string, answer: T, until: number): void {
      drop(digest);
      const one = { answer, until, bytes: entryBytes + Buffer.byteLength(JSON.stringify(answer) ?? '') };
      kept.set(digest, one);
      bytes += one.bytes;
      for (const oldest of kept.keys()) {
        if (kept.size <= bounds.entries && bytes <= bounds.bytes) break;
        drop(oldest);
      }
    },
  };
}
