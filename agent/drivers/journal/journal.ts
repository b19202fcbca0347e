import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';

/** Facts that must outlive the agent's process, by key. Reading is from memory; writing happens behind, one file a key, whole or not at all. */
export interface Journal<T> extends AsyncDisposable {
  entries(): IterableIterator<[string, T]>;
  get(key: string): T | undefined;
  /** Remembers the value; what is overtaken before it was written is never written. */
  set(key: string, value: T): void;
  delete(key: string): void;
}

// Keys are UIDs and container IDs; anything else would have to be escaped to be a file's name.
const keyGrammar = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,200}$/;

/**
 * Opens the journal in a folder of its own. A file that cannot be read as JSON (a disk that filled up) is put aside as `.broken` and logged: one lost fact
 * does not keep the node from starting.
 */
export async function openJournal<T>(folder: string, log: Log): Promise<Journal<T>> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const values = new Map<string, T>();
  for (const name of await readdir(folder)) {
    if (!name.endsWith('.json')) {
      if (name.endsWith('.tmp')) await rm(join(folder, name), { force: true });
      continue;
    }
    try {
      values.set(name.slice(0, -'.json'.length), JSON.parse(await readFile(join(folder, name), 'utf8')) as T);
    } catch (error) {
      log.error({ file: join(folder, name), err: messageOf(error) }, 'journal file cannot be read and is put aside');
      await rename(join(folder, name), join(folder, `${name}.broken`));
    }
  }

  const dirty = new Set<string>();
  let writing: Promise<void> | undefined;
  let failing = false;

  async function writeAll(): Promise<void> {
    for (;;) {
      const key = dirty.values().next().value;
      if (key === undefined) return;
      dirty.delete(key);
      const path = join(folder, `${key}.json`);
      const value = values.get(key);
      try {
        if (value === undefined) await rm(path, { force: true });
        else {
          await writeFile(`${path}.tmp`, JSON.stringify(value), { mode: 0o600 });
          await rename(`${path}.tmp`, path);
        }
        failing = false;
      } catch (error) {
        // The fact stays in memory and is written with its next change: losing it matters only if the agent is restarted before.
        if (!failing) log.error({ file: path, err: messageOf(error) }, 'journal cannot be written');
        failing = true;
      }
    }
  }

  function touch(key: string): void {
    dirty.add(key);
    writing ??= writeAll().finally(() => {
      writing = undefined;
      const [left] = dirty;
      if (left !== undefined) touch(left);
    });
  }

  return {
    entries: () => values.entries(),
    get: (key) => values.get(key),
    set(key, value) {
      if (!keyGrammar.test(key)) return;
      values.set(key, value);
      touch(key);
    },
    delete(key) {
      if (values.delete(key)) touch(key);
    },
    async [Symbol.asyncDispose]() {
      while (writing !== undefined) await writing;
    },
  };
}
