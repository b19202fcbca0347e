// One family's way from what is wanted to what the kernel has: a step at a time, one transaction in
// flight. The worker says what changed and when to step.
import { backoffDelayMs } from '../agent/base/backoff.ts';
import type { Clock } from '../agent/base/clock.ts';
import { messageOf } from '../agent/base/errors.ts';
import type { Backend, BackendSettings } from './backends/backend.ts';
import { backendEvent, conflictEvent, type ProxyEvent, refusedEvent } from './events.ts';
import { createFamilyState, type FamilyState } from './family-state.ts';
import { applyHalving, type ServiceChanges } from './halving.ts';
import type { ServicePlan } from './model/plan.ts';
import type { ServiceRow } from './model/service-row.ts';
import type { Commit } from './programmed.ts';

export interface FamilyLoopOptions {
  readonly clock: Clock;
  readonly backend: Backend;
  readonly settings: BackendSettings;
  /** Period of structure audits, ms. */
  readonly syncPeriodMs: number;
  /** Period of audits of everything, ms. */
  readonly fullAuditMs: number;
  readonly service: (key: string) => ServiceRow | undefined;
  /** Keys of all Services, those first that others need. */
  readonly allServices: () => readonly string[];
  readonly plan: (key: string) => ServicePlan;
  readonly onEvent: (event: ProxyEvent) => void;
  readonly onTransaction: (ended: TransactionEnd) => void;
  readonly onCommitted: (commits: readonly Commit[], services: readonly string[]) => void;
  /** Everything wanted has been programmed; told once. */
  readonly onSynced: () => void;
}

export interface TransactionEnd {
  readonly tookMs: number;
  /** How many frontends it was about. */
  readonly changes: number;
  readonly outcome: 'applied' | 'partlyRefused' | 'failed';
  /** One of those that bring in everything: at start, after a failure, after a repair. */
  readonly full: boolean;
}

export interface FamilyLoop {
  readonly state: FamilyState;
  markDirty(service: string): void;
  setSettings(settings: BackendSettings): void;
  /** Reads everything back at the next step. */
  auditSoon(): void;
  /**
   * The same, and resolves to whether the kernel had everything; what it lacks is made anew. Rejects
   * with the backend's error. Waits for all that is wanted to be programmed first.
   */
  verify(): Promise<boolean>;
  /**
   * Does what can be done now, at most one transaction of wanted changes. Returns when to step
   * again, on `mono`; throws when the backend failed as such, and reads back when called again.
   */
  step(signal: AbortSignal): Promise<number>;
  /** Why the kernel refuses a Service; undefined when it does not. */
  refusal(service: string): string | undefined;
  readonly synced: boolean;
  readonly lastCommitAt: number | undefined;
  readonly waitingSince: number | undefined;
}

/** About this many endpoints a transaction: 1,000 to 2,000 Services of five endpoints. */
const batchEndpoints = 10_000;
/** Planning more than this many Services at once would hold the event loop. */
const plansPerStep = 2000;
const culpritBackoff = { initialMs: 1000, maxMs: 300_000 };

export function createFamilyLoop(options: FamilyLoopOptions): FamilyLoop {
  const { clock, backend, onEvent } = options;
  const state = createFamilyState(backend.family);
  const dirty = new Set<string>();
  const culprits = new Map<string, { failures: number; retryAt: number; message: string }>();
  // Conflicts that were told: claimant → frontend → owner.
  const told = new Map<string, Map<string, string>>();
  let settings = options.settings;
  let settingsChanged = false;
  let phase: 'closed' | 'filling' | 'pruning' | 'complete' = 'closed';
  let planned = false;
  let synced = false;
  let failing = false;
  let lastCommitAt: number | undefined;
  let waitingSince: number | undefined;
  // Of what the transaction in flight is about; what arrives meanwhile has a time of its own.
  let inFlightSince: number | undefined;
  let nextAuditAt = 0;
  let nextFullAuditAt = 0;
  let notBefore = 0;
  // Those who asked whether the rules are whole.
  let verifications: PromiseWithResolvers<boolean>[] = [];

  const excluded = (service: string): boolean => (culprits.get(service)?.retryAt ?? 0) > clock.mono();

  async function open(signal: AbortSignal): Promise<void> {
    settingsChanged = false;
    state.reopened(await backend.open(settings, signal));
    if (!planned) {
      const marked = [...dirty];
      dirty.clear();
      for (const service of [...options.allServices(), ...marked]) dirty.add(service);
    }
    planned = true;
    phase = 'filling';
    nextAuditAt = clock.mono() + options.syncPeriodMs;
    nextFullAuditAt = clock.mono() + options.fullAuditMs;
    if (verifications.length > 0) auditSoon();
  }

  function planSome(): void {
    let count = 0;
    for (const key of dirty) {
      if (count++ >= plansPerStep) return;
      dirty.delete(key);
      const service = options.service(key);
      if (service === undefined) told.delete(key);
      state.plan({ key, uid: service?.uid ?? '', createdMs: service?.createdMs ?? 0 }, options.plan(key));
    }
  }

  async function transact(batches: readonly ServiceChanges[], signal: AbortSignal): Promise<void> {
    const startedAt = clock.mono();
    const changes = batches.reduce((sum, batch) => sum + batch.changes.length, 0);
    inFlightSince = waitingSince ?? startedAt;
    if (dirty.size === 0) waitingSince = undefined;
    const end = (outcome: TransactionEnd['outcome']): void => {
      notBefore = startedAt + backend.minIntervalMs;
      options.onTransaction({ tookMs: clock.mono() - startedAt, changes, outcome, full: phase !== 'complete' });
    };
    const onApplied = (applied: readonly ServiceChanges[]): void => {
      for (const { service } of applied) culprits.delete(service);
      options.onCommitted(
        state.committed(applied),
        applied.map(({ service }) => service),
      );
    };
    try {
      const { refused } = await applyHalving(batches, (each) => backend.apply(each, signal), onApplied);
      for (const { batch, error } of refused) refuse(batch.service, error.message);
      lastCommitAt = clock.mono();
      // One transaction does not hold everything.
      if (state.hasNext(excluded)) waitingSince = inFlightSince;
      end(refused.length > 0 ? 'partlyRefused' : 'applied');
    } catch (error) {
      waitingSince = inFlightSince;
      end('failed');
      throw error;
    } finally {
      inFlightSince = undefined;
    }
  }

  function refuse(service: string, message: string): void {
    const failures = (culprits.get(service)?.failures ?? 0) + 1;
    culprits.set(service, { failures, retryAt: clock.mono() + backoffDelayMs(culpritBackoff, failures), message });
    if (failures === 1) onEvent(refusedEvent(service, options.service(service), backend.name, message));
  }

  function tellConflicts(): void {
    for (const conflict of state.takeConflicts()) {
      const { key, service } = conflict.frontend;
      const owners = told.get(service) ?? new Map<string, string>();
      if (owners.get(key) === conflict.owner) continue;
      told.set(service, owners.set(key, conflict.owner));
      onEvent(conflictEvent(conflict, options.service(service)));
    }
  }

  function takeVerifications(): PromiseWithResolvers<boolean>[] {
    const taken = verifications;
    verifications = [];
    return taken;
  }

  function auditSoon(): void {
    nextAuditAt = 0;
    nextFullAuditAt = 0;
  }

  /** Everything wanted is in: what is left over goes, then the last guards come up, then audits. */
  async function settle(signal: AbortSignal): Promise<void> {
    if (phase === 'filling') {
      state.dropUnwanted();
      phase = 'pruning';
    } else if (phase === 'pruning') {
      await backend.complete(signal);
      phase = 'complete';
      if (!synced) options.onSynced();
      synced = true;
      lastCommitAt = clock.mono();
    } else if (clock.mono() >= nextAuditAt) {
      const full = clock.mono() >= nextFullAuditAt;
      nextAuditAt = clock.mono() + options.syncPeriodMs;
      if (full) nextFullAuditAt = clock.mono() + options.fullAuditMs;
      const whole = await backend.audit(full ? 'everything' : 'structure', signal);
      if (full) for (const { resolve } of takeVerifications()) resolve(whole);
      if (whole) {
        lastCommitAt = clock.mono();
        return;
      }
      onEvent(
        backendEvent('ProxyRulesRepaired', `${backend.name}: the rules of Services were changed by somebody else, and are made anew`),
      );
      phase = 'closed';
      waitingSince ??= clock.mono();
    }
  }

  async function run(signal: AbortSignal): Promise<number> {
    if (phase === 'closed') await open(signal);
    if (settingsChanged) {
      settingsChanged = false;
      await backend.configure(settings, signal);
    }
    planSome();
    tellConflicts();
    if (clock.mono() < notBefore && state.hasNext(excluded)) return notBefore;
    const batches = state.next(batchEndpoints, excluded);
    if (batches.length > 0) await transact(batches, signal);
    if (dirty.size > 0 || state.hasNext(excluded)) return clock.mono();
    // What changed may need nothing of this family: then the kernel has all of it already.
    if (synced && waitingSince !== undefined) lastCommitAt = clock.mono();
    waitingSince = undefined;
    const before = phase;
    await settle(signal);
    if (phase !== before) return clock.mono();
    // One whose frontends another Service has taken over has nothing to be tried again.
    for (const service of culprits.keys()) if (!state.isPending(service)) culprits.delete(service);
    return Math.min(nextAuditAt, ...[...culprits.values()].map(({ retryAt }) => retryAt));
  }

  return {
    state,
    markDirty(service) {
      dirty.add(service);
      // A Service that changed is tried at once, whatever the kernel said of it before.
      culprits.delete(service);
      waitingSince ??= clock.mono();
    },
    setSettings(changed) {
      settings = changed;
      settingsChanged = true;
    },
    auditSoon,
    verify() {
      const asked = Promise.withResolvers<boolean>();
      verifications.push(asked);
      auditSoon();
      return asked.promise;
    },
    async step(signal) {
      try {
        const again = await run(signal);
        failing = false;
        return again;
      } catch (error) {
        phase = 'closed';
        waitingSince ??= clock.mono();
        for (const { reject } of takeVerifications()) reject(error);
        if (!failing && !signal.aborted) onEvent(backendEvent('ProxyBackendFailed', `${backend.name}: ${messageOf(error)}`));
        failing = true;
        throw error;
      }
    },
    refusal: (service) => culprits.get(service)?.message,
    get synced() {
      return synced;
    },
    get lastCommitAt() {
      return lastCommitAt;
    },
    get waitingSince() {
      return inFlightSince ?? waitingSince;
    },
  };
}
