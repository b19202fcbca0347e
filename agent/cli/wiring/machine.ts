import { mkdtemp, readFile, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { Config } from '../../config/config.ts';
import type { Cgroups } from '../../drivers/cgroup/cgroups.ts';
import { ownCgroup } from '../../drivers/cgroup/layout.ts';
import type { CriClient } from '../../drivers/cri/client.ts';
import type { Mounts } from '../../drivers/mounts/mounts.ts';

const clock = systemClock;

/** What of a machine decides whether it can be used as the configuration wants it. */
export interface MachineTraits {
  readonly cgroupVersion: 1 | 2;
  readonly swapBytes: number;
  /** Whether there is a system bus, over which systemd-logind tells of a shutdown. */
  readonly hasSystemBus: boolean;
}

/**
 * Refuses a machine that the configuration says must not be used, or on which it asks for what is not there yet. Throws AgentError NotSupported or
 * InvalidConfig with kubelet's words and the way out. Gives what is asked for in vain, as from a kubelet.
 */
export function checkMachine(config: Config, { cgroupVersion, swapBytes, hasSystemBus }: MachineTraits): string[] {
  if (config.kubelet.failCgroupV1 && cgroupVersion === 1) {
    throw new AgentError(
      'NotSupported',
      'kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is in maintenance mode; set failCgroupV1: false in the KubeletConfiguration to run here all the same',
    );
  }
  if (config.kubelet.failSwapOn && swapBytes > 0) {
    throw new AgentError(
      'NotSupported',
      'running with swap on is not supported, please disable swap (swapoff -a) or set --fail-swap-on flag to false (failSwapOn: false in the KubeletConfiguration)',
    );
  }
  if (cgroupVersion === 1 && config.kubelet.singleProcessOOMKill === false) {
    throw new AgentError(
      'InvalidConfig',
      'invalid configuration: singleProcessOOMKill must not be explicitly set to false when using cgroup v1',
    );
  }
  const { shutdownGracePeriod, shutdownGracePeriodByPodPriority } = config.kubelet;
  if (shutdownGracePeriod === 0 && shutdownGracePeriodByPodPriority.length === 0) return [];
  const field = shutdownGracePeriod === 0 ? 'shutdownGracePeriodByPodPriority' : 'shutdownGracePeriod';
  if (hasSystemBus)
    throw new AgentError(
      'InvalidConfig',
      `${field} of KubeletConfiguration is not supported as set: pods are not ended before a shutdown of the machine yet`,
    );
  // A kubelet's manager of shutdowns ends with an error there, and the kubelet goes on (pkg/kubelet/nodeshutdown).
  return [`${field} is without effect: this machine has no system bus (systemd-logind), which would tell of a shutdown`];
}

/** Upstream's words (pkg/kubelet/cm CgroupV1DeprecatedWarning). */
export const cgroupV1Message =
  'cgroup v1 detected. cgroup v1 support is deprecated and will be removed in a future release. Please migrate to cgroup v2. More information at https://git.k8s.io/enhancements/keps/sig-node/5573-remove-cgroup-v1';

/** True when the kernel accounts swap by cgroup. */
export async function accountsSwap(cgroups: Cgroups): Promise<boolean> {
  if (cgroups.version === 1) return (await cgroups.read('/', 'memory', 'memory.memsw.limit_in_bytes')) !== undefined;
  // The root has no memory.swap.max: the cgroup that we are in tells.
  const own = ownCgroup(await readFile('/proc/self/cgroup', 'utf8'));
  return own !== undefined && (await cgroups.read(own, 'memory', 'memory.swap.max')) !== undefined;
}

/** True when a file system in memory can be kept out of swap, as it is tried with one in `folder`. */
export async function tmpfsRefusesSwap(mounts: Mounts, folder: string, signal: AbortSignal): Promise<boolean> {
  const at = await mkdtemp(join(folder, 'tmpfs-noswap-test-'));
  try {
    await mounts.mountTmpfs(at, { noswap: true, sizeBytes: 4096 }, signal);
    return (await mounts.listUnder(at)).some(({ superOptions }) => superOptions.includes('noswap'));
  } finally {
    await mounts.unmount(at, {}, signal);
    await rmdir(at);
  }
}

/** The runtime's own cgroup driver where it tells it (containerd 2, CRI-O 1.28), else the configured one. */
export async function cgroupDriverOf(cri: CriClient, configured: string, log: Log, signal: AbortSignal): Promise<'cgroupfs' | 'systemd'> {
  const fallback = configured === 'systemd' ? 'systemd' : 'cgroupfs';
  for (;;) {
    try {
      const { linux } = await cri.runtimeConfig({}, signal);
      return linux?.cgroup_driver === 'SYSTEMD' ? 'systemd' : 'cgroupfs';
    } catch (error) {
      if (hasCode(error, 'Unimplemented')) return fallback;
      if (signal.aborted) throw error;
      log.warn({ err: messageOf(error) }, 'waiting for the container runtime');
      await clock.sleep(1000, signal);
    }
  }
}

// Docker's packages of containerd come so configured.
const noCriFix =
  'the runtime answers, but serves no CRI v1: for containerd take "cri" out of disabled_plugins in /etc/containerd/config.toml and restart it; containerd before 1.6 is too old';

/** What the runtime calls itself: the scheme of container IDs. Waits for the runtime. */
export async function runtimeNameOf(cri: CriClient, log: Log, signal: AbortSignal): Promise<string> {
  for (;;) {
    try {
      return (await cri.version({}, signal)).runtime_name ?? 'containerd';
    } catch (error) {
      if (signal.aborted) throw error;
      log.warn(
        { err: messageOf(error), ...(hasCode(error, 'Unimplemented') ? { fix: noCriFix } : {}) },
        'waiting for the container runtime',
      );
      await clock.sleep(1000, signal);
    }
  }
}
