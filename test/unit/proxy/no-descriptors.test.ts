// A process without free file descriptors: children that cannot be started are errors, and the daemon lives on.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';

const root = `${import.meta.dirname}/../../..`;
const script = `
import { openSync } from 'node:fs';
import { PassThrough } from 'node:stream';
import { collect } from '${root}/proxy/backends/collect.ts';
import { startInteractive } from '${root}/proxy/backends/nftables/process.ts';
import { createRunJournalctl } from '${root}/agent/drivers/logs/journalctl.ts';
import { diskUsage } from '${root}/agent/drivers/sys/disk-usage.ts';
import { runInChild } from '${root}/agent/drivers/mounts/run-child.ts';
const { signal } = new AbortController();
try {
  for (;;) openSync('/dev/null', 'r');
} catch {}
const started = [
  collect({ name: 'true', package: 'coreutils', code: 'Tool' }, ['true'], { args: [] }, signal),
  startInteractive(['true']),
  diskUsage(['/'], signal),
  runInChild(['true'], 'unmount', {}, signal),
  createRunJournalctl('true')([], new PassThrough(), signal),
];
for (const each of await Promise.allSettled(started)) process._rawDebug(each.status === 'rejected' ? each.reason.message : 'code ' + each.value);
process.exit(0);
`;

test('children that cannot be started for want of descriptors are errors that say so', () => {
  const command = 'ulimit -n 64; exec "$0" --input-type=module-typescript --eval "$1" 2>&1';
  const said = execFileSync('sh', ['-c', command, process.execPath, script], { encoding: 'utf8' });
  const lines = said.split('\n').filter((line) => /EMFILE|^code/.test(line));
  assert.equal(lines.length, 5, said);
  assert.deepEqual(
    lines.map((line) => (line.includes('EMFILE') ? 'EMFILE' : line)),
    ['EMFILE', 'EMFILE', 'EMFILE', 'EMFILE', 'code undefined'],
    said,
  );
});
