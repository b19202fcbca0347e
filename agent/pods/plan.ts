import { unreachable } from '../base/errors.ts';
import type { Container } from '../model/generated/api.ts';
import { type AgentPod, asContainer, type ContainerKind, isSidecar } from '../model/pod.ts';
import { type Resize, resizeOf } from './allocation.ts';
import { containerHash } from './labels.ts';
import { deadlineAt } from './lifecycle.ts';
import {
  hasInitialized,
  latestContainer,
  lostEnd,
  lostReason,
  type RuntimeContainer,
  type RuntimePod,
  restartingAllReason,
  usableSandbox,
} from './observed.ts';
import { Draft, type Plan, type PlanInput } from './plan-draft.ts';
import {
  graceOf,
  heldSandboxes,
  isInTheWay,
  mayStillRun,
  removeContainer,
  specOf,
  staysBehind,
  stopContainer,
  stopSandbox,
} from './plan-stop.ts';
import { planCleanup, planTermination } from './plan-termination.ts';
import { backoffKey, backoffUntil, crashLoopMessage, restartsAfterKill, shouldRestart, shouldStart } from './restart.ts';
import { couldRestartAll, isRestartingAll, resetOrder } from './restart-all.ts';
import type { PodWork } from './work.ts';

const unknownMessage = 'Container is in "unknown" state, try killing it before restart';
const sandboxChanged = 'Pod sandbox changed, it will be killed and re-created.';

// How often a pod that waits for the node's network looks whether it is there.
const networkRetryMs = 1000;

// A sandbox holds an address of the node's range. One whose volumes are still not there after this is given back until they are.
const volumePatienceMs = 180_000;

/** The next steps that bring the pod from what is observed to what is desired. Level-triggered: the same state gives the same plan. */
export function planPod(input: PlanInput): Plan {
  const draft = new Draft(input);
  if (input.runtime === undefined) {
    draft.wait('pod', 'the container runtime has not been looked at yet');
    return draft.plan();
  }
  switch (input.lifecycle.kind) {
    case 'syncing':
      planSync(input, input.runtime, draft);
      break;
    case 'terminating':
      planTermination(input, input.runtime, input.lifecycle, draft);
      break;
    case 'terminated':
      planCleanup(input, input.runtime, draft);
      break;
    default:
      unreachable(input.lifecycle);
  }
  return draft.plan();
}

function planSync(input: PlanInput, runtime: RuntimePod, draft: Draft): void {
  const { pod, work } = input;
  draft.wakeWall(deadlineAt(pod));
  if (!work.prepared) {
    if (draft.mayTry('pod', work.prepareFailure)) draft.act({ kind: 'prepare' });
    return;
  }
  if (!work.mounted) {
    if (draft.mayTry('volumes', work.mountFailure)) draft.act({ kind: 'mountVolumes' });
    draft.wait('volumes', work.mountFailure?.message ?? 'volumes are being mounted');
  }

  if (isRestartingAll(pod, runtime)) {
    planReset(input, runtime, draft);
    return;
  }
  const sandbox = usableSandbox(runtime);
  const readySandboxes = runtime.sandboxes.filter((s) => s.ready);
  if (volumesOverdue(input, runtime, draft)) {
    for (const s of readySandboxes)
      stopSandbox(input, draft, s.id, 'the volumes of the pod keep failing: its sandbox and address are released');
    draft.wait('sandbox', 'the pod sandbox waits for the volumes, which keep failing');
    return;
  }
  if (sandbox === undefined || readySandboxes.length > 1) {
    planSandbox(input, runtime, draft);
    return;
  }

  const resize = resizeOf(pod, input.actuated, work.podSize, runtime);
  const kills = containersToKill(input, runtime, resize);
  for (const kill of kills) {
    stopContainer(input, draft, kill.container, kill.latest, kill.graceSeconds, kill.reason, kill.message, undefined, kill.comesBack);
  }
  const held = planResize(input, resize, draft);
  const ending = nothingStays(pod, runtime, kills);
  for (const start of containersToStart(input, runtime)) {
    if (ending && isSidecar(start.container)) draft.wait(start.container.name, 'is not started again: the last app container is ending');
    else planStart(input, runtime, sandbox.id, start, held, draft);
  }
  pruneDead(input, runtime, draft);
}

/** True when each app container has ended for good or is being stopped for good: then the pod is about to end, and no sidecar is started for it any more. */
function nothingStays(pod: AgentPod, runtime: RuntimePod, kills: readonly Kill[]): boolean {
  return pod.spec.containers.every((container) => {
    const latest = latestContainer(runtime, container.name);
    if (latest?.state === 'exited') return !shouldStart(container, pod.spec, latest);
    return kills.some((kill) => kill.latest === latest && !kill.comesBack);
  });
}

/** True when volumes have been failing for so long that a sandbox in which nothing has been started is not kept for them. */
function volumesOverdue({ work, now }: PlanInput, runtime: RuntimePod, draft: Draft): boolean {
  if (work.mounted || work.mountingSince === undefined || runtime.containers.length > 0) return false;
  const until = work.mountingSince + volumePatienceMs;
  if (until <= now.mono) return true;
  draft.wake(until);
  return false;
}

/** A rule asked for all containers to be restarted: one after the other is taken away, in the order of `resetOrder`. */
function planReset(input: PlanInput, runtime: RuntimePod, draft: Draft): void {
  draft.wait('pod', 'a restart rule asked for all containers to be restarted: they are being removed');
  // A start under way has to come to its end first, or the container it makes would be missed.
  for (const key of input.work.inFlight.keys()) if (/^(start:|stop:)/.test(key)) return;
  const [next] = resetOrder(input.pod, runtime);
  if (next === undefined) return;
  const { instance, source } = next;
  if (!draft.mayTry(instance.name, input.work.stuck.get(instance.id))) return;
  draft.act({
    kind: 'resetContainer',
    id: instance.id,
    container: instance.name,
    kill: mayStillRun(instance),
    restartCount: instance.restartCount,
    sourceEnd: source ? instance.finishedAt : undefined,
    reason: restartingAllReason,
  });
}

/** Resizes what runs. True while no container may be started, because the pod's cgroup is not yet what it has to be for it. */
function planResize(input: PlanInput, resize: Resize, draft: Draft): boolean {
  const { work } = input;
  if (!resize.due && work.podSize !== undefined) return false;
  if (resize.restarts.length > 0) {
    draft.wait('pod', `${resize.restarts.join(', ')} has to be restarted for its new size`);
    return true;
  }
  if (draft.mayTry('pod', work.resizeFailure))
    draft.act({ kind: 'resizePod', from: resize.from, to: resize.to, containers: resize.containers });
  // A resize that fails, say for memory in use, does not keep the other containers from running.
  return work.resizeFailure === undefined;
}

/** No usable sandbox: end what is left of the old ones, then make a new one. Images are fetched meanwhile. */
function planSandbox(input: PlanInput, runtime: RuntimePod, draft: Draft): void {
  const { pod, work } = input;
  const pullAll = (): void => {
    for (const { container, kind } of firstContainers(pod)) {
      if (kind !== 'ephemeral') planPull(input, container, nextAttempt(pod, runtime, container, work), draft);
    }
  };
  if (work.inFlight.has('createSandbox')) {
    // What is seen now may be that very sandbox, half made.
    draft.wait('sandbox', 'the pod sandbox is being created');
    pullAll();
    return;
  }
  const running = runtime.containers.filter(mayStillRun);
  for (const c of running) {
    stopContainer(input, draft, specOf(pod, c.name), c, graceOf(pod, undefined), 'SandboxChanged', `Stopping container ${c.name}`);
  }
  // The next one may want the same address and host ports.
  const held = heldSandboxes(input, runtime);
  if (running.length > 0) return;
  for (const s of held) stopSandbox(input, draft, s.id, sandboxChanged);
  if (held.length > 0) return;

  pullAll();
  if (input.networkProblem !== undefined && pod.spec.hostNetwork !== true) {
    draft.wait('sandbox', input.networkProblem);
    draft.wake(input.now.mono + networkRetryMs);
    return;
  }
  if (!draft.mayTry('sandbox', work.sandboxFailure)) return;
  draft.wait('sandbox', 'the pod sandbox is being created');
  draft.act({ kind: 'createSandbox', attempt: Math.max(-1, ...runtime.sandboxes.map((s) => s.attempt)) + 1 });
}

interface Start {
  readonly container: Container;
  readonly kind: ContainerKind;
}

/** Init containers, then app containers: those that will be wanted first when the sandbox is new. */
function firstContainers(pod: AgentPod): Start[] {
  return [
    ...(pod.spec.initContainers ?? []).map((container): Start => ({ container, kind: 'init' })),
    ...pod.spec.containers.map((container): Start => ({ container, kind: 'app' })),
  ];
}

/** Which containers are to be started now, in the pod's order. */
function containersToStart(input: Pick<PlanInput, 'pod' | 'verdicts'>, runtime: RuntimePod): Start[] {
  const { pod } = input;
  const starts: Start[] = [];
  for (const e of pod.spec.ephemeralContainers ?? []) {
    // Ephemeral containers are started once and never again.
    if (latestContainer(runtime, e.name) === undefined) starts.push({ container: asContainer(e), kind: 'ephemeral' });
  }
  const initContainers = pod.spec.initContainers ?? [];
  const sandboxId = runtime.sandboxes[0]?.id;
  if (!hasInitialized(pod, runtime)) {
    // A new sandbox runs its init containers anew.
    const inSandbox = (name: string): RuntimeContainer | undefined =>
      runtime.containers.find((c) => c.name === name && c.sandboxId === sandboxId);
    const reached = initContainers.findLastIndex((c) => !isSidecar(c) && inSandbox(c.name) !== undefined);
    for (const [at, container] of initContainers.entries()) {
      const latest = inSandbox(container.name);
      if (isSidecar(container)) {
        if (latest?.state !== 'running') {
          starts.push({ container, kind: 'init' });
          return starts;
        }
        if (container.startupProbe !== undefined && input.verdicts(latest.id).startup !== true) return starts;
      } else {
        if (latest?.state === 'exited' && latest.exitCode === 0) continue;
        // One after which another was started has completed, also when the runtime no longer knows it (kuberuntime computeInitContainerActions).
        if (latest === undefined && at < reached) continue;
        // One that failed for good has failed the pod: it is ended, and nothing more is started.
        if (shouldStart(container, pod.spec, latest)) starts.push({ container, kind: 'init' });
        return starts;
      }
    }
  } else {
    for (const container of initContainers) {
      if (isSidecar(container) && latestContainer(runtime, container.name)?.state !== 'running') starts.push({ container, kind: 'init' });
    }
  }
  for (const container of pod.spec.containers) {
    const latest = latestContainer(runtime, container.name);
    const code = latest === undefined ? lostEnd(pod.status?.containerStatuses?.find((s) => s.name === container.name)) : undefined;
    const isOver = code !== undefined && !shouldRestart(container, pod.spec, code) && !couldRestartAll(pod.spec);
    if (!isOver && shouldStart(container, pod.spec, latest)) starts.push({ container, kind: 'app' });
  }
  return starts;
}

function planStart(input: PlanInput, runtime: RuntimePod, sandboxId: string, start: Start, held: boolean, draft: Draft): void {
  const { pod, work, now } = input;
  const { container, kind } = start;
  const latest = latestContainer(runtime, container.name);
  if (runtime.containers.some((c) => c.name === container.name && (c === latest ? c.state === 'running' : isInTheWay(work, c)))) {
    draft.wait(container.name, 'an older instance of it is being stopped');
    return;
  }
  if (latest?.state === 'unknown' || latest?.state === 'created') {
    // Whether it runs is not known, or its start was cut short: end it before another is made, so that there are never two.
    if (work.inFlight.has(`start:${container.name}`)) return;
    if (latest.state === 'unknown') {
      stopContainer(input, draft, container, latest, graceOf(pod, undefined), 'Unknown', unknownMessage);
      return;
    }
    removeContainer(input, draft, latest.id);
    // One that the runtime will not let go (containerd, killed in the middle of a start) never ran: it stays behind, and the next is made beside it.
    if (!staysBehind(work, latest.id)) return;
  }
  const previousEnd = latest === undefined ? work.resets.get(container.name)?.endedAt : latest.finishedAt;
  if (previousEnd !== undefined) {
    const until = backoffUntil(work.crashes.get(container.name), backoffKey(container), previousEnd, now.wall);
    if (until !== undefined) {
      draft.wait(container.name, crashLoopMessage(pod, container.name, work.crashes.get(container.name)?.delayMs ?? 0));
      draft.wakeWall(until);
      return;
    }
  }
  const attempt = nextAttempt(pod, runtime, container, work);
  if (!draft.mayTry(container.name, work.failures.get(container.name))) return;
  const image = planPull(input, container, attempt, draft);
  if (image === undefined || !work.mounted || held) return;
  // Starts go one by one in the pod's order; a container with a postStart hook holds back those after it until the hook has ended.
  for (const key of work.inFlight.keys()) if (key.startsWith('start:')) return;
  const before = holdingBack(input, runtime, container);
  if (before !== undefined) {
    draft.wait(container.name, `container ${before} has to be started first`);
    return;
  }
  draft.act({
    kind: 'startContainer',
    container: container.name,
    containerKind: kind,
    attempt,
    sandboxId,
    imageRef: image,
    previousEnd,
  });
}

/** The earlier app container with a postStart hook that has not been started yet and has not failed, if any. */
function holdingBack(input: PlanInput, runtime: RuntimePod, container: Container): string | undefined {
  const { pod, work } = input;
  const index = pod.spec.containers.indexOf(container);
  return pod.spec.containers
    .slice(0, Math.max(0, index))
    .find((c) => c.lifecycle?.postStart !== undefined && latestContainer(runtime, c.name) === undefined && !work.failures.has(c.name))
    ?.name;
}

/** The image reference to start with, or undefined while it is being fetched. */
function planPull(input: PlanInput, container: Container, attempt: number, draft: Draft): string | undefined {
  const { work } = input;
  const { name, image = '' } = container;
  const found = work.images.get(name);
  // The spec may name another image by now: it is fetched long before a container that waits for init containers starts.
  if (found !== undefined && found.attempt === attempt && found.image === image) return found.imageRef;
  if (draft.mayTry(name, work.failures.get(name))) draft.act({ kind: 'pullImage', container: name, image, attempt });
  return undefined;
}

/** 0 for the first instance; else one more than the last, as the runtime or, failing that, the published status remembers it. */
function nextAttempt(pod: AgentPod, runtime: RuntimePod, container: Container, work: PodWork): number {
  const latest = latestContainer(runtime, container.name);
  // The name of one that stays behind is taken.
  if (latest !== undefined)
    return latest.state === 'created' && !staysBehind(work, latest.id) ? latest.restartCount : latest.restartCount + 1;
  const reset = work.resets.get(container.name);
  if (reset !== undefined) return reset.attempt;
  const published = [...(pod.status?.containerStatuses ?? []), ...(pod.status?.initContainerStatuses ?? [])].find(
    (s) => s.name === container.name,
  );
  // The status of a container that was taken away to start anew, or that the runtime has lost, counts its next start already.
  if (published?.state?.waiting !== undefined && [restartingAllReason, lostReason].includes(published.lastState?.terminated?.reason ?? ''))
    return published.restartCount;
  const ran =
    published?.state?.running !== undefined || published?.state?.terminated !== undefined || published?.lastState?.terminated !== undefined;
  return published !== undefined && ran ? published.restartCount + 1 : 0;
}

interface Kill {
  readonly container: Container;
  readonly latest: RuntimeContainer;
  readonly reason: string;
  readonly message: string;
  readonly graceSeconds: number;
  readonly comesBack: boolean;
}

/** Running containers that have to go although the pod stays: changed, failed by a probe, or of a size that takes a restart. */
function containersToKill(input: PlanInput, runtime: RuntimePod, resize: Resize): Kill[] {
  const { pod } = input;
  const kills: Kill[] = [];
  for (const { container, kind } of firstContainers(pod)) {
    const latest = latestContainer(runtime, container.name);
    // Two of a name never run beside each other, whatever made them.
    for (const older of runtime.containers) {
      if (older.name !== container.name || older === latest || !isInTheWay(input.work, older)) continue;
      const message = older.state === 'unknown' ? unknownMessage : `Stopping container ${container.name}: a newer instance of it exists`;
      kills.push({ container, latest: older, reason: 'Superseded', message, graceSeconds: graceOf(pod, undefined), comesBack: false });
    }
    if (latest === undefined || !mayStillRun(latest)) continue;
    const isOver = kind === 'init' && !isSidecar(container) && latest.state === 'unknown' && hasInitialized(pod, runtime);
    if (isOver || latest.sandboxId !== runtime.sandboxes[0]?.id) {
      // Its network went with its sandbox, or it is an init container of which nobody will ask again whether it runs.
      const [message, comesBack] = [`Stopping container ${container.name}`, restartsAfterKill(container, pod.spec)];
      kills.push({ container, latest, reason: 'SandboxChanged', message, graceSeconds: graceOf(pod, undefined), comesBack });
      continue;
    }
    if (latest.state !== 'running' || (kind === 'init' && !isSidecar(container))) continue;
    const noun = kind === 'init' ? 'Init container' : 'Container';
    const verdict = input.verdicts(latest.id);
    const restarts = kind === 'init' || restartsAfterKill(container, pod.spec);
    const kill = (reason: string, what: string, graceSeconds: number, comesBack = restarts): void => {
      const message = `${noun} ${container.name} ${what}${comesBack && kind === 'app' ? ', will be restarted' : ''}`;
      kills.push({ container, latest, reason, message, graceSeconds, comesBack });
    };
    if (latest.hash !== '' && latest.hash !== containerHash(container))
      kill('DefinitionChanged', 'definition changed', graceOf(pod, undefined), true);
    else if (verdict.startup === false)
      kill('StartupProbe', 'failed startup probe', graceOf(pod, container.startupProbe?.terminationGracePeriodSeconds));
    else if (verdict.liveness === false)
      kill('LivenessProbe', 'failed liveness probe', graceOf(pod, container.livenessProbe?.terminationGracePeriodSeconds));
    else if (resize.restarts.includes(container.name)) {
      const message = `Container ${container.name} resize requires restart`;
      kills.push({ container, latest, reason: 'Resize', message, graceSeconds: graceOf(pod, undefined), comesBack: true });
    }
  }
  return kills;
}

/** Dead instances beyond the latest and the one before it (whose end `lastState` shows) are removed, and older sandboxes when they are empty. */
function pruneDead(input: PlanInput, runtime: RuntimePod, draft: Draft): void {
  for (const s of runtime.sandboxes.slice(1)) {
    if (s.ready || runtime.containers.some((c) => c.sandboxId === s.id)) continue;
    if (draft.mayTry('pod', input.work.stuck.get(s.id))) draft.act({ kind: 'removeSandbox', id: s.id });
  }
  const inits = (input.pod.spec.initContainers ?? []).filter((c) => !isSidecar(c));
  const over = new Set(hasInitialized(input.pod, runtime) ? inits.map((c) => c.name) : []);
  const seen = new Map<string, number>();
  for (const c of runtime.containers) {
    const count = (seen.get(c.name) ?? 0) + 1;
    seen.set(c.name, count);
    // What was only created in a sandbox that is gone can never start, and an init container not any more.
    const neverStarts = c.state === 'created' && (c.sandboxId !== runtime.sandboxes[0]?.id || over.has(c.name));
    if ((count > 2 && c.state === 'exited') || neverStarts) removeContainer(input, draft, c.id);
  }
}
