import { AgentError, hasCode } from '../../../agent/base/errors.ts';
import type { Family } from '../../model/address.ts';
import type { Frontend } from '../../model/frontend.ts';
import { type Backend, type BackendSettings, batchRefused, type Change } from '../backend.ts';
import type { Iptables } from './iptables.ts';
import type { Listing } from './listing.ts';
import { canary, isServiceChain } from './names.ts';
import { canonical } from './rule.ts';
import { adopt, type Committed, countRules, restoration, type Staged, sameState, stage, stageLeftovers, stageStrays } from './staging.ts';
import { removals, repairs, restoreText, type Structure, structureOf } from './structure.ts';

/**
 * The iptables backend of one family: upstream's chains, and of other chains only the jumps to them.
 * `legacyIntervalMs` is the least time between changes where each replaces a whole table, ms.
 */
export function createIptablesBackend(family: Family, iptables: Iptables, legacyIntervalMs: number): Backend {
  let settings: BackendSettings | undefined;
  let structure: Structure | undefined;
  let committed: Committed = adopt(family, new Map());
  let lastLines: Staged['lines'] = new Map();

  async function listing(signal: AbortSignal): Promise<Listing> {
    const tables = [await iptables.read('filter', signal), await iptables.read('nat', signal)];
    return new Map(tables.flatMap((table) => [...table]));
  }

  async function everything(signal: AbortSignal): Promise<Listing> {
    return new Map([...(await iptables.read('mangle', signal)), ...(await listing(signal))]);
  }

  async function define(given: BackendSettings, found: Listing, signal: AbortSignal): Promise<void> {
    settings = given;
    structure = structureOf(family, given, await iptables.liberalTcp());
    const text = restoreText(repairs(structure, found));
    if (text === '') return;
    try {
      await iptables.restore(text, signal);
    } catch (error) {
      if (!hasCode(error, batchRefused)) throw error;
      throw new AgentError('IptablesUnsupported', `iptables does not take the rules of Services: ${error.message}`, { cause: error });
    }
  }

  async function restore(staged: Staged, signal: AbortSignal): Promise<void> {
    const text = restoreText(staged.lines);
    if (text === '') return staged.commit();
    await iptables.restore(text, signal);
    lastLines = staged.lines;
    staged.commit();
  }

  async function apply(changes: readonly Change[], signal: AbortSignal): Promise<void> {
    const given = settings;
    if (given === undefined) throw new AgentError('IptablesFailed', 'the rules of Services are not open');
    await routeLoopback(changes.map(({ frontend }) => frontend));
    try {
      await restore(stage(committed, changes, given), signal);
    } catch (error) {
      if (hasCode(error, batchRefused)) await recover(error, signal);
      throw error;
    }
  }

  /**
   * A refused batch may have gone into one of its tables, and it may have been refused because
   * somebody else changed our rules: what was acknowledged is put back, so that nothing changed.
   */
  async function recover(error: AgentError, signal: AbortSignal): Promise<void> {
    const text = restoreText(restoration(adopt(family, await listing(signal)), committed));
    if (text === '') return;
    try {
      await iptables.restore(text, signal);
    } catch (again) {
      if (!hasCode(again, batchRefused)) throw again;
      throw new AgentError('IptablesDrifted', `somebody changed the rules of Services: ${error.message}`, { cause: error });
    }
  }

  async function routeLoopback(frontends: readonly (Frontend | undefined)[]): Promise<void> {
    if (family !== 'ip' || !settings?.nodePorts.localhost) return;
    const nodePorts = frontends.filter((each) => each?.kind === 'nodePort');
    const endpoints = nodePorts.flatMap((each) => [...(each?.cluster?.endpoints ?? []), ...(each?.local?.endpoints ?? [])]);
    await iptables.routeLoopbackTo([...new Set(endpoints.map(({ address }) => address.ip))]);
  }

  /** Somebody who empties a table leaves its chains, or takes them all. */
  async function hasStructure(signal: AbortSignal): Promise<boolean> {
    if ((await iptables.readChain('mangle', canary, signal)) === undefined) return false;
    for (const [id, rules] of structure?.exact ?? []) {
      const [table, name = ''] = id.split(' ') as ['nat' | 'filter', string];
      const found = await iptables.readChain(table, name, signal);
      if (found?.map(canonical).join('\n') !== rules.join('\n')) return false;
    }
    return true;
  }

  return {
    family,
    name: 'iptables',
    get minIntervalMs() {
      return iptables.variant === 'legacy' ? legacyIntervalMs : 0;
    },
    async open(given, signal) {
      await iptables.choose(signal);
      const found = await everything(signal);
      await define(given, found, signal);
      committed = adopt(family, found);
      await restore(stageStrays(committed), signal);
      return new Set(committed.shared.keys());
    },
    apply,
    complete: (signal) => restore(stageLeftovers(committed), signal),
    async configure(given, signal) {
      await define(given, await everything(signal), signal);
      await routeLoopback([...committed.frontends.values()]);
      const changes = [...committed.frontends].map(([key, frontend]): Change => ({ key, frontend }));
      await restore(stage(committed, changes, given), signal);
    },
    async audit(depth, signal) {
      if (structure === undefined) return false;
      if (depth === 'structure') return await hasStructure(signal);
      const found = await everything(signal);
      if (restoreText(repairs(structure, found)) !== '') return false;
      return sameState(adopt(family, found), committed);
    },
    ruleCounts: () =>
      (['filter', 'nat'] as const).map((table) => ({
        table,
        total: countRules(committed, table),
        last: (lastLines.get(table) ?? []).filter((line) => /^-[AI] /.test(line)).length,
      })),
    [Symbol.asyncDispose]: async () => undefined,
  };
}

/** Removes all chains of Services, whoever made them, and the jumps to them; both variants. */
export async function removeIptables(iptables: Iptables, signal: AbortSignal): Promise<void> {
  for (const table of ['filter', 'nat', 'mangle'] as const) {
    const text = restoreText(removals(await iptables.read(table, signal), isServiceChain));
    if (text !== '') await iptables.restore(text, signal);
  }
}
