// What a kube-proxy leaves in the kernel when it goes, by the names that upstream gives it. Pure.
// Sources: pkg/proxy/{iptables,ipvs,nftables}/{cleanup,proxier}.go, pkg/proxy/ipvs/ipset.go.

/** Chains of iptables and IPVS mode, by table. Those of kubelet are not among them. */
const chains: ReadonlyMap<string, ReadonlySet<string>> = new Map([
  ['nat', named('SERVICES', 'NODEPORTS', 'POSTROUTING', 'MARK-MASQ', 'PROXY-CANARY', 'NODE-PORT', 'LOAD-BALANCER')],
  [
    'filter',
    named(
      ...['SERVICES', 'EXTERNAL-SERVICES', 'FORWARD', 'NODEPORTS', 'PROXY-FIREWALL', 'PROXY-CANARY'],
      ...['NODE-PORT', 'SOURCE-RANGES-FIREWALL', 'IPVS-FILTER', 'IPVS-OUT-FILTER'],
    ),
  ],
  ['mangle', named('PROXY-CANARY')],
]);
function named(...names: readonly string[]): ReadonlySet<string> {
  return new Set(names.map((name) => `KUBE-${name}`));
}
/** Chains of Services and endpoints; in the nat table. */
const servicePrefix = /^KUBE-(SVC|SVL|FW|EXT|SEP)-/;

const builtIn: ReadonlySet<string> = new Set(['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING']);
/** Comments of the rules by which the built-in chains send packets to these. */
const jumpComments: ReadonlySet<string> = new Set([
  'kubernetes externally-visible service portals',
  'kubernetes health check service ports',
  'kubernetes health check rules',
  'kubernetes service portals',
  'kubernetes forwarding rules',
  'kubernetes load balancer firewall',
  'kubernetes postrouting rules',
  'kube-proxy firewall rules',
  'kubernetes ipvs access filter',
]);

const sets =
  /^KUBE-(6-)?(LOOP-BACK|CLUSTER-IP|EXTERNAL-IP(-LOCAL)?|LOAD-BALANCER(-LOCAL|-FW|-SOURCE-IP|-SOURCE-CIDR)?|NODE-PORT(-LOCAL)?-(TCP|UDP|SCTP-HASH)|HEALTH-CHECK-NODE-PORT|IPVS-IPS)$/;

/** IPVS mode binds the addresses of Services to it. */
export const ipvsDevice = 'kube-ipvs0';

/** The table of nftables mode, in each family. */
export const upstreamTable = 'kube-proxy';

/** Whether an ipset is one of IPVS mode. */
export function isUpstreamSet(name: string): boolean {
  return sets.test(name);
}

interface Rule {
  readonly chain: string;
  /** As iptables-save prints it, without `-A CHAIN `. */
  readonly text: string;
  readonly target: string | undefined;
  readonly comment: string | undefined;
}

/** What is to be done in one table. */
export interface TableRemoval {
  readonly table: string;
  /** For `iptables-restore --noflush`: one transaction. */
  readonly text: string;
  readonly chains: number;
  /** Chains that stay, since rules of others send packets to them. */
  readonly kept: readonly string[];
}

/** What of a kube-proxy is in the tables that iptables-save printed. */
export function upstreamChains(saved: string): TableRemoval[] {
  return saved
    .split(/^(?=\*)/m)
    .map(removalOf)
    .filter((each) => each !== undefined);
}

function removalOf(section: string): TableRemoval | undefined {
  const table = /^\*(\S+)$/m.exec(section)?.[1] ?? '';
  const isUpstreams = (chain: string): boolean => chains.get(table)?.has(chain) === true || (table === 'nat' && servicePrefix.test(chain));
  const found = [...section.matchAll(/^:(\S+) /gm)].map(([, name = '']) => name).filter(isUpstreams);
  const rules = [...section.matchAll(/^-A (\S+) (.*)$/gm)].map(([, chain = '', text = '']): Rule => ({ chain, text, ...partsOf(text) }));
  const isJump = ({ chain, target, comment }: Rule): boolean =>
    builtIn.has(chain) && target !== undefined && isUpstreams(target) && comment !== undefined && jumpComments.has(comment);
  const kept = keptOf(rules, isUpstreams, isJump);
  const going = found.filter((chain) => !kept.has(chain));
  const jumps = rules.filter(isJump);
  if (going.length === 0 && jumps.length === 0) return undefined;
  const lines = [
    `*${table}`,
    // A chain that is named is emptied, so that none refers to another.
    ...going.map((chain) => `:${chain} - [0:0]`),
    ...jumps.map(({ chain, text }) => `-D ${chain} ${text}`),
    ...going.map((chain) => `-X ${chain}`),
    'COMMIT',
  ];
  return { table, text: `${lines.join('\n')}\n`, chains: going.length, kept: [...kept] };
}

/** What rules of others refer to, such as KUBE-MARK-MASQ of CNI's portmap, and all that this needs. */
function keptOf(rules: readonly Rule[], isUpstreams: (chain: string) => boolean, isJump: (rule: Rule) => boolean): Set<string> {
  const kept = new Set<string>();
  const keep = (target: string | undefined): void => {
    if (target === undefined || !isUpstreams(target) || kept.has(target)) return;
    kept.add(target);
    for (const rule of rules) if (rule.chain === target) keep(rule.target);
  };
  for (const rule of rules) if (!isUpstreams(rule.chain) && !isJump(rule)) keep(rule.target);
  return kept;
}

function partsOf(text: string): Pick<Rule, 'target' | 'comment'> {
  const words = text.match(/"(?:\\.|[^"\\])*"|\S+/g) ?? [];
  const after = (...options: string[]): string | undefined => {
    const at = words.findIndex((word) => options.includes(word));
    return at < 0 ? undefined : words[at + 1]?.replace(/^"(.*)"$/, '$1');
  };
  return { target: after('-j', '-g', '--jump', '--goto'), comment: after('--comment') };
}

/** A virtual server of IPVS, in ipvsadm's words: `-t`, `10.96.0.1:443`. */
export interface VirtualServer {
  readonly option: string;
  readonly address: string;
}

export interface IpvsFacts {
  /** Addresses of kube-ipvs0. */
  readonly bound: readonly string[];
  /** All addresses of the node. */
  readonly own: readonly string[];
  /** Members of the sets of node ports, such as `30080` or `172.18.0.2,sctp:30080`. */
  readonly nodePorts: readonly string[];
}

/** Those of `ipvsadm-save -n` that a kube-proxy has made: at addresses of kube-ipvs0, and node ports. */
export function upstreamServers(saved: string, facts: IpvsFacts): VirtualServer[] {
  const bound = new Set(facts.bound);
  const own = new Set(facts.own);
  const ports = new Set(facts.nodePorts.map((each) => each.split(/[:,]/).at(-1)));
  const all = [...saved.matchAll(/^-A (-[tu]|--sctp-service) (\S+)/gm)];
  return all
    .map(([, option = '', address = '']) => ({ option, address }))
    .filter(({ address }) => {
      const [, host = '', port = ''] = /^\[?([^\]]*?)\]?:(\d+)$/.exec(address) ?? [];
      return bound.has(host) || (own.has(host) && ports.has(port));
    });
}
