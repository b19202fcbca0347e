import type { BackoffPolicy } from '../base/backoff.ts';
import type { Container, PodSpec } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';
import { containerHash } from './labels.ts';
import type { RuntimeContainer } from './observed.ts';

/** What a matching rule of `restartPolicyRules` asks for on this exit code, if any. */
export function matchingRestartAction(container: Container, exitCode: number): string | undefined {
  for (const rule of container.restartPolicyRules ?? []) {
    const codes = rule.exitCodes;
    if (codes === undefined) continue;
    const listed = (codes.values ?? []).includes(exitCode);
    if (codes.operator === 'In' ? listed : codes.operator === 'NotIn' && !listed) return rule.action;
  }
  return undefined;
}

/** True when a container that ended with this code is to be started again: its own rules and policy first, then the pod's. */
export function shouldRestart(container: Container, spec: PodSpec, exitCode: number): boolean {
  if (container.restartPolicy !== undefined) {
    const action = matchingRestartAction(container, exitCode);
    if (action === 'Restart' || action === 'RestartAllContainers') return true;
  }
  switch (container.restartPolicy ?? spec.restartPolicy ?? 'Always') {
    case 'Never':
      return false;
    case 'OnFailure':
      return exitCode !== 0;
    default:
      return true;
  }
}

/** True when a running container that has to be stopped (a failed probe, a changed image) is to come back. */
export function restartsAfterKill(container: Container, spec: PodSpec): boolean {
  return (container.restartPolicy ?? spec.restartPolicy ?? 'Always') !== 'Never';
}

/** True when the container, as it stands, is to be started: never started, lost, or ended in a way its policy answers with a restart. */
export function shouldStart(container: Container, spec: PodSpec, latest: RuntimeContainer | undefined): boolean {
  if (latest === undefined) return true;
  switch (latest.state) {
    case 'running':
      return false;
    case 'created':
    case 'unknown':
      return true;
    case 'exited':
      return latest.comesBack === true || shouldRestart(container, spec, latest.exitCode);
  }
}

/** A container's name, image and resources in short: what makes it another one for the back-off (kuberuntime GetBackoffKey). */
export function backoffKey(container: Container): string {
  const { requests, limits } = container.resources ?? {};
  const hash = containerHash(container);
  return requests === undefined && limits === undefined ? hash : `${hash} ${JSON.stringify([requests, limits])}`;
}

/** Crash-loop back-off of one container: how many quick ends in a row, and until when the next start waits. */
export interface CrashBackoff {
  readonly delayMs: number;
  /** When that delay was last advanced (wall, ms). */
  readonly updatedAt: number;
  /** What a changed container differs in (`backoffKey`): it starts with a clean slate. */
  readonly hash: string;
}

// A container that stayed up this long after its last counted end starts with a clean slate (pkg/kubelet/kubelet.go MaxCrashLoopBackOff × 2).
const stableMs = 600_000;

/**
 * The back-off as kubelet keeps it (client-go flowcontrol.Backoff): the first restart is free and sets the delay to `initialMs`; each further one doubles
 * it up to `maxMs`; a container that then ran for ten minutes starts afresh. `finishedAt` is when the last instance ended; all times are wall, ms.
 */
export function advanceBackoff(
  policy: BackoffPolicy,
  last: CrashBackoff | undefined,
  hash: string,
  finishedAt: number,
  now: number,
): CrashBackoff {
  const delayMs = counts(last, hash, finishedAt) ? Math.min(last.delayMs * 2, policy.maxMs) : policy.initialMs;
  return { delayMs, updatedAt: now, hash };
}

/** When (wall, ms) the next start of a container of this hash is allowed; undefined when it is now. */
export function backoffUntil(last: CrashBackoff | undefined, hash: string, finishedAt: number, now: number): number | undefined {
  if (!counts(last, hash, finishedAt)) return undefined;
  const until = finishedAt + last.delayMs;
  return until > now ? until : undefined;
}

function counts(last: CrashBackoff | undefined, hash: string, finishedAt: number): last is CrashBackoff {
  return last !== undefined && last.hash === hash && finishedAt - last.updatedAt <= stableMs;
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
