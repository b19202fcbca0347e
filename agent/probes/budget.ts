import type { Clock } from '../base/clock.ts';

/**
 * Places for work of which only so much may begin at once; who comes first is served first. Work holds its place for `holdMs` at most: what takes longer
 * waits for something itself, and ten commands that hang must not keep everybody else's from being run.
 */
export interface Budget {
  /** Runs `work` once a place is free. Rejects with the signal's reason when that aborts while waiting. */
  run<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T>;
}

export function createBudget(places: number, holdMs: number, clock: Clock): Budget {
  let free = places;
  const waiting = new Set<() => void>();
  const release = (): void => {
    const [next] = waiting;
    if (next === undefined) free++;
    else {
      waiting.delete(next);
      next();
    }
  };
  return {
    async run(signal, work) {
      signal.throwIfAborted();
      if (free > 0) free--;
      else {
        await new Promise<void>((resolve, reject) => {
          const onAbort = (): void => {
            waiting.delete(go);
            reject(signal.reason);
          };
          const go = (): void => {
            signal.removeEventListener('abort', onAbort);
            resolve();
          };
          waiting.add(go);
          signal.addEventListener('abort', onAbort, { once: true });
        });
      }
      let held = true;
      const leave = (): void => {
        if (held) release();
        held = false;
      };
      using _timer = clock.after(holdMs, leave);
      try {
        return await work();
      } finally {
        leave();
      }
    },
  };
}
