// Frontends as rules: those in chains that all Services share, one frontend at a time, and the chains of
// one port of a Service. docs: Frontend of proxy/model/frontend.ts says what they have to do.
import type { Family } from '../../model/address.ts';
import type { Endpoint } from '../../model/endpoints.ts';
import { type Frontend, policyPick } from '../../model/frontend.ts';
import type { BackendSettings } from '../backend.ts';
import { type ChainId, chainId, endpointChain, portText, serviceChain, targetOf } from './names.ts';
import { ownDestination, ownSource, probability, type RuleFacts, ruleText, single } from './rule.ts';
import { markOf, nodePortCidrs } from './structure.ts';

export interface SharedRule {
  readonly chain: ChainId;
  /** In the one spelling. */
  readonly rule: string;
}

/** What a frontend has in the chains that all share. */
export function sharedRules(frontend: Frontend, { nodePorts }: BackendSettings): SharedRule[] {
  const { kind, family, protocol, port, address, sources, closed } = frontend;
  const text = portText(frontend);
  const destination = address === undefined ? undefined : single(family, address);
  const to = { destination, protocol, port };
  const rules: SharedRule[] = [];
  const chain = entryChain(frontend);
  if (chain !== undefined) {
    if (kind === 'nodePort') rules.push({ chain: 'nat KUBE-NODEPORTS', rule: ruleText({ ...to, comment: text, jump: chain }) });
    else rules.push({ chain: 'nat KUBE-SERVICES', rule: ruleText({ ...to, comment: `${text} ${kindWords[kind]}`, jump: chain }) });
  }
  if (sources !== undefined) {
    const name = serviceChain('FW', frontend);
    const jump = closed === 'reject' ? name : 'DROP';
    rules.push({
      chain: 'filter KUBE-PROXY-FIREWALL',
      rule: ruleText({ ...to, comment: `${text} traffic not accepted by ${name}`, jump }),
    });
  } else if (closed !== undefined) {
    const comment = `${text} has no ${closed === 'drop' ? 'local ' : ''}endpoints`;
    const jump = closed === 'drop' ? 'DROP' : rejection(frontend);
    const where: Pick<RuleFacts, 'destination' | 'matches'>[] =
      kind !== 'nodePort'
        ? [{ destination }]
        : nodePorts.kind === 'all'
          ? [{ matches: [ownDestination] }]
          : nodePortCidrs(family, nodePorts.addresses, nodePorts.localhost).map((cidr) => ({
              destination: cidr,
              matches: [ownDestination],
            }));
    const at = kind === 'clusterIP' ? 'filter KUBE-SERVICES' : 'filter KUBE-EXTERNAL-SERVICES';
    rules.push(...where.map((each): SharedRule => ({ chain: at, rule: ruleText({ ...to, ...each, comment, jump }) })));
  }
  return rules;
}

const kindWords = { clusterIP: 'cluster IP', loadBalancerIP: 'loadbalancer IP', externalIP: 'external IP' } as const;

/** The chain that a frontend's connections enter; undefined where there is no endpoint for anybody. */
function entryChain(frontend: Frontend): string | undefined {
  const { kind, cluster, local, policy, sources } = frontend;
  if (kind === 'clusterIP')
    return endpointsOf(policyPick(frontend)).length === 0 ? undefined : serviceChain(policy === 'Local' ? 'SVL' : 'SVC', frontend);
  if (endpointsOf(cluster).length + endpointsOf(local).length === 0) return undefined;
  return serviceChain(sources === undefined ? 'EXT' : 'FW', frontend);
}

/** ICMP errors are few a second, and TCP clients would wait for the rest: they get a reset. */
function rejection({ family, protocol }: Frontend): string {
  if (protocol === 'tcp') return 'REJECT --reject-with tcp-reset';
  return `REJECT --reject-with ${family === 'ip' ? 'icmp' : 'icmp6'}-port-unreachable`;
}

const endpointsOf = (pick: Frontend['cluster']): readonly Endpoint[] => pick?.endpoints ?? [];

/** The chains of one port of a Service, all of whose frontends are given. */
export function serviceChains(frontends: readonly Frontend[], settings: BackendSettings): Map<ChainId, string[]> {
  const chains = new Map<ChainId, string[]>();
  const [first] = frontends;
  if (first === undefined) return chains;
  const cluster = endpointsOf(frontends.find((each) => each.cluster !== undefined)?.cluster);
  const local = endpointsOf(frontends.find((each) => each.local !== undefined)?.local);
  const internal = frontends.find(({ kind }) => kind === 'clusterIP');
  const outer = frontends.filter(({ kind }) => kind !== 'clusterIP');
  const put = (kind: Parameters<typeof serviceChain>[0], rules: string[]): void => {
    chains.set(chainId('nat', serviceChain(kind, first)), rules);
  };
  const balanced = (policy: Frontend['policy'], endpoints: readonly Endpoint[]): string[] => [
    ...(internal?.policy === policy ? masqueradeRules(internal, settings) : []),
    ...balanceRules(first, endpoints),
  ];
  if (cluster.length > 0) put('SVC', balanced('Cluster', cluster));
  if (local.length > 0) put('SVL', balanced('Local', local));
  const [external] = outer;
  if (external !== undefined && cluster.length + local.length > 0) put('EXT', externalRules(external, settings, cluster, local));
  const guarded = outer.find(({ sources }) => sources !== undefined);
  if (guarded !== undefined && cluster.length + local.length > 0) put('FW', guardRules(guarded));
  if (guarded?.closed === 'reject') chains.set(chainId('filter', serviceChain('FW', first)), closedGuardRules(guarded));
  for (const endpoint of [...cluster, ...local])
    chains.set(chainId('nat', endpointChain(first, targetOf(first, endpoint))), endpointRules(first, endpoint));
  return chains;
}

/** Connections to a cluster IP that are not known to come from a pod of this node. */
function masqueradeRules(frontend: Frontend, { detectLocal, masqueradeAll, masqueradeBit }: BackendSettings): string[] {
  const { family, address = '', protocol, port } = frontend;
  const comment = `${portText(frontend)} cluster IP`;
  const to = { destination: single(family, address), protocol, port, comment };
  const mark = (from: RuleFacts | Omit<RuleFacts, 'jump'>): string => ruleText({ ...to, ...from, jump: 'KUBE-MARK-MASQ' });
  if (masqueradeAll) return [mark({})];
  switch (detectLocal.kind) {
    case 'cidrs': {
      const [only, ...others] = detectLocal.cidrs;
      if (only !== undefined && others.length === 0) return [mark({ source: `!${only.text}` })];
      // A rule has one source: all are marked, and the mark is taken from pods again.
      const unmark = `MARK --set-xmark 0x0/${markOf(masqueradeBit)}`;
      return [mark({}), ...detectLocal.cidrs.map(({ text }) => ruleText({ ...to, source: text, jump: unmark }))];
    }
    case 'interface':
      return [mark({ input: `!${detectLocal.name}` })];
    case 'interfacePrefix':
      return [mark({ input: `!${detectLocal.prefix}+` })];
    default:
      return [];
  }
}

/** Where connections of pods of this node are known by. */
function podSources({ detectLocal }: BackendSettings): Omit<RuleFacts, 'jump'>[] {
  switch (detectLocal.kind) {
    case 'cidrs':
      return detectLocal.cidrs.map(({ text }) => ({ source: text }));
    case 'interface':
      return [{ input: detectLocal.name }];
    case 'interfacePrefix':
      return [{ input: `${detectLocal.prefix}+` }];
    default:
      return [];
  }
}

function externalRules(frontend: Frontend, settings: BackendSettings, cluster: readonly Endpoint[], local: readonly Endpoint[]): string[] {
  const text = portText(frontend);
  const toCluster = serviceChain('SVC', frontend);
  if (frontend.policy === 'Cluster')
    return [
      ruleText({ comment: `masquerade traffic for ${text} external destinations`, jump: 'KUBE-MARK-MASQ' }),
      ...(cluster.length > 0 ? [ruleText({ jump: toCluster })] : []),
    ];
  const own = [ownSource];
  const shortCuts = [
    ...podSources(settings).map((from) => ruleText({ ...from, comment: `pod traffic for ${text} external destinations`, jump: toCluster })),
    ruleText({ comment: `masquerade LOCAL traffic for ${text} external destinations`, matches: own, jump: 'KUBE-MARK-MASQ' }),
    ruleText({ comment: `route LOCAL traffic for ${text} external destinations`, matches: own, jump: toCluster }),
  ];
  return [...(cluster.length > 0 ? shortCuts : []), ...(local.length > 0 ? [ruleText({ jump: serviceChain('SVL', frontend) })] : [])];
}

/** Clients of these ranges go on; what comes to the end is dropped in KUBE-PROXY-FIREWALL. */
function guardRules(frontend: Frontend): string[] {
  const text = portText(frontend);
  const jump = serviceChain('EXT', frontend);
  return [
    ...(frontend.sources ?? []).map((cidr) => ruleText({ source: cidr.text, comment: `${text} loadbalancer IP`, jump })),
    ruleText({ comment: `other traffic to ${text} will be dropped by KUBE-PROXY-FIREWALL`, jump: undefined }),
  ];
}

function closedGuardRules(frontend: Frontend): string[] {
  const { protocol, sources = [] } = frontend;
  const comment = `${portText(frontend)} has no endpoints`;
  return [
    ...sources.map(({ text }) => ruleText({ source: text, protocol, comment, jump: rejection(frontend) })),
    ruleText({ jump: 'DROP' }),
  ];
}

function balanceRules(frontend: Frontend, endpoints: readonly Endpoint[]): string[] {
  const places = endpoints.map((endpoint) => {
    const target = targetOf(frontend, endpoint);
    return { chain: endpointChain(frontend, target), comment: `${portText(frontend)} -> ${target}` };
  });
  const seconds = frontend.affinitySeconds;
  const sticky = places.map(({ chain, comment }) =>
    ruleText({ comment, matches: [recent(frontend.family, chain, `--rcheck --seconds ${seconds} --reap`)], jump: chain }),
  );
  const any = places.map(({ chain, comment }, index) => {
    const left = places.length - index;
    const matches = left === 1 ? [] : [`-m statistic --mode random --probability ${probability(left)}`];
    return ruleText({ comment, matches, jump: chain });
  });
  return [...(seconds === undefined ? [] : sticky), ...any];
}

function endpointRules(frontend: Frontend, endpoint: Endpoint): string[] {
  const { family, protocol, affinitySeconds } = frontend;
  const target = targetOf(frontend, endpoint);
  const comment = portText(frontend);
  const remember = recent(family, endpointChain(frontend, target), '--set');
  return [
    // An answer of a pod to itself has to come back through here.
    ruleText({ source: single(family, endpoint.address.ip), comment, jump: 'KUBE-MARK-MASQ' }),
    ruleText({
      protocol,
      comment,
      matches: affinitySeconds === undefined ? [] : [remember],
      jump: `DNAT --to-destination ${target}`,
    }),
  ];
}

/** Clients by their whole address, in a list named as the endpoint's chain. */
function recent(family: Family, name: string, what: string): string {
  const mask = family === 'ip' ? '255.255.255.255' : 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff';
  return `-m recent ${what} --name ${name} --mask ${mask} --rsource`;
}
