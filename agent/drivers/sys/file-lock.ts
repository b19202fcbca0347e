import fs from 'node:fs';
import { fromFsError, isErrno } from './errno.ts';
import { tryFlock } from './libc.ts';

/** What came of the attempt to take a lock. */
export type FileLock = Disposable | { readonly heldBy: number | undefined };

/**
 * Takes the lock on the file `path`, which is made when missing; its folder must exist. The kernel keeps the lock (flock(2)) until it is disposed or this
 * process ends, however it ends. Held by another process: tells its PID, undefined in the moment before that one has written it. Never waits.
 * Throws AgentError; NotFound when the folder is gone.
 */
export function tryLockFile(path: string): FileLock {
  for (;;) {
    const fd = openLock(path);
    try {
      if (!tryFlock(fd, path)) {
        const text = fs.readFileSync(fd, 'utf8');
        fs.closeSync(fd);
        return { heldBy: /^\d+\n/.test(text) ? Number.parseInt(text, 10) : undefined };
      }
      // The one before removes the file when it lets go: then what is locked here is a file that nobody finds any more.
      if (isFileAt(path, fd)) {
        fs.ftruncateSync(fd);
        fs.writeSync(fd, `${process.pid}\n`, 0);
        return { [Symbol.dispose]: () => release(path, fd) };
      }
      fs.closeSync(fd);
    } catch (error) {
      fs.closeSync(fd);
      throw fromFsError(error, `cannot lock ${path}`);
    }
  }
}

function openLock(path: string): number {
  try {
    return fs.openSync(path, fs.constants.O_RDWR | fs.constants.O_CREAT | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK, 0o600);
  } catch (error) {
    throw fromFsError(error, `cannot open the lock ${path}`);
  }
}

function isFileAt(path: string, fd: number): boolean {
  try {
    const [there, locked] = [fs.lstatSync(path), fs.fstatSync(fd)];
    return there.dev === locked.dev && there.ino === locked.ino;
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return false;
    throw error;
  }
}

// Removed while it is locked: who waits for it sees that it is another file than the one at the path.
function release(path: string, fd: number): void {
  try {
    if (isFileAt(path, fd)) fs.rmSync(path, { force: true });
  } finally {
    fs.closeSync(fd);
  }
}
