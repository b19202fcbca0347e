import type { Stats } from 'node:fs';
import { type FileHandle, readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { AgentError, hasCode, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { rfc3339Nanos, rotatedNames } from './line.ts';
import type { ReadLogOptions } from './read.ts';
import { type BackwardMarks, marksBackwards, marksOfArchive, openLogFile } from './source.ts';
import { createTailSearch, type TailStart } from './tail.ts';

/** A file that was rotated away and holds lines that count. */
export interface LogPart {
  readonly file: FileHandle;
  /** By gzip. */
  readonly packed: boolean;
  readonly start: TailStart;
}

/** Where the last lines of a log are. Disposing closes the older files. */
export interface LogTail extends AsyncDisposable {
  /** Oldest first. */
  readonly older: readonly LogPart[];
  readonly newest: TailStart;
  /** How much of the present file was looked at, bytes. */
  readonly size: number;
}

// More than any configuration keeps.
const mostFiles = 256;
// How far back the start of a line is looked for among the records of the other stream, bytes.
const farthestStart = 16 * 1024 * 1024;

/**
 * Finds the last `tailLines` lines of a log, in `file` (opened from `path`, which is what rotated files are named after) and, as far as that has
 * fewer, in the files before it. Files that are gone meanwhile, or cannot be read, end the search: what is newer is told.
 */
export async function findTail(
  newest: { readonly file: FileHandle; readonly info: Stats },
  path: string,
  options: ReadLogOptions,
  log: Log,
  signal: AbortSignal,
): Promise<LogTail> {
  const search = createTailSearch(options.tailLines ?? 0);
  const since = options.since === undefined ? undefined : rfc3339Nanos(options.since);
  const older: LogPart[] = [];
  const opened: FileHandle[] = [];
  const close = async (): Promise<void> => {
    for (const file of opened) await file.close();
  };

  /** Looks through one file; resolves to where to begin in it, and whether the file before it counts too. */
  async function look({ marks, end, firstTime }: BackwardMarks): Promise<{ start: TailStart; goOn: boolean }> {
    let countedAt: number | undefined;
    let goOn = true;
    for await (const mark of marks) {
      const missing = search.missing();
      countedAt ??= mark.end;
      if (missing === 'nothing' || (missing === 'starts' && countedAt - mark.end > farthestStart)) {
        goOn = false;
        break;
      }
      if (options.stream !== undefined && mark.stream !== options.stream) continue;
      if (search.take(mark) || missing === 'lines') countedAt = mark.start;
    }
    const first = goOn ? firstTime() : undefined;
    // What is older than asked for is not shown, and what is older still neither.
    const isOld = since !== undefined && first !== undefined && first < since;
    return { start: search.endFile(end()), goOn: goOn && !isOld && search.missing() !== 'nothing' };
  }

  try {
    const { size } = await newest.file.stat();
    const found = await look(marksBackwards(newest.file, size, signal));
    if (found.goOn) {
      for (const name of await olderNames(path, newest.info.ino)) {
        const startsOnly = search.missing() === 'starts';
        const packed = name.endsWith('.gz');
        // Only to see whether a line began before the rotation, nothing is unpacked: the file before the present one is plain.
        if (startsOnly && packed) break;
        const part = await openOlder(join(dirname(path), name), log);
        if (part === undefined) break;
        opened.push(part.file);
        const marks = part.packed ? marksOfArchive(part.file, signal) : marksBackwards(part.file, part.info.size, signal);
        const looked = await look(marks).catch((error: unknown) => {
          signal.throwIfAborted();
          log.info({ path: name, err: messageOf(error) }, 'a rotated log cannot be read');
          return undefined;
        });
        if (looked === undefined) break;
        older.unshift({ file: part.file, packed: part.packed, start: looked.start });
        if (!looked.goOn || startsOnly) break;
      }
    }
    return { older, newest: found.start, size, [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The names of the files before the one of this inode, newest first: it may have been rotated away since it was opened. */
async function olderNames(path: string, inode: number): Promise<string[]> {
  const names = rotatedNames(basename(path), await readdir(dirname(path))).slice(0, mostFiles);
  for (const [i, name] of names.entries()) {
    const info = await stat(join(dirname(path), name)).catch(() => undefined);
    if (info?.ino === inode) return names.slice(i + 1);
  }
  return names;
}

/** Opens a rotated file, or the archive that it has become; undefined when there is neither, or nothing that can be read. */
async function openOlder(path: string, log: Log): Promise<{ file: FileHandle; info: Stats; packed: boolean } | undefined> {
  for (const each of path.endsWith('.gz') ? [path] : [path, `${path}.gz`]) {
    try {
      return { ...(await openLogFile(each)), packed: each.endsWith('.gz') };
    } catch (error) {
      if (hasCode(error, 'NotFound')) continue;
      if (!(error instanceof AgentError)) throw error;
      log.info({ path: each, err: messageOf(error) }, 'a rotated log cannot be read');
      return undefined;
    }
  }
  return undefined;
}
