// From what the kernel has to what it should have, as lines of iptables-restore: chains that changed, and
// in chains that all Services share, single rules.
import type { Family } from '../../model/address.ts';
import { type Frontend, frontendKey } from '../../model/frontend.ts';
import { type Protocol, protocols } from '../../model/service-row.ts';
import type { BackendSettings, Change } from '../backend.ts';
import type { Listing } from './listing.ts';
import { type ChainId, isServiceChain, nameOf, portText, type TableName, tableOf } from './names.ts';
import { serviceChains, sharedRules } from './render.ts';
import { canonical, optionOf, ownDestination } from './rule.ts';
import { isTail, sharedChains } from './structure.ts';

/** Rules in shared chains: `nat KUBE-SERVICES` and the one spelling → the text that deletes it. */
type Shared = ReadonlyMap<string, string>;

/** What the kernel has acknowledged. */
export interface Committed {
  readonly family: Family;
  /** Those that were applied; what an earlier run left is in `shared` and `chains` alone. */
  readonly frontends: Map<string, Frontend>;
  /** By frontend key. */
  readonly shared: Map<string, Shared>;
  /** Chains of Services and their rules. */
  readonly chains: Map<ChainId, readonly string[]>;
  /** Keys of frontends by the port of a Service that they are of. */
  readonly groups: Map<string, Set<string>>;
  /** Chains by the port of a Service that they were made for. */
  readonly owned: Map<string, ReadonlySet<ChainId>>;
  /** Rules in shared chains that no frontend has, as the text that deletes them. */
  readonly strays: Set<string>;
}

/** What a listing says of Services. */
export function adopt(family: Family, found: Listing): Committed {
  const shared = new Map<string, Map<string, string>>();
  const chains = new Map<ChainId, readonly string[]>();
  const strays = new Set<string>();
  for (const [id, rules] of found) if (isServiceChain(nameOf(id))) chains.set(id, rules.map(canonical));
  for (const id of sharedChains)
    for (const raw of found.get(id) ?? []) {
      const rule = canonical(raw);
      if (id === 'nat KUBE-SERVICES' && isTail(rule)) continue;
      const key = keyOf(family, id, rule);
      const rules = shared.get(key ?? '') ?? new Map<string, string>();
      // A second time the same rule is nobody's either.
      if (key === undefined || rules.has(`${id} ${rule}`)) strays.add(`${id} ${raw}`);
      else shared.set(key, rules.set(`${id} ${rule}`, raw));
    }
  return { family, frontends: new Map(), shared, chains, groups: new Map(), owned: new Map(), strays };
}

/** Whose rule it is; undefined for what no frontend of ours looks like. */
function keyOf(family: Family, chain: ChainId, rule: string): string | undefined {
  const protocol = protocols.find((each) => each === optionOf(rule, '-p')) as Protocol | undefined;
  const port = Number(optionOf(rule, '--dport'));
  if (protocol === undefined || !Number.isInteger(port) || chain === 'filter KUBE-NODEPORTS') return undefined;
  if (chain === 'nat KUBE-NODEPORTS' || rule.includes(ownDestination)) return frontendKey({ family, address: undefined, protocol, port });
  const address = optionOf(rule, '-d')?.replace(/\/\d+$/, '');
  return address === undefined ? undefined : frontendKey({ family, address, protocol, port });
}

export interface Staged {
  /** By table; empty tables say nothing. */
  readonly lines: ReadonlyMap<TableName, readonly string[]>;
  /** To be called once the kernel has taken the lines. */
  commit(): void;
}

const groupOf = (frontend: Frontend): string => `${portText(frontend)} ${frontend.protocol}`;

export function stage(committed: Committed, changes: readonly Change[], settings: BackendSettings): Staged {
  const next = new Map(changes.map(({ key, frontend }) => [key, frontend]));
  const touched = new Set<string>();
  for (const [key, frontend] of next) for (const each of [committed.frontends.get(key), frontend]) if (each) touched.add(groupOf(each));
  const lines = createLines();
  const shared = [...next].map(([key, frontend]) => ({ key, rules: stageShared(lines, committed.shared.get(key), frontend, settings) }));
  const members = membersOf(committed, next, touched);
  const groups = [...touched].map((group) => ({ group, ...stageGroup(lines, committed, group, members.get(group) ?? [], settings) }));
  return {
    lines: lines.all(),
    commit() {
      for (const { key, rules } of shared) setOrDelete(committed.shared, key, rules.size === 0 ? undefined : rules);
      for (const [key, frontend] of next) setOrDelete(committed.frontends, key, frontend);
      for (const { group, chains, gone } of groups) {
        const keys = (members.get(group) ?? []).map(({ key }) => key);
        setOrDelete(committed.groups, group, keys.length === 0 ? undefined : new Set(keys));
        setOrDelete(committed.owned, group, chains.size === 0 ? undefined : new Set(chains.keys()));
        for (const id of gone) committed.chains.delete(id);
        for (const [id, rules] of chains) committed.chains.set(id, rules);
      }
    },
  };
}

/** Frontends by group as they are to be. */
function membersOf(
  committed: Committed,
  next: ReadonlyMap<string, Frontend | undefined>,
  touched: ReadonlySet<string>,
): Map<string, Frontend[]> {
  const members = new Map<string, Frontend[]>();
  for (const group of touched) {
    const staying = [...(committed.groups.get(group) ?? [])].filter((key) => !next.has(key));
    members.set(
      group,
      staying.flatMap((key) => committed.frontends.get(key) ?? []),
    );
  }
  for (const frontend of next.values()) if (frontend !== undefined) members.get(groupOf(frontend))?.push(frontend);
  // Which one speaks for the group must not depend on what changed last.
  for (const list of members.values()) list.sort((a, b) => (a.key < b.key ? -1 : 1));
  return members;
}

function stageShared(lines: Lines, before: Shared | undefined, frontend: Frontend | undefined, settings: BackendSettings): Shared {
  const rules = frontend === undefined ? [] : sharedRules(frontend, settings);
  const after = new Map<string, string>();
  for (const { chain, rule } of rules) {
    const id = `${chain} ${rule}`;
    const had = before?.get(id);
    if (had === undefined) lines.shared(tableOf(chain), `-I ${nameOf(chain)} 1 ${rule}`);
    after.set(id, had ?? rule);
  }
  for (const [id, raw] of before ?? []) if (!after.has(id)) lines.deleteShared(id, raw);
  return after;
}

function stageGroup(
  lines: Lines,
  committed: Committed,
  group: string,
  members: readonly Frontend[],
  settings: BackendSettings,
): { chains: ReadonlyMap<ChainId, readonly string[]>; gone: readonly ChainId[] } {
  const chains = serviceChains(members, settings);
  for (const [id, rules] of chains) if (!same(committed.chains.get(id), rules)) lines.chain(id, rules);
  const gone = [...(committed.owned.get(group) ?? [])].filter((id) => !chains.has(id));
  for (const id of gone) lines.drop(id);
  return { chains, gone };
}

/** Rules in shared chains that no frontend has: somebody put them there, and they may stop all that comes after. */
export function stageStrays(committed: Committed): Staged {
  const lines = createLines();
  for (const stray of committed.strays) lines.deleteShared(stray, stray.split(' ').slice(2).join(' '));
  return { lines: lines.all(), commit: () => committed.strays.clear() };
}

/** Chains that nobody wants: what earlier runs left. */
export function stageLeftovers(committed: Committed): Staged {
  const wanted = new Set([...committed.owned.values()].flatMap((ids) => [...ids]));
  const gone = [...committed.chains.keys()].filter((id) => !wanted.has(id));
  const lines = createLines();
  for (const id of gone) lines.drop(id);
  return {
    lines: lines.all(),
    commit() {
      for (const id of gone) committed.chains.delete(id);
    },
  };
}

/** How many rules of Services a table has. */
export function countRules({ chains, shared }: Committed, table: TableName): number {
  let count = 0;
  for (const [id, rules] of chains) if (tableOf(id) === table) count += rules.length;
  for (const rules of shared.values()) for (const id of rules.keys()) if (id.startsWith(`${table} `)) count++;
  return count;
}

/** Whether two states have the same rules, whoever they are of. */
export function sameState(a: Committed, b: Committed): boolean {
  return (
    a.strays.size === b.strays.size &&
    a.chains.size === b.chains.size &&
    [...a.chains].every(([id, rules]) => same(b.chains.get(id), rules)) &&
    a.shared.size === b.shared.size &&
    [...a.shared].every(([key, rules]) => {
      const others = b.shared.get(key);
      return others?.size === rules.size && [...rules.keys()].every((id) => others.has(id));
    })
  );
}

/** What leads from a state that was found to the one that was acknowledged. */
export function restoration(found: Committed, wanted: Committed): ReadonlyMap<TableName, readonly string[]> {
  const lines = createLines();
  for (const [id, rules] of wanted.chains) if (!same(found.chains.get(id), rules)) lines.chain(id, rules);
  for (const id of found.chains.keys()) if (!wanted.chains.has(id)) lines.drop(id);
  const [here, there] = [flat(found.shared), flat(wanted.shared)];
  for (const [id, raw] of there) if (!here.has(id)) lines.shared(tableOf(id as ChainId), `-I ${id.split(' ')[1]} 1 ${raw}`);
  for (const [id, raw] of here) if (!there.has(id)) lines.deleteShared(id, raw);
  return lines.all();
}

function flat(shared: ReadonlyMap<string, Shared>): Map<string, string> {
  return new Map([...shared.values()].flatMap((rules) => [...rules]));
}

function same(a: readonly string[] | undefined, b: readonly string[]): boolean {
  return a?.length === b.length && a.every((rule, index) => rule === b[index]);
}

function setOrDelete<V>(map: Map<string, V>, key: string, value: V | undefined): void {
  if (value === undefined) map.delete(key);
  else map.set(key, value);
}

interface Lines {
  chain(id: ChainId, rules: readonly string[]): void;
  drop(id: ChainId): void;
  shared(table: TableName, line: string): void;
  /** `id` begins with table and chain. */
  deleteShared(id: string, raw: string): void;
  all(): Map<TableName, string[]>;
}

/** Lines in an order in which every chain is there before it is named, and goes when nothing names it. */
function createLines(): Lines {
  const parts = new Map<TableName, { chains: string[]; rules: string[]; shared: string[]; deletes: string[]; drops: string[] }>();
  const of = (table: TableName) => {
    const part = parts.get(table) ?? { chains: [], rules: [], shared: [], deletes: [], drops: [] };
    parts.set(table, part);
    return part;
  };
  return {
    chain(id, rules) {
      const part = of(tableOf(id));
      part.chains.push(`:${nameOf(id)} - [0:0]`);
      for (const rule of rules) part.rules.push(`-A ${nameOf(id)} ${rule}`.trimEnd());
    },
    drop(id) {
      const part = of(tableOf(id));
      // Its line empties it, so that no order of the others matters.
      part.chains.push(`:${nameOf(id)} - [0:0]`);
      part.drops.push(`-X ${nameOf(id)}`);
    },
    shared: (table, line) => void of(table).shared.push(line),
    deleteShared(id, raw) {
      const [table, chain] = id.split(' ');
      of(table as TableName).deletes.push(`-D ${chain} ${raw}`);
    },
    all: () =>
      new Map(
        (['filter', 'nat'] as const).map((table): [TableName, string[]] => {
          const { chains = [], rules = [], shared = [], deletes = [], drops = [] } = parts.get(table) ?? {};
          return [table, [...chains, ...rules, ...shared, ...deletes, ...drops]];
        }),
      ),
  };
}
