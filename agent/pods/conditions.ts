import type { ContainerStatus, PodCondition, PodStatus } from '../model/generated/api.ts';
import { type AgentPod, isSidecar } from '../model/pod.ts';
import { couldRestartAll } from './restart-all.ts';

/** Conditions whose owner is the node agent: everybody else's are left as they are. */
export const ownConditions: ReadonlySet<string> = new Set([
  'PodScheduled',
  'Ready',
  'Initialized',
  'ContainersReady',
  'PodReadyToStartContainers',
  'PodResizePending',
  'PodResizeInProgress',
  'AllContainersRestarting',
]);

export interface ConditionsInput {
  readonly pod: AgentPod;
  readonly previous: PodStatus;
  readonly phase: string;
  /** Statuses of init and app containers. */
  readonly statuses: readonly ContainerStatus[];
  /** True when there is a sandbox with its network up and all volumes are mounted. */
  readonly readyToStart: boolean;
  /** True once any app container has been started. */
  readonly anyAppStarted: boolean;
  /** True while a restart rule has all containers taken away. */
  readonly restartingAll: boolean;
  /** The conditions that tell of a resize, if there is one. */
  readonly resize: readonly PodCondition[];
  readonly now: string;
}

interface Verdict {
  readonly status: 'True' | 'False';
  readonly reason?: string;
  readonly message?: string;
}

/** The node agent's conditions of a pod. lastTransitionTime moves only when the status does. */
export function conditionsOf(input: ConditionsInput): PodCondition[] {
  const containersReady = containersReadyVerdict(input);
  return [
    ...input.resize,
    finish(input, 'PodReadyToStartContainers', { status: input.readyToStart ? 'True' : 'False' }),
    finish(input, 'Initialized', initializedVerdict(input)),
    finish(input, 'Ready', containersReady.status === 'True' ? gatesVerdict(input) : containersReady),
    finish(input, 'ContainersReady', containersReady),
    finish(input, 'PodScheduled', { status: 'True' }),
    ...(couldRestartAll(input.pod.spec) ? [finish(input, 'AllContainersRestarting', restartingAllVerdict(input))] : []),
  ];
}

/** The words are kubelet's (pkg/kubelet/status/generate.go). */
function restartingAllVerdict({ phase, restartingAll }: ConditionsInput): Verdict {
  if (!restartingAll || terminalVerdict(phase) !== undefined) return terminalVerdict(phase) ?? { status: 'False' };
  return { status: 'True', reason: 'RestartAllContainersStarted', message: 'container exited with restart policy rule' };
}

/** The condition of a pod that the node agent ends for somebody else's sake: eviction, preemption, shutdown of the node. */
export function disruptionCondition(input: Pick<ConditionsInput, 'pod' | 'previous' | 'now'>, message: string): PodCondition {
  return finish(input, 'DisruptionTarget', { status: 'True', reason: 'TerminationByKubelet', message });
}

function finish(input: Pick<ConditionsInput, 'pod' | 'previous' | 'now'>, type: string, verdict: Verdict): PodCondition {
  const old = input.previous.conditions?.find((c) => c.type === type);
  const lastTransitionTime = old?.status === verdict.status && old.lastTransitionTime ? old.lastTransitionTime : input.now;
  return {
    type,
    status: verdict.status,
    observedGeneration: input.pod.metadata.generation,
    lastProbeTime: undefined,
    lastTransitionTime,
    reason: verdict.reason,
    message: verdict.message,
  };
}

// Go prints a slice of strings as [a b].
const list = (names: string[]): string => `[${names.join(' ')}]`;

function terminalVerdict(phase: string): Verdict | undefined {
  if (phase === 'Failed') return { status: 'False', reason: 'PodFailed' };
  if (phase === 'Succeeded') return { status: 'False', reason: 'PodCompleted' };
  return undefined;
}

function containersReadyVerdict(input: ConditionsInput): Verdict {
  const { pod, statuses, phase } = input;
  const terminal = terminalVerdict(phase);
  if (terminal !== undefined) return terminal;
  const unknown: string[] = [];
  const unready: string[] = [];
  for (const container of [...(pod.spec.initContainers ?? []).filter(isSidecar), ...pod.spec.containers]) {
    const status = statuses.find((s) => s.name === container.name);
    if (status === undefined) unknown.push(container.name);
    else if (!status.ready) unready.push(container.name);
  }
  const messages = [
    ...(unknown.length > 0 ? [`containers with unknown status: ${list(unknown)}`] : []),
    ...(unready.length > 0 ? [`containers with unready status: ${list(unready)}`] : []),
  ];
  return messages.length === 0 ? { status: 'True' } : { status: 'False', reason: 'ContainersNotReady', message: messages.join(', ') };
}

function gatesVerdict({ pod, previous }: ConditionsInput): Verdict {
  const messages: string[] = [];
  for (const gate of pod.spec.readinessGates ?? []) {
    // Gates are others' conditions: the API object has them, not what we published.
    const condition =
      pod.status?.conditions?.find((c) => c.type === gate.conditionType) ?? previous.conditions?.find((c) => c.type === gate.conditionType);
    if (condition === undefined) messages.push(`corresponding condition of pod readiness gate "${gate.conditionType}" does not exist.`);
    else if (condition.status !== 'True') {
      messages.push(`the status of pod readiness gate "${gate.conditionType}" is not "True", but ${condition.status}`);
    }
  }
  return messages.length === 0 ? { status: 'True' } : { status: 'False', reason: 'ReadinessGatesNotReady', message: messages.join(', ') };
}

function initializedVerdict(input: ConditionsInput): Verdict {
  const { pod, statuses, phase } = input;
  const unknown: string[] = [];
  const incomplete: string[] = [];
  for (const container of pod.spec.initContainers ?? []) {
    const status = statuses.find((s) => s.name === container.name);
    if (status === undefined) unknown.push(container.name);
    else if (isSidecar(container) ? status.started !== true : !status.ready) incomplete.push(container.name);
  }
  if (phase === 'Succeeded' && unknown.length === 0) return { status: 'True', reason: 'PodCompleted' };
  // Once initialised, always so: a sidecar that restarts does not undo it.
  if (input.anyAppStarted) return { status: 'True' };
  // Nor does a restart of all containers or a new sandbox, which run the init containers anew.
  if (input.previous.conditions?.some((c) => c.type === 'Initialized' && c.status === 'True') === true) return { status: 'True' };
  const messages = [
    ...(unknown.length > 0 ? [`containers with unknown status: ${list(unknown)}`] : []),
    ...(incomplete.length > 0 ? [`containers with incomplete status: ${list(incomplete)}`] : []),
  ];
  return messages.length === 0 ? { status: 'True' } : { status: 'False', reason: 'ContainersNotInitialized', message: messages.join(', ') };
}
