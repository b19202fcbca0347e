import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { AgentError } from '../../base/errors.ts';
import { fromFsError, isErrno } from '../sys/errno.ts';
import { MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC, MS_REMOUNT, mount } from '../sys/libc.ts';
import { canHang, type MountEntry, mountHolding, mountsUnder, parseMountinfo, type RealPath } from './mountinfo.ts';
import { bytesOf, type FileType, type OperationName, type Operations, operations } from './operations.ts';
import { placeOf } from './real-path.ts';
import { createRemoveTree, type RemoveTree } from './removals.ts';
import { runInChild } from './run-child.ts';

interface TmpfsOptions {
  /** Bytes; undefined leaves the kernel's default, half of the memory. */
  readonly sizeBytes?: number | undefined;
  /** Keep its pages out of swap where the kernel can (6.4 and later); secrets go on such a one. */
  readonly noswap?: boolean | undefined;
}

/** What the node mounts and unmounts. Every method throws AgentError; `signal` ends the waiting, and kills the child that a hanging path needs. */
export interface Mounts {
  /** A tmpfs on `target`, which must exist. Mounted already: nothing happens. */
  mountTmpfs(target: string, options: TmpfsOptions, signal: AbortSignal): Promise<void>;
  /** A hugetlbfs on `target` with pages of this size (`2M`, `1G`). Mounted already: nothing happens. */
  mountHugetlbfs(target: string, pageSize: string, signal: AbortSignal): Promise<void>;
  bindMount(source: string, target: string, options: { readOnly?: boolean; recursive?: boolean }, signal: AbortSignal): Promise<void>;
  /** Takes away every mount on exactly this path; absence is success. Throws Busy when in use, unless `lazy`. */
  unmount(target: string, options: { lazy?: boolean }, signal: AbortSignal): Promise<void>;
  /** Takes away every mount on this path and below, whoever uses it; absence is success. Throws Busy when one stays. */
  unmountUnder(target: string, signal: AbortSignal): Promise<void>;
  /** True when something is mounted on exactly this path; its folders may be symbolic links. Not for paths that may hang, nor is `listUnder`. */
  isMountPoint(target: string): Promise<boolean>;
  /** The mounts on this path or below, deepest first; the folders of the path may be symbolic links. */
  listUnder(target: string): Promise<MountEntry[]>;
  /**
   * Removes a tree of the node's own folders within its mount; absence is success, and a mount below it stays (Busy). What is large goes in a child, which
   * the signal kills: what is gone by then stays gone, and the next call goes on from there.
   */
  removeTree: RemoveTree;
  fileType(target: string, signal: AbortSignal): Promise<FileType | undefined>;
  makeDirectory(target: string, mode: number, signal: AbortSignal): Promise<void>;
  makeFile(target: string, mode: number, signal: AbortSignal): Promise<void>;
  /** Bind-mounts `subPath` of the volume at `base` on `target`, safe against symbolic links put there meanwhile. Bound already: nothing happens. */
  bindSubPath(base: string, subPath: string, target: string, signal: AbortSignal): Promise<void>;
  makeSubPathDirectory(base: string, subPath: string, signal: AbortSignal): Promise<void>;
  /** Makes what is missing of `subPath` beneath `base` for a mount of a directory or of a file; over no symbolic link. */
  makeMountPoint(base: string, subPath: string, directory: boolean, signal: AbortSignal): Promise<void>;
  /** The last bytes of a regular file that a pod may have made. `path` is below `root`, and a link on the way from there is refused (UnexpectedSymlink). */
  readTail(root: string, path: string, mostBytes: number, signal: AbortSignal): Promise<Buffer>;
  /** The text of a regular file of the volume at `base`, at most `mostBytes`; links count as far as they stay inside. */
  readInside(base: string, path: string, mostBytes: number, signal: AbortSignal): Promise<string>;
}

export interface MountsOptions {
  /** Starts the child for paths that may hang; gets the operation and its arguments appended. Default: this Node with child.ts. */
  readonly childCommand?: readonly string[];
  /** For tests: every operation in a child. */
  readonly alwaysInChild?: boolean;
}

/** The table of mounts of this process's mount namespace. */
export async function readMountinfo(): Promise<MountEntry[]> {
  return parseMountinfo(await fs.promises.readFile('/proc/self/mountinfo'));
}

export function openMounts(options: MountsOptions = {}): Mounts {
  const childCommand = options.childCommand ?? [process.execPath, fileURLToPath(import.meta.resolve('./child.ts'))];
  let noswapWorks: boolean | undefined;

  async function mayHang(target: string): Promise<boolean> {
    if (options.alwaysInChild === true) return true;
    const entries = await readMountinfo();
    return entries.some(canHang) && (await leadsAway(entries, target));
  }

  async function run<K extends OperationName>(
    name: K,
    at: string,
    args: Operations[K]['args'],
    signal: AbortSignal,
  ): Promise<Operations[K]['result']> {
    signal.throwIfAborted();
    if (await mayHang(at)) return runInChild(childCommand, name, args, signal);
    return operations[name](args);
  }

  async function isMountPoint(target: string): Promise<boolean> {
    const place = await placeOf(target);
    return (await readMountinfo()).some((entry) => entry.mountPoint === place);
  }

  async function listUnder(target: string): Promise<MountEntry[]> {
    const place = await placeOf(target);
    return mountsUnder(await readMountinfo(), place);
  }

  const removeTree = createRemoveTree(
    (target, { keepTop, foldersOnly, progress }, signal) =>
      runInChild(childCommand, 'removeTree', { path: target, keepTop, foldersOnly }, signal, progress).then(() => undefined),
    options.alwaysInChild === true,
  );

  return {
    async mountTmpfs(target, { sizeBytes, noswap }, signal) {
      signal.throwIfAborted();
      if (isFileSystemRoot(target)) return;
      const base = sizeBytes !== undefined && sizeBytes > 0 ? [`size=${Math.floor(sizeBytes)}`] : [];
      if (noswap === true && noswapWorks !== false) {
        try {
          await mount('tmpfs', target, 'tmpfs', 0, [...base, 'noswap'].join(','));
          noswapWorks = true;
          return;
        } catch (error) {
          if (!isErrno(error, 'EINVAL')) throw error;
          // Linux before 6.4 does not know the option.
          noswapWorks = false;
        }
      }
      await mount('tmpfs', target, 'tmpfs', 0, base.join(','));
    },
    async mountHugetlbfs(target, pageSize, signal) {
      signal.throwIfAborted();
      if (isFileSystemRoot(target)) return;
      await mount('nodev', target, 'hugetlbfs', 0, `pagesize=${pageSize}`);
    },
    async bindMount(source, target, { readOnly, recursive }, signal) {
      signal.throwIfAborted();
      const rec = recursive === true ? MS_REC : 0;
      await mount(source, target, undefined, MS_BIND | rec, undefined);
      // A bind mount takes its flags only from a remount; those of the source (nosuid, …) must be repeated, or the kernel refuses in a user namespace.
      if (readOnly === true) {
        const place = await placeOf(target);
        const kept = (await readMountinfo()).findLast((entry) => entry.mountPoint === place)?.options ?? [];
        const flags =
          (kept.includes('nosuid') ? MS_NOSUID : 0) | (kept.includes('nodev') ? MS_NODEV : 0) | (kept.includes('noexec') ? MS_NOEXEC : 0);
        await mount('none', target, undefined, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, undefined);
      }
    },
    async unmount(target, { lazy }, signal) {
      await run('unmount', target, { path: bytesOf(target), lazy: lazy === true }, signal);
    },
    async unmountUnder(target, signal) {
      const mounted = await listUnder(target);
      for (const { mountPoint, mountPointBytes } of mounted)
        await run('unmount', mountPoint, { path: mountPointBytes, lazy: true }, signal);
      const left = mounted.length === 0 ? [] : await listUnder(target);
      if (left[0] !== undefined) throw new AgentError('Busy', `${left[0].mountPoint} is still mounted`);
    },
    isMountPoint,
    listUnder,
    removeTree,
    fileType: (target, signal) => run('fileType', target, { path: target }, signal),
    makeDirectory: (target, mode, signal) => run('makeDirectory', target, { path: target, mode }, signal),
    makeFile: (target, mode, signal) => run('makeFile', target, { path: target, mode }, signal),
    bindSubPath: (base, subPath, target, signal) => run('bindSubPath', base, { base, subPath, target }, signal),
    makeSubPathDirectory: (base, subPath, signal) => run('makeSubPathDirectory', base, { base, subPath }, signal),
    makeMountPoint: (base, subPath, directory, signal) => run('makeMountPoint', base, { base, subPath, directory }, signal),
    async readTail(root, at, mostBytes, signal) {
      return Buffer.from(await run('readTail', path.join(root, at), { root, path: at, mostBytes }, signal), 'base64');
    },
    readInside: (base, at, mostBytes, signal) => run('readInside', path.join(base, at), { base, path: at, mostBytes }, signal),
  };
}

/** True when `target` is the root of a file system of its own. Only for our own directories: it would miss a bind mount of the same file system. */
function isFileSystemRoot(target: string): boolean {
  try {
    return fs.statSync(target).dev !== fs.statSync(path.dirname(target)).dev;
  } catch (error) {
    throw fromFsError(error, `cannot look at ${target}`);
  }
}

/**
 * True when a call on `target` could wait for a server: it lies on, holds, or may lead through a symbolic link to a remote file system. Looks at nothing
 * that could make this very look wait.
 */
async function leadsAway(entries: readonly MountEntry[], target: string): Promise<boolean> {
  const clean = path.resolve(target) as RealPath;
  for (let end = clean.indexOf('/', 1); ; end = clean.indexOf('/', end + 1)) {
    // Real indeed: whatever is before it was no link.
    const at = (end < 0 ? clean : clean.slice(0, end)) as RealPath;
    const holding = mountHolding(entries, at);
    if (holding === undefined || canHang(holding)) return true;
    try {
      if ((await fs.promises.lstat(at)).isSymbolicLink()) return true;
    } catch (error) {
      if (isErrno(error, 'ENOENT', 'ENOTDIR')) return false;
      throw fromFsError(error, `cannot look at ${at}`);
    }
    if (end < 0) break;
  }
  return mountsUnder(entries, clean).some(canHang);
}
