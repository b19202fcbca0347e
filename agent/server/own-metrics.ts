import type { MetricsRegistry } from './metrics.ts';

/** What the process has used so far. */
export interface ProcessUsage {
  readonly cpuSeconds: number;
  readonly residentBytes: number;
}

/** The agent's process itself, under the names that every Prometheus client uses. `startedAtWall` in ms since the epoch; `usage` is asked at each scrape. */
export function registerProcessMetrics(registry: MetricsRegistry, startedAtWall: number, usage: () => ProcessUsage): void {
  registry.collect(
    { name: 'process_start_time_seconds', help: 'Start time of the process since unix epoch in seconds.', type: 'gauge' },
    () => [{ value: startedAtWall / 1000 }],
  );
  registry.collect({ name: 'process_cpu_seconds_total', help: 'Total user and system CPU time spent in seconds.', type: 'counter' }, () => [
    { value: usage().cpuSeconds },
  ]);
  registry.collect({ name: 'process_resident_memory_bytes', help: 'Resident memory size in bytes.', type: 'gauge' }, () => [
    { value: usage().residentBytes },
  ]);
}

/** A pod of the runtime, as far as it is counted. */
export interface CountedPod {
  readonly sandboxes: readonly { readonly ready: boolean }[];
  readonly containers: readonly { readonly state: string }[];
}

/** `kubelet_running_pods` (those with a ready sandbox) and `kubelet_running_containers` by state. */
export function registerRunningMetrics(registry: MetricsRegistry, pods: () => Iterable<CountedPod>): void {
  registry.collect({ name: 'kubelet_running_pods', help: 'Number of pods that have a running pod sandbox', type: 'gauge' }, () => {
    let running = 0;
    for (const pod of pods()) if (pod.sandboxes.some((s) => s.ready)) running++;
    return [{ value: running }];
  });
  registry.collect(
    { name: 'kubelet_running_containers', help: 'Number of containers currently running', labels: ['container_state'], type: 'gauge' },
    () => {
      const states = new Map<string, number>();
      for (const pod of pods()) for (const { state } of pod.containers) states.set(state, (states.get(state) ?? 0) + 1);
      return [...states].map(([state, value]) => ({ labels: [state], value }));
    },
  );
}

export interface ProbeMetrics {
  /** One attempt of a probe; `seconds` is how long it took. */
  observe(
    target: {
      readonly pod: { readonly metadata: { readonly name: string; readonly namespace: string; readonly uid: string } };
      readonly container: { readonly name: string };
    },
    kind: 'startup' | 'readiness' | 'liveness',
    result: 'successful' | 'failed' | 'unknown',
    seconds: number,
  ): void;
  /** Drops the series of a pod that is gone. */
  forgetPod(uid: string): void;
}

/** The `prober_` metrics of `/metrics/probes`. */
export function registerProbeMetrics(registry: MetricsRegistry): ProbeMetrics {
  const total = registry.counter({
    name: 'prober_probe_total',
    help: 'Cumulative number of a liveness, readiness or startup probe for a container by result.',
    labels: ['probe_type', 'result', 'container', 'pod', 'namespace', 'pod_uid'],
  });
  const duration = registry.histogram({
    name: 'prober_probe_duration_seconds',
    help: 'Duration in seconds for a probe response.',
    labels: ['probe_type', 'container', 'pod', 'namespace'],
  });
  const series = new Map<string, { counted: Map<string, string[]>; timed: Map<string, string[]> }>();
  return {
    observe({ pod, container }, kind, result, seconds) {
      const { name, namespace, uid } = pod.metadata;
      const type = kind.charAt(0).toUpperCase() + kind.slice(1);
      const ofPod = series.get(uid) ?? { counted: new Map(), timed: new Map() };
      series.set(uid, ofPod);
      const counted = [type, result, container.name, name, namespace, uid];
      ofPod.counted.set(counted.join('/'), counted);
      total.inc(counted);
      // As upstream: how long a failure took says little about the container.
      if (result === 'failed') return;
      const timed = [type, container.name, name, namespace];
      ofPod.timed.set(timed.join('/'), timed);
      duration.observe(seconds, timed);
    },
    forgetPod(uid) {
      const ofPod = series.get(uid);
      series.delete(uid);
      for (const labels of ofPod?.counted.values() ?? []) total.remove(labels);
      for (const labels of ofPod?.timed.values() ?? []) duration.remove(labels);
    },
  };
}
