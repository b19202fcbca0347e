import { readFile } from 'node:fs/promises';
import type { ContainerStats, PodSandboxStats } from '../../../cri-protos/generated/cri.ts';
import { hasCode, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { ReadonlyTable } from '../../base/table.ts';
import type { RuntimePod } from '../../pods/observed.ts';
import type { Page } from '../../server/contracts.ts';
import { createMetrics, metricsContentType, type Sample } from '../../server/metrics.ts';

/** What the page is made of. */
export interface ResourceReading {
  readonly pods: Iterable<RuntimePod>;
  readonly containers: readonly ContainerStats[];
  readonly sandboxes: readonly PodSandboxStats[];
  /** /proc/stat and /proc/meminfo, and when they were read (wall, ms). */
  readonly procStat: string;
  readonly meminfo: string;
  readonly readAt: number;
}

/** `/metrics/resource`: what metrics-server and autoscalers read (pkg/kubelet/metrics/collectors/resource_metrics.go). Undefined: it could not be read. */
export function resourceMetricsText(reading: ResourceReading | undefined): string {
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

  const { readAt: timestampMs } = reading;
  const node = parseNode(reading.procStat, reading.meminfo);
  show(
    'node_cpu_usage_seconds_total',
    'counter',
    'Cumulative cpu time consumed by the node in core-seconds',
    [],
    [{ value: node.cpuSeconds, timestampMs }],
  );
  show(
    'node_memory_working_set_bytes',
    'gauge',
    'Current working set of the node in bytes',
    [],
    [{ value: node.workingSetBytes, timestampMs }],
  );
  show(
    'node_swap_usage_bytes',
    'gauge',
    'Current swap usage of the node in bytes. Reported only on non-windows systems',
    [],
    [{ value: node.swapBytes, timestampMs }],
  );

  const statsOf = new Map(reading.containers.map((s) => [s.attributes?.id, s]));
  const sandboxOf = new Map(reading.sandboxes.map((s) => [s.attributes?.id, s]));
  const samples = {
    startTime: [] as Sample[],
    cpu: [] as Sample[],
    memory: [] as Sample[],
    swapUsage: [] as Sample[],
    swapLimit: [] as Sample[],
    podCpu: [] as Sample[],
    podMemory: [] as Sample[],
  };
  for (const pod of reading.pods) {
    const named = new Set<string>();
    for (const container of pod.containers) {
      // Newest first: of one that was restarted only the present instance.
      if (container.state !== 'running' || named.has(container.name)) continue;
      named.add(container.name);
      const labels = [container.name, pod.name, pod.namespace];
      if (container.startedAt > 0) samples.startTime.push({ labels, value: container.startedAt / 1000 });
      const stats = statsOf.get(container.id);
      put(samples.cpu, labels, stats?.cpu?.usage_core_nano_seconds?.value, stats?.cpu?.timestamp, 1e9);
      put(samples.memory, labels, stats?.memory?.working_set_bytes?.value, stats?.memory?.timestamp);
      const swap = stats?.swap;
      put(samples.swapUsage, labels, swap?.swap_usage_bytes?.value, swap?.timestamp);
      const available = swap?.swap_available_bytes?.value;
      if (available !== undefined) put(samples.swapLimit, labels, available + (swap?.swap_usage_bytes?.value ?? 0), swap?.timestamp);
    }
    const sandbox = pod.sandboxes.find((s) => s.ready);
    const linux = sandbox === undefined ? undefined : sandboxOf.get(sandbox.id)?.linux;
    const labels = [pod.name, pod.namespace];
    put(samples.podCpu, labels, linux?.cpu?.usage_core_nano_seconds?.value, linux?.cpu?.timestamp, 1e9);
    put(samples.podMemory, labels, linux?.memory?.working_set_bytes?.value, linux?.memory?.timestamp);
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
  return registry.text();
}

/** The CRI's timestamps are nanoseconds since the epoch. */
function put(to: Sample[], labels: string[], value: number | undefined, timestampNs: number | undefined, unit = 1): void {
  if (value === undefined) return;
  to.push({ labels, value: value / unit, ...(timestampNs ? { timestampMs: timestampNs / 1e6 } : {}) });
}

/** The node as a whole, guests counted once. A working set is what is in use less the file pages that could go first. */
function parseNode(procStat: string, meminfo: string): { cpuSeconds: number; workingSetBytes: number; swapBytes: number } {
  // user nice system idle iowait irq softirq steal guest guest_nice, in hundredths of a second (USER_HZ); guest is in user already.
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = (/^cpu +(.*)$/m.exec(procStat)?.[1] ?? '').split(' ').map(Number);
  const bytes = (field: string): number => Number(new RegExp(`^${field}: +(\\d+) kB$`, 'm').exec(meminfo)?.[1] ?? 0) * 1024;
  return {
    cpuSeconds: (user + nice + system + irq + softirq) / 100,
    workingSetBytes: Math.max(0, bytes('MemTotal') - bytes('MemFree') - bytes('Inactive\\(file\\)')),
    swapBytes: bytes('SwapTotal') - bytes('SwapFree'),
  };
}

export interface ResourcePageOptions {
  readonly log: Log;
  readonly wall: () => number;
  readonly runtime: ReadonlyTable<RuntimePod>;
  readonly listContainerStats: (request: object, signal: AbortSignal) => Promise<{ stats?: ContainerStats[] | undefined }>;
  readonly listPodSandboxStats: (request: object, signal: AbortSignal) => Promise<{ stats?: PodSandboxStats[] | undefined }>;
}

/** The page behind `/metrics/resource`. A runtime without statistics of sandboxes leaves the pods' own series out. */
export function createResourcePage(options: ResourcePageOptions): Page {
  return async (_, signal) => {
    let reading: ResourceReading | undefined;
    try {
      const [{ stats: containers = [] }, { stats: sandboxes = [] }, procStat, meminfo] = await Promise.all([
        options.listContainerStats({}, signal),
        options.listPodSandboxStats({}, signal).catch((error: unknown): { stats?: PodSandboxStats[] } => {
          if (hasCode(error, 'Unimplemented')) return {};
          throw error;
        }),
        readFile('/proc/stat', 'utf8'),
        readFile('/proc/meminfo', 'utf8'),
      ]);
      reading = { pods: options.runtime.values(), containers, sandboxes, procStat, meminfo, readAt: options.wall() };
    } catch (error) {
      if (signal.aborted) throw error;
      options.log.warn({ err: messageOf(error) }, 'statistics could not be read');
    }
    return { contentType: metricsContentType, body: resourceMetricsText(reading) };
  };
}
