import type { LinuxContainerResources } from '../../cri-protos/generated/cri.ts';
import type { Container } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';
import { isCriticalPod } from '../model/priority.ts';
import { qosClassOf } from '../model/qos.ts';
import { parseMilli, parseQuantity, sameQuantity } from '../model/quantity.ts';
import { podLimits, podRequests } from '../model/resources.ts';
import { quotaOfMilli, sharesOfMilli } from './cpu.ts';
import { hugePageSizeName, hugePageSizeOf } from './huge-pages.ts';
import { oomScoreAdj } from './oom-score.ts';

/** What of the machine and the settings a container's resources depend on. */
export interface ContainerPolicy {
  readonly cpuCfsQuota: boolean;
  readonly cpuCfsQuotaPeriodUs: number;
  readonly hugePageSizes: readonly string[];
  readonly cgroupVersion: 1 | 2;
  readonly memoryCapacityBytes: number;
  readonly swapCapacityBytes: number;
  /** The kernel accounts swap by cgroup. */
  readonly swapController: boolean;
  /** KubeletConfiguration memorySwap.swapBehavior; anything else than LimitedSwap is none. */
  readonly swapBehavior: string | undefined;
  /** KubeletConfiguration singleProcessOOMKill; false kills all of a container's processes together (v2 only). */
  readonly singleProcessOomKill: boolean;
}

/** What the runtime is told about a container (kuberuntime generateLinuxContainerResources). `exclusiveCpus`: it has CPUs of its own, so no quota. */
export function containerResources(
  pod: AgentPod,
  container: Container,
  policy: ContainerPolicy,
  exclusiveCpus = false,
): LinuxContainerResources {
  const limits = container.resources?.limits;
  const podLimitsAsked = pod.spec.resources?.limits;
  // Where the container has no limit of its own, the pod's is what it can reach.
  const limit = (name: 'cpu' | 'memory'): string => (isSet(limits?.[name]) ? limits?.[name] : podLimitsAsked?.[name]) ?? '0';
  const result = linuxResources(container.resources?.requests?.cpu, limit('cpu'), limit('memory'), policy, exclusiveCpus);
  result.oom_score_adj = oomScoreAdj(pod, container, policy.memoryCapacityBytes);
  result.hugepage_limits = hugePages({ ...podLimitsAsked, ...limits }, policy.hugePageSizes);
  addSwap(result, pod, container, policy);
  return result;
}

/** What the runtime is told about the pod as a whole: for sandboxed runtimes, which size a machine by it. */
export function sandboxResources(pod: AgentPod, policy: ContainerPolicy, exclusiveCpus = false): LinuxContainerResources {
  const requests = podRequests(pod, { withOverhead: false });
  const limits = podLimits(pod, { withOverhead: false });
  return linuxResources(requests.cpu, limits.cpu ?? '0', limits.memory ?? '0', policy, exclusiveCpus);
}

/** What a RuntimeClass says its own machinery takes: `{}` without overhead. */
export function overheadResources(pod: AgentPod, policy: ContainerPolicy): LinuxContainerResources {
  const overhead = pod.spec.overhead;
  if (overhead === undefined) return {};
  return linuxResources(overhead.cpu ?? '0', overhead.cpu ?? '0', overhead.memory ?? '0', policy, false);
}

function linuxResources(
  cpuRequest: string | undefined,
  cpuLimit: string,
  memoryLimit: string,
  policy: ContainerPolicy,
  exclusiveCpus: boolean,
): LinuxContainerResources {
  const result: LinuxContainerResources = { cpu_shares: sharesOfMilli(parseMilli(cpuRequest ?? cpuLimit)) };
  const memory = parseQuantity(memoryLimit);
  if (memory !== 0) result.memory_limit_in_bytes = memory;
  if (policy.cpuCfsQuota) {
    result.cpu_period = policy.cpuCfsQuotaPeriodUs;
    result.cpu_quota = exclusiveCpus ? -1 : quotaOfMilli(parseMilli(cpuLimit), policy.cpuCfsQuotaPeriodUs);
  }
  if (policy.cgroupVersion === 2 && !policy.singleProcessOomKill) result.unified = { 'memory.oom.group': '1' };
  return result;
}

function isSet(value: string | undefined): boolean {
  return value !== undefined && parseMilli(value) > 0;
}

function hugePages(limits: Record<string, string>, machineSizes: readonly string[]): { page_size: string; limit: number }[] {
  const asked = new Map<string, number>();
  for (const [resource, amount] of Object.entries(limits)) {
    const size = hugePageSizeOf(resource);
    if (size !== undefined) asked.set(hugePageSizeName(size), parseQuantity(amount));
  }
  return machineSizes.map((page_size) => ({ page_size, limit: asked.get(page_size) ?? 0 }));
}

function addSwap(result: LinuxContainerResources, pod: AgentPod, container: Container, policy: ContainerPolicy): void {
  if (!policy.swapController) return;
  if (policy.cgroupVersion === 1) {
    // Memory and swap together no more than memory: no swap. Without a memory limit the runtime ignores it.
    if (result.memory_limit_in_bytes !== undefined) result.memory_swap_limit_in_bytes = result.memory_limit_in_bytes;
    return;
  }
  result.unified = { ...result.unified, 'memory.swap.max': `${swapLimit(pod, container, policy)}` };
}

/** True when the container may swap: in Burstable pods that leave room to, where the settings and the kernel allow it. */
export function maySwap(pod: AgentPod, container: Container, policy: ContainerPolicy): boolean {
  if (!policy.swapController || policy.cgroupVersion === 1 || policy.swapBehavior !== 'LimitedSwap') return false;
  if (isCriticalPod(pod) || qosClassOf(pod) !== 'Burstable') return false;
  return !sameQuantity(container.resources?.requests?.memory ?? '0', container.resources?.limits?.memory ?? '0');
}

/** Bytes of swap for a container: its share of the node's by what it asks of the memory. */
function swapLimit(pod: AgentPod, container: Container, policy: ContainerPolicy): number {
  if (!maySwap(pod, container, policy)) return 0;
  const request = container.resources?.requests?.memory ?? '0';
  const asked = parseQuantity(request);
  if (policy.memoryCapacityBytes <= 0 || asked > policy.memoryCapacityBytes) return 0;
  return Math.trunc((asked / policy.memoryCapacityBytes) * policy.swapCapacityBytes);
}
