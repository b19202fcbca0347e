import { isJsonRecord, longestHeadBytes, parseLogRecord, parseRecordHead, type RecordHead } from './line.ts';

/** Text of one record: all of it, or, of a long one, as much as has been read. */
export interface RecordPart extends RecordHead {
  /** Valid until more is handed in. */
  readonly content: Buffer;
  /** Where the record starts in its file, bytes. */
  readonly start: number;
  /** The record begins, and ends, with this part. */
  readonly first: boolean;
  readonly last: boolean;
}

export interface RecordSplitter {
  /** The bytes that follow those handed in before. `take` returns false when it wants no more: the rest is dropped. */
  push(chunk: Buffer, take: (part: RecordPart) => boolean): void;
  /** The file ends here: what has no newline is a record too. */
  finish(take: (part: RecordPart) => boolean): void;
}

const newline = 0x0a;
// A JSON record is known only as a whole. Docker cuts at 16 KiB; anything near this is no log.
const longestJsonBytes = 4 * 1024 * 1024;

type State =
  /** At the start of a record, of which `held` has been read. */
  | { readonly kind: 'start'; readonly held: Buffer[]; readonly length: number }
  | { readonly kind: 'text'; readonly head: RecordHead }
  | { readonly kind: 'junk' };

const atStart: State = { kind: 'start', held: [], length: 0 };

/**
 * Splits a log file into its records as it is read, from `start` on, in as little memory as a chunk: the text of a record without an end in sight
 * is handed on as it comes, and what is no record is passed over. `junk` is told of the latter.
 */
export function createRecordSplitter(start: number, junk: () => void): RecordSplitter {
  let state: State = atStart;
  let recordStart = start;
  let position = start;

  /** A record or the start of one, with all that was read of it; `ended` when its newline is there, or the file's end. */
  function begin(line: Buffer, ended: boolean, take: (part: RecordPart) => boolean): boolean {
    if (ended) {
      const record = parseLogRecord(line);
      if (record === undefined) {
        junk();
        return true;
      }
      return take({ ...record, start: recordStart, first: true, last: true });
    }
    if (isJsonRecord(line) ? line.length < longestJsonBytes : line.length < longestHeadBytes) {
      // Copied: the chunk's memory is used again.
      state = { kind: 'start', held: [Buffer.from(line)], length: line.length };
      return true;
    }
    const head = isJsonRecord(line) ? undefined : parseRecordHead(line);
    if (head === undefined) {
      junk();
      state = { kind: 'junk' };
      return true;
    }
    state = { kind: 'text', head };
    return take({ ...head, content: line.subarray(head.length), start: recordStart, first: true, last: false });
  }

  /** More of what `state` is in the middle of. */
  function go(piece: Buffer, ended: boolean, take: (part: RecordPart) => boolean): boolean {
    const before = state;
    if (ended) state = atStart;
    switch (before.kind) {
      case 'start': {
        if (before.length === 0) return begin(piece, ended, take);
        // Only a JSON record is held for longer than one chunk.
        const isLong = before.length >= longestHeadBytes && !ended && before.length + piece.length < longestJsonBytes;
        if (isLong) {
          state = { kind: 'start', held: [...before.held, Buffer.from(piece)], length: before.length + piece.length };
          return true;
        }
        return begin(Buffer.concat([...before.held, piece]), ended, take);
      }
      case 'text': {
        const { head } = before;
        const text = ended && head.partial && piece[piece.length - 1] === newline ? piece.subarray(0, -1) : piece;
        return take({ ...head, content: text, start: recordStart, first: false, last: ended });
      }
      case 'junk':
        return true;
    }
  }

  return {
    push(chunk, take) {
      let from = 0;
      for (let end = chunk.indexOf(newline); end >= 0; end = chunk.indexOf(newline, from)) {
        const wanted = go(chunk.subarray(from, end + 1), true, take);
        from = end + 1;
        recordStart = position + from;
        if (!wanted) return;
      }
      position += chunk.length;
      if (from < chunk.length) go(chunk.subarray(from), false, take);
    },
    finish(take) {
      if (state.kind === 'start' ? state.length > 0 : state.kind === 'text') go(Buffer.alloc(0), true, take);
      state = atStart;
      recordStart = position;
    },
  };
}
