import type { Stats } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { AgentError, messageOf } from '../../base/errors.ts';
import { isJsonRecord, longestHeadBytes, parseLogRecord, parseRecordHead, type RecordHead, rfc3339Nanos } from './line.ts';
import { lookAtContainerLog, pathWhenOpened } from './open.ts';
import { createRecordSplitter, type RecordPart } from './split.ts';
import type { RecordMark } from './tail.ts';

export const chunkBytes = 64 * 1024;
const newline = 0x0a;
// A JSON record is known only as a whole; see split.ts.
const longestJsonBytes = 4 * 1024 * 1024;
// Of an archive, which cannot be read backwards, so many marks are kept: 17 bytes each.
const windowMarks = 128 * 1024;

/** Opens a file of a log. What is there may be anything: see open.ts. Throws AgentError in the words of a Go program. */
export async function openLogFile(path: string): Promise<{ readonly file: FileHandle; readonly info: Stats }> {
  try {
    await using found = await lookAtContainerLog(path);
    return { file: await found.open(), info: found.info };
  } catch (error) {
    throw logError(`failed to open log file "${path}"`, 'open', path, error);
  }
}

/** The path of a container's log without links. Throws AgentError in the words of a Go program. */
export async function whereLogIs(path: string): Promise<string> {
  try {
    await using found = await lookAtContainerLog(path);
    return pathWhenOpened(await found.realPath(), path);
  } catch (error) {
    throw logError(`failed to try resolving symlinks in path "${path}"`, 'lstat', path, error);
  }
}

const goWords = new Map([
  ['NotFound', 'no such file or directory'],
  ['PermissionDenied', 'permission denied'],
  ['NotADirectory', 'not a directory'],
  ['UnexpectedSymlink', 'too many levels of symbolic links'],
]);

function logError(what: string, operation: string, path: string, error: unknown): AgentError {
  const code = error instanceof AgentError ? error.code : '';
  const words = goWords.get(code);
  const why = words === undefined ? messageOf(error) : `${operation} ${path}: ${words}`;
  return new AgentError(code === 'NotFound' ? code : 'Io', `${what}: ${why}`, { cause: error });
}

/** The marks of a file's records, newest first. */
export interface BackwardMarks {
  readonly marks: AsyncIterable<RecordMark>;
  /** Where the last record of the file ends that is one; known when the first mark is. */
  readonly end: () => number;
  /** The time of the first record; known when all marks have come. */
  readonly firstTime: () => bigint | undefined;
}

/** Reads a plain file backwards from `size`, block by block: what stands in memory is a block and the head of a record. */
export function marksBackwards(file: FileHandle, size: number, signal: AbortSignal): BackwardMarks {
  let end = size;
  let firstTime: bigint | undefined;

  /** What the record of these bytes is, of which `text` holds all or at least the head. */
  async function headOf(text: Buffer, start: number, stop: number): Promise<RecordHead | undefined> {
    if (!isJsonRecord(text)) return parseRecordHead(text);
    if (stop - start > longestJsonBytes) return undefined;
    if (text.length === stop - start) return parseLogRecord(text);
    const whole = Buffer.alloc(stop - start);
    const { bytesRead } = await file.read(whole, 0, whole.length, start);
    return parseLogRecord(whole.subarray(0, bytesRead));
  }

  async function* marks(): AsyncGenerator<RecordMark> {
    const block = Buffer.allocUnsafe(chunkBytes + longestHeadBytes);
    // Where the record ends whose start is looked for.
    let stop = size;
    // How many bytes behind the block, which are the start of what was read before, stand behind it in memory.
    let behind = 0;
    let isLast = true;
    for (let right = size; right > 0; ) {
      signal.throwIfAborted();
      const left = Math.max(0, right - chunkBytes);
      const length = right - left;
      block.copyWithin(length, 0, behind);
      const { bytesRead } = await file.read(block, 0, length, left);
      // Cut meanwhile (copytruncate): what was there is gone.
      if (bytesRead < length) return;
      const text = block.subarray(0, length + behind);
      for (let at = text.lastIndexOf(newline, length - 1); ; at = at === 0 ? -1 : text.lastIndexOf(newline, at - 1)) {
        const start = at < 0 ? left : left + at + 1;
        // The start of a record that begins in a block before.
        if (at < 0 && left > 0) break;
        if (start < stop) {
          const head = await headOf(text.subarray(start - left, Math.min(text.length, stop - left)), start, stop);
          if (head !== undefined) {
            firstTime = rfc3339Nanos(head.time);
            yield { start, end: stop, stream: head.stream, partial: head.partial };
          } else if (isLast) end = start;
          isLast = false;
          stop = start;
        }
        if (at < 0) break;
      }
      behind = Math.min(longestHeadBytes, text.length);
      right = left;
    }
  }
  return { marks: marks(), end: () => end, firstTime: () => firstTime };
}

/** The bytes of a file from `from` to its end: as they are, or unpacked. A chunk is valid until the next. */
export async function* readForwards(file: FileHandle, packed: boolean, from: number, signal: AbortSignal): AsyncGenerator<Buffer> {
  if (!packed) {
    const buffer = Buffer.allocUnsafe(chunkBytes);
    yield* readPlain(file, from, () => buffer, signal);
    return;
  }
  // Not the handle's own stream: that closes the handle with itself.
  const source = Readable.from(
    readPlain(file, 0, () => Buffer.allocUnsafeSlow(chunkBytes), signal),
    { objectMode: false, highWaterMark: chunkBytes },
  );
  const unpacked = createGunzip({ chunkSize: chunkBytes });
  source.on('error', (error) => unpacked.destroy(error));
  source.pipe(unpacked);
  try {
    let position = 0;
    for await (const chunk of unpacked as AsyncIterable<Buffer>) {
      signal.throwIfAborted();
      const skipped = Math.max(0, Math.min(chunk.length, from - position));
      position += chunk.length;
      if (skipped < chunk.length) yield chunk.subarray(skipped);
    }
  } finally {
    unpacked.destroy();
    source.destroy();
  }
}

async function* readPlain(file: FileHandle, from: number, memory: () => Buffer, signal: AbortSignal): AsyncGenerator<Buffer> {
  for (let position = from; ; ) {
    signal.throwIfAborted();
    const buffer = memory();
    const { bytesRead } = await file.read(buffer, 0, buffer.length, position);
    if (bytesRead === 0) return;
    position += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/**
 * The marks of an archive, newest first. It is unpacked to keep the newest marks; whoever wants more than are kept has it unpacked again,
 * so that no archive fills the memory, whatever is in it.
 */
export function marksOfArchive(file: FileHandle, signal: AbortSignal): BackwardMarks {
  let end = 0;
  let firstTime: bigint | undefined;
  const window = createWindow();

  /** Fills the window with the newest marks before record `before`, counted from the start; resolves to how many records there are. */
  async function fill(before: number): Promise<number> {
    let seen = 0;
    let last: Omit<RecordMark, 'end'> | undefined;
    let position = 0;
    window.clear();
    const keep = (stop: number): void => {
      if (last === undefined) return;
      if (seen++ < before) window.add({ ...last, end: stop });
      last = undefined;
    };
    const splitter = createRecordSplitter(0, () => undefined);
    const take = (part: RecordPart): boolean => {
      if (!part.first) return true;
      keep(part.start);
      if (seen === 0) firstTime = rfc3339Nanos(part.time);
      last = { start: part.start, stream: part.stream, partial: part.partial };
      return true;
    };
    for await (const chunk of readForwards(file, true, 0, signal)) {
      splitter.push(chunk, take);
      position += chunk.length;
    }
    splitter.finish(take);
    keep(position);
    end = position;
    return seen;
  }

  async function* marks(): AsyncGenerator<RecordMark> {
    let before = await fill(Number.POSITIVE_INFINITY);
    for (;;) {
      const { length } = window;
      for (let i = length - 1; i >= 0; i--) yield window.at(i);
      before -= length;
      if (before <= 0) return;
      await fill(before);
    }
  }
  return { marks: marks(), end: () => end, firstTime: () => firstTime };
}

/** A ring of the newest marks. */
function createWindow() {
  // Grown only as far as there are records.
  let starts = new Float64Array(1024);
  let ends = new Float64Array(1024);
  let kinds = new Uint8Array(1024);
  let added = 0;
  const grow = (): void => {
    const size = Math.min(windowMarks, starts.length * 2);
    const [s, e, k] = [new Float64Array(size), new Float64Array(size), new Uint8Array(size)];
    s.set(starts);
    e.set(ends);
    k.set(kinds);
    [starts, ends, kinds] = [s, e, k];
  };
  return {
    clear(): void {
      added = 0;
    },
    add(mark: RecordMark): void {
      if (added === starts.length && starts.length < windowMarks) grow();
      const at = added++ % starts.length;
      starts[at] = mark.start;
      ends[at] = mark.end;
      kinds[at] = (mark.stream === 'stderr' ? 1 : 0) + (mark.partial ? 2 : 0);
    },
    get length(): number {
      return Math.min(added, starts.length);
    },
    /** 0 is the oldest. */
    at(index: number): RecordMark {
      const at = added <= starts.length ? index : (added + index) % starts.length;
      const kind = kinds[at] ?? 0;
      return { start: starts[at] ?? 0, end: ends[at] ?? 0, stream: (kind & 1) === 0 ? 'stdout' : 'stderr', partial: (kind & 2) !== 0 };
    },
  };
}
