// Changes of frontends on their way to the kernel: the batch they come to, and the state that is true
// once it is acknowledged. Nothing of the old state is touched before.
import type { Family } from '../../model/address.ts';
import type { Change } from '../backend.ts';
import type { Batch, Element, ElementOp } from './batch.ts';
import { demandOf } from './demand.ts';
import { diffFrontend, elementKey, elementsOf, type FrontendElements, noElements } from './elements.ts';
import type { Chain, NftSet } from './rule.ts';

/** What the kernel acknowledged last. */
export interface Committed {
  readonly family: Family;
  readonly markBit: number;
  readonly frontends: Map<string, FrontendElements>;
  /** How many frontends need an element of a shared set, by `set key`. */
  readonly uses: Map<string, number>;
  /** Elements of shared sets that the kernel has, used or left over. */
  readonly shared: Set<string>;
  readonly chains: Set<string>;
}

export interface Staged {
  readonly batch: Batch;
  /** Endpoints that clients of sticky frontends must not be sent to any more. */
  readonly lost: readonly LostEndpoints[];
  /** Makes it the acknowledged state. */
  commit(): void;
}

export interface LostEndpoints {
  /** Key of the frontend's elements: `10.96.0.1 . tcp . 80`, `tcp . 30080` for a node port. */
  readonly frontend: string;
  /** `10.1.0.7 . 8080`. */
  readonly endpoints: ReadonlySet<string>;
}

export function stage(committed: Committed, changes: readonly Change[]): Staged {
  const deletes: ElementOp[] = [];
  const adds: ElementOp[] = [];
  const after = new Map<string, FrontendElements>();
  const uses = new Map<string, { readonly element: Element; change: number }>();
  const lost: LostEndpoints[] = [];
  for (const { key, frontend } of changes) {
    const before = after.get(key) ?? committed.frontends.get(key) ?? noElements;
    const place = placeOf(key);
    const diff = diffFrontend(place, before, frontend === undefined ? noElements : elementsOf(frontend));
    deletes.push(...diff.deletes);
    adds.push(...diff.adds);
    after.set(key, diff.after);
    for (const element of before.shared) count(uses, element, -1);
    for (const element of diff.after.shared) count(uses, element, 1);
    const gone = lostOf(before, diff.after);
    if (gone.size > 0) lost.push({ frontend: elementKey(place), endpoints: gone });
  }
  for (const [key, { element, change }] of uses) {
    const old = committed.uses.get(key) ?? 0;
    if (old > 0 && old + change <= 0) deletes.push({ op: 'delete', ...element });
    if (old === 0 && change > 0 && !committed.shared.has(key)) adds.push({ op: 'add', ...element });
  }
  // Grouped by set, so that a set is named once.
  const elements = [...bySet(deletes), ...bySet(adds)];
  const { sets, chains } = demanded(committed, adds);
  return {
    batch: { family: committed.family, sets, chains, elements },
    lost,
    commit() {
      for (const [key, row] of after) {
        if (row.verdicts.size === 0) committed.frontends.delete(key);
        else committed.frontends.set(key, row);
      }
      for (const [key, { change }] of uses) {
        const now = (committed.uses.get(key) ?? 0) + change;
        if (now > 0) {
          committed.uses.set(key, now);
          committed.shared.add(key);
        } else {
          // An element that nobody here ever needed stays until all that is needed is known.
          if (committed.uses.delete(key)) committed.shared.delete(key);
        }
      }
      for (const { name } of chains) committed.chains.add(name);
    },
  };
}

/** The address, protocol and port that a frontend's key names. */
function placeOf(key: string) {
  const [, address, protocol, port] = key.split('|');
  return { address: address === 'nodeport' ? undefined : address, protocol: protocol as 'tcp', port: Number(port) };
}

export function sharedKey({ set, key }: Pick<Element, 'set' | 'key'>): string {
  return `${set} ${key}`;
}

function count(uses: Map<string, { readonly element: Element; change: number }>, element: Element, by: 1 | -1): void {
  const key = sharedKey(element);
  const use = uses.get(key) ?? { element, change: 0 };
  use.change += by;
  uses.set(key, use);
}

const isSticky = ({ verdicts }: FrontendElements): boolean => verdicts.has('remember') || verdicts.has('remember-nodeports');

function lostOf(before: FrontendElements, after: FrontendElements): Set<string> {
  if (!isSticky(before)) return new Set();
  const kept = isSticky(after) ? new Set([...after.slots, ...after.localSlots]) : new Set<string>();
  return new Set([...before.slots, ...before.localSlots].filter((endpoint) => !kept.has(endpoint)));
}

function bySet(elements: readonly ElementOp[]): ElementOp[] {
  return [...Map.groupBy(elements, ({ set }) => set).values()].flat();
}

/** Chains that the verdicts go to and the table does not have, with the sets that they need. */
function demanded({ chains, markBit }: Committed, adds: readonly ElementOp[]): { sets: NftSet[]; chains: Chain[] } {
  const sets = new Map<string, NftSet>();
  const needed = new Map<string, Chain>();
  for (const { value } of adds) {
    if (!value?.startsWith('goto ')) continue;
    const name = value.slice('goto '.length);
    if (chains.has(name) || needed.has(name)) continue;
    const demand = demandOf(name, markBit);
    for (const set of demand?.sets ?? []) sets.set(set.name, set);
    for (const chain of demand?.chains ?? []) if (!chains.has(chain.name)) needed.set(chain.name, chain);
  }
  return { sets: [...sets.values()], chains: [...needed.values()] };
}
