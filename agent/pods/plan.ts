import { unreachable } from '../base/errors.ts';
import type { Container } from '../model/generated/api.ts';
import { type AgentPod, asContainer, type ContainerKind, isSidecar } from '../model/pod.ts';
import { type Allocation, type ContainerResize, type PodSize, type Resize, resizeOf } from './allocation.ts';
import { containerHash } from './labels.ts';
import { deadlineAt, type PodLifecycle } from './lifecycle.ts';
import {
  hasInitialized,
  latestContainer,
  lostEnd,
  lostReason,
  type RuntimeContainer,
  type RuntimePod,
  type RuntimeSandbox,
  restartingAllReason,
  usableSandbox,
} from './observed.ts';
import { backoffKey, backoffUntil, type CrashBackoff, restartsAfterKill, shouldRestart, shouldStart } from './restart.ts';
import { couldRestartAll, isRestartingAll, resetOrder } from './restart-all.ts';

/** One next step for a pod. Each says why by its kind or `reason`. */
export type PodAction =
  /** Pod folders, log folder and cgroup. */
  | { readonly kind: 'prepare' }
  | { readonly kind: 'mountVolumes' }
  | { readonly kind: 'pullImage'; readonly container: string; readonly image: string; readonly attempt: number }
  | { readonly kind: 'createSandbox'; readonly attempt: number }
  /** Ends what the sandbox has and gives back its address and ports; also of one that died by itself, which holds them still. */
  | { readonly kind: 'stopSandbox'; readonly id: string; readonly reason: string }
  | { readonly kind: 'removeSandbox'; readonly id: string }
  | {
      readonly kind: 'startContainer';
      readonly container: string;
      readonly containerKind: ContainerKind;
      readonly attempt: number;
      readonly sandboxId: string;
      readonly imageRef: string;
      /** When the instance before this one ended (wall, ms): the restart counts against the back-off. */
      readonly previousEnd: number | undefined;
    }
  | {
      readonly kind: 'preStop';
      readonly id: string;
      readonly container: string;
      readonly graceSeconds: number;
      /** Text of the Killing event: it tells that the end begins, and so comes before the hook. */
      readonly message: string;
    }
  | {
      readonly kind: 'stopContainer';
      readonly id: string;
      readonly container: string;
      /** What the runtime waits between the stop signal and SIGKILL. */
      readonly graceSeconds: number;
      readonly reason: string;
      /** Text of the Killing event; undefined when it was told before the preStop hook. */
      readonly message: string | undefined;
      /** It is stopped in order to be started again, whatever code it ends with. */
      readonly comesBack: boolean;
    }
  | { readonly kind: 'removeContainer'; readonly id: string }
  /** Brings the cgroups of the pod and of these running containers to their size: the pod's grows before theirs and shrinks after. */
  | { readonly kind: 'resizePod'; readonly from: PodSize; readonly to: PodSize; readonly containers: readonly ContainerResize[] }
  /** Ends the container if it runs and removes it, so that it starts anew as if it had never been; its logs stay. */
  | {
      readonly kind: 'resetContainer';
      readonly id: string;
      readonly container: string;
      readonly kill: boolean;
      readonly restartCount: number;
      /** When the container ended (wall, ms) whose rule asked for the restart; undefined for the others. */
      readonly sourceEnd: number | undefined;
      readonly reason: string;
    }
  | { readonly kind: 'unmountVolumes' }
  | { readonly kind: 'removeCgroup' }
  /** Containers, sandboxes, folders and logs of a pod that no source has any more. */
  | { readonly kind: 'purge' };

/** What a step waits for, in words for a person. `subject` names a container where one waits. */
export interface Waiting {
  readonly subject: string;
  readonly message: string;
}

export interface Plan {
  readonly actions: readonly PodAction[];
  readonly waiting: readonly Waiting[];
  /** When (mono, ms) to plan again although nothing was observed. */
  readonly wakeAt: number | undefined;
}

/** A failed step: shown to the user, tried again at `retryAt` (mono, ms). */
export interface StepFailure {
  readonly reason: string;
  readonly message: string;
  readonly retryAt: number;
}

/** What the pods room knows of its own doing for one pod; the runtime knows the rest. */
export interface PodWork {
  readonly prepared: boolean;
  readonly prepareFailure: StepFailure | undefined;
  readonly mounted: boolean;
  readonly mountFailure: StepFailure | undefined;
  /** When (mono, ms) mounting was begun that has not succeeded yet. */
  readonly mountingSince: number | undefined;
  readonly unmounted: boolean;
  readonly cgroupRemoved: boolean;
  readonly sandboxFailure: StepFailure | undefined;
  readonly resizeFailure: StepFailure | undefined;
  /** What the pod's cgroup was last told; undefined while that is not known (the agent has been restarted). */
  readonly podSize: PodSize | undefined;
  /** By container: what a start of this attempt uses for the image of this name. */
  readonly images: ReadonlyMap<string, { readonly attempt: number; readonly image: string; readonly imageRef: string }>;
  /** By container: why its last pull or start failed. */
  readonly failures: ReadonlyMap<string, StepFailure>;
  readonly crashes: ReadonlyMap<string, CrashBackoff>;
  /** By container that was taken away to start anew: the number of its next instance and, where its own end was the cause, when that was (wall, ms). */
  readonly resets: ReadonlyMap<string, { readonly attempt: number; readonly endedAt: number | undefined }>;
  /** By container ID: why the runtime did not stop or remove it when asked last. */
  readonly stuck: ReadonlyMap<string, StepFailure & { readonly tries: number }>;
  /** IDs of containers whose preStop hook has ended. */
  readonly preStopped: ReadonlySet<string>;
  /** By container ID: when (mono, ms) its stop began. */
  readonly stopSince: ReadonlyMap<string, number>;
  /** IDs of sandboxes whose stop has succeeded: what they held is free. */
  readonly released: ReadonlySet<string>;
  /** IDs of containers that were stopped in order to be started again. */
  readonly comeBack: ReadonlySet<string>;
  /** By action key: until when (mono, ms) a stop under way waits before it kills; infinity for other actions. */
  readonly inFlight: ReadonlyMap<string, number>;
}

/** Verdicts on one container instance; undefined where no probe has spoken. */
export interface Verdicts {
  readonly startup?: boolean | undefined;
  readonly liveness?: boolean | undefined;
}

export interface PlanInput {
  /** With the resources that it was given, which may not yet be those that its spec asks for. */
  readonly pod: AgentPod;
  /** What the cgroups of its containers were last told; undefined when nothing of it has run. */
  readonly actuated?: Allocation | undefined;
  readonly inSource: boolean;
  readonly lifecycle: PodLifecycle;
  /** Undefined until the runtime has been looked at: then nothing is started or stopped. */
  readonly runtime: RuntimePod | undefined;
  readonly work: PodWork;
  readonly verdicts: (containerId: string) => Verdicts;
  /** Why pods with a network of their own cannot start, if so. */
  readonly networkProblem: string | undefined;
  readonly now: { readonly wall: number; readonly mono: number };
}

// The shortest time a container gets between its stop signal and SIGKILL (pkg/kubelet/kuberuntime minimumGracePeriodInSeconds).
export const minimumGraceSeconds = 2;

const unknownMessage = 'Container is in "unknown" state, try killing it before restart';
const sandboxChanged = 'Pod sandbox changed, it will be killed and re-created.';

// How often a pod that waits for the node's network looks whether it is there.
const networkRetryMs = 1000;

// A sandbox holds an address of the node's range. One whose volumes are still not there after this is given back until they are.
const volumePatienceMs = 180_000;

/** Names an action for `inFlight`: two with the same key never run at once. */
export function actionKey(action: PodAction): string {
  switch (action.kind) {
    case 'prepare':
    case 'createSandbox':
    case 'purge':
    case 'resizePod':
      return action.kind;
    case 'mountVolumes':
    case 'unmountVolumes':
      return 'volumes';
    case 'removeCgroup':
      return 'cgroup';
    case 'pullImage':
      return `pull:${action.container}`;
    case 'startContainer':
      return `start:${action.container}`;
    case 'stopSandbox':
      return `stopSandbox:${action.id}`;
    case 'removeSandbox':
      return `removeSandbox:${action.id}`;
    case 'preStop':
      return `preStop:${action.id}`;
    case 'stopContainer':
    case 'resetContainer':
      return `stop:${action.id}`;
    case 'removeContainer':
      return `remove:${action.id}`;
    default:
      return unreachable(action);
  }
}

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

class Draft {
  readonly #actions: PodAction[] = [];
  readonly #waiting: Waiting[] = [];
  #wakeAt = Number.POSITIVE_INFINITY;
  readonly #input: PlanInput;

  constructor(input: PlanInput) {
    this.#input = input;
  }

  /** Adds the action unless it is under way already. */
  act(action: PodAction): void {
    if (!this.#input.work.inFlight.has(actionKey(action))) this.#actions.push(action);
  }

  /** Adds the action although one with its key is under way: it takes that one's place. */
  supersede(action: PodAction): void {
    this.#actions.push(action);
  }

  wait(subject: string, message: string): void {
    this.#waiting.push({ subject, message });
  }

  wake(monoMs: number): void {
    this.#wakeAt = Math.min(this.#wakeAt, monoMs);
  }

  wakeWall(wallMs: number): void {
    if (Number.isFinite(wallMs)) this.wake(this.#input.now.mono + Math.max(0, wallMs - this.#input.now.wall));
  }

  /** True when the failed step may be tried (again) now; else notes what it waits for. */
  mayTry(subject: string, failure: StepFailure | undefined): boolean {
    if (failure === undefined || failure.retryAt <= this.#input.now.mono) return true;
    this.wait(subject, failure.message);
    this.wake(failure.retryAt);
    return false;
  }

  plan(): Plan {
    return { actions: this.#actions, waiting: this.#waiting, wakeAt: Number.isFinite(this.#wakeAt) ? this.#wakeAt : undefined };
  }
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

/** Sandboxes that hold an address, host ports or namespaces, or may: those that are ready, and those that died before they were stopped. */
function heldSandboxes({ work }: Pick<PlanInput, 'work'>, runtime: RuntimePod): RuntimeSandbox[] {
  return runtime.sandboxes.filter((s) => s.ready || !work.released.has(s.id));
}

function stopSandbox(input: PlanInput, draft: Draft, id: string, reason: string): void {
  if (draft.mayTry('sandbox', input.work.sandboxFailure)) draft.act({ kind: 'stopSandbox', id, reason });
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

function mayStillRun({ state }: RuntimeContainer): boolean {
  return state === 'running' || state === 'unknown';
}

/** An instance that another must not run beside. One of unknown state that the runtime will not let go, however often it is told, never ran. */
function isInTheWay(work: PodWork, instance: RuntimeContainer): boolean {
  return mayStillRun(instance) && !(instance.state === 'unknown' && staysBehind(work, instance.id));
}

/** Seconds a container gets to end: the deletion's, else the probe's, else the pod's. */
function graceOf(pod: AgentPod, probeGrace: number | undefined): number {
  if (pod.metadata.deletionTimestamp !== undefined && pod.metadata.deletionGracePeriodSeconds !== undefined)
    return pod.metadata.deletionGracePeriodSeconds;
  return probeGrace ?? pod.spec.terminationGracePeriodSeconds ?? minimumGraceSeconds;
}

/** Runs the preStop hook first where there is one, then stops the container with what is left of its grace. */
function stopContainer(
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
function staysBehind(work: PodWork, id: string): boolean {
  return (work.stuck.get(id)?.tries ?? 0) >= triesToRemove;
}

function removeContainer(input: PlanInput, draft: Draft, id: string): void {
  if (draft.mayTry('pod', input.work.stuck.get(id))) draft.act({ kind: 'removeContainer', id });
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

/** App, init and ephemeral containers all at once; sidecars after the app and init containers, the last started first. */
function planTermination(input: PlanInput, runtime: RuntimePod, lifecycle: PodLifecycle & { kind: 'terminating' }, draft: Draft): void {
  const { pod } = input;
  const running = runtime.containers.filter(mayStillRun);
  const sidecars = (pod.spec.initContainers ?? []).filter(isSidecar).map((c) => c.name);
  const stop = (c: RuntimeContainer): void =>
    stopContainer(
      input,
      draft,
      specOf(pod, c.name),
      c,
      lifecycle.graceSeconds,
      lifecycle.cause.kind,
      `Stopping container ${c.name}`,
      lifecycle.since,
    );
  const graceEnd = lifecycle.since + lifecycle.graceSeconds * 1000;
  const others = running.filter((c) => !sidecars.includes(c.name));
  for (const c of others) stop(c);
  // Sidecars serve the containers of the pod; a debugging shell that ignores the stop signal must not use up their grace.
  const ephemeral = new Set((pod.spec.ephemeralContainers ?? []).map((c) => c.name));
  let holdBack = others.some((c) => !ephemeral.has(c.name));
  for (const name of sidecars.toReversed()) {
    const sidecar = running.find((c) => c.name === name);
    if (sidecar === undefined) continue;
    if (holdBack && input.now.mono < graceEnd) {
      const spec = specOf(pod, name);
      // A sidecar's preStop hook runs at once; only its stop signal waits for its turn.
      if (spec?.lifecycle?.preStop !== undefined && lifecycle.graceSeconds > 0 && !input.work.preStopped.has(sidecar.id)) {
        const message = `Stopping container ${name}`;
        draft.act({ kind: 'preStop', id: sidecar.id, container: name, graceSeconds: lifecycle.graceSeconds, message });
      }
      draft.wait(name, 'waits for the containers started after it to end');
      draft.wake(graceEnd);
    } else stop(sidecar);
    holdBack = true;
  }
}

function planCleanup(input: PlanInput, runtime: RuntimePod, draft: Draft): void {
  const { work } = input;
  const ready = runtime.sandboxes.filter((s) => s.ready);
  for (const s of heldSandboxes(input, runtime)) stopSandbox(input, draft, s.id, 'the pod has ended');
  if (!work.unmounted && draft.mayTry('volumes', work.mountFailure)) draft.act({ kind: 'unmountVolumes' });
  if (ready.length > 0 || !work.unmounted) {
    draft.wait(
      'pod',
      ready.length > 0 ? 'the pod sandbox is being stopped' : (work.mountFailure?.message ?? 'volumes are being unmounted'),
    );
    return;
  }
  if (!work.cgroupRemoved) {
    if (draft.mayTry('cgroup', work.prepareFailure)) draft.act({ kind: 'removeCgroup' });
    return;
  }
  if (!input.inSource && draft.mayTry('purge', work.prepareFailure)) draft.act({ kind: 'purge' });
}

/** True when nothing of the pod is left but its record: the API object may go. */
export function isCleanedUp(input: Pick<PlanInput, 'lifecycle' | 'runtime' | 'work'>): boolean {
  const { lifecycle, runtime, work } = input;
  return lifecycle.kind === 'terminated' && work.unmounted && work.cgroupRemoved && runtime?.sandboxes.every((s) => !s.ready) === true;
}

function specOf(pod: AgentPod, name: string): Container | undefined {
  const ephemeral = pod.spec.ephemeralContainers?.find((e) => e.name === name);
  return (
    firstContainers(pod).find(({ container }) => container.name === name)?.container ??
    (ephemeral === undefined ? undefined : asContainer(ephemeral))
  );
}

/** The message of CrashLoopBackOff, kubelet's words: `back-off 10s restarting failed container=c pod=name_namespace(uid)`. */
export function crashLoopMessage(pod: AgentPod, container: string, delayMs: number): string {
  return `back-off ${goDuration(delayMs)} restarting failed container=${container} pod=${pod.metadata.name}_${pod.metadata.namespace}(${pod.metadata.uid})`;
}

/** A duration as Go prints it: 10s, 2m40s, 5m0s. */
function goDuration(ms: number): string {
  const seconds = ms / 1000;
  const minutes = Math.floor(seconds / 60);
  return minutes === 0 ? `${seconds}s` : `${minutes}m${seconds - minutes * 60}s`;
}
