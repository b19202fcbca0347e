import type { ContainerStatus, PodSpec } from '../model/generated/api.ts';
import { isSidecar } from '../model/pod.ts';
import { restartingAllReason } from './observed.ts';
import { shouldRestart } from './restart.ts';

export interface PhaseInput {
  readonly spec: PodSpec;
  /** Statuses of init and app containers. */
  readonly statuses: readonly ContainerStatus[];
  /** True once nothing of the pod runs or will run again. */
  readonly terminal: boolean;
  /** True when an app container of the present sandbox exists: a sidecar that restarts then does not lead back to Pending. */
  readonly initialized: boolean;
  readonly isStatic: boolean;
}

/** The phase that the container statuses amount to: Pending, Running, Succeeded or Failed (the rules of pkg/kubelet/kubelet_pods.go getPhase). */
export function phaseOf(input: PhaseInput): string {
  const { spec, statuses } = input;
  const byName = new Map(statuses.map((s) => [s.name, s]));
  let pendingInit = false;
  let pendingSidecar = false;
  let running = 0;
  let waiting = 0;
  let unknown = 0;
  let stopped = 0;
  let succeeded = 0;
  let endedForGood = 0;

  for (const container of spec.initContainers ?? []) {
    const status = byName.get(container.name);
    if (isSidecar(container)) {
      if (status?.state?.running !== undefined) {
        running++;
        if (status.started !== true) pendingSidecar = true;
      } else if (status?.state?.terminated !== undefined) continue;
      else if (status?.state?.waiting !== undefined) {
        if (status.lastState?.terminated !== undefined) continue;
        pendingSidecar = true;
        waiting++;
      } else {
        if (status !== undefined) pendingSidecar = true;
        unknown++;
      }
      continue;
    }
    const ended = status?.state?.terminated ?? (status?.state?.waiting !== undefined ? status.lastState?.terminated : undefined);
    if (ended === undefined) pendingInit = true;
    else if (ended.exitCode !== 0 && ended.reason !== restartingAllReason && !shouldRestart(container, spec, ended.exitCode))
      return 'Failed';
  }

  for (const container of spec.containers) {
    const status = byName.get(container.name);
    const ended = status?.state?.terminated ?? (status?.state?.waiting !== undefined ? status.lastState?.terminated : undefined);
    if (status?.state?.running !== undefined) running++;
    else if (ended !== undefined) {
      stopped++;
      if (status?.state?.terminated !== undefined && ended.exitCode === 0) succeeded++;
      if (ended.reason !== restartingAllReason && !shouldRestart(container, spec, ended.exitCode)) endedForGood++;
    } else if (status?.state?.waiting !== undefined) waiting++;
    else unknown++;
  }

  if (pendingInit || (pendingSidecar && !input.initialized) || waiting > 0) return 'Pending';
  if (running > 0 && unknown === 0) return 'Running';
  if (running === 0 && stopped > 0 && unknown === 0) {
    if (input.terminal && !input.isStatic) return stopped === succeeded ? 'Succeeded' : 'Failed';
    // Some container will be started again.
    if (stopped !== endedForGood) return 'Running';
    return stopped === succeeded ? 'Succeeded' : 'Failed';
  }
  return 'Pending';
}
