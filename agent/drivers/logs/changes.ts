import { watch } from 'node:fs';
import type { Clock } from '../../base/clock.ts';
import type { FollowedContainer } from './read.ts';

// The directory watch tells of writes at once; the poll finds what a file system without inotify, or a lost event, would hide.
const pollIntervalMs = 1000;

export interface Changes extends Disposable {
  /** Forgets what happened so far. */
  reset(): void;
  /** Resolves at the next change since `reset`, and after the poll interval at the latest. */
  next(signal: AbortSignal): Promise<void>;
}

/** Watches the folder of a log that is followed, and its container. */
export function watchForChanges(directory: string, following: FollowedContainer, clock: Clock): Changes {
  let changed = false;
  let wake: (() => void) | undefined;
  const tell = (): void => {
    changed = true;
    wake?.();
  };
  const subscription = following.onChange(tell);
  let watcher: ReturnType<typeof watch> | undefined;
  try {
    watcher = watch(directory, { persistent: false }, tell);
    // Out of inotify watches, or the directory is gone: the poll goes on.
    watcher.on('error', () => watcher?.close());
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOSPC' && code !== 'EMFILE' && code !== 'ENOENT') throw error;
  }
  return {
    reset: () => {
      changed = false;
    },
    next(signal) {
      return new Promise((resolve, reject) => {
        if (changed) {
          resolve();
          return;
        }
        const done = (): void => {
          timer[Symbol.dispose]();
          signal.removeEventListener('abort', onAbort);
          wake = undefined;
        };
        const onAbort = (): void => {
          done();
          reject(signal.reason);
        };
        wake = () => {
          done();
          resolve();
        };
        const timer = clock.after(pollIntervalMs, () => wake?.());
        if (signal.aborted) onAbort();
        else signal.addEventListener('abort', onAbort, { once: true });
      });
    },
    [Symbol.dispose]() {
      subscription[Symbol.dispose]();
      watcher?.close();
    },
  };
}
