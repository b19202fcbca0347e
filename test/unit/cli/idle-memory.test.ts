import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isWorthGivingBack } from '../../../agent/cli/wiring/idle-memory.ts';

const mib = 2 ** 20;
const cases: [name: string, nowMib: number, keptMib: number, cores: number, expected: boolean][] = [
  ['at rest after a burst', 45, 25, 0.01, true],
  ['at rest, nothing much since the last time', 28, 25, 0.01, false],
  ['never given back: what starting has left behind', 30, 0, 0.01, true],
  ['in the middle of work', 45, 25, 0.4, false],
];
for (const [name, nowMib, keptMib, cores, expected] of cases)
  test(name, () => assert.equal(isWorthGivingBack({ bytes: nowMib * mib, keptBytes: keptMib * mib, cores }, 5 * mib), expected));
