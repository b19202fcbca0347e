import { type AgentPod, isMirrorPod, isStaticPod } from './pod.ts';

// Pods at or above this priority are critical to the system (pkg/apis/scheduling SystemCriticalPriority).
const systemCriticalPriority = 2_000_000_000;

/** True for static pods, mirrors, and pods of system-critical priority: admission preempts for them and eviction spares them. */
export function isCriticalPod(pod: AgentPod): boolean {
  return isStaticPod(pod) || isMirrorPod(pod) || (pod.spec.priority ?? 0) >= systemCriticalPriority;
}
