import { ownValue, setOwn } from '../base/own.ts';
import type {
  Container,
  ContainerState,
  ContainerStatus,
  PodCondition,
  PodStatus,
  ResourceStatus,
  VolumeMountStatus,
} from '../model/generated/api.ts';
import { type AgentPod, asContainer, isSidecar, isStaticPod, isTerminalPhase, type PodSource } from '../model/pod.ts';
import { computeQosClass } from '../model/qos.ts';
import { formatBinary, formatMilli, parseMilli } from '../model/quantity.ts';
import { podLimits, podRequests } from '../model/resources.ts';
import type { Allocation, PodSize } from './allocation.ts';
import { conditionsOf, disruptionCondition, ownConditions } from './conditions.ts';
import { apiTime, endedState, publishedEnd } from './ended-state.ts';
import { deadlineReason, type PodLifecycle } from './lifecycle.ts';
import {
  hasInitialized,
  latestContainer,
  lostExitCode,
  lostReason,
  podAddresses,
  type RuntimeContainer,
  type RuntimePod,
  restartingAllReason,
  usableSandbox,
} from './observed.ts';
import { phaseOf } from './phase.ts';
import { shouldRestart, shouldStart } from './restart.ts';
import { couldRestartAll, isRestartingAll } from './restart-all.ts';

export interface StatusInput {
  /** With the resources that it was given. */
  readonly pod: AgentPod;
  /** What the cgroups of its containers were last told; undefined when nothing of it has run. */
  readonly actuated?: Allocation | undefined;
  /** What the pod's cgroup was last told, if known. */
  readonly podSize?: PodSize | undefined;
  /** The conditions that tell of a resize, if there is one. */
  readonly resize?: readonly PodCondition[];
  /** What was published last, or the API's status when nothing has been since our start. */
  readonly previous: PodStatus;
  readonly runtime: RuntimePod | undefined;
  readonly runtimeName: string;
  readonly lifecycle: PodLifecycle;
  /** The pod was refused at admission: there is nothing to say of its containers. */
  readonly rejected?: boolean | undefined;
  readonly volumesMounted: boolean;
  /** By container: why it does not start, in the words of status (CrashLoopBackOff, ErrImagePull, …). */
  readonly waiting: ReadonlyMap<string, { readonly reason: string; readonly message: string }>;
  /** Containers whose start is under way and whose postStart hook has not ended: not shown as running yet. */
  readonly starting: ReadonlySet<string>;
  /** Verdicts by container ID; undefined where no probe has spoken since our start. */
  readonly verdicts: (containerId: string) => { readonly startup?: boolean | undefined; readonly ready?: boolean | undefined };
  /** Whether an app container's devices are well; undefined when it has none. */
  readonly deviceHealth?: ((container: string) => ResourceStatus[] | undefined) | undefined;
  /** True when this runtime handler can make mounts below a read-only one read-only too. */
  readonly recursiveReadOnly: (handler: string) => boolean;
  /** What was told of the pod when its end began. */
  readonly atEnd?: PodStatus | undefined;
  /** The node's addresses, primary first; empty while unknown. */
  readonly hostIps: readonly string[];
  /** Wall time, ms. */
  readonly now: number;
}

// The API refuses statuses whose termination messages exceed this in sum (pkg/kubelet/container MaxPodTerminationMessageLogLength, bytes).
const maxMessageBytes = 12 * 1024;

/**
 * What an earlier run of the agent told of a pod, as far as it goes for this one: that an init container of a manifest's pod has ended is the runtime's to know,
 * once the pod runs (upstream's kubelet starts anew without any status of such a pod, and e2e_node/static_pod_test.go wants it said).
 */
export function rememberedStatus(
  told: PodStatus | undefined,
  { pod, source }: { readonly pod: AgentPod; readonly source: PodSource },
  runtime: RuntimePod | undefined,
): PodStatus | undefined {
  if (told === undefined || source === 'api' || !pod.spec.containers.some(({ name }) => latestContainer(runtime, name) !== undefined))
    return told;
  const inits = new Set(pod.spec.initContainers?.filter((c) => !isSidecar(c)).map(({ name }) => name));
  return {
    ...told,
    initContainerStatuses: told.initContainerStatuses?.map((status) =>
      inits.has(status.name) && latestContainer(runtime, status.name) === undefined
        ? { ...status, state: { waiting: { reason: 'PodInitializing' } } }
        : status,
    ),
  };
}

/** The pod's whole status as the API shall show it. Pure: same state, same status. */
export function computeStatus(input: StatusInput): PodStatus {
  const { pod, previous, runtime, lifecycle } = input;
  const terminal = lifecycle.kind === 'terminated';
  const initStatuses = (pod.spec.initContainers ?? []).map((c) => containerStatus(input, c, 'init'));
  const appStatuses = pod.spec.containers.map((c) => containerStatus(input, c, 'app'));
  const ephemeralStatuses = (pod.spec.ephemeralContainers ?? []).map((c) => containerStatus(input, asContainer(c), 'ephemeral'));
  const statuses = [...initStatuses, ...appStatuses];
  const sandboxId = runtime?.sandboxes[0]?.id;
  const initialized = pod.spec.containers.some((c) => latestContainer(runtime, c.name)?.sandboxId === sandboxId && sandboxId !== undefined);
  let phase = phaseOf({ spec: pod.spec, statuses, terminal, initialized, isStatic: isStaticPod(pod) });
  let { reason, message } = previous;
  const decided = lifecycle.kind !== 'syncing' && lifecycle.cause.kind === 'ended' ? lifecycle.cause : undefined;
  // One that was evicted or preempted and whose containers all came to a good end has succeeded, and does not say why it ended (pkg/kubelet generateAPIPodStatus).
  const endedWell = terminal && phase === 'Succeeded' && decided !== undefined && decided.reason !== deadlineReason;
  if (decided !== undefined && !endedWell) {
    phase = 'Failed';
    ({ reason, message } = decided);
  } else if (phase !== previous.phase && !isTerminalPhase(previous.phase)) {
    // Of one that has ended before a restart of the agent, what its containers came to does not tell why (an eviction).
    reason = undefined;
    message = undefined;
  }
  // A pod that was ended has a terminal phase, whatever its containers came to.
  if (terminal && !isTerminalPhase(phase) && !isStaticPod(pod))
    phase = isTerminalPhase(previous.phase) ? (previous.phase ?? 'Failed') : 'Failed';
  // Terminal is for ever; and not before the pod has ended here, lest somebody takes the resources for free.
  if (isTerminalPhase(pod.status?.phase)) phase = pod.status?.phase ?? phase;
  else if (isTerminalPhase(previous.phase)) phase = previous.phase ?? phase;
  else if (isTerminalPhase(phase) && !terminal) {
    phase = previous.phase === undefined || previous.phase === '' ? 'Pending' : previous.phase;
    ({ reason, message } = previous);
  }
  const now = apiTime(input.now);
  if (terminal) endAll(pod, initStatuses, appStatuses, input.atEnd);
  const conditions = conditionsOf({
    pod,
    previous,
    phase,
    statuses,
    readyToStart: usableSandbox(runtime) !== undefined && input.volumesMounted,
    anyAppStarted: appStatuses.some(
      (s) =>
        s.started === true || s.state?.running !== undefined || s.state?.terminated !== undefined || s.lastState?.terminated !== undefined,
    ),
    restartingAll: isRestartingAll(pod, runtime),
    resize: terminal ? [] : (input.resize ?? []),
    now,
  });
  // With the terminal phase and not before: controllers judge a failure by it (podFailurePolicy) once, when it has come about.
  if (terminal && lifecycle.cause.kind === 'ended' && lifecycle.cause.disruption !== undefined)
    conditions.push(disruptionCondition({ pod, previous, now }, lifecycle.cause.disruption));
  const foreign = (pod.status?.conditions ?? []).filter(
    (c) => !ownConditions.has(c.type) && !conditions.some((own) => own.type === c.type),
  );
  const ips = podIps(input);
  const ipFields = ips.length === 0 ? {} : { podIP: ips[0], podIPs: ips.map((ip) => ({ ip })) };
  const hostFields = input.hostIps.length === 0 ? {} : { hostIP: input.hostIps[0], hostIPs: input.hostIps.map((ip) => ({ ip })) };
  return {
    phase,
    reason: reason === '' ? undefined : reason,
    message: message === '' ? undefined : message,
    conditions: [...foreign, ...conditions],
    ...hostFields,
    ...ipFields,
    startTime: previous.startTime ?? pod.status?.startTime ?? now,
    qosClass: pod.status?.qosClass ?? computeQosClass(pod),
    ...(input.rejected === true && previous.containerStatuses === undefined
      ? {}
      : {
          initContainerStatuses: initStatuses.length > 0 ? initStatuses : undefined,
          containerStatuses: appStatuses.toSorted(byName),
          ephemeralContainerStatuses: ephemeralStatuses.length > 0 ? ephemeralStatuses.toSorted(byName) : undefined,
        }),
    observedGeneration: pod.metadata.generation,
    allocatedResources: podRequests(pod),
    resources: podResourcesStatus(input, phase),
  };
}

// Kubelet's order (pkg/kubelet/types SortedContainerStatuses): who asks for the first one gets the same from both.
const byName = (a: ContainerStatus, b: ContainerStatus): number => (a.name < b.name ? -1 : 1);

const neverSeen: ContainerState = {
  terminated: { exitCode: lostExitCode, reason: lostReason, message: 'The container could not be located when the pod was terminated' },
};

/**
 * In a pod that has ended nothing waits any more: what should have run counts as failed, lest half a pod be taken for success. What was never to run,
 * because an init container before it did not complete, goes on saying so (pkg/kubelet/status TerminatePod).
 */
function endAll(pod: AgentPod, inits: readonly ContainerStatus[], apps: readonly ContainerStatus[], atEnd: PodStatus | undefined): void {
  const begun = ({ state, lastState }: ContainerStatus): boolean => state?.waiting === undefined || lastState?.terminated !== undefined;
  const computed = inits.at(-1);
  // As it was told when the end began: one that ends with 0 because the pod is ended has not completed (pkg/kubelet/status hasPodInitialized).
  const last = atEnd?.initContainerStatuses?.find(({ name }) => name === computed?.name) ?? computed;
  const initialized =
    last === undefined ||
    apps.some(begun) ||
    (isSidecar(pod.spec.initContainers?.at(-1) ?? { name: '' })
      ? last.state?.running !== undefined && last.started === true
      : (last.state?.terminated ?? last.lastState?.terminated)?.exitCode === 0);
  const reached = inits.slice(0, Math.max(1, inits.findLastIndex(begun) + 1));
  for (const status of [...reached, ...(initialized ? apps : [])]) if (status.state?.terminated === undefined) status.state = neverSeen;
}

/** What the pod as a whole has: while it runs what its cgroup was told, else what was allocated. */
function podResourcesStatus(input: StatusInput, phase: string): PodStatus['resources'] {
  const { pod, podSize } = input;
  const allocated = { requests: podRequests(pod), limits: podLimits(pod) };
  if (phase !== 'Running' || podSize === undefined) return allocated;
  const own = pod.spec.resources;
  const requests: Record<string, string> = { ...own?.requests };
  const limits: Record<string, string> = { ...own?.limits };
  if (podSize.cpuRequest > 0) requests.cpu = formatMilli(podSize.cpuRequest);
  const memory = (input.actuated?.pod ?? own)?.requests?.memory ?? allocated.requests.memory;
  if (memory !== undefined) requests.memory = memory;
  if (podSize.cpuLimit > 0) limits.cpu = formatMilli(podSize.cpuLimit);
  if (podSize.memoryLimit > 0) limits.memory = formatBinary(podSize.memoryLimit);
  return { requests, limits };
}

function podIps(input: StatusInput): string[] {
  const { pod, runtime, hostIps, previous } = input;
  const own = pod.spec.hostNetwork === true ? hostIps : (runtime?.sandboxes[0]?.ips ?? []);
  // A pod that has ended keeps showing the address it had.
  return podAddresses(own.length === 0 ? (previous.podIPs ?? []).map((p) => p.ip) : own, hostIps[0]);
}

function containerStatus(input: StatusInput, container: Container, kind: 'init' | 'app' | 'ephemeral'): ContainerStatus {
  const { pod, runtime } = input;
  const lists = [input.previous.initContainerStatuses, input.previous.containerStatuses, input.previous.ephemeralContainerStatuses];
  const old = lists.flatMap((l) => l ?? []).find((s) => s.name === container.name);
  const instances = runtime?.containers.filter((c) => c.name === container.name) ?? [];
  const latest = instances[0];
  // An init container after which app containers were made has completed, whatever the runtime has come to tell of it.
  const isOver = kind === 'init' && !isSidecar(container) && runtime !== undefined && hasInitialized(pod, runtime);
  const status =
    latest === undefined || (isOver && latest.state !== 'running' && !isInitDone(container, latest))
      ? absentStatus(input, container, kind, old)
      : presentStatus(
          input,
          container,
          latest,
          instances.slice(1).find((c) => c.state === 'exited'),
          old,
        );
  const why = input.waiting.get(container.name);
  const mayStart =
    kind === 'ephemeral'
      ? latest === undefined
      : kind === 'init'
        ? !isOver && latest?.state !== 'running' && !isInitDone(container, latest) && input.lifecycle.kind === 'syncing'
        : shouldStart(container, pod.spec, latest);
  if (why !== undefined && mayStart && input.lifecycle.kind === 'syncing') {
    if (status.state?.terminated !== undefined) status.lastState = status.state;
    status.state = { waiting: { reason: why.reason, message: why.message } };
  } else if (mayStart && input.lifecycle.kind === 'syncing' && latest?.comesBack === true && status.state?.terminated !== undefined) {
    // Ended by us to start anew, with an exit code that alone would have ended it for good: the API lets no such container leave the terminated state
    // (ValidateContainerStateTransition), so it must not get there. A kubelet kills and starts in one go, and never tells of the moment between.
    if (!shouldRestart(container, pod.spec, latest.exitCode)) {
      status.lastState = status.state;
      status.state = { waiting: { reason: creatingReason(pod) } };
    }
  }
  if (input.starting.has(container.name) && status.state?.running !== undefined) {
    status.state = { waiting: { reason: creatingReason(input.pod) } };
  }
  addReadiness(input, container, kind, latest, status, old);
  // Of app containers alone, as kubelet (devicemanager UpdateAllocatedResourcesStatus).
  // One that has ended has given them back, and goes on telling how they were.
  if (kind === 'app')
    status.allocatedResourcesStatus =
      input.deviceHealth?.(container.name) ?? (input.lifecycle.kind === 'terminated' ? old?.allocatedResourcesStatus : undefined);
  return status;
}

function isInitDone(container: Container, latest: RuntimeContainer | undefined): boolean {
  return !isSidecar(container) && latest?.state === 'exited' && latest.exitCode === 0;
}

/** The runtime has no such container: it waits to be made, or it was there and is lost. */
function absentStatus(input: StatusInput, container: Container, kind: string, old: ContainerStatus | undefined): ContainerStatus {
  const { pod, runtime } = input;
  const base = baseStatus(input, container, old);
  if (old !== undefined && runtime !== undefined && showsRestartingAll(input)) {
    if (old.state?.waiting !== undefined)
      return { ...base, restartCount: old.restartCount, lastState: old.lastState ?? {}, state: old.state };
    const text = { reason: restartingAllReason, message: 'The container is removed because RestartAllContainers in place' };
    return { ...base, restartCount: old.restartCount + 1, lastState: { terminated: { ...text, exitCode: 137 } }, state: { waiting: text } };
  }
  if (old?.state?.terminated !== undefined) return { ...old, ready: false, started: false };
  const reason = creatingReason(pod);
  const waiting: ContainerStatus = {
    ...base,
    restartCount: old?.restartCount ?? 0,
    lastState: old?.lastState ?? {},
    state: { waiting: { reason } },
  };
  if (kind === 'init' && !isSidecar(container) && pod.spec.containers.some((c) => latestContainer(runtime, c.name) !== undefined)) {
    // App containers exist, so it has run; the runtime no longer knows it.
    return {
      ...base,
      restartCount: old?.restartCount ?? 0,
      lastState: old?.lastState ?? {},
      state: {
        terminated: {
          exitCode: 0,
          reason: 'Completed',
          message: 'Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally',
        },
      },
    };
  }
  if (old?.state?.running === undefined || runtime === undefined) return old !== undefined && runtime === undefined ? { ...old } : waiting;
  const lost = {
    exitCode: lostExitCode,
    reason: lostReason,
    message: 'The container could not be located when the pod was deleted.  The container used to be Running',
  };
  const isOver = kind === 'app' && !shouldRestart(container, pod.spec, lostExitCode) && !couldRestartAll(pod.spec);
  if (isOver || input.lifecycle.kind === 'terminated') return { ...waiting, state: neverSeen };
  return {
    ...waiting,
    restartCount: waiting.restartCount + (pod.metadata.deletionTimestamp === undefined ? 1 : 0),
    lastState: { terminated: lost },
  };
}

/** True while containers that are gone were taken away by a restart rule: until the status says that this is over. */
function showsRestartingAll({ pod, runtime, previous, lifecycle }: StatusInput): boolean {
  if (lifecycle.kind !== 'syncing') return false;
  return (
    isRestartingAll(pod, runtime) || previous.conditions?.some((c) => c.type === 'AllContainersRestarting' && c.status === 'True') === true
  );
}

/** Why a container waits that has not been started yet. */
function creatingReason(pod: AgentPod): string {
  return (pod.spec.initContainers ?? []).length > 0 ? 'PodInitializing' : 'ContainerCreating';
}

function baseStatus(
  input: StatusInput,
  container: Container,
  old: ContainerStatus | undefined,
): Omit<ContainerStatus, 'state' | 'lastState' | 'restartCount'> {
  return {
    name: container.name,
    image: container.image ?? '',
    imageID: '',
    ready: false,
    volumeMounts:
      old?.volumeMounts ?? volumeMountStatuses(container, input.recursiveReadOnly(input.runtime?.sandboxes[0]?.runtimeHandler ?? '')),
  };
}

function presentStatus(
  input: StatusInput,
  container: Container,
  latest: RuntimeContainer,
  before: RuntimeContainer | undefined,
  old: ContainerStatus | undefined,
): ContainerStatus {
  const status: ContainerStatus = {
    ...baseStatus(input, container, old),
    image: latest.image,
    imageID: latest.imageRef,
    containerID: `${input.runtimeName}://${latest.id}`,
    restartCount: Math.max(latest.restartCount, old?.restartCount ?? 0),
    state: stateOf(input, latest, old),
    lastState: before !== undefined ? stateOf(input, before, old) : lastStateOf(input, latest, old),
  };
  status.allocatedResources = container.resources?.requests;
  status.resources = resourcesStatus(container, latest, ownValue(input.actuated?.containers, container.name));
  if (latest.user !== undefined)
    status.user = { linux: { uid: latest.user.uid, gid: latest.user.gid, supplementalGroups: latest.user.supplementalGroups } };
  return status;
}

/** How the instance before the present one ended, when only the published status remembers it. */
function lastStateOf(input: StatusInput, latest: RuntimeContainer, old: ContainerStatus | undefined): ContainerState {
  if (old === undefined) return {};
  const sameInstance = old.containerID === `${input.runtimeName}://${latest.id}`;
  if (!sameInstance && old.state?.terminated !== undefined) return { terminated: old.state.terminated };
  return old.lastState ?? {};
}

function stateOf(input: StatusInput, c: RuntimeContainer, old: ContainerStatus | undefined): ContainerState {
  const id = `${input.runtimeName}://${c.id}`;
  switch (c.state) {
    case 'running':
      return { running: { startedAt: apiTime(c.startedAt) } };
    case 'created':
      return { waiting: { reason: creatingReason(input.pod) } };
    case 'exited': {
      const budget = Math.floor(maxMessageBytes / Math.max(1, countContainers(input.pod)));
      return { terminated: endedState(c, id, old, budget) };
    }
    case 'unknown': {
      const known = publishedEnd(old, id);
      if (known !== undefined) return { terminated: known };
      return old?.state?.running === undefined && old?.state?.terminated?.reason !== lostReason ? { waiting: {} } : neverSeen;
    }
  }
}

function countContainers(pod: AgentPod): number {
  return pod.spec.containers.length + (pod.spec.initContainers?.length ?? 0) + (pod.spec.ephemeralContainers?.length ?? 0);
}

function volumeMountStatuses(container: Container, recursively: boolean): VolumeMountStatus[] | undefined {
  if (container.volumeMounts === undefined || container.volumeMounts.length === 0) return undefined;
  return container.volumeMounts.map((m) => ({
    name: m.name,
    mountPath: m.mountPath,
    readOnly: m.readOnly === true ? true : undefined,
    recursiveReadOnly:
      m.readOnly === true
        ? recursively && (m.recursiveReadOnly === 'Enabled' || m.recursiveReadOnly === 'IfPossible')
          ? 'Enabled'
          : 'Disabled'
        : undefined,
  }));
}

// The kernel's floors (pkg/kubelet/cm): below them request and limit read back as something else than was asked.
const minShares = 2;
const minMilliCpuLimit = 10;

/** What the container really has: the runtime's values where it tells them, else what it was last told; while it does not run, what was allocated. */
function resourcesStatus(container: Container, c: RuntimeContainer, told: ContainerStatus['resources']): ContainerStatus['resources'] {
  const allocated = container.resources ?? {};
  if (c.state !== 'running') return allocated;
  const actual = c.resources ?? {};
  const resources = {
    ...allocated,
    limits: allocated.limits && { ...allocated.limits },
    requests: allocated.requests && { ...allocated.requests },
  };
  for (const name of ['cpu', 'memory']) {
    const [request, limit] = [ownValue(told?.requests, name), ownValue(told?.limits, name)];
    if (resources.requests !== undefined && request !== undefined) setOwn(resources.requests, name, request);
    if (resources.limits !== undefined && limit !== undefined) setOwn(resources.limits, name, limit);
  }
  const quota = actual.cpu_quota ?? 0;
  const period = actual.cpu_period ?? 0;
  if (resources.limits !== undefined) {
    if (quota > 0 && period > 0) {
      const milli = Math.round((quota * 1000) / period);
      if (milli > minMilliCpuLimit || parseMilli(resources.limits.cpu ?? '0') > minMilliCpuLimit) resources.limits.cpu = formatMilli(milli);
    }
    if ((actual.memory_limit_in_bytes ?? 0) > 0) resources.limits.memory = formatBinary(actual.memory_limit_in_bytes ?? 0);
  }
  const shares = actual.cpu_shares ?? 0;
  if (resources.requests?.cpu !== undefined && shares > 0) {
    const milli = Math.ceil((shares * 1000) / 1024);
    const sameShares = Math.floor((parseMilli(resources.requests.cpu) * 1024) / 1000) === shares;
    if (!sameShares && (milli > minShares || parseMilli(resources.requests.cpu) > minShares)) resources.requests.cpu = formatMilli(milli);
  }
  return resources;
}

function addReadiness(
  input: StatusInput,
  container: Container,
  kind: 'init' | 'app' | 'ephemeral',
  latest: RuntimeContainer | undefined,
  status: ContainerStatus,
  old: ContainerStatus | undefined,
): void {
  if (kind === 'ephemeral') {
    status.ready = false;
    return;
  }
  const running = status.state?.running !== undefined && latest !== undefined;
  // Until a probe has spoken since our start, the published verdict on the same instance stands: a restart of the agent flips nothing.
  const published = running && old?.containerID === status.containerID ? old : undefined;
  const verdict = latest === undefined ? {} : input.verdicts(latest.id);
  const started = running && (container.startupProbe === undefined || (verdict.startup ?? published?.started ?? false));
  status.started = started;
  if (kind === 'init' && !isSidecar(container)) {
    status.ready = status.state?.terminated?.exitCode === 0;
    return;
  }
  status.ready = started && (container.readinessProbe === undefined || (verdict.ready ?? published?.ready ?? false));
}
