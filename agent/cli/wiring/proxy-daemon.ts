// `keelson proxy`: the service proxy as a daemon of its own, in kube-proxy's place.
import { writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { removeUpstream } from '../../../proxy/backends/upstream/remove.ts';
import { conntrackSysctls } from '../../../proxy/conntrack/sysctls.ts';
import { systemClock } from '../../base/clock.ts';
import { AgentError, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { Table } from '../../base/table.ts';
import type { ProxyConfiguration } from '../../config/proxy/defaults.ts';
import { type ProxySettings, proxyDocument } from '../../config/proxy/load.ts';
import { createKubeClient } from '../../drivers/kube/client.ts';
import { createEventRecorder } from '../../drivers/kube/events.ts';
import { type KubeAuth, loadKubeconfig } from '../../drivers/kube/kubeconfig.ts';
import { reflect } from '../../drivers/kube/reflector.ts';
import { hostName } from '../../drivers/proc/machine.ts';
import { writeSysctl } from '../../drivers/proc/sysctl.ts';
import type { Node } from '../../model/generated/api.ts';
import { kubernetesVersion } from '../../model/kubernetes-version.ts';
import { answerServices } from '../../server/local-services.ts';
import { pathParts, serveLocalSocket } from '../../server/local-socket.ts';
import { localProxySocket } from '../local/paths.ts';
import { openProxy, type RunningProxy } from './proxy.ts';
import { openBackends, removeRules, servedFamilies } from './proxy-backends.ts';
import { createProxyMetrics } from './proxy-metrics.ts';
import { startProxyServers } from './proxy-servers.ts';
import { createProxyView } from './proxy-view.ts';

const clock = systemClock;
export const proxyUserAgent = `keelson/0.1.0 kube-proxy/${kubernetesVersion}`;

/** Sets the kernel's connection tracking as the configuration asks. What cannot be set is told, and the proxy runs on. */
export async function initProxy(config: ProxyConfiguration, log: Log): Promise<void> {
  for (const { name, value, atLeast } of conntrackSysctls(config.conntrack, availableParallelism())) {
    try {
      if (await writeSysctl(name, value, atLeast)) log.info({ sysctl: name, value }, 'set sysctl');
    } catch (error) {
      // As in a container or a network namespace, where the machine's own limits are not ours to set.
      log.warn({ sysctl: name, value, err: messageOf(error) }, 'could not set sysctl');
    }
  }
}

/** Runs the proxy until the signal aborts; the rules stay. Throws AgentError for what keeps it from starting at all. */
export async function runProxy({ config, master }: ProxySettings, log: Log, signal: AbortSignal): Promise<void> {
  await using stack = new AsyncDisposableStack();
  await writeFile('/proc/self/oom_score_adj', String(config.oomScoreAdj)).catch((error: unknown) =>
    log.warn({ oomScoreAdj: config.oomScoreAdj, err: messageOf(error) }, 'could not set oom_score_adj'),
  );
  const nodeName = config.hostnameOverride || hostName().toLowerCase();
  const { qps, burst } = config.clientConnection;
  const client = stack.use(createKubeClient({ auth: await authOf(config, master), clock, log, userAgent: proxyUserAgent, qps, burst }));
  const recorder = stack.use(createEventRecorder({ client, clock, log, nodeName, component: 'kube-proxy' }));
  const nodeReference = { kind: 'Node', name: nodeName, uid: nodeName };
  const nodes = new Table<Node>('nodes');
  stack.use(
    reflect<Node>({
      client,
      clock,
      log,
      signal,
      path: '/api/v1/nodes',
      query: { fieldSelector: `metadata.name=${nodeName}` },
      table: nodes,
    }),
  );
  const families = await servedFamilies();
  const metrics = createProxyMetrics(config.mode, families, clock);
  let running: RunningProxy | undefined;
  const servers = stack.use(
    startProxyServers({
      config,
      configz: proxyDocument(config),
      metrics,
      // Until it has started it is healthy, as it is until its first sync.
      health: () => running?.health() ?? { healthy: true, lastUpdatedMs: undefined, families: [] },
      node: () => nodes.get(nodeName),
      event: (type, reason, message) => recorder.event(nodeReference, type, reason, message),
      clock,
      log,
    }),
  );
  const problem = await servers.firstTry;
  if (problem !== undefined && config.bindAddressHardFail) throw problem;
  await nodeKnown(nodes, nodeName, log, signal);
  running = stack.use(
    await openProxy({
      config,
      nodeName,
      client,
      nodes,
      backends: openBackends(
        { mode: config.mode, minSyncPeriod: config.minSyncPeriod, clock, log, forgotten: metrics.forgotten },
        families,
      ),
      metrics,
      event: (about, type, reason, message) => recorder.event(about, type, reason, message),
      clock,
      log,
      signal,
    }),
  );
  recorder.event(nodeReference, 'Normal', 'Starting', '');
  await answerCommands(running, log, stack);
  await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

/** Answers `keelson services`. What keeps the socket from being made is told, and the proxy runs on. */
async function answerCommands(running: RunningProxy, log: Log, stack: AsyncDisposableStack): Promise<void> {
  const view = createProxyView({ ...running, readyMs: () => undefined });
  const proxy = { view: () => view, whyOff: () => '' };
  const socket = localProxySocket();
  try {
    const server = await serveLocalSocket({
      socket,
      clock,
      log,
      async answer(request, response, signal) {
        const { url, parts } = pathParts(request);
        if (request.method !== 'GET' || parts[0] !== 'services')
          throw new AgentError('NotFound', `keelson proxy knows nothing of ${request.method} ${url.pathname}`);
        await answerServices(proxy, parts.slice(1), url.searchParams.has('verify'), response, signal);
      },
    });
    if (server !== undefined) stack.use(server);
  } catch (error) {
    log.warn({ socket, err: messageOf(error) }, 'keelson services will not find this proxy');
  }
}

/** Removes the rules of any proxy, ours or upstream's, and resolves to the exit code, as `kube-proxy --cleanup` does. */
export async function cleanUpProxies(log: Log, signal: AbortSignal): Promise<number> {
  await removeRules(clock, signal);
  const well = await removeUpstream({ iptables: true, nftables: true }, { clock, log }, signal);
  log.info({}, 'removed the rules of Services');
  return well ? 0 : 1;
}

async function authOf(config: ProxyConfiguration, master: string | undefined): Promise<KubeAuth> {
  const { kubeconfig } = config.clientConnection;
  if (kubeconfig === '' && master === undefined)
    throw new AgentError('InvalidConfig', 'no API server: name a kubeconfig with --kubeconfig or clientConnection.kubeconfig');
  const auth = kubeconfig === '' ? { server: '' } : await loadKubeconfig(kubeconfig);
  return master === undefined ? auth : { ...auth, server: master.replace(/\/+$/, '') };
}

/** Who is masqueraded and where node ports are served depends on the Node: nothing is programmed before it is known. */
async function nodeKnown(nodes: Table<Node>, nodeName: string, log: Log, signal: AbortSignal): Promise<void> {
  if (nodes.has(nodeName)) return;
  log.info({ node: nodeName }, 'waiting for the Node');
  await new Promise<void>((resolve, reject) => {
    const subscription = nodes.subscribe(() => {
      if (!nodes.has(nodeName)) return;
      end();
      resolve();
    });
    const abort = (): void => {
      end();
      reject(signal.reason);
    };
    const end = (): void => {
      subscription[Symbol.dispose]();
      signal.removeEventListener('abort', abort);
    };
    signal.addEventListener('abort', abort, { once: true });
    if (signal.aborted) abort();
  });
}
