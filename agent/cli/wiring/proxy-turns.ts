// Whose turn it is to program the Services of this node: ours while no kube-proxy pod is bound to it.
import { isKubeProxy } from '../../../proxy/peers.ts';
import type { Clock } from '../../base/clock.ts';
import { hasCode } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { startLoop } from '../../base/loop.ts';
import type { ReadonlyTable } from '../../base/table.ts';
import type { Pod } from '../../model/generated/api.ts';

export interface ProxyTurnsOptions {
  readonly nodeName: string;
  readonly nodes: ReadonlyTable<unknown>;
  /** What the API and static files want to run here. */
  readonly specs: ReadonlyTable<{ readonly pod: Pod }>;
  /** Starts programming. What it opened before it throws is closed. */
  readonly start: () => Promise<AsyncDisposable>;
  /** Removes the rules that this proxy or an earlier run of it left in the kernel. Throws `NftMissing` where there can be none. */
  readonly removeRules: (signal: AbortSignal) => Promise<void>;
  /** A kube-proxy has the turn; told once for each pod. */
  readonly leave: (pod: Pod) => void;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
}

/** Takes and leaves turns until it is disposed of; the rules stay then. */
export function startProxyTurns(options: ProxyTurnsOptions): AsyncDisposable {
  const { nodeName, nodes, specs, clock, log, signal } = options;
  let running: AsyncDisposable | undefined;
  let removed = false;
  let leftTo: string | undefined;

  async function stop(): Promise<void> {
    const stopping = running;
    running = undefined;
    await stopping?.[Symbol.asyncDispose]();
  }

  async function take(): Promise<void> {
    leftTo = undefined;
    removed = false;
    running ??= await options.start();
  }

  async function leave(peer: Pod, bounded: AbortSignal): Promise<void> {
    const name = `${peer.metadata?.namespace}/${peer.metadata?.name}`;
    if (leftTo !== name) options.leave(peer);
    leftTo = name;
    await stop();
    // A daemon that was not there when the kube-proxy came has left its rules, and they would go on beside the others' for ever.
    if (removed) return;
    await options.removeRules(bounded).catch((error: unknown) => {
      if (!hasCode(error, 'NftMissing')) throw error;
    });
    removed = true;
  }

  const loop = startLoop({
    name: 'node-proxy',
    clock,
    log,
    signal,
    async run(_key, bounded) {
      // Absence is unknown before: a kube-proxy may be about to be seen.
      if (!specs.synced) return undefined;
      const peer = [...specs.values()].map(({ pod }) => pod).find(isKubeProxy);
      if (peer !== undefined) await leave(peer, bounded);
      else if (running !== undefined || nodes.has(nodeName)) await take();
      return undefined;
    },
  });
  const look = (): void => loop.enqueue('proxy');
  const subscriptions = [specs.subscribe(look), nodes.subscribe(look), specs.onSynced(look)];
  look();
  return {
    async [Symbol.asyncDispose]() {
      for (const subscription of subscriptions) subscription[Symbol.dispose]();
      await loop[Symbol.asyncDispose]();
      await stop();
    },
  };
}
