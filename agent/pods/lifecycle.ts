import type { ContainerStatus } from '../model/generated/api.ts';
import { type AgentPod, isSidecar, isTerminalPhase } from '../model/pod.ts';
import { hasInitialized, latestContainer, lostEnd, mayRun, type RuntimePod } from './observed.ts';
import { shouldRestart } from './restart.ts';

/** Why a pod ends. `deleted`: the API asked; `removed`: its source no longer has it; `completed`: nothing is left to run; `ended`: somebody on the node decided. */
export type EndCause =
  | { readonly kind: 'deleted' }
  | { readonly kind: 'removed' }
  | { readonly kind: 'completed' }
  | { readonly kind: 'ended'; readonly reason: string; readonly message: string; readonly disruption?: string | undefined };

/** Reason of a pod whose `activeDeadlineSeconds` are over. */
export const deadlineReason = 'DeadlineExceeded' as const;

/**
 * Where a pod is in its life on this node. A terminated UID never runs again, but for a manifest's that is removed and put back: it begins a life anew.
 * Times are `mono`, ms.
 */
export type PodLifecycle =
  | { readonly kind: 'syncing' }
  | { readonly kind: 'terminating'; readonly since: number; readonly graceSeconds: number; readonly cause: EndCause }
  | { readonly kind: 'terminated'; readonly at: number; readonly cause: EndCause };

/** Somebody's wish that a pod ends: eviction, preemption, shutdown, a passed deadline, a refused admission. */
export interface Ending {
  readonly reason: string;
  readonly message: string;
  /** Seconds; undefined leaves the pod's own grace period. */
  readonly graceSeconds: number | undefined;
  /** Message of the condition DisruptionTarget, for an end that is none of the pod's own doing. */
  readonly disruption?: string | undefined;
}

export interface LifecycleInput {
  readonly pod: AgentPod;
  /** False once the source has dropped the pod (and the source is synced). */
  readonly inSource: boolean;
  readonly ending: Ending | undefined;
  readonly lifecycle: PodLifecycle;
  readonly runtime: RuntimePod | undefined;
  /** Statuses last published, for containers that the runtime has forgotten. */
  readonly published: readonly ContainerStatus[];
  /** True while an action is under way that could make or stop a container or sandbox. */
  readonly busy: boolean;
  /** True while all containers are being taken away to start anew, or the published status says so: none of their ends is the pod's. */
  readonly restartingAll?: boolean | undefined;
  readonly now: { readonly wall: number; readonly mono: number };
}

/** The state the pod is in now; the same object when nothing changed. */
export function nextLifecycle(input: LifecycleInput): PodLifecycle {
  const { lifecycle, now } = input;
  switch (lifecycle.kind) {
    case 'syncing': {
      const end = endOf(input);
      return end === undefined ? lifecycle : { kind: 'terminating', since: now.mono, ...end };
    }
    case 'terminating': {
      // With `runtime` unknown nothing can be said to have ended.
      if (input.runtime !== undefined && !mayRun(input.runtime) && !input.busy)
        return { kind: 'terminated', at: now.mono, cause: lifecycle.cause };
      // A second, more hurried wish: its time counts from now.
      const wished = wishedGrace(input);
      if (wished !== undefined && wished < lifecycle.graceSeconds) {
        const leftMs = lifecycle.since + lifecycle.graceSeconds * 1000 - now.mono;
        if (wished * 1000 < leftMs) return { ...lifecycle, since: now.mono, graceSeconds: wished };
      }
      return lifecycle;
    }
    case 'terminated':
      return lifecycle;
  }
}

function endOf(input: LifecycleInput): { graceSeconds: number; cause: EndCause } | undefined {
  const { pod, ending } = input;
  const own = pod.spec.terminationGracePeriodSeconds ?? 30;
  if (pod.metadata.deletionTimestamp !== undefined) return { graceSeconds: wishedGrace(input) ?? own, cause: { kind: 'deleted' } };
  if (!input.inSource) return { graceSeconds: own, cause: { kind: 'removed' } };
  if (isTerminalPhase(pod.status?.phase)) return { graceSeconds: own, cause: { kind: 'completed' } };
  if (ending !== undefined) {
    return {
      graceSeconds: ending.graceSeconds ?? own,
      cause: { kind: 'ended', reason: ending.reason, message: ending.message, disruption: ending.disruption },
    };
  }
  if (deadlineAt(pod) <= input.now.wall) {
    return {
      graceSeconds: own,
      // The words are kubelet's (pkg/kubelet/active_deadline.go).
      cause: { kind: 'ended', reason: deadlineReason, message: 'Pod was active on the node longer than the specified deadline' },
    };
  }
  if (input.runtime !== undefined && input.restartingAll !== true && isDone(pod, input.runtime, input.published))
    return { graceSeconds: own, cause: { kind: 'completed' } };
  return undefined;
}

/** The shortest grace that anybody wishes, seconds: the node's need (memory, a shutdown) does not wait for a deletion that has all the time in the world. */
function wishedGrace({ pod, ending }: LifecycleInput): number | undefined {
  const ofDeletion = pod.metadata.deletionTimestamp === undefined ? undefined : pod.metadata.deletionGracePeriodSeconds;
  const wishes = [ofDeletion, ending?.graceSeconds].filter((grace) => grace !== undefined);
  return wishes.length === 0 ? undefined : Math.min(...wishes);
}

/** When (wall, ms) `activeDeadlineSeconds` runs out; infinity without one or before the start. */
export function deadlineAt(pod: AgentPod): number {
  const { activeDeadlineSeconds } = pod.spec;
  const start = pod.status?.startTime;
  if (activeDeadlineSeconds === undefined || start === undefined) return Number.POSITIVE_INFINITY;
  return Date.parse(start) + activeDeadlineSeconds * 1000;
}

/** True when nothing of the pod is left to run: every app container ended for good, or an init container failed for good. */
function isDone(pod: AgentPod, runtime: RuntimePod, published: readonly ContainerStatus[]): boolean {
  const endedForGood = (name: string): number | undefined => {
    const latest = latestContainer(runtime, name);
    if (latest !== undefined) return latest.state === 'exited' && latest.comesBack !== true ? latest.exitCode : undefined;
    return lostEnd(published.find((s) => s.name === name));
  };
  const appEnds = pod.spec.containers.map((c) => ({ container: c, exitCode: endedForGood(c.name) }));
  if (appEnds.every(({ container, exitCode }) => exitCode !== undefined && !shouldRestart(container, pod.spec, exitCode))) return true;
  if (hasInitialized(pod, runtime)) return false;
  return (pod.spec.initContainers ?? []).some((container) => {
    if (isSidecar(container)) return false;
    const exitCode = endedForGood(container.name);
    return exitCode !== undefined && exitCode !== 0 && !shouldRestart(container, pod.spec, exitCode);
  });
}
