import fs from 'node:fs';
import path from 'node:path';
import { AgentError } from '../../base/errors.ts';
import { lookBeneath, readTail, readText } from '../files/look.ts';
import { fromFsError, isErrno } from '../sys/errno.ts';
import { MNT_DETACH, MS_BIND, mount, UMOUNT_NOFOLLOW, umount2 } from '../sys/libc.ts';
import { type RemoveOptions, removeTreeHere } from './remove-tree.ts';

// What touches paths that may lie on a hanging file system. Each operation is a function of plain data, so that it can run here or in a child process.

// Open flags that node:fs does not name: include/uapi/asm-generic/fcntl.h; O_DIRECTORY and O_NOFOLLOW differ by architecture, and node names those.
const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;
const { O_NOFOLLOW, O_DIRECTORY } = fs.constants;

export type FileType = 'Directory' | 'File' | 'Socket' | 'CharDevice' | 'BlockDevice' | 'Other';

/** The arguments and results of the operations; both must survive JSON. */
export interface Operations {
  fileType: { args: { path: string }; result: FileType | undefined };
  makeDirectory: { args: { path: string; mode: number }; result: undefined };
  makeFile: { args: { path: string; mode: number }; result: undefined };
  bindSubPath: { args: { base: string; subPath: string; target: string }; result: undefined };
  makeSubPathDirectory: { args: { base: string; subPath: string }; result: undefined };
  makeMountPoint: { args: { base: string; subPath: string; directory: boolean }; result: undefined };
  /** `path` has a character for each byte (latin1): a mount point need not be text. */
  unmount: { args: { path: string; lazy: boolean }; result: boolean };
  removeTree: { args: { path: string } & RemoveOptions; result: undefined };
  readTail: { args: { root: string; path: string; mostBytes: number }; result: string };
  readInside: { args: { base: string; path: string; mostBytes: number }; result: string };
}

export type OperationName = keyof Operations;

type Operation<K extends OperationName> = (
  args: Operations[K]['args'],
  progress?: (removed: number) => void,
) => Promise<Operations[K]['result']>;

export const operations: { [K in OperationName]: Operation<K> } = {
  /** What is at `path`, symbolic links followed; undefined when nothing is. */
  async fileType({ path: at }) {
    try {
      const stat = await fs.promises.stat(at);
      if (stat.isDirectory()) return 'Directory';
      if (stat.isFile()) return 'File';
      if (stat.isSocket()) return 'Socket';
      if (stat.isCharacterDevice()) return 'CharDevice';
      if (stat.isBlockDevice()) return 'BlockDevice';
      return 'Other';
    } catch (error) {
      if (isErrno(error, 'ENOENT', 'ENOTDIR')) return undefined;
      throw fromFsError(error, `cannot look at ${at}`);
    }
  },

  /** Makes a directory and its parents; the mode is set whatever the umask. Existence is success. */
  async makeDirectory({ path: at, mode }) {
    try {
      const first = await fs.promises.mkdir(at, { recursive: true, mode });
      if (first !== undefined) await fs.promises.chmod(at, mode);
    } catch (error) {
      throw fromFsError(error, `cannot create directory ${at}`);
    }
    return undefined;
  },

  /** Makes an empty file; its directory must exist. Existence is success. */
  async makeFile({ path: at, mode }) {
    try {
      // Not waiting: a pod may have put a FIFO there since it was looked at.
      const file = await fs.promises.open(at, fs.constants.O_WRONLY | fs.constants.O_CREAT | fs.constants.O_NONBLOCK, mode);
      await file.close();
    } catch (error) {
      throw fromFsError(error, `cannot create file ${at}`);
    }
    return undefined;
  },

  /**
   * Bind-mounts what `subPath` of `base` is on `target`. Whoever writes into the volume cannot make it reach outside: the path is opened segment by
   * segment without following symbolic links and mounted through the open descriptor (upstream: pkg/volume/util/subpath/subpath_linux.go).
   */
  async bindSubPath({ base, subPath, target }) {
    let fd: number | undefined;
    try {
      fd = openBeneath(base, subPath);
      const want = fs.fstatSync(fd);
      if (isMountedAs(target, want)) return undefined;
      // A file that has been replaced since (a new ConfigMap) is bound anew for the container's next run.
      await operations.unmount({ path: bytesOf(target), lazy: true });
      removeEmpty(target);
      fs.mkdirSync(path.dirname(target), { recursive: true, mode: 0o750 });
      if (want.isDirectory()) fs.mkdirSync(target, { recursive: true, mode: 0o750 });
      else fs.closeSync(fs.openSync(target, 'a', 0o640));
      await mount(`/proc/self/fd/${fd}`, target, undefined, MS_BIND, undefined);
    } catch (error) {
      throw fromFsError(error, `cannot bind subPath ${subPath}`);
    } finally {
      if (fd !== undefined) fs.closeSync(fd);
    }
    return undefined;
  },

  /** Makes the directories of `subPath` that are missing, with the mode of `base`, never outside of it. */
  async makeSubPathDirectory({ base, subPath }) {
    try {
      // What is there, or leads elsewhere, is for the mount to judge (pkg/kubelet/kubelet_pods.go makeMounts): only what is not there is made.
      await fs.promises.stat(path.join(base, subPath));
      return undefined;
    } catch (error) {
      if (!isErrno(error, 'ENOENT')) return undefined;
    }
    try {
      makeBeneath(base, subPath);
    } catch (error) {
      throw fromFsError(error, `cannot create subPath directory ${subPath}`);
    }
    return undefined;
  },

  /**
   * Makes what is missing of `subPath` beneath `base`, so that something can be mounted there: directories, the last one a file unless `directory`.
   * What is there stays as it is. Where the path leads over a symbolic link, or nothing may be made, nothing is: the runtime says what it makes of it.
   */
  async makeMountPoint({ base, subPath, directory }) {
    try {
      makePointBeneath(base, subPath.split('/'), directory);
    } catch (error) {
      if (!isErrno(error, 'ELOOP', 'ENOTDIR', 'EROFS', 'EACCES', 'EPERM')) throw fromFsError(error, `cannot create mount point ${subPath}`);
    }
    return undefined;
  },

  /** The last bytes, in base64, of a regular file below `root`, to which no link leads. */
  async readTail({ root, path: at, mostBytes }) {
    await using looked = await lookBeneath(root, at);
    await using file = await looked.open();
    return (await readTail(file, at, mostBytes)).toString('base64');
  },

  /** The text of a regular file of a volume that pods write; symbolic links count inside the volume only. */
  async readInside({ base, path: at, mostBytes }) {
    // The path is looked at without following what the pod may swap meanwhile; what is opened for reading is what was looked at.
    let fd: number | undefined;
    try {
      fd = openBeneath(base, at);
      const info = fs.fstatSync(fd);
      if (!info.isFile() || info.size > mostBytes)
        throw new AgentError('InvalidArgument', `${at} is no file of at most ${mostBytes} bytes`);
      return await readText(`/proc/self/fd/${fd}`, mostBytes);
    } catch (error) {
      throw fromFsError(error, `cannot read ${at}`);
    } finally {
      if (fd !== undefined) fs.closeSync(fd);
    }
  },

  /** Takes away every mount on exactly this path; false when there was none. Throws Busy when in use, unless `lazy`, which then detaches it. */
  async unmount({ path: at, lazy }) {
    const target = Buffer.from(at, 'latin1');
    let any = false;
    for (;;) {
      try {
        await umount2(target, UMOUNT_NOFOLLOW);
      } catch (error) {
        // EINVAL: no mount point (any more). ENOENT, ENOTDIR: nothing there.
        if (isErrno(error, 'EINVAL', 'ENOENT', 'ENOTDIR')) return any;
        if (!lazy) throw error;
        await umount2(target, UMOUNT_NOFOLLOW | MNT_DETACH);
      }
      any = true;
    }
  },

  /** Removes a tree, never leaving its mount (remove-tree.ts). Not for the event loop of the agent: it works without a pause. */
  async removeTree({ path: at, keepTop, foldersOnly }, progress) {
    removeTreeHere(at, { keepTop, foldersOnly, progress });
    return undefined;
  },
};

/** A path as the operation `unmount` takes it: a character for each byte. */
export function bytesOf(target: string): string {
  return Buffer.from(target).toString('latin1');
}

function isMountedAs(target: string, want: fs.Stats): boolean {
  try {
    const at = fs.lstatSync(target);
    return at.dev === want.dev && at.ino === want.ino;
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return false;
    throw error;
  }
}

/** Removes a bind target, which is an empty file or directory: never with what is in it, should something still be mounted there. */
function removeEmpty(target: string): void {
  try {
    if (fs.lstatSync(target).isDirectory()) fs.rmdirSync(target);
    else fs.unlinkSync(target);
  } catch (error) {
    if (!isErrno(error, 'ENOENT', 'ENOTDIR')) throw error;
  }
}

function isWithin(base: string, at: string): boolean {
  return at === base || at.startsWith(base === '/' ? '/' : `${base}/`);
}

// /proc/self/fd/N/name is openat(N, name): the magic link leads to the open directory itself, whatever its path has become.
function openAt(fd: number, name: string, flags: number): number {
  return fs.openSync(`/proc/self/fd/${fd}/${name}`, flags | O_CLOEXEC);
}

/** Opens (O_PATH) `subPath` of `base`. Symbolic links that lead elsewhere inside the volume are followed once, up front; one met later is an attack. */
function openBeneath(base: string, subPath: string): number {
  const realBase = fs.realpathSync(base);
  const realPath = fs.realpathSync(path.join(realBase, subPath));
  if (!isWithin(realBase, realPath)) throw new AgentError('OutsideVolume', `subPath ${subPath} leads outside of its volume`);
  return walk(realBase, path.relative(realBase, realPath).split('/'), (fd, name) => openAt(fd, name, O_PATH | O_NOFOLLOW));
}

function makeBeneath(base: string, subPath: string): void {
  const realBase = fs.realpathSync(base);
  const mode = fs.statSync(realBase).mode & 0o7777;
  const wanted = path.join(realBase, subPath);
  // The part that exists may have symbolic links inside the volume; only what is made below it is walked.
  let existing = wanted;
  const missing: string[] = [];
  while (!fs.existsSync(existing)) {
    missing.unshift(path.basename(existing));
    existing = path.dirname(existing);
  }
  const realExisting = fs.realpathSync(existing);
  if (!isWithin(realBase, realExisting)) throw new AgentError('OutsideVolume', `subPath ${subPath} leads outside of its volume`);
  if (missing.length === 0) return;
  const within = path.relative(realBase, realExisting);
  const parent = walk(realBase, within.split('/'), (fd, name) => openAt(fd, name, O_PATH | O_NOFOLLOW));
  try {
    const fd = walkFrom(parent, missing, (at, name) => {
      try {
        fs.mkdirSync(`/proc/self/fd/${at}/${name}`, mode);
      } catch (error) {
        if (!isErrno(error, 'EEXIST')) throw error;
      }
      const made = openAt(at, name, O_NOFOLLOW | O_DIRECTORY);
      // mkdir(2) drops what the umask says, and the setgid bit.
      fs.fchmodSync(made, mode);
      return made;
    });
    fs.closeSync(fd);
  } finally {
    fs.closeSync(parent);
  }
}

function makePointBeneath(base: string, segments: readonly string[], directory: boolean): void {
  if (segments.some((segment) => segment === '' || segment === '.' || segment === '..')) {
    throw new AgentError('OutsideVolume', `mount point ${segments.join('/')} leads outside of its volume`);
  }
  let fd = fs.openSync(fs.realpathSync(base), O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
  try {
    for (const [i, name] of segments.entries()) {
      if (!directory && i === segments.length - 1) {
        makeEmptyFile(fd, name);
        return;
      }
      const next = makeAndOpenDirectory(fd, name);
      fs.closeSync(fd);
      fd = next;
    }
  } finally {
    fs.closeSync(fd);
  }
}

/** Any user of the pod may pass through, whatever the umask. One that is there stays as it is. */
function makeAndOpenDirectory(parent: number, name: string): number {
  try {
    fs.mkdirSync(`/proc/self/fd/${parent}/${name}`, 0o755);
  } catch (error) {
    if (isErrno(error, 'EEXIST')) return openAt(parent, name, O_PATH | O_NOFOLLOW | O_DIRECTORY);
    throw error;
  }
  const made = openAt(parent, name, O_NOFOLLOW | O_DIRECTORY);
  fs.fchmodSync(made, 0o755);
  return made;
}

function makeEmptyFile(parent: number, name: string): void {
  const { O_CREAT, O_EXCL, O_WRONLY } = fs.constants;
  try {
    const file = fs.openSync(`/proc/self/fd/${parent}/${name}`, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0o644);
    fs.closeSync(file);
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
  }
}

function walk(realBase: string, segments: readonly string[], step: (fd: number, name: string) => number): number {
  const fd = fs.openSync(realBase, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  try {
    return walkFrom(fd, segments, step);
  } finally {
    fs.closeSync(fd);
  }
}

/** Steps from `start` (left open) through the segments; the descriptor returned is the caller's to close. */
function walkFrom(start: number, segments: readonly string[], step: (fd: number, name: string) => number): number {
  let fd = fs.openSync(`/proc/self/fd/${start}`, O_PATH | O_CLOEXEC);
  for (const segment of segments) {
    if (segment === '' || segment === '.') continue;
    let next: number;
    try {
      if (segment === '..') throw new AgentError('OutsideVolume', 'a subPath must not contain ".."');
      next = step(fd, segment);
    } finally {
      fs.closeSync(fd);
    }
    fd = next;
    // O_PATH | O_NOFOLLOW opens a symbolic link itself instead of failing.
    if (fs.fstatSync(fd).isSymbolicLink()) {
      fs.closeSync(fd);
      throw new AgentError('UnexpectedSymlink', `unexpected symbolic link ${segment} in a subPath`);
    }
  }
  return fd;
}
