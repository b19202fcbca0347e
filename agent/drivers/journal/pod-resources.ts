import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { ResourceRequirements } from '../../model/generated/api.ts';

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
  for (const [uid, { containers, pod }] of pods) entries[uid] = { ContainerResources: containers, PodLevelResources: pod ?? null };
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

// FNV-1a 32 over Go's `%#v` of the string as spew prints it (pkg/util/hash DeepHashObject).
function checksum(data: string): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(`(string)${data}`, 'utf8')) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

/**
 * Opens one of the files. One that cannot be read is put aside as `.broken` and logged: the pods that run then keep what their specs ask for, which is
 * what they have unless a resize was under way.
 */
export async function openPodResources(path: string, log: Log): Promise<PodResourcesFile> {
  const temporary = `${path}.tmp`;
  await rm(temporary, { force: true });
  let pods = new Map<string, PodResources>();
  try {
    pods = decodePodResources(await readFile(path, 'utf8'));
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) {
      log.error({ file: path, err: messageOf(error) }, 'checkpoint cannot be read and is put aside');
      await rename(path, `${path}.broken`);
    }
  }

  let dirty = false;
  let writing: Promise<void> | undefined;
  let failing = false;

  async function write(): Promise<void> {
    while (dirty) {
      dirty = false;
      try {
        await writeFile(temporary, encodePodResources(pods), { mode: 0o600 });
        await rename(temporary, path);
        failing = false;
      } catch (error) {
        // It stays in memory and is written with the next change: that matters only if the agent is restarted before.
        if (!failing) log.error({ file: path, err: messageOf(error) }, 'checkpoint cannot be written');
        failing = true;
      }
    }
  }

  function touch(): void {
    dirty = true;
    writing ??= write().finally(() => {
      writing = undefined;
      if (dirty) touch();
    });
  }

  return {
    get: (uid) => pods.get(uid),
    set(uid, resources) {
      pods.set(uid, resources);
      touch();
    },
    delete(uid) {
      if (pods.delete(uid)) touch();
    },
    prune(known) {
      const before = pods.size;
      for (const uid of pods.keys()) if (!known(uid)) pods.delete(uid);
      if (pods.size !== before) touch();
    },
    async [Symbol.asyncDispose]() {
      while (writing !== undefined) await writing;
    },
  };
}
