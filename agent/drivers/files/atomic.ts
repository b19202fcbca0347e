import { constants } from 'node:fs';
import { mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { fromFsError, isErrno } from '../sys/errno.ts';

// The one writer of files that are to be whole or not there, after a crash of the machine too: a temporary file beside it, synced, renamed, and the folder synced.

/** A file to write; a text of undefined removes it. */
export interface FileChange {
  readonly path: string;
  readonly text: string | Uint8Array | undefined;
}

export interface AtomicOptions {
  /** Of the file. */
  readonly mode: number;
  /** Of the folder, which is made when it is missing. 0755 unless said. */
  readonly folderMode?: number | undefined;
}

/** The name of what was being written. One that an interrupted run left is replaced by the next write. */
export function temporaryPath(path: string): string {
  return `${path}.tmp`;
}

/** Writes one file, or replaces it. Throws AgentError, and then the file is as before. One writer a path at a time. */
export async function writeAtomically(path: string, text: string | Uint8Array, options: AtomicOptions): Promise<void> {
  const failed = (await changeAtomically([{ path, text }], options)).get(path);
  if (failed !== undefined) throw failed;
}

/**
 * Makes these changes, each whole or not at all; what could not be made comes back with its error, by path. Many at once cost little more than one: the file
 * system commits their syncs together, and each folder is synced once.
 */
export async function changeAtomically(changes: readonly FileChange[], options: AtomicOptions): Promise<Map<string, unknown>> {
  const failed = new Map<string, unknown>();
  const folders = new Map<string, FileChange[]>();
  for (const change of changes) {
    const folder = dirname(change.path);
    const together = folders.get(folder);
    if (together === undefined) folders.set(folder, [change]);
    else together.push(change);
  }
  for (const [folder, together] of folders) {
    try {
      const made = await mkdir(folder, { recursive: true, mode: options.folderMode ?? 0o755 });
      await Promise.all(
        together.map(async (change) => {
          await changeOne(change, options.mode).catch((error: unknown) => {
            failed.set(change.path, fromFsError(error, `cannot write ${change.path}`));
          });
        }),
      );
      await syncFolder(folder);
      // A folder that was just made has its name in the one above.
      for (let at = folder; made !== undefined && at.length >= made.length; at = dirname(at)) await syncFolder(dirname(at));
    } catch (error) {
      // Not known to be on the disk: to be made again.
      for (const { path } of together) if (!failed.has(path)) failed.set(path, fromFsError(error, `cannot write ${path}`));
    }
  }
  return failed;
}

async function changeOne({ path, text }: FileChange, mode: number): Promise<void> {
  if (text === undefined) {
    await rm(path, { force: true });
    return;
  }
  const temporary = temporaryPath(path);
  // Made anew: what lies there may be readable by more, or a link that somebody has laid.
  await rm(temporary, { force: true });
  try {
    {
      await using file = await open(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, mode);
      await file.writeFile(text);
      await file.sync();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** Syncs a folder: what was renamed, linked or removed in it is so after a crash of the machine. Throws what node:fs throws. */
export async function syncFolder(folder: string): Promise<void> {
  await using directory = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  await directory.sync().catch((error: unknown) => {
    // Some file systems cannot sync folders (fsync(2)).
    if (!isErrno(error, 'EINVAL', 'ENOTSUP', 'EOPNOTSUPP')) throw error;
  });
}

/** Puts a file that cannot be used aside as `<path>.broken` and says so. That this fails is told too: what is broken never keeps the agent from starting. */
export async function setAside(path: string, why: unknown, log: Log): Promise<void> {
  log.error({ file: path, err: messageOf(why) }, 'file cannot be read and is put aside');
  await rename(path, `${path}.broken`).catch((error: unknown) =>
    log.error({ file: path, err: messageOf(error) }, 'file that cannot be read cannot be put aside'),
  );
}
