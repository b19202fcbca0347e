import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentError } from '../../../agent/base/errors.ts';
import { createRateLimit } from '../../../agent/drivers/kube/rate-limit.ts';
import { manualClock } from '../identity/manual-clock.ts';
import { randomOf } from '../server/door-fuzz.ts';

const forever = new AbortController().signal;

interface Caller {
  readonly id: number;
  readonly arrives: number;
  /** When it gives up by itself. */
  readonly gone: number;
  readonly withinMs: number;
}

interface Outcome {
  readonly id: number;
  readonly at: number;
  readonly how: 'granted' | 'gave up' | 'refused';
}

/** What becomes of the callers, in the order in which it does. */
async function play(qps: number, burst: number, callers: readonly Caller[]): Promise<Outcome[]> {
  const clock = manualClock(0);
  const limit = createRateLimit(clock, qps, burst);
  const outcomes: Outcome[] = [];
  for (const { id, arrives, gone, withinMs } of callers) {
    clock.after(arrives, () => {
      const controller = new AbortController();
      clock.after(gone - arrives, () => controller.abort(new AgentError('Canceled', 'gone')));
      limit.take(controller.signal, withinMs).then(
        () => outcomes.push({ id, at: clock.mono(), how: 'granted' }),
        (error: AgentError) => outcomes.push({ id, at: clock.mono(), how: error.code === 'Canceled' ? 'gave up' : 'refused' }),
      );
    });
  }
  await clock.advance(60_000);
  return outcomes;
}

test('a burst passes, then callers wait their turn', async () => {
  const callers = Array.from({ length: 5 }, (_, id) => ({ id, arrives: 0, gone: 50_000, withinMs: 50_000 }));
  assert.deepEqual(
    (await play(10, 2, callers)).map(({ at }) => at),
    [0, 0, 100, 200, 300],
  );
});

test('without a limit nobody waits', async () => {
  const limit = createRateLimit(manualClock(0), 0, 0);
  for (let i = 0; i < 1000; i++) await limit.take(forever);
});

test('callers that gave up, and those that could not have their turn in time, have taken nothing', async () => {
  const strangers = Array.from({ length: 2900 }, (_, id) => ({ id, arrives: 0, gone: 1, withinMs: 30_000 }));
  const patch = { id: 9999, arrives: 100, gone: 50_000, withinMs: 30_000 };
  const outcomes = await play(50, 100, [...strangers, patch]);
  assert.deepEqual(
    outcomes.find(({ id }) => id === patch.id),
    { id: 9999, at: 100, how: 'granted' },
  );
  // Without the giving up, the wait of the last ones would be longer than they have: they learn it at once.
  assert.equal(outcomes.filter(({ how, at }) => how === 'refused' && at === 0).length, 2900 - 100 - 1500);
});

test('property: the rate holds, turns go by arrival, and who takes nothing changes nothing for the others', async () => {
  for (let seed = 1; seed <= 25; seed++) {
    const random = randomOf(seed);
    const qps = 1 + Math.floor(random() * 20);
    const burst = 1 + Math.floor(random() * 10);
    const callers = Array.from({ length: 60 }, (_, id) => ({ id, arrives: Math.floor(random() * 4000) }))
      .sort((a, b) => a.arrives - b.arrives)
      .map(({ arrives }, id) => ({
        id,
        arrives,
        gone: random() < 0.4 ? arrives + 1 + Math.floor(random() * 2000) : 59_000,
        withinMs: random() < 0.3 ? Math.floor(random() * 1500) : 59_000,
      }));
    const outcomes = await play(qps, burst, callers);
    assert.equal(outcomes.length, callers.length, `seed ${seed}: somebody waits for ever`);
    const granted = outcomes.filter(({ how }) => how === 'granted');
    for (let i = 0; i < granted.length; i++)
      for (let j = i; j < granted.length; j++) {
        const ms = granted[j]!.at - granted[i]!.at;
        assert.ok(j - i + 1 <= burst + (qps * ms) / 1000 + 1e-6, `seed ${seed}: ${j - i + 1} in ${ms} ms, ${qps}/s and ${burst}`);
      }
    assert.deepEqual(
      granted.map(({ id }) => id),
      granted.map(({ id }) => id).toSorted((a, b) => a - b),
      `seed ${seed}`,
    );
    for (const { id, at, how } of outcomes) {
      const caller = callers[id]!;
      if (how === 'refused') assert.equal(at, caller.arrives, `seed ${seed}: refused at once`);
      if (how === 'granted') assert.ok(at <= caller.arrives + caller.withinMs + 1e-6, `seed ${seed}: in time`);
    }
    const stayed = callers.filter(({ id }) => granted.some((each) => each.id === id)).map((caller) => ({ ...caller, gone: 59_000 }));
    const alone = await play(qps, burst, stayed);
    assert.equal(alone.length, granted.length);
    alone.forEach((each, i) => {
      assert.equal(each.id, granted[i]!.id, `seed ${seed}`);
      assert.ok(Math.abs(each.at - granted[i]!.at) < 0.01, `seed ${seed}: ${each.id} at ${granted[i]!.at}, alone at ${each.at}`);
    });
  }
});
