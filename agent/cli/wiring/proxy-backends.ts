// Which backends program Services, by mode, and what has to follow their changes.
import type { Backend } from '../../../proxy/backends/backend.ts';

import { createIptables } from '../../../proxy/backends/iptables/iptables.ts';
import { createIptablesBackend, removeIptables } from '../../../proxy/backends/iptables/worker.ts';

import { createNetlinkElements } from '../../../proxy/backends/nftables/netlink.ts';

import { createNft } from '../../../proxy/backends/nftables/nft.ts';
import { createNftables } from '../../../proxy/backends/nftables/worker.ts';
import { startConntrack } from '../../../proxy/conntrack/worker.ts';
import { type Family, families } from '../../../proxy/model/address.ts';
import type { Commit } from '../../../proxy/programmed.ts';
import type { Clock } from '../../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { ProxyMode } from '../../config/proxy/defaults.ts';
import { netfilterProtocol, openNetlink, readAttributes } from '../../drivers/netlink/netlink.ts';
import { readNetwork } from '../../drivers/proc/machine.ts';
import { readSysctl } from '../../drivers/proc/sysctl.ts';
import { netfilterRequest, netfilterSocket } from './proxy-netlink.ts';

export interface BackendsOptions {
  readonly mode: ProxyMode;
  /** Least time between changes where each replaces a whole table (legacy iptables), ms. */
  readonly minSyncPeriod: number;
  readonly clock: Clock;
  readonly log: Log;
  /** A round of forgetting tracked connections has ended. */
  readonly forgotten: (family: Family, tookMs: number, deleted: number) => void;
}

export interface Backends extends AsyncDisposable {
  readonly backends: readonly Backend[];
  readonly families: readonly Family[];
  /** The kernel acknowledged what became of these frontends. */
  committed(family: Family, commits: readonly Commit[]): void;
}

/** The families that this machine's network namespace has. */
export async function servedFamilies(): Promise<Family[]> {
  const disabled = (await readSysctl('net/ipv6/conf/all/disable_ipv6')) ?? 1;
  return families.filter((family) => family === 'ip' || disabled === 0);
}

/** Throws AgentError `NotSupported` for a mode that is not there. */
export function requireMode(mode: ProxyMode): void {
  if (mode !== 'ipvs') return;
  throw new AgentError(
    'NotSupported',
    `mode ${mode} is not there yet: set mode: nftables or iptables (or --proxy-mode=nftables), or run kube-proxy and leave Services to it with --no-proxy`,
  );
}

/** Opens what the mode needs. The backends are closed by the proxy that uses them. Throws AgentError `NotSupported` for a mode that is not there. */
export function openBackends({ mode, minSyncPeriod, clock, log, forgotten }: BackendsOptions, served: readonly Family[]): Backends {
  requireMode(mode);
  const netlink = openNetlink(netfilterProtocol);
  // Of its own: dumps of tracked connections must not hold up changes.
  const tables = openNetlink(netfilterProtocol);
  const backends = served.map((family) =>
    mode === 'iptables'
      ? onceComplete(
          createIptablesBackend(family, createIptables(family, { clock, log }), minSyncPeriod),
          (signal) => removeOwnTable(family, clock, signal),
          log,
        )
      : onceComplete(
          createNftables(family, createNetlinkElements(family, createNft(family, { clock, log }), netfilterSocket(tables)), clock.mono),
          (signal) => removeIptablesRules(family, clock, signal),
          log,
        ),
  );
  let localAddresses: ReadonlySet<string> = new Set();
  const conntrack = startConntrack({
    clock,
    log,
    request: netfilterRequest(netlink),
    read: readAttributes,
    localAddresses: () => localAddresses,
    observe: forgotten,
  });
  return {
    backends,
    families: served,
    committed(family, commits) {
      // Read anew each time: a VIP may have moved here since.
      void readNetwork()
        .then(({ addresses }) => {
          localAddresses = new Set(addresses.map(({ address }) => address));
        })
        .catch((error: unknown) => log.warn({ err: messageOf(error) }, 'could not read the addresses of this machine'))
        .then(() => conntrack.committed(family, commits));
    },
    async [Symbol.asyncDispose]() {
      await conntrack[Symbol.asyncDispose]();
      await netlink[Symbol.asyncDispose]();
      await tables[Symbol.asyncDispose]();
    },
  };
}

/**
 * A backend that removes what another mode left, once all that it wants is in: until then the old
 * rules serve. Failing at it stops nothing.
 */
function onceComplete(backend: Backend, removeOthers: (signal: AbortSignal) => Promise<void>, log: Log): Backend {
  let removed = false;
  const complete = async (signal: AbortSignal): Promise<void> => {
    await backend.complete(signal);
    if (removed) return;
    removed = true;
    await removeOthers(signal).catch((error: unknown) => {
      if (!signal.aborted) log.warn({ err: messageOf(error) }, 'could not remove the rules of another proxy mode');
    });
  };
  // Its own prototype chain: the least time between transactions is known once it is open.
  return Object.create(backend, { complete: { value: complete } });
}

/** Removes the rules of Services of every mode on this machine; what is not there is fine. */
export async function removeRules(clock: Clock, signal: AbortSignal): Promise<void> {
  for (const family of families) {
    await removeOwnTable(family, clock, signal);
    await removeIptablesRules(family, clock, signal);
  }
}

/**
 * Removes what a kube-proxy would not know of as it takes over. Chains of iptables mode have its own
 * names: it goes on with them, or removes them in another mode.
 */
export async function handOver(clock: Clock, signal: AbortSignal): Promise<void> {
  for (const family of families) await removeOwnTable(family, clock, signal);
}

async function removeOwnTable(family: Family, clock: Clock, signal: AbortSignal): Promise<void> {
  await using netlink = openNetlink(netfilterProtocol);
  await using tables = createNetlinkElements(family, createNft(family, { clock }), netfilterSocket(netlink));
  await tables.remove(signal).catch(unlessMissing);
}

/** Of both variants of the binaries. */
async function removeIptablesRules(family: Family, clock: Clock, signal: AbortSignal): Promise<void> {
  for (const variant of ['nft', 'legacy'] as const) {
    const iptables = createIptables(family, { clock, variant });
    if (await iptables.inUse()) await removeIptables(iptables, signal).catch(unlessMissing);
  }
}

/** Without the tool there are no rules that it made. */
function unlessMissing(error: unknown): void {
  if (!hasCode(error, 'NftMissing') && !hasCode(error, 'IptablesMissing')) throw error;
}
