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
  /** What is known of the pods here, by UID. */
  readonly statuses: ReadonlyTable<PodReadiness>;
  /** The rules have a kube-proxy's own names: two that program them at once undo each other's work. */
  readonly sharesNames: boolean;
  /** Starts programming. What it opened before it throws is closed. */
  readonly start: () => Promise<Turn>;
  /** Removes the rules that this proxy or an earlier run of it left in the kernel. Throws `NftMissing` where there can be none. */
  readonly removeRules: (signal: AbortSignal) => Promise<void>;
  /** A kube-proxy has the turn; told once for each pod. */
  readonly leave: (pod: Pod) => void;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
}

export interface Turn extends AsyncDisposable {
  /** Lets go of the ports that a kube-proxy listens on too. */
  releasePorts(): Promise<void>;
}

export interface PodReadiness {
  readonly status: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] | undefined };
}

/** A kube-proxy's pod has no probe, as a rule: it is Ready as soon as it runs. So long it has then, ms, to program its rules. */
const handoverMs = 10_000;

/** Takes and leaves turns until it is disposed of; the rules stay then. */
export function startProxyTurns(options: ProxyTurnsOptions): AsyncDisposable {
  const { nodeName, nodes, specs, clock, log, signal } = options;
  let running: Turn | undefined;
  // Since when the kube-proxy is Ready, on `mono`, and which.
  let ready: { uid: string; since: number } | undefined;
  let removed = false;
  let leftTo: string | undefined;

  async function stop(): Promise<void> {
    const stopping = running;
    running = undefined;
    await stopping?.[Symbol.asyncDispose]();
  }

  async function take(): Promise<void> {
    leftTo = undefined;
    ready = undefined;
    removed = false;
    running ??= await options.start();
  }

  /** When a kube-proxy has its rules in; undefined while it is not Ready. */
  function handoverAt(uid: string): number | undefined {
    const isReady =
      options.statuses.get(uid)?.status.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') === true;
    if (!isReady) ready = undefined;
    else if (ready?.uid !== uid) ready = { uid, since: clock.mono() };
    return ready && ready.since + handoverMs;
  }

  /** Our rules serve until the kube-proxy's do. Returns when to look again. */
  async function meet(peer: Pod, bounded: AbortSignal): Promise<number | undefined> {
    const at = handoverAt(peer.metadata?.uid ?? '');
    const waits = at === undefined || clock.mono() < at;
    if (waits && running !== undefined && !options.sharesNames) {
      await running.releasePorts();
      return at;
    }
    await leave(peer, !waits, bounded);
    return waits ? at : undefined;
  }

  async function leave(peer: Pod, remove: boolean, bounded: AbortSignal): Promise<void> {
    const name = `${peer.metadata?.namespace}/${peer.metadata?.name}`;
    if (leftTo !== name) options.leave(peer);
    leftTo = name;
    await stop();
    // A daemon that was not there when the kube-proxy came has left its rules, and they would go on beside the others' for ever.
    if (removed || !remove) return;
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
      if (peer !== undefined) return await meet(peer, bounded);
      if (running !== undefined || nodes.has(nodeName)) await take();
      return undefined;
    },
  });
  const look = (): void => loop.enqueue('proxy');
  const subscriptions = [specs.subscribe(look), nodes.subscribe(look), options.statuses.subscribe(look), specs.onSynced(look)];
  look();
  return {
    async [Symbol.asyncDispose]() {
      for (const subscription of subscriptions) subscription[Symbol.dispose]();
      await loop[Symbol.asyncDispose]();
      await stop();
    },
  };
}
