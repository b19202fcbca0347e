// The table that the nftables backend keeps: what is in it whatever Services there are. Its size is
// constant; Services are elements of its sets and maps. docs/services.md explains the layout.
import type { Family } from '../../model/address.ts';
import { type Protocol, protocols } from '../../model/service-row.ts';
import type { BackendSettings } from '../backend.ts';
import { endpointMap, pickChains } from './demand.ts';
import type { Chain, Field, Hook, NftSet, Rule, Statement } from './rule.ts';

/** Goes up when sets or maps change in a way that rules of an older run would not take. */
const layoutVersion = 1;

/**
 * A new layout has a table of its own, which is filled beside the old one: translation takes the
 * first that matches, so that nothing stops before the old one goes.
 */
export const tableName = `keelson-services-${layoutVersion}`;

/** Whether a table is of some version of this backend. */
export function isOurTable(name: string): boolean {
  return /^keelson-services(-\d+)?$/.test(name);
}

/** Chains for so many endpoints are there from the start; others come when they are needed. */
const readyCounts = 16;

/** All that the table has before the first Service. */
export interface Layout {
  readonly family: Family;
  readonly sets: readonly NftSet[];
  /** In an order in which every chain comes after those it names. */
  readonly chains: readonly Chain[];
}

export function layout(family: Family, settings: BackendSettings): Layout {
  return { family, sets: setsOf(family), chains: chainsOf(family, settings) };
}

function setsOf(family: Family): NftSet[] {
  const address = family === 'ip' ? 'ipv4_addr' : 'ipv6_addr';
  const place = `type ${address} . inet_proto . inet_service`;
  const port = 'type inet_proto . inet_service';
  // Not `th dport` for the value's port: nft 1.0.6 refuses every later rule that uses the map
  // ("conflicting protocols specified: ip vs. th").
  const slots = (key: string, protocol: Protocol): string =>
    `typeof ${key} . numgen random mod 65536 : ${family} daddr . ${protocol} dport;`;
  const byPlace = `${family} daddr . meta l4proto . th dport`;
  const byPort = 'meta l4proto . th dport';
  const map = (name: string, spec: string): NftSet => ({ name, kind: 'map', spec });
  const set = (name: string, spec: string): NftSet => ({ name, kind: 'set', spec });
  return [
    ...['frontends', 'frontends-cluster', 'frontends-local', 'closed', 'remember'].map((name) => map(name, `${place} : verdict;`)),
    ...['nodeports', 'nodeports-cluster', 'nodeports-local', 'closed-nodeports', 'remember-nodeports'].map((name) =>
      map(name, `${port} : verdict;`),
    ),
    ...protocols.flatMap((protocol) =>
      [false, true].flatMap((local) => [
        map(endpointMap({ nodePort: false, local }, protocol), slots(byPlace, protocol)),
        map(endpointMap({ nodePort: true, local }, protocol), slots(byPort, protocol)),
      ]),
    ),
    set('cluster-ips', `type ${address};`),
    set('service-cidrs', `type ${address}; flags interval;`),
    set('nodeport-ips', `type ${address}; flags interval;`),
    set('guarded', `${place};`),
    set('allowed-sources', `${place} . ${address}; flags interval;`),
    set('hairpin', `type ${address} . ${address};`),
    ...(family === 'ip' ? [map('affinity', affinitySpec)] : []),
  ];
}

/** A million clients: addresses that a hostile client makes up must not fill the kernel's memory. */
const affinitySpec =
  'type ipv4_addr . ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;' +
  ' flags dynamic,timeout; timeout 3h; size 1048576;';

const place: readonly Field[] = ['daddr', 'protocol', 'dport'];
const port: readonly Field[] = ['protocol', 'dport'];
const inSet = (set: string): Statement => ({ if: 'in', fields: ['daddr'], set });
const vmap = (fields: readonly Field[], map: string): Statement => ({ do: 'vmap', fields, map });
const jump = (chain: string): Rule => [{ do: 'jump', chain }];
/**
 * Twice: the kernel makes a transaction visible in one moment, but a packet may have looked up its
 * frontend before that moment and look up a slot after it, which is gone where there are fewer
 * endpoints now. The second look sees one state. (Measured: one refused connection in some thousand
 * while endpoints come and go 200 times a second.)
 */
const translate: readonly Rule[] = [jump('services'), jump('services')];
const isNew: Statement = { if: 'new' };

function chainsOf(family: Family, settings: BackendSettings): Chain[] {
  const bit = settings.masqueradeBit;
  const plain = { nodePort: false, masquerade: false, sticky: false, local: false };
  const counts = Array.from({ length: readyCounts }, (_, index) => index + 1);
  const ready = counts.flatMap((count) => pickChains({ ...plain, masquerade: true, count }, bit));
  const chain = (name: string, ...rules: Rule[]): Chain => ({ name, hook: undefined, rules });
  const base = (name: string, hook: Hook, ...rules: Rule[]): Chain => ({ name, hook, rules });
  const nodePort = nodePortTest(family, settings);
  const remember: Statement = { if: 'protocol', protocols: ['tcp', 'udp', 'sctp'] };
  return [
    ...ready,
    chain('refused', [{ if: 'protocol', protocols: ['tcp'] }, { do: 'reset' }], [{ do: 'unreachable' }]),
    chain('external-cluster', [vmap(place, 'frontends-cluster')]),
    chain('external-local', ...shortCuts(settings, 'external-cluster'), [vmap(place, 'frontends-local')]),
    chain('nodeport-cluster', [vmap(port, 'nodeports-cluster')]),
    chain('nodeport-local', ...shortCuts(settings, 'nodeport-cluster'), [vmap(port, 'nodeports-local')]),
    chain('services', ...masqueradeRules(settings), [vmap(place, 'frontends')], [...nodePort, vmap(port, 'nodeports')]),
    chain('guard', [
      isNew,
      { if: 'in', fields: place, set: 'guarded' },
      { if: 'in', fields: [...place, 'saddr'], set: 'allowed-sources', not: true },
      { do: 'drop' },
    ]),
    chain('closed-nodeport', [...nodePort, vmap(port, 'closed-nodeports')]),
    chain(
      'closed-address',
      [vmap(place, 'closed')],
      [inSet('cluster-ips'), { do: 'goto', chain: 'refused' }],
      [inSet('service-cidrs'), { do: 'drop' }],
    ),
    // Who got what: after the translation and before masquerading, so that both ends are known.
    chain(
      'remembering',
      [remember, vmap(['originalDaddr', 'protocol', 'originalDport'], 'remember')],
      [remember, vmap(['protocol', 'originalDport'], 'remember-nodeports')],
    ),
    base('filter-prerouting', { type: 'filter', hook: 'prerouting', priority: -110 }, jump('guard')),
    base('filter-output-before-nat', { type: 'filter', hook: 'output', priority: -110 }, jump('guard')),
    base('nat-prerouting', { type: 'nat', hook: 'prerouting', priority: -100 }, ...translate),
    base('nat-output', { type: 'nat', hook: 'output', priority: -100 }, ...translate),
    ...(family === 'ip' && settings.nodePorts.localhost ? [martians] : []),
    base(
      'filter-input',
      { type: 'filter', hook: 'input', priority: 0 },
      [isNew, { do: 'jump', chain: 'closed-nodeport' }],
      [isNew, vmap(place, 'closed')],
    ),
    base('filter-forward', { type: 'filter', hook: 'forward', priority: 0 }, [isNew, { do: 'jump', chain: 'closed-address' }]),
    base(
      'filter-output',
      { type: 'filter', hook: 'output', priority: 0 },
      [isNew, { do: 'jump', chain: 'closed-nodeport' }],
      [isNew, { do: 'jump', chain: 'closed-address' }],
    ),
    base('nat-input', { type: 'nat', hook: 'input', priority: 95 }, [{ if: 'translated' }, { do: 'jump', chain: 'remembering' }]),
    base('nat-postrouting-remember', { type: 'nat', hook: 'postrouting', priority: 95 }, [
      { if: 'translated' },
      { do: 'jump', chain: 'remembering' },
    ]),
    base(
      'nat-postrouting',
      { type: 'nat', hook: 'postrouting', priority: 100 },
      [{ if: 'marked', bit }, { do: 'unmark', bit }, { do: 'masquerade' }],
      // A pod that reached itself: it would drop an answer from its own address.
      [{ if: 'translated' }, { if: 'in', fields: ['saddr', 'daddr'], set: 'hairpin' }, { do: 'masquerade' }],
    ),
  ];
}

/** With route_localnet, packets to loopback from outside would get in: CVE-2020-8558. */
const martians: Chain = {
  name: 'martians',
  hook: { type: 'filter', hook: 'input', priority: -160 },
  rules: [
    [
      { if: 'within', field: 'daddr', cidrs: ['127.0.0.0/8'] },
      { if: 'within', field: 'saddr', cidrs: ['127.0.0.0/8'], not: true },
      { if: 'translated', not: true },
      { if: 'notEstablished' },
      { do: 'drop' },
    ],
  ],
};

/** Pods of this node and the node itself are not outside: their connections go to all endpoints. */
function shortCuts(settings: BackendSettings, chain: string): Rule[] {
  const fromPod = podTest(settings, false);
  const own: Rule = [
    { if: 'own', field: 'saddr' },
    { do: 'mark', bit: settings.masqueradeBit },
    { do: 'goto', chain },
  ];
  return fromPod === undefined ? [own] : [[fromPod, { do: 'goto', chain }], own];
}

function masqueradeRules(settings: BackendSettings): Rule[] {
  const mark: Statement = { do: 'mark', bit: settings.masqueradeBit };
  if (settings.masqueradeAll) return [[inSet('cluster-ips'), mark]];
  const notFromPod = podTest(settings, true);
  return notFromPod === undefined ? [] : [[inSet('cluster-ips'), notFromPod, mark]];
}

/** The packet is, or is not, of a pod of this node; undefined when nothing tells. */
function podTest({ detectLocal }: BackendSettings, negated: boolean): Statement | undefined {
  const not = negated ? ({ not: true } as const) : {};
  switch (detectLocal.kind) {
    case 'cidrs':
      return { if: 'within', field: 'saddr', cidrs: detectLocal.cidrs.map(({ text }) => text), ...not };
    case 'interface':
      return { if: 'interface', name: detectLocal.name, prefix: false, ...not };
    case 'interfacePrefix':
      return { if: 'interface', name: detectLocal.prefix, prefix: true, ...not };
    default:
      return undefined;
  }
}

const loopback: Record<Family, string> = { ip: '127.0.0.0/8', ip6: '::1/128' };

/** The destination is an address that node ports are served on. */
function nodePortTest(family: Family, { nodePorts }: BackendSettings): Statement[] {
  if (nodePorts.kind === 'list') return [inSet('nodeport-ips')];
  const own: Statement = { if: 'own', field: 'daddr' };
  return nodePorts.localhost ? [own] : [own, { if: 'within', field: 'daddr', cidrs: [loopback[family]], not: true }];
}

/** Elements of `nodeport-ips`. */
export function nodePortIps(family: Family, { nodePorts }: BackendSettings): string[] {
  if (nodePorts.kind === 'all') return [];
  return [...nodePorts.addresses, ...(nodePorts.localhost ? [loopback[family]] : [])];
}
