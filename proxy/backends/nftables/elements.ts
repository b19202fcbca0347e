// Which elements a frontend is made of, and how to get from those the kernel has to those it should
// have with as few operations as there can be.
import type { Endpoint } from '../../model/endpoints.ts';
import type { Frontend } from '../../model/frontend.ts';
import type { Element, ElementOp } from './batch.ts';
import { endpointMap, type PickVariant, pickChainName, rememberChainName, stickyId } from './demand.ts';

/** The elements of one frontend, as the kernel has or should have them. */
export interface FrontendElements {
  /** Where its connections go: set → value; `undefined` for elements of sets. All under one key. */
  readonly verdicts: ReadonlyMap<string, string | undefined>;
  /** Endpoints by slot (`10.1.0.7 . 8080`); dense, since numgen picks any number below the count. */
  readonly slots: readonly string[];
  /** The same for Local policy of an external frontend. */
  readonly localSlots: readonly string[];
  /** CIDRs that may use a guarded frontend. */
  readonly sources: readonly string[];
  /** Elements that other frontends may need as well, by `sharedKey`. */
  readonly shared: readonly Element[];
}

export const noElements: FrontendElements = { verdicts: new Map(), slots: [], localSlots: [], sources: [], shared: [] };

/** The key of a frontend's elements, without slot or source. */
export function elementKey({ address, protocol, port }: Pick<Frontend, 'address' | 'protocol' | 'port'>): string {
  return address === undefined ? `${protocol} . ${port}` : `${address} . ${protocol} . ${port}`;
}

export function elementsOf(frontend: Frontend): FrontendElements {
  const { kind, policy, sources } = frontend;
  const seconds = frontend.affinitySeconds;
  const sticky = stickyOf(frontend);
  const nodePort = kind === 'nodePort';
  const internal = kind === 'clusterIP';
  const verdicts = new Map<string, string | undefined>();
  const names = nodePort ? nodePortSets : addressSets;
  // The list of connections that are translated: of a cluster IP whatever its policy chose.
  const main = internal && policy === 'Local' ? frontend.local : frontend.cluster;
  const slots = slotsOf(main?.endpoints);
  const localSlots = internal || policy === 'Cluster' ? [] : slotsOf(frontend.local?.endpoints);
  const pick = (variant: Pick<PickVariant, 'masquerade' | 'local' | 'count'>): string =>
    `goto ${pickChainName({ nodePort, sticky, ...variant })}`;
  if (slots.length + localSlots.length > 0) {
    if (internal || policy === 'Cluster') verdicts.set(names.frontends, pick({ masquerade: !internal, local: false, count: slots.length }));
    else {
      verdicts.set(names.frontends, `goto ${names.external}`);
      if (slots.length > 0) verdicts.set(names.cluster, pick({ masquerade: false, local: false, count: slots.length }));
      if (localSlots.length > 0) verdicts.set(names.local, pick({ masquerade: false, local: true, count: localSlots.length }));
    }
    if (seconds !== undefined)
      verdicts.set(names.remember, `goto ${rememberChainName(seconds, typeof sticky === 'string' ? sticky : undefined)}`);
  }
  if (frontend.closed !== undefined) verdicts.set(names.closed, frontend.closed === 'drop' ? 'drop' : 'goto refused');
  if (sources !== undefined) verdicts.set('guarded', undefined);
  return {
    verdicts,
    slots,
    localSlots,
    sources: (sources ?? []).map(({ text }) => text),
    shared: [
      ...(internal && frontend.address !== undefined ? [{ set: 'cluster-ips', key: frontend.address, value: undefined }] : []),
      ...hairpinsOf([...(main?.endpoints ?? []), ...(frontend.local?.endpoints ?? [])]),
    ],
  };
}

/**
 * How a frontend's clients are remembered: in the map of all clients, or in maps of its own. nft
 * 1.0.6 aborts on an `update` whose key or value takes more than a register of 16 bytes
 * (netlink_linearize.c: `dreg < ctx->reg_low`), so that IPv6 has room for a client alone.
 */
function stickyOf(frontend: Frontend): boolean | string {
  if (frontend.affinitySeconds === undefined) return false;
  return frontend.family === 'ip' ? true : stickyId(elementKey(frontend));
}

interface SetNames {
  readonly frontends: string;
  readonly cluster: string;
  readonly local: string;
  readonly closed: string;
  readonly remember: string;
  /** The chain that tells pods and the node from others. */
  readonly external: string;
}

const addressSets: SetNames = {
  frontends: 'frontends',
  cluster: 'frontends-cluster',
  local: 'frontends-local',
  closed: 'closed',
  remember: 'remember',
  external: 'external-local',
};

const nodePortSets: SetNames = {
  frontends: 'nodeports',
  cluster: 'nodeports-cluster',
  local: 'nodeports-local',
  closed: 'closed-nodeports',
  remember: 'remember-nodeports',
  external: 'nodeport-local',
};

function slotsOf(endpoints: readonly Endpoint[] | undefined): string[] {
  return (endpoints ?? []).map(({ address, port }) => `${address.ip} . ${port}`);
}

function hairpinsOf(endpoints: readonly Endpoint[]): Element[] {
  const own = new Set(endpoints.filter(({ local }) => local).map(({ address }) => address.ip));
  return [...own].map((ip) => ({ set: 'hairpin', key: `${ip} . ${ip}`, value: undefined }));
}

/** What a frontend's change comes to. */
export interface FrontendDiff {
  readonly deletes: readonly ElementOp[];
  readonly adds: readonly ElementOp[];
  /** What the frontend is made of afterwards: the wanted elements, in the slots they got. */
  readonly after: FrontendElements;
}

/**
 * The way from one state of a frontend to another. Slots are kept as they lie: an endpoint that is
 * replaced is one slot written anew, one that goes leaves its slot to the last.
 */
export function diffFrontend(
  frontend: Pick<Frontend, 'address' | 'protocol' | 'port'>,
  before: FrontendElements,
  wanted: FrontendElements,
): FrontendDiff {
  const key = elementKey(frontend);
  const nodePort = frontend.address === undefined;
  const deletes: ElementOp[] = [];
  const adds: ElementOp[] = [];
  const change = (set: string, setKey: string, old: string | undefined, now: string | undefined): void => {
    if (old === now) return;
    // Empty: a slot that somebody else removed.
    if (old !== undefined && old !== '') deletes.push({ op: 'delete', set, key: setKey, value: old });
    if (now !== undefined) adds.push({ op: 'add', set, key: setKey, value: now });
  };
  const slots = placeSlots(before.slots, wanted.slots);
  const localSlots = placeSlots(before.localSlots, wanted.localSlots);
  for (const [map, old, now] of [
    [endpointMap({ nodePort, local: false }, frontend.protocol), before.slots, slots],
    [endpointMap({ nodePort, local: true }, frontend.protocol), before.localSlots, localSlots],
  ] as const)
    for (let slot = 0; slot < Math.max(old.length, now.length); slot++) change(map, `${key} . ${slot}`, old[slot], now[slot]);
  for (const cidr of before.sources) if (!wanted.sources.includes(cidr)) deletes.push(sourceOp('delete', key, cidr));
  for (const cidr of wanted.sources) if (!before.sources.includes(cidr)) adds.push(sourceOp('add', key, cidr));
  for (const [set, value] of before.verdicts)
    if (!wanted.verdicts.has(set) || wanted.verdicts.get(set) !== value) deletes.push({ op: 'delete', set, key, value });
  for (const [set, value] of wanted.verdicts)
    if (!before.verdicts.has(set) || before.verdicts.get(set) !== value) adds.push({ op: 'add', set, key, value });
  return { deletes, adds, after: { ...wanted, slots, localSlots } };
}

const sourceOp = (op: 'add' | 'delete', key: string, cidr: string): ElementOp => ({
  op,
  set: 'allowed-sources',
  key: `${key} . ${cidr}`,
  value: undefined,
});

/** The wanted endpoints, each in the slot it had where that is possible. */
export function placeSlots(before: readonly string[], wanted: readonly string[]): string[] {
  const missing = new Set(wanted);
  const placed: (string | undefined)[] = before.slice(0, wanted.length).map((value) => (missing.delete(value) ? value : undefined));
  while (placed.length < wanted.length) placed.push(undefined);
  const rest = missing.values();
  return placed.map((value) => value ?? (rest.next().value as string));
}
