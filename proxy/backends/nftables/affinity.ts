// Session affinity's leftovers: clients of endpoints that are gone, and maps of frontends that are.
import { hasCode } from '../../../agent/base/errors.ts';
import type { Family } from '../../model/address.ts';
import { batchRefused } from '../backend.ts';
import type { ElementOp } from './batch.ts';
import { clientMaps, ownerOf, stickyId } from './demand.ts';
import type { Netfilter } from './netfilter.ts';
import type { Committed, LostEndpoints } from './staging.ts';

/** A map that changes faster than it is read is somebody's attack: then entries go by their time. */
const mostTurns = 100;

/**
 * Clients that were sent to endpoints which are gone choose anew. An element may expire between
 * listing and deleting, which refuses the deletion: then the list is read again.
 */
export async function forgetClients(
  family: Family,
  netfilter: Netfilter,
  lost: readonly LostEndpoints[],
  signal: AbortSignal,
): Promise<void> {
  for (let turn = 0; ; turn++) {
    const elements = family === 'ip' ? await clientsOf(netfilter, lost, signal) : await ownClientsOf(netfilter, lost, signal);
    if (elements.length === 0) return;
    try {
      // One by one in the end: what expired is no reason to keep the others.
      for (const part of turn < 3 ? [elements] : elements.map((each) => [each]))
        await netfilter.apply({ family, chains: [], elements: part }, signal);
      return;
    } catch (error) {
      if (!hasCode(error, batchRefused) || turn > mostTurns) throw error;
    }
  }
}

/** In the map of all clients: `client . address . protocol . port : endpoint`. */
async function clientsOf(netfilter: Netfilter, lost: readonly LostEndpoints[], signal: AbortSignal): Promise<ElementOp[]> {
  const clients = await netfilter.readSet('affinity', signal);
  return [...clients].flatMap(([key, value]): ElementOp[] => {
    const [, daddr, ...port] = key.split(' . ');
    const place = port.join(' . ');
    const gone = lost.some(
      ({ frontend, endpoints }) => endpoints.has(value ?? '') && (frontend === `${daddr} . ${place}` || frontend === place),
    );
    return gone ? [{ op: 'delete', set: 'affinity', key, value }] : [];
  });
}

/** In the two maps of each frontend: client → address, client → port. */
async function ownClientsOf(netfilter: Netfilter, lost: readonly LostEndpoints[], signal: AbortSignal): Promise<ElementOp[]> {
  const elements: ElementOp[] = [];
  for (const { frontend, endpoints } of lost) {
    const { map, ports } = clientMaps(stickyId(frontend));
    const addressOf = await netfilter.readSet(map, signal);
    const portOf = await netfilter.readSet(ports, signal);
    for (const [client, address] of addressOf) {
      if (!endpoints.has(`${address} . ${portOf.get(client)}`)) continue;
      elements.push({ op: 'delete', set: map, key: client, value: address });
      elements.push({ op: 'delete', set: ports, key: client, value: portOf.get(client) });
    }
  }
  return elements;
}

/** Chains and maps that only one frontend had, of frontends that need them no more. */
export function leftovers({ frontends, chains }: Committed): { chains: string[]; sets: string[] } {
  const needed = new Set(
    [...frontends.values()].flatMap(({ verdicts }) => [...verdicts.values()]).flatMap((verdict) => ownerOf(verdict ?? '') ?? []),
  );
  // Those that masquerade go to the others, and have to go before them.
  const stale = [...chains].filter((name) => !needed.has(ownerOf(name) ?? '') && ownerOf(name) !== undefined).sort();
  const ids = [...new Set(stale.map((name) => ownerOf(name) ?? ''))];
  return { chains: stale, sets: ids.flatMap((id) => Object.values(clientMaps(id))) };
}
