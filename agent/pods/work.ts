import type { PodSize } from './allocation.ts';
import type { RuntimePod } from './observed.ts';
import type { ActionResult, PodAction } from './pod-action.ts';
import type { CrashBackoff } from './restart.ts';

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

/** PodWork as its one writer holds it. */
export type MutableWork = { -readonly [K in keyof PodWork]: PodWork[K] } & {
  images: Map<string, { attempt: number; image: string; imageRef: string }>;
  failures: Map<string, StepFailure>;
  crashes: Map<string, CrashBackoff>;
  resets: Map<string, { attempt: number; endedAt: number | undefined }>;
  stuck: Map<string, StepFailure & { tries: number }>;
  preStopped: Set<string>;
  stopSince: Map<string, number>;
  released: Set<string>;
  comeBack: Set<string>;
  inFlight: Map<string, number>;
};

/** A pod about which nothing has been done yet. */
export function freshWork(): MutableWork {
  return {
    prepared: false,
    prepareFailure: undefined,
    mounted: false,
    mountFailure: undefined,
    mountingSince: undefined,
    unmounted: false,
    cgroupRemoved: false,
    sandboxFailure: undefined,
    resizeFailure: undefined,
    podSize: undefined,
    images: new Map(),
    failures: new Map(),
    crashes: new Map(),
    resets: new Map(),
    stuck: new Map(),
    preStopped: new Set(),
    stopSince: new Map(),
    released: new Set(),
    comeBack: new Set(),
    inFlight: new Map(),
  };
}

/** Forgets what was known of containers and sandboxes that are no more: a container that is restarted for years is a new one each time. */
export function forgetGone(work: MutableWork, failureCounts: Map<string, number>, held: RuntimePod): void {
  const ids = new Set([...held.containers, ...held.sandboxes].map(({ id }) => id));
  for (const known of [work.preStopped, work.comeBack, work.released, work.stopSince, work.stuck])
    for (const id of [...known.keys()]) if (!ids.has(id)) known.delete(id);
  for (const key of [...failureCounts.keys()]) {
    const [kind = '', id = ''] = key.split(':');
    if (aboutAnId.has(kind) && !ids.has(id)) failureCounts.delete(key);
  }
}

const aboutAnId: ReadonlySet<string> = new Set<PodAction['kind']>([
  'stopContainer',
  'removeContainer',
  'resetContainer',
  'preStop',
  'stopSandbox',
  'removeSandbox',
]);

/** Notes what an action that succeeded has brought about. */
export function noteSuccess(work: MutableWork, action: PodAction, result: ActionResult | undefined): void {
  switch (action.kind) {
    case 'prepare':
      work.prepared = true;
      work.prepareFailure = undefined;
      break;
    case 'mountVolumes':
      work.mounted = true;
      work.mountFailure = undefined;
      work.mountingSince = undefined;
      break;
    case 'unmountVolumes':
      work.unmounted = true;
      work.mountFailure = undefined;
      break;
    case 'removeCgroup':
      work.cgroupRemoved = true;
      break;
    case 'createSandbox':
      work.sandboxFailure = undefined;
      break;
    case 'stopSandbox':
      work.sandboxFailure = undefined;
      work.released.add(action.id);
      break;
    case 'resizePod':
      work.podSize = action.to;
      work.resizeFailure = undefined;
      break;
    case 'pullImage':
      if (result?.kind === 'image')
        work.images.set(action.container, { attempt: action.attempt, image: action.image, imageRef: result.imageRef });
      work.failures.delete(action.container);
      break;
    case 'startContainer':
      work.failures.delete(action.container);
      work.resets.delete(action.container);
      break;
    case 'resetContainer': {
      const known = work.resets.get(action.container);
      work.resets.set(action.container, {
        attempt: Math.max(known?.attempt ?? 0, action.restartCount + 1),
        endedAt: action.sourceEnd ?? known?.endedAt,
      });
      work.failures.delete(action.container);
      work.stuck.delete(action.id);
      break;
    }
    case 'stopContainer':
    case 'removeContainer':
    case 'removeSandbox':
      work.stuck.delete(action.id);
      break;
    case 'preStop':
      work.preStopped.add(action.id);
      break;
    default:
      break;
  }
}

/** Notes why an action failed, and so what waits for its retry. */
export function noteFailure(work: MutableWork, action: PodAction, failure: StepFailure): void {
  switch (action.kind) {
    case 'prepare':
    case 'purge':
    case 'removeCgroup':
      work.prepareFailure = failure;
      break;
    case 'mountVolumes':
    case 'unmountVolumes':
      work.mountFailure = failure;
      break;
    case 'createSandbox':
    case 'stopSandbox':
      work.sandboxFailure = failure;
      break;
    case 'resizePod':
      work.resizeFailure = failure;
      break;
    case 'pullImage':
      work.failures.set(action.container, failure);
      break;
    case 'startContainer':
      work.failures.set(action.container, failure);
      // Another start looks at the image anew: it may have been removed meanwhile.
      work.images.delete(action.container);
      break;
    case 'stopContainer':
    case 'removeContainer':
    case 'removeSandbox':
    case 'resetContainer':
      work.stuck.set(action.id, { ...failure, tries: (work.stuck.get(action.id)?.tries ?? 0) + 1 });
      break;
    case 'preStop':
      work.preStopped.add(action.id);
      break;
    default:
      break;
  }
}

/** True for actions after which the runtime is to be looked at. */
export function touchesRuntime(action: PodAction): boolean {
  switch (action.kind) {
    case 'createSandbox':
    case 'stopSandbox':
    case 'removeSandbox':
    case 'startContainer':
    case 'stopContainer':
    case 'removeContainer':
    case 'resetContainer':
    case 'resizePod':
    case 'purge':
      return true;
    default:
      return false;
  }
}

/** Under which name failures in a row of an action are counted. */
export function failureKey(action: PodAction): string {
  if ('id' in action) return `${action.kind}:${action.id}`;
  return 'container' in action ? `${action.kind}:${action.container}` : action.kind;
}

/** An action in a word or two, for people. */
export function stepName(action: PodAction): string {
  return 'container' in action ? `${action.kind} ${action.container}` : action.kind;
}
