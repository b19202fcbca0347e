import { AgentError, hasCode } from '../../../agent/base/errors.ts';
import type { Family } from '../../model/address.ts';
import { type Backend, type BackendSettings, batchRefused } from '../backend.ts';
import { adopt } from './adopt.ts';
import { forgetClients, leftovers } from './affinity.ts';
import { type ElementOp, isEmpty } from './batch.ts';
import { demandOf } from './demand.ts';
import type { FrontendElements } from './elements.ts';
import { type Layout, layout, nodePortIps, tableName } from './layout.ts';
import type { Netfilter, SetContent } from './netfilter.ts';
import { type Committed, sharedKey, stage } from './staging.ts';

/** A dump of everything after a refusal, at most so often, ms: halving refuses many times in a row. */
const doubtMs = 5000;

/**
 * The nftables backend of one family: a table of its own, `keelson-services-N`, and nothing of
 * anybody else's. `netfilter` is closed with it.
 */
export function createNftables(family: Family, netfilter: Netfilter, mono: () => number): Backend {
  const table = `table ${family} ${tableName}`;
  let settings: BackendSettings | undefined;
  let committed: Committed = emptyState(family, 0);
  // Rules of the layout's chains, as nft words them: what an audit compares with.
  let rules = new Map<string, string>();
  let comparedAt = Number.NEGATIVE_INFINITY;

  const contents = (given: BackendSettings): SetContent[] => [{ set: 'nodeport-ips', keys: nodePortIps(family, given) }];

  async function open(given: BackendSettings, signal: AbortSignal): Promise<ReadonlySet<string>> {
    settings = given;
    const wanted = await define(given, signal);
    const listing = await netfilter.read(true, signal);
    if (listing === undefined) throw new AgentError('NftFailed', `${table} is gone as soon as it is made: somebody deletes it`);
    const found = adopt(family, listing);
    const chains = new Set(listing.chains.keys());
    committed = { ...emptyState(family, given.masqueradeBit), frontends: found.frontends, shared: found.shared, chains };
    rules = new Map(wanted.chains.map(({ name }) => [name, listing.chains.get(name) ?? '']));
    await routeLoopback(given, signal);
    return new Set(found.frontends.keys());
  }

  /** Chains that Services asked for are made anew as well: they hold the bit of the mark. */
  async function define(given: BackendSettings, signal: AbortSignal): Promise<Layout> {
    const base = layout(family, given);
    const old = await netfilter.read(false, signal);
    const wanted = withDemanded(base, old?.chains.keys() ?? [], given.masqueradeBit);
    try {
      await netfilter.define(wanted, contents(given), false, signal);
      return wanted;
    } catch (error) {
      if (!hasCode(error, batchRefused)) throw error;
      if (old === undefined) throw unsupported(error);
      // Somebody changed our table so that it does not take our sets any more: it is made anew.
      await netfilter.define(base, contents(given), true, signal).catch((again: unknown) => {
        throw hasCode(again, batchRefused) ? unsupported(again) : again;
      });
      return base;
    }
  }

  /** For the endpoints that node ports have already. */
  async function routeLoopback(given: BackendSettings, signal: AbortSignal): Promise<void> {
    if (family !== 'ip' || !given.nodePorts.localhost) return;
    const nodePorts = [...committed.frontends].filter(([key]) => key.startsWith('ip|nodeport|'));
    const slots = nodePorts.flatMap(([, { slots: cluster, localSlots }]) => [...cluster, ...localSlots]);
    await netfilter.routeLoopbackTo([...new Set(slots.map((slot) => slot.split(' . ')[0] ?? ''))], signal);
  }

  async function apply(changes: Parameters<Backend['apply']>[0], signal: AbortSignal): Promise<void> {
    const { batch, lost, commit } = stage(committed, changes);
    if (family === 'ip' && settings?.nodePorts.localhost) await netfilter.routeLoopbackTo(nodePortEndpoints(batch.elements), signal);
    if (!isEmpty(batch)) {
      try {
        await netfilter.apply(batch, signal);
      } catch (error) {
        if (hasCode(error, batchRefused)) await doubt(error, signal);
        throw error;
      }
    }
    commit();
    if (lost.length === 0) return;
    await forgetClients(family, netfilter, lost, signal);
    await dropLeftovers(signal);
  }

  /** A batch may be refused because somebody changed our table: then no Service is to blame. */
  async function doubt(error: AgentError, signal: AbortSignal): Promise<void> {
    if (mono() - comparedAt < doubtMs) return;
    if (!(await audit('everything', signal)))
      throw new AgentError('NftDrifted', `somebody changed ${table}: ${error.message}`, { cause: error });
    comparedAt = mono();
  }

  async function audit(depth: 'structure' | 'everything', signal: AbortSignal): Promise<boolean> {
    const listing = await netfilter.read(depth === 'everything', signal);
    if (listing === undefined || [...rules].some(([name, text]) => listing.chains.get(name) !== text)) return false;
    if ([...committed.chains].some((name) => !listing.chains.has(name))) return false;
    if (depth === 'structure') return true;
    await dropLeftovers(signal);
    const found = adopt(family, listing);
    return (
      found.frontends.size === committed.frontends.size &&
      [...found.frontends].every(([key, row]) => sameElements(row, committed.frontends.get(key))) &&
      found.shared.size === committed.shared.size &&
      [...found.shared].every((key) => committed.shared.has(key))
    );
  }

  async function dropLeftovers(signal: AbortSignal): Promise<void> {
    const { chains, sets } = leftovers(committed);
    if (chains.length === 0) return;
    try {
      await netfilter.drop(chains, sets, signal);
    } catch (error) {
      // Kernels before 6.2 forget slowly that a chain is no longer referred to: the next time, then.
      if (!hasCode(error, batchRefused)) throw error;
      return;
    }
    for (const name of chains) committed.chains.delete(name);
  }

  return {
    family,
    name: 'nftables',
    minIntervalMs: 0,
    open,
    apply,
    audit,
    async complete(signal) {
      const elements = [...committed.shared]
        .filter((key) => !committed.uses.has(key))
        .map((text): ElementOp => {
          const [set = '', ...key] = text.split(' ');
          return { op: 'delete', set, key: key.join(' '), value: undefined };
        });
      if (elements.length > 0) await netfilter.apply({ family, chains: [], elements }, signal);
      for (const element of elements) committed.shared.delete(sharedKey(element));
      await dropLeftovers(signal);
      const cidrs = (settings?.serviceCidrs ?? []).filter((cidr) => cidr.family === family).map(({ text }) => text);
      await netfilter.fill({ set: 'service-cidrs', keys: cidrs }, signal);
      await netfilter.removeOlder(signal);
    },
    async configure(given, signal) {
      settings = given;
      const wanted = await define(given, signal);
      committed = { ...committed, markBit: given.masqueradeBit };
      const listing = await netfilter.read(false, signal);
      rules = new Map(wanted.chains.map(({ name }) => [name, listing?.chains.get(name) ?? '']));
      await routeLoopback(given, signal);
    },
    [Symbol.asyncDispose]: () => netfilter[Symbol.asyncDispose](),
  };
}

/** Addresses that node ports begin to send to. */
function nodePortEndpoints(elements: readonly ElementOp[]): string[] {
  const added = elements.filter(({ op, set }) => op === 'add' && /^nodeport-\w+-endpoints/.test(set));
  return [...new Set(added.map(({ value }) => value?.split(' . ')[0] ?? ''))];
}

/** The layout with those of these chains that are made on demand, and what they need. */
function withDemanded({ sets, chains, ...rest }: Layout, names: Iterable<string>, markBit: number): Layout {
  const all = new Map(chains.map((chain) => [chain.name, chain]));
  const allSets = new Map(sets.map((set) => [set.name, set]));
  for (const name of names) {
    const demand = demandOf(name, markBit);
    for (const set of demand?.sets ?? []) allSets.set(set.name, set);
    for (const chain of demand?.chains ?? []) all.set(chain.name, chain);
  }
  return { ...rest, sets: [...allSets.values()], chains: [...all.values()] };
}

function unsupported(error: AgentError): AgentError {
  return new AgentError('NftUnsupported', `nft does not take the rules of Services: ${error.message}`, { cause: error });
}

function emptyState(family: Family, markBit: number): Committed {
  return { family, markBit, frontends: new Map(), uses: new Map(), shared: new Set(), chains: new Set() };
}

function sameElements(a: FrontendElements, b: FrontendElements | undefined): boolean {
  if (b === undefined || a.verdicts.size !== b.verdicts.size) return false;
  const sameList = (one: readonly string[], other: readonly string[]): boolean =>
    one.length === other.length && one.every((value, index) => value === other[index]);
  return (
    [...a.verdicts].every(([set, value]) => b.verdicts.has(set) && b.verdicts.get(set) === value) &&
    sameList(a.slots, b.slots) &&
    sameList(a.localSlots, b.localSlots) &&
    sameList([...a.sources].sort(), [...b.sources].sort())
  );
}
