import type { Clock } from '../agent/base/clock.ts';
import { AgentError } from '../agent/base/errors.ts';
import type { Log } from '../agent/base/log.ts';
import { startLoop } from '../agent/base/loop.ts';
import { type ReadonlyTable, Table } from '../agent/base/table.ts';
import type { Backend, BackendSettings } from './backends/backend.ts';
import { type Description, describeService } from './describe.ts';
import type { ProxyEvent } from './events.ts';
import { createFamilyLoop, type FamilyLoop, type TransactionEnd } from './family-loop.ts';
import type { FamilyCounts } from './family-state.ts';
import type { Family } from './model/address.ts';
import { mergeEndpoints } from './model/endpoints.ts';
import type { NodeFacts } from './model/node.ts';
import { type HealthCheck, planService } from './model/plan.ts';
import type { ServiceRow } from './model/service-row.ts';
import type { SliceRow } from './model/slice-row.ts';
import { type Commit, createProgrammed, type ProgrammedRow } from './programmed.ts';
import { createSliceIndex } from './slice-index.ts';

export interface ProxyOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** Rows of `serviceRow`, by `namespace/name`. Nothing is done until both tables are synced. */
  readonly services: ReadonlyTable<ServiceRow>;
  /** Rows of `sliceRow`, by `namespace/name` of the slice. */
  readonly slices: ReadonlyTable<SliceRow>;
  readonly node: NodeFacts;
  /** One a family that is served; closed with the proxy. */
  readonly backends: readonly Backend[];
  readonly settings: Readonly<Record<Family, BackendSettings>>;
  /** How often the kernel's structure is audited, ms (syncPeriod). */
  readonly syncPeriodMs: number;
  /** How often everything in the kernel is read back, ms (upstream's full sync: an hour). */
  readonly fullAuditMs: number;
  readonly observer: ProxyObserver;
}

/** What others hear of the proxy: metrics, Events, conntrack. All must be quick and not throw. */
export interface ProxyObserver {
  event(event: ProxyEvent): void;
  /** A row of one of the tables changed: kube-proxy's `*_changes_total`. */
  changed(what: 'service' | 'endpoints'): void;
  transaction(family: Family, ended: TransactionEnd): void;
  /** The kernel acknowledged what became of these frontends. */
  committed(family: Family, commits: readonly Commit[]): void;
  /** From the moment endpoints changed (as their slice says) until the rules have it, ms. */
  programmingLatency(family: Family, ms: number): void;
}

/** How one family is doing. Times are on the clock's mono, ms. */
export interface FamilyHealth {
  /** Everything wanted has been programmed once since start. */
  readonly synced: boolean;
  /** When the last transaction ended well. */
  readonly lastCommitAt: number | undefined;
  /** Since when the oldest change waits to be programmed; undefined while none does. */
  readonly waitingSince: number | undefined;
  /** Goes through all frontends when it is read. */
  readonly counts: FamilyCounts;
}

/** A health check; in the table by `family|namespace/name`. */
export interface HealthCheckRow extends HealthCheck {
  readonly family: Family;
}

export interface Proxy extends AsyncDisposable {
  /** Which Services send to an address here, since when; by address of the pod. */
  readonly programmed: ReadonlyTable<ProgrammedRow>;
  /** What load balancers ask this node about, once it is programmed. */
  readonly healthChecks: ReadonlyTable<HealthCheckRow>;
  readonly families: readonly Family[];
  /** Resolves once everything wanted has been programmed in each family; never, where that does not happen. */
  readonly synced: Promise<void>;
  /** Undefined for a family that is not served. */
  health(family: Family): FamilyHealth | undefined;
  /** A label or an address of the node changed. */
  updateNode(node: NodeFacts): void;
  /** Node-port addresses or another setting changed. */
  updateSettings(family: Family, settings: BackendSettings): void;
  /** Somebody else touched the kernel: read it back now, and repair it. */
  audit(family: Family): void;
  /**
   * Reads everything of a family back, once all that is wanted is programmed, and resolves to whether
   * the kernel had it; what it lacks is made anew. Rejects with the backend's error, or when the
   * signal aborts. Throws AgentError NotFound for a family that is not served.
   */
  verify(family: Family, signal: AbortSignal): Promise<boolean>;
  /** How many Services changed, or their endpoints, that the kernel does not have yet. */
  pending(): { readonly services: number; readonly endpoints: number };
  /** What is wanted and programmed of a Service (`namespace/name`), and why an endpoint is out. */
  describe(service: string): Description;
}

/** These come first at start: nothing works without names and the API. */
const neededFirst = new Set(['default/kubernetes', 'kube-system/kube-dns']);

/**
 * Programs Services: watches both tables, plans what changed and brings it into the kernel. Each
 * family has one transaction in flight; what arrives meanwhile is the next one, and no change waits
 * for a clock. Disposing ends the loops and closes the backends; the rules stay.
 */
export function startProxy(options: ProxyOptions): Proxy {
  const { clock, services, slices, observer } = options;
  let { node } = options;
  const index = createSliceIndex(slices);
  const programmed = createProgrammed();
  const healthChecks = new Table<HealthCheckRow>('health-checks');
  const startedAt = clock.wall();
  // When the changes happened that the rules of a Service do not have yet: Service → wall ms.
  const triggers = new Map<Family, Map<string, number[]>>();
  const loops = new Map<string, FamilyLoop>();
  const pending = { services: new Set<string>(), endpoints: new Set<string>() };
  const synced = Promise.withResolvers<void>();
  const unsynced = new Set(options.backends.map(({ family }) => family));
  const forgetPending = (): void => {
    if ([...loops.values()].some(({ waitingSince }) => waitingSince !== undefined)) return;
    pending.services.clear();
    pending.endpoints.clear();
  };

  const endpointsOf = (service: string, family: Family) => mergeEndpoints(index.of(service, family), node.name);

  function makeLoop(backend: Backend): FamilyLoop {
    const { family } = backend;
    triggers.set(family, new Map());
    return createFamilyLoop({
      clock,
      backend,
      settings: options.settings[family],
      syncPeriodMs: options.syncPeriodMs,
      fullAuditMs: options.fullAuditMs,
      service: (key) => services.get(key),
      allServices: () => [...services.keys()].sort((a, b) => Number(neededFirst.has(b)) - Number(neededFirst.has(a))),
      plan: (key) => planService(services.get(key), endpointsOf(key, family), node, family),
      onEvent: (event) => observer.event(event),
      onTransaction: (ended) => observer.transaction(family, ended),
      onCommitted: (commits, changed) => committed(family, commits, changed),
      onSynced() {
        unsynced.delete(family);
        if (unsynced.size === 0) synced.resolve();
      },
    });
  }

  function committed(family: Family, commits: readonly Commit[], changed: readonly string[]): void {
    const now = clock.wall();
    programmed.commit(commits, now);
    for (const service of changed) {
      const check = loops.get(family)?.state.healthCheck(service);
      if (check === undefined) healthChecks.delete(`${family}|${service}`);
      else healthChecks.set(`${family}|${service}`, { ...check, family });
      for (const triggeredMs of triggers.get(family)?.get(service) ?? []) observer.programmingLatency(family, now - triggeredMs);
      triggers.get(family)?.delete(service);
    }
    observer.committed(family, commits);
    forgetPending();
  }

  function markDirty(service: string): void {
    for (const [family, each] of loops) {
      each.markDirty(service);
      loop.enqueue(family);
    }
  }

  function noteTrigger(key: string): void {
    const slice = slices.get(key);
    // What happened before this start is not the time that this proxy took (as upstream).
    if (slice?.triggeredMs === undefined || slice.triggeredMs < startedAt) return;
    const times = triggers.get(slice.family);
    times?.set(slice.service, [...(times.get(slice.service) ?? []).slice(-99), slice.triggeredMs]);
  }

  for (const backend of options.backends) loops.set(backend.family, makeLoop(backend));
  const loop = startLoop({
    name: 'proxy',
    clock,
    log: options.log,
    signal: options.signal,
    run: (family, signal) => (services.synced && slices.synced ? loops.get(family)?.step(signal) : undefined),
  });
  const enqueueAll = (): void => {
    for (const family of loops.keys()) loop.enqueue(family);
  };
  const subscriptions = [
    services.subscribe((key) => {
      observer.changed('service');
      pending.services.add(key);
      markDirty(key);
    }),
    slices.subscribe((key) => {
      observer.changed('endpoints');
      noteTrigger(key);
      for (const service of index.changed(key)) {
        pending.endpoints.add(service);
        markDirty(service);
      }
    }),
    services.onSynced(enqueueAll),
    slices.onSynced(enqueueAll),
  ];

  return {
    programmed: programmed.table,
    healthChecks,
    families: options.backends.map(({ family }) => family),
    synced: synced.promise,
    health(family) {
      const each = loops.get(family);
      if (each === undefined) return undefined;
      const { synced, lastCommitAt, waitingSince } = each;
      return {
        ...{ synced, lastCommitAt, waitingSince },
        get counts() {
          return each.state.counts();
        },
      };
    },
    updateNode(changed) {
      const before = node;
      node = changed;
      for (const service of services.values()) if (dependsOnNode(service, before, changed, index.of)) markDirty(service.key);
    },
    updateSettings(family, settings) {
      loops.get(family)?.setSettings(settings);
      loop.enqueue(family);
    },
    audit(family) {
      loops.get(family)?.auditSoon();
      loop.enqueue(family);
    },
    async verify(family, signal) {
      const each = loops.get(family);
      if (each === undefined) throw new AgentError('NotFound', `the proxy does not serve ${family}`);
      const aborted = Promise.withResolvers<never>();
      using hooks = new DisposableStack();
      for (const given of [signal, options.signal]) {
        given.throwIfAborted();
        const abort = (): void => aborted.reject(given.reason);
        given.addEventListener('abort', abort, { once: true });
        hooks.defer(() => given.removeEventListener('abort', abort));
      }
      const verified = each.verify();
      loop.enqueue(family);
      return await Promise.race([verified, aborted.promise]);
    },
    pending() {
      forgetPending();
      return { services: pending.services.size, endpoints: pending.endpoints.size };
    },
    describe(key) {
      const families = [...loops.values()].map((each) => ({
        state: each.state,
        endpoints: endpointsOf(key, each.state.family),
        refused: each.refusal(key),
      }));
      const skipped = families.flatMap(({ state }) => index.of(key, state.family)).flatMap((slice) => slice.skipped ?? []);
      return describeService(key, services.get(key), families, skipped);
    },
    async [Symbol.asyncDispose]() {
      for (const subscription of subscriptions) subscription[Symbol.dispose]();
      await loop[Symbol.asyncDispose]();
      for (const backend of options.backends) await backend[Symbol.asyncDispose]();
    },
  };
}

/** A zone or name means something to Services with hints, an address to those with source ranges. */
function dependsOnNode(
  service: ServiceRow,
  before: NodeFacts,
  after: NodeFacts,
  slicesOf: (service: string, family: Family) => readonly SliceRow[],
): boolean {
  const families = Object.keys(service.addresses) as Family[];
  return families.some((family) => {
    if (before.addresses[family] !== after.addresses[family] && service.addresses[family]?.sourceRanges !== undefined) return true;
    if (before.zone === after.zone) return false;
    return slicesOf(service.key, family).some(({ addresses }) => addresses.some(({ zoneHints }) => zoneHints !== undefined));
  });
}
