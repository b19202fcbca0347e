import { unreachable } from '../base/errors.ts';
import { ownValue } from '../base/own.ts';
import type { AgentPod } from '../model/pod.ts';
import { parseQuantity } from '../model/quantity.ts';
import { podRequests } from '../model/resources.ts';
import type { PodStats } from '../stats/summary.ts';
import { resourceOf, type Signal } from './thresholds.ts';
import { type DiskPart, podDisk } from './usage.ts';

/** Where images and containers' layers lie. */
export interface DiskLayout {
  readonly dedicatedImageFs: boolean;
  readonly splitContainerFs: boolean;
}

/** The parts of pods that lie on a signal's file system (pkg/kubelet/eviction buildSignalToRankFunc). */
export function partsOn(signal: Signal, { dedicatedImageFs, splitContainerFs }: DiskLayout): DiskPart[] {
  if (!dedicatedImageFs) return ['rootfs', 'logs', 'volumes'];
  const imageSide = signal.startsWith('imagefs.') || (signal.startsWith('containerfs.') && !splitContainerFs);
  if (imageSide) return splitContainerFs ? [] : ['rootfs'];
  return splitContainerFs ? ['rootfs', 'logs', 'volumes'] : ['logs', 'volumes'];
}

/**
 * The pods in the order in which they should go: those without statistics, those above their requests, low priorities, and those that are furthest above
 * their requests. Of processes there are no requests: priority, then number.
 */
export function rankForEviction(
  pods: readonly AgentPod[],
  statsOf: (pod: AgentPod) => PodStats | undefined,
  signal: Signal,
  layout: DiskLayout,
): AgentPod[] {
  const ranked = pods.map((pod) => ({ pod, priority: pod.spec.priority ?? 0, ...excessOf(pod, statsOf(pod), signal, layout) }));
  const byPriority = resourceOf(signal) === 'pids';
  return ranked
    .toSorted(
      (a, b) =>
        (byPriority ? 0 : Number(b.unknown) - Number(a.unknown) || Number(b.exceeds) - Number(a.exceeds)) ||
        a.priority - b.priority ||
        Number(b.unknown) - Number(a.unknown) ||
        b.above - a.above,
    )
    .map(({ pod }) => pod);
}

/** How far a pod is above its requests; `unknown` without statistics of it. */
function excessOf(
  pod: AgentPod,
  stats: PodStats | undefined,
  signal: Signal,
  layout: DiskLayout,
): { unknown: boolean; exceeds: boolean; above: number } {
  if (stats === undefined) return { unknown: true, exceeds: false, above: 0 };
  const requests = podRequests(pod);
  const request = (name: string): number => parseQuantity(ownValue(requests, name) ?? '0');
  const resource = resourceOf(signal);
  switch (resource) {
    case 'memory': {
      const above = (stats.memory?.workingSetBytes ?? 0) - request('memory');
      return { unknown: false, exceeds: above > 0, above };
    }
    case 'pids':
      return { unknown: false, exceeds: false, above: stats.process_stats?.process_count ?? 0 };
    case 'ephemeral-storage': {
      const above = podDisk(stats, pod, partsOn(signal, layout), 'usedBytes') - request('ephemeral-storage');
      return { unknown: false, exceeds: above > 0, above };
    }
    case 'inodes': {
      // Nobody requests inodes: upstream takes the requested bytes off them, which ranks as upstream does.
      const used = podDisk(stats, pod, partsOn(signal, layout), 'inodesUsed');
      return { unknown: false, exceeds: used > 0, above: used - request('ephemeral-storage') };
    }
    default:
      return unreachable(resource);
  }
}
