import fs from 'node:fs';
import path from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { AgentError } from '../../base/errors.ts';
import { fromFsError, isErrno } from '../sys/errno.ts';
import type { Mounts } from './mounts.ts';
import type { RemoveOptions } from './remove-tree.ts';
import { listVolumes, type VolumeOnDisk } from './volume-disk.ts';

// How a pod's folder goes. What is in it may be somebody else's: a volume that another program has mounted, a folder of the machine bound by subPath. So only
// what this agent keeps is removed with what is in it; the rest goes as single, empty entries, or stays.

export interface Remover {
  readonly mounts: Pick<Mounts, 'removeTree' | 'listUnder'>;
  readonly clock: Clock;
}

// How long one go may take before the pod says so, milliseconds; a million files take half of it on a slow disk.
const oneGoMs = 60_000;

/**
 * Removes all that belongs to a pod's volumes: those of `own` plugins with their content, others' only when they are empty, the places of subPaths one by
 * one. Nothing may be mounted there any more. Absence is success. Throws AgentError: NotEmpty or Busy names what stays, DeadlineExceeded tells how far it is.
 */
export async function removeVolumes(podDir: string, own: ReadonlySet<string>, remover: Remover, signal: AbortSignal): Promise<void> {
  removeSubPaths(path.join(podDir, 'volume-subpaths'));
  await inOneGo(`the volumes in ${podDir}`, remover, signal, async (remove) => {
    for (const volume of listVolumes(podDir)) {
      if (own.has(volume.plugin)) await remove(volume.path);
      else removeForeignVolume(volume);
    }
    await remove(path.join(podDir, 'plugins'));
    await remove(path.join(podDir, 'volumes'), { foldersOnly: true });
  });
}

/** Removes what is left of a pod. Throws AgentError: Busy while anything is mounted below, NotEmpty while a volume holds something, DeadlineExceeded. */
export async function removePodFolder(podDir: string, remover: Remover, signal: AbortSignal): Promise<void> {
  const left = await remover.mounts.listUnder(podDir);
  if (left.length > 0)
    throw new AgentError('Busy', `pod folder ${podDir} stays: ${left.map((m) => m.mountPoint).join(', ')} still mounted below it`);
  await inOneGo(podDir, remover, signal, async (remove) => {
    for (const name of ['volumes', 'volume-subpaths']) await remove(path.join(podDir, name), { foldersOnly: true });
    await remove(podDir);
  });
}

/** Removes a folder that only this node and its runtime write to. Throws AgentError, DeadlineExceeded among them. */
export async function removeFolder(folder: string, remover: Remover, signal: AbortSignal): Promise<void> {
  await inOneGo(folder, remover, signal, (remove) => remove(folder));
}

/** Bounds one go, so that whoever waits for the end learns how far it is: what is gone stays gone, and the next go continues. */
async function inOneGo(
  what: string,
  { mounts, clock }: Remover,
  signal: AbortSignal,
  run: (remove: (at: string, options?: RemoveOptions) => Promise<void>) => Promise<void>,
): Promise<void> {
  using deadline = clock.deadline(signal, oneGoMs);
  let before = 0;
  let here = 0;
  const progress = (removed: number): void => {
    here = removed;
  };
  try {
    await run(async (at, options) => {
      await mounts.removeTree(at, { ...options, progress }, deadline.signal);
      before += here;
      here = 0;
    });
  } catch (error) {
    if (signal.aborted || !deadline.signal.aborted) throw error;
    const far = `some ${before + here} files and folders are gone since, and it goes on`;
    throw new AgentError('DeadlineExceeded', `removing ${what} takes longer than ${oneGoMs / 1000} s: ${far}`, { cause: error });
  }
}

/** `volume-subpaths/<volume>/<container>/<index>`: empty files and folders that something was bound on. */
function removeSubPaths(dir: string): void {
  attempt(`cannot remove ${dir}`, () => {
    for (const volume of namesIn(dir)) {
      for (const container of namesIn(path.join(dir, volume))) {
        const at = path.join(dir, volume, container);
        for (const index of namesIn(at)) removeOne(path.join(at, index));
        removeOne(at);
      }
      removeOne(path.join(dir, volume));
    }
    removeOne(dir);
  });
}

/** A volume that another program has set up, and has taken away: an empty folder, or what a kubelet keeps of a CSI volume (pkg/volume/csi, TearDownAt). */
function removeForeignVolume({ plugin, name, path: at }: VolumeOnDisk): void {
  try {
    if (plugin === 'kubernetes.io~csi') {
      removeOne(path.join(at, 'mount'));
      removeOne(path.join(at, 'vol_data.json'));
    }
    removeOne(at);
  } catch (error) {
    if (!isErrno(error, 'ENOTEMPTY', 'EEXIST')) throw fromFsError(error, `cannot remove volume ${name} of ${plugin}`);
    throw new AgentError('NotEmpty', `volume ${name} of ${plugin} is not mounted, and has something in it: look at ${at}, and empty it`, {
      cause: error,
    });
  }
}

/** Removes a file, a link or an empty folder. Absence is success. */
function removeOne(at: string): void {
  try {
    if (fs.lstatSync(at).isDirectory()) fs.rmdirSync(at);
    else fs.unlinkSync(at);
  } catch (error) {
    if (!isErrno(error, 'ENOENT', 'ENOTDIR')) throw error;
  }
}

function namesIn(at: string): string[] {
  try {
    return fs.readdirSync(at);
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return [];
    throw error;
  }
}

function attempt(what: string, run: () => void): void {
  try {
    run();
  } catch (error) {
    throw fromFsError(error, what);
  }
}
