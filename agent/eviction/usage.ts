import { isLocalEphemeral } from '../model/local-volume.ts';
import type { AgentPod } from '../model/pod.ts';
import type { ContainerStats, FsStats, PodStats } from '../stats/summary.ts';

/** The parts of a pod that can be on different file systems. */
export type DiskPart = 'rootfs' | 'logs' | 'volumes';

/** What the pod has of bytes or inodes in those parts. */
export function podDisk(stats: PodStats, pod: AgentPod, parts: readonly DiskPart[], of: 'usedBytes' | 'inodesUsed'): number {
  const amount = (fs: FsStats | undefined): number => fs?.[of] ?? 0;
  let sum = 0;
  for (const container of stats.containers) {
    if (parts.includes('rootfs')) sum += amount(container.rootfs);
    if (parts.includes('logs')) sum += amount(container.logs);
  }
  if (!parts.includes('volumes')) return sum;
  const local = new Set((pod.spec.volumes ?? []).filter((v) => v.hostPath !== undefined || isLocalEphemeral(v)).map((v) => v.name));
  for (const volume of stats.volume ?? []) if (local.has(volume.name)) sum += amount(volume);
  return sum;
}

/** The bytes that a container's limit of ephemeral storage counts: its logs, and its layer where that is on the node's own file system. */
export function containerDisk(container: ContainerStats, dedicatedImageFs: boolean): number {
  return (container.logs?.usedBytes ?? 0) + (dedicatedImageFs ? 0 : (container.rootfs?.usedBytes ?? 0));
}
