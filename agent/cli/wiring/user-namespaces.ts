import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { UserNamespace } from '../../../cri-protos/generated/cri.ts';
import { AgentError, hasCode, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { writeAtomically } from '../../drivers/files/atomic.ts';
import { readText } from '../../drivers/files/look.ts';
import type { AgentPod } from '../../model/pod.ts';
import { uidAsName } from '../../model/pod-uid.ts';
import {
  formatMappings,
  freeRange,
  idPool,
  mappingsFile,
  parseMappings,
  reachedRanges,
  unsupportedUserNamespaces,
  userNamespace,
  wantsUserNamespace,
} from '../../pods/user-namespaces.ts';

export interface UserNamespacesOptions {
  /** `<root-dir>/pods`. */
  readonly podsDir: string;
  readonly idsPerPod: number;
  readonly maxPods: number;
  /** Whether a runtime handler can give pods users of their own. */
  readonly supported: (handler: string) => boolean;
  readonly log: Log;
}

/** Ranges of user IDs by pod, remembered in the pods' folders. */
export interface UserNamespaces {
  /** The pod's range, chosen and written down at the first asking; undefined for a pod on the host's users. Its folder must exist. Throws with the fix. */
  of(pod: AgentPod, handler: string): Promise<UserNamespace | undefined>;
  release(uid: string): void;
}

async function textOf(path: string): Promise<string> {
  return await readText(path).catch((error: unknown) => {
    if (hasCode(error, 'NotFound') || hasCode(error, 'NotADirectory')) return '';
    throw error;
  });
}

/** Opens what earlier runs of the agent, or a kubelet, have given out. Throws AgentError InvalidUserNamespaces for a node whose IDs are set up wrongly. */
export async function openUserNamespaces(options: UserNamespacesOptions): Promise<UserNamespaces> {
  const { podsDir, idsPerPod, log } = options;
  const [passwd, subuid, subgid] = await Promise.all([textOf('/etc/passwd'), textOf('/etc/subuid'), textOf('/etc/subgid')]);
  const pool = idPool(idsPerPod, options.maxPods, { passwd, subuid, subgid });
  const ranges = new Map<string, number>();
  // Pods that were given theirs under other settings: why they can have none now, and what they may hold.
  const foreign = new Map<string, { readonly why: string; readonly reached: readonly number[] }>();
  const uids = await readdir(podsDir).catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  });
  for (const uid of uids) {
    const text = await textOf(join(podsDir, uid, mappingsFile));
    if (text === '') continue;
    try {
      ranges.set(uid, parseMappings(text, pool));
    } catch (error) {
      foreign.set(uid, { why: messageOf(error), reached: reachedRanges(text, pool) });
      log.warn({ podUid: uid, err: messageOf(error) }, 'user namespace of a pod is not what this node gives out');
    }
  }

  return {
    async of(pod, handler) {
      if (!wantsUserNamespace(pod)) return undefined;
      const { uid } = pod.metadata;
      // A pod that has its range may run already, and keeps it while the runtime has not been asked yet what it can.
      const known = ranges.get(uid);
      if (known !== undefined) return userNamespace(known, idsPerPod);
      const other = foreign.get(uid);
      if (other !== undefined) {
        // Its files and processes have those users: another range would not fit them.
        throw new AgentError(
          'FailedCreatePodSandBox',
          `user namespace: ${other.why}; undo the change of userNamespaces.idsPerPod or /etc/subuid, or replace the pod`,
        );
      }
      if (!options.supported(handler)) throw unsupportedUserNamespaces(handler);
      const first = freeRange(
        pool,
        new Set([...ranges.values(), ...[...foreign.values()].flatMap(({ reached }) => reached)]),
        Math.random(),
      );
      if (first === undefined) {
        throw new AgentError('FailedCreatePodSandBox', 'create user namespace: could not find an empty slot to allocate a user namespace');
      }
      // Taken before anything is waited for, so that no other pod gets it.
      ranges.set(uid, first);
      const path = join(podsDir, uidAsName(uid), mappingsFile);
      try {
        await writeAtomically(path, formatMappings(first, idsPerPod), { mode: 0o600 });
      } catch (error) {
        ranges.delete(uid);
        throw new AgentError('FailedCreatePodSandBox', `create user namespace: ${messageOf(error)}`, { cause: error });
      }
      return userNamespace(first, idsPerPod);
    },
    release(uid) {
      ranges.delete(uid);
      foreign.delete(uid);
    },
  };
}
