import { messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { Page } from '../../server/contracts.ts';
import { createMetrics, metricsContentType, type Sample } from '../../server/metrics.ts';
import type { CpuStats, MemoryStats, Summary, SwapStats } from '../../stats/summary.ts';

/** `/metrics/resource`: what metrics-server and autoscalers read (pkg/kubelet/metrics/collectors/resource_metrics.go). Undefined: it could not be read. */
export function resourceMetricsText(reading: Summary | undefined): string {
  const registry = createMetrics();
  const show = (name: string, type: 'counter' | 'gauge', help: string, labels: string[], samples: Sample[]): void =>
    registry.collect({ name, help, labels, type }, () => samples);
  show(
    'resource_scrape_error',
    'gauge',
    '1 if there was an error while getting container metrics, 0 otherwise',
    [],
    [{ value: reading === undefined ? 1 : 0 }],
  );
  if (reading === undefined) return registry.text();

  const { node } = reading;
  const nodeSamples: Record<'cpu' | 'memory' | 'swap', Sample[]> = { cpu: [], memory: [], swap: [] };
  putCpu(nodeSamples.cpu, [], node.cpu);
  putMemory(nodeSamples.memory, [], node.memory);
  put(nodeSamples.swap, [], node.swap?.swapUsageBytes, node.swap?.time);
  show('node_cpu_usage_seconds_total', 'counter', 'Cumulative cpu time consumed by the node in core-seconds', [], nodeSamples.cpu);
  show('node_memory_working_set_bytes', 'gauge', 'Current working set of the node in bytes', [], nodeSamples.memory);
  show(
    'node_swap_usage_bytes',
    'gauge',
    'Current swap usage of the node in bytes. Reported only on non-windows systems',
    [],
    nodeSamples.swap,
  );

  const samples = {
    startTime: [] as Sample[],
    cpu: [] as Sample[],
    memory: [] as Sample[],
    swapUsage: [] as Sample[],
    swapLimit: [] as Sample[],
    podCpu: [] as Sample[],
    podMemory: [] as Sample[],
    podSwap: [] as Sample[],
  };
  for (const pod of reading.pods) {
    const { name, namespace } = pod.podRef;
    for (const container of pod.containers) {
      const labels = [container.name, name, namespace];
      if (container.startTime > 0) samples.startTime.push({ labels, value: container.startTime / 1000 });
      putCpu(samples.cpu, labels, container.cpu);
      putMemory(samples.memory, labels, container.memory);
      putSwap(samples.swapUsage, samples.swapLimit, labels, container.swap);
    }
    const labels = [name, namespace];
    putCpu(samples.podCpu, labels, pod.cpu);
    putMemory(samples.podMemory, labels, pod.memory);
    put(samples.podSwap, labels, pod.swap?.swapUsageBytes, pod.swap?.time);
  }
  const ofContainer = ['container', 'pod', 'namespace'];
  const ofPod = ['pod', 'namespace'];
  show('container_start_time_seconds', 'gauge', 'Start time of the container since unix epoch in seconds', ofContainer, samples.startTime);
  show(
    'container_cpu_usage_seconds_total',
    'counter',
    'Cumulative cpu time consumed by the container in core-seconds',
    ofContainer,
    samples.cpu,
  );
  show('container_memory_working_set_bytes', 'gauge', 'Current working set of the container in bytes', ofContainer, samples.memory);
  show(
    'container_swap_usage_bytes',
    'gauge',
    'Current amount of the container swap usage in bytes. Reported only on non-windows systems',
    ofContainer,
    samples.swapUsage,
  );
  show(
    'container_swap_limit_bytes',
    'gauge',
    'Current amount of the container swap limit in bytes. Reported only on non-windows systems',
    ofContainer,
    samples.swapLimit,
  );
  show('pod_cpu_usage_seconds_total', 'counter', 'Cumulative cpu time consumed by the pod in core-seconds', ofPod, samples.podCpu);
  show('pod_memory_working_set_bytes', 'gauge', 'Current working set of the pod in bytes', ofPod, samples.podMemory);
  show(
    'pod_swap_usage_bytes',
    'gauge',
    'Current amount of the pod swap usage in bytes. Reported only on non-windows systems',
    ofPod,
    samples.podSwap,
  );
  return registry.text();
}

function put(to: Sample[], labels: string[], value: number | undefined, timestampMs: number | undefined): void {
  if (value === undefined) return;
  to.push({ labels, value, ...(timestampMs === undefined ? {} : { timestampMs }) });
}

function putCpu(to: Sample[], labels: string[], cpu: CpuStats | undefined): void {
  const ns = cpu?.usageCoreNanoSeconds;
  put(to, labels, ns === undefined ? undefined : ns / 1e9, cpu?.time);
}

function putMemory(to: Sample[], labels: string[], memory: MemoryStats | undefined): void {
  put(to, labels, memory?.workingSetBytes, memory?.time);
}

function putSwap(usage: Sample[], limit: Sample[], labels: string[], swap: SwapStats | undefined): void {
  put(usage, labels, swap?.swapUsageBytes, swap?.time);
  const available = swap?.swapAvailableBytes;
  put(limit, labels, available === undefined ? undefined : available + (swap?.swapUsageBytes ?? 0), swap?.time);
}

export interface ResourcePageOptions {
  readonly log: Log;
  /** What the node and its pods use of CPU and memory now. */
  readonly summary: (signal: AbortSignal) => Promise<Summary>;
}

/** The page behind `/metrics/resource`. */
export function createResourcePage(options: ResourcePageOptions): Page {
  return async (_, signal) => {
    let reading: Summary | undefined;
    try {
      reading = await options.summary(signal);
    } catch (error) {
      if (signal.aborted) throw error;
      options.log.warn({ err: messageOf(error) }, 'statistics could not be read');
    }
    return { contentType: metricsContentType, body: resourceMetricsText(reading) };
  };
}
