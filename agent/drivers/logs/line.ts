/** One line of a container's log file. `content` holds its newline, unless the line is partial: then the next line continues it. */
export interface LogLine {
  /** RFC 3339 with up to nanoseconds, as the runtime wrote it. */
  readonly time: string;
  readonly stream: 'stdout' | 'stderr';
  readonly content: Buffer;
}

const space = 0x20;
const newline = 0x0a;
const brace = 0x7b;
const timePattern = /^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(Z|[+-]\d{2}:\d{2})$/;

/**
 * Parses one line (with its newline, if it has one) of a CRI log, `time stream tags text`, or of a Docker json-file log, which cri-dockerd links in.
 * Returns undefined when it is neither.
 */
export function parseLogLine(line: Buffer): LogLine | undefined {
  if (line[0] === brace) return parseJsonLine(line);
  const timeEnd = line.indexOf(space);
  if (timeEnd < 0) return undefined;
  const streamEnd = line.indexOf(space, timeEnd + 1);
  if (streamEnd < 0) return undefined;
  const tagsEnd = line.indexOf(space, streamEnd + 1);
  if (tagsEnd < 0) return undefined;
  const time = line.toString('latin1', 0, timeEnd);
  const stream = line.toString('latin1', timeEnd + 1, streamEnd);
  if ((stream !== 'stdout' && stream !== 'stderr') || !timePattern.test(time)) return undefined;
  // Tags are separated by ':'; only the first, P(artial) or F(ull), has a meaning so far (cri-api, constants.go).
  const tags = line.toString('latin1', streamEnd + 1, tagsEnd);
  const partial = tags === 'P' || tags.startsWith('P:');
  const end = partial && line[line.length - 1] === newline ? line.length - 1 : line.length;
  return { time, stream, content: line.subarray(tagsEnd + 1, end) };
}

function parseJsonLine(line: Buffer): LogLine | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line.toString('utf8'));
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
  const { log, stream, time } = value as { log?: unknown; stream?: unknown; time?: unknown };
  if (typeof time !== 'string' || !timePattern.test(time) || (stream !== 'stdout' && stream !== 'stderr')) return undefined;
  return { time, stream, content: Buffer.from(typeof log === 'string' ? log : '', 'utf8') };
}

/** Nanoseconds since the Unix epoch of an RFC 3339 time; undefined when it is none. */
export function rfc3339Nanos(text: string): bigint | undefined {
  const match = timePattern.exec(text);
  if (match === null) return undefined;
  const ms = Date.parse(`${match[1]}${match[3]}`);
  return Number.isNaN(ms) ? undefined : BigInt(ms) * 1_000_000n + BigInt((match[2] ?? '').padEnd(9, '0'));
}

/** The time with exactly nine digits of a second, as `kubectl logs --timestamps` shows it. */
export function fixedWidthTime(text: string): string {
  const match = timePattern.exec(text);
  if (match === null) return text;
  const zone = match[3] === '+00:00' || match[3] === '-00:00' ? 'Z' : match[3];
  return `${match[1]}.${(match[2] ?? '').padEnd(9, '0')}${zone}`;
}

/** Where the last `lines` lines begin within `block`, or how many newlines it holds when that is not enough. */
export function startOfLastLines(block: Buffer, lines: number): { start: number } | { newlines: number } {
  // A newline before the wanted lines ends the line before them: lines + 1 newlines, counted from the end.
  let seen = 0;
  for (let i = block.length - 1; i >= 0; i--) {
    if (block[i] !== newline) continue;
    seen++;
    if (seen > lines) return { start: i + 1 };
  }
  return { newlines: seen };
}

/** The file that continues `current` after a rotation: rotated files sort by their timestamp suffix, compressed ones cannot be continued. */
export function nextAfterRotation(baseName: string, current: string, names: readonly string[]): string {
  const rotated = names.filter((n) => n.startsWith(`${baseName}.`) && !n.endsWith('.gz') && !n.endsWith('.tmp')).sort();
  return current === baseName ? baseName : (rotated.find((n) => n > current) ?? baseName);
}
