import type { Clock } from '../../base/clock.ts';

/** A token bucket that makes callers wait their turn, first come first served. */
export interface RateLimit {
  take(signal: AbortSignal): Promise<void>;
}

/** `qps` tokens a second, at most `burst` saved up; `qps` ≤ 0 means no limit. */
export function createRateLimit(clock: Clock, qps: number, burst: number): RateLimit {
  let tokens = burst;
  let filledAt = clock.mono();
  return {
    async take(signal) {
      if (qps <= 0) return;
      const now = clock.mono();
      tokens = Math.min(burst, tokens + ((now - filledAt) * qps) / 1000);
      filledAt = now;
      // Tokens go below zero for those who wait: each takes the next free place in time.
      tokens -= 1;
      if (tokens < 0) await clock.sleep((-tokens / qps) * 1000, signal);
    },
  };
}
