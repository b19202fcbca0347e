/** A counter at one moment (wall, ms). */
interface Point {
  readonly at: number;
  readonly value: number;
}

/** Remembers counters, so that their rates can be told. */
export interface Rates {
  /**
   * Units a second over the last 10 s and more, as far as the counter has been read: however often it is asked for, what was longer ago does not count.
   * Of one that is new, since `since`, when it stood at 0 (wall, ms); undefined where that is not known, or no second ago.
   */
  rate(key: string, value: number, at: number, since?: number): number | undefined;
}

// Rates over less than this jump about; cadvisor looks every ten seconds.
const windowMs = 10_000;
const shortestMs = 1_000;
const keptMs = 600_000;

/** Rates of counters by key; those that nobody has asked for in ten minutes are forgotten. */
export function createRates(): Rates {
  // The older of the two is what a rate is reckoned from; the newer takes its place when it is old enough.
  const known = new Map<string, { older: Point; newer: Point }>();
  return {
    rate(key, value, at, since) {
      const now = { at, value };
      let points = known.get(key);
      if (points === undefined || value < points.newer.value || at - points.newer.at > keptMs) {
        for (const [other, { newer }] of known) if (at - newer.at > keptMs) known.delete(other);
        points = { older: since === undefined ? now : { at: since, value: 0 }, newer: now };
        known.set(key, points);
      } else if (at - points.newer.at >= windowMs) {
        points = { older: points.newer, newer: now };
        known.set(key, points);
      }
      const { older } = points;
      return at - older.at < shortestMs ? undefined : Math.round(((value - older.value) * 1000) / (at - older.at));
    },
  };
}
