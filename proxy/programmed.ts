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
  /** How many of its frontends send there. Nobody is told when only this changes. */
  frontends: number;
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
function endpointsOf({ cluster, local }: Frontend): readonly Endpoint[] {
  if (local === undefined) return cluster?.endpoints ?? [];
  const keys = new Set(local.endpoints.map(({ key }) => key));
  return [...local.endpoints, ...(cluster?.endpoints ?? []).filter(({ key }) => !keys.has(key))];
}

export function createProgrammed(): Programmed {
  const table = new Table<ProgrammedRow>('programmed');

  const usesOf = (address: string): readonly ProgrammedService[] => table.get(address)?.services ?? [];

  function add({ service }: Frontend, address: string, nowMs: number): void {
    const uses = usesOf(address);
    const use = uses.find((each) => each.service === service);
    if (use !== undefined) {
      use.frontends++;
      return;
    }
    const services: ProgrammedService[] = [...uses, { service, sinceMs: nowMs, frontends: 1 }];
    table.set(address, { address, services: services.sort((a, b) => (a.service < b.service ? -1 : 1)) });
  }

  function remove({ service }: Frontend, address: string): void {
    const uses = usesOf(address);
    const use = uses.find((each) => each.service === service);
    if (use === undefined || --use.frontends > 0) return;
    if (uses.length === 1) table.delete(address);
    else table.set(address, { address, services: uses.filter((each) => each !== use) });
  }

  return {
    table,
    commit(commits, nowMs) {
      // New uses first: an endpoint that stays keeps the time since when it is in.
      for (const { after } of commits) if (after !== undefined) for (const each of endpointsOf(after)) add(after, each.address.ip, nowMs);
      for (const { before } of commits) if (before !== undefined) for (const each of endpointsOf(before)) remove(before, each.address.ip);
    },
  };
}
