// What a pod of the comparison is, and when enough has been seen of it.
import type { ContainerStatus, Event, Pod, PodSpec } from '../../agent/model/generated/api.ts';

/** When a step is over, on each side for itself. */
export type Until =
  /** The pod is Ready. */
  | 'ready'
  /** The phase is Succeeded or Failed. */
  | 'ended'
  /** The API knows the pod no more. */
  | 'gone'
  /** A container of any kind waits for this reason. */
  | { readonly waiting: string }
  /** The node has recorded an event with this reason. */
  | { readonly event: string }
  /** A container of any kind has been started so often again. */
  | { readonly restarts: number }
  /** The container of this name runs. */
  | { readonly running: string }
  /** A condition of this type has this status, and this reason where one is given. */
  | { readonly condition: string; readonly status: string; readonly reason?: string }
  /** All of them. */
  | { readonly all: readonly Until[] };

/** What is done to a pod on both sides. */
export type Act =
  | { readonly act: 'delete'; readonly graceSeconds?: number }
  | { readonly act: 'patch'; readonly patch: object; readonly subresource?: 'status' | 'resize' | 'ephemeralcontainers' }
  /** Makes objects of the namespace. */
  | { readonly act: 'create'; readonly objects: readonly NamespacedObject[] }
  /** Takes away what `finalizers` held. */
  | { readonly act: 'unhold' };

export type Step = Act & { readonly until: Until };

export type NamespacedObject = {
  readonly kind: 'ConfigMap' | 'Secret' | 'Service' | 'ServiceAccount' | 'PersistentVolumeClaim';
  readonly name: string;
  readonly body: object;
};

export type Case = {
  /** Also the pod's name. */
  readonly name: string;
  readonly spec: PodSpec;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly finalizers?: readonly string[];
  /** Default: ready. */
  readonly until?: Until;
  /** What is done after that, one after the other. */
  readonly steps?: readonly Step[];
  /** It never rests: all that was told of it counts, not only how it is told in the end. */
  readonly loops?: boolean;
  /** Comes from a manifest on the node instead of from the API. */
  readonly isStatic?: boolean;
};

export const statusesOf = (pod: Pod | undefined): ContainerStatus[] => [
  ...(pod?.status?.initContainerStatuses ?? []),
  ...(pod?.status?.containerStatuses ?? []),
  ...(pod?.status?.ephemeralContainerStatuses ?? []),
];

/** True when the step is over; `pod` is undefined once it is gone. */
export function isReached(until: Until, pod: Pod | undefined, events: readonly Event[]): boolean {
  if (until === 'gone') return pod === undefined;
  if (until === 'ready') return pod?.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') === true;
  if (until === 'ended') return pod?.status?.phase === 'Succeeded' || pod?.status?.phase === 'Failed';
  if ('all' in until) return until.all.every((each) => isReached(each, pod, events));
  if ('waiting' in until) return statusesOf(pod).some(({ state }) => state?.waiting?.reason === until.waiting);
  if ('event' in until) return events.some(({ reason }) => reason === until.event);
  if ('restarts' in until) return statusesOf(pod).some(({ restartCount }) => restartCount >= until.restarts);
  if ('running' in until) return statusesOf(pod).some(({ name, state }) => name === until.running && state?.running !== undefined);
  return (
    pod?.status?.conditions?.some(
      ({ type, status, reason }) =>
        type === until.condition && status === until.status && (until.reason === undefined || reason === until.reason),
    ) === true
  );
}

/** For people. */
export const untilText = (until: Until): string => (typeof until === 'string' ? until : JSON.stringify(until));
