import { link, open, readdir, rename, rm, stat, unlink } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { lookBeneath } from '../files/look.ts';
import { fromFsError, isErrno } from '../sys/errno.ts';

/** A file's size in bytes; undefined when there is none. Throws AgentError. */
export async function size(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw fromFsError(error, `cannot look at the log ${path}`);
  }
}

/** The names of files in a folder of logs: links, FIFOs and the like are none of a runtime's. Throws AgentError. */
export async function names(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: unknown) => {
    throw fromFsError(error, `cannot list the logs in ${folder}`);
  });
  return entries.filter((entry) => entry.isFile()).map((entry) => entry.name);
}

/** Removes a log file; absence is success. Throws AgentError. */
export async function remove(path: string): Promise<void> {
  await rm(path, { force: true }).catch((error: unknown) => {
    throw fromFsError(error, `cannot remove the log ${path}`);
  });
}

/** Renames a log file. Throws AgentError. */
export async function move(from: string, to: string): Promise<void> {
  await rename(from, to).catch((error: unknown) => {
    throw fromFsError(error, `cannot rename the log ${from}`);
  });
}

/** Renames `from` to `to` unless there is a file of that name; says whether it did. Throws AgentError. */
export async function restore(from: string, to: string): Promise<boolean> {
  try {
    // A rename would silently replace a log that the runtime has opened in the meantime.
    await link(from, to);
    await unlink(from);
    return true;
  } catch (error) {
    if (isErrno(error, 'EEXIST')) return false;
    throw fromFsError(error, `cannot put back the log ${from}`);
  }
}

/**
 * Replaces a log by `<path>.gz`, with the same mode. Whenever it is broken off there is the log or the whole archive; what may be left beside is
 * `<path>.tmp`. Throws AgentError, or the signal's reason.
 */
export async function compress(path: string, signal: AbortSignal): Promise<void> {
  const temporary = `${path}.tmp`;
  try {
    // Beneath its folder: a pod that may write to /var/log can put a link or a FIFO in the place of either.
    await using found = await lookBeneath(dirname(path), basename(path));
    await using source = await found.open();
    await rm(temporary, { force: true });
    await using target = await open(temporary, 'wx', found.info.mode & 0o777);
    await pipeline(
      source.createReadStream(),
      createGzip(),
      // Written out before it takes the log's place: a power cut must not leave an empty archive and no log.
      target.createWriteStream({ flush: true }),
      { signal },
    );
    await rename(temporary, `${path}.gz`);
    await unlink(path);
  } catch (error) {
    await rm(temporary, { force: true });
    signal.throwIfAborted();
    throw fromFsError(error, `cannot compress the log ${path}`);
  }
}
