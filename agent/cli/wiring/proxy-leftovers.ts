// What a kube-proxy that ran here before has left goes once our own rules are in.
import { removeUpstream } from '../../../proxy/backends/upstream/remove.ts';
import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import { startLoop } from '../../base/loop.ts';

export interface LeftoversOptions {
  readonly mode: string;
  /** Resolves once all that is wanted has been programmed. */
  readonly synced: Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
}

/** A tool that fails now, as with a lock that somebody holds, may work later. */
const againMs = 5 * 60_000;

/** As kube-proxy does when it starts: what this mode makes itself is not looked for (cmd/kube-proxy/app/server_linux.go, platformCleanup). */
export function startRemovingLeftovers({ mode, synced, clock, log, signal }: LeftoversOptions): AsyncDisposable {
  const modes = { iptables: mode === 'nftables', nftables: true };
  const loop = startLoop({
    name: 'proxy-leftovers',
    clock,
    log,
    signal,
    run: async (_key, bounded) => ((await removeUpstream(modes, { clock, log }, bounded)) ? undefined : clock.mono() + againMs),
  });
  void synced.then(() => loop.enqueue('all'));
  return loop;
}
