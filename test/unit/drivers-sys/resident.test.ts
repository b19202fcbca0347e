import assert from 'node:assert/strict';
import { closeSync, fsyncSync, openSync } from 'node:fs';
import { test } from 'node:test';
import { gunzipSync, gzipSync } from 'node:zlib';
import { parseReleasable, releaseProgramPages, residentFileBytes } from '../../../agent/drivers/sys/resident.ts';

const program = '/opt/node/bin/node';
const mapping = (head: string, more: Record<string, number> = {}): string =>
  [
    head,
    ...Object.entries({ Size: 64, Rss: 48, Shared_Dirty: 0, Private_Dirty: 0, Anonymous: 0, Swap: 0, ...more }).map(
      ([field, kib]) => `${`${field}:`.padEnd(16)}${String(kib).padStart(8)} kB`,
    ),
    'VmFlags: rd mr mw me',
  ].join('\n');

const cases: { name: string; smaps: string; of: string[] }[] = [
  { name: 'its code', smaps: mapping(`55d000400000-55d000410000 r-xp 00400000 fe:00 77    ${program}`), of: ['55d000400000+10000'] },
  { name: 'its tables', smaps: mapping(`55d000000000-55d000400000 r--p 00000000 fe:00 77    ${program}`), of: ['55d000000000+400000'] },
  { name: 'tables that the loader has changed', smaps: mapping(`400000-410000 r--p 0 fe:00 77    ${program}`, { Anonymous: 4 }), of: [] },
  { name: 'code with a breakpoint', smaps: mapping(`400000-410000 r-xp 0 fe:00 77    ${program}`, { Private_Dirty: 4 }), of: [] },
  { name: 'tables that were changed and swapped out', smaps: mapping(`400000-410000 r--p 0 fe:00 77    ${program}`, { Swap: 4 }), of: [] },
  { name: 'its variables', smaps: mapping(`400000-410000 rw-p 0 fe:00 77    ${program}`), of: [] },
  { name: 'a library', smaps: mapping('7f0000000000-7f0000010000 r-xp 0 fe:00 78    /lib/libc.so.6'), of: [] },
  { name: 'memory', smaps: mapping('7f0000000000-7f0000010000 r-xp 00000000 00:00 0 '), of: [] },
  { name: 'a kernel that does not tell what was changed', smaps: `400000-410000 r-xp 0 fe:00 77    ${program}\nRss: 4 kB`, of: [] },
];
for (const { name, smaps, of } of cases)
  test(`what can be let go: ${name}`, () => {
    const around = mapping('7fff00000000-7fff00010000 rw-p 00000000 00:00 0                          [stack]');
    const found = parseReleasable([around, smaps, around].join('\n'), program);
    assert.deepEqual(
      found.map(({ start, bytes }) => `${start.toString(16)}+${bytes.toString(16)}`),
      of,
    );
  });

test('the pages of this very program go, and it runs on', () => {
  // Just unpacked, its pages may not be on the disk yet: the kernel says that they were changed, and such are kept.
  const file = openSync(process.execPath, 'r');
  fsyncSync(file);
  closeSync(file);
  const before = residentFileBytes();
  releaseProgramPages();
  const after = residentFileBytes();
  assert.ok(after < before / 2, `${before} bytes of files before, ${after} after`);
  assert.equal(gunzipSync(gzipSync('mapped again')).toString(), 'mapped again');
});
