import { isIPv6 } from 'node:net';
import type { ContainerStatus as CriContainerStatus } from '../../cri-protos/generated/cri.ts';
import type { ContainerStatus } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';

/** A container as the runtime tells it. Times are milliseconds since the epoch, 0 where the runtime has none. */
export interface RuntimeContainer {
  readonly id: string;
  readonly name: string;
  readonly sandboxId: string;
  readonly state: 'created' | 'running' | 'exited' | 'unknown';
  /** How many times the container was restarted before this instance (kubelet's annotation). */
  readonly restartCount: number;
  /** Hash of name and image at creation; empty when whoever made it left none. */
  readonly hash: string;
  readonly createdAt: number;
  readonly startedAt: number;
  readonly finishedAt: number;
  readonly exitCode: number;
  /** It was stopped in order to be started again, whatever code it ended with; the agent's own knowledge, not the runtime's. */
  readonly comesBack?: boolean;
  readonly reason: string;
  readonly message: string;
  readonly image: string;
  readonly imageRef: string;
  readonly imageId: string;
  readonly logPath: string;
  /** What the pod's spec said when the container was made, in seconds; kept for pods whose spec is gone. */
  readonly terminationGraceSeconds: number | undefined;
  readonly user: { uid: number; gid: number; supplementalGroups: number[] } | undefined;
  readonly resources: NonNullable<NonNullable<CriContainerStatus['resources']>['linux']> | undefined;
}

/** A sandbox as the runtime tells it. */
export interface RuntimeSandbox {
  readonly id: string;
  readonly ready: boolean;
  readonly attempt: number;
  readonly createdAt: number;
  readonly hostNetwork: boolean;
  /** Pod addresses, the runtime's order; empty for host network or before the network is up. */
  readonly ips: readonly string[];
  readonly runtimeHandler: string;
}

/** Everything the runtime holds of one pod: sandboxes newest first, containers by name and of each name newest first. */
export interface RuntimePod {
  readonly uid: string;
  readonly name: string;
  readonly namespace: string;
  readonly sandboxes: readonly RuntimeSandbox[];
  readonly containers: readonly RuntimeContainer[];
}

/** The reason that statuses show for the end of a container that the runtime no longer knows (pkg/kubelet/container ContainerReasonStatusUnknown). */
export const lostReason = 'ContainerStatusUnknown';
/** And its exit code: it may have been killed. */
export const lostExitCode = 137;

/** The reason that statuses show for containers that were taken away so that they start anew (pkg/kubelet RestartingAllContainers). */
export const restartingAllReason = 'RestartingAllContainers';

/**
 * With which code a container that the runtime does not have ended, as far as its status tells. What ran and is nowhere any more has ended, nobody knows
 * how: it counts as killed, and is not run again against its policy. One that waits after an end is judged by that end (it has waited for the pod's new
 * sandbox when the runtime lost it), unless it was taken away in order to start anew.
 */
export function lostEnd(published: ContainerStatus | undefined): number | undefined {
  const { state, lastState } = published ?? {};
  if (state?.running !== undefined) return lostExitCode;
  return (state?.terminated ?? (lastState?.terminated?.reason === restartingAllReason ? undefined : lastState?.terminated))?.exitCode;
}

/** The newest instance of a container, whatever its state. */
export function latestContainer(runtime: RuntimePod | undefined, name: string): RuntimeContainer | undefined {
  return runtime?.containers.find((c) => c.name === name);
}

/** The sandbox that containers may start in: the newest one, if it is ready and the only ready one. */
export function usableSandbox(runtime: RuntimePod | undefined): RuntimeSandbox | undefined {
  const newest = runtime?.sandboxes[0];
  if (newest === undefined || !newest.ready) return undefined;
  if (!newest.hostNetwork && newest.ips.length === 0) return undefined;
  return newest;
}

/** True once any app container of the current sandbox exists: initialisation is then history. */
export function hasInitialized(pod: AgentPod, runtime: RuntimePod): boolean {
  const sandboxId = runtime.sandboxes[0]?.id;
  return pod.spec.containers.some((c) => {
    const latest = latestContainer(runtime, c.name);
    return latest !== undefined && (latest.state === 'running' || latest.sandboxId === sandboxId);
  });
}

/** The addresses of a pod, the node's own family first (kubernetes#97979): one of each family, as the API takes no more of a pod. */
export function podAddresses(ips: readonly string[], nodeIp: string | undefined): string[] {
  const preferV6 = nodeIp !== undefined && isIPv6(nodeIp);
  return [preferV6, !preferV6].flatMap((v6) => ips.find((ip) => isIPv6(ip) === v6) ?? []);
}

/** True while any container runs, or may: a created or unknown one may yet turn out to run. */
export function mayRun(runtime: RuntimePod | undefined): boolean {
  return runtime?.containers.some((c) => c.state === 'running' || c.state === 'unknown') ?? false;
}
