// The tables by the iptables binaries of one family: iptables-save lists, iptables-restore changes.
import type { Clock } from '../../../agent/base/clock.ts';
import { AgentError, hasCode, messageOf } from '../../../agent/base/errors.ts';
import { type Log, silentLog } from '../../../agent/base/log.ts';
import type { Family } from '../../model/address.ts';
import { batchRefused } from '../backend.ts';
import { type Collected, collect, type Tool } from '../collect.ts';
import { type NetworkFiles, ownNetwork, routeLoopbackTo } from '../localnet.ts';
import { type Listing, parseSave } from './listing.ts';
import type { TableName } from './names.ts';

/** `nft` keeps rules where nftables does; `legacy` replaces a whole table with every change. */
export type Variant = 'nft' | 'legacy';

/**
 * The tables of one family. Errors besides `BatchRefused`: `IptablesMissing`, `IptablesCrashed`,
 * `IptablesFailed` and `DeadlineExceeded`. Several calls at once must not be made.
 */
export interface Iptables {
  /** Which binaries are used; those that the machine's rules were made with. */
  readonly variant: Variant | undefined;
  /** Looks which binaries to use, as iptables-wrappers of kube-proxy's image does. */
  choose(signal: AbortSignal): Promise<void>;
  /** False when there can be nothing of this variant: looking would load the legacy modules. */
  inUse(): Promise<boolean>;
  read(table: TableName, signal: AbortSignal): Promise<Listing>;
  /** The rules of one chain as `iptables -S` prints them; undefined when it is not there. */
  readChain(table: TableName, chain: string, signal: AbortSignal): Promise<string[] | undefined>;
  /** Text for iptables-restore; other chains stay. Each table is one transaction. */
  restore(text: string, signal: AbortSignal): Promise<void>;
  routeLoopbackTo(addresses: readonly string[]): Promise<void>;
  /** nf_conntrack_tcp_be_liberal is set: the kernel calls few packets invalid. */
  liberalTcp(): Promise<boolean>;
}

export interface IptablesOptions {
  readonly clock: Clock;
  /** What the binaries are run by; a test runs them in a network namespace. */
  readonly prefix?: readonly string[];
  /** Of the namespace that they run in. */
  readonly files?: NetworkFiles;
  readonly log?: Log;
  /** Take this one and do not look. */
  readonly variant?: Variant;
}

const deadlineMs = 60_000;
/** Seconds to wait for the lock of the legacy variant, and how often to try, µs (as upstream). */
const waits = ['-w', '5', '-W', '100000'];

const legacyNames: Record<Family, string> = { ip: '/proc/net/ip_tables_names', ip6: '/proc/net/ip6_tables_names' };

/** kubelet makes these in the variant that the node uses. */
const hint = /^:KUBE-(IPTABLES-HINT|KUBELET-CANARY) /m;

export function createIptables(family: Family, options: IptablesOptions): Iptables {
  const { clock, prefix = [], files = ownNetwork, log = silentLog } = options;
  const base = family === 'ip' ? 'iptables' : 'ip6tables';
  let variant = options.variant;

  async function run(name: string, args: readonly string[], input: string, signal: AbortSignal): Promise<Collected> {
    using deadline = clock.deadline(signal, deadlineMs);
    const tool: Tool = { name, package: 'iptables', code: 'Iptables' };
    return await collect(tool, [...prefix, name], { args, input }, deadline.signal);
  }

  const binary = (job: '' | '-save' | '-restore'): string => `${base}-${variant ?? 'nft'}${job}`;

  /** Asking the legacy binaries would load their modules: the kernel says whether they are in use. */
  const legacyInUse = async (): Promise<boolean> => (await readOr(files, legacyNames[family], '')).trim() !== '';

  async function choose(signal: AbortSignal): Promise<void> {
    if (variant !== undefined) return;
    const legacy = (await legacyInUse()) ? await saved('legacy', signal) : '';
    variant = chooseVariant(await saved('nft', signal), legacy);
    log.info({ family, variant }, 'chose the iptables binaries');
  }

  /** All that a variant has; undefined without its binaries. */
  async function saved(which: Variant, signal: AbortSignal): Promise<string | undefined> {
    try {
      // Tables that somebody made by nft make it fail after it has printed the others.
      return (await run(`${base}-${which}-save`, [], '', signal)).stdout;
    } catch (error) {
      if (hasCode(error, 'IptablesMissing')) return undefined;
      throw error;
    }
  }

  return {
    get variant() {
      return variant;
    },
    choose,
    inUse: async () => variant === 'nft' || (await legacyInUse()),
    async read(table, signal) {
      const { code, stdout, stderr } = await run(binary('-save'), ['-t', table], '', signal);
      if (code !== 0) throw new AgentError('IptablesFailed', `${binary('-save')} -t ${table}: ${complaint(stderr)}`);
      return parseSave(table, stdout);
    },
    async readChain(table, chain, signal) {
      const { code, stdout, stderr } = await run(binary(''), [...waits, '-t', table, '-S', chain], '', signal);
      if (code === 1) return undefined;
      if (code !== 0) throw new AgentError('IptablesFailed', `${binary('')} -t ${table} -S ${chain}: ${complaint(stderr)}`);
      const lines = stdout.split('\n').filter((line) => line.startsWith('-A '));
      return lines.map((line) => line.slice(`-A ${chain} `.length));
    },
    async restore(text, signal) {
      const { code, stderr } = await run(binary('-restore'), ['--noflush', ...waits], text, signal);
      if (code !== 0)
        throw new AgentError(isRefusal(code, stderr) ? batchRefused : 'IptablesFailed', `${binary('-restore')}: ${complaint(stderr)}`);
    },
    async routeLoopbackTo(addresses) {
      try {
        await routeLoopbackTo(addresses, files);
      } catch (error) {
        // Every other way to the node port works without it.
        log.warn({ err: messageOf(error) }, 'node ports cannot be reached on 127.0.0.1');
      }
    },
    liberalTcp: async () => (await readOr(files, '/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal', '0')).trim() !== '0',
  };
}

/**
 * The variant that kubelet left its hint in, then the one with more rules, then nft (as
 * iptables-wrappers of the images does). An argument is what -save printed, undefined without it.
 */
export function chooseVariant(nft: string | undefined, legacy: string | undefined): Variant {
  if (nft === undefined) return 'legacy';
  if (legacy === undefined || hint.test(nft)) return 'nft';
  if (hint.test(legacy)) return 'legacy';
  const rules = (text: string): number => text.match(/^-A /gm)?.length ?? 0;
  return rules(legacy) > rules(nft) ? 'legacy' : 'nft';
}

async function readOr(files: NetworkFiles, path: string, absent: string): Promise<string> {
  try {
    return await files.read(path);
  } catch {
    // Without the module the file is not there.
    return absent;
  }
}

/**
 * Whether a failure says something of the content. Exit code 4 is a lack of something (the lock,
 * memory), but also what the kernel answered to a line: then the line is named.
 */
function isRefusal(code: number, said: string): boolean {
  if (code >= 1 && code <= 3) return true;
  return code === 4 && /line \d+: \w+ failed|line \d+ failed/.test(said) && !/Resource temporarily unavailable|Cannot allocate/.test(said);
}

/** The first line that says what is wrong. */
function complaint(said: string): string {
  const lines = said
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !/^(#|Ignoring deprecated|Try `)/.test(line));
  // The first of nft's two lines may end in a colon.
  return lines.slice(0, 2).join(' ').slice(0, 300);
}
