import { backoffDelayMs } from '../../base/backoff.ts';
import type { Clock } from '../../base/clock.ts';
import { messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';

// What is in memory follows onto the disk behind those who change it.

export interface WriteBehind<K> extends AsyncDisposable {
  /** What the disk should say of `key` has changed. */
  touch(key: K): void;
  /** Tries at once what is not written yet. Resolves when the disk says what was true at the call, or could not be written (logged, and tried again later). */
  written(): Promise<void>;
}

export interface WriteBehindOptions<K> {
  /** Writes the present state of these keys; what failed comes back with its error. Whatever changes meanwhile is the next call's. */
  readonly write: (keys: readonly K[]) => Promise<ReadonlyMap<K, unknown>>;
  /** A file or folder, for the log. */
  readonly path: string;
  readonly clock: Clock;
  readonly log: Log;
}

// A disk that was full may have room again at any time.
const retry = { initialMs: 1_000, maxMs: 30_000 };

/**
 * A key stays dirty until it is written. One write goes at a time and takes all that has changed since the last one began; one that fails is tried again after
 * a pause that doubles up to 30 s. Closing tries once more what is left, and says what could not be written.
 */
export function startWriteBehind<K>({ write, path, clock, log }: WriteBehindOptions<K>): WriteBehind<K> {
  const dirty = new Set<K>();
  let writing: Promise<void> | undefined;
  let timer: Disposable | undefined;
  let failures = 0;

  /** True when everything is written. */
  async function writeOnce(): Promise<boolean> {
    const keys = [...dirty];
    dirty.clear();
    // Also where making the text throws before anything is written.
    const attempt = (async () => await write(keys))();
    const failed = await attempt.catch((error: unknown) => new Map(keys.map((key) => [key, error])));
    for (const key of failed.keys()) dirty.add(key);
    const [problem] = failed.values();
    if (failed.size === 0) {
      if (failures > 0) log.info({ file: path }, 'state is written to the disk again');
      failures = 0;
      return true;
    }
    failures++;
    const fields = { file: path, err: messageOf(problem), left: failed.size, retryInMs: backoffDelayMs(retry, failures) };
    log[failures === 1 ? 'error' : 'debug'](fields, 'state cannot be written to the disk, and is tried again');
    return false;
  }

  async function writeAll(): Promise<void> {
    while (dirty.size > 0) {
      if (await writeOnce()) continue;
      timer = clock.after(backoffDelayMs(retry, failures), begin);
      return;
    }
  }

  function begin(): void {
    timer?.[Symbol.dispose]();
    timer = undefined;
    writing ??= writeAll().finally(() => {
      writing = undefined;
      // Touched in the moment between the end of the loop and this.
      if (dirty.size > 0 && timer === undefined) begin();
    });
  }

  async function written(): Promise<void> {
    if (dirty.size > 0) begin();
    while (writing !== undefined) await writing;
  }

  return {
    touch(key) {
      dirty.add(key);
      if (timer === undefined) begin();
    },
    written,
    async [Symbol.asyncDispose]() {
      await written();
      timer?.[Symbol.dispose]();
      if (dirty.size > 0) log.error({ file: path, left: dirty.size }, 'state is lost: it could not be written to the disk before the end');
    },
  };
}
