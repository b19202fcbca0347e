/** Tokens that come at a rate and may be saved up to a number. Times are milliseconds of a clock that never jumps. */
export interface TokenBucket {
  /** Takes a token if there is one now. */
  take(nowMs: number): boolean;
  /** How long it takes until there is a token for whoever has `ahead` others before him. */
  waitMs(nowMs: number, ahead: number): number;
}

/** A full bucket: `qps` tokens a second (more than 0), at most `burst` saved up. */
export function createTokenBucket(qps: number, burst: number, startMs: number): TokenBucket {
  let tokens = burst;
  let filledAt = startMs;
  const fill = (nowMs: number): void => {
    tokens = Math.min(burst, tokens + ((nowMs - filledAt) * qps) / 1000);
    filledAt = nowMs;
  };
  return {
    take(nowMs) {
      fill(nowMs);
      // What adding up fractions has lost must not make a token late.
      if (tokens < 1 - 1e-9) return false;
      tokens = Math.max(0, tokens - 1);
      return true;
    },
    waitMs(nowMs, ahead) {
      fill(nowMs);
      return Math.max(0, ((ahead + 1 - tokens) / qps) * 1000);
    },
  };
}
