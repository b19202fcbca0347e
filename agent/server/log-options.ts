/** A request for a container's log, checked. */
export interface ContainerLogOptions {
  readonly follow: boolean;
  readonly previous: boolean;
  readonly timestamps: boolean;
  readonly tailLines: number | undefined;
  readonly limitBytes: number | undefined;
  readonly sinceSeconds: number | undefined;
  /** RFC 3339. */
  readonly sinceTime: string | undefined;
  /** Undefined is both. */
  readonly stream: 'stdout' | 'stderr' | undefined;
}

export interface RequestError {
  readonly status: number;
  readonly text: string;
}

const undecodable: RequestError = { status: 400, text: '{"message": "Unable to decode query."}' };
const invalid: RequestError = { status: 422, text: '{"message": "Invalid request."}' };

/**
 * Reads the query of `/containerLogs` as PodLogOptions, with upstream's answers to what is wrong (pkg/kubelet/server/server.go getContainerLogs and
 * ValidatePodLogOptions). `splitStreams` is the feature gate PodLogsQuerySplitStreams.
 */
export function parseLogOptions(query: URLSearchParams, splitStreams: boolean): { options: ContainerLogOptions } | { error: RequestError } {
  const tail = query.get('tail') || undefined;
  const tailLines = integer(tail === undefined ? query.get('tailLines') : tail === 'all' ? null : tail);
  const limitBytes = integer(query.get('limitBytes'));
  const sinceSeconds = integer(query.get('sinceSeconds'));
  const since = query.get('sinceTime') || undefined;
  const sinceTime = since === undefined ? undefined : goTime(since);
  if (Number.isNaN(tailLines) || Number.isNaN(limitBytes) || Number.isNaN(sinceSeconds)) return { error: undecodable };
  if (since !== undefined && sinceTime === undefined) return { error: undecodable };

  if (tailLines !== undefined && tailLines < 0) return { error: invalid };
  if (limitBytes !== undefined && limitBytes < 1) return { error: invalid };
  if (sinceSeconds !== undefined && (sinceSeconds < 1 || sinceTime !== undefined)) return { error: invalid };

  const stream = query.get('stream') || 'All';
  if (stream !== 'All' && !splitStreams) {
    const text = `unable to return the given log stream: "${stream}". Please enable PodLogsQuerySplitStreams feature gate in kubelet`;
    return { error: { status: 400, text } };
  }
  if (stream !== 'All' && stream !== 'Stdout' && stream !== 'Stderr') return { error: invalid };
  if (stream !== 'All' && tailLines !== undefined) return { error: invalid };

  return {
    options: {
      follow: boolean(query.get('follow')),
      previous: boolean(query.get('previous')),
      timestamps: boolean(query.get('timestamps')),
      tailLines,
      limitBytes,
      sinceSeconds,
      sinceTime,
      stream: stream === 'All' ? undefined : stream === 'Stdout' ? 'stdout' : 'stderr',
    },
  };
}

/** NaN for what is no integer of 64 bits (Go's ParseInt). Beyond 2^53 it is near enough: no log has as many lines or bytes. */
function integer(text: string | null): number | undefined {
  if (text === null || text === '') return undefined;
  if (!/^[+-]?\d+$/.test(text) || text.length > 100) return Number.NaN;
  const value = BigInt(text.replace('+', ''));
  return BigInt.asIntN(64, value) === value ? Number(value) : Number.NaN;
}

/**
 * The time as Go reads one (time.RFC3339), with at most nine digits of a second, which is all that counts in a log.
 * Undefined for what Go does not take: V8 rolls the 30th of February and hour 24 over.
 */
export function goTime(text: string): string | undefined {
  const match = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:[.,](\d+))?(Z|[+-]\d\d:\d\d)$/.exec(text);
  if (match === null) return undefined;
  const [, clockTime = '', fraction, zone = ''] = match;
  const at = Date.parse(`${clockTime}Z`);
  if (Number.isNaN(at) || new Date(at).toISOString().slice(0, 19) !== clockTime || Number.isNaN(Date.parse(`${clockTime}${zone}`)))
    return undefined;
  return `${clockTime}${fraction === undefined ? '' : `.${fraction.slice(0, 9)}`}${zone}`;
}

/** Where a log is to begin, as RFC 3339; undefined is at its start. `now` is wall time, ms. */
export function sinceOf({ sinceSeconds, sinceTime }: ContainerLogOptions, now: number): string | undefined {
  if (sinceSeconds === undefined) return sinceTime;
  const at = now - sinceSeconds * 1000;
  // Before there were logs, or before there are dates.
  return at <= 0 ? undefined : new Date(at).toISOString();
}

/** apimachinery's Convert_Slice_string_To_bool: there, and neither "0" nor "false". */
function boolean(text: string | null): boolean {
  return text !== null && text !== '0' && text.toLowerCase() !== 'false';
}
