// Which pods are in the rules of which Services: kept as a table, from what the kernel acknowledged.
import { type ReadonlyTable, Table } from '../agent/base/table.ts';
import type { Endpoint } from './model/endpoints.ts';
import type { Frontend } from './model/frontend.ts';

/** A Service that sends to an address. */
export interface ProgrammedService {
  /** `namespace/name`. */
  readonly service: string;
  /** Since when, wall ms; for what was found at start, when it was found. */
  readonly sinceMs: number;
}

/** What this node's rules send to an address. Absent while they send nothing there. */
export interface ProgrammedRow {
  readonly address: string;
  /** Ordered by Service. */
  readonly services: readonly ProgrammedService[];
}

/** A frontend whose rules the kernel acknowledged, before and after; undefined: none. */
export interface Commit {
  readonly key: string;
  readonly before: Frontend | undefined;
  readonly after: Frontend | undefined;
}

export interface Programmed {
  /** By address of an endpoint (`10.1.0.7`). Pods of the host network share the node's. */
  readonly table: ReadonlyTable<ProgrammedRow>;
  commit(commits: readonly Commit[], nowMs: number): void;
}

/** All endpoints that a frontend may send to, by whatever policy, each once. */
function endpointsOf(frontend: Frontend | undefined): Endpoint[] {
  const { cluster, local } = frontend ?? {};
  const both = [...(cluster?.endpoints ?? []), ...(local?.endpoints ?? [])];
  return [...new Map(both.map((endpoint) => [endpoint.key, endpoint])).values()];
}

export function createProgrammed(): Programmed {
  const table = new Table<ProgrammedRow>('programmed');
  // How many frontends of a Service send to an address: address → Service → count.
  const uses = new Map<string, Map<string, { count: number; sinceMs: number }>>();

  function count(frontend: Frontend | undefined, by: 1 | -1, nowMs: number, changed: Set<string>): void {
    if (frontend === undefined) return;
    for (const { address } of endpointsOf(frontend)) {
      const services = uses.get(address.ip) ?? new Map<string, { count: number; sinceMs: number }>();
      uses.set(address.ip, services);
      const use = services.get(frontend.service) ?? { count: 0, sinceMs: nowMs };
      services.set(frontend.service, use);
      use.count += by;
      changed.add(address.ip);
    }
  }

  function write(address: string): void {
    const services = uses.get(address);
    if (services === undefined) return;
    for (const [service, use] of services) if (use.count <= 0) services.delete(service);
    if (services.size === 0) {
      uses.delete(address);
      table.delete(address);
      return;
    }
    const rows = [...services].map(([service, { sinceMs }]) => ({ service, sinceMs })).sort((a, b) => (a.service < b.service ? -1 : 1));
    const old = table.get(address)?.services ?? [];
    const same =
      old.length === rows.length && old.every(({ service, sinceMs }, i) => service === rows[i]?.service && sinceMs === rows[i]?.sinceMs);
    if (!same) table.set(address, { address, services: rows });
  }

  return {
    table,
    commit(commits, nowMs) {
      const changed = new Set<string>();
      // New uses first: an endpoint that stays keeps the time since when it is in.
      for (const { after } of commits) count(after, 1, nowMs, changed);
      for (const { before } of commits) count(before, -1, nowMs, changed);
      for (const address of changed) write(address);
    },
  };
}
