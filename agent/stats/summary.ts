// The shapes of the Summary API (k8s.io/kubelet/pkg/apis/stats/v1alpha1), which everything that needs statistics goes by. Times are wall milliseconds until
// they are told; sizes are bytes.

export interface PsiData {
  readonly total: number;
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
}

export interface PsiStats {
  readonly full: PsiData;
  readonly some: PsiData;
}

export interface CpuStats {
  readonly time: number;
  readonly usageNanoCores?: number | undefined;
  readonly usageCoreNanoSeconds?: number | undefined;
  readonly psi?: PsiStats | undefined;
}

export interface MemoryStats {
  readonly time: number;
  readonly availableBytes?: number | undefined;
  readonly usageBytes?: number | undefined;
  readonly workingSetBytes?: number | undefined;
  readonly rssBytes?: number | undefined;
  readonly pageFaults?: number | undefined;
  readonly majorPageFaults?: number | undefined;
  readonly psi?: PsiStats | undefined;
}

export interface SwapStats {
  readonly time: number;
  readonly swapAvailableBytes?: number | undefined;
  readonly swapUsageBytes?: number | undefined;
}

export interface IoStats {
  readonly time: number;
  readonly psi?: PsiStats | undefined;
}

export interface FsStats {
  readonly time: number;
  readonly availableBytes?: number | undefined;
  readonly capacityBytes?: number | undefined;
  readonly usedBytes?: number | undefined;
  readonly inodesFree?: number | undefined;
  readonly inodes?: number | undefined;
  readonly inodesUsed?: number | undefined;
}

export interface VolumeStats extends FsStats {
  readonly name: string;
  readonly pvcRef?: { readonly name: string; readonly namespace: string } | undefined;
}

export interface InterfaceStats {
  readonly name: string;
  readonly rxBytes?: number | undefined;
  readonly rxErrors?: number | undefined;
  readonly txBytes?: number | undefined;
  readonly txErrors?: number | undefined;
}

export interface NetworkStats extends InterfaceStats {
  readonly time: number;
  readonly interfaces: readonly InterfaceStats[];
}

export interface ContainerStats {
  readonly name: string;
  readonly startTime: number;
  readonly cpu?: CpuStats | undefined;
  readonly memory?: MemoryStats | undefined;
  readonly io?: IoStats | undefined;
  readonly rootfs?: FsStats | undefined;
  readonly logs?: FsStats | undefined;
  readonly swap?: SwapStats | undefined;
}

export interface PodStats {
  readonly podRef: { readonly name: string; readonly namespace: string; readonly uid: string };
  readonly startTime: number;
  readonly containers: readonly ContainerStats[];
  readonly cpu?: CpuStats | undefined;
  readonly memory?: MemoryStats | undefined;
  readonly io?: IoStats | undefined;
  readonly network?: NetworkStats | undefined;
  readonly volume?: readonly VolumeStats[] | undefined;
  readonly 'ephemeral-storage'?: FsStats | undefined;
  readonly process_stats?: { readonly process_count: number } | undefined;
  readonly swap?: SwapStats | undefined;
}

export interface NodeStats {
  readonly nodeName: string;
  readonly systemContainers: readonly ContainerStats[];
  readonly startTime: number;
  readonly cpu?: CpuStats | undefined;
  readonly memory?: MemoryStats | undefined;
  readonly io?: IoStats | undefined;
  readonly network?: NetworkStats | undefined;
  readonly fs?: FsStats | undefined;
  readonly runtime?: { readonly imageFs?: FsStats | undefined; readonly containerFs?: FsStats | undefined } | undefined;
  readonly rlimit?: { readonly time: number; readonly maxpid: number; readonly curproc: number } | undefined;
  readonly swap?: SwapStats | undefined;
}

export interface Summary {
  readonly node: NodeStats;
  readonly pods: readonly PodStats[];
}

/** The summary as the API tells it: times in RFC 3339, whole seconds; what is not known left out. */
export function summaryJson(summary: Summary): string {
  return JSON.stringify(summary, (key, value: unknown) =>
    (key === 'time' || key === 'startTime') && typeof value === 'number' ? `${new Date(value).toISOString().slice(0, 19)}Z` : value,
  );
}

/** What a pod has on the node's disk: writable layers and logs of its containers, its local volumes, and what the agent wrote for it. */
export function ephemeralStorage(
  nodeFs: FsStats,
  containers: readonly ContainerStats[],
  volumes: readonly FsStats[],
  others: readonly (FsStats | undefined)[],
): FsStats {
  const parts = [...containers.flatMap((c) => (c.rootfs === undefined ? [] : [c.rootfs, c.logs])), ...volumes, ...others].filter(
    (part) => part !== undefined,
  );
  return {
    ...nodeFs,
    time: parts.reduce((latest, part) => Math.max(latest, part.time), nodeFs.time),
    usedBytes: sum(parts.map((part) => part.usedBytes)),
    inodesUsed: sum(parts.map((part) => part.inodesUsed)),
  };
}

/** Undefined when nothing is known. */
function sum(values: readonly (number | undefined)[]): number | undefined {
  const known = values.filter((value) => value !== undefined);
  return known.length === 0 ? undefined : known.reduce((total, value) => total + value, 0);
}
