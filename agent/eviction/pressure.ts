import { type Condition, conditionOf, metThresholds, type Observations, type Threshold, thresholdKey } from './thresholds.ts';

/** What one look leaves for the next. Times are `mono`, ms. */
export interface PressureState {
  /** The conditions that the node has, in the order of their names. */
  readonly conditions: readonly Condition[];
  /** By threshold: since when it is met. */
  readonly metSince: ReadonlyMap<string, number>;
  /** By condition: when a threshold of it was last met. */
  readonly seenAt: ReadonlyMap<Condition, number>;
  /** Met for as long as their grace, and not yet resolved. */
  readonly unresolved: readonly Threshold[];
  readonly lastAt: ReadonlyMap<string, number>;
}

/** Before the first look. Conditions that the Node still shows from before a restart go on until a look says otherwise, and the transition period is over. */
export function initialPressure(shown: readonly Condition[], now: number): PressureState {
  return {
    conditions: [...shown],
    metSince: new Map(),
    seenAt: new Map(shown.map((condition) => [condition, now])),
    unresolved: [],
    lastAt: new Map(),
  };
}

const order: readonly Condition[] = ['MemoryPressure', 'DiskPressure', 'PIDPressure'];

/** What follows from an observation: the node's conditions, and the thresholds that call for a deed now, memory first. */
export function nextPressure(
  state: PressureState,
  thresholds: readonly Threshold[],
  observations: Observations,
  transitionMs: number,
  now: number,
): { state: PressureState; act: Threshold[] } {
  const met = metThresholds(thresholds, observations, false);
  const keys = new Set(met.map(thresholdKey));
  for (const threshold of metThresholds(state.unresolved, observations, true)) {
    if (!keys.has(thresholdKey(threshold))) met.push(threshold);
  }
  const metSince = new Map(met.map((t) => [thresholdKey(t), state.metSince.get(thresholdKey(t)) ?? now]));
  const seenAt = new Map(state.seenAt);
  for (const { signal } of met) seenAt.set(conditionOf(signal), now);
  const conditions = order.filter((condition) => now - (seenAt.get(condition) ?? Number.NEGATIVE_INFINITY) < transitionMs);
  const unresolved = met.filter((t) => now - (metSince.get(thresholdKey(t)) ?? now) >= t.graceMs);
  // A reading that is as old as the last one says nothing new.
  const fresh = unresolved.filter(({ signal }) => {
    const at = observations.get(signal)?.at;
    return at === undefined || at > (state.lastAt.get(signal) ?? Number.NEGATIVE_INFINITY);
  });
  const lastAt = new Map([...observations].flatMap(([signal, { at }]) => (at === undefined ? [] : [[signal, at] as const])));
  return { state: { conditions, metSince, seenAt, unresolved, lastAt }, act: fresh.toSorted((a, b) => rank(a) - rank(b)) };
}

function rank({ signal }: Threshold): number {
  return conditionOf(signal) === 'MemoryPressure' ? 0 : 1;
}
