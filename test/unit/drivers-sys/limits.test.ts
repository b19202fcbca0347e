import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setOpenFilesLimit } from '../../../agent/drivers/sys/libc.ts';

const limits = (): (number | undefined)[] =>
  (/^Max open files +(\d+) +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []).slice(1).map(Number);

test('the limit of open files is what was asked for', () => {
  const [, hard = 0] = limits();
  setOpenFilesLimit(hard - 1);
  assert.deepEqual(limits(), [hard - 1, hard - 1]);
});

test('a limit that nobody may have is an error that names it', () => {
  assert.throws(() => setOpenFilesLimit(2 ** 40), { code: 'PermissionDenied', message: /limit of open files to 1099511627776: EPERM/ });
});
