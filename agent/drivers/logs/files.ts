import { link, open, readdir, rename, rm, stat, unlink } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
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

/** The names in a folder of logs. Throws AgentError. */
export async function names(folder: string): Promise<string[]> {
  return await readdir(folder).catch((error: unknown) => {
    throw fromFsError(error, `cannot list the logs in ${folder}`);
  });
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
    await using source = await open(path, 'r');
    const { mode } = await source.stat();
    await using target = await open(temporary, 'w', mode & 0o777);
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
