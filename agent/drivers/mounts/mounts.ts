import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { AgentError } from '../../base/errors.ts';
import { fromFsError, isErrno } from '../sys/errno.ts';
import { MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC, MS_REMOUNT, mount } from '../sys/libc.ts';
import { canHang, type MountEntry, mountHolding, mountsUnder, parseMountinfo } from './mountinfo.ts';
import { type FileType, type OperationName, type Operations, operations } from './operations.ts';

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
  /** True when something is mounted on exactly this path (no symbolic links). */
  isMountPoint(target: string): Promise<boolean>;
  /** The mounts on this path or below, deepest first. */
  listUnder(target: string): Promise<MountEntry[]>;
  fileType(target: string, signal: AbortSignal): Promise<FileType | undefined>;
  makeDirectory(target: string, mode: number, signal: AbortSignal): Promise<void>;
  makeFile(target: string, mode: number, signal: AbortSignal): Promise<void>;
  /** Bind-mounts `subPath` of the volume at `base` on `target`, safe against symbolic links put there meanwhile. Bound already: nothing happens. */
  bindSubPath(base: string, subPath: string, target: string, signal: AbortSignal): Promise<void>;
  makeSubPathDirectory(base: string, subPath: string, signal: AbortSignal): Promise<void>;
}

export interface MountsOptions {
  /** Starts the child for paths that may hang; gets the operation and its arguments appended. Default: this Node with child.ts. */
  readonly childCommand?: readonly string[];
  /** For tests: every operation in a child. */
  readonly alwaysInChild?: boolean;
}

/** The table of mounts of this process's mount namespace. */
export async function readMountinfo(): Promise<MountEntry[]> {
  return parseMountinfo(await fs.promises.readFile('/proc/self/mountinfo', 'utf8'));
}

export function openMounts(options: MountsOptions = {}): Mounts {
  const childCommand = options.childCommand ?? [process.execPath, fileURLToPath(import.meta.resolve('./child.ts'))];
  let noswapWorks: boolean | undefined;

  /** True when a call on `target` could wait for a server: it lies on, holds, or may lead through a symbolic link to a remote file system. */
  async function mayHang(target: string): Promise<boolean> {
    if (options.alwaysInChild === true) return true;
    const entries = await readMountinfo();
    if (!entries.some(canHang)) return false;
    const holding = mountHolding(entries, target);
    if (holding === undefined || canHang(holding) || mountsUnder(entries, target).some(canHang)) return true;
    return hasSymlink(target);
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
    return (await readMountinfo()).some((entry) => entry.mountPoint === target);
  }

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
        const kept = (await readMountinfo()).findLast((entry) => entry.mountPoint === target)?.options ?? [];
        const flags =
          (kept.includes('nosuid') ? MS_NOSUID : 0) | (kept.includes('nodev') ? MS_NODEV : 0) | (kept.includes('noexec') ? MS_NOEXEC : 0);
        await mount('none', target, undefined, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, undefined);
      }
    },
    async unmount(target, { lazy }, signal) {
      await run('unmount', target, { path: target, lazy: lazy === true }, signal);
    },
    isMountPoint,
    async listUnder(target) {
      return mountsUnder(await readMountinfo(), target);
    },
    fileType: (target, signal) => run('fileType', target, { path: target }, signal),
    makeDirectory: (target, mode, signal) => run('makeDirectory', target, { path: target, mode }, signal),
    makeFile: (target, mode, signal) => run('makeFile', target, { path: target, mode }, signal),
    bindSubPath: (base, subPath, target, signal) => run('bindSubPath', base, { base, subPath, target }, signal),
    makeSubPathDirectory: (base, subPath, signal) => run('makeSubPathDirectory', base, { base, subPath }, signal),
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

async function hasSymlink(target: string): Promise<boolean> {
  let at = '';
  for (const segment of target.split('/').filter((s) => s !== '')) {
    at += `/${segment}`;
    try {
      if ((await fs.promises.lstat(at)).isSymbolicLink()) return true;
    } catch (error) {
      if (isErrno(error, 'ENOENT', 'ENOTDIR')) return false;
      throw fromFsError(error, `cannot look at ${at}`);
    }
  }
  return false;
}

function runInChild<K extends OperationName>(
  command: readonly string[],
  name: K,
  args: Operations[K]['args'],
  signal: AbortSignal,
): Promise<Operations[K]['result']> {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const [program, ...before] = command;
    const child = spawn(program ?? process.execPath, [...before, name, JSON.stringify(args)], { stdio: ['ignore', 'pipe', 'inherit'] });
    let out = '';
    let settled = false;
    const settle = (finish: () => void): void => {
      if (settled) return;
      settled = true;
      signal.removeEventListener('abort', onAbort);
      finish();
    };
    // A child in an uninterruptible wait dies only when the wait ends; the caller goes on now, and the child is left behind.
    const onAbort = (): void => {
      child.kill('SIGKILL');
      child.unref();
      child.stdout.destroy();
      settle(() => reject(signal.reason));
    };
    signal.addEventListener('abort', onAbort, { once: true });
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      out += chunk;
    });
    child.on('error', (error) =>
      settle(() => reject(new AgentError('Internal', `cannot start the mount helper: ${error.message}`, { cause: error }))),
    );
    child.on('close', (code, killedBy) => {
      settle(() => {
        const answer = parseAnswer(out);
        if (answer === undefined) reject(new AgentError('Internal', `the mount helper ended with ${killedBy ?? code} during ${name}`));
        else if ('code' in answer) reject(new AgentError(answer.code, answer.message));
        else resolve(answer.result as Operations[K]['result']);
      });
    });
  });
}

function parseAnswer(text: string): { result?: unknown } | { code: string; message: string } | undefined {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
