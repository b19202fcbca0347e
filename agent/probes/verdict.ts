import type { Container, Probe } from '../model/generated/api.ts';

export type ProbeKind = 'startup' | 'readiness' | 'liveness';

export const probeKinds: readonly ProbeKind[] = ['startup', 'readiness', 'liveness'];

/** What the probes of one container instance have found. Undefined: none of that kind, or it has not spoken yet. */
export interface ProbeVerdicts {
  readonly startup?: boolean | undefined;
  readonly ready?: boolean | undefined;
  readonly liveness?: boolean | undefined;
}

/** How one probe of one container instance stands. Times are on the clock's `mono`, in milliseconds. */
export interface ProbeRun {
  /** When the next counted attempt is due. */
  readonly dueAt: number;
  readonly last: boolean | undefined;
  /** How many results in a row were like the last. */
  readonly streak: number;
  /** True when this instance is probed no more: it has started, or has to be restarted. */
  readonly held: boolean;
  /** Attempts outside the rhythm since the last counted one, see `eagerDelayMs`. */
  readonly eager: number;
}

/** Where each kind's verdict stands in the row. */
export function verdictOf(verdicts: ProbeVerdicts, kind: ProbeKind): boolean | undefined {
  return kind === 'readiness' ? verdicts.ready : verdicts[kind];
}

export function withVerdict(verdicts: ProbeVerdicts, kind: ProbeKind, value: boolean): ProbeVerdicts {
  return kind === 'readiness' ? { ...verdicts, ready: value } : { ...verdicts, [kind]: value };
}

export function probeOf(container: Container, kind: ProbeKind): Probe | undefined {
  switch (kind) {
    case 'startup':
      return container.startupProbe;
    case 'readiness':
      return container.readinessProbe;
    case 'liveness':
      return container.livenessProbe;
  }
}

// The API server fills these in; pods from files may come without.
function periodMsOf(probe: Probe): number {
  return 1000 * (probe.periodSeconds || 10);
}

export function timeoutMsOf(probe: Probe): number {
  return 1000 * (probe.timeoutSeconds || 1);
}

/**
 * What a result makes of a probe: its next run, and the verdict when the threshold is reached (else undefined: the verdict stays).
 * A liveness failure and any verdict of a startup probe end the probing of this instance: what comes next is a restart, or the other probes.
 */
export function afterResult(
  kind: ProbeKind,
  probe: Probe,
  run: ProbeRun,
  success: boolean,
): { run: ProbeRun; verdict: boolean | undefined } {
  const streak = run.last === success ? run.streak + 1 : 1;
  const threshold = success ? (probe.successThreshold ?? 1) : (probe.failureThreshold ?? 3);
  if (streak < threshold) return { run: { ...run, last: success, streak }, verdict: undefined };
  const held = kind === 'startup' || (kind === 'liveness' && !success);
  return { run: { ...run, last: success, streak: held ? 0 : streak, held }, verdict: success };
}

/**
 * When the first attempt is due, on `mono`: as soon as the initial delay since the container's start (wall clock) is over. What was running before the agent
 * is spread over one period, so that a restart of the agent does not probe the whole node at once. `random` is in [0, 1).
 */
export function firstDueAt(
  probe: Probe,
  at: {
    readonly startedAtWall: number;
    readonly nowWall: number;
    readonly nowMono: number;
    readonly adopted: boolean;
    readonly random: number;
  },
): number {
  const delayMs = 1000 * (probe.initialDelaySeconds ?? 0);
  // A clock that was set back must not put the first attempt off for ever: at most the whole delay from now.
  const waitMs = Math.min(delayMs, Math.max(0, at.startedAtWall + delayMs - at.nowWall));
  const spreadMs = at.adopted ? at.random * periodMsOf(probe) : 0;
  return at.nowMono + Math.max(waitMs, spreadMs);
}

// Containers that started together do not stay in step: runtimes feel fifty execs at once.
const periodSpread = 0.05;

/** When the attempt after one that was due at `dueAt` is due: a period later, spread a little; one that was missed by then is made at once, not twice. */
export function nextDueAt(probe: Probe, dueAt: number, nowMono: number, random: number): number {
  const period = periodMsOf(probe) * (1 - periodSpread + 2 * periodSpread * random);
  return Math.max(dueAt + period, nowMono);
}

const firstEagerMs = 50;

/**
 * After how long to try again outside the rhythm, in ms, or undefined: wait for the next period. A connection that nobody accepts costs the application
 * nothing, so while a container has never been found ready or started, it is tried soon and ever more seldom: who listens after 100 ms is not left
 * waiting for a period of 10 s. Such attempts count only when they succeed.
 */
export function eagerDelayMs(kind: ProbeKind, run: ProbeRun, refused: boolean, nowMono: number): number | undefined {
  if (kind === 'liveness' || !refused || run.last === true) return undefined;
  const delay = firstEagerMs * 2 ** run.eager;
  return nowMono + delay < run.dueAt ? delay : undefined;
}
