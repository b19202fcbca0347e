import type { Stats } from 'node:fs';
import { type FileHandle, readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { hasCode } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { watchForChanges } from './changes.ts';
import { createLogFilter, type LogFilter } from './filter.ts';
import { findTail, type LogPart } from './find-tail.ts';
import { nextAfterRotation } from './line.ts';
import { chunkBytes, openLogFile, readForwards, whereLogIs } from './source.ts';
import { createRecordSplitter, type RecordSplitter } from './split.ts';

/** What to show of a container's log. */
export interface ReadLogOptions {
  /** How many lines from the end, rotated files included; undefined is all of the present file. */
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

/**
 * Reads a container's log file: text without the runtime's prefixes, in chunks. With `follow` it goes on across rotations until the container has ended and all
 * it wrote is read. Opens the file before the first chunk: an absent file throws an AgentError of code NotFound at the first `next()`.
 * What stands in memory is a few chunks, however long a line is.
 */
export async function* readContainerLog(
  path: string,
  options: ReadLogOptions,
  context: LogReaderContext,
  signal: AbortSignal,
): AsyncGenerator<Buffer, void, undefined> {
  const real = await whereLogIs(path);
  const filter = createLogFilter(options, context.log, path);
  await using source = await openSource(real, filter.junk);
  let until = Number.POSITIVE_INFINITY;
  if (options.tailLines !== undefined) {
    await using tail = await findTail(source, real, options, context.log, signal);
    // Tells the caller that the file is open: a response can start although nothing is written yet.
    yield Buffer.alloc(0);
    for (const part of tail.older) if (!(yield* showPart(part, filter, signal))) return;
    filter.skip = tail.newest.skip;
    source.begin(tail.newest.from);
    if (options.follow === undefined) until = tail.size;
  } else {
    yield Buffer.alloc(0);
  }

  if (options.follow === undefined) {
    if (yield* drain(source, filter, until, signal)) yield* finish(source, filter);
    return;
  }
  yield* follow(source, real, options.follow, filter, context.clock, signal);
}

/** A file that was rotated away, from where the lines that count begin. False when no more is wanted. */
async function* showPart({ file, packed, start }: LogPart, filter: LogFilter, signal: AbortSignal): AsyncGenerator<Buffer, boolean> {
  filter.skip = start.skip;
  const splitter = createRecordSplitter(start.from, filter.junk);
  for await (const chunk of readForwards(file, packed, start.from, signal)) {
    splitter.push(chunk, filter.take);
    const out = filter.flush();
    if (out.length > 0) yield out;
    if (filter.full) return false;
  }
  splitter.finish(filter.take);
  const rest = filter.flush();
  if (rest.length > 0) yield rest;
  return !filter.full;
}

/** Reads to the end of the open file, or to `until`. False when no more is wanted. */
async function* drain(source: Source, filter: LogFilter, until: number, signal: AbortSignal): AsyncGenerator<Buffer, boolean, undefined> {
  for (;;) {
    signal.throwIfAborted();
    const length = Math.min(source.buffer.length, until - source.position);
    const { bytesRead } = length <= 0 ? { bytesRead: 0 } : await source.file.read(source.buffer, 0, length, source.position);
    if (bytesRead === 0) return true;
    source.position += bytesRead;
    source.splitter.push(source.buffer.subarray(0, bytesRead), filter.take);
    const out = filter.flush();
    if (out.length > 0) yield out;
    if (filter.full) return false;
  }
}

/** What stands after the last newline of a file that will not grow. */
function* finish(source: Source, filter: LogFilter): Generator<Buffer> {
  source.splitter.finish(filter.take);
  const rest = filter.flush();
  if (rest.length > 0) yield rest;
}

async function* follow(
  source: Source,
  real: string,
  following: FollowedContainer,
  filter: LogFilter,
  clock: Clock,
  signal: AbortSignal,
): AsyncGenerator<Buffer, void, undefined> {
  const directory = dirname(real);
  const baseName = basename(real);
  using changes = watchForChanges(directory, following, clock);
  let replacedBy: number | undefined;
  for (;;) {
    // Asked before reading: what the container wrote before it ended is then read for certain.
    const running = following.running();
    changes.reset();
    if (!(yield* drain(source, filter, Number.POSITIVE_INFINITY, signal))) return;
    const at = await stat(real).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    });
    if (at !== undefined && at.ino !== source.info.ino) {
      // Runtimes open the new file first and move their writers after: the old one is done once the new one holds something, or stood a while.
      if (at.size > 0 || replacedBy === at.ino || !running) {
        if (!(yield* drain(source, filter, Number.POSITIVE_INFINITY, signal))) return;
        const next = await openNext(directory, baseName, source.info.ino);
        if (next !== undefined) {
          yield* finish(source, filter);
          await source.replace(next);
          filter.skip = undefined;
          replacedBy = undefined;
        } else if (running) await changes.next(signal);
        continue;
      }
      replacedBy = at.ino;
    } else if (at !== undefined && at.size < source.position) {
      // Cut in place (copytruncate): what is there now is new.
      source.begin(0);
      filter.skip = undefined;
      continue;
    }
    if (!running) {
      yield* finish(source, filter);
      return;
    }
    await changes.next(signal);
  }
}

interface Source extends AsyncDisposable {
  file: FileHandle;
  info: Stats;
  /** Where to read on, bytes. */
  position: number;
  splitter: RecordSplitter;
  readonly buffer: Buffer;
  /** Goes on at another place, which is the start of a record. */
  begin(position: number): void;
  /** Goes on with another file from its start. */
  replace(next: OpenedLog): Promise<void>;
}

async function openSource(path: string, junk: () => void): Promise<Source> {
  const opened = await openLogFile(path);
  const source: Source = {
    ...opened,
    position: 0,
    splitter: createRecordSplitter(0, junk),
    buffer: Buffer.allocUnsafe(chunkBytes),
    begin(position) {
      source.position = position;
      source.splitter = createRecordSplitter(position, junk);
    },
    async replace({ file, info }) {
      await source.file.close();
      source.file = file;
      source.info = info;
      source.begin(0);
    },
    [Symbol.asyncDispose]: () => source.file.close(),
  };
  return source;
}

// A successor changes when the log is rotated, and when it is packed. Whoever makes files here without end is not followed.
const mostSuccessors = 4;

/**
 * Opens the file that continues the one with this inode. Undefined while there is none: a rotation renames the log, and the
 * runtime makes it anew when it is told to (pkg/kubelet/logs rotateLatestLog). Between listing and opening the log may be rotated
 * again, so the file that was opened is the next one only if the list still says so afterwards.
 */
async function openNext(directory: string, baseName: string, inode: number): Promise<OpenedLog | undefined> {
  let name = await successor(directory, baseName, inode);
  for (let tries = 1; ; tries++) {
    const opened = await openIfThere(join(directory, name));
    const after = await successor(directory, baseName, inode);
    if (after === name || tries === mostSuccessors) return opened ?? (await openIfThere(join(directory, baseName)));
    await opened?.file.close();
    name = after;
  }
}

type OpenedLog = Awaited<ReturnType<typeof openLogFile>>;

async function openIfThere(path: string): Promise<OpenedLog | undefined> {
  try {
    return await openLogFile(path);
  } catch (error) {
    if (hasCode(error, 'NotFound')) return undefined;
    throw error;
  }
}

/** The name of the file that continues the one with this inode: a slow reader may be several rotations behind. */
async function successor(directory: string, baseName: string, inode: number): Promise<string> {
  const names = await readdir(directory).catch((error: NodeJS.ErrnoException) => {
    // Removed with its container: there is no next file.
    if (error.code === 'ENOENT') return [];
    throw error;
  });
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
