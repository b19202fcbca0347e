import { ownValue, setOwn } from '../base/own.ts';
import type { Container, PodCondition, ResourceRequirements } from '../model/generated/api.ts';
import { type AgentPod, isSidecar } from '../model/pod.ts';
import { qosClassOf } from '../model/qos.ts';
import { compareQuantity, formatBinary, formatMilli, parseMilli, parseQuantity, sameQuantity } from '../model/quantity.ts';
import { podLimitDeclared, podLimits, podRequests } from '../model/resources.ts';
import type { Preemption, Rejection } from './admission.ts';
import { latestContainer, type RuntimePod } from './observed.ts';

/** Resources by container, and the pod's own: what was set aside for a pod (allocated), or what its cgroups were last told (actuated). */
export interface Allocation {
  readonly containers: Readonly<Record<string, ResourceRequirements>>;
  readonly pod: ResourceRequirements | undefined;
}

/** CPU in millicores, memory in bytes; 0 where there is no request or no limit. */
export interface Size {
  readonly cpuRequest: number;
  readonly cpuLimit: number;
  readonly memoryRequest: number;
  readonly memoryLimit: number;
}

/** What the cgroup of a whole pod depends on. */
export type PodSize = Omit<Size, 'memoryRequest'>;

export interface ContainerResize {
  readonly name: string;
  readonly id: string;
  readonly from: Size;
  readonly to: Size;
}

/** What lies between the allocation of a pod and what its cgroups have. */
export interface Resize {
  /** True while anything of it is to be done. */
  readonly due: boolean;
  /** Running containers whose policy is to be restarted for it. */
  readonly restarts: readonly string[];
  /** Running containers that are resized as they run. */
  readonly containers: readonly ContainerResize[];
  readonly from: PodSize;
  readonly to: PodSize;
}

/** The resources that a pod's spec asks for. */
export function allocationOf(pod: AgentPod): Allocation {
  const containers = [...(pod.spec.initContainers ?? []), ...pod.spec.containers];
  return { containers: Object.fromEntries(containers.map((c) => [c.name, c.resources ?? {}])), pod: pod.spec.resources };
}

/** The pod with these resources in place of its own; the same object when they say the same. Containers that the allocation does not name keep theirs. */
export function withAllocation(pod: AgentPod, allocation: Allocation | undefined): AgentPod {
  if (allocation === undefined) return pod;
  const replaced = (c: Container): Container => {
    const own = ownValue(allocation.containers, c.name);
    return own === undefined || sameResources(own, c.resources) ? c : { ...c, resources: own };
  };
  const { resources, ...rest } = pod.spec;
  const containers = rest.containers.map(replaced);
  const initContainers = rest.initContainers?.map(replaced);
  const samePod = sameResources(resources, allocation.pod);
  if (
    samePod &&
    containers.every((c, i) => c === rest.containers[i]) &&
    (initContainers ?? []).every((c, i) => c === rest.initContainers?.[i])
  )
    return pod;
  const own = samePod ? resources : allocation.pod;
  return {
    ...pod,
    spec: {
      ...rest,
      containers,
      ...(initContainers === undefined ? {} : { initContainers }),
      ...(own === undefined ? {} : { resources: own }),
    },
  };
}

/** True when both ask for the same amounts, however they are written. */
export function sameResources(a: ResourceRequirements | undefined, b: ResourceRequirements | undefined): boolean {
  const same = (x: Record<string, string> = {}, y: Record<string, string> = {}): boolean => {
    const names = Object.keys(x);
    const sameEntry = (name: string): boolean => {
      const other = ownValue(y, name);
      return other !== undefined && sameQuantity(ownValue(x, name) ?? '0', other);
    };
    return names.length === Object.keys(y).length && names.every(sameEntry);
  };
  return a === b || (same(a?.requests, b?.requests) && same(a?.limits, b?.limits));
}

/** The container's resources with the pod's limits where it has none of its own: what its cgroup is told (pkg/kubelet/util GetLimits). */
export function effectiveResources(
  own: ResourceRequirements | undefined,
  podLevel: ResourceRequirements | undefined,
): ResourceRequirements {
  const limits = { ...own?.limits };
  for (const name of ['cpu', 'memory']) {
    const fallback = ownValue(podLevel?.limits, name);
    if (fallback !== undefined && compareQuantity(ownValue(limits, name) ?? '0', '0') === 0 && compareQuantity(fallback, '0') > 0)
      setOwn(limits, name, fallback);
  }
  return { ...own, limits };
}

function containerSize(own: ResourceRequirements | undefined, podLevel: ResourceRequirements | undefined): Size {
  const { requests, limits } = effectiveResources(own, podLevel);
  return {
    cpuRequest: parseMilli(requests?.cpu ?? '0'),
    cpuLimit: parseMilli(limits?.cpu ?? '0'),
    memoryRequest: parseQuantity(requests?.memory ?? '0'),
    memoryLimit: parseQuantity(limits?.memory ?? '0'),
  };
}

/** What the pod's cgroup is told: limits only where every container has one, or the pod itself. */
export function podSize(pod: AgentPod): PodSize {
  const bestEffort = qosClassOf(pod) === 'BestEffort';
  const limits = podLimits(pod);
  const limited = (name: 'cpu' | 'memory'): boolean => !bestEffort && podLimitDeclared(pod, name);
  return {
    cpuRequest: bestEffort ? 0 : parseMilli(podRequests(pod).cpu ?? '0'),
    cpuLimit: limited('cpu') ? parseMilli(limits.cpu ?? '0') : 0,
    memoryLimit: limited('memory') ? parseQuantity(limits.memory ?? '0') : 0,
  };
}

const sameSize = <T extends PodSize>(a: T, b: T): boolean =>
  a.cpuRequest === b.cpuRequest &&
  a.cpuLimit === b.cpuLimit &&
  a.memoryLimit === b.memoryLimit &&
  ('memoryRequest' in a ? a.memoryRequest : 0) === ('memoryRequest' in b ? b.memoryRequest : 0);

/**
 * What is to be done so that the cgroups of the pod (with its allocated resources) have its size. `podNow` is what the pod's cgroup was last told,
 * undefined when that is not known: then it follows from what was actuated. A container without a record has what is allocated: it was made with it.
 */
export function resizeOf(
  pod: AgentPod,
  actuated: Allocation | undefined,
  podNow: PodSize | undefined,
  runtime: RuntimePod | undefined,
): Resize {
  const restarts: string[] = [];
  const containers: ContainerResize[] = [];
  for (const container of [...(pod.spec.initContainers ?? []), ...pod.spec.containers]) {
    const latest = latestContainer(runtime, container.name);
    const had = ownValue(actuated?.containers, container.name);
    if (latest?.state !== 'running' || had === undefined) continue;
    const from = containerSize(had, actuated?.pod);
    const to = containerSize(container.resources, pod.spec.resources);
    if (sameSize(from, to)) continue;
    const restarting = (container.resizePolicy ?? []).some(
      (policy) =>
        policy.restartPolicy === 'RestartContainer' &&
        (policy.resourceName === 'cpu'
          ? from.cpuLimit !== to.cpuLimit || from.cpuRequest !== to.cpuRequest
          : from.memoryLimit !== to.memoryLimit || from.memoryRequest !== to.memoryRequest),
    );
    // An ordinary init container is never restarted for it: the API refuses such a policy.
    const restartable = isSidecar(container) || pod.spec.containers.includes(container);
    if (restarting && restartable) restarts.push(container.name);
    else containers.push({ name: container.name, id: latest.id, from, to });
  }
  const from = podNow ?? podSize(withAllocation(pod, actuated));
  const to = podSize(pod);
  const podLevel = actuated !== undefined && !sameResources(actuated.pod, pod.spec.resources);
  return { due: restarts.length > 0 || containers.length > 0 || podLevel || !sameSize(from, to), restarts, containers, from, to };
}

/** Containers in the order in which one resource changes: those that give first, then those that take. */
export function resizeOrder(containers: readonly ContainerResize[], resource: 'cpu' | 'memory'): ContainerResize[] {
  const [limit, request] = resource === 'cpu' ? (['cpuLimit', 'cpuRequest'] as const) : (['memoryLimit', 'memoryRequest'] as const);
  const change = ({ from, to }: ContainerResize): number => to[limit] - from[limit] || to[request] - from[request];
  return containers.filter((c) => change(c) !== 0).toSorted((a, b) => Math.sign(change(a)) - Math.sign(change(b)));
}

/** A limit as it bounds: none is infinite. */
export function bound(limit: number): number {
  return limit === 0 ? Number.POSITIVE_INFINITY : limit;
}

/** The container with these amounts of CPU and memory; its other resources stay. */
export function sizedContainer(container: Container, size: Size): Container {
  const list = (own: Record<string, string> | undefined, milliCpu: number, memoryBytes: number): Record<string, string> => {
    const { cpu: _, memory: __, ...others } = own ?? {};
    return {
      ...others,
      ...(milliCpu === 0 ? {} : { cpu: formatMilli(milliCpu) }),
      ...(memoryBytes === 0 ? {} : { memory: formatBinary(memoryBytes) }),
    };
  };
  const { requests, limits, ...rest } = container.resources ?? {};
  return {
    ...container,
    resources: {
      ...rest,
      requests: list(requests, size.cpuRequest, size.memoryRequest),
      limits: list(limits, size.cpuLimit, size.memoryLimit),
    },
  };
}

/** The pod as it weighs on the node: while a container gives resources back it holds what it still has. */
export function heldPod(pod: AgentPod, actuated: Allocation | undefined, runtime: RuntimePod | undefined): AgentPod {
  if (actuated === undefined) return pod;
  const more = (a: ResourceRequirements | undefined, b: ResourceRequirements | undefined): ResourceRequirements => {
    const requests = { ...a?.requests };
    for (const name of ['cpu', 'memory']) {
      const other = ownValue(b?.requests, name);
      if (other !== undefined && compareQuantity(other, ownValue(requests, name) ?? '0') > 0) setOwn(requests, name, other);
    }
    return { ...a, requests };
  };
  const containers: Record<string, ResourceRequirements> = {};
  for (const c of [...(pod.spec.initContainers ?? []), ...pod.spec.containers]) {
    const had = ownValue(actuated.containers, c.name);
    if (had !== undefined && latestContainer(runtime, c.name)?.state === 'running') setOwn(containers, c.name, more(c.resources, had));
  }
  const podLevel = pod.spec.resources === undefined ? undefined : more(pod.spec.resources, actuated.pod);
  return withAllocation(pod, { containers, pod: podLevel });
}

export type ResizeDecision =
  | { readonly kind: 'accept' }
  /** Deferred: it may fit later. Infeasible: never on this node as it is. */
  | {
      readonly kind: 'pending';
      readonly reason: 'Deferred' | 'Infeasible';
      readonly message: string;
      /** Less important pods that have to end for it. */
      readonly preemption?: Preemption;
    };

export interface ResizeQuestion {
  /** The pod as its spec now asks. */
  readonly desired: AgentPod;
  readonly allocated: AgentPod;
  /** The other pods that hold resources of the node. */
  readonly others: readonly AgentPod[];
  readonly admit: (pod: AgentPod, others: readonly AgentPod[]) => Rejection | Preemption | undefined;
  /** Whether a container of this size may swap. */
  readonly swaps: (pod: AgentPod, container: Container) => boolean;
}

/** Whether the node can give the pod what it now asks for (pkg/kubelet/allocation: the resize handler, then every admission check). */
export function decideResize(question: ResizeQuestion): ResizeDecision {
  const { desired, allocated, swaps } = question;
  const before = new Map([...(allocated.spec.initContainers ?? []), ...allocated.spec.containers].map((c) => [c.name, c]));
  for (const container of [...(desired.spec.initContainers ?? []), ...desired.spec.containers]) {
    const old = before.get(container.name);
    if (old === undefined || sameQuantity(old.resources?.requests?.memory ?? '0', container.resources?.requests?.memory ?? '0')) continue;
    const restarts = container.resizePolicy?.find((p) => p.resourceName === 'memory')?.restartPolicy === 'RestartContainer';
    // The share of swap follows from the memory request and cannot be changed under a running container.
    if (!restarts && (swaps(desired, container) || swaps(allocated, old)))
      return { kind: 'pending', reason: 'Infeasible', message: 'In-place resize of containers with swap is not supported.' };
  }
  const refusal = question.admit(desired, question.others);
  if (refusal === undefined) return { kind: 'accept' };
  if ('victims' in refusal)
    return { kind: 'pending', reason: 'Deferred', message: 'less important pods are ending to make room for it', preemption: refusal };
  return { kind: 'pending', reason: 'Deferred', message: refusal.message };
}

export interface PendingResize {
  readonly uid: string;
  readonly desired: AgentPod;
  readonly allocated: AgentPod;
  /** Since when (wall, ms) it waits; undefined for one that has just come. */
  readonly since: number | undefined;
}

/** In which order pending resizes are tried: those that ask for no more first, then by priority, Guaranteed before others, then who waits longest. */
export function rankPending(pending: readonly PendingResize[]): PendingResize[] {
  const rank = pending.map((p) => {
    const [had, asks] = [podRequests(p.allocated), podRequests(p.desired)];
    const increases = (['cpu', 'memory'] as const).some((name) => compareQuantity(asks[name] ?? '0', had[name] ?? '0') > 0);
    return { p, increases, priority: p.desired.spec.priority ?? 0, guaranteed: qosClassOf(p.desired) === 'Guaranteed' };
  });
  return rank
    .sort(
      (a, b) =>
        Number(a.increases) - Number(b.increases) ||
        b.priority - a.priority ||
        Number(b.guaranteed) - Number(a.guaranteed) ||
        (a.p.since ?? Number.POSITIVE_INFINITY) - (b.p.since ?? Number.POSITIVE_INFINITY) ||
        0,
    )
    .map(({ p }) => p);
}

/** One of the two conditions that tell of a resize. */
export interface ResizeNotice {
  readonly reason: string;
  readonly message: string;
  /** The generation of the pod that asked. */
  readonly generation: number | undefined;
  /** Since when (wall, ms) it has this reason. */
  readonly since: number;
}

export interface ResizeState {
  readonly pending: ResizeNotice | undefined;
  readonly inProgress: ResizeNotice | undefined;
}

export const noResize: ResizeState = { pending: undefined, inProgress: undefined };

/** The state that published conditions tell of: how a restarted agent goes on. */
export function resizeStateOf(conditions: readonly PodCondition[] | undefined): ResizeState {
  const notice = (type: string): ResizeNotice | undefined => {
    const c = conditions?.find((one) => one.type === type && one.status === 'True');
    if (c === undefined) return undefined;
    const since = Date.parse(c.lastTransitionTime ?? '');
    return {
      reason: c.reason ?? '',
      message: c.message ?? '',
      generation: c.observedGeneration,
      since: Number.isNaN(since) ? 0 : since,
    };
  };
  return { pending: notice('PodResizePending'), inProgress: notice('PodResizeInProgress') };
}

/** The conditions that tell of a resize; none when there is none. */
export function resizeConditions(state: ResizeState): PodCondition[] {
  const condition = (type: string, notice: ResizeNotice | undefined): PodCondition[] =>
    notice === undefined
      ? []
      : [
          {
            type,
            status: 'True',
            observedGeneration: notice.generation,
            lastTransitionTime: `${new Date(notice.since).toISOString().slice(0, 19)}Z`,
            reason: notice.reason === '' ? undefined : notice.reason,
            message: notice.message === '' ? undefined : notice.message,
          },
        ];
  return [...condition('PodResizePending', state.pending), ...condition('PodResizeInProgress', state.inProgress)];
}

/** The text of a resize's event, as tools parse it (pkg/kubelet/events/resize.go): `Pod resize started: {"containers":[…],"generation":2}`. */
export function resizeEventMessage(what: string, pod: AgentPod, generation: number | undefined, error = ''): string {
  const list = (containers: readonly Container[] | undefined): unknown[] | undefined =>
    containers === undefined || containers.length === 0
      ? undefined
      : containers.map((c) => ({
          name: c.name,
          resources: { limits: sorted(c.resources?.limits), requests: sorted(c.resources?.requests) },
        }));
  const summary = {
    initContainers: list(pod.spec.initContainers),
    containers: list(pod.spec.containers),
    generation: generation ?? 0,
    error: error === '' ? undefined : error,
  };
  return `Pod resize ${what}: ${JSON.stringify(summary)}`;
}

// Go prints maps by key.
function sorted(list: Record<string, string> | undefined): Record<string, string> | undefined {
  return list === undefined ? undefined : Object.fromEntries(Object.entries(list).sort(([a], [b]) => (a < b ? -1 : 1)));
}
