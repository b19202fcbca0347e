// What a pod may leave on the disk, at its worst: the agent goes on meanwhile.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { systemClock } from '../../agent/base/clock.ts';
import { hasCode } from '../../agent/base/errors.ts';
import { openMounts } from '../../agent/drivers/mounts/mounts.ts';
import { removePodFolder, removeVolumes } from '../../agent/drivers/mounts/pod-folder.ts';
import { removeTreeHere } from '../../agent/drivers/mounts/remove-tree.ts';

const root = fs.realpathSync(fs.mkdtempSync(join(tmpdir(), 'keelson-removal-')));
const { signal } = new AbortController();
const remover = { mounts: openMounts(), clock: systemClock };
const MiB = 2 ** 20;
const periodMs = 10;
after(() => removeTreeHere(root));

/** As the pods' worker does: what a go has not ended, the next one does. Resolves to what was told meanwhile. */
async function inGoes(run: () => Promise<void>): Promise<string[]> {
  const told: string[] = [];
  for (;;) {
    try {
      await run();
      return told;
    } catch (error) {
      if (!hasCode(error, 'DeadlineExceeded')) throw error;
      told.push(error.message);
    }
  }
}

async function measured(run: () => Promise<string[]>): Promise<{ grownMiB: number; stallMs: number; seconds: number; told: string[] }> {
  const before = process.memoryUsage.rss();
  let most = before;
  const startedAt = systemClock.mono();
  let [last, stall] = [startedAt, 0];
  const look = (): void => {
    const now = systemClock.mono();
    stall = Math.max(stall, now - last - periodMs);
    last = now;
    most = Math.max(most, process.memoryUsage.rss());
  };
  const timer = setInterval(look, periodMs);
  const told = await run();
  look();
  clearInterval(timer);
  const took = (systemClock.mono() - startedAt) / 1000;
  return { grownMiB: Math.round((most - before) / MiB), stallMs: Math.round(stall), seconds: Math.round(took * 10) / 10, told };
}

for (const [what, count, plant] of [
  [
    '400,000 files in an emptyDir',
    400_000,
    (at: string) => {
      // In a process of its own, so that what this one has grown by then is not its doing.
      const script = `const fs = require('fs'); for (let n = 0; n < 400_000; n++) fs.closeSync(fs.openSync(process.argv[1] + '/a file of a pod, number ' + n, 'w'));`;
      execFileSync(process.execPath, ['-e', script, at]);
    },
  ],
  [
    '5,000 folders deep, in names of 200 characters',
    5_000,
    (at: string) => {
      let fd = fs.openSync(at, fs.constants.O_DIRECTORY);
      for (let n = 0; n < 5_000; n++) {
        const next = `/proc/self/fd/${fd}/${'x'.repeat(200)}`;
        fs.mkdirSync(next);
        const deeper = fs.openSync(next, fs.constants.O_DIRECTORY);
        fs.closeSync(fd);
        fd = deeper;
      }
      fs.closeSync(fd);
    },
  ],
] as const) {
  test(what, { timeout: 600_000 }, async (t) => {
    const pod = join(root, `pod-${count}`);
    const volume = join(pod, 'volumes/kubernetes.io~empty-dir/e');
    fs.mkdirSync(volume, { recursive: true });
    plant(volume);
    const found = await measured(() => inGoes(() => removeVolumes(pod, new Set(['kubernetes.io~empty-dir']), remover, signal)));
    t.diagnostic(
      `removed in ${found.seconds} s: this process grew by ${found.grownMiB} MiB, and stood still for ${found.stallMs} ms at most`,
    );
    for (const line of found.told) t.diagnostic(line);
    await removePodFolder(pod, remover, signal);
    assert.equal(fs.existsSync(pod), false);
    assert.ok(found.grownMiB < 48, `${found.grownMiB} MiB`);
    // Some milliseconds; a busy machine may not let this process run for a while.
    assert.ok(found.stallMs < 1_000, `${found.stallMs} ms`);
  });
}
