import { AgentError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { fixedWidthTime, type LogStream, rfc3339Nanos } from './line.ts';
import type { ReadLogOptions } from './read.ts';
import type { RecordPart } from './split.ts';

/** Makes what a reader sees out of the records of a log. */
export interface LogFilter {
  /** True once the limit of bytes is reached. */
  readonly full: boolean;
  /** Records of a stream that start before this in their file are not shown; undefined shows all. */
  skip: Readonly<Record<LogStream, number>> | undefined;
  /** False when no more is wanted. The part may be overwritten afterwards. */
  take(part: RecordPart): boolean;
  /** Told of bytes that are no record. */
  junk(): void;
  /** The output since the last flush. */
  flush(): Buffer;
}

export function createLogFilter(options: ReadLogOptions, log: Log, path: string): LogFilter {
  const since = options.since === undefined ? undefined : rfc3339Nanos(options.since);
  // Not shown all of it: whoever asks for a part of a log may have no room for the rest.
  if (options.since !== undefined && since === undefined) throw new AgentError('InvalidArgument', `"${options.since}" is no time`);
  let remaining = options.limitBytes ?? Number.POSITIVE_INFINITY;
  let atLineStart = true;
  let told = false;
  let shown = false;
  let skip: LogFilter['skip'];
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
    get skip() {
      return skip;
    },
    set skip(value) {
      skip = value;
    },
    take(part) {
      if (part.first) {
        const isOld = since !== undefined && (rfc3339Nanos(part.time) ?? since) < since;
        const isOlderLine = skip !== undefined && part.start < skip[part.stream];
        shown = !isOld && !isOlderLine && (options.stream === undefined || options.stream === part.stream);
        if (shown && options.timestamps === true && atLineStart) put(Buffer.from(`${fixedWidthTime(part.time)} `, 'latin1'));
      }
      if (shown) put(part.content);
      if (part.last && shown) atLineStart = !part.partial;
      return remaining > 0;
    },
    junk() {
      if (!told) log.info({ path }, 'log file holds lines that are no log lines');
      told = true;
    },
    flush() {
      const out = Buffer.concat(pieces);
      pieces = [];
      return out;
    },
  };
}
