declare const real: unique symbol;

/**
 * An absolute path as the kernel names it: without symbolic links, `.` or `//`. Mount points are such, so nothing else is compared with them: with a link
 * in its path, a folder full of mounts looks empty. real-path.ts makes them.
 */
export type RealPath = string & { readonly [real]: true };

/** One line of /proc/<pid>/mountinfo (proc_pid_mountinfo(5)). */
export interface MountEntry {
  readonly mountId: number;
  readonly parentId: number;
  /** `major:minor` of the files on it. */
  readonly device: string;
  /** The path within the file system that is the root of this mount: `/` unless it is a bind mount. */
  readonly root: string;
  readonly mountPoint: string;
  /** The same with a character for each byte (latin1): a pod may have made a mount point whose name is no text. */
  readonly mountPointBytes: string;
  readonly options: readonly string[];
  /** `shared:N`, `master:N`, … */
  readonly propagation: readonly string[];
  readonly fsType: string;
  readonly source: string;
  readonly superOptions: readonly string[];
}

const textOf = (bytes: string): string => Buffer.from(bytes, 'latin1').toString('utf8');

// The kernel escapes space, tab, newline, backslash and # as three octal digits (fs/proc_namespace.c, mangle()).
function unmangle(text: string): string {
  return text.includes('\\') ? text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))) : text;
}

/** The mounts in the file's order, which is the order of mounting for those on the same path. Lines it cannot read are left out. */
export function parseMountinfo(content: string | Buffer): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of Buffer.from(content as string)
    .toString('latin1')
    .split('\n')) {
    const separator = line.indexOf(' - ');
    if (separator < 0) continue;
    const [mountId, parentId, device, root, mountPoint, options, ...propagation] = line.slice(0, separator).split(' ');
    const [fsType, source, superOptions] = line.slice(separator + 3).split(' ');
    if (mountPoint === undefined || root === undefined || device === undefined || fsType === undefined) continue;
    entries.push({
      mountId: Number(mountId),
      parentId: Number(parentId),
      device,
      root: textOf(unmangle(root)),
      mountPoint: textOf(unmangle(mountPoint)),
      mountPointBytes: unmangle(mountPoint),
      options: (options ?? '').split(','),
      propagation: propagation.filter((field) => field !== ''),
      fsType,
      source: textOf(unmangle(source ?? '')),
      superOptions: textOf(superOptions ?? '').split(','),
    });
  }
  return entries;
}

/** The mounts on `path` or below it, deepest and latest first: the order to unmount them in. */
export function mountsUnder(entries: readonly MountEntry[], path: RealPath): MountEntry[] {
  const prefix = path.endsWith('/') ? path : `${path}/`;
  return entries.filter((e) => e.mountPoint === path || e.mountPoint.startsWith(prefix)).reverse();
}

/** The mount that holds `path`: the last of those with the longest mount point. */
export function mountHolding(entries: readonly MountEntry[], path: RealPath): MountEntry | undefined {
  let best: MountEntry | undefined;
  for (const entry of entries) {
    const point = entry.mountPoint;
    const holds = point === '/' || path === point || path.startsWith(`${point}/`);
    if (holds && (best === undefined || point.length >= best.mountPoint.length)) best = entry;
  }
  return best;
}

// File systems with a server or a user process behind them: a call on them can wait for ever.
const remote = /^(nfs4?|cifs|smb3|smbfs|ceph|9p|afs|lustre|glusterfs|gpfs|beegfs|ocfs2|gfs2|autofs|fuse(\..+)?|fuseblk|virtiofs)$/;

/** True when the file system's calls may hang on somebody else. */
export function canHang(entry: MountEntry): boolean {
  return remote.test(entry.fsType);
}
