/** Places for work of which only so much may run at once; who comes first is served first. */
export interface Budget {
  /** Runs `work` once a place is free. Rejects with the signal's reason when that aborts while waiting. */
  run<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T>;
}

export function createBudget(places: number): Budget {
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
      try {
        return await work();
      } finally {
        release();
      }
    },
  };
}
