// The service proxy in the node's own daemon: on while no kube-proxy pod is bound to this node.
import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import type { ReadonlyTable } from '../../base/table.ts';
import { type ProxySettings, proxyDocument } from '../../config/proxy/load.ts';
import { createKubeClient, type KubeClient } from '../../drivers/kube/client.ts';
import { createEventRecorder } from '../../drivers/kube/events.ts';
import { loadKubeconfig } from '../../drivers/kube/kubeconfig.ts';
import type { Node, Pod } from '../../model/generated/api.ts';
import type { PodSpecRow } from '../../pods/worker.ts';
import type { LocalProxy, ProxyView } from '../../server/local-services.ts';
import { openProxy } from './proxy.ts';
import { handOver, openBackends, servedFamilies } from './proxy-backends.ts';
import { initProxy, proxyUserAgent } from './proxy-daemon.ts';
import { createProxyMetrics } from './proxy-metrics.ts';
import { startProxyServers } from './proxy-servers.ts';
import { type PodReadiness, startProxyTurns, type Turn } from './proxy-turns.ts';
import { createProxyView } from './proxy-view.ts';

export interface NodeProxyOptions {
  readonly settings: ProxySettings;
  /** The path of --proxy-kubeconfig; undefined: the node's own credentials. */
  readonly kubeconfig: string | undefined;
  readonly nodeName: string;
  /** The node's client, for where no other identity is named. */
  readonly client: KubeClient;
  readonly nodes: ReadonlyTable<Node>;
  /** What the API and static files want to run here. */
  readonly specs: ReadonlyTable<PodSpecRow>;
  /** When a pod became Ready, wall ms, by UID. */
  readonly readyMs: (podUid: string) => number | undefined;
  /** By pod UID. */
  readonly statuses: ReadonlyTable<PodReadiness>;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
}

export interface NodeProxy extends LocalProxy, AsyncDisposable {}

/** For a node whose Services are not this daemon's business. */
export const noProxy = (why: string): LocalProxy => ({ view: () => undefined, whyOff: () => why });

/** Runs until it is disposed of; the rules stay. Throws AgentError for a mode or a kubeconfig that cannot be used. */
export async function startNodeProxy(options: NodeProxyOptions): Promise<NodeProxy> {
  const { settings, nodeName, nodes, specs, clock, signal } = options;
  const { config } = settings;
  const log = options.log.child({ part: 'proxy' });
  await using stack = new AsyncDisposableStack();
  for (const warning of settings.warnings) log.warn({}, warning);
  const client =
    options.kubeconfig === undefined
      ? options.client
      : stack.use(createKubeClient({ auth: await loadKubeconfig(options.kubeconfig), clock, log, userAgent: proxyUserAgent }));
  const recorder = stack.use(createEventRecorder({ client, clock, log, nodeName, component: 'kube-proxy' }));
  const nodeReference = { kind: 'Node', name: nodeName, uid: nodeName };
  const families = await servedFamilies();
  const metrics = createProxyMetrics(config.mode, families, clock);
  const opening = { mode: config.mode, minSyncPeriod: config.minSyncPeriod, clock, log, forgotten: metrics.forgotten };
  // A mode that is not there is told now, and not when the first Service comes.
  await openBackends(opening, families)[Symbol.asyncDispose]();
  await initProxy(config, log);
  let view: ProxyView | undefined;
  let whyOff = 'it has just started';

  /** The ports are held only while it runs: a kube-proxy listens on the same. */
  async function start(): Promise<Turn> {
    await using opened = new AsyncDisposableStack();
    const running = opened.use(
      await openProxy({
        config,
        nodeName,
        client,
        nodes,
        backends: openBackends(opening, families),
        metrics,
        event: (about, type, reason, message) => recorder.event(about, type, reason, message),
        clock,
        log,
        signal,
      }),
    );
    view = createProxyView({ ...running, readyMs: options.readyMs });
    opened.defer(() => {
      view = undefined;
    });
    const ports = opened.use(new AsyncDisposableStack());
    ports.use(
      startProxyServers({
        config,
        configz: proxyDocument(config),
        metrics,
        health: () => running.health(),
        node: () => nodes.get(nodeName),
        event: (type, reason, message) => recorder.event(nodeReference, type, reason, message),
        clock,
        log,
      }),
    );
    recorder.event(nodeReference, 'Normal', 'Starting', 'Programming Services');
    const kept = opened.move();
    return { releasePorts: () => ports.disposeAsync(), [Symbol.asyncDispose]: () => kept.disposeAsync() };
  }

  function leave({ metadata }: Pod): void {
    const name = `${metadata?.namespace}/${metadata?.name}`;
    whyOff = `they are left to the kube-proxy of pod ${name}`;
    const message = `Services of this node are left to the kube-proxy of pod ${name}. Keep it off this node, or start keelson with --no-proxy.`;
    log.warn({ pod: name }, 'Services are left to a kube-proxy');
    recorder.event(nodeReference, 'Warning', 'KubeProxyPresent', message);
  }

  stack.use(
    startProxyTurns({
      nodeName,
      nodes,
      specs,
      statuses: options.statuses,
      sharesNames: config.mode !== 'nftables',
      start,
      removeRules: (bounded) => handOver(clock, bounded),
      leave,
      clock,
      log,
      signal,
    }),
  );
  const kept = stack.move();
  return { view: () => view, whyOff: () => whyOff, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}
