/** A counter at one moment (wall, ms). */
interface Point {
  readonly at: number;
  readonly value: number;
}

/** Remembers counters, so that their rates can be told. */
export interface Rates {
  /** Units a second since an earlier reading, 10 s or more ago where there is one; undefined when there is none, or the counter began anew. */
  rate(key: string, value: number, at: number): number | undefined;
}

// Rates over less than this jump about; cadvisor looks every ten seconds.
const windowMs = 10_000;
const keptMs = 600_000;

/** Rates of counters by key; those that nobody has asked for in ten minutes are forgotten. */
export function createRates(): Rates {
  const known = new Map<string, { base: Point; latest: Point }>();
  return {
    rate(key, value, at) {
      const old = known.get(key);
      if (old === undefined || value < old.latest.value || at - old.latest.at > keptMs) {
        for (const [other, { latest }] of known) if (at - latest.at > keptMs) known.delete(other);
        const point = { at, value };
        known.set(key, { base: point, latest: point });
        return undefined;
      }
      const base = at - old.latest.at >= windowMs ? old.latest : old.base;
      known.set(key, { base, latest: { at, value } });
      return at - base.at < 100 ? undefined : Math.round(((value - base.value) * 1000) / (at - base.at));
    },
  };
}
