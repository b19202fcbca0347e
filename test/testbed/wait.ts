// Waiting on conditions, never on time alone.
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Polls `probe` until it gives a value other than undefined, and resolves to it. Rejects after `timeoutMs` with `what`, and with the last reason
 * that `probe` threw. A probe that throws is asked again, unless it throws `GiveUp`.
 */
export const waitFor = async <T>(
  what: string,
  timeoutMs: number,
  probe: () => Promise<T | undefined> | T | undefined,
  everyMs = 100,
): Promise<T> => {
  const giveUpAt = performance.now() + timeoutMs;
  let trouble = '';
  for (;;) {
    try {
      const value = await probe();
      if (value !== undefined) return value;
    } catch (error) {
      if (error instanceof GiveUp) throw error;
      trouble = error instanceof Error ? error.message : String(error);
    }
    if (performance.now() > giveUpAt)
      throw new Error(`gave up waiting for ${what} after ${Math.round(timeoutMs / 1000)} s${trouble === '' ? '' : `: ${trouble}`}`);
    await sleep(everyMs);
  }
};

/** Thrown by a probe when waiting on makes no sense, such as when the process asked has ended. */
export class GiveUp extends Error {}
