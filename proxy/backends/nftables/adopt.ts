// What the kernel has, by frontend: the state that an earlier run, or the run before a failure, left.
import type { Family } from '../../model/address.ts';
import { frontendKey } from '../../model/frontend.ts';
import { type Protocol, protocols } from '../../model/service-row.ts';
import { endpointMap } from './demand.ts';
import { type FrontendElements, noElements } from './elements.ts';
import type { Listing } from './listing.ts';

export interface Adopted {
  readonly frontends: Map<string, FrontendElements>;
  /** Elements of sets that frontends share, by `set key`. Whose they are is not known. */
  readonly shared: Set<string>;
}

/** Sets whose elements stand for themselves. */
const sharedSets = ['cluster-ips', 'hairpin'] as const;

const byAddress = ['frontends', 'frontends-cluster', 'frontends-local', 'closed', 'remember', 'guarded'];
const byNodePort = ['nodeports', 'nodeports-cluster', 'nodeports-local', 'closed-nodeports', 'remember-nodeports'];

interface Row {
  readonly verdicts: Map<string, string | undefined>;
  readonly slots: string[];
  readonly localSlots: string[];
  readonly sources: string[];
}

export function adopt(family: Family, { sets }: Listing): Adopted {
  const building = new Map<string, Row>();
  const shared = new Set<string>();
  const at = (parts: readonly string[]): Row => {
    const [address, protocol, port] = parts.length === 3 ? parts : [undefined, ...parts];
    const key = frontendKey({ family, address, protocol: protocol as Protocol, port: Number(port) });
    const row: Row = building.get(key) ?? { verdicts: new Map(), slots: [], localSlots: [], sources: [] };
    building.set(key, row);
    return row;
  };
  const each = (set: string, visit: (parts: string[], value: string | undefined) => void): void => {
    for (const [key, value] of sets.get(set) ?? []) visit(key.split(' . '), value);
  };
  for (const set of [...byAddress, ...byNodePort]) each(set, (parts, value) => at(parts).verdicts.set(set, value));
  const slotInto =
    (list: 'slots' | 'localSlots') =>
    (parts: string[], value: string | undefined): void => {
      const slot = Number(parts.pop());
      const slots = at(parts)[list];
      // Slots come in the order of a hash; what is missing among them stays empty.
      while (slots.length <= slot) slots.push('');
      slots[slot] = value ?? '';
    };
  for (const protocol of protocols)
    for (const nodePort of [false, true]) {
      each(endpointMap({ nodePort, local: false }, protocol), slotInto('slots'));
      each(endpointMap({ nodePort, local: true }, protocol), slotInto('localSlots'));
    }
  each('allowed-sources', (parts) => {
    const source = parts.pop() ?? '';
    at(parts).sources.push(source.includes('/') ? source : `${source}/${family === 'ip' ? 32 : 128}`);
  });
  for (const set of sharedSets) for (const key of sets.get(set)?.keys() ?? []) shared.add(`${set} ${key}`);
  return { frontends: new Map([...building].map(([key, row]) => [key, { ...noElements, ...row }])), shared };
}
