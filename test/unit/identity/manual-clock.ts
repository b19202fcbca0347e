import { setImmediate } from 'node:timers/promises';
import type { Clock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';

/** A clock that stands still until told to advance; wall and mono run together. */
export interface ManualClock extends Clock {
  /** Moves time on, firing what falls due in order, and lets everything that it wakes settle before going further. */
  advance(ms: number): Promise<void>;
}

/** A clock that shows `startWall` (ms since the epoch) on the wall. */
export function manualClock(startWall: number): ManualClock {
  let elapsed = 0;
  let order = 0;
  const timers = new Map<number, { at: number; fn: () => void }>();
  const after = (ms: number, fn: () => void): Disposable => {
    const id = ++order;
    timers.set(id, { at: elapsed + Math.max(0, ms), fn });
    return { [Symbol.dispose]: () => void timers.delete(id) };
  };
  const settle = async (): Promise<void> => {
    for (let i = 0; i < 20; i++) await setImmediate();
  };
  return {
    wall: () => startWall + elapsed,
    mono: () => elapsed,
    after,
    sleep: (ms, signal) =>
      new Promise((resolve, reject) => {
        if (signal.aborted) return reject(signal.reason);
        const timer = after(ms, () => {
          signal.removeEventListener('abort', onAbort);
          resolve();
        });
        const onAbort = (): void => {
          timer[Symbol.dispose]();
          reject(signal.reason);
        };
        signal.addEventListener('abort', onAbort, { once: true });
      }),
    deadline(signal, ms) {
      const controller = new AbortController();
      const onAbort = (): void => controller.abort(signal.reason);
      signal.addEventListener('abort', onAbort, { once: true });
      const timer = after(ms, () => controller.abort(new AgentError('DeadlineExceeded', `timed out after ${ms} ms`)));
      return {
        signal: controller.signal,
        [Symbol.dispose]: () => {
          timer[Symbol.dispose]();
          signal.removeEventListener('abort', onAbort);
        },
      };
    },
    async advance(ms) {
      const end = elapsed + ms;
      await settle();
      for (;;) {
        const next = [...timers].filter(([, t]) => t.at <= end).sort(([a, x], [b, y]) => x.at - y.at || a - b)[0];
        if (next === undefined) break;
        const [id, timer] = next;
        timers.delete(id);
        elapsed = Math.max(elapsed, timer.at);
        timer.fn();
        await settle();
      }
      elapsed = end;
    },
  };
}
