import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isWorthGivingBack } from '../../../agent/cli/wiring/idle-memory.ts';

const mib = 2 ** 20;
const cases: [name: string, nowMib: number, keptMib: number, cores: number, sinceMinutes: number, expected: boolean][] = [
  ['at rest after a burst', 45, 25, 0.01, 1, true],
  ['at rest, nothing much since the last time', 28, 25, 0.01, 60, false],
  ['never given back: what starting has left behind', 30, 0, 0.01, 0.2, true],
  ['in the middle of work', 45, 25, 0.4, 1, false],
  ['in work that never ends', 45, 25, 0.4, 5, true],
  ['in work that never ends, and little to give', 35, 25, 0.4, 60, false],
];
for (const [name, nowMib, keptMib, cores, sinceMinutes, expected] of cases)
  test(name, () => {
    const look = { bytes: nowMib * mib, keptBytes: keptMib * mib, cores, sinceMs: sinceMinutes * 60_000 };
    assert.equal(isWorthGivingBack(look, 5 * mib), expected);
  });
