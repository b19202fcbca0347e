import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { endProcess, isAlive, signalTracked, spawnTracked, tailOf, track } from '../../testbed/process.ts';
import { GiveUp, waitFor } from '../../testbed/wait.ts';

const folder = mkdtempSync(join(tmpdir(), 'keelson-process-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const logFile = join(folder, 'log');

test('a process is known by pid and start time', async () => {
  const tracked = await spawnTracked(['sleep', '60'], { logFile });
  assert.equal(isAlive(tracked), true);
  assert.equal(isAlive({ ...tracked, startTicks: '1' }), false);
  assert.equal(signalTracked({ ...tracked, startTicks: '1' }, 'SIGKILL'), false, 'another process of the same pid is never signalled');
  await endProcess(tracked);
  assert.equal(isAlive(tracked), false);
  assert.equal(track(tracked.pid), undefined);
  await endProcess(tracked);
});

test('endProcess kills what does not end when asked', async () => {
  const tracked = await spawnTracked(['sh', '-c', 'trap "" TERM; echo ready; while :; do sleep 0.05; done'], { logFile });
  await waitFor('the trap', 5000, () => (readFileSync(logFile, 'utf8').includes('ready') ? true : undefined), 5);
  await endProcess(tracked, 'SIGTERM', 100);
  assert.equal(isAlive(tracked), false);
});

test('of a command that forks, the child is tracked', async () => {
  const tracked = await spawnTracked(['sh', '-c', 'sleep 60; exit 0'], { logFile, forks: true });
  // For a moment after the fork it still has its parent's command line.
  const runs = (): true | undefined => readFileSync(`/proc/${tracked.pid}/cmdline`, 'utf8').startsWith('sleep') || undefined;
  await waitFor('the child to become sleep', 5000, runs, 5);
  await endProcess(tracked);
});

test('a command that ends at once is an error that shows its log', async () => {
  await assert.rejects(spawnTracked(['sh', '-c', 'echo no such luck; exit 3'], { logFile, forks: true }), /ended at once.*no such luck/s);
});

test('a process gets its environment, and its output goes to the log', async () => {
  const file = join(folder, 'env.log');
  const tracked = await spawnTracked(['sh', '-c', 'echo "$WORD $LAB_CGROUP_PROCS."; exec sleep 60'], {
    logFile: file,
    env: { WORD: 'hello' },
  });
  await waitFor('the log', 5000, () => (tailOf(file) === 'hello .' ? true : undefined), 5);
  await endProcess(tracked);
});

test('a zombie is gone', async () => {
  const parent = spawn('sh', ['-c', 'sleep 0.01 & echo $!; exec sleep 60'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const pid = await new Promise<number>((resolve) => parent.stdout.once('data', (chunk: Buffer) => resolve(Number(chunk.toString()))));
  await waitFor('the zombie', 5000, () => (readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ') ? true : undefined), 5);
  assert.equal(track(pid), undefined);
  parent.kill('SIGKILL');
});

test('waitFor tells what it waited for and the last reason, and stops at GiveUp', async () => {
  const busy = (): never => {
    throw new Error('still busy');
  };
  await assert.rejects(waitFor('the moon', 20, busy, 1), /gave up waiting for the moon after 0 s: still busy/);
  let asked = 0;
  const ended = (): never => {
    asked += 1;
    throw new GiveUp('it has ended');
  };
  await assert.rejects(waitFor('the moon', 10_000, ended, 1), /^Error: it has ended/);
  assert.equal(asked, 1);
});
