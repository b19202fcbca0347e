import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { AgentError, hasCode } from '../../base/errors.ts';
import { type FileLock, tryLockFile } from '../../drivers/sys/file-lock.ts';
import { standalone } from './paths.ts';

/** Keeps a second `up` or `down` away. Throws AgentError Busy when one is under way. */
export function takeLock(file: string = standalone.lock): Disposable {
  const lock = tryInFolder(file);
  if (!('heldBy' in lock)) return lock;
  const who = lock.heldBy === undefined ? '' : ` (process ${lock.heldBy})`;
  throw new AgentError('Busy', `another keelson up or down is under way${who}: wait for its end`);
}

function tryInFolder(file: string): FileLock {
  for (;;) {
    mkdirSync(dirname(file), { recursive: true, mode: 0o755 });
    try {
      return tryLockFile(file);
    } catch (error) {
      // A `down` that ends has just removed the folder.
      if (!hasCode(error, 'NotFound')) throw error;
    }
  }
}
