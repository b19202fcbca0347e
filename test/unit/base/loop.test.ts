import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { type Log, silentLog } from '../../../agent/base/log.ts';
import { startLoop } from '../../../agent/base/loop.ts';

const signal = new AbortController().signal;
const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 1));

test('a key that asks for its next run in the past, and awaits nothing, leaves the event loop to others and is slowed down', async () => {
  const told: object[] = [];
  const log: Log = { ...silentLog, error: (fields) => void told.push(fields) };
  const runs = { restless: 0, other: 0 };
  await using loop = startLoop({
    name: 'test',
    clock: systemClock,
    log,
    signal,
    run(key) {
      if (key === 'other') runs.other++;
      else runs.restless++;
      return key === 'other' ? undefined : systemClock.mono() - 5;
    },
  });
  loop.enqueue('restless');
  while (told.length === 0) await turn();
  loop.enqueue('other');
  await turn();
  assert.equal(runs.other, 1);
  const before = runs.restless;
  for (let i = 0; i < 50; i++) await turn();
  assert.ok(runs.restless - before <= 1, `${runs.restless - before} runs in 50 ms`);
  assert.deepEqual(told, [{ loop: 'test', key: 'restless', runs: 1000 }]);
});

test('a run that is asked for in the past by somebody else comes at once', async () => {
  let runs = 0;
  await using loop = startLoop({ name: 'test', clock: systemClock, log: silentLog, signal, run: () => void runs++ });
  loop.enqueueAt('key', systemClock.mono() - 1000);
  await Promise.resolve();
  await Promise.resolve();
  assert.equal(runs, 1);
});
