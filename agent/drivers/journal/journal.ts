import { readdir, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { AgentError, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { changeAtomically, setAside, temporaryPath } from '../files/atomic.ts';
import { readText } from '../files/look.ts';
import { startWriteBehind } from '../files/write-behind.ts';
import { isErrno } from '../sys/errno.ts';

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
const ending = '.json';

/**
 * Opens the journal in a folder of its own. A file that does not hold a JSON object (a disk that filled up) is put aside as `.broken` and logged, and a folder
 * that cannot be read is empty: lost facts do not keep the node from starting.
 */
export async function openJournal<T extends object>(folder: string, clock: Clock, log: Log): Promise<Journal<T>> {
  const values = await readValues<T>(folder, log);
  const pathOf = (key: string): string => join(folder, `${key}${ending}`);
  const behind = startWriteBehind<string>({
    path: folder,
    clock,
    log,
    async write(keys) {
      const changes = keys.map((key) => {
        const value = values.get(key);
        return { path: pathOf(key), text: value === undefined ? undefined : JSON.stringify(value) };
      });
      const failed = await changeAtomically(changes, { mode: 0o600, folderMode: 0o700 });
      return new Map([...failed].map(([path, error]) => [basename(path, ending), error]));
    },
  });
  return {
    entries: () => values.entries(),
    get: (key) => values.get(key),
    set(key, value) {
      if (!keyGrammar.test(key)) return;
      values.set(key, value);
      behind.touch(key);
    },
    delete(key) {
      if (values.delete(key)) behind.touch(key);
    },
    [Symbol.asyncDispose]: () => behind[Symbol.asyncDispose](),
  };
}

async function readValues<T extends object>(folder: string, log: Log): Promise<Map<string, T>> {
  const values = new Map<string, T>();
  const names = await readdir(folder).catch((error: unknown) => {
    // Made with the first fact.
    if (!isErrno(error, 'ENOENT')) log.error({ file: folder, err: messageOf(error) }, 'journal cannot be read, and begins anew');
    return [];
  });
  for (const name of names) {
    const path = join(folder, name);
    if (name.endsWith(temporaryPath(''))) await removeLeftover(path, log);
    if (!name.endsWith(ending)) continue;
    try {
      const value: unknown = JSON.parse(await readText(path));
      if (typeof value !== 'object' || value === null) throw new AgentError('InvalidArgument', 'it holds no object');
      values.set(name.slice(0, -ending.length), value as T);
    } catch (error) {
      await setAside(path, error, log);
    }
  }
  return values;
}

async function removeLeftover(path: string, log: Log): Promise<void> {
  await rm(path, { force: true }).catch((error: unknown) =>
    log.warn({ file: path, err: messageOf(error) }, 'leftover of an interrupted write cannot be removed'),
  );
}
