import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Clock } from '../../../agent/base/clock.ts';
import { AgentError, hasCode } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { checkWatchdog, runWatchdog } from '../../../agent/cli/wiring/watchdog.ts';

/** Lets the watchdog run for this many sleeps; resolves to what happened, in order. */
async function watch(rounds: number, healthy: (round: number) => boolean, send: (nth: number) => void = () => {}): Promise<string[]> {
  const events: string[] = [];
  const controller = new AbortController();
  let round = 0;
  let sent = 0;
  const clock: Pick<Clock, 'sleep'> = {
    async sleep(ms) {
      events.push(`${ms}`);
      if (ms === 15_000) round += 1;
      if (round === rounds) controller.abort();
    },
  };
  await runWatchdog({
    clock: clock as Clock,
    log: silentLog,
    signal: controller.signal,
    timeoutMs: 30_000,
    notify: (state) => {
      sent += 1;
      events.push(state);
      send(sent);
    },
    checks: [
      { name: 'ping', check: () => undefined },
      { name: 'syncloop', check: () => (healthy(round) ? undefined : new Error('hangs')) },
    ],
  });
  return events;
}

test('tells at once, then at half the time', async () =>
  assert.deepEqual(await watch(3, () => true), ['WATCHDOG=1', '15000', 'WATCHDOG=1', '15000', 'WATCHDOG=1', '15000']));

test('stays silent while a check fails', async () =>
  assert.deepEqual(await watch(3, (round) => round !== 1), ['WATCHDOG=1', '15000', '15000', 'WATCHDOG=1', '15000']));

test('tries once more when it was not heard', async () => {
  const deaf = (nth: number): void => {
    if (nth <= 2) throw new AgentError('EAGAIN', 'full');
  };
  assert.deepEqual(await watch(2, () => true, deaf), ['WATCHDOG=1', '1000', 'WATCHDOG=1', '15000', 'WATCHDOG=1', '15000']);
});

test('a time too short to serve is refused', () => {
  checkWatchdog(undefined);
  checkWatchdog(1001);
  assert.throws(
    () => checkWatchdog(1000),
    (error) => hasCode(error, 'InvalidConfig'),
  );
});
