import { ownValue, setOwn } from '../base/own.ts';
import type { CgroupValues } from '../drivers/cgroup/values.ts';
import type { ResourceRequirements } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';
import { qosClassOf } from '../model/qos.ts';
import { parseMilli, parseQuantity, subtractQuantity } from '../model/quantity.ts';
import { podLimitDeclared, podLimits, podRequests, type ResourceList } from '../model/resources.ts';
import { minShares, quotaOfMilli, sharesOfMilli } from './cpu.ts';
import { hugePageLimits } from './huge-pages.ts';

/** The settings that decide what cgroups are told. */
export interface CgroupPolicy {
  readonly cpuCfsQuota: boolean;
  readonly cpuCfsQuotaPeriodUs: number;
  /** 0 or less: no limit of its own. */
  readonly podPidsLimit: number;
  /** Page sizes of the machine by the kernel's names (`2MB`). */
  readonly hugePageSizes: readonly string[];
}

function milli(list: ResourceList | ResourceRequirements['limits'], name: string): number {
  const value = ownValue(list, name);
  return value === undefined ? 0 : parseMilli(value);
}

function bytes(list: ResourceList | ResourceRequirements['limits'], name: string): number {
  const value = ownValue(list, name);
  return value === undefined ? 0 : parseQuantity(value);
}

/** What the cgroup of a pod is told (pkg/kubelet/cm ResourceConfigForPod). `exclusiveCpus`: its CPUs are its own, so no quota slows it. */
export function podCgroupValues(pod: AgentPod, policy: CgroupPolicy, exclusiveCpus = false): CgroupValues {
  const requests = podRequests(pod);
  const limits = podLimits(pod);
  const quota: CgroupValues =
    policy.cpuCfsQuota && !exclusiveCpus
      ? { cpuQuotaUs: quotaOfMilli(milli(limits, 'cpu'), policy.cpuCfsQuotaPeriodUs), cpuPeriodUs: policy.cpuCfsQuotaPeriodUs }
      : { cpuQuotaUs: -1, cpuPeriodUs: policy.cpuCfsQuotaPeriodUs };
  const common: CgroupValues = {
    cpuShares: sharesOfMilli(milli(requests, 'cpu')),
    hugePageLimits: hugePageLimits(requests, policy.hugePageSizes),
    ...(policy.podPidsLimit > 0 ? { pidsLimit: policy.podPidsLimit } : {}),
  };
  switch (qosClassOf(pod)) {
    case 'Guaranteed':
      return { ...common, ...quota, memoryLimitBytes: bytes(limits, 'memory') };
    case 'Burstable':
      // One container without a limit may take what the node has: then the pod has none either.
      return {
        ...common,
        ...(podLimitDeclared(pod, 'cpu') ? quota : {}),
        ...(podLimitDeclared(pod, 'memory') ? { memoryLimitBytes: bytes(limits, 'memory') } : {}),
      };
    case 'BestEffort':
      return { ...common, cpuShares: minShares };
  }
}

// Effectively unbounded (pkg/kubelet/cm/qos_container_manager_linux.go): the limit is each pod's own.
const unboundedHugePages = 1n << 62n;

/** No limit for any page size. */
export function noHugePageLimits(sizes: readonly string[]): Record<string, bigint> {
  return Object.fromEntries(sizes.map((size) => [size, unboundedHugePages]));
}

/** What the cgroups of the QoS classes are told, from the pods that are running or about to. */
export function qosCgroupValues(pods: Iterable<AgentPod>, policy: CgroupPolicy): { Burstable: CgroupValues; BestEffort: CgroupValues } {
  let burstableMilli = 0;
  for (const pod of pods) if (qosClassOf(pod) === 'Burstable') burstableMilli += milli(podRequests(pod), 'cpu');
  const limits = noHugePageLimits(policy.hugePageSizes);
  return {
    Burstable: { cpuShares: sharesOfMilli(burstableMilli), hugePageLimits: limits },
    BestEffort: { cpuShares: minShares, hugePageLimits: limits },
  };
}

/** Memory limits of the QoS classes when a share of what higher classes ask for is kept free for them (`qosReserved`, in percent). */
export function qosMemoryLimits(
  pods: Iterable<AgentPod>,
  allocatableBytes: number,
  reservedPercent: number,
): { Burstable: number; BestEffort: number } {
  let guaranteed = 0;
  let burstable = 0;
  for (const pod of pods) {
    const asked = bytes(podRequests(pod), 'memory');
    const qos = qosClassOf(pod);
    if (qos === 'Guaranteed') guaranteed += asked;
    else if (qos === 'Burstable') burstable += asked;
  }
  const burstableLimit = allocatableBytes - Math.trunc((guaranteed * reservedPercent) / 100);
  return { Burstable: burstableLimit, BestEffort: burstableLimit - Math.trunc((burstable * reservedPercent) / 100) };
}

/** What a whole cgroup of this size is told: kubepods, or a reserved cgroup. `compressibleOnly`: CPU alone, which can be taken back without a kill. */
export function cgroupValuesOf(resources: ResourceList, machineSizes: readonly string[], compressibleOnly = false): CgroupValues {
  const cpu: CgroupValues = resources.cpu === undefined ? {} : { cpuShares: sharesOfMilli(parseMilli(resources.cpu)) };
  if (compressibleOnly) return cpu;
  return {
    ...cpu,
    ...(resources.memory === undefined ? {} : { memoryLimitBytes: parseQuantity(resources.memory) }),
    ...(resources.pid === undefined ? {} : { pidsLimit: parseQuantity(resources.pid) }),
    hugePageLimits: hugePageLimits(resources, machineSizes),
  };
}

/** Capacity less what is reserved, never below nothing. */
export function withoutReserved(capacity: ResourceList, ...reserved: ResourceList[]): ResourceList {
  const left: ResourceList = {};
  for (const [name, value] of Object.entries(capacity)) {
    let rest = value;
    for (const list of reserved) {
      const taken = ownValue(list, name);
      if (taken !== undefined) rest = subtractQuantity(rest, taken);
    }
    setOwn(left, name, rest.startsWith('-') ? '0' : rest);
  }
  return left;
}
