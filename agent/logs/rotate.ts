/** What to do to one container's log files, in this order; all are names in the log's folder. */
export interface RotationPlan {
  /** Remains of rotations that were broken off, and the oldest files beyond the limit. */
  readonly remove: readonly string[];
  /** Rotated files that are still plain text, oldest first: each becomes `<name>.gz`. */
  readonly compress: readonly string[];
  /** The name that the present log gets. */
  readonly rotateTo: string;
}

const compressSuffix = '.gz';
const temporarySuffix = '.tmp';

/** The files of a listing that were rotated away from the log of this name, with those of rotations that were broken off. */
function rotatedFilesOf(logName: string, names: readonly string[]): string[] {
  return names.filter((name) => name.startsWith(`${logName}.`)).sort();
}

/**
 * What a rotation of `logName` (such as `0.log`) takes, from the names in its folder. Afterwards there are at most `maxFiles` files (2 at least: the new log
 * and the one before, which stays plain so that whoever follows it can read to its end). `now` is wall time, ms. Undefined when the log was rotated within
 * this second already, or the clock was set back to then: that file must not be overwritten.
 */
export function planRotation(logName: string, names: readonly string[], maxFiles: number, now: number): RotationPlan | undefined {
  const rotateTo = `${logName}.${timestamp(now)}`;
  const files = rotatedFilesOf(logName, names);
  if (files.includes(rotateTo) || files.includes(`${rotateTo}${compressSuffix}`)) return undefined;
  const unused = files.filter((name) => name.endsWith(temporarySuffix) || files.includes(`${name}${compressSuffix}`));
  const used = files.filter((name) => !unused.includes(name));
  // The present log and its successor count too; the timestamps make the order of names the order of time.
  const kept = used.slice(Math.max(0, used.length - Math.max(0, maxFiles - 2)));
  return {
    remove: [...unused, ...used.filter((name) => !kept.includes(name))],
    compress: kept.filter((name) => !name.endsWith(compressSuffix)),
    rotateTo,
  };
}

/** `20060102-150405` in local time: the kubelet's suffix (pkg/kubelet/logs timestampFormat), so that files of both sort in the order of time. */
function timestamp(now: number): string {
  const at = new Date(now);
  const two = (n: number): string => String(n).padStart(2, '0');
  const date = `${String(at.getFullYear()).padStart(4, '0')}${two(at.getMonth() + 1)}${two(at.getDate())}`;
  return `${date}-${two(at.getHours())}${two(at.getMinutes())}${two(at.getSeconds())}`;
}
