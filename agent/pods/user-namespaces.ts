import type { UserNamespace } from '../../cri-protos/generated/cri.ts';
import { AgentError } from '../base/errors.ts';
import type { AgentPod } from '../model/pod.ts';

// Pods with `hostUsers: false`: each gets a range of the node's user IDs of its own, onto which the IDs in its containers are mapped from 0 up.

/** IDs of the node that pods' users may be mapped onto, and how many of them a pod gets; all are multiples of `perPod`. */
export interface IdPool {
  readonly first: number;
  readonly length: number;
  readonly perPod: number;
}

/** The name of the file in a pod's folder that remembers its range: kubelet's own, so that either takes over from the other. */
export const mappingsFile = 'userns';

const allIds = 2 ** 32;

/**
 * The pool that the node has: what /etc/subuid and /etc/subgid (which must agree) give to the user `kubelet`, or all but the first `perPod` IDs where
 * there is no such user or both files leave it out. Throws AgentError InvalidUserNamespaces with what is wrong.
 */
export function idPool(perPod: number, maxPods: number, files: { passwd: string; subuid: string; subgid: string }): IdPool {
  const uid = /^kubelet:[^:]*:(\d+):/m.exec(files.passwd)?.[1];
  const uids = rangesOf(files.subuid, uid);
  const gids = rangesOf(files.subgid, uid);
  // A user of that name alone says nothing of IDs: a kubelet too takes the default then, where no tool for subordinate IDs is installed.
  if (uid === undefined || (uids.length === 0 && gids.length === 0)) return { first: perPod, length: allIds - perPod, perPod };
  const refuse = (why: string): never => {
    throw new AgentError('InvalidUserNamespaces', `user namespaces: ${why}; mend the lines of user kubelet in /etc/subuid and /etc/subgid`);
  };
  if (uids.length !== 1 || uids.join() !== gids.join()) return refuse('user kubelet needs one range, the same for users and groups');
  const [first = 0, length = 0] = (uids[0] ?? '').split(':').map(Number);
  if (!/^\d+:\d+$/.test(uids[0] ?? '')) return refuse(`"${uids[0]}" is no range: a first ID and a length are needed`);
  if (first % perPod !== 0 || first < perPod) return refuse(`its first ID ${first} must be a multiple of ${perPod}, and not 0`);
  if (length % perPod !== 0) return refuse(`its length ${length} must be a multiple of ${perPod}`);
  if (length / perPod < maxPods) return refuse(`its length ${length} is not enough for ${maxPods} pods`);
  return { first, length, perPod };
}

/** `first:length` of the lines of user kubelet, by name or by number (subuid(5)); whatever else such a line holds is no range, and is refused as one. */
function rangesOf(text: string, uid: string | undefined): string[] {
  return text.split('\n').flatMap((line) => {
    const [owner, ...range] = line.trim().split(':');
    return owner === 'kubelet' || owner === uid ? range.join(':') : [];
  });
}

/**
 * The first ID of a range that nobody has; undefined when all are taken. The search begins at the share `random` (0 to 1) of the pool, as kubelet's begins anywhere:
 * pods of different nodes that share files are then hardly ever the same users to them.
 */
export function freeRange(pool: IdPool, taken: ReadonlySet<number>, random: number): number | undefined {
  const ranges = Math.floor(pool.length / pool.perPod);
  const start = Math.floor(random * ranges);
  for (let tried = 0; tried < ranges; tried++) {
    const first = pool.first + ((start + tried) % ranges) * pool.perPod;
    if (!taken.has(first)) return first;
  }
  return undefined;
}

/** The content of `mappingsFile`. */
export function formatMappings(first: number, length: number): string {
  const mapping = [{ hostId: first, containerId: 0, length }];
  return JSON.stringify({ uidMappings: mapping, gidMappings: mapping });
}

/** The first ID of a remembered range. Throws AgentError InvalidUserNamespaces for a file that neither we nor a kubelet wrote for this pool. */
export function parseMappings(text: string, pool: IdPool): number {
  const refuse = (why: string): never => {
    throw new AgentError('InvalidUserNamespaces', `invalid user namespace configuration: ${why}`);
  };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return refuse('it is not JSON');
  }
  const { uidMappings, gidMappings } = value as Record<string, { hostId?: number; containerId?: number; length?: number }[] | undefined>;
  const [mapping, ...others] = uidMappings ?? [];
  if (mapping === undefined || others.length > 0) return refuse('one mapping is needed');
  if (JSON.stringify(uidMappings) !== JSON.stringify(gidMappings)) return refuse('the mappings of users and groups should be identical');
  if (mapping.containerId !== 0) return refuse('user 0 must be mapped');
  if (mapping.length !== pool.perPod) return refuse(`its length is ${mapping.length}, and pods get ${pool.perPod} IDs each`);
  const first = mapping.hostId ?? -1;
  if (first % pool.perPod !== 0 || first < pool.first || first + pool.perPod > pool.first + pool.length) {
    return refuse(`ID ${first} is not the first of a range that pods may have`);
  }
  return first;
}

/**
 * The first IDs of all ranges of the pool that a remembered mapping of whatever size reaches into: a pod that was given it under other settings may run
 * with it still, and nobody else may get any of it. None for a text that says nothing of IDs.
 */
export function reachedRanges(text: string, pool: IdPool): number[] {
  const mappings = [...text.matchAll(/"hostId"\s*:\s*(\d+)[^}]*?"length"\s*:\s*(\d+)/g)];
  return mappings.flatMap(([, hostId, length]) => {
    const from = Math.max(pool.first, Number(hostId) - (Number(hostId) % pool.perPod));
    const to = Math.min(pool.first + pool.length, Number(hostId) + Number(length));
    return Array.from({ length: Math.max(0, Math.ceil((to - from) / pool.perPod)) }, (_, i) => from + i * pool.perPod);
  });
}

/** True when the pod wants users of its own. */
export function wantsUserNamespace(pod: AgentPod): boolean {
  return pod.spec.hostUsers === false;
}

/** The runtime's words for a pod's range. */
export function userNamespace(first: number, length: number): UserNamespace {
  const mapping = [{ host_id: first, container_id: 0, length }];
  return { mode: 'POD', uids: mapping, gids: mapping };
}

/** Why a pod with `hostUsers: false` cannot run under this runtime handler; the words up to the bracket are kubelet's. */
export function unsupportedUserNamespaces(handler: string): AgentError {
  const runtime = handler === '' ? 'runtime' : `RuntimeClass handler "${handler}"`;
  return new AgentError(
    'FailedCreatePodSandBox',
    `can't set \`spec.hostUsers: false\`, ${runtime} does not support user namespaces (containerd 2 with runc 1.2 and Linux 6.3 does; or leave spec.hostUsers out)`,
  );
}
