import type { Container, PodSpec } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import { containerHash } from '../../../agent/pods/labels.ts';
import type { PodLifecycle } from '../../../agent/pods/lifecycle.ts';
import type { RuntimeContainer, RuntimePod, RuntimeSandbox } from '../../../agent/pods/observed.ts';
import { planPod } from '../../../agent/pods/plan.ts';
import type { Plan, PlanInput } from '../../../agent/pods/plan-draft.ts';
import type { PodWork } from '../../../agent/pods/work.ts';

export const now = { wall: 1_800_000_000_000, mono: 1_000_000 };

export function container(name: string, more: Partial<Container> = {}): Container {
  return { name, image: `${name}:1`, ...more };
}

export function pod(
  spec: Partial<PodSpec> = {},
  metadata: Partial<AgentPod['metadata']> = {},
  status: AgentPod['status'] = undefined,
): AgentPod {
  return {
    metadata: { name: 'web', namespace: 'default', uid: 'u1', generation: 1, ...metadata },
    spec: { containers: [container('a')], restartPolicy: 'Always', terminationGracePeriodSeconds: 30, ...spec },
    status,
  };
}

export function sandbox(more: Partial<RuntimeSandbox> = {}): RuntimeSandbox {
  return {
    id: 's0',
    ready: true,
    attempt: 0,
    createdAt: now.wall - 60_000,
    hostNetwork: false,
    ips: ['10.0.0.5'],
    runtimeHandler: '',
    ...more,
  };
}

export function instance(name: string, more: Partial<RuntimeContainer> = {}): RuntimeContainer {
  return {
    id: `${name}-0`,
    name,
    sandboxId: 's0',
    state: 'running',
    restartCount: 0,
    hash: containerHash({ name, image: `${name}:1` }),
    createdAt: now.wall - 50_000,
    startedAt: now.wall - 50_000,
    finishedAt: more.state === 'exited' ? now.wall - 1000 : 0,
    exitCode: 0,
    reason: '',
    message: '',
    image: `${name}:1`,
    imageRef: 'sha256:1',
    imageId: 'sha256:1',
    logPath: '',
    terminationGraceSeconds: 30,
    user: undefined,
    resources: undefined,
    ...more,
  };
}

export function runtimePod(sandboxes: RuntimeSandbox[] = [sandbox()], containers: RuntimeContainer[] = []): RuntimePod {
  return { uid: 'u1', name: 'web', namespace: 'default', sandboxes, containers };
}

export const idleWork: PodWork = {
  prepared: true,
  prepareFailure: undefined,
  mounted: true,
  mountFailure: undefined,
  mountingSince: undefined,
  unmounted: false,
  cgroupRemoved: false,
  sandboxFailure: undefined,
  resizeFailure: undefined,
  podSize: { cpuRequest: 0, cpuLimit: 0, memoryLimit: 0 },
  images: new Map(),
  failures: new Map(),
  crashes: new Map(),
  resets: new Map(),
  stuck: new Map(),
  preStopped: new Set(),
  stopSince: new Map(),
  // The dead ones have been stopped, unless a row says otherwise.
  released: new Set(['s0']),
  comeBack: new Set(),
  inFlight: new Map(),
};

export const syncing: PodLifecycle = { kind: 'syncing' };

export function plan(input: Partial<Omit<PlanInput, 'work'>> & { work?: Partial<PodWork> } = {}): Plan {
  return planPod({
    pod: pod(),
    inSource: true,
    lifecycle: syncing,
    runtime: runtimePod(),
    verdicts: () => ({}),
    networkProblem: undefined,
    now,
    ...input,
    work: { ...idleWork, ...input.work },
  });
}

/** Actions in short: `startContainer a`, `stopContainer a 30`. */
export function brief(result: Plan): string[] {
  return result.actions.map((a) => {
    switch (a.kind) {
      case 'startContainer':
        return `start ${a.container}#${a.attempt}`;
      case 'pullImage':
        return `pull ${a.container}#${a.attempt}`;
      case 'stopContainer':
        return `stop ${a.container} ${a.graceSeconds}`;
      case 'preStop':
        return `preStop ${a.container}`;
      case 'createSandbox':
        return `createSandbox#${a.attempt}`;
      case 'removeContainer':
        return `remove ${a.id}`;
      case 'removeSandbox':
        return `removeSandbox ${a.id}`;
      case 'resetContainer':
        return `reset ${a.id}${a.kill ? ' kill' : ''}`;
      default:
        return a.kind;
    }
  });
}
