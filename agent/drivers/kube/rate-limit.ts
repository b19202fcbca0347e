import type { Clock } from '../../base/clock.ts';
import { AgentError } from '../../base/errors.ts';
import { createTokenBucket } from '../../base/token-bucket.ts';

/** A token bucket that makes callers wait their turn, first come first served. */
export interface RateLimit {
  /**
   * Resolves with a token taken. A caller whose signal aborts has taken none, and those behind him move up. When the turn would come later than in
   * `withinMs` nothing is taken and an AgentError of code DeadlineExceeded thrown at once, as golang.org/x/time/rate's Wait does.
   */
  take(signal: AbortSignal, withinMs?: number): Promise<void>;
}

/** `qps` tokens a second, at most `burst` saved up; `qps` ≤ 0 means no limit. A burst below 1 would let nobody through: it counts as 1. */
export function createRateLimit(clock: Clock, qps: number, burst: number): RateLimit {
  if (qps <= 0) return { take: async (signal) => signal.throwIfAborted() };
  const bucket = createTokenBucket(qps, Math.max(1, burst), clock.mono());
  // In order of arrival. Nobody holds a token while he waits, so there is nothing to give back.
  const waiting = new Set<() => void>();
  let serving = false;

  async function serve(): Promise<void> {
    const forever = new AbortController().signal;
    for (;;) {
      for (const grant of waiting) {
        if (!bucket.take(clock.mono())) break;
        waiting.delete(grant);
        grant();
      }
      if (waiting.size === 0) {
        serving = false;
        return;
      }
      await clock.sleep(bucket.waitMs(clock.mono(), 0), forever);
    }
  }

  return {
    async take(signal, withinMs = Number.POSITIVE_INFINITY) {
      signal.throwIfAborted();
      if (waiting.size === 0 && bucket.take(clock.mono())) return;
      const waitMs = bucket.waitMs(clock.mono(), waiting.size);
      if (waitMs > withinMs) {
        throw new AgentError(
          'DeadlineExceeded',
          'client rate limiter Wait returned an error: rate: Wait(n=1) would exceed context deadline',
        );
      }
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const giveUp = (): void => {
        waiting.delete(resolve);
        reject(signal.reason);
      };
      waiting.add(resolve);
      signal.addEventListener('abort', giveUp, { once: true });
      if (!serving) {
        serving = true;
        void serve();
      }
      try {
        await promise;
      } finally {
        signal.removeEventListener('abort', giveUp);
      }
    },
  };
}
