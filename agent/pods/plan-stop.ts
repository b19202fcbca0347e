import type { Container } from '../model/generated/api.ts';
import { type AgentPod, containersOf } from '../model/pod.ts';
import type { RuntimeContainer, RuntimePod, RuntimeSandbox } from './observed.ts';
import type { Draft, PlanInput } from './plan-draft.ts';
import { actionKey, type PodAction } from './pod-action.ts';
import type { PodWork } from './work.ts';

// How one container or sandbox is ended and removed, whether its pod stays or goes.

// The shortest time a container gets between its stop signal and SIGKILL (pkg/kubelet/kuberuntime minimumGracePeriodInSeconds).
export const minimumGraceSeconds = 2;

export function mayStillRun({ state }: RuntimeContainer): boolean {
  return state === 'running' || state === 'unknown';
}

/** An instance that another must not run beside. One of unknown state that the runtime will not let go, however often it is told, never ran. */
export function isInTheWay(work: PodWork, instance: RuntimeContainer): boolean {
  return mayStillRun(instance) && !(instance.state === 'unknown' && staysBehind(work, instance.id));
}

/** Seconds a container gets to end: the deletion's, else the probe's, else the pod's. */
export function graceOf(pod: AgentPod, probeGrace: number | undefined): number {
  if (pod.metadata.deletionTimestamp !== undefined && pod.metadata.deletionGracePeriodSeconds !== undefined)
    return pod.metadata.deletionGracePeriodSeconds;
  return probeGrace ?? pod.spec.terminationGracePeriodSeconds ?? minimumGraceSeconds;
}

/** Runs the preStop hook first where there is one, then stops the container with what is left of its grace. */
export function stopContainer(
  input: PlanInput,
  draft: Draft,
  container: Container | undefined,
  latest: RuntimeContainer,
  graceSeconds: number,
  reason: string,
  message: string,
  since = input.work.stopSince.get(latest.id) ?? input.now.mono,
  comesBack = false,
): void {
  const { work, now } = input;
  const leftMs = since + graceSeconds * 1000 - now.mono;
  if (
    container?.lifecycle?.preStop !== undefined &&
    graceSeconds > 0 &&
    latest.state === 'running' &&
    !work.preStopped.has(latest.id) &&
    leftMs > 0
  ) {
    draft.wait(latest.name, 'its preStop hook is running');
    draft.act({ kind: 'preStop', id: latest.id, container: latest.name, graceSeconds, message });
    draft.wake(since + graceSeconds * 1000);
    return;
  }
  const toldBefore = work.preStopped.has(latest.id) || work.inFlight.has(`preStop:${latest.id}`);
  const waitMs = Math.max(minimumGraceSeconds * 1000, leftMs);
  draft.wait(latest.name, `stopping, up to ${Math.ceil(waitMs / 1000)} s`);
  const action: PodAction = {
    kind: 'stopContainer',
    id: latest.id,
    container: latest.name,
    graceSeconds: Math.ceil(waitMs / 1000),
    reason,
    message: toldBefore ? undefined : message,
    comesBack,
  };
  if (!draft.mayTry(latest.name, work.stuck.get(latest.id))) return;
  const killsAt = work.inFlight.get(actionKey(action));
  // A stop under way that would wait longer than it now may is replaced; a second's slack keeps rounding from doing so.
  if (killsAt !== undefined && killsAt - 1000 > now.mono + waitMs) draft.supersede(action);
  else draft.act(action);
}

// With the back-off of failed steps about fifteen seconds: a runtime that has just been restarted mostly comes round before.
const triesToRemove = 6;

/** True for a container that the runtime was asked to remove often enough. */
export function staysBehind(work: PodWork, id: string): boolean {
  return (work.stuck.get(id)?.tries ?? 0) >= triesToRemove;
}

export function removeContainer(input: PlanInput, draft: Draft, id: string): void {
  if (draft.mayTry('pod', input.work.stuck.get(id))) draft.act({ kind: 'removeContainer', id });
}

/** Sandboxes that hold an address, host ports or namespaces, or may: those that are ready, and those that died before they were stopped. */
export function heldSandboxes({ work }: Pick<PlanInput, 'work'>, runtime: RuntimePod): RuntimeSandbox[] {
  return runtime.sandboxes.filter((s) => s.ready || !work.released.has(s.id));
}

export function stopSandbox(input: PlanInput, draft: Draft, id: string, reason: string): void {
  if (draft.mayTry('sandbox', input.work.sandboxFailure)) draft.act({ kind: 'stopSandbox', id, reason });
}

/** A container's spec, of whatever kind; undefined for one that the pod's spec no longer has. */
export function specOf(pod: AgentPod, name: string): Container | undefined {
  return containersOf(pod).find(({ container }) => container.name === name)?.container;
}
