import { rename, rm, writeFile } from 'node:fs/promises';
import { messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';

/** One file that follows what is in memory: the whole of it or not at all. */
export interface WriteBehind extends AsyncDisposable {
  /** What the file should say has changed. */
  touch(): void;
  /** Resolves when the file says what was true at the call, or could not be written (logged). */
  written(): Promise<void>;
}

/** `text` is asked for what the file should say when it is written; what is overtaken before that is never written. */
export async function openWriteBehind(path: string, text: () => string, log: Log): Promise<WriteBehind> {
  const temporary = `${path}.tmp`;
  await rm(temporary, { force: true });
  let dirty = false;
  let writing: Promise<void> | undefined;
  let failing = false;

  async function write(): Promise<void> {
    while (dirty) {
      dirty = false;
      try {
        await writeFile(temporary, text(), { mode: 0o600 });
        await rename(temporary, path);
        failing = false;
      } catch (error) {
        // It stays in memory and is written with the next change: that matters only if the agent is restarted before.
        if (!failing) log.error({ file: path, err: messageOf(error) }, 'checkpoint cannot be written');
        failing = true;
      }
    }
  }

  function touch(): void {
    dirty = true;
    writing ??= write().finally(() => {
      writing = undefined;
      if (dirty) touch();
    });
  }

  async function written(): Promise<void> {
    while (writing !== undefined) await writing;
  }

  return { touch, written, [Symbol.asyncDispose]: written };
}
