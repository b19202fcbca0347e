import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { createLastWords } from '../../../agent/cli/wiring/last-words.ts';
import { openMounts } from '../../../agent/drivers/mounts/mounts.ts';
import { readTerminationMessage } from '../../../agent/pods/last-words.ts';
import type { ContainerStatus } from '../../../cri-protos/generated/cri.ts';

const { signal } = new AbortController();
const root = mkdtempSync(join(tmpdir(), 'last-words-'));
test.after(() => rmSync(root, { recursive: true }));
const at = (name: string): string => join(root, name);
writeFileSync(at('words'), 'good bye');
execFileSync('mkfifo', [at('fifo')]);
mkdirSync(at('folder'));
symlinkSync('/etc/passwd', at('link'));
symlinkSync(root, at('loop'));
writeFileSync(at('sparse'), '');
truncateSync(at('sparse'), 10 * 2 ** 30);
writeFileSync(at('0.log'), '2026-01-02T03:04:05Z stdout F from the log\n');

const ended = (hostPath: string, more: Partial<ContainerStatus> = {}): ContainerStatus =>
  ({
    state: 'CONTAINER_EXITED',
    exit_code: 1,
    annotations: {
      'io.kubernetes.container.terminationMessagePath': '/dev/termination-log',
      'io.kubernetes.container.terminationMessagePolicy': 'FallbackToLogsOnError',
    },
    mounts: [{ container_path: '/dev/termination-log', host_path: hostPath }],
    log_path: at('0.log'),
    ...more,
  }) as ContainerStatus;

const why = (path: string, what: string): string => `Error on reading termination log ${at(path)}: ${what}`;
const table: [string, ContainerStatus, string][] = [
  ['what the container wrote', ended(at('words')), 'good bye'],
  ['nothing, so the log’s end', ended(at('none')), 'from the log\n'],
  ['nothing, of one that did well', ended(at('none'), { exit_code: 0 }), ''],
  ['a FIFO', ended(at('fifo')), why('fifo', `${at('fifo')} is a FIFO, not a regular file`)],
  ['a folder', ended(at('folder')), why('folder', `${at('folder')} is a directory, not a regular file`)],
  ['a link to somebody else’s file', ended(at('link')), why('link', `${at('link')}: link is a symbolic link`)],
  ['a folder that is a link', ended(at('loop/words')), why('loop/words', `${at('loop/words')}: loop is a symbolic link`)],
  ['a device', ended('/dev/zero'), 'Error on reading termination log /dev/zero: /dev/zero is a device, not a regular file'],
  ['10 GB of nothing', ended(at('sparse')), '\0'.repeat(4096)],
  ['one that runs', ended(at('fifo'), { state: 'CONTAINER_RUNNING' }), ''],
  [
    'a log that is a FIFO',
    ended(at('none'), { log_path: at('fifo') }),
    `Error on reading termination message from logs: log file "${at('fifo')}" is no regular file`,
  ],
];

describe('last words', { timeout: 60_000 }, () => {
  for (const alwaysInChild of [false, true]) {
    const lastWords = createLastWords(root, openMounts({ alwaysInChild }));
    for (const [name, status, want] of table)
      test(`${name}${alwaysInChild ? ', in a child' : ''}`, async () => {
        assert.equal(await readTerminationMessage(status, lastWords, systemClock, signal), want);
      });
  }

  test('a file system that does not answer: the end is told without its words, in time', async () => {
    // A child that never answers, as one on a dead NFS does.
    const mounts = openMounts({ alwaysInChild: true, childCommand: ['sh', '-c', 'exec sleep 1000'] });
    const clock = { ...systemClock, deadline: (s: AbortSignal) => systemClock.deadline(s, 200) };
    const told = await readTerminationMessage(ended(at('words'), { exit_code: 0 }), createLastWords(root, mounts), clock, signal);
    assert.equal(told, why('words', 'timed out after 200 ms'));
  });
});
