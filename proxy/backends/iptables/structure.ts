// What is in the tables whatever Services there are: chains that are always there, jumps to them, and
// the rules that do not grow with Services.
import type { Family } from '../../model/address.ts';
import type { BackendSettings } from '../backend.ts';
import type { Listing } from './listing.ts';
import { type ChainId, canary, chainId, nameOf, type TableName, tableOf } from './names.ts';
import { canonical, optionOf, ownDestination, ruleText, single } from './rule.ts';

/** Chains whose rules are those of Services, in no order. */
export const sharedChains: readonly ChainId[] = [
  'nat KUBE-SERVICES',
  'nat KUBE-NODEPORTS',
  'filter KUBE-SERVICES',
  'filter KUBE-EXTERNAL-SERVICES',
  'filter KUBE-NODEPORTS',
  'filter KUBE-PROXY-FIREWALL',
];

const canaries: readonly ChainId[] = [`mangle ${canary}`, `nat ${canary}`, `filter ${canary}`];

export interface Jump {
  readonly table: TableName;
  readonly from: string;
  readonly to: string;
  readonly rule: string;
}

function jump(table: TableName, from: string, to: string, comment: string | undefined, ...matches: string[]): Jump {
  return { table, from, to, rule: ruleText({ comment, matches, jump: to }) };
}

const isNew = '-m conntrack --ctstate NEW';
const external = 'kubernetes externally-visible service portals';
const portals = 'kubernetes service portals';
const firewall = 'kubernetes load balancer firewall';

/** Each is put before all others, so that the last one is met first. */
const jumps: readonly Jump[] = [
  jump('filter', 'INPUT', 'KUBE-EXTERNAL-SERVICES', external, isNew),
  jump('filter', 'FORWARD', 'KUBE-EXTERNAL-SERVICES', external, isNew),
  // Upstream has none for OUTPUT: the node's own connections to a closed external address hang there.
  jump('filter', 'OUTPUT', 'KUBE-EXTERNAL-SERVICES', external, isNew),
  jump('filter', 'INPUT', 'KUBE-NODEPORTS', 'kubernetes health check service ports'),
  jump('filter', 'FORWARD', 'KUBE-SERVICES', portals, isNew),
  jump('filter', 'OUTPUT', 'KUBE-SERVICES', portals, isNew),
  jump('filter', 'FORWARD', 'KUBE-FORWARD', 'kubernetes forwarding rules'),
  jump('filter', 'INPUT', 'KUBE-PROXY-FIREWALL', firewall, isNew),
  jump('filter', 'OUTPUT', 'KUBE-PROXY-FIREWALL', firewall, isNew),
  jump('filter', 'FORWARD', 'KUBE-PROXY-FIREWALL', firewall, isNew),
  jump('nat', 'OUTPUT', 'KUBE-SERVICES', portals),
  jump('nat', 'PREROUTING', 'KUBE-SERVICES', portals),
  jump('nat', 'POSTROUTING', 'KUBE-POSTROUTING', 'kubernetes postrouting rules'),
];

/** kubelet's chain. What it holds besides is kubelet's, and it stays when ours go. */
const martianChain = 'KUBE-FIREWALL';
const martianJumps: readonly Jump[] = [jump('filter', 'INPUT', martianChain, undefined), jump('filter', 'OUTPUT', martianChain, undefined)];

/** With route_localnet, packets to loopback from outside would get in: CVE-2020-8558. */
const martians = ruleText({
  source: '!127.0.0.0/8',
  destination: '127.0.0.0/8',
  comment: 'block incoming localnet connections',
  matches: ['-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT'],
  jump: 'DROP',
});

export interface Structure {
  readonly chains: readonly ChainId[];
  /** Chains that hold these rules and no others. */
  readonly exact: ReadonlyMap<ChainId, readonly string[]>;
  readonly jumps: readonly Jump[];
  /** The end of `nat KUBE-SERVICES`: to node ports, where the destination is an address that serves them. */
  readonly tail: readonly string[];
  readonly martians: boolean;
}

export function structureOf(family: Family, settings: BackendSettings, liberalTcp: boolean): Structure {
  const guarded = family === 'ip' && settings.nodePorts.localhost;
  const exact = exactChains(settings.masqueradeBit, liberalTcp);
  return {
    chains: [...canaries, ...exact.keys(), ...sharedChains, ...(guarded ? [chainId('filter', martianChain)] : [])],
    exact,
    jumps: guarded ? [...jumps, ...martianJumps] : jumps,
    tail: tailOf(family, settings),
    martians: guarded,
  };
}

/** The mask of the one bit that is ours. */
export const markOf = (bit: number): string => `0x${(2 ** bit).toString(16)}`;

const markChain: ChainId = 'nat KUBE-MARK-MASQ';

function exactChains(bit: number, liberalTcp: boolean): Map<ChainId, string[]> {
  const mark = markOf(bit);
  const invalid = ruleText({ matches: ['-m conntrack --ctstate INVALID'], jump: 'DROP' });
  const marked = `-m mark --mark ${mark}/${mark}`;
  return new Map<ChainId, string[]>([
    [markChain, [ruleText({ jump: `MARK --set-xmark ${mark}/${mark}` })]],
    [
      'nat KUBE-POSTROUTING',
      [
        ruleText({ matches: [`-m mark ! --mark ${mark}/${mark}`], jump: 'RETURN' }),
        // The packet may come through here again.
        ruleText({ jump: `MARK --set-xmark ${mark}/0x0` }),
        ruleText({ comment: 'kubernetes service traffic requiring SNAT', jump: 'MASQUERADE --random-fully' }),
      ],
    ],
    [
      'filter KUBE-FORWARD',
      [
        // What conntrack calls invalid is not translated back, and would reset the connection
        // (kubernetes#74839, #117924).
        ...(liberalTcp ? [] : [invalid]),
        ruleText({ comment: 'kubernetes forwarding rules', matches: [marked], jump: 'ACCEPT' }),
        ruleText({
          comment: 'kubernetes forwarding conntrack rule',
          matches: ['-m conntrack --ctstate RELATED,ESTABLISHED'],
          jump: 'ACCEPT',
        }),
      ],
    ],
  ]);
}

const nodePortsComment = 'kubernetes service nodeports; NOTE: this must be the last rule in this chain';
const loopback: Record<Family, string> = { ip: '127.0.0.0/8', ip6: '::1/128' };

function tailOf(family: Family, { nodePorts }: BackendSettings): string[] {
  const to = (facts: { destination?: string; matches?: readonly string[] }): string =>
    ruleText({ ...facts, comment: nodePortsComment, jump: 'KUBE-NODEPORTS' });
  if (nodePorts.kind === 'list')
    return nodePortCidrs(family, nodePorts.addresses, nodePorts.localhost).map((destination) => to({ destination }));
  const own = { matches: [ownDestination] };
  return [to(nodePorts.localhost ? own : { ...own, destination: `!${loopback[family]}` })];
}

/** Where node ports of a list are served. */
export function nodePortCidrs(family: Family, addresses: readonly string[], localhost: boolean): string[] {
  return [...addresses.map((address) => single(family, address)), ...(localhost ? [loopback[family]] : [])];
}

export const isTail = (rule: string): boolean => optionOf(rule, '-j') === 'KUBE-NODEPORTS';

/** What brings a listing to the structure, by table; empty where all is there. */
export function repairs(wanted: Structure, found: Listing): Map<TableName, string[]> {
  const lines = new Map<TableName, string[]>([
    ['mangle', []],
    ['filter', []],
    ['nat', []],
  ]);
  const add = (table: TableName, line: string): void => void lines.get(table)?.push(line);
  const has = (id: ChainId, rule: string): boolean => (found.get(id) ?? []).some((each) => canonical(each) === rule);
  const stale = (id: ChainId): boolean => {
    const rules = wanted.exact.get(id);
    return rules !== undefined && rules.join('\n') !== (found.get(id) ?? []).map(canonical).join('\n');
  };
  // A chain's line empties the chain.
  for (const id of wanted.chains) if (!found.has(id) || stale(id)) add(tableOf(id), `:${nameOf(id)} - [0:0]`);
  for (const [id, rules] of wanted.exact) if (stale(id)) for (const rule of rules) add(tableOf(id), `-A ${nameOf(id)} ${rule}`);
  if (wanted.martians && !has(chainId('filter', martianChain), martians)) add('filter', `-A ${martianChain} ${martians}`);
  for (const { table, from, rule } of wanted.jumps) if (!has(chainId(table, from), rule)) add(table, `-I ${from} 1 ${rule}`);
  const tails = (found.get('nat KUBE-SERVICES') ?? []).filter(isTail);
  for (const rule of wanted.tail) if (!tails.some((each) => canonical(each) === rule)) add('nat', `-A KUBE-SERVICES ${rule}`);
  for (const raw of tails) if (!wanted.tail.includes(canonical(raw))) add('nat', `-D KUBE-SERVICES ${raw}`);
  return lines;
}

/** Jumps and chains of ours, of any run and of upstream's proxy, out of a listing; by table. */
export function removals(found: Listing, isService: (name: string) => boolean): Map<TableName, string[]> {
  const always = new Set<ChainId>([...canaries, ...exactChains(0, false).keys(), ...sharedChains]);
  const ours = new Set([...found.keys()].filter((id) => always.has(id) || isService(nameOf(id))));
  const lines = new Map<TableName, string[]>();
  const add = (table: TableName, line: string): void => void lines.set(table, [...(lines.get(table) ?? []), line]);
  for (const { table, from, rule } of jumps)
    for (const raw of found.get(chainId(table, from)) ?? []) if (canonical(raw) === rule) add(table, `-D ${from} ${raw}`);
  // A chain that somebody else's rule still leads to cannot go; it is emptied, but for the one that others are known to use:
  // CNI's portmap masquerades by KUBE-MARK-MASQ (its externalSetMarkChain).
  const known = new Set(jumps.map(({ table, from, rule }) => `${table} ${from} ${rule}`));
  const kept = new Set<ChainId>();
  for (const [id, rules] of found) {
    if (ours.has(id)) continue;
    for (const raw of rules)
      if (!known.has(`${id} ${canonical(raw)}`)) kept.add(chainId(tableOf(id), optionOf(raw, '-j') ?? optionOf(raw, '-g') ?? ''));
  }
  if (kept.has(markChain)) ours.delete(markChain);
  for (const id of ours) add(tableOf(id), `:${nameOf(id)} - [0:0]`);
  for (const id of ours) if (!kept.has(id)) add(tableOf(id), `-X ${nameOf(id)}`);
  return lines;
}

export function restoreText(lines: ReadonlyMap<TableName, readonly string[]>): string {
  return [...lines]
    .filter(([, each]) => each.length > 0)
    .map(([table, each]) => `*${table}\n${each.join('\n')}\nCOMMIT\n`)
    .join('');
}
