import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { waitFor } from '../../testbed/wait.ts';

test("systemd's stand-in runs a unit, tells its state, kills, restarts and stops it", async () => {
  const folder = mkdtempSync(join(tmpdir(), 'units-'));
  const call = (name: string, ...args: string[]): string => {
    const { status, stdout, stderr } = spawnSync(join(folder, name), args, {
      env: { PATH: `${folder}:${process.env.PATH}`, KEELSON_LAB_UNITS: join(folder, 'units') },
      encoding: 'utf8',
      // A unit that held these open would hold up whoever started it.
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 10_000,
    });
    assert.equal(status, 0, stderr);
    return stdout;
  };
  const log = join(folder, 'log');
  const logged = (lines: number): Promise<string> =>
    waitFor(
      `${lines} lines in the log`,
      5000,
      () => {
        const text = readFileSync(log, 'utf8');
        return text.split('\n').length > lines ? text : undefined;
      },
      10,
    );
  const state = (): string => call('systemctl', 'list-units', '*kubelet*').trim();
  for (const name of ['sudo', 'systemctl', 'systemd-run'])
    symlinkSync(resolve(import.meta.dirname, '../../testbed/e2e-node-units.sh'), join(folder, name));
  try {
    const script = 'echo "started with $$1"; exec sleep 100';
    call(
      'systemd-run',
      '-p',
      'Delegate=true',
      '-p',
      `StandardError=append:${log}`,
      '--unit=kubelet-a.service',
      'sh',
      '-c',
      script,
      'sh',
      'a  b%%',
    );
    assert.equal(await logged(1), 'started with a  b%\n');
    assert.equal(state(), 'kubelet-a.service loaded active running');
    call('sudo', 'systemctl', 'kill', 'kubelet-a');
    await waitFor('the unit to end', 5000, () => (state().endsWith('running') ? undefined : true), 10);
    assert.equal(call('systemctl', 'list-units', '*kubelet*', '--state=running'), '');
    assert.equal(state(), 'kubelet-a.service loaded active exited');
    call('systemctl', 'restart', 'kubelet-a');
    assert.equal(await logged(2), 'started with a  b%\nstarted with a  b%\n');
    assert.equal(state(), 'kubelet-a.service loaded active running');
    call('systemctl', 'stop', 'kubelet-a.service');
    assert.equal(state(), '');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
