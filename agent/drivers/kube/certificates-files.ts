import { stat } from 'node:fs/promises';
import type { Clock } from '../../base/clock.ts';
import { messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';

/** How often files are looked at. Secrets mounted as volumes change by a link swap that inotify on the file misses; a stat is cheap. */
const checkMs = 10_000;

/**
 * Calls `changed` when one of the files is another than before (inode, time or size). A file that is missing for a moment, while it is
 * replaced, is not a change. Dispose to stop.
 */
export function watchFiles(paths: readonly string[], clock: Clock, log: Log, changed: () => Promise<void>): Disposable {
  let seen: string | undefined;
  let stopped = false;
  let timer: Disposable | undefined;

  const fingerprint = async (): Promise<string | undefined> => {
    const parts: string[] = [];
    for (const path of new Set(paths)) {
      const found = await stat(path).catch(() => undefined);
      if (found === undefined) return undefined;
      parts.push(`${found.dev}:${found.ino}:${found.mtimeMs}:${found.size}`);
    }
    return parts.join(' ');
  };

  const check = async (): Promise<void> => {
    const now = await fingerprint();
    if (now !== undefined && now !== seen) {
      const first = seen === undefined;
      seen = now;
      if (!first) await changed();
    }
  };

  const later = (): void => {
    if (stopped) return;
    timer = clock.after(checkMs, () => {
      void check()
        .catch((error: unknown) =>
          log.warn({ paths, err: messageOf(error) }, 'changed files could not be loaded; the old ones stay in use'),
        )
        .finally(later);
    });
  };
  void check().then(later, later);
  return {
    [Symbol.dispose]: () => {
      stopped = true;
      timer?.[Symbol.dispose]();
    },
  };
}
