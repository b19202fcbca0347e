import assert from 'node:assert/strict';
import { test } from 'node:test';
import { advanceBackoff, backoffUntil, type CrashBackoff, matchingRestartAction, shouldRestart } from '../../../agent/pods/restart.ts';
import { container } from './build.ts';

const policy = { initialMs: 10_000, maxMs: 300_000 };

test('crash-loop back-off doubles to its maximum', () => {
  let last: CrashBackoff | undefined;
  const delays = Array.from({ length: 7 }, (_, i) => {
    last = advanceBackoff(policy, last, 'h', i * 1000, i * 1000);
    return last.delayMs / 1000;
  });
  assert.deepEqual(delays, [10, 20, 40, 80, 160, 300, 300]);
});

test('ten quiet minutes, or another image, start afresh', () => {
  const last = { delayMs: 80_000, updatedAt: 0, hash: 'h' };
  assert.equal(advanceBackoff(policy, last, 'h', 600_001, 600_002).delayMs, 10_000);
  assert.equal(advanceBackoff(policy, last, 'other', 1000, 1000).delayMs, 10_000);
  assert.equal(backoffUntil(last, 'h', 1000, 2000), 81_000);
  assert.equal(backoffUntil(last, 'other', 1000, 2000), undefined);
  assert.equal(backoffUntil(last, 'h', 1000, 90_000), undefined);
});

const rules = (operator: string, values: number[], action = 'Restart') => [{ action, exitCodes: { operator, values } }];
const table: [name: string, c: ReturnType<typeof container>, pod: string, exitCode: number, restarts: boolean][] = [
  ['pod Always', container('a'), 'Always', 0, true],
  ['pod OnFailure, 0', container('a'), 'OnFailure', 0, false],
  ['pod OnFailure, 1', container('a'), 'OnFailure', 1, true],
  ['pod Never', container('a'), 'Never', 1, false],
  ['own policy over the pod’s', container('a', { restartPolicy: 'Never' }), 'Always', 1, false],
  ['own rule matches', container('a', { restartPolicy: 'Never', restartPolicyRules: rules('In', [42]) }), 'Never', 42, true],
  ['own rule does not', container('a', { restartPolicy: 'Never', restartPolicyRules: rules('In', [42]) }), 'Always', 43, false],
  ['NotIn', container('a', { restartPolicy: 'Never', restartPolicyRules: rules('NotIn', [0]) }), 'Never', 1, true],
];
for (const [name, c, restartPolicy, exitCode, restarts] of table) {
  test(`restart: ${name}`, () => assert.equal(shouldRestart(c, { containers: [c], restartPolicy }, exitCode), restarts));
}

test('the first matching rule counts', () => {
  const c = container('a', {
    restartPolicy: 'Never',
    restartPolicyRules: [...rules('In', [1], 'RestartAllContainers'), ...rules('In', [1])],
  });
  assert.equal(matchingRestartAction(c, 1), 'RestartAllContainers');
});
