import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { hasCode } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { ReadonlyTable } from '../../base/table.ts';
import type { Config } from '../../config/config.ts';
import { ownCgroup } from '../../drivers/cgroup/layout.ts';
import { openCgroupReader } from '../../drivers/cgroup/readings.ts';
import type { CriClient } from '../../drivers/cri/client.ts';
import type { MachineFacts } from '../../drivers/proc/machine.ts';
import { diskUsage, fileSystemSize } from '../../drivers/sys/disk-usage.ts';
import { isErrno } from '../../drivers/sys/errno.ts';
import type { AgentPod } from '../../model/pod.ts';
import type { RuntimePod } from '../../pods/observed.ts';
import { podLogDirectory } from '../../pods/sandbox-config.ts';
import type { PodSpecRow } from '../../pods/worker.ts';
import { type CgroupTree, cgroupPath, podCgroupParent } from '../../resources/cgroup-names.ts';
import type { Page } from '../../server/contracts.ts';
import { summaryJson } from '../../stats/summary.ts';
import { createStats, type Stats, type VolumePath } from '../../stats/worker.ts';
import { podDir, volumeDir } from '../../volumes/layout.ts';
import { pluginOf } from '../../volumes/plan.ts';

export interface NodeStatsOptions {
  readonly config: Config;
  readonly nodeName: string;
  readonly machine: MachineFacts;
  readonly clock: Clock;
  readonly log: Log;
  readonly cri: CriClient;
  readonly tree: CgroupTree | undefined;
  readonly admitted: ReadonlyTable<PodSpecRow>;
  readonly runtime: ReadonlyTable<RuntimePod>;
}

/** The stats room with this machine's cgroups, file systems and runtime. */
export async function openNodeStats(options: NodeStatsOptions): Promise<Stats> {
  const { config, machine, cri, tree } = options;
  const { rootDir, kubelet: kc } = config;
  return createStats({
    clock: options.clock,
    log: options.log,
    nodeName: options.nodeName,
    bootTime: machine.bootTime,
    memoryBytes: machine.memoryBytes,
    maxPids: machine.maxPids,
    cgroups: await openCgroupReader(),
    podsCgroup: tree && cgroupPath(tree.kubepods, tree.driver),
    systemCgroups: { kubelet: kc.kubeletCgroups || ownCgroup(await readFile('/proc/self/cgroup', 'utf8')), runtime: config.runtimeCgroups },
    podCgroup: (pod) => tree && podCgroupParent(tree, pod),
    admitted: options.admitted,
    runtime: options.runtime,
    listContainerStats: cri.listContainerStats,
    imageFsInfo: cri.imageFsInfo,
    fileSystemSize,
    diskUsage,
    readProc,
    rootDir,
    volumePaths: (pod) => volumePaths(rootDir, pod),
    logFolder: (pod, container) => join(podLogDirectory(kc.podLogsDir, pod), container),
    hostsFile: (uid) => join(podDir(rootDir, uid), 'etc-hosts'),
    diskMaxAgeMs: kc.volumeStatsAggPeriod,
  });
}

/** The page behind `/stats/summary`. */
export function createSummaryPage(stats: Stats): Page {
  return async (query, signal) => {
    const only = query.getAll('only_cpu_and_memory');
    const summary = await stats.summary(only.length === 1 && only[0] === 'true', signal);
    return { contentType: 'application/json', body: summaryJson(summary) };
  };
}

function readProc(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    // ESRCH, EINVAL: a process that has just ended.
    if (isErrno(error, 'ENOENT', 'ESRCH', 'EINVAL')) return undefined;
    throw error;
  }
}

/** The directories of the volumes that lie on the node itself. */
function volumePaths(rootDir: string, pod: AgentPod): VolumePath[] {
  return (pod.spec.volumes ?? []).flatMap((volume) => {
    try {
      const plugin = pluginOf(volume);
      return plugin === undefined ? [] : [{ name: volume.name, path: volumeDir(rootDir, pod.metadata.uid, plugin, volume.name) }];
    } catch (error) {
      // A pod that was taken over from a kubelet may have volumes that we cannot mount.
      if (hasCode(error, 'NotSupported')) return [];
      throw error;
    }
  });
}
