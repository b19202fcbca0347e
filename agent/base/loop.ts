import { type BackoffPolicy, backoffDelayMs } from './backoff.ts';
import type { Clock } from './clock.ts';
import { messageOf } from './errors.ts';
import type { Log } from './log.ts';
import { during } from './work.ts';

/** A level-triggered loop over keys: serial per key, many keys at once. */
export interface Loop extends AsyncDisposable {
  /** Asks for a run of this key. Asked while it runs: it runs once more afterwards. */
  enqueue(key: string): void;
  /** Asks for a run at a time on the clock's `mono`; the earliest asked time wins. */
  enqueueAt(key: string, monoMs: number): void;
  /** Drops a waiting run and the failure count of a key that is gone. */
  forget(key: string): void;
}

export interface LoopOptions {
  readonly name: string;
  readonly clock: Clock;
  readonly log: Log;
  /** How many keys run at once; default no limit. */
  readonly concurrency?: number;
  /** Delays after failures in a row of one key; default 200 ms doubling to 10 s. */
  readonly backoff?: BackoffPolicy;
  readonly signal: AbortSignal;
  /** Brings one key nearer to its desired state. Returning a time on `mono` asks for another run then, soon if it has passed. Throwing asks for one after a back-off. */
  readonly run: (key: string, signal: AbortSignal) => Promise<number | undefined> | number | undefined;
}

// A cold start of the service proxy asks for some dozens of runs at once.
const restlessRuns = 1_000;
const restlessDelayMs = 1_000;

/**
 * Starts a loop. INVARIANTS: a key never runs twice at once; no enqueue is lost; a key that fails is retried with back-off and delays no other key.
 * Disposing stops new runs, aborts the signal handed to runs, and waits for those under way.
 */
export function startLoop(options: LoopOptions): Loop {
  const { clock, log } = options;
  const backoff = options.backoff ?? { initialMs: 200, maxMs: 10_000 };
  const concurrency = options.concurrency ?? Number.POSITIVE_INFINITY;
  const controller = new AbortController();
  const stop = (): void => controller.abort(options.signal.reason);
  if (options.signal.aborted) stop();
  else options.signal.addEventListener('abort', stop, { once: true });

  const ready = new Set<string>();
  const running = new Map<string, Promise<void>>();
  const again = new Set<string>();
  const timers = new Map<string, { at: number; timer: Disposable }>();
  const failures = new Map<string, number>();
  /** Runs in a row after which a key asked for the next one at once. */
  const restless = new Map<string, number>();
  let pumping = false;

  function pump(): void {
    if (pumping) return;
    pumping = true;
    // A microtask later: one burst of table changes becomes one run per key.
    queueMicrotask(() => {
      pumping = false;
      if (controller.signal.aborted) return;
      for (const key of ready) {
        if (running.size >= concurrency) return;
        ready.delete(key);
        const done = runKey(key).finally(() => {
          running.delete(key);
          if (again.delete(key)) ready.add(key);
          if (ready.size > 0) pump();
        });
        running.set(key, done);
      }
    });
  }

  async function runKey(key: string): Promise<void> {
    dropTimer(key);
    try {
      const wakeAt = await during(`loop ${options.name}, key ${key}`, () => options.run(key, controller.signal));
      failures.delete(key);
      if (wakeAt !== undefined && wakeAt <= clock.mono()) runAgainSoon(key);
      else {
        restless.delete(key);
        if (wakeAt !== undefined) enqueueAt(key, wakeAt);
      }
    } catch (error) {
      if (controller.signal.aborted) return;
      const count = (failures.get(key) ?? 0) + 1;
      failures.set(key, count);
      const delayMs = backoffDelayMs(backoff, count);
      log.warn({ loop: options.name, key, err: messageOf(error), retryInMs: delayMs }, 'run failed');
      enqueueAt(key, clock.mono() + delayMs);
    }
  }

  /**
   * By a timer and not by a microtask: a run that never awaits anything would keep timers, sockets and every other key from
   * their turn for good. One that goes on so is slowed down, and told once.
   */
  function runAgainSoon(key: string): void {
    const runs = (restless.get(key) ?? 0) + 1;
    restless.set(key, runs);
    if (runs === restlessRuns)
      log.error({ loop: options.name, key, runs }, 'a key asks for its next run at once all the time; it is slowed down');
    const delayMs = runs < restlessRuns ? 0 : restlessDelayMs;
    dropTimer(key);
    timers.set(key, { at: clock.mono() + delayMs, timer: clock.after(delayMs, () => enqueue(key)) });
  }

  function dropTimer(key: string): void {
    timers.get(key)?.timer[Symbol.dispose]();
    timers.delete(key);
  }

  function enqueue(key: string): void {
    if (controller.signal.aborted) return;
    dropTimer(key);
    if (running.has(key)) again.add(key);
    else {
      ready.add(key);
      pump();
    }
  }

  function enqueueAt(key: string, monoMs: number): void {
    if (controller.signal.aborted) return;
    const delay = monoMs - clock.mono();
    if (delay <= 0) {
      enqueue(key);
      return;
    }
    const waiting = timers.get(key);
    if (waiting !== undefined && waiting.at <= monoMs) return;
    dropTimer(key);
    timers.set(key, { at: monoMs, timer: clock.after(delay, () => enqueue(key)) });
  }

  return {
    enqueue,
    enqueueAt,
    forget(key) {
      dropTimer(key);
      ready.delete(key);
      again.delete(key);
      failures.delete(key);
      restless.delete(key);
    },
    async [Symbol.asyncDispose]() {
      controller.abort(controller.signal.reason ?? new Error('loop closed'));
      options.signal.removeEventListener('abort', stop);
      for (const key of [...timers.keys()]) dropTimer(key);
      await Promise.allSettled(running.values());
    },
  };
}
