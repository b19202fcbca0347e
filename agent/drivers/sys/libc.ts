import koffi from 'koffi';
import { AgentError } from '../../base/errors.ts';
import { codeOfErrno } from './errno.ts';

// The only file that calls libc. Calls run on koffi's worker threads: umount(2) waits for an RCU grace period (milliseconds), which the
// event loop need not see. What can hang for good (a dead NFS server) must not come here: those threads cannot be killed.

// include/uapi/linux/mount.h
export const MS_RDONLY = 1;
export const MS_NOSUID = 2;
export const MS_NODEV = 4;
export const MS_NOEXEC = 8;
export const MS_REMOUNT = 32;
export const MS_BIND = 4096;
export const MS_REC = 16384;

export const MNT_DETACH = 2;
export const UMOUNT_NOFOLLOW = 8;

// include/linux/socket.h, include/linux/net.h
const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;

type AsyncCall = (...args: [...unknown[], (error: Error | null, result: number) => void]) => void;

let calls: { mount: AsyncCall; umount2: AsyncCall } | undefined;
let errnoNames: Map<number, string> | undefined;

function libc(): { mount: AsyncCall; umount2: AsyncCall } {
  if (calls === undefined) {
    const lib = koffi.load('libc.so.6');
    calls = {
      mount: lib.func('int mount(const char *source, const char *target, const char *fstype, unsigned long flags, const char *data)').async,
      umount2: lib.func('int umount2(const uint8_t *target, int flags)').async,
    };
  }
  return calls;
}

function nameOfErrno(errno: number): string {
  errnoNames ??= new Map(Object.entries(koffi.os.errno as Record<string, number>).map(([name, value]) => [value, name]));
  return errnoNames.get(errno) ?? `errno ${errno}`;
}

function call(fn: AsyncCall, args: unknown[], what: string): Promise<void> {
  return new Promise((resolve, reject) => {
    fn(...args, (error, result) => {
      // koffi keeps the worker thread's errno for the callback; it must be read before anything else runs.
      const errno = koffi.errno();
      if (error !== null) reject(new AgentError('Internal', `${what}: ${error.message}`, { cause: error }));
      else if (result === 0) resolve();
      else {
        const name = nameOfErrno(errno);
        reject(new AgentError(codeOfErrno(name), `${what}: ${name}`));
      }
    });
  });
}

/** mount(2). Throws AgentError with the errno's code (NotFound, Busy, PermissionDenied, InvalidArgument, …). */
export function mount(source: string, target: string, fstype: string | undefined, flags: number, data: string | undefined): Promise<void> {
  const what = `cannot mount ${fstype ?? source} on ${target}`;
  return call(libc().mount, [source, target, fstype ?? null, flags, data ?? null], what);
}

/** umount2(2); a path need not be text. Throws AgentError: InvalidArgument when `target` is no mount point, NotFound when it does not exist, Busy when in use. */
export function umount2(target: Uint8Array, flags: number): Promise<void> {
  const terminated = Buffer.concat([target, Buffer.alloc(1)]);
  return call(libc().umount2, [terminated, flags], `cannot unmount ${Buffer.from(target).toString('utf8')}`);
}

// include/uapi/asm-generic/mman-common.h
const MADV_DONTNEED = 4;

let madvise: SyncCall | undefined;

/** madvise(2), MADV_DONTNEED: the pages of `bytes` from address `start` on are taken from this process. What was changed in them is lost. Throws AgentError. */
export function dropMappedPages(start: number, bytes: number): void {
  madvise ??= koffi.load('libc.so.6').func('int madvise(uintptr_t addr, size_t length, int advice)');
  if (madvise(start, bytes, MADV_DONTNEED) === 0) return;
  const name = nameOfErrno(koffi.errno());
  throw new AgentError(codeOfErrno(name), `cannot let go of ${bytes} bytes at 0x${start.toString(16)}: ${name}`);
}

// include/uapi/asm-generic/resource.h
const RLIMIT_NOFILE = 7;

/** setrlimit(2): how many files this process, and those that it starts, may have open. Throws AgentError PermissionDenied above the hard limit without CAP_SYS_RESOURCE. */
export function setOpenFilesLimit(files: number): void {
  const setrlimit = koffi.load('libc.so.6').func('int setrlimit(int resource, const uint64_t *limit)') as SyncCall;
  if (setrlimit(RLIMIT_NOFILE, new BigUint64Array([BigInt(files), BigInt(files)])) === 0) return;
  const name = nameOfErrno(koffi.errno());
  throw new AgentError(codeOfErrno(name), `cannot set the limit of open files to ${files}: ${name}`);
}

// include/uapi/asm-generic/fcntl.h
const LOCK_EX = 2;
const LOCK_NB = 4;

let flock: SyncCall | undefined;

/** flock(2), exclusive and without waiting; false when another open file has the lock. It lasts until every copy of `fd` is closed. Throws AgentError. */
export function tryFlock(fd: number, path: string): boolean {
  flock ??= koffi.load('libc.so.6').func('int flock(int fd, int operation)') as SyncCall;
  if (flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const errno = koffi.errno();
  if (errno === koffi.os.errno.EAGAIN) return false;
  const name = nameOfErrno(errno);
  throw new AgentError(codeOfErrno(name), `cannot lock ${path}: ${name}`);
}

let socketCalls: { socket: SyncCall; sendto: SyncCall; close: SyncCall } | undefined;
type SyncCall = (...args: unknown[]) => number;

/**
 * Sends one datagram to a unix socket, which Node has no way to; `path` starts with `@` for an abstract address. Never blocks. Throws AgentError with the
 * errno's code: NotFound when there is no such socket, EAGAIN when its queue is full.
 */
export function sendDatagram(path: string, text: string): void {
  if (socketCalls === undefined) {
    const lib = koffi.load('libc.so.6');
    socketCalls = {
      socket: lib.func('int socket(int domain, int type, int protocol)'),
      sendto: lib.func('intptr_t sendto(int fd, const uint8_t *buf, size_t len, int flags, const uint8_t *addr, uint32_t addrlen)'),
      close: lib.func('int close(int fd)'),
    };
  }
  const { socket, sendto, close } = socketCalls;
  const what = `cannot send to the socket ${path}`;
  const check = (result: number): number => {
    if (result >= 0) return result;
    const name = nameOfErrno(koffi.errno());
    throw new AgentError(codeOfErrno(name), `${what}: ${name}`);
  };
  // struct sockaddr_un: the family in the machine's byte order, then the path; unix(7): an abstract one begins with a NUL and has no end mark.
  const abstract = path.startsWith('@');
  const name = Buffer.from(abstract ? `\0${path.slice(1)}` : `${path}\0`);
  if (name.length > 108) throw new AgentError('InvalidArgument', `${what}: the path is longer than 107 bytes`);
  const address = Buffer.concat([new Uint8Array(new Uint16Array([AF_UNIX]).buffer), name]);
  const message = Buffer.from(text);
  const fd = check(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  try {
    check(sendto(fd, message, message.length, MSG_DONTWAIT | MSG_NOSIGNAL, address, address.length));
  } finally {
    close(fd);
  }
}
