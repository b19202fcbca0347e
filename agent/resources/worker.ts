import type { Clock } from '../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { startLoop } from '../base/loop.ts';
import type { ReadonlyTable } from '../base/table.ts';
import type { Cgroups } from '../drivers/cgroup/cgroups.ts';
import type { CgroupValues } from '../drivers/cgroup/values.ts';
import { type AgentPod, isTerminalPhase } from '../model/pod.ts';
import { parseQuantity } from '../model/quantity.ts';
import type { ResourceList } from '../model/resources.ts';
import { type CgroupDriver, type CgroupName, cgroupPath, cgroupTree, podCgroup, podUidOfDirectory, qosCgroup } from './cgroup-names.ts';
import {
  type CgroupPolicy,
  cgroupValuesOf,
  noHugePageLimits,
  podCgroupValues,
  qosCgroupValues,
  qosMemoryLimits,
  withoutReserved,
} from './pod-values.ts';

/** The settings of KubeletConfiguration that decide the cgroup tree. */
export interface ResourcesConfig {
  readonly cgroupDriver: CgroupDriver;
  /** `''` or `/` is the root of the hierarchies. */
  readonly cgroupRoot: string;
  /** False: no tree at all; pods land where the runtime puts them. */
  readonly cgroupsPerQos: boolean;
  readonly cpuCfsQuota: boolean;
  readonly cpuCfsQuotaPeriodUs: number;
  readonly podPidsLimit: number;
  /** `pods`, `system-reserved`, `kube-reserved`, the latter two also with `-compressible`; or `none`. */
  readonly enforceNodeAllocatable: readonly string[];
  readonly systemReserved: ResourceList;
  readonly kubeReserved: ResourceList;
  readonly systemReservedCgroup: string;
  readonly kubeReservedCgroup: string;
  /** `qosReserved.memory` in percent; 0 when not asked for. */
  readonly qosReservedMemoryPercent: number;
}

export interface ResourcesOptions {
  readonly cgroups: Cgroups;
  readonly config: ResourcesConfig;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** The pods that have been admitted; the QoS cgroups follow their sum. */
  readonly admitted: ReadonlyTable<{ readonly pod: AgentPod }>;
  /** What the machine has, `pid` among it, before anything is reserved. */
  readonly capacity: () => ResourceList;
  /** Tells of the node (an Event on the Node). */
  readonly event: (type: 'Normal' | 'Warning', reason: string, message: string) => void;
  /** How a process is ended; for tests. */
  readonly kill?: (pid: number) => void;
}

/** The pods' cgroups. Only the pods room asks for changes; every method throws AgentError. */
export interface Resources extends AsyncDisposable {
  /** Makes kubepods and the QoS cgroups, and enforces what is reserved. Call once before any pod; safe to repeat. */
  ensureTree(signal: AbortSignal): Promise<void>;
  /** Makes the pod's cgroup with its values, unless it is there. Resolves to the `cgroup_parent` of the pod's sandbox; `''` without a tree. */
  ensurePodCgroup(pod: AgentPod, signal: AbortSignal): Promise<string>;
  /** Sets the pod's CPU or memory values anew: a resize changes one after the other. Throws Busy when more memory is in use than it now may have. */
  updatePodCgroup(pod: AgentPod, resource: 'cpu' | 'memory', signal: AbortSignal): Promise<void>;
  /** Kills what is left in the pod's cgroups and removes them, in whichever QoS class; absence is success. */
  removePodCgroup(podUid: string, signal: AbortSignal): Promise<void>;
  /** UIDs of all pods that have a cgroup, known or not. */
  listPodCgroups(): Promise<string[]>;
  /** Bytes of memory that the pod uses; undefined when it has no cgroup. */
  podMemoryUsage(pod: AgentPod): Promise<number | undefined>;
}

const qosClasses = ['Guaranteed', 'Burstable', 'BestEffort'] as const;
const qosAuditMs = 60_000;

export function startResources(options: ResourcesOptions): Resources {
  const { cgroups, config, clock, log } = options;
  const kill = options.kill ?? ((pid) => void process.kill(pid, 'SIGKILL'));
  const tree = cgroupTree(config.cgroupDriver, config.cgroupRoot);
  const policy: CgroupPolicy = {
    cpuCfsQuota: config.cpuCfsQuota,
    cpuCfsQuotaPeriodUs: config.cpuCfsQuotaPeriodUs,
    podPidsLimit: config.podPidsLimit,
    hugePageSizes: cgroups.hugePageSizes,
  };
  const pathOf = (name: CgroupName): string => cgroupPath(name, tree.driver);
  const written = new Map<string, string>();
  let treeReady = false;

  const loop = startLoop({
    name: 'resources',
    clock,
    log,
    signal: options.signal,
    backoff: { initialMs: 1000, maxMs: 60_000 },
    run: async (key, signal) => {
      if (key === 'qos') return updateQos(signal);
      await enforceNodeAllocatable(signal);
      return undefined;
    },
  });
  const subscription = options.admitted.subscribe(() => loop.enqueue('qos'));

  /** Says the same to the kernel only once: a pod that comes or goes changes two files, not all of them. */
  async function setOnce(cgroup: string, values: CgroupValues, signal: AbortSignal): Promise<void> {
    const text = JSON.stringify(values, (_, value) => (typeof value === 'bigint' ? `${value}` : value));
    if (written.get(cgroup) === text) return;
    await cgroups.set(cgroup, values, signal);
    written.set(cgroup, text);
  }

  async function updateQos(signal: AbortSignal): Promise<number | undefined> {
    if (!config.cgroupsPerQos || !treeReady) return undefined;
    const pods = [...options.admitted.values()].map((row) => row.pod).filter((pod) => !isTerminalPhase(pod.status?.phase));
    const values = qosCgroupValues(pods, policy);
    const memory = config.qosReservedMemoryPercent > 0 ? memoryReserve(pods) : undefined;
    for (const qos of ['Burstable', 'BestEffort'] as const) {
      const cgroup = pathOf(qosCgroup(tree, qos));
      const wanted = memory === undefined ? values[qos] : { ...values[qos], memoryLimitBytes: memory[qos] };
      try {
        await setOnce(cgroup, wanted, signal);
      } catch (error) {
        // More is in use than the class may have: stop it from growing, and come back.
        const usage = hasCode(error, 'Busy') ? await cgroups.memoryUsage(cgroup) : undefined;
        if (usage === undefined) throw error;
        await setOnce(cgroup, { ...wanted, memoryLimitBytes: usage }, signal);
      }
    }
    return clock.mono() + qosAuditMs;
  }

  function memoryReserve(pods: readonly AgentPod[]): { Burstable: number; BestEffort: number } | undefined {
    const allocatable = parseQuantity(allocatableResources().memory ?? '0');
    return allocatable === 0 ? undefined : qosMemoryLimits(pods, allocatable, config.qosReservedMemoryPercent);
  }

  function allocatableResources(): ResourceList {
    const capacity = options.capacity();
    return config.enforceNodeAllocatable.includes('pods')
      ? withoutReserved(capacity, config.systemReserved, config.kubeReserved)
      : capacity;
  }

  /** What kubepods is told besides what is allocatable. */
  async function wholeValues(): Promise<CgroupValues> {
    return { ...(await everyCpu()), hugePageLimits: noHugePageLimits(cgroups.hugePageSizes) };
  }

  /** systemd takes the cpuset controller away from slices that it knows of no CPUs for; so it is told of all (pkg/kubelet/cm getCgroupConfig). */
  async function everyCpu(): Promise<CgroupValues> {
    return cgroups.version === 1 ? {} : { cpuset: await cgroups.read('/', 'cpuset', 'cpuset.cpus.effective') };
  }

  async function enforceNodeAllocatable(signal: AbortSignal): Promise<void> {
    try {
      const values = { ...cgroupValuesOf(allocatableResources(), cgroups.hugePageSizes), ...(await wholeValues()) };
      await setOnce(pathOf(tree.kubepods), values, signal);
    } catch (error) {
      // Pods that were there before may use more than the new limit; evictions bring it down, and the loop tries again.
      const message = `Failed to update Node Allocatable Limits ${JSON.stringify(tree.kubepods)}: ${messageOf(error)}`;
      options.event('Warning', 'FailedNodeAllocatableEnforcement', message);
      throw error;
    }
    options.event('Normal', 'NodeAllocatableEnforced', 'Updated Node Allocatable limit across pods');
  }

  async function enforceReserved(signal: AbortSignal): Promise<void> {
    const asked = config.enforceNodeAllocatable;
    const all = [
      {
        key: 'system-reserved',
        what: 'system reserved',
        label: 'System Reserved',
        cgroup: config.systemReservedCgroup,
        reserved: config.systemReserved,
      },
      {
        key: 'kube-reserved',
        what: 'kube reserved',
        label: 'Kube Reserved',
        cgroup: config.kubeReservedCgroup,
        reserved: config.kubeReserved,
      },
    ];
    for (const { key, what, label, cgroup, reserved } of all) {
      const compressible = asked.includes(`${key}-compressible`);
      if (!compressible && !asked.includes(key)) continue;
      try {
        if (!(await cgroups.exists(cgroup)))
          throw new AgentError('NotFound', `cgroup ${cgroup} does not exist; create it before the agent starts`);
        const values = { ...cgroupValuesOf(reserved, cgroups.hugePageSizes, compressible), ...(await everyCpu()) };
        await cgroups.set(cgroup, values, signal);
      } catch (error) {
        const message = `Failed to enforce ${label} Cgroup Limits on ${JSON.stringify(cgroup)}: ${messageOf(error)}`;
        options.event('Warning', 'FailedNodeAllocatableEnforcement', message);
        throw new AgentError('InvalidConfig', message, { cause: error });
      }
      options.event('Normal', 'NodeAllocatableEnforced', `Updated limits on ${what} cgroup ${cgroup}`);
    }
  }

  async function podDirectories(): Promise<{ uid: string; path: string }[]> {
    const lists = await Promise.all(
      qosClasses.map(async (qos) => {
        const parent = qosCgroup(tree, qos);
        return (await cgroups.children(pathOf(parent))).flatMap((directory) => {
          const uid = podUidOfDirectory(parent, directory, tree.driver);
          return uid === undefined ? [] : [{ uid, path: `${pathOf(parent)}/${directory}` }];
        });
      }),
    );
    return lists.flat();
  }

  return {
    async ensureTree(signal) {
      if (!config.cgroupsPerQos) return;
      const root = pathOf(tree.kubepods.slice(0, -1));
      if (root !== '/' && !(await cgroups.exists(root))) {
        throw new AgentError('InvalidConfig', `invalid configuration: cgroup-root ${config.cgroupRoot} doesn't exist`);
      }
      const shares = { ...cgroupValuesOf(allocatableResources(), cgroups.hugePageSizes, true), ...(await everyCpu()) };
      await cgroups.create(pathOf(tree.kubepods), shares, signal);
      const none = qosCgroupValues([], policy);
      for (const qos of ['Burstable', 'BestEffort'] as const) {
        const cgroup = pathOf(qosCgroup(tree, qos));
        // A Burstable tier that is in use keeps its shares until the pods are known.
        const { cpuShares, ...rest } = none[qos];
        await cgroups.create(cgroup, qos === 'BestEffort' ? { cpuShares, ...rest } : rest, signal);
      }
      treeReady = true;
      loop.enqueue('node allocatable');
      await enforceReserved(signal);
      if (options.admitted.synced) loop.enqueue('qos');
    },

    async ensurePodCgroup(pod, signal) {
      if (!config.cgroupsPerQos) return '';
      const cgroup = pathOf(podCgroup(tree, pod));
      if (!(await cgroups.exists(cgroup))) await cgroups.create(cgroup, podCgroupValues(pod, policy), signal);
      return cgroup;
    },

    async updatePodCgroup(pod, resource, signal) {
      if (!config.cgroupsPerQos) return;
      const { cpuShares, cpuQuotaUs, cpuPeriodUs, memoryLimitBytes } = podCgroupValues(pod, policy);
      const values = resource === 'cpu' ? { cpuShares, cpuQuotaUs, cpuPeriodUs } : { memoryLimitBytes };
      await cgroups.set(pathOf(podCgroup(tree, pod)), values, signal);
    },

    async removePodCgroup(podUid, signal) {
      if (!config.cgroupsPerQos) return;
      const own = (await podDirectories()).filter(({ uid }) => uid === podUid);
      for (const { path } of own) {
        for (const pid of await cgroups.pids(path)) {
          log.warn({ podUid, pid }, 'killing a process left in the cgroup of an ended pod');
          try {
            kill(pid);
          } catch (error) {
            if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
          }
        }
        await cgroups.remove(path, signal);
      }
    },

    async listPodCgroups() {
      return config.cgroupsPerQos ? [...new Set((await podDirectories()).map(({ uid }) => uid))] : [];
    },

    podMemoryUsage: (pod) => cgroups.memoryUsage(pathOf(podCgroup(tree, pod))),

    async [Symbol.asyncDispose]() {
      subscription[Symbol.dispose]();
      await loop[Symbol.asyncDispose]();
    },
  };
}
