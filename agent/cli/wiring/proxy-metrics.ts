import type { RuleCount } from '../../../proxy/backends/backend.ts';
import type { Family } from '../../../proxy/model/address.ts';
import type { ProxyObserver } from '../../../proxy/worker.ts';
import type { Clock } from '../../base/clock.ts';
import type { ProxyMode } from '../../config/proxy/defaults.ts';
import { createMetrics, exponentialBuckets, type MetricsRegistry } from '../../server/metrics.ts';

/** kube-proxy's metrics (pkg/proxy/metrics/metrics.go), and the ears that hear what they count. */
export interface ProxyMetrics {
  readonly registry: MetricsRegistry;
  readonly observer: Omit<ProxyObserver, 'event' | 'committed'>;
  /** A probe of `/healthz` or `/livez` was answered. */
  answered(path: 'healthz' | 'livez', status: number): void;
  /** A round of forgetting tracked connections has ended. */
  forgotten(family: Family, tookMs: number, deleted: number): void;
  /** Where gauges are read from now on, when scraped. */
  watch(source: ProxyGauges): void;
}

/** What gauges are read off. */
export interface ProxyGauges {
  /** Changes of Services and of endpoints that the kernel does not have yet. */
  pending(): { readonly services: number; readonly endpoints: number };
  /** When the kernel was last known to have all that had come in, wall ms; undefined before. Alerts go by its age. */
  lastSyncedMs(family: Family): number | undefined;
  noLocalEndpoints(family: Family): { readonly internal: number; readonly external: number };
  /** Rules by table; empty in modes that are not measured by them. */
  ruleCounts(family: Family): readonly RuleCount[];
}

const familyLabel: Readonly<Record<Family, string>> = { ip: 'IPv4', ip6: 'IPv6' };
const syncBuckets = exponentialBuckets(0.001, 2, 15);
const range = (from: number, step: number, count: number): number[] => Array.from({ length: count }, (_, i) => from + i * step);
const programmingBuckets = [...range(0.25, 0.25, 2), ...range(1, 1, 59), ...range(60, 5, 12), ...range(120, 30, 7)];

export function createProxyMetrics(mode: ProxyMode, families: readonly Family[], clock: Clock): ProxyMetrics {
  const registry = createMetrics();
  const byFamily = ['ip_family'];
  const name = (rest: string): string => `kubeproxy_${rest}`;
  const duration = registry.histogram({
    name: name('sync_proxy_rules_duration_seconds'),
    help: 'SyncProxyRules latency in seconds',
    labels: byFamily,
    buckets: syncBuckets,
  });
  const fullDuration = registry.histogram({
    name: name('sync_full_proxy_rules_duration_seconds'),
    help: 'SyncProxyRules latency in seconds for full resyncs',
    labels: byFamily,
    buckets: syncBuckets,
  });
  const partialDuration = registry.histogram({
    name: name('sync_partial_proxy_rules_duration_seconds'),
    help: 'SyncProxyRules latency in seconds for partial resyncs',
    labels: byFamily,
    buckets: syncBuckets,
  });
  const lastQueued = registry.gauge({
    name: name('sync_proxy_rules_last_queued_timestamp_seconds'),
    help: 'The last time a sync of proxy rules was queued',
    labels: byFamily,
  });
  const programming = registry.histogram({
    name: name('network_programming_duration_seconds'),
    help: 'In Cluster Network Programming Latency in seconds',
    labels: byFamily,
    buckets: programmingBuckets,
  });
  const serviceChanges = registry.counter({
    name: name('sync_proxy_rules_service_changes_total'),
    help: 'Cumulative proxy rules Service changes',
  });
  const endpointChanges = registry.counter({
    name: name('sync_proxy_rules_endpoint_changes_total'),
    help: 'Cumulative proxy rules Endpoint changes',
  });
  const failures = registry.counter({
    name: name(mode === 'nftables' ? 'sync_proxy_rules_nftables_sync_failures_total' : 'sync_proxy_rules_iptables_restore_failures_total'),
    help: mode === 'nftables' ? 'Cumulative proxy nftables sync failures' : 'Cumulative proxy iptables restore failures',
    labels: byFamily,
  });
  const conntrackDuration = registry.histogram({
    name: name('conntrack_reconciler_sync_duration_seconds'),
    help: 'ReconcileConntrackFlowsLatency latency in seconds',
    labels: byFamily,
    buckets: syncBuckets,
  });
  const conntrackDeleted = registry.counter({
    name: name('conntrack_reconciler_deleted_entries_total'),
    help: 'Cumulative conntrack flows deleted by conntrack reconciler',
    labels: byFamily,
  });
  const probes = {
    healthz: registry.counter({ name: name('proxy_healthz_total'), help: 'Cumulative proxy healthz HTTP status', labels: ['code'] }),
    livez: registry.counter({ name: name('proxy_livez_total'), help: 'Cumulative proxy livez HTTP status', labels: ['code'] }),
  };
  let gauges: ProxyGauges | undefined;
  registry.collect(
    {
      name: name('sync_proxy_rules_last_timestamp_seconds'),
      help: 'The last time proxy rules were successfully synced',
      labels: byFamily,
      type: 'gauge',
    },
    () =>
      families.flatMap((family) => {
        const ms = gauges?.lastSyncedMs(family);
        return ms === undefined ? [] : [{ labels: [familyLabel[family]], value: ms / 1000 }];
      }),
  );
  const pendingGauge = (what: 'services' | 'endpoints', metric: string, help: string): void =>
    registry.collect({ name: name(metric), help, type: 'gauge' }, () => (gauges === undefined ? [] : [{ value: gauges.pending()[what] }]));
  pendingGauge('services', 'sync_proxy_rules_service_changes_pending', 'Pending proxy rules Service changes');
  pendingGauge('endpoints', 'sync_proxy_rules_endpoint_changes_pending', 'Pending proxy rules Endpoint changes');
  registry.collect(
    {
      name: name('sync_proxy_rules_no_local_endpoints_total'),
      help: 'Number of services with a Local traffic policy and no endpoints',
      labels: ['traffic_policy', 'ip_family'],
      type: 'gauge',
    },
    () =>
      families.flatMap((family) => {
        const { internal = 0, external = 0 } = gauges?.noLocalEndpoints(family) ?? {};
        return [
          { labels: ['internal', familyLabel[family]], value: internal },
          { labels: ['external', familyLabel[family]], value: external },
        ];
      }),
  );
  const ruleGauge = (what: 'total' | 'last', help: string): void =>
    registry.collect({ name: name(`sync_proxy_rules_iptables_${what}`), help, labels: ['table', 'ip_family'], type: 'gauge' }, () =>
      families.flatMap((family) =>
        (gauges?.ruleCounts(family) ?? []).map((counts) => ({ labels: [counts.table, familyLabel[family]], value: counts[what] })),
      ),
    );
  if (mode === 'iptables') {
    ruleGauge('total', 'Total number of iptables rules owned by kube-proxy');
    ruleGauge('last', 'Number of iptables rules written by kube-proxy in last sync');
  }
  return {
    registry,
    observer: {
      changed(what) {
        (what === 'service' ? serviceChanges : endpointChanges).inc();
        for (const family of families) lastQueued.set(clock.wall() / 1000, [familyLabel[family]]);
      },
      transaction(family, { tookMs, outcome, full }) {
        const labels = [familyLabel[family]];
        duration.observe(tookMs / 1000, labels);
        (full ? fullDuration : partialDuration).observe(tookMs / 1000, labels);
        if (outcome !== 'applied') failures.inc(labels);
      },
      programmingLatency: (family, ms) => programming.observe(ms / 1000, [familyLabel[family]]),
    },
    forgotten(family, tookMs, deleted) {
      conntrackDuration.observe(tookMs / 1000, [familyLabel[family]]);
      conntrackDeleted.inc([familyLabel[family]], deleted);
    },
    answered: (path, status) => probes[path].inc([String(status)]),
    watch(source) {
      gauges = source;
    },
  };
}
