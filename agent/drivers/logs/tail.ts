import type { LogStream } from './line.ts';

/** One record of a log file, without its text. Offsets are bytes of the file, unpacked. */
export interface RecordMark {
  readonly start: number;
  /** Where the next record starts. */
  readonly end: number;
  readonly stream: LogStream;
  /** The next record of its stream continues its line. */
  readonly partial: boolean;
}

/** Where of one file the last lines start. */
export interface TailStart {
  /** Nothing before this is of use. */
  readonly from: number;
  /** Records of a stream that start before this are of older lines. */
  readonly skip: Readonly<Record<LogStream, number>>;
}

const streams: readonly LogStream[] = ['stdout', 'stderr'];

/**
 * Finds where the last `lines` lines start, from the marks of a log's files, newest record first, newest file first.
 * A line is what a container wrote up to a newline: runtimes cut long ones into pieces, which count as one,
 * and pieces of stdout may stand between those of stderr. What ends without a newline counts as a line.
 */
export function createTailSearch(lines: number) {
  let count = 0;
  // Whether the oldest line of a stream that counts may go on further back; undefined while none of the stream does.
  const open = new Map<LogStream, boolean>();
  let skip: Record<LogStream, number | undefined> = { stdout: undefined, stderr: undefined };
  // Where the oldest record that counts starts, in the file that is looked at.
  let from: number | undefined;

  const missing = (): 'lines' | 'starts' | 'nothing' => {
    if (count < lines) return 'lines';
    return streams.some((stream) => open.get(stream) === true) ? 'starts' : 'nothing';
  };

  /** A record that is of the last lines, or is not. */
  function counts({ stream, partial, end }: RecordMark): boolean {
    const state = open.get(stream);
    if (state === false) return false;
    // A piece of the line that stands behind it.
    if (partial && state === true) return true;
    if (count < lines) {
      count++;
      open.set(stream, true);
      return true;
    }
    open.set(stream, false);
    skip[stream] ??= end;
    return false;
  }

  return {
    /** `lines`: more are wanted; `starts`: all are found, but one of them may start further back; `nothing`: done. */
    missing,
    /** True when the record is of the last lines. */
    take(mark: RecordMark): boolean {
      if (missing() === 'nothing' || !counts(mark)) return false;
      from = mark.start;
      return true;
    },
    /**
     * The file is at its start, or was left when nothing was missing: where in it to begin. `size` is where it ends.
     * What is taken next belongs to the file before it.
     */
    endFile(size: number): TailStart {
      const whole = missing() === 'lines';
      // A stream of which nothing counts here has only older lines in this file; what is written to it later is new.
      const of = (stream: LogStream): number => skip[stream] ?? (whole || open.get(stream) === true ? 0 : size);
      const start = { from: whole ? 0 : (from ?? size), skip: { stdout: of('stdout'), stderr: of('stderr') } };
      skip = { stdout: undefined, stderr: undefined };
      from = undefined;
      return start;
    },
  };
}
