import { watch } from 'node:fs';
import { type FileHandle, open, readdir, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { AgentError, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { ownValue } from '../../base/own.ts';
import { fixedWidthTime, nextAfterRotation, parseLogLine, rfc3339Nanos, startOfLastLines } from './line.ts';

/** What to show of a container's log. */
export interface ReadLogOptions {
  /** How many lines from the end; undefined is all. */
  readonly tailLines?: number | undefined;
  /** At most so many bytes of output, timestamps included; undefined is no limit. */
  readonly limitBytes?: number | undefined;
  /** Only lines at this time or later: RFC 3339. */
  readonly since?: string | undefined;
  readonly timestamps?: boolean | undefined;
  /** Only this stream; undefined is both. */
  readonly stream?: 'stdout' | 'stderr' | undefined;
  /** Goes on until the container has ended. */
  readonly follow?: FollowedContainer | undefined;
}

/** The container whose log is followed, as its reader needs to know it. */
export interface FollowedContainer {
  running(): boolean;
  /** Calls `listener` when the answer of `running` may have changed. */
  onChange(listener: () => void): Disposable;
}

export interface LogReaderContext {
  readonly clock: Clock;
  readonly log: Log;
}

const chunkBytes = 64 * 1024;
// The directory watch tells of writes at once; the poll finds what a file system without inotify, or a lost event, would hide.
const pollIntervalMs = 1000;
// A line without an end in sight is given up, so that a broken file cannot fill the memory; runtimes cut lines at 16 KiB.
const longestLineBytes = 4 * 1024 * 1024;

/**
 * Reads a container's log file: text without the runtime's prefixes, in chunks. With `follow` it goes on across rotations until the container has ended and all
 * it wrote is read. Opens the file before the first chunk: an absent file throws an AgentError of code NotFound at the first `next()`.
 */
export async function* readContainerLog(
  path: string,
  options: ReadLogOptions,
  context: LogReaderContext,
  signal: AbortSignal,
): AsyncGenerator<Buffer, void, undefined> {
  const real = await realpath(path).catch((error: NodeJS.ErrnoException) => {
    throw new AgentError(
      error.code === 'ENOENT' ? 'NotFound' : 'Io',
      `failed to try resolving symlinks in path "${path}": ${goFileError('lstat', path, error)}`,
      { cause: error },
    );
  });
  const directory = dirname(real);
  const baseName = basename(real);
  await using source = await openSource(real);
  const filter = makeFilter(options, context.log, path);
  if (options.tailLines !== undefined) source.position = await findTail(source.file, options.tailLines);
  // Tells the caller that the file is open: a response can start although nothing is written yet.
  yield Buffer.alloc(0);
  if (options.tailLines === 0 && options.follow === undefined) return;

  const buffer = Buffer.allocUnsafe(chunkBytes);
  let carry: Buffer = Buffer.alloc(0);
  let linesLeft = options.follow === undefined ? options.tailLines : undefined;

  /** Reads to the end of the open file. */
  async function* drain(): AsyncGenerator<Buffer, boolean, undefined> {
    for (;;) {
      signal.throwIfAborted();
      const { bytesRead } = await source.file.read(buffer, 0, buffer.length, source.position);
      if (bytesRead === 0) return true;
      source.position += bytesRead;
      const text = carry.length === 0 ? buffer.subarray(0, bytesRead) : Buffer.concat([carry, buffer.subarray(0, bytesRead)]);
      let from = 0;
      for (let end = text.indexOf(0x0a); end >= 0; end = text.indexOf(0x0a, from)) {
        filter.take(text.subarray(from, end + 1));
        from = end + 1;
        if (linesLeft !== undefined) linesLeft--;
        if (filter.full || linesLeft === 0) break;
      }
      carry = text.length - from > longestLineBytes ? Buffer.alloc(0) : Buffer.from(text.subarray(from));
      const out = filter.flush();
      if (out.length > 0) yield out;
      if (filter.full || linesLeft === 0) return false;
    }
  }

  /** What stands after the last newline of a file that will not grow. */
  function finish(): Buffer {
    if (carry.length > 0) filter.take(carry);
    carry = Buffer.alloc(0);
    return filter.flush();
  }

  const following = options.follow;
  if (following === undefined) {
    if (yield* drain()) {
      const rest = finish();
      if (rest.length > 0) yield rest;
    }
    return;
  }

  using changes = watchForChanges(directory, following, context.clock);
  let replacedBy: number | undefined;
  for (;;) {
    // Asked before reading: what the container wrote before it ended is then read for certain.
    const running = following.running();
    changes.reset();
    if (!(yield* drain())) return;
    const at = await stat(real).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    });
    if (at !== undefined && at.ino !== source.inode) {
      // Runtimes open the new file first and move their writers after: the old one is done once the new one holds something, or stood a while.
      if (at.size > 0 || replacedBy === at.ino || !running) {
        if (!(yield* drain())) return;
        const rest = finish();
        if (rest.length > 0) yield rest;
        await source.replace(join(directory, await successor(directory, baseName, source.inode)), real);
        replacedBy = undefined;
        continue;
      }
      replacedBy = at.ino;
    } else if (at !== undefined && at.size < source.position) {
      // Cut in place (copytruncate): what is there now is new.
      source.position = 0;
      carry = Buffer.alloc(0);
      continue;
    }
    if (!running) {
      const rest = finish();
      if (rest.length > 0) yield rest;
      return;
    }
    await changes.next(signal);
  }
}

interface Source extends AsyncDisposable {
  file: FileHandle;
  inode: number;
  position: number;
  /** Goes on with another file from its start; when it is gone by now, with `otherwise`. */
  replace(path: string, otherwise: string): Promise<void>;
}

async function openSource(path: string): Promise<Source> {
  const openFile = (p: string): Promise<FileHandle> =>
    open(p, 'r').catch((error: NodeJS.ErrnoException) => {
      throw new AgentError(
        error.code === 'ENOENT' ? 'NotFound' : 'Io',
        `failed to open log file "${p}": ${goFileError('open', p, error)}`,
        {
          cause: error,
        },
      );
    });
  const file = await openFile(path);
  const source: Source = {
    file,
    inode: (await file.stat()).ino,
    position: 0,
    async replace(next, otherwise) {
      const opened = await openFile(next).catch((error: unknown) => {
        if (error instanceof AgentError && error.code === 'NotFound' && next !== otherwise) return openFile(otherwise);
        throw error;
      });
      await source.file.close();
      source.file = opened;
      source.inode = (await opened.stat()).ino;
      source.position = 0;
    },
    [Symbol.asyncDispose]: () => source.file.close(),
  };
  return source;
}

/** The name of the file that continues the one with this inode: a slow reader may be several rotations behind. */
async function successor(directory: string, baseName: string, inode: number): Promise<string> {
  const names = await readdir(directory);
  for (const name of names) {
    if (!name.startsWith(baseName)) continue;
    const info = await stat(join(directory, name)).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    });
    if (info?.ino === inode) return nextAfterRotation(baseName, name, names);
  }
  return baseName;
}

async function findTail(file: FileHandle, lines: number): Promise<number> {
  const { size } = await file.stat();
  let wanted = lines;
  const buffer = Buffer.allocUnsafe(chunkBytes);
  for (let right = size; right > 0; ) {
    const left = Math.max(0, right - chunkBytes);
    const { bytesRead } = await file.read(buffer, 0, right - left, left);
    const found = startOfLastLines(buffer.subarray(0, bytesRead), wanted);
    if ('start' in found) return left + found.start;
    wanted -= found.newlines;
    right = left;
  }
  return 0;
}

interface Filter {
  /** True once the limit of bytes is reached. */
  readonly full: boolean;
  take(line: Buffer): void;
  /** The output since the last flush. Lines handed to `take` may be overwritten afterwards. */
  flush(): Buffer;
}

function makeFilter(options: ReadLogOptions, log: Log, path: string): Filter {
  const since = options.since === undefined ? undefined : rfc3339Nanos(options.since);
  let remaining = options.limitBytes ?? Number.POSITIVE_INFINITY;
  let atLineStart = true;
  let told = false;
  let pieces: Buffer[] = [];
  const put = (piece: Buffer): void => {
    const cut = piece.length > remaining ? piece.subarray(0, remaining) : piece;
    remaining -= cut.length;
    pieces.push(cut);
  };
  return {
    get full() {
      return remaining <= 0;
    },
    take(raw) {
      const line = parseLogLine(raw);
      if (line === undefined) {
        if (!told) log.info({ path }, 'log file holds lines that are no log lines');
        told = true;
        return;
      }
      const old = since !== undefined && (rfc3339Nanos(line.time) ?? since) < since;
      if (!old && (options.stream === undefined || options.stream === line.stream)) {
        if (options.timestamps === true && atLineStart) put(Buffer.from(`${fixedWidthTime(line.time)} `, 'latin1'));
        put(line.content);
      }
      atLineStart = line.content.length === 0 || line.content[line.content.length - 1] === 0x0a;
    },
    flush() {
      const out = Buffer.concat(pieces);
      pieces = [];
      return out;
    },
  };
}

interface Changes extends Disposable {
  /** Forgets what happened so far. */
  reset(): void;
  /** Resolves at the next change since `reset`, and after the poll interval at the latest. */
  next(signal: AbortSignal): Promise<void>;
}

function watchForChanges(directory: string, following: FollowedContainer, clock: Clock): Changes {
  let changed = false;
  let wake: (() => void) | undefined;
  const tell = (): void => {
    changed = true;
    wake?.();
  };
  const subscription = following.onChange(tell);
  let watcher: ReturnType<typeof watch> | undefined;
  try {
    watcher = watch(directory, { persistent: false }, tell);
    // Out of inotify watches, or the directory is gone: the poll goes on.
    watcher.on('error', () => watcher?.close());
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOSPC' && code !== 'EMFILE' && code !== 'ENOENT') throw error;
  }
  return {
    reset: () => {
      changed = false;
    },
    next(signal) {
      return new Promise((resolve, reject) => {
        if (changed) {
          resolve();
          return;
        }
        const done = (): void => {
          timer[Symbol.dispose]();
          signal.removeEventListener('abort', onAbort);
          wake = undefined;
        };
        const onAbort = (): void => {
          done();
          reject(signal.reason);
        };
        wake = () => {
          done();
          resolve();
        };
        const timer = clock.after(pollIntervalMs, () => wake?.());
        if (signal.aborted) onAbort();
        else signal.addEventListener('abort', onAbort, { once: true });
      });
    },
    [Symbol.dispose]() {
      subscription[Symbol.dispose]();
      watcher?.close();
    },
  };
}

function goFileError(operation: string, path: string, error: NodeJS.ErrnoException): string {
  const text = ownValue({ ENOENT: 'no such file or directory', EACCES: 'permission denied', ENOTDIR: 'not a directory' }, error.code ?? '');
  return `${operation} ${path}: ${text ?? messageOf(error)}`;
}
