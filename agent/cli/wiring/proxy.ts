// The service proxy of this node: what it watches, what it is told of the node, and whom it tells.
import { isDeepStrictEqual } from 'node:util';
import type { ProxyEvent } from '../../../proxy/events.ts';
import { type FamilyProgress, type ProxierHealth, proxierHealth } from '../../../proxy/health/proxier-health.ts';
import { startServiceHealth } from '../../../proxy/health/service-health.ts';
import type { Family } from '../../../proxy/model/address.ts';
import { type ServiceRow, serviceRow } from '../../../proxy/model/service-row.ts';
import { type SliceRow, sliceRow } from '../../../proxy/model/slice-row.ts';
import { backendSettings, healthCheckAddresses, nodeFactsOf } from '../../../proxy/node-settings.ts';
import { type Proxy as ServiceProxy, startProxy } from '../../../proxy/worker.ts';
import type { Clock } from '../../base/clock.ts';
import { hasCode, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { startLoop } from '../../base/loop.ts';
import { type ReadonlyTable, Table } from '../../base/table.ts';
import type { ProxyConfiguration } from '../../config/proxy/defaults.ts';
import type { KubeClient } from '../../drivers/kube/client.ts';
import { type ReflectOptions, reflect } from '../../drivers/kube/reflector.ts';
import { readNetwork } from '../../drivers/proc/machine.ts';
import type { EndpointSlice, Node, ObjectReference, Service, ServiceCIDR } from '../../model/generated/api.ts';
import type { Backends } from './proxy-backends.ts';
import { startRemovingLeftovers } from './proxy-leftovers.ts';
import type { ProxyMetrics } from './proxy-metrics.ts';

/** How often everything in the kernel is read back (upstream's full sync of nftables and iptables mode). */
const fullAuditMs = 60 * 60 * 1000;
// Node-port addresses are those that the node has now; a VIP that moves here serves within this time.
const addressCheckMs = 1_000;

export interface ProxyWiring {
  readonly config: ProxyConfiguration;
  readonly nodeName: string;
  readonly client: KubeClient;
  /** The Node of this name, once it is known; watched by somebody else. */
  readonly nodes: ReadonlyTable<Node>;
  /** Closed with the proxy. */
  readonly backends: Backends;
  readonly metrics: ProxyMetrics;
  readonly event: (about: ObjectReference, type: 'Normal' | 'Warning', reason: string, message: string) => void;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
}

export interface RunningProxy extends AsyncDisposable {
  readonly proxy: ServiceProxy;
  /** What is proxied, by `namespace/name`. */
  readonly services: ReadonlyTable<ServiceRow>;
  health(): ProxierHealth;
}

/** Starts the proxy once the Node is known: whom it masquerades and where node ports are served depends on the Node. */
export async function openProxy(options: ProxyWiring): Promise<RunningProxy> {
  const { config, nodeName, backends, metrics, clock, log, signal } = options;
  await using stack = new AsyncDisposableStack();
  stack.use(backends);
  const { services, slices, serviceCidrs } = watchServices(options, stack);
  // A Node that is deleted comes back when its agent registers it anew: until then its Services go on as they were.
  let lastNode: Node | undefined;
  const node = (): Node | undefined => {
    lastNode = options.nodes.get(nodeName) ?? lastNode;
    return lastNode;
  };
  const facts = () => nodeFactsOf(node(), nodeName, config.bindAddress);
  let interfaces = await interfaceAddresses();
  const settings = () => backendSettings(config, node(), facts(), interfaces, [...serviceCidrs.values()].flat());
  const nodeReference = { kind: 'Node', name: nodeName, uid: nodeName };
  const tell = ({ service, type, reason, message }: ProxyEvent): void => {
    const about = service === undefined ? nodeReference : { apiVersion: 'v1', kind: 'Service', ...service };
    log.info({ service: service && `${service.namespace}/${service.name}`, type, reason, detail: message }, 'event');
    options.event(about, type, reason, message);
  };
  let known = { node: facts(), settings: settings() };
  const proxy = stack.use(
    startProxy({
      clock,
      log,
      signal,
      services,
      slices,
      node: known.node,
      backends: backends.backends,
      settings: known.settings,
      syncPeriodMs: config.syncPeriod,
      fullAuditMs,
      observer: { ...metrics.observer, event: tell, committed: backends.committed },
    }),
  );
  stack.use(startRemovingLeftovers({ mode: config.mode, synced: proxy.synced, clock, log, signal }));
  metrics.watch({
    pending: proxy.pending,
    lastSyncedMs: (family) => progressOf(family).lastUpdatedMs,
    noLocalEndpoints: (family) => noLocalEndpoints(proxy, family),
    ruleCounts: (family) => backends.backends.find((each) => each.family === family)?.ruleCounts?.() ?? [],
  });

  const health = (): ProxierHealth => proxierHealth(proxy.families.map(progressOf), clock.wall(), 2 * config.syncPeriod);
  function progressOf(family: Family): FamilyProgress {
    const { synced = false, lastCommitAt, waitingSince } = proxy.health(family) ?? {};
    const wallOf = (mono: number | undefined): number | undefined => mono && clock.wall() - (clock.mono() - mono);
    return { family, lastUpdatedMs: synced ? wallOf(lastCommitAt) : undefined, waitingSinceMs: wallOf(waitingSince) };
  }

  const serviceHealth = stack.use(
    startServiceHealth({
      clock,
      log,
      nodeName,
      proxyHealthy: () => health().healthy,
      event(service, reason, message) {
        const [namespace = '', name = ''] = service.split('/');
        log.warn({ service, reason, detail: message }, 'event');
        const uid = services.get(service)?.uid ?? '';
        options.event({ apiVersion: 'v1', kind: 'Service', namespace, name, uid }, 'Warning', reason, message);
      },
    }),
  );

  const loop = stack.use(
    startLoop({
      name: 'proxy-settings',
      clock,
      log,
      signal,
      async run(key) {
        if (key === 'addresses') interfaces = await interfaceAddresses();
        const [next, nodeNow] = [settings(), facts()];
        if (!isDeepStrictEqual(nodeNow, known.node)) proxy.updateNode(nodeNow);
        for (const family of proxy.families)
          if (!isDeepStrictEqual(next[family], known.settings[family])) proxy.updateSettings(family, next[family]);
        known = { node: nodeNow, settings: next };
        serviceHealth.sync(proxy.healthChecks.values(), healthCheckAddresses(next, proxy.families));
        return key === 'addresses' ? clock.mono() + addressCheckMs : undefined;
      },
    }),
  );
  loop.enqueue('addresses');
  const follow = (): void => loop.enqueue('node');
  for (const table of [options.nodes, serviceCidrs, proxy.healthChecks]) stack.use(table.subscribe(follow));
  const kept = stack.move();
  return { proxy, services, health, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

interface Watched {
  readonly services: ReadonlyTable<ServiceRow>;
  readonly slices: ReadonlyTable<SliceRow>;
  readonly serviceCidrs: ReadonlyTable<readonly string[]>;
}

function watchServices({ client, clock, log, signal, nodeName, event }: ProxyWiring, stack: AsyncDisposableStack): Watched {
  const services = new Table<ServiceRow>('proxied-services');
  const slices = new Table<SliceRow>('endpoint-slices');
  const serviceCidrs = new Table<readonly string[]>('service-cidrs');
  const refused = new Set<string>();
  const common = (path: string) => ({
    client,
    clock,
    log,
    signal,
    path,
    onFailure(error: unknown) {
      // Once a path: the watch itself is tried again for as long as the proxy runs.
      if (!hasCode(error, 'Forbidden') || refused.has(path)) return;
      refused.add(path);
      event(
        { kind: 'Node', name: nodeName, uid: nodeName },
        'Warning',
        'ProxyForbidden',
        `The service proxy may not watch ${path}: ${messageOf(error)}. Apply what "keelson rbac" prints, or name another identity with --proxy-kubeconfig.`,
      );
    },
  });
  const watch = <T extends object, R>(options: ReflectOptions<T, R>): void => void stack.use(reflect<T, R>(options));
  watch<Service, ServiceRow>({
    ...common('/api/v1/services'),
    query: { labelSelector: '!service.kubernetes.io/service-proxy-name', fieldSelector: 'spec.clusterIP!=None' },
    transform: serviceRow,
    table: services,
  });
  watch<EndpointSlice, SliceRow>({
    ...common('/apis/discovery.k8s.io/v1/endpointslices'),
    query: { labelSelector: '!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless' },
    transform: sliceRow,
    table: slices,
  });
  watch<ServiceCIDR, readonly string[]>({
    ...common('/apis/networking.k8s.io/v1/servicecidrs'),
    transform: (object) => object.spec?.cidrs ?? [],
    table: serviceCidrs,
  });
  return { services, slices, serviceCidrs };
}

async function interfaceAddresses(): Promise<string[]> {
  return (await readNetwork()).addresses.map(({ address }) => address);
}

function noLocalEndpoints(proxy: ServiceProxy, family: Family): { internal: number; external: number } {
  const counts = proxy.health(family)?.counts;
  return { internal: counts?.noLocalEndpointsInternal ?? 0, external: counts?.noLocalEndpointsExternal ?? 0 };
}
