import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
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

// Perl has what Node has not, a unix datagram socket to listen on, and is part of every Debian (perl-base is essential).
const listener = `
use Socket;
$| = 1;
my $a = $ARGV[0];
$a =~ s/^@/\\0/;
socket(my $s, AF_UNIX, SOCK_DGRAM, 0) or die $!;
# An abstract address ends with its name: pack_sockaddr_un fills it up with zeros.
bind($s, pack('S', AF_UNIX) . $a . ($a =~ /^\\0/ ? '' : "\\0")) or die $!;
print "bound\\n";
for (1 .. 2) { recv($s, my $m, 1024, 0); print "$m\\n"; }
`;

for (const kind of ['path', 'abstract'])
  test(`messages arrive, ${kind}`, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'keelson-notify-'));
    const socket = kind === 'path' ? join(folder, 'notify') : `@keelson-notify-${process.pid}`;
    const child = spawn('perl', ['-e', listener, socket], { stdio: ['ignore', 'pipe', 'inherit'] });
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
