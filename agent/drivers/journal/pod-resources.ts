import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import { setOwn } from '../../base/own.ts';
import type { ResourceRequirements } from '../../model/generated/api.ts';
import { fnv1a32 } from '../../model/go-hash.ts';
import { followFile, readLeft } from '../files/followed-file.ts';

// Kubelet's own checkpoints of what pods were given (`allocated_pods_state`, `actuated_pods_state` in its root directory), in its own format
// (pkg/kubelet/allocation/state/checkpoint.go), so that either agent can take the node over from the other.

/** Resources by container, and the pod's own. */
export interface PodResources {
  readonly containers: Readonly<Record<string, ResourceRequirements>>;
  readonly pod: ResourceRequirements | undefined;
}

/** One of the two files. Reading is from memory; writing happens behind, the whole file or not at all. */
export interface PodResourcesFile extends AsyncDisposable {
  get(uid: string): PodResources | undefined;
  set(uid: string, resources: PodResources): void;
  delete(uid: string): void;
  /** Forgets every pod that `known` does not know. */
  prune(known: (uid: string) => boolean): void;
}

interface Entry {
  ContainerResources?: Record<string, ResourceRequirements> | null;
  PodLevelResources?: ResourceRequirements | null;
}

/** The file's text for these pods. */
export function encodePodResources(pods: Iterable<[string, PodResources]>): string {
  const entries: Record<string, Entry> = {};
  for (const [uid, { containers, pod }] of pods) setOwn(entries, uid, { ContainerResources: containers, PodLevelResources: pod ?? null });
  const data = JSON.stringify(Object.keys(entries).length === 0 ? {} : { entries });
  return JSON.stringify({ data, checksum: checksum(data) });
}

/** The pods of the file's text. Throws an Error when it is not such a file or its checksum is wrong. */
export function decodePodResources(text: string): Map<string, PodResources> {
  const { data, checksum: told } = JSON.parse(text) as { data?: unknown; checksum?: unknown };
  if (typeof data !== 'string') throw new Error('it has no data');
  if (checksum(data) !== told) throw new Error('its checksum is wrong');
  const { entries } = JSON.parse(data) as { entries?: Record<string, Entry> | null };
  return new Map(
    Object.entries(entries ?? {}).map(([uid, entry]) => [
      uid,
      { containers: entry.ContainerResources ?? {}, pod: entry.PodLevelResources ?? undefined },
    ]),
  );
}

// Over Go's `%#v` of the string as spew prints it (pkg/util/hash DeepHashObject).
const checksum = (data: string): number => fnv1a32(`(string)${data}`);

/**
 * Opens one of the files. One that cannot be read is put aside as `.broken` and logged: the pods that run then keep what their specs ask for, which is
 * what they have unless a resize was under way.
 */
export async function openPodResources(path: string, clock: Clock, log: Log): Promise<PodResourcesFile> {
  const pods = (await readLeft(path, decodePodResources, new Map<string, PodResources>(), log)) ?? new Map<string, PodResources>();
  const file = followFile({ path, text: () => encodePodResources(pods), folderMode: 0o750, clock, log });
  return {
    get: (uid) => pods.get(uid),
    set(uid, resources) {
      pods.set(uid, resources);
      file.touch();
    },
    delete(uid) {
      if (pods.delete(uid)) file.touch();
    },
    prune(known) {
      const before = pods.size;
      for (const uid of pods.keys()) if (!known(uid)) pods.delete(uid);
      if (pods.size !== before) file.touch();
    },
    [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
  };
}
