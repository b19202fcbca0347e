// Which backends program Services, by mode, and what has to follow their changes.
import type { Backend } from '../../../proxy/backends/backend.ts';
import { createNft } from '../../../proxy/backends/nftables/nft.ts';
import { createNftables } from '../../../proxy/backends/nftables/worker.ts';
import { startConntrack } from '../../../proxy/conntrack/worker.ts';
import { type Family, families } from '../../../proxy/model/address.ts';
import type { Commit } from '../../../proxy/programmed.ts';
import type { Clock } from '../../base/clock.ts';
import { AgentError, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { ProxyMode } from '../../config/proxy/defaults.ts';
import { netfilterProtocol, openNetlink, readAttributes } from '../../drivers/netlink/netlink.ts';
import { readNetwork } from '../../drivers/proc/machine.ts';
import { readSysctl } from '../../drivers/proc/sysctl.ts';
import { conntrackRequest } from './proxy-conntrack.ts';

export interface BackendsOptions {
  readonly mode: ProxyMode;
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
  if (mode === 'nftables') return;
  throw new AgentError(
    'NotSupported',
    `mode ${mode} is not there yet: set mode: nftables (or --proxy-mode=nftables), or run kube-proxy and leave Services to it with --no-proxy`,
  );
}

/** Opens what the mode needs. The backends are closed by the proxy that uses them. Throws AgentError `NotSupported` for a mode that is not there. */
export function openBackends({ mode, clock, log, forgotten }: BackendsOptions, served: readonly Family[]): Backends {
  requireMode(mode);
  const backends = served.map((family) => createNftables(family, createNft(family, { clock }), clock.mono));
  const netlink = openNetlink(netfilterProtocol);
  let localAddresses: ReadonlySet<string> = new Set();
  const conntrack = startConntrack({
    clock,
    log,
    request: conntrackRequest(netlink),
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
    },
  };
}

/** Removes what keelson has programmed on this machine; what is not there is fine. */
export async function removeRules(clock: Clock, signal: AbortSignal): Promise<void> {
  for (const family of families) {
    await using nft = createNft(family, { clock });
    await nft.remove(signal);
  }
}
