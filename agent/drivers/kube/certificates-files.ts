import { createHash } from 'node:crypto';
import type { Clock } from '../../base/clock.ts';
import { messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { readBytes } from '../files/look.ts';

/** How often files are looked at. Secrets mounted as volumes change by a link swap that inotify on the file misses; they are small. */
const checkMs = 10_000;

/**
 * Calls `changed` when one of the files says something else than when this resolved, or since. A file that is missing for a moment, while it is replaced, is not
 * a change. Goes by what they hold: times do not tell two writes of one moment apart. Dispose to stop.
 */
export async function watchFiles(paths: readonly string[], clock: Clock, log: Log, changed: () => Promise<void>): Promise<Disposable> {
  let stopped = false;
  let timer: Disposable | undefined;

  const fingerprint = async (): Promise<string | undefined> => {
    const hash = createHash('sha256');
    for (const path of paths) {
      const found = await readBytes(path).catch(() => undefined);
      if (found === undefined) return undefined;
      hash.update(`${found.length} `).update(found);
    }
    return hash.digest('base64');
  };

  let seen = await fingerprint();
  const check = async (): Promise<void> => {
    const now = await fingerprint();
    if (now === undefined || now === seen) return;
    seen = now;
    await changed();
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
  later();
  return {
    [Symbol.dispose]: () => {
      stopped = true;
      timer?.[Symbol.dispose]();
    },
  };
}
