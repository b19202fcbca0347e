import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Clock, systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { watchFiles } from '../../../agent/drivers/kube/certificates-files.ts';

const hasty: Clock = { ...systemClock, after: (ms, fn) => systemClock.after(Math.min(ms, 2), fn) };

test('files are told to have changed by what they hold', { timeout: 20_000 }, async () => {
  const dir = mkdtempSync(join(tmpdir(), 'keelson-watch-files-'));
  try {
    const file = join(dir, 'tls.crt');
    writeFileSync(file, 'one');
    let looks = 0;
    let told = Promise.withResolvers<void>();
    const clock: Clock = {
      ...hasty,
      after: (ms, fn) => {
        looks++;
        return hasty.after(ms, fn);
      },
    };
    using _watch = await watchFiles([file], clock, silentLog, async () => told.resolve());
    // Right after the first look, of the same length and, as two writes of one tick of the kernel's clock have, of the same time.
    const { atime, mtime } = statSync(file);
    writeFileSync(file, 'two');
    utimesSync(file, atime, mtime);
    await told.promise;

    told = Promise.withResolvers<void>();
    let early = false;
    void told.promise.then(() => {
      early = true;
    });
    rmSync(file);
    const before = looks;
    while (looks < before + 3) await systemClock.sleep(1, new AbortController().signal);
    writeFileSync(file, 'two');
    while (looks < before + 6) await systemClock.sleep(1, new AbortController().signal);
    assert.equal(early, false, 'a file that was away for a moment and is the same again has not changed');
  } finally {
    rmSync(dir, { recursive: true });
  }
});
