import { constants, type Dirent, type Stats } from 'node:fs';
import { type FileHandle, open, readdir, readlink } from 'node:fs/promises';
import { AgentError } from '../../base/errors.ts';
import { fromFsError } from '../sys/errno.ts';

// How a path is opened that a pod, a plugin or a client may shape. open(2) on a FIFO waits for a writer and holds one of the few threads for file I/O, and opening
// a device can do things. So what is there is looked at first, by a descriptor that opens nothing (O_PATH, open(2)), and what is read then is that very file: the
// link /proc/self/fd/N leads to it, whatever has been put in its place. Paths on file systems that may hang belong into drivers/mounts/child.ts besides.

// include/uapi/asm-generic/fcntl.h; node:fs does not name it.
const O_PATH = 0o10000000;
const { O_RDONLY, O_NONBLOCK, O_NOFOLLOW } = constants;

/** More than any file that is read whole should have, bytes. */
const mostTextBytes = 10 * 1024 * 1024;

/** Something that has been looked at, and is held. */
export interface Looked extends AsyncDisposable {
  /** Valid until it is closed. Nothing can be read by it: see open(2) on O_PATH. */
  readonly fd: number;
  readonly info: Stats;
  /** Where it lies, all links resolved; ` (deleted)` at the end when it has lost its name. */
  realPath(): Promise<string>;
  /** For reading. Throws AgentError NotAFile unless it is a regular file. */
  open(): Promise<FileHandle>;
  /** What is in it. Throws AgentError NotADirectory unless it is a folder. */
  list(): Promise<Dirent[]>;
}

/** Looks at a path; symbolic links are followed. Throws AgentError (NotFound, NotADirectory, UnexpectedSymlink for a loop, …). */
export async function lookAt(path: string): Promise<Looked> {
  return await looked(path, path, O_PATH);
}

/**
 * Looks at `relative` below `root`. No link is followed but in `root` itself, and nothing leads out of it. Throws AgentError: UnexpectedSymlink where there is
 * a link, OutsideRoot for `..`, NotFound, ….
 */
export async function lookBeneath(root: string, relative: string): Promise<Looked> {
  const whole = `${root.replace(/\/+$/, '')}/${relative.replace(/^\/+/, '')}`;
  let at = await lookAt(root);
  for (const name of relative.split('/')) {
    if (name === '' || name === '.') continue;
    await using above = at;
    if (name === '..') throw new AgentError('OutsideRoot', `${whole} leads out of ${root}`);
    at = await looked(`/proc/self/fd/${above.fd}/${name}`, whole, O_PATH | O_NOFOLLOW);
    if (!at.info.isSymbolicLink()) continue;
    await at[Symbol.asyncDispose]();
    throw new AgentError('UnexpectedSymlink', `${whole}: ${name} is a symbolic link`);
  }
  return at;
}

/**
 * Looks at `relative` below `root`, links followed, as long as what is found lies below the root: by no link, and by no `..`. Throws AgentError: OutsideRoot,
 * NotFound, ….
 */
export async function lookWithin(root: string, relative: string): Promise<Looked> {
  await using top = await lookAt(root);
  const found = await lookAt(`${root.replace(/\/+$/, '')}/${relative.replace(/^\/+/, '')}`);
  try {
    const above = await top.realPath();
    // A place deeper than a path may be long has none: ENAMETOOLONG.
    const real = await found.realPath();
    if (real === above || real.startsWith(above === '/' ? above : `${above}/`)) return found;
    throw new AgentError('OutsideRoot', `${relative} leads out of ${root}`);
  } catch (error) {
    // A FileHandle that the garbage collector finds open ends the process (Node.js DEP0137).
    await found[Symbol.asyncDispose]();
    throw error;
  }
}

async function looked(at: string, path: string, flags: number): Promise<Looked> {
  const failed = (error: unknown): never => {
    throw fromFsError(error, `cannot open ${path}`);
  };
  const handle = await open(at, flags).catch(failed);
  const info = await handle.stat().catch(async (error: unknown) => {
    await handle.close();
    return failed(error);
  });
  const itself = `/proc/self/fd/${handle.fd}`;
  return {
    fd: handle.fd,
    info,
    realPath: () => readlink(itself).catch(failed),
    async open() {
      if (!info.isFile()) throw new AgentError('NotAFile', `${path} is ${kindOf(info)}, not a regular file`);
      return await open(itself, O_RDONLY | O_NONBLOCK).catch(failed);
    },
    async list() {
      return await readdir(itself, { withFileTypes: true }).catch(failed);
    },
    [Symbol.asyncDispose]: () => handle.close(),
  };
}

function kindOf(info: Stats): string {
  if (info.isDirectory()) return 'a directory';
  if (info.isFIFO()) return 'a FIFO';
  if (info.isSocket()) return 'a socket';
  if (info.isSymbolicLink()) return 'a symbolic link';
  return info.isCharacterDevice() || info.isBlockDevice() ? 'a device' : 'something else';
}

/** All that is in an open file. Throws AgentError TooLarge for one of more than `mostBytes`, without reading it where its size says so. */
async function readWhole(file: FileHandle, path: string, mostBytes: number = mostTextBytes): Promise<Buffer> {
  const tooLarge = (): AgentError => new AgentError('TooLarge', `${path} is larger than ${mostBytes} bytes`);
  try {
    const { size } = await file.stat();
    if (size > mostBytes) throw tooLarge();
    const chunks: Buffer[] = [];
    let total = 0;
    // A file may have grown since, and the kernel's own files have no size.
    for (let length = size + 1; ; length = 64 * 1024) {
      const { buffer, bytesRead } = await file.read(Buffer.allocUnsafe(length), 0, length, total);
      if (bytesRead === 0) return Buffer.concat(chunks, total);
      chunks.push(buffer.subarray(0, bytesRead));
      total += bytesRead;
      if (total > mostBytes) throw tooLarge();
    }
  } catch (error) {
    throw fromFsError(error, `cannot read ${path}`);
  }
}

/** The last bytes of an open file. */
export async function readTail(file: FileHandle, path: string, mostBytes: number): Promise<Buffer> {
  try {
    const { size } = await file.stat();
    const length = Math.min(size, mostBytes);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, size - length);
    return buffer.subarray(0, bytesRead);
  } catch (error) {
    throw fromFsError(error, `cannot read ${path}`);
  }
}

/**
 * The bytes of a regular file that somebody else may have put there, at most `mostBytes` (10 MiB unless said); links are followed. Throws AgentError: NotFound,
 * NotAFile, TooLarge, ….
 */
export async function readBytes(path: string, mostBytes?: number): Promise<Buffer> {
  await using at = await lookAt(path);
  await using file = await at.open();
  return await readWhole(file, path, mostBytes);
}

/** As `readBytes`, with the time of the last write (wall, ms). */
export async function readDated(path: string, mostBytes?: number): Promise<{ readonly bytes: Buffer; readonly modifiedAt: number }> {
  await using at = await lookAt(path);
  await using file = await at.open();
  return { bytes: await readWhole(file, path, mostBytes), modifiedAt: at.info.mtimeMs };
}

/** As `readBytes`, as text. */
export async function readText(path: string, mostBytes?: number): Promise<string> {
  return (await readBytes(path, mostBytes)).toString('utf8');
}
