import type { Clock } from '../base/clock.ts';
import type { Container, PodCondition, ResourceRequirements } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';
import type { Preemption, Rejection } from './admission.ts';
import {
  type Allocation,
  allocationOf,
  decideResize,
  effectiveResources,
  noResize,
  type ResizeNotice,
  type ResizeState,
  rankPending,
  resizeConditions,
  resizeEventMessage,
  resizeStateOf,
  withAllocation,
} from './allocation.ts';
import type { RecordEvent } from './apply.ts';

/** Facts by pod UID that outlive the agent. */
export interface AllocationRecord {
  get(uid: string): Allocation | undefined;
  set(uid: string, allocation: Allocation): void;
  delete(uid: string): void;
  /** Forgets every pod that `known` does not know. */
  prune(known: (uid: string) => boolean): void;
}

export interface ResizingOptions {
  readonly clock: Clock;
  readonly recordEvent: RecordEvent;
  /** What was set aside for each pod. */
  readonly allocated: AllocationRecord;
  /** What the cgroups of each pod's containers were last told. */
  readonly actuated: AllocationRecord;
  /** The pods that hold resources, with what they hold, but this one. */
  readonly others: (uid: string) => readonly AgentPod[];
  readonly admit: (pod: AgentPod, others: readonly AgentPod[]) => Rejection | Preemption | undefined;
  /** Ends less important pods so that a critical one can grow. */
  readonly preempt: (preemption: Preemption) => void;
  readonly swaps: (pod: AgentPod, container: Container) => boolean;
  /** Told when a pod's allocation or its conditions have changed. */
  readonly changed: (uid: string) => void;
}

/** What pods were given, and the resizes that are asked for: the book-keeping beside allocation.ts, which decides. */
export interface Resizing {
  /** The pod with what it was given. */
  allocatedPod(pod: AgentPod): AgentPod;
  /** True when something was set aside for the pod, now or before a restart of the agent. */
  knows(uid: string): boolean;
  /** What the pod's cgroups were last told; undefined when nothing of it has run. */
  actuated(uid: string): Allocation | undefined;
  /** Takes a pod in: it has what it was given before or, when that is not known, what it asks for. */
  admit(pod: AgentPod): void;
  /** The conditions published before a restart of the agent. */
  adopt(uid: string, conditions: readonly PodCondition[] | undefined): void;
  /** Looks at what the pod's spec now asks for: a resize that is new is decided, one that was taken back is forgotten. */
  consider(desired: AgentPod): void;
  /** Tries all resizes that wait: something has become free. */
  retry(): void;
  /** Says whether anything of the pod's (with its allocation) last resize is still to be done. */
  settle(pod: AgentPod, due: boolean): void;
  failed(pod: AgentPod, message: string): void;
  /** Notes what a container's cgroup was told. */
  containerActuated(pod: AgentPod, container: string, resources: ResourceRequirements | undefined): void;
  podActuated(pod: AgentPod): void;
  conditions(uid: string): PodCondition[];
  /** The pod has ended: it asks for nothing any more. */
  ended(uid: string): void;
  forget(uid: string): void;
  /** Forgets what files remember of pods that nobody knows any more. */
  prune(known: (uid: string) => boolean): void;
}

export function createResizing(options: ResizingOptions): Resizing {
  const { clock, recordEvent, allocated, actuated } = options;
  const states = new Map<string, ResizeState>();
  // By UID: pods as their specs ask, whose resize waits.
  const pending = new Map<string, AgentPod>();
  // By UID: what was decided last, with its generation, which alone does not tell: an etcd that was restored gives them out again. Only what is waiting is
  // decided again.
  const decided = new Map<string, string>();
  const askedBy = (desired: AgentPod): string => JSON.stringify([desired.metadata.generation, allocationOf(desired)]);
  // A pod with its allocation is a new object: the same one is given for the same spec and allocation, so that nobody takes it for news.
  const made = new Map<string, { from: AgentPod; allocation: Allocation; pod: AgentPod }>();

  function update(uid: string, change: Partial<ResizeState>): void {
    const next = { ...(states.get(uid) ?? noResize), ...change };
    if (next.pending === undefined && next.inProgress === undefined) states.delete(uid);
    else states.set(uid, next);
  }

  function allocatedPod(pod: AgentPod): AgentPod {
    const { uid } = pod.metadata;
    const allocation = allocated.get(uid);
    if (allocation === undefined) return pod;
    const known = made.get(uid);
    if (known?.from === pod && known.allocation === allocation) return known.pod;
    const result = withAllocation(pod, allocation);
    made.set(uid, { from: pod, allocation, pod: result });
    return result;
  }

  function notice(old: ResizeNotice | undefined, reason: string, message: string, generation: number | undefined): ResizeNotice {
    return { reason, message, generation, since: old?.reason === reason ? old.since : clock.wall() };
  }

  function decide(desired: AgentPod): void {
    const { uid, generation } = desired.metadata;
    decided.set(uid, askedBy(desired));
    const before = states.get(uid) ?? noResize;
    const decision = decideResize({
      desired,
      allocated: allocatedPod(desired),
      others: options.others(uid),
      admit: options.admit,
      swaps: options.swaps,
    });
    if (decision.kind === 'accept') {
      pending.delete(uid);
      allocated.set(uid, allocationOf(desired));
      // What an earlier resize failed by is no longer of interest.
      update(uid, { pending: undefined, inProgress: notice(undefined, '', '', generation) });
      recordEvent(desired, 'Normal', 'ResizeStarted', resizeEventMessage('started', desired, generation));
      options.changed(uid);
      return;
    }
    const { reason, message, preemption } = decision;
    if (preemption !== undefined) options.preempt(preemption);
    if (reason === 'Infeasible') pending.delete(uid);
    const old = before.pending;
    if (old !== undefined && old.reason === reason && old.message === message && old.generation === generation) return;
    update(uid, { pending: notice(old, reason, message, generation) });
    if (old?.reason !== reason || old.generation !== generation) {
      const text = resizeEventMessage(reason, desired, generation, message);
      recordEvent(desired, 'Warning', reason === 'Infeasible' ? 'ResizeInfeasible' : 'ResizeDeferred', text);
    }
    options.changed(uid);
  }

  function retry(): void {
    const waiting = [...pending].map(([uid, desired]) => ({
      uid,
      desired,
      allocated: allocatedPod(desired),
      since: states.get(uid)?.pending?.since,
    }));
    for (const { desired } of rankPending(waiting)) decide(desired);
  }

  return {
    allocatedPod,
    knows: (uid) => allocated.get(uid) !== undefined,
    actuated: (uid) => actuated.get(uid),
    admit(pod) {
      if (allocated.get(pod.metadata.uid) === undefined) allocated.set(pod.metadata.uid, allocationOf(pod));
    },
    adopt(uid, conditions) {
      const state = resizeStateOf(conditions);
      if (state.pending !== undefined || state.inProgress !== undefined) states.set(uid, state);
    },
    consider(desired) {
      const { uid } = desired.metadata;
      if (allocatedPod(desired) === desired) {
        pending.delete(uid);
        decided.delete(uid);
        if (states.get(uid)?.pending !== undefined) update(uid, { pending: undefined });
        return;
      }
      if (pending.has(uid)) pending.set(uid, desired);
      if (decided.get(uid) === askedBy(desired)) return;
      pending.set(uid, desired);
      retry();
    },
    retry,
    settle(pod, due) {
      const { uid, generation } = pod.metadata;
      const { inProgress } = states.get(uid) ?? noResize;
      if (due && inProgress === undefined) update(uid, { inProgress: notice(undefined, '', '', generation) });
      if (due || inProgress === undefined) return;
      update(uid, { inProgress: undefined });
      recordEvent(pod, 'Normal', 'ResizeCompleted', resizeEventMessage('completed', pod, inProgress.generation));
      // What this one gave back may be what others wait for.
      retry();
    },
    failed(pod, message) {
      const { uid, generation } = pod.metadata;
      const { inProgress } = states.get(uid) ?? noResize;
      if (inProgress?.reason === 'Error' && inProgress.message === message) return;
      const next = notice(inProgress, 'Error', message, inProgress?.generation ?? generation);
      update(uid, { inProgress: next });
      recordEvent(pod, 'Warning', 'ResizeError', resizeEventMessage('error', pod, next.generation, message));
    },
    containerActuated(pod, container, resources) {
      const { uid } = pod.metadata;
      const last = actuated.get(uid);
      const told = effectiveResources(resources, pod.spec.resources);
      actuated.set(uid, {
        containers: { ...last?.containers, [container]: told },
        pod: last === undefined ? pod.spec.resources : last.pod,
      });
    },
    podActuated(pod) {
      const { uid } = pod.metadata;
      actuated.set(uid, { containers: actuated.get(uid)?.containers ?? {}, pod: pod.spec.resources });
    },
    conditions: (uid) => resizeConditions(states.get(uid) ?? noResize),
    ended(uid) {
      pending.delete(uid);
      states.delete(uid);
      retry();
    },
    forget(uid) {
      pending.delete(uid);
      states.delete(uid);
      decided.delete(uid);
      made.delete(uid);
      allocated.delete(uid);
      actuated.delete(uid);
      retry();
    },
    prune(known) {
      allocated.prune(known);
      actuated.prune(known);
    },
  };
}
