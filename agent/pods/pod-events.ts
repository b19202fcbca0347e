import { isIP } from 'node:net';
import { messageOf } from '../base/errors.ts';
import { goQuote } from '../base/go-quote.ts';
import type { AgentPod, PodSource } from '../model/pod.ts';
import { deadlineReason, type PodLifecycle } from './lifecycle.ts';
import type { PodAction } from './pod-action.ts';

/** What the event FailedKillPod says when a stop failed with `message` (pkg/kubelet/container/sync_result.go); undefined for other actions. */
export function killPodFailure(action: PodAction, podUid: string, message: string): string | undefined {
  if (action.kind === 'stopContainer')
    return `error killing pod: failed to "KillContainer" for ${goQuote(action.container)} with KillContainerError: ${goQuote(message)}`;
  if (action.kind === 'stopSandbox')
    return `error killing pod: failed to "KillPodSandbox" for ${goQuote(podUid)} with KillPodSandboxError: ${goQuote(message)}`;
  return undefined;
}

/** What the event FailedSync says of a pod that the runtime cannot tell about (pkg/kubelet/pod_workers.go). */
export function statusFailure(error: unknown): string {
  return `error determining status: ${messageOf(error)}`;
}

/** What the event FailedValidation says of a static pod whose name another of its source has (pkg/kubelet/config/config.go). */
export function duplicateNameMessage({ metadata: { name, namespace, uid } }: AgentPod, source: PodSource): string {
  return `Error validating pod ${name}_${namespace}(${uid}) from ${source} due to duplicate pod name ${goQuote(name)}, ignoring`;
}

/** What the event HostIPsIPFamilyMismatch says when a pod's first host IP changes its family; undefined when it does not (pkg/kubelet/kubelet_pods.go). */
export function hostIpMismatch(before: string | undefined, now: string | undefined): string | undefined {
  const [old, next] = [isIP(before ?? ''), isIP(now ?? '')];
  if (old === 0 || next === 0 || old === next) return undefined;
  return `Kubelet detected an IPv${old} node IP (${before}), but the cloud provider selected an IPv${next} node IP (${now}); pass an explicit \`--node-ip\` to kubelet to fix this.`;
}

/** The event that a pod's end begins with; only a passed deadline has one (pkg/kubelet/active_deadline.go). */
export function endEvent(lifecycle: PodLifecycle): { readonly reason: 'DeadlineExceeded'; readonly message: string } | undefined {
  if (lifecycle.kind !== 'terminating' || lifecycle.cause.kind !== 'ended' || lifecycle.cause.reason !== deadlineReason) return undefined;
  return { reason: deadlineReason, message: lifecycle.cause.message };
}

// killPodNow of pkg/kubelet/pod_workers.go: half as long again as the pod has, and at least this.
const leastKillSeconds = 10;

/**
 * From when on (mono, ms) a pod that the node itself ends (eviction, preemption) has exceeded its grace period; undefined for one that ends otherwise.
 */
export function killOverdueAt(lifecycle: PodLifecycle): number | undefined {
  if (lifecycle.kind !== 'terminating' || lifecycle.cause.kind !== 'ended' || lifecycle.cause.reason === deadlineReason) return undefined;
  return lifecycle.since + Math.max(leastKillSeconds, 1.5 * lifecycle.graceSeconds) * 1000;
}

export const exceededGraceMessage = 'Container runtime did not kill the pod within specified grace period.';
