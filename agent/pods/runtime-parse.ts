import { isIP } from 'node:net';
import type { ContainerStatus, PodSandbox, PodSandboxStatus } from '../../cri-protos/generated/cri.ts';
import {
  containerHashAnnotation,
  containerNameLabel,
  podNameLabel,
  podNamespaceLabel,
  podUidLabel,
  restartCountAnnotation,
  terminationGracePeriodAnnotation,
} from './labels.ts';
import type { RuntimeContainer, RuntimePod, RuntimeSandbox } from './observed.ts';

/** Whose a sandbox or container is, by its labels; undefined for those that no Kubernetes node agent made. */
export function ownerOf(labels: Record<string, string> | undefined): { uid: string; name: string; namespace: string } | undefined {
  const uid = labels?.[podUidLabel];
  const name = labels?.[podNameLabel];
  const namespace = labels?.[podNamespaceLabel];
  return uid === undefined || name === undefined || namespace === undefined ? undefined : { uid, name, namespace };
}

// The CRI tells times in nanoseconds since the epoch, 0 for none.
const toMs = (ns: number | undefined): number => Math.floor((ns ?? 0) / 1e6);

/** A container from its CRI status. `terminationMessage` is what the container left in its message file or, by policy, its log. */
export function parseContainer(status: ContainerStatus, sandboxId: string, terminationMessage: string): RuntimeContainer {
  const annotations = status.annotations ?? {};
  const grace = annotations[terminationGracePeriodAnnotation];
  const user = status.user?.linux;
  return {
    id: status.id ?? '',
    name: status.labels?.[containerNameLabel] ?? status.metadata?.name ?? '',
    sandboxId,
    state: wasCutShort(status) ? 'created' : containerState(status.state),
    restartCount: count(annotations[restartCountAnnotation]) ?? status.metadata?.attempt ?? 0,
    hash: annotations[containerHashAnnotation] ?? '',
    createdAt: toMs(status.created_at),
    startedAt: toMs(status.started_at),
    finishedAt: toMs(status.finished_at),
    exitCode: status.exit_code ?? 0,
    reason: status.reason ?? '',
    message: [status.message ?? '', terminationMessage].filter((m) => m !== '').join(': '),
    image: status.image?.user_specified_image || status.image?.image || '',
    imageRef: status.image_ref ?? '',
    imageId: status.image_id ?? '',
    logPath: status.log_path ?? '',
    terminationGraceSeconds: count(grace),
    user: user === undefined ? undefined : { uid: user.uid ?? 0, gid: user.gid ?? 0, supplementalGroups: user.supplemental_groups ?? [] },
    resources: status.resources?.linux,
  };
}

/**
 * True for an ended container that was never told to have started, which counts as created and not started: whoever asked for its start was killed or gave
 * up in the middle of it (containerd 2.1 then says code 128, StartError, "… context canceled"), or the runtime itself was, and whatever code it ended with
 * when it was taken away afterwards says nothing. A start that failed by itself is a failure like any other.
 */
function wasCutShort(status: ContainerStatus): boolean {
  if (status.state !== 'CONTAINER_EXITED' || status.started_at !== 0) return false;
  return status.reason !== 'StartError' || status.message?.includes('context canceled') === true;
}

function containerState(state: ContainerStatus['state']): RuntimeContainer['state'] {
  switch (state) {
    case 'CONTAINER_CREATED':
      return 'created';
    case 'CONTAINER_RUNNING':
      return 'running';
    case 'CONTAINER_EXITED':
      return 'exited';
    default:
      return 'unknown';
  }
}

function count(text: string | undefined): number | undefined {
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
}

/** A sandbox from the list alone: enough for one that is not ready, whose network is gone. */
export function parseSandboxListing(sandbox: PodSandbox): RuntimeSandbox {
  return {
    id: sandbox.id ?? '',
    ready: sandbox.state === 'SANDBOX_READY',
    attempt: sandbox.metadata?.attempt ?? 0,
    createdAt: toMs(sandbox.created_at),
    hostNetwork: false,
    ips: [],
    runtimeHandler: sandbox.runtime_handler ?? '',
  };
}

/** A sandbox from its CRI status. Addresses that are none are left out. */
export function parseSandbox(status: PodSandboxStatus): RuntimeSandbox {
  const ips = [status.network?.ip, ...(status.network?.additional_ips ?? []).map((p) => p.ip)];
  return {
    id: status.id ?? '',
    ready: status.state === 'SANDBOX_READY',
    attempt: status.metadata?.attempt ?? 0,
    createdAt: toMs(status.created_at),
    hostNetwork: status.linux?.namespaces?.options?.network === 'NODE',
    ips: ips.filter((ip): ip is string => ip !== undefined && isIP(ip) !== 0),
    runtimeHandler: status.runtime_handler ?? '',
  };
}

/**
 * One pod's holdings, the newest of each name first: by attempt, which only grows. Times of creation say less: a node without a battery-backed clock boots
 * into the past, and what it made before would be the newest for as long.
 */
export function assemblePod(
  owner: { uid: string; name: string; namespace: string },
  sandboxes: readonly RuntimeSandbox[],
  containers: readonly RuntimeContainer[],
): RuntimePod {
  return {
    ...owner,
    sandboxes: sandboxes.toSorted((a, b) => b.attempt - a.attempt || b.createdAt - a.createdAt),
    containers: containers.toSorted((a, b) =>
      a.name === b.name ? b.restartCount - a.restartCount || b.createdAt - a.createdAt : a.name < b.name ? -1 : 1,
    ),
  };
}

/** The last 80 lines, at most 2 KiB, of a CRI log's text: the termination message of `FallbackToLogsOnError`. */
export function lastLogText(log: string): string {
  const lines = log.split('\n').filter((line) => line !== '');
  const text = lines
    .slice(-80)
    .map((line) => {
      // `time stream P|F text`
      const match = /^\S+ (?:stdout|stderr) ([PF])\S* (.*)$/.exec(line);
      return match === null ? '' : `${match[2]}${match[1] === 'F' ? '\n' : ''}`;
    })
    .join('');
  return text.length > 2048 ? text.slice(-2048) : text;
}
