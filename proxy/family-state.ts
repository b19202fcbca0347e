// What the loop keeps of one family between transactions: what is wanted, what is in, and what the
// next transaction is made of. No I/O and no clock.
import type { Change } from './backends/backend.ts';
import type { ServiceChanges } from './halving.ts';
import type { Family } from './model/address.ts';
import { type Claimant, type Conflict, createClaims } from './model/claims.ts';
import type { Frontend } from './model/frontend.ts';
import type { HealthCheck, ServicePlan } from './model/plan.ts';
import type { Commit } from './programmed.ts';

/** How many frontends of how many Services are in what state; for gauges. */
export interface FamilyCounts {
  /** Frontends that the kernel has. */
  readonly frontends: number;
  /** Ports whose cluster IP is closed although the Service has endpoints on other nodes. */
  readonly noLocalEndpointsInternal: number;
  /** The same of external addresses and node ports, by port. */
  readonly noLocalEndpointsExternal: number;
}

export interface FamilyState {
  readonly family: Family;
  /** Takes the new plan of a Service; an empty one when it is gone. */
  plan(claimant: Claimant, plan: ServicePlan): void;
  /** The kernel was read back and has these frontends: all that is wanted is compared anew. */
  reopened(found: ReadonlySet<string>): void;
  /** Queues what the kernel has and nobody wants: not before all that is wanted has been planned. */
  dropUnwanted(): void;
  /** What is to be done, by Service, without those in `except`; about `limit` endpoints at most. */
  next(limit: number, except: (service: string) => boolean): ServiceChanges[];
  /** Whether anything is to be done for others than `except`. */
  hasNext(except: (service: string) => boolean): boolean;
  /** Whether anything is to be done for this Service. */
  isPending(service: string): boolean;
  /** The kernel acknowledged these. Returns what became of the frontends. */
  committed(batches: readonly ServiceChanges[]): Commit[];
  /** What the kernel has acknowledged for a key. */
  acknowledged(key: string): Frontend | undefined;
  wanted(service: string): readonly Frontend[];
  owner(key: string): Frontend | undefined;
  /** Conflicts of frontends whose owners or claimants changed since the last call. */
  takeConflicts(): Conflict[];
  healthChecks(): IterableIterator<HealthCheck>;
  healthCheck(service: string): HealthCheck | undefined;
  counts(): FamilyCounts;
}

export function createFamilyState(family: Family): FamilyState {
  const claims = createClaims();
  const acknowledged = new Map<string, Frontend>();
  const checks = new Map<string, HealthCheck>();
  // Keys to look at, by the Service they are to be applied with; a key that no Service is known
  // for, left over from an earlier run, stands for itself.
  const pending = new Map<string, Set<string>>();
  const serviceOf = new Map<string, string>();
  // In the kernel from an earlier run, and not yet compared with what is wanted.
  let unknown = new Set<string>();
  let disputed = new Set<string>();

  function enqueue(key: string): void {
    const before = serviceOf.get(key);
    const service = claims.owner(key)?.service ?? acknowledged.get(key)?.service ?? key;
    if (before !== undefined && before !== service) forget(key);
    serviceOf.set(key, service);
    const keys = pending.get(service);
    if (keys === undefined) pending.set(service, new Set([key]));
    else keys.add(key);
  }

  function forget(key: string): void {
    const service = serviceOf.get(key);
    serviceOf.delete(key);
    const keys = service === undefined ? undefined : pending.get(service);
    keys?.delete(key);
    if (keys?.size === 0) pending.delete(service as string);
  }

  function isNew(key: string): boolean {
    return unknown.has(key) || acknowledged.get(key) !== claims.owner(key);
  }

  return {
    family,
    plan(claimant, { frontends, healthCheck }) {
      for (const key of claims.set(claimant, frontends)) {
        disputed.add(key);
        if (isNew(key)) enqueue(key);
      }
      if (healthCheck === undefined) checks.delete(claimant.key);
      else checks.set(claimant.key, healthCheck);
    },
    reopened(found) {
      unknown = new Set(found);
      // What was acknowledged and is not in the kernel any more has to be told to the backend again,
      // which compares with what it found itself.
      for (const key of acknowledged.keys()) enqueue(key);
      for (const key of claims.keys()) enqueue(key);
    },
    dropUnwanted() {
      for (const key of unknown) if (claims.owner(key) === undefined) enqueue(key);
    },
    next(limit, except) {
      const batches: ServiceChanges[] = [];
      let size = 0;
      for (const [service, keys] of pending) {
        if (size >= limit) break;
        if (except(service)) continue;
        const changes: Change[] = [...keys].map((key) => ({ key, frontend: claims.owner(key) }));
        batches.push({ service, changes });
        size += changes.reduce((sum, { frontend }) => sum + weightOf(frontend), 0);
      }
      return batches;
    },
    hasNext: (except) => pending.keys().some((service) => !except(service)),
    isPending: (service) => pending.has(service),
    committed(batches) {
      const commits: Commit[] = [];
      for (const { key, frontend } of batches.flatMap(({ changes }) => changes)) {
        const before = acknowledged.get(key);
        if (frontend === undefined) acknowledged.delete(key);
        else acknowledged.set(key, frontend);
        unknown.delete(key);
        if (before !== frontend) commits.push({ key, before, after: frontend });
        // What is wanted may have changed again while the transaction ran.
        if (claims.owner(key) === frontend) forget(key);
        else enqueue(key);
      }
      return commits;
    },
    acknowledged: (key) => acknowledged.get(key),
    wanted: (service) => claims.of(service),
    owner: (key) => claims.owner(key),
    takeConflicts() {
      const conflicts = [...disputed].flatMap((key) => claims.waiting(key));
      disputed = new Set();
      return conflicts;
    },
    healthChecks: () => checks.values(),
    healthCheck: (service) => checks.get(service),
    counts() {
      const ports = { internal: new Set<string>(), external: new Set<string>() };
      for (const { closed, kind, service, portName, protocol } of acknowledged.values())
        if (closed === 'drop') ports[kind === 'clusterIP' ? 'internal' : 'external'].add(`${service} ${protocol} ${portName}`);
      return {
        frontends: acknowledged.size,
        noLocalEndpointsInternal: ports.internal.size,
        noLocalEndpointsExternal: ports.external.size,
      };
    },
  };
}

function weightOf(frontend: Frontend | undefined): number {
  return 1 + (frontend?.cluster?.endpoints.length ?? 0) + (frontend?.local?.endpoints.length ?? 0);
}
