import type { AgentPod } from '../model/pod.ts';
import { addQuantity, parseQuantity } from '../model/quantity.ts';
import { podLimits } from '../model/resources.ts';
import type { PodStats } from '../stats/summary.ts';
import { containerDisk } from './usage.ts';

/** A limit of local storage that a pod has gone over; `signal` is the label of the metric. */
export interface Excess {
  readonly signal: 'emptydirfs.limit' | 'ephemeralpodfs.limit' | 'ephemeralcontainerfs.limit';
  readonly message: string;
}

/** True when some of what the pod has on the disk is limited: others need not be measured. */
export function hasStorageLimit(pod: AgentPod): boolean {
  const limited = (limits: Record<string, string> | undefined): boolean => limits?.['ephemeral-storage'] !== undefined;
  return (
    (pod.spec.volumes ?? []).some((v) => v.emptyDir?.sizeLimit !== undefined) ||
    [...pod.spec.containers, ...(pod.spec.initContainers ?? [])].some((c) => limited(c.resources?.limits))
  );
}

/** The first limit that the pod is over, in the words of pkg/kubelet/eviction. */
export function storageExcess(pod: AgentPod, stats: PodStats, dedicatedImageFs: boolean): Excess | undefined {
  for (const { name, emptyDir } of pod.spec.volumes ?? []) {
    const limit = emptyDir?.sizeLimit;
    const used = stats.volume?.find((v) => v.name === name)?.usedBytes;
    if (limit === undefined || used === undefined || parseQuantity(limit) <= 0 || used <= parseQuantity(limit)) continue;
    return { signal: 'emptydirfs.limit', message: `Usage of EmptyDir volume "${name}" exceeds the limit "${canonical(limit)}". ` };
  }
  const podLimit = podLimits(pod)['ephemeral-storage'];
  if (podLimit !== undefined && (stats['ephemeral-storage']?.usedBytes ?? 0) > parseQuantity(podLimit)) {
    return {
      signal: 'ephemeralpodfs.limit',
      message: `Pod ephemeral local storage usage exceeds the total limit of containers ${canonical(podLimit)}. `,
    };
  }
  for (const container of stats.containers) {
    const limit = pod.spec.containers.find((c) => c.name === container.name)?.resources?.limits?.['ephemeral-storage'];
    if (limit === undefined || parseQuantity(limit) === 0 || containerDisk(container, dedicatedImageFs) <= parseQuantity(limit)) continue;
    return {
      signal: 'ephemeralcontainerfs.limit',
      message: `Container ${container.name} exceeded its local ephemeral storage limit "${canonical(limit)}". `,
    };
  }
  return undefined;
}

function canonical(quantity: string): string {
  return addQuantity(quantity, '0');
}
