import type { Clock } from '../../base/clock.ts';
import { hasCode } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { changeAtomically, setAside } from './atomic.ts';
import { readText } from './look.ts';
import { startWriteBehind } from './write-behind.ts';

/** One file that follows what is in memory: the whole of it or not at all. */
export interface FollowedFile extends AsyncDisposable {
  /** What the file should say has changed. */
  touch(): void;
  /** Resolves when the file says what was true at the call, or could not be written (logged, and tried again later). */
  written(): Promise<void>;
}

export interface FollowedFileOptions {
  readonly path: string;
  /** Asked for what the file should say when it is written; what is overtaken before that is never written. */
  readonly text: () => string;
  readonly folderMode: number;
  readonly clock: Clock;
  readonly log: Log;
}

export function followFile({ path, text, folderMode, clock, log }: FollowedFileOptions): FollowedFile {
  const behind = startWriteBehind<string>({
    path,
    clock,
    log,
    write: () => changeAtomically([{ path, text: text() }], { mode: 0o600, folderMode }),
  });
  return { touch: () => behind.touch(path), written: behind.written, [Symbol.asyncDispose]: () => behind[Symbol.asyncDispose]() };
}

/**
 * What an earlier run left in the file: undefined when there is none. One that cannot be read or that `parse` refuses is put aside as `.broken` and logged, and
 * gives `broken`: it never keeps the agent from starting.
 */
export async function readLeft<T>(path: string, parse: (text: string) => T, broken: T, log: Log): Promise<T | undefined> {
  try {
    return parse(await readText(path));
  } catch (error) {
    if (hasCode(error, 'NotFound')) return undefined;
    await setAside(path, error, log);
    return broken;
  }
}
