import type { AgentPod } from '../model/pod.ts';
import { addQuantity, formatBinary, parseQuantity } from '../model/quantity.ts';
import type { ContainerStats, PodStats } from '../stats/summary.ts';
import { amountText, type Observations, type Resource, resourceOf, type Threshold } from './thresholds.ts';

/** Status reason and event reason of an evicted or refused pod. */
export const evictedReason = 'Evicted';

/** What an eviction tells: the status' message and the event's annotations. All words are kubelet's (pkg/kubelet/eviction/helpers.go). */
export interface EvictionText {
  readonly message: string;
  readonly annotations: Readonly<Record<string, string>>;
}

/** Why a pod has to go for the node's sake. */
export function evictionText(
  resource: Resource,
  pod: AgentPod,
  stats: PodStats | undefined,
  thresholds: readonly Threshold[],
  observations: Observations,
): EvictionText {
  let message = `The node was low on resource: ${resource}. `;
  for (const { signal, value } of thresholds) {
    const observed = observations.get(signal);
    if (resourceOf(signal) !== resource || observed === undefined) continue;
    message += `Threshold quantity: ${amountText(value, observed.capacity)}, available: ${amountOfResource(resource, observed.available)}. `;
    break;
  }
  if (stats === undefined) return { message, annotations: {} };
  const annotations: Record<string, string> = {};
  const podRequest = resource === 'memory' ? pod.spec.resources?.requests?.memory : undefined;
  if (podRequest !== undefined && stats.memory !== undefined) {
    const usage = formatBinary(stats.memory.workingSetBytes ?? 0);
    message += `Pod ${pod.metadata.name} was using ${usage}, request is ${canonical(podRequest)}, has larger consumption of ${resource}. `;
    annotations.offending_pod = pod.metadata.name;
    annotations.offending_pod_usage = usage;
  }
  const specs = new Map([...pod.spec.containers, ...(pod.spec.initContainers ?? [])].map((c) => [c.name, c]));
  const exceeding: string[] = [];
  const usages: string[] = [];
  for (const container of stats.containers) {
    const spec = specs.get(container.name);
    const usage = usageOf(resource, container);
    if (spec === undefined || usage === undefined) continue;
    const request = spec.resources?.requests?.[resource] ?? '0';
    if (usage <= parseQuantity(request)) continue;
    const text = formatBinary(usage);
    message += `Container ${container.name} was using ${text}, request is ${canonical(request)}, has larger consumption of ${resource}. `;
    exceeding.push(container.name);
    usages.push(text);
  }
  annotations.offending_containers = exceeding.join(',');
  annotations.offending_containers_usage = usages.join(',');
  annotations.starved_resource = resource;
  return { message, annotations };
}

function usageOf(resource: Resource, { memory, rootfs, logs }: ContainerStats): number | undefined {
  if (resource === 'memory') return memory?.workingSetBytes;
  if (resource !== 'ephemeral-storage' || rootfs?.usedBytes === undefined || logs?.usedBytes === undefined) return undefined;
  return rootfs.usedBytes + logs.usedBytes;
}

function canonical(quantity: string): string {
  return addQuantity(quantity, '0');
}

/** Inodes and processes are counted in thousands, bytes in Ki. */
function amountOfResource(resource: Resource, amount: number): string {
  return resource === 'memory' || resource === 'ephemeral-storage' ? formatBinary(amount) : canonical(String(Math.trunc(amount)));
}
