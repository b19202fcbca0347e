import { AgentError } from './errors.ts';

/** An AbortSignal that also aborts (with an AgentError of code DeadlineExceeded) after a time. Dispose it to unhook timer and listener. */
export interface Deadline extends Disposable {
  readonly signal: AbortSignal;
}

/** Time, injected. `wall` is for timestamps, `mono` for durations; both in milliseconds. */
export interface Clock {
  /** Milliseconds since the Unix epoch. */
  wall(): number;
  /** Milliseconds on a clock that never jumps. */
  mono(): number;
  /** Resolves after `ms`; rejects with the signal's reason when it aborts first. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
  /** Calls `fn` once after `ms` unless disposed before. Does not keep the process alive. */
  after(ms: number, fn: () => void): Disposable;
  /** A child of `signal` that aborts by itself after `ms`. Use with `using`, so that no listener is left on the parent. */
  deadline(signal: AbortSignal, ms: number): Deadline;
}

/** Sleeps until `ms` have passed or the signal aborts, whichever is first: for loops that look at the signal themselves. */
export async function pause(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  try {
    await clock.sleep(ms, signal);
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

// setTimeout holds its delay in a signed 32-bit integer; a longer one would fire at once.
const longestTimerMs = 2 ** 31 - 1;

/** The real clock: the only place that reads the system's time or sets timers. */
export const systemClock: Clock = {
  wall: () => Date.now(),
  mono: () => performance.now(),
  sleep(ms, signal) {
    return new Promise((resolve, reject) => {
      if (signal.aborted) {
        reject(signal.reason);
        return;
      }
      const onAbort = (): void => {
        clearTimeout(timer);
        reject(signal.reason);
      };
      const timer = setTimeout(
        () => {
          signal.removeEventListener('abort', onAbort);
          resolve();
        },
        Math.min(ms, longestTimerMs),
      );
      signal.addEventListener('abort', onAbort, { once: true });
    });
  },
  after(ms, fn) {
    const timer = setTimeout(fn, Math.min(ms, longestTimerMs));
    timer.unref();
    return { [Symbol.dispose]: () => clearTimeout(timer) };
  },
  deadline(signal, ms) {
    const controller = new AbortController();
    const onAbort = (): void => controller.abort(signal.reason);
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    const timer = setTimeout(
      () => controller.abort(new AgentError('DeadlineExceeded', `timed out after ${ms} ms`)),
      Math.min(ms, longestTimerMs),
    );
    return {
      signal: controller.signal,
      [Symbol.dispose]: () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
      },
    };
  },
};
