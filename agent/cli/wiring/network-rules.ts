// What kubelet sets in iptables for others (pkg/kubelet/kubelet_network_linux.go of 1.36.1): a chain by which they see which variant of
// iptables this node uses, and the drop of packets that come to localhost from elsewhere.
import { type Collected, collect } from '../../../proxy/backends/collect.ts';
import type { Clock } from '../../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { startLoop } from '../../base/loop.ts';

export interface NetworkRulesOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** What the binaries are run by; a test runs them in a network namespace. */
  readonly prefix?: readonly string[];
}

/** How often they are looked for: somebody may flush all rules. As kubelet. */
const intervalMs = 60_000;
const deadlineMs = 30_000;
const waits = ['-w', '5', '-W', '100000'];

/** A table and a chain that is made in it. */
type Chain = readonly [table: string, name: string];
/** Where a rule goes, first or last, and its words. */
type Rule = readonly [table: string, how: '-I' | '-A', chain: string, ...words: string[]];

const hint: Chain = ['mangle', 'KUBE-IPTABLES-HINT'];
// Gone when somebody flushes; in every table, so that the last one is made after all rules are.
const canaries: readonly Chain[] = ['mangle', 'nat', 'filter'].map((table) => [table, 'KUBE-KUBELET-CANARY']);
const firewall = 'KUBE-FIREWALL';
/** route_localnet, which node ports on localhost need, opens it to the network (https://issue.k8s.io/90259). IPv6 has no such thing. */
const firewallRules: readonly Rule[] = [
  ['filter', '-I', 'OUTPUT', '-j', firewall],
  ['filter', '-I', 'INPUT', '-j', firewall],
  [
    ...(['filter', '-A', firewall] as const),
    ...['-m', 'comment', '--comment', 'block incoming localnet connections'],
    ...['--dst', '127.0.0.0/8', '!', '--src', '127.0.0.0/8'],
    ...['-m', 'conntrack', '!', '--ctstate', 'RELATED,ESTABLISHED,DNAT', '-j', 'DROP'],
  ],
];

/** Keeps the rules there. Where there is no iptables there is nobody who would need them. */
export function startNetworkRules(options: NetworkRulesOptions): AsyncDisposable {
  const { clock, log, signal, prefix = [] } = options;
  const failing = new Set<string>();

  async function run(binary: string, args: readonly string[], bounded: AbortSignal): Promise<Collected> {
    using deadline = clock.deadline(bounded, deadlineMs);
    const tool = { name: binary, package: 'iptables', code: 'Iptables' };
    return await collect(tool, [...prefix, binary], { args: [...waits, ...args] }, deadline.signal);
  }

  /** Exit code 1 is a no. */
  async function ask(binary: string, args: readonly string[], bounded: AbortSignal): Promise<boolean> {
    const { code, stderr } = await run(binary, args, bounded);
    if (code > 1) throw new AgentError('IptablesFailed', `${binary} ${args.join(' ')}: ${stderr.trim().slice(0, 300)}`);
    return code === 0;
  }

  async function ensureChain(binary: string, [table, name]: Chain, bounded: AbortSignal): Promise<void> {
    const args = ['-t', table, '-N', name];
    if (await ask(binary, args, bounded)) return;
    // It is there, or cannot be made.
    const { code, stderr } = await run(binary, ['-t', table, '-S', name], bounded);
    if (code !== 0) throw new AgentError('IptablesFailed', `${binary} ${args.join(' ')}: ${stderr.trim().slice(0, 300)}`);
  }

  async function ensureRule(binary: string, [table, how, chain, ...words]: Rule, bounded: AbortSignal): Promise<void> {
    if (await ask(binary, ['-t', table, '-C', chain, ...words], bounded)) return;
    if (await ask(binary, ['-t', table, how, chain, ...words], bounded)) return;
    throw new AgentError('IptablesFailed', `${binary} cannot add a rule to ${chain} of table ${table}`);
  }

  async function ensure(binary: string, bounded: AbortSignal): Promise<void> {
    const [[table, canary] = hint] = canaries;
    if (await ask(binary, ['-t', table, '-S', canary], bounded)) return;
    await ensureChain(binary, hint, bounded);
    if (binary === 'iptables') {
      await ensureChain(binary, ['filter', firewall], bounded);
      for (const rule of firewallRules) await ensureRule(binary, rule, bounded);
    }
    for (const each of canaries.toReversed()) await ensureChain(binary, each, bounded);
    log.debug({ binary }, 'made the chains by which others see how iptables is used here');
  }

  const loop = startLoop({
    name: 'network-rules',
    clock,
    log,
    signal,
    async run(binary, bounded) {
      try {
        await ensure(binary, bounded);
        failing.delete(binary);
      } catch (error) {
        bounded.throwIfAborted();
        if (hasCode(error, 'IptablesMissing')) {
          log.debug({ binary }, 'not installed: the chain KUBE-IPTABLES-HINT is not made');
          return undefined;
        }
        // As kubelet's: some functionality of others may be missing, and the node runs on.
        if (!failing.has(binary)) log.warn({ binary, err: messageOf(error) }, 'could not set the rules that kubelet sets in iptables');
        failing.add(binary);
      }
      return clock.mono() + intervalMs;
    },
  });
  for (const binary of ['iptables', 'ip6tables']) loop.enqueue(binary);
  return loop;
}
