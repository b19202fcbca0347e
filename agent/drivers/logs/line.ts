export type LogStream = 'stdout' | 'stderr';

/** What stands before the text of a record. */
export interface RecordHead {
  /** RFC 3339 with up to nanoseconds, as the runtime wrote it. */
  readonly time: string;
  readonly stream: LogStream;
  /** The next record of the stream continues the line: the newline behind this one is not the container's. */
  readonly partial: boolean;
}

/** One record of a container's log file, whole: a line that the container wrote, or a piece of one. */
export interface LogRecord extends RecordHead {
  /** With its newline, unless the record is partial or the file ends before it. */
  readonly content: Buffer;
}

/** No head is longer: a time, a stream and tags, of which runtimes write one. */
export const longestHeadBytes = 256;

const newline = 0x0a;
const brace = 0x7b;
const timePattern = /^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(Z|[+-]\d{2}:\d{2})$/;

/** True for a record of Docker's json-file driver, which says what it is only as a whole. cri-dockerd links to such files. */
export function isJsonRecord(start: Buffer): boolean {
  return start[0] === brace;
}

/**
 * Parses one record (with its newline, if it has one) of a CRI log, `time stream tags text`, or of a Docker json-file log.
 * Returns undefined when it is neither.
 */
export function parseLogRecord(line: Buffer): LogRecord | undefined {
  if (isJsonRecord(line)) return parseJsonRecord(line);
  const head = parseRecordHead(line);
  if (head === undefined) return undefined;
  const end = head.partial && line[line.length - 1] === newline ? line.length - 1 : line.length;
  const { time, stream, partial } = head;
  return { time, stream, partial, content: line.subarray(head.length, end) };
}

/** Parses what stands before the text of a CRI record from its first bytes; `length` is where the text begins. */
export function parseRecordHead(start: Buffer): (RecordHead & { readonly length: number }) | undefined {
  const text = start.toString('latin1', 0, longestHeadBytes);
  const match = /^(\S+) (stdout|stderr) ([^ \n]*) /.exec(text);
  const [whole, time = '', stream, tags] = match ?? [];
  if (whole === undefined || !timePattern.test(time)) return undefined;
  // Tags are separated by ':'; only the first, P(artial) or F(ull), has a meaning so far (cri-api, constants.go).
  return { time, stream: stream as LogStream, partial: tags === 'P' || tags?.startsWith('P:') === true, length: whole.length };
}

function parseJsonRecord(line: Buffer): LogRecord | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line.toString('utf8'));
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
  const { log, stream, time } = value as { log?: unknown; stream?: unknown; time?: unknown };
  if (typeof time !== 'string' || !timePattern.test(time) || (stream !== 'stdout' && stream !== 'stderr')) return undefined;
  const content = Buffer.from(typeof log === 'string' ? log : '', 'utf8');
  return { time, stream, partial: content[content.length - 1] !== newline, content };
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

/** The file that continues `current` after a rotation: rotated files sort by their timestamp suffix, compressed ones cannot be continued. */
export function nextAfterRotation(baseName: string, current: string, names: readonly string[]): string {
  const rotated = names.filter((n) => n.startsWith(`${baseName}.`) && !n.endsWith('.gz') && !n.endsWith('.tmp')).sort();
  return current === baseName ? baseName : (rotated.find((n) => n > current) ?? baseName);
}

/**
 * The files that were rotated away from a log, newest first, from the names in its folder: by kubelet's timestamps (`0.log.20260102-030405`),
 * or by Docker's numbers (`x-json.log.1`, the newest). Either may end in `.gz`; where both are there, the plain one is listed.
 */
export function rotatedNames(baseName: string, names: readonly string[]): string[] {
  const byAge = new Map<string, string>();
  for (const name of [...names].sort()) {
    if (!name.startsWith(`${baseName}.`)) continue;
    const suffix = name.slice(baseName.length + 1).replace(/\.gz$/, '');
    // Sorted, the plain file comes before its archive.
    if (/^(\d{8}-\d{6}|\d{1,4})$/.test(suffix) && !byAge.has(suffix)) byAge.set(suffix, name);
  }
  // A timestamp is newer the greater it is, a number the smaller.
  const numbered = (suffix: string): boolean => suffix.length <= 4;
  return [...byAge].sort(([a], [b]) => (numbered(a) && numbered(b) ? Number(a) - Number(b) : a < b ? 1 : -1)).map(([, name]) => name);
}
