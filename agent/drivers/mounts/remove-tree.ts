import fs from 'node:fs';
import path from 'node:path';
import { AgentError } from '../../base/errors.ts';
import { codeOfErrno, fromFsError, isErrno } from '../sys/errno.ts';

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
  /** Stop before more than this is done: `entries` files and folders removed or entered, `bytes` of files. */
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
const mounted = 'it is in use: something is mounted there';

/**
 * Removes `target` and what is below it, from this process and without a pause. Its folders may be symbolic links, `target` itself is not followed. A mount
 * is never entered: it stays, with the folders that hold it, and so does what cannot be removed; all the rest goes. Absence is success.
 * Returns false when the budget ended it. Throws AgentError for the first thing that stays: Busy where something is mounted.
 */
export function removeTreeHere(target: string, how: RemoveHow = {}): boolean {
  const clean = path.resolve(target);
  const holder = openHolder(clean);
  if (holder === undefined) return true;
  const removal = new Removal(clean, holder, how);
  try {
    return removal.run();
  } catch (error) {
    throw fromFsError(error, `cannot remove ${clean}`);
  } finally {
    removal.close();
  }
}

/** One removal: the open folders from the one that holds the target down to the one that is worked on. */
class Removal {
  readonly #target: string;
  readonly #how: RemoveHow;
  readonly #mount: string;
  readonly #holder: Folder;
  readonly #stack: Folder[];
  #removed = 0;
  #steps = 0;
  #bytes = 0;
  #failures = 0;
  #first: AgentError | undefined;

  constructor(target: string, holder: number, how: RemoveHow) {
    this.#target = target;
    this.#how = how;
    this.#mount = mountOf(holder);
    this.#holder = makeFolder(Buffer.alloc(0), holder);
    this.#stack = [this.#holder];
  }

  /** False when the budget ended it. */
  run(): boolean {
    const top = Buffer.from(path.basename(this.#target));
    const found = fs.lstatSync(below(this.#holder, top), { throwIfNoEntry: false });
    if (found === undefined) return true;
    if (this.#how.keepTop === true) {
      if (!found.isDirectory()) throw new AgentError('NotADirectory', `cannot empty ${this.#target}: it is no folder`);
      this.#descend(this.#holder, top);
    } else if (!this.#take(this.#holder, top, found.isDirectory())) return false;
    for (;;) {
      const [parent, folder] = [this.#stack.at(-2), this.#stack.at(-1)];
      if (parent === undefined || folder === undefined) break;
      const entry = nextEntry(folder);
      if (entry === null) this.#leave(folder, parent);
      else if (!folder.kept.has(entry.name.toString('latin1')) && !this.#take(folder, entry.name, entry.isDirectory())) return false;
    }
    if (this.#first !== undefined) throw this.#failure(this.#first);
    return true;
  }

  close(): void {
    for (const folder of this.#stack) closeFolder(folder);
  }

  /** Takes one entry away, or goes down into it. False when that is over the budget. */
  #take(folder: Folder, name: Buffer, isFolder: boolean): boolean {
    const { budget, foldersOnly } = this.#how;
    // Going down counts too: a chain of thousands of folders is long before anything of it is removed.
    if (budget !== undefined && this.#steps++ >= budget.entries) return false;
    if (foldersOnly === true && !isFolder) {
      this.#keep(folder, name, 'NotEmpty', 'it is a file, and only folders were to be here');
      return true;
    }
    const at = below(folder, name);
    try {
      if (isFolder) fs.rmdirSync(at);
      else {
        if (budget !== undefined && this.#wouldExceed(budget.bytes, at)) return false;
        fs.unlinkSync(at);
      }
    } catch (error) {
      if (isErrno(error, 'ENOTEMPTY', 'EEXIST')) this.#descend(folder, name);
      // It has gone, or something else has taken its place: the next pass sees what.
      else if (!isErrno(error, 'ENOENT', 'ENOTDIR', 'EISDIR')) this.#keepFor(folder, name, error);
      return true;
    }
    this.#gone(folder);
    return true;
  }

  #wouldExceed(most: number, at: Buffer): boolean {
    const stat = fs.lstatSync(at);
    // A file that has another name frees nothing.
    if (stat.isFile() && stat.nlink === 1) this.#bytes += stat.size;
    return this.#bytes > most;
  }

  #descend(folder: Folder, name: Buffer): void {
    let fd: number;
    try {
      fd = fs.openSync(below(folder, name), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    } catch (error) {
      if (!isErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) this.#keepFor(folder, name, error);
      return;
    }
    if (mountOf(fd) !== this.#mount) {
      fs.closeSync(fd);
      this.#keep(folder, name, 'Busy', mounted);
      return;
    }
    this.#stack.push(makeFolder(name, fd));
    // The holder is never let go: while it is open, its mount's number is nobody else's.
    const far = this.#stack[this.#stack.length - 1 - openFolders];
    if (far !== undefined && far !== this.#holder) closeFolder(far);
  }

  /** A pass over a folder has come to its end: another one, or up. */
  #leave(folder: Folder, parent: Folder): void {
    folder.entries?.closeSync();
    folder.entries = undefined;
    this.#openAgain(parent, folder);
    const again = folder.removedInPass > 0;
    folder.passes = again ? 0 : folder.passes + 1;
    folder.removedInPass = 0;
    const isKeptTop = parent === this.#holder && this.#how.keepTop === true;
    if (isKeptTop && again) return;
    const stays = isKeptTop || folder.kept.size > 0;
    let failure: unknown;
    if (!stays) {
      try {
        fs.rmdirSync(below(parent, folder.name));
      } catch (error) {
        if (isErrno(error, 'ENOTEMPTY', 'EEXIST') && folder.passes < maxIdlePasses) return;
        failure = error;
      }
    }
    closeFolder(folder);
    this.#stack.pop();
    if (stays) parent.kept.add(folder.name.toString('latin1'));
    else if (failure === undefined) this.#gone(parent);
    else if (!isErrno(failure, 'ENOENT', 'ENOTDIR')) this.#keepFor(parent, folder.name, failure);
  }

  /** The folder above, open again: by `..`, and only if that is the one that it was. */
  #openAgain(parent: Folder, child: Folder): void {
    if (parent.fd !== undefined) return;
    parent.fd = fs.openSync(below(child, Buffer.from('..')), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (identityOf(parent.fd) === parent.identity && mountOf(parent.fd) === this.#mount) return;
    throw new AgentError('Aborted', `cannot remove ${this.#target}: somebody moves folders in it meanwhile`);
  }

  #gone(folder: Folder): void {
    this.#removed++;
    folder.removedInPass++;
    if (this.#removed % progressEvery === 0) this.#how.progress?.(this.#removed);
  }

  #keepFor(folder: Folder, name: Buffer, error: unknown): void {
    const errno = errnoOf(error);
    this.#keep(folder, name, codeOfErrno(errno), errno === 'EBUSY' ? mounted : errno);
  }

  #keep(folder: Folder, name: Buffer, code: string, why: string): void {
    this.#first ??= new AgentError(code, `cannot remove ${this.#pathOf(name)}: ${why}`);
    folder.kept.add(name.toString('latin1'));
    if (++this.#failures > maxKept) throw this.#failure(this.#first);
  }

  #failure(first: AgentError): AgentError {
    return this.#failures === 1 ? first : new AgentError(first.code, `${first.message} (and ${this.#failures - 1} more)`);
  }

  /** Of an entry of the folder that is worked on, for people. */
  #pathOf(name: Buffer): string {
    const names = [...this.#stack.slice(1).map((folder) => folder.name), name].slice(1);
    const inside = names.map((each) => `/${each.toString('utf8')}`).join('');
    return `${this.#target}${inside.length > 300 ? `/…${inside.slice(-300)}` : inside}`;
  }
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
