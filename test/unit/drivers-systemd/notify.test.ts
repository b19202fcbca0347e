import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { hasCode } from '../../../agent/base/errors.ts';
import { openNotify, watchdogMs } from '../../../agent/drivers/systemd/notify.ts';
import { waitFor } from '../../testbed/wait.ts';

const pid = 4711;
const times: { name: string; environment: Record<string, string>; ms: number | undefined | 'refused' }[] = [
  { name: 'no watchdog', environment: {}, ms: undefined },
  { name: 'empty', environment: { WATCHDOG_USEC: '' }, ms: undefined },
  { name: 'thirty seconds', environment: { WATCHDOG_USEC: '30000000' }, ms: 30_000 },
  { name: 'for this process', environment: { WATCHDOG_USEC: '30000000', WATCHDOG_PID: '4711' }, ms: 30_000 },
  { name: "for this process's parent", environment: { WATCHDOG_USEC: '30000000', WATCHDOG_PID: '4710' }, ms: undefined },
  { name: 'not a number', environment: { WATCHDOG_USEC: '30s' }, ms: 'refused' },
  { name: 'zero', environment: { WATCHDOG_USEC: '0' }, ms: 'refused' },
];

for (const { name, environment, ms } of times)
  test(`watchdog time: ${name}`, () => {
    if (ms === 'refused')
      assert.throws(
        () => watchdogMs(environment, pid),
        (error) => hasCode(error, 'InvalidConfig'),
      );
    else assert.equal(watchdogMs(environment, pid), ms);
  });

test('nobody to notify', () => {
  assert.equal(openNotify({}), undefined);
  assert.equal(openNotify({ NOTIFY_SOCKET: '' }), undefined);
});

test('a socket that is not there', () => {
  assert.throws(
    () => openNotify({ NOTIFY_SOCKET: '/nonexistent/notify' })?.('READY=1'),
    (error) => hasCode(error, 'NotFound'),
  );
  assert.throws(
    () => openNotify({ NOTIFY_SOCKET: `/${'x'.repeat(107)}` })?.('READY=1'),
    (error) => hasCode(error, 'InvalidArgument'),
  );
});

// Python has what Node has not: a unix datagram socket to listen on.
const listener = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
a = sys.argv[1]
s.bind('\\0' + a[1:] if a.startswith('@') else a)
print('bound', flush=True)
for _ in range(2): print(s.recv(1024).decode(), flush=True)
`;

const hasPython = ((): boolean => {
  try {
    execFileSync('python3', ['-c', '']);
    return true;
  } catch {
    return false;
  }
})();

for (const kind of ['path', 'abstract'])
  test(`messages arrive, ${kind}`, { skip: hasPython ? false : 'no python3 here to listen with' }, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'keelson-notify-'));
    const socket = kind === 'path' ? join(folder, 'notify') : `@keelson-notify-${process.pid}`;
    const child = spawn('python3', ['-c', listener, socket], { stdio: ['ignore', 'pipe', 'inherit'] });
    try {
      let heard = '';
      child.stdout.on('data', (chunk: Buffer) => {
        heard += chunk.toString();
      });
      await waitFor('the listener', 10_000, () => heard.includes('bound') || undefined, 20);
      if (kind === 'path') assert.ok(existsSync(socket));
      const notify = openNotify({ NOTIFY_SOCKET: socket });
      notify?.('READY=1');
      notify?.('WATCHDOG=1');
      await waitFor('the messages', 10_000, () => heard === 'bound\nREADY=1\nWATCHDOG=1\n' || undefined, 20);
    } finally {
      child.kill();
      rmSync(folder, { recursive: true, force: true });
    }
  });
