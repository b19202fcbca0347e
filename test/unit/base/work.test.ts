import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { during, workAtHand } from '../../../agent/base/work.ts';

test('work is known to all that it starts, and to nothing else', async () => {
  assert.deepEqual(workAtHand(), []);
  const inner = during('loop pods, key a', async () => {
    await setImmediate();
    return await during('request GET /x', async () => {
      await setImmediate();
      return workAtHand();
    });
  });
  const other = during('loop volumes, key b', async () => {
    await setImmediate();
    return workAtHand();
  });
  assert.deepEqual(workAtHand(), []);
  assert.deepEqual(await inner, ['request GET /x', 'loop pods, key a']);
  assert.deepEqual(await other, ['loop volumes, key b']);
});

test('runs that start each other keep nothing of those before them', async () => {
  let names: string[] = [];
  const run = async (n: number): Promise<void> => {
    names = workAtHand();
    await setImmediate();
    if (n < 1000) await during(`loop pods, key ${n + 1}`, () => run(n + 1));
  };
  await during('loop pods, key 0', () => run(0));
  assert.deepEqual(names, ['loop pods, key 1000', 'loop pods, key 999']);
});

/** A process like the agent's, with one thing in it that nobody handles. */
function crash(statement: string) {
  const script = `
    import { startLoop } from './agent/base/loop.ts';
    import { systemClock as clock } from './agent/base/clock.ts';
    import { silentLog as log } from './agent/base/log.ts';
    import { onUnhandledError } from './agent/cli/unhandled.ts';
    import { EventEmitter } from 'node:events';
    onUnhandledError((text) => { process.stderr.write(text); process.exit(1); });
    const signal = new AbortController().signal;
    const loop = startLoop({ name: 'pods', clock, log, signal, run: async (key) => { ${statement} } });
    loop.enqueue('uid-7');
    setTimeout(() => process.exit(0), 5000);`;
  return spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    cwd: new URL('../../..', import.meta.url),
  });
}

for (const [name, statement] of Object.entries({
  'an event that nobody hears': `clock.after(1, () => new EventEmitter().emit('error', new Error('boom')));`,
  'a throw in a timer': `clock.after(1, () => { throw new Error('boom'); });`,
  'a rejection that nobody awaits': `void Promise.reject(new Error('boom'));`,
}))
  test(`${name} ends the process, and what was running is told`, () => {
    const { status, stderr } = crash(statement);
    assert.equal(status, 1);
    assert.match(stderr, /^fatal: an? (?:error|rejection) that nobody handled, in loop pods, key uid-7:\nError: boom\n {4}at /);
  });
