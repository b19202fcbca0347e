/** Doubling delays per key: `initialMs`, then twice the last, up to `maxMs`. */
export interface BackoffPolicy {
  readonly initialMs: number;
  readonly maxMs: number;
}

/** The delay after `failures` failures in a row (1 = the first), without jitter. */
export function backoffDelayMs(policy: BackoffPolicy, failures: number): number {
  if (failures <= 0) return 0;
  // 2 ** 31 is past any policy's maximum; the bound keeps the power finite.
  return Math.min(policy.maxMs, policy.initialMs * 2 ** Math.min(failures - 1, 31));
}

/** Spreads a delay by up to ±`share` of itself; `random` is in [0, 1). */
export function jittered(ms: number, share: number, random: number): number {
  return ms * (1 - share + 2 * share * random);
}
