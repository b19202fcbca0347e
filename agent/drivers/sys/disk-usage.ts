import { spawn } from 'node:child_process';
import { stat, statfs } from 'node:fs/promises';
import { AgentError } from '../../base/errors.ts';
import { fromFsError } from './errno.ts';

/** What a file system has, in bytes and inodes. */
export interface FileSystemSize {
  /** Number of the device: two paths with the same one share a file system. */
  readonly device: number;
  readonly capacityBytes: number;
  /** For those who are not root. */
  readonly availableBytes: number;
  readonly usedBytes: number;
  readonly inodes: number;
  readonly inodesFree: number;
}

/** The file system that a path is on. Throws AgentError. */
export async function fileSystemSize(path: string): Promise<FileSystemSize> {
  try {
    const [{ dev }, { bsize, blocks, bfree, bavail, files, ffree }] = await Promise.all([stat(path), statfs(path)]);
    return {
      device: dev,
      capacityBytes: blocks * bsize,
      availableBytes: bavail * bsize,
      usedBytes: (blocks - bfree) * bsize,
      inodes: files,
      inodesFree: ffree,
    };
  } catch (error) {
    throw fromFsError(error, `cannot look at the file system of ${path}`);
  }
}

export interface DiskUsage {
  readonly bytes: number;
  readonly inodes: number;
}

/**
 * What lies below each of these paths, counted on its own file system; paths that are gone are left out. du (coreutils) walks in processes that are killed
 * when the signal aborts: what was counted by then is the answer. Throws AgentError when du cannot be run.
 */
export async function diskUsage(paths: readonly string[], signal: AbortSignal): Promise<Map<string, DiskUsage>> {
  if (paths.length === 0) return new Map();
  const [bytes, inodes] = await Promise.all([du(['--block-size=1'], paths, signal), du(['--inodes'], paths, signal)]);
  const found = new Map<string, DiskUsage>();
  for (const [path, count] of bytes) found.set(path, { bytes: count, inodes: inodes.get(path) ?? 0 });
  return found;
}

function du(options: readonly string[], paths: readonly string[], signal: AbortSignal): Promise<Map<string, number>> {
  return new Promise((resolve, reject) => {
    const child = spawn('du', ['-s', '-x', '-0', ...options, '--', ...paths], {
      stdio: ['ignore', 'pipe', 'ignore'],
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' },
    });
    // Heard first, and nothing else without a process: where descriptors have run out it has no streams either.
    child.on('error', (error) => reject(new AgentError('Unavailable', `cannot run du (coreutils): ${error.message}`, { cause: error })));
    if (child.pid === undefined) return;
    let output = '';
    const kill = (): void => {
      child.kill('SIGKILL');
      // One that the kernel holds cannot be killed: it is left behind, and the answer does not wait for it.
      finish();
    };
    const finish = (): void => {
      signal.removeEventListener('abort', kill);
      child.stdout.destroy();
      resolve(parseDu(output));
    };
    if (signal.aborted) kill();
    else signal.addEventListener('abort', kill, { once: true });
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    child.on('close', finish);
  });
}

/** `4096\t/path\0…`, as `du -0` prints it; a last entry that was cut off is left out. */
export function parseDu(output: string): Map<string, number> {
  const found = new Map<string, number>();
  for (const entry of output.split('\0').slice(0, -1)) {
    const tab = entry.indexOf('\t');
    if (tab > 0) found.set(entry.slice(tab + 1), Number(entry.slice(0, tab)));
  }
  return found;
}
