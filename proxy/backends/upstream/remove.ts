// Removes what a kube-proxy has left in the kernel. Nothing of others is touched.
import type { Clock } from '../../../agent/base/clock.ts';
import { AgentError, hasCode, messageOf } from '../../../agent/base/errors.ts';
import type { Log } from '../../../agent/base/log.ts';
import { families } from '../../model/address.ts';
import { type Collected, collect } from '../collect.ts';
import { ipvsDevice, isUpstreamSet, upstreamChains, upstreamServers, upstreamTable } from './leftovers.ts';

export interface RemoveOptions {
  readonly clock: Clock;
  readonly log: Log;
  /** What the tools are run by; a test runs them in a network namespace. */
  readonly prefix?: readonly string[];
}

/** What to look for: the modes that a kube-proxy may have run in. */
export interface Modes {
  /** Chains of iptables mode, and all of IPVS mode. */
  readonly iptables: boolean;
  readonly nftables: boolean;
}

const deadlineMs = 60_000;
/** Waits for the lock of the legacy binaries as upstream does. */
const waits = ['-w', '5', '-W', '100000'];

/**
 * Removes what kube-proxies of these modes left, with every tool that is there. What fails is told, and the rest goes on. Resolves to
 * whether all went well.
 */
export async function removeUpstream(modes: Modes, options: RemoveOptions, signal: AbortSignal): Promise<boolean> {
  const { log } = options;
  let well = true;
  const step = async (what: string, run: () => Promise<void>): Promise<void> => {
    try {
      await run();
    } catch (error) {
      signal.throwIfAborted();
      well = false;
      log.warn({ what, err: messageOf(error) }, 'could not remove what a kube-proxy left');
    }
  };
  const tools = createTools(options, signal);
  if (modes.nftables) await step('nftables', () => removeTables(tools, log));
  if (!modes.iptables) return well;
  await step('virtual servers', () => removeServers(tools, log));
  for (const base of ['iptables', 'ip6tables'])
    for (const variant of ['nft', 'legacy']) await step(`${base}-${variant}`, () => removeChains(tools, log, `${base}-${variant}`));
  // Sets are in use until the chains are gone.
  await step('ipsets', () => removeSets(tools, log));
  await step(ipvsDevice, () => removeDevice(tools, log));
  return well;
}

interface Tools {
  /** Undefined without the tool. */
  run(name: string, args: readonly string[], input?: string): Promise<Collected | undefined>;
  /** What a command that works prints; undefined without the tool, or where the kernel has not what it asks for. */
  print(name: string, ...args: string[]): Promise<string | undefined>;
  /** Throws AgentError `ToolFailed` for a command that fails. */
  change(name: string, args: readonly string[], input?: string): Promise<void>;
}

function createTools({ clock, prefix = [] }: RemoveOptions, signal: AbortSignal): Tools {
  async function run(name: string, args: readonly string[], input = ''): Promise<Collected | undefined> {
    using deadline = clock.deadline(signal, deadlineMs);
    try {
      const ran = await collect({ name, package: name, code: 'Tool' }, [...prefix, name], { args, input }, deadline.signal);
      // `ip netns exec` of a command that is not there.
      return ran.code === 255 && prefix.length > 0 ? undefined : ran;
    } catch (error) {
      if (hasCode(error, 'ToolMissing')) return undefined;
      throw error;
    }
  }
  return {
    run,
    async print(name, ...args) {
      const ran = await run(name, args);
      return ran?.code === 0 ? ran.stdout : undefined;
    },
    async change(name, args, input) {
      const ran = await run(name, args, input);
      if (ran?.code !== 0)
        throw new AgentError('ToolFailed', `${name} ${args.join(' ')}: ${(ran?.stderr ?? 'not installed').trim().slice(0, 300)}`);
    },
  };
}

async function removeTables(tools: Tools, log: Log): Promise<void> {
  for (const family of families) {
    const tables = (await tools.print('nft', 'list', 'tables', family)) ?? '';
    if (!tables.split('\n').includes(`table ${family} ${upstreamTable}`)) continue;
    await tools.change('nft', ['delete', 'table', family, upstreamTable]);
    log.info({ table: `${family} ${upstreamTable}` }, 'removed the table that a kube-proxy left');
  }
}

async function removeChains(tools: Tools, log: Log, binary: string): Promise<void> {
  // Without a table: naming one would make it, and load the modules of the legacy variant. Tables made by nft make it fail after the others.
  const saved = (await tools.run(`${binary}-save`, []))?.stdout ?? '';
  for (const { table, text, chains, kept } of upstreamChains(saved)) {
    await tools.change(`${binary}-restore`, ['--noflush', ...waits], text);
    log.info({ binary, table, chains, kept: kept.length === 0 ? undefined : kept }, 'removed the chains that a kube-proxy left');
  }
}

async function removeSets(tools: Tools, log: Log): Promise<void> {
  const names = ((await tools.print('ipset', 'list', '-n')) ?? '').split('\n').filter(isUpstreamSet);
  // One that a rule of others uses stays, and says so.
  for (const name of names) await tools.change('ipset', ['destroy', name]);
  if (names.length > 0) log.info({ sets: names.length }, 'removed the ipsets that a kube-proxy left');
}

async function removeServers(tools: Tools, log: Log): Promise<void> {
  const device = await tools.print('ip', '-o', 'addr', 'show', 'dev', ipvsDevice);
  if (device === undefined) return;
  const saved = await tools.print('ipvsadm-save', '-n');
  if (saved === undefined) {
    log.warn({}, 'virtual servers that a kube-proxy left in IPVS, if any, need ipvsadm to go: install it, or restart the machine');
    return;
  }
  const addressesIn = (text: string): string[] => [...text.matchAll(/ inet6? ([^/\s]+)/g)].map(([, address = '']) => address);
  const own = addressesIn((await tools.print('ip', '-o', 'addr', 'show')) ?? '');
  const members = (await tools.print('ipset', 'list', '-o', 'save')) ?? '';
  const nodePorts = [...members.matchAll(/^add (KUBE-(?:6-)?NODE-PORT-\S+) (\S+)/gm)].map(([, , member = '']) => member);
  const servers = upstreamServers(saved, { bound: addressesIn(device), own, nodePorts });
  for (const { option, address } of servers) await tools.change('ipvsadm', ['-D', option, address]);
  if (servers.length > 0) log.info({ servers: servers.length }, 'removed the virtual servers that a kube-proxy left');
}

async function removeDevice(tools: Tools, log: Log): Promise<void> {
  if ((await tools.print('ip', '-o', 'link', 'show', 'dev', ipvsDevice)) === undefined) return;
  await tools.change('ip', ['link', 'delete', 'dev', ipvsDevice]);
  log.info({ device: ipvsDevice }, 'removed the device that a kube-proxy left');
}
