import fs from 'node:fs';
import path from 'node:path';
import { AgentError } from '../../base/errors.ts';
import { codeOfErrno, isErrno } from '../sys/errno.ts';

// The one piece that removes trees (test/architecture.test.ts keeps fs.rm with `recursive` out of everything else). What a pod left may be millions of files,
// deeper than any path may be long, in names that are no text; and below it may lie what is somebody else's: a mount.
// So it goes by descriptors, one folder at a time, and never from one mount into another (kubelet: pkg/util/removeall, RemoveAllOneFilesystem).

// Linux, include/uapi/asm-generic/fcntl.h; node:fs does not name them.
const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;
const { O_DIRECTORY, O_NOFOLLOW, O_RDONLY } = fs.constants;

export interface RemoveOptions {
  /** The folder itself stays, empty. */
  readonly keepTop?: boolean | undefined;
  /** Folders alone are removed: a file found below stays, and is an error (kubelet's RemoveDirsOneFilesystem). */
  readonly foldersOnly?: boolean | undefined;
}

export interface RemoveHow extends RemoveOptions {
  /** Stop before more than this is removed: `entries` files and folders, `bytes` of files. */
  readonly budget?: { readonly entries: number; readonly bytes: number } | undefined;
  /** Told how many files and folders are gone, now and then. What it throws ends the work. */
  readonly progress?: ((removed: number) => void) | undefined;
}

interface Folder {
  /** In its parent. Bytes: a name need not be text. */
  readonly name: Buffer;
  readonly identity: string;
  /** Undefined while it is far above the folder that is worked on. */
  fd: number | undefined;
  entries: fs.Dir | undefined;
  /** Names, a character a byte, of what could not be removed. */
  readonly kept: Set<string>;
  removedInPass: number;
  passes: number;
}

// Open folders are two descriptors each, and a process may have had 1,024 in all.
const openFolders = 64;
const progressEvery = 1_000;
// So many failures are no exception any more.
const maxKept = 1_000;
// A pass that removes nothing although the folder is not empty: some file systems show an entry only to the next reader.
const maxIdlePasses = 3;

/**
 * Removes `target` and what is below it, from this process and without a pause. Its folders may be symbolic links, `target` itself is not followed. A mount
 * is never entered: it stays, with the folders that hold it, and so does what cannot be removed; all the rest goes. Absence is success.
 * Returns false when the budget ended it. Throws AgentError for the first thing that stays: Busy where something is mounted.
 */
export function removeTreeHere(target: string, how: RemoveHow = {}): boolean {
  const removal = startRemoval(target, how);
  if (removal === undefined) return true;
  try {
    return removal.run();
  } finally {
    removal.close();
  }
}

/** Undefined when there is nothing to remove. */
function startRemoval(target: string, how: RemoveHow): { run(): boolean; close(): void } | undefined {
  const clean = path.resolve(target);
  const holder = openHolder(clean);
  if (holder === undefined) return undefined;
  const mount = mountOf(holder);
  const stack: Folder[] = [makeFolder(Buffer.alloc(0), holder)];
  let removed = 0;
  let bytes = 0;
  let failures = 0;
  let first: AgentError | undefined;

  const named = (name: Buffer): string => {
    const names = [...stack.slice(1).map((each) => each.name), name].slice(1).map((each) => each.toString('utf8'));
    const below = names.length === 0 ? '' : `/${names.join('/')}`;
    return `${clean}${below.length > 300 ? `/…${below.slice(-300)}` : below}`;
  };
  const gone = (folder: Folder): void => {
    removed++;
    folder.removedInPass++;
    if (removed % progressEvery === 0) how.progress?.(removed);
  };
  const keep = (folder: Folder, name: Buffer, code: string, why: string): void => {
    first ??= new AgentError(code, `cannot remove ${named(name)}: ${why}`);
    folder.kept.add(name.toString('latin1'));
    if (++failures > maxKept) throw new AgentError(first.code, `${first.message} (and ${failures - 1} more)`);
  };
  const keepFor = (folder: Folder, name: Buffer, error: unknown): void => {
    const errno = errnoOf(error);
    keep(folder, name, codeOfErrno(errno), errno === 'EBUSY' ? 'it is in use: something is mounted there' : errno);
  };

  /** Takes one entry away, or goes down into it. False when that is over the budget. */
  function take(folder: Folder, name: Buffer, isFolder: boolean): boolean {
    if (how.budget !== undefined && removed >= how.budget.entries) return false;
    const at = below(folder, name);
    if (isFolder && stack.length === 1 && how.keepTop === true) {
      descend(folder, name, at);
      return true;
    }
    try {
      if (isFolder) fs.rmdirSync(at);
      else {
        if (how.foldersOnly === true) {
          keep(folder, name, 'NotEmpty', 'it is a file, and only folders were to be here');
          return true;
        }
        if (how.budget !== undefined) {
          const stat = fs.lstatSync(at);
          bytes += stat.isFile() && stat.nlink === 1 ? stat.size : 0;
          if (bytes > how.budget.bytes) return false;
        }
        fs.unlinkSync(at);
      }
    } catch (error) {
      if (isErrno(error, 'ENOTEMPTY', 'EEXIST')) descend(folder, name, at);
      // It has gone, or something else has taken its place: the next pass sees what.
      else if (!isErrno(error, 'ENOENT', 'ENOTDIR', 'EISDIR')) keepFor(folder, name, error);
      return true;
    }
    gone(folder);
    return true;
  }

  function descend(folder: Folder, name: Buffer, at: Buffer): void {
    let fd: number;
    try {
      fd = fs.openSync(at, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    } catch (error) {
      if (!isErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) keepFor(folder, name, error);
      return;
    }
    if (mountOf(fd) !== mount) {
      fs.closeSync(fd);
      keep(folder, name, 'Busy', 'something is mounted there');
      return;
    }
    stack.push(makeFolder(name, fd));
    // The first one is never let go: while it is open, its mount's number is nobody else's.
    const far = stack[stack.length - 1 - openFolders];
    if (far !== undefined && far !== stack[0]) closeFolder(far);
  }

  /** The folder above, open again: by `..`, and only if that is the one that it was. */
  function reopened(folder: Folder, parent: Folder): number {
    if (parent.fd !== undefined) return parent.fd;
    const fd = fs.openSync(below(folder, Buffer.from('..')), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    parent.fd = fd;
    if (identityOf(fd) === parent.identity && mountOf(fd) === mount) return fd;
    throw new AgentError('Aborted', `cannot remove ${clean}: somebody moves folders in it meanwhile`);
  }

  /** A pass has come to its end: another one, or up. */
  function leave(folder: Folder, parent: Folder): void {
    folder.entries?.closeSync();
    folder.entries = undefined;
    reopened(folder, parent);
    const isTop = stack.length === 2;
    const again = folder.removedInPass > 0;
    folder.passes = again ? 0 : folder.passes + 1;
    folder.removedInPass = 0;
    let failure: unknown;
    const stays = (isTop && how.keepTop === true) || folder.kept.size > 0;
    if (stays && isTop && again) return;
    if (!stays) {
      try {
        fs.rmdirSync(below(parent, folder.name));
      } catch (error) {
        if (isErrno(error, 'ENOTEMPTY', 'EEXIST') && folder.passes < maxIdlePasses) return;
        failure = error;
      }
    }
    closeFolder(folder);
    stack.pop();
    if (stays) parent.kept.add(folder.name.toString('latin1'));
    else if (failure === undefined) gone(parent);
    else if (!isErrno(failure, 'ENOENT', 'ENOTDIR')) keepFor(parent, folder.name, failure);
  }

  return {
    run() {
      const top = Buffer.from(path.basename(clean));
      const found = lookAt(below(stack[0] as Folder, top));
      if (found === undefined) return true;
      if (how.keepTop === true && found !== 'folder') throw new AgentError('NotADirectory', `cannot empty ${clean}: it is no folder`);
      if (!take(stack[0] as Folder, top, found === 'folder')) return false;
      for (;;) {
        const [parent, folder] = [stack.at(-2), stack.at(-1) as Folder];
        if (parent === undefined) break;
        const entry = nextEntry(folder);
        if (entry === null) leave(folder, parent);
        else if (!folder.kept.has(entry.name.toString('latin1')) && !take(folder, entry.name, entry.isDirectory())) return false;
      }
      if (first !== undefined) throw failures === 1 ? first : new AgentError(first.code, `${first.message} (and ${failures - 1} more)`);
      return true;
    },
    close() {
      for (const folder of stack) closeFolder(folder);
    },
  };
}

/** The folder that `target` is in; undefined when it is not there. */
function openHolder(target: string): number | undefined {
  if (target === '/') throw new AgentError('InvalidArgument', 'cannot remove /');
  try {
    return fs.openSync(path.dirname(target), O_PATH | O_DIRECTORY | O_CLOEXEC);
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return undefined;
    throw new AgentError(codeOfErrno(errnoOf(error)), `cannot remove ${target}: ${errnoOf(error)}`, { cause: error });
  }
}

function lookAt(at: Buffer): 'folder' | 'other' | undefined {
  const stat = fs.lstatSync(at, { throwIfNoEntry: false });
  return stat === undefined ? undefined : stat.isDirectory() ? 'folder' : 'other';
}

function makeFolder(name: Buffer, fd: number): Folder {
  return { name, identity: identityOf(fd), fd, entries: undefined, kept: new Set(), removedInPass: 0, passes: 0 };
}

function closeFolder(folder: Folder): void {
  folder.entries?.closeSync();
  folder.entries = undefined;
  if (folder.fd !== undefined) fs.closeSync(folder.fd);
  folder.fd = undefined;
}

// /proc/self/fd/N/name is name at descriptor N (openat, unlinkat): the magic link leads to the open folder itself, whatever its path is by now.
function below(folder: Folder, name: Buffer): Buffer {
  return Buffer.concat([Buffer.from(`/proc/self/fd/${folder.fd}/`), name]);
}

function nextEntry(folder: Folder): { readonly name: Buffer; isDirectory(): boolean } | null {
  // The types of node:fs do not know that names come as bytes when asked for so.
  folder.entries ??= fs.opendirSync(`/proc/self/fd/${folder.fd}`, { encoding: 'buffer' as BufferEncoding, bufferSize: 512 });
  return folder.entries.readSync() as unknown as { name: Buffer; isDirectory(): boolean } | null;
}

function identityOf(fd: number): string {
  const { dev, ino } = fs.fstatSync(fd, { bigint: true });
  return `${dev}:${ino}`;
}

/**
 * What tells one mount from another: its ID (proc_pid_fdinfo(5)). The device alone would not see a bind mount of the same disk, and would take a btrfs
 * subvolume that a pod made for somebody else's. Where /proc does not tell, the device has to do.
 */
function mountOf(fd: number): string {
  const id = /^mnt_id:\s*(\d+)$/m.exec(fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1];
  return id ?? `device ${fs.fstatSync(fd, { bigint: true }).dev}`;
}

function errnoOf(error: unknown): string {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
  if (code === undefined) throw error;
  return code;
}
