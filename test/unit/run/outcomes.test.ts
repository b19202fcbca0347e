import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Completed, isFile, outcomeOf, parseSum, readLines, sumOf } from '../../run/outcomes.ts';

const file = '/repo/test/unit/a.test.ts';
const passed = { passed: true, duration_ms: 1500 };
const failed = (failureType: string) => ({ passed: false, duration_ms: 1, error: { message: 'm', failureType, cause: 'why' } });

const table: Record<string, { event: Completed; is: string | undefined }> = {
  'a test that passes': { event: { name: 'a', file, details: { ...passed, type: 'test' } }, is: 'passed' },
  'a test that fails': { event: { name: 'a', file, details: failed('testCodeFailure') }, is: 'failed why' },
  'a test cut off by its suite': { event: { name: 'a', file, details: failed('cancelledByParent') }, is: 'failed why' },
  'a test whose parts failed': { event: { name: 'a', file, details: failed('subtestsFailed') }, is: undefined },
  'a suite that passes': { event: { name: 'a', file, details: { ...passed, type: 'suite' } }, is: undefined },
  'a suite whose hook fails': { event: { name: 'a', file, details: { ...failed('hookFailed'), type: 'suite' } }, is: 'failed why' },
  'a suite that skips itself': {
    event: { name: 'a', file, skip: 'needs root', details: { ...passed, type: 'suite' } },
    is: 'skipped needs root',
  },
  'a skip without a reason': { event: { name: 'a', file, skip: true, details: passed }, is: 'skipped' },
  'something left to do, failing': { event: { name: 'a', file, todo: true, details: failed('testCodeFailure') }, is: 'skipped to do' },
  'a file that passes': { event: { name: 'test/unit/a.test.ts', file, details: passed }, is: undefined },
  'a file that crashes': { event: { name: 'test/unit/a.test.ts', file, details: failed('testCodeFailure') }, is: 'failed why' },
};
for (const [name, { event, is }] of Object.entries(table))
  test(`outcomeOf: ${name}`, () => {
    const outcome = outcomeOf(event);
    assert.equal(outcome && `${outcome.kind} ${outcome.message}`.trim(), is);
  });

test('isFile: a file is called like its path', () => {
  assert.equal(isFile({ name: file, file }), true);
  assert.equal(isFile({ name: 'a.test.ts', file }), true);
  assert.equal(isFile({ name: 'reads b.test.ts', file }), false);
});

test('parseSum: the last sum of an output', () => {
  assert.deepEqual(parseSum('1 passed, 0 failed, 0 skipped\nmore\n12 passed, 3 failed, 4 skipped\n'), {
    passed: 12,
    failed: 3,
    skipped: 4,
  });
  assert.equal(parseSum('x 1 passed, 0 failed, 0 skipped'), undefined);
});

test('readLines: what ended counts, what began and did not end is named, a torn line is left out', () => {
  const outcome = { kind: 'passed', name: 'a', file: 'f', message: '', seconds: 0 };
  const text = [{ begun: 'f' }, { begun: 'g' }, { outcome }, { ended: 'f' }].map((line) => `${JSON.stringify(line)}\n`).join('');
  const read = readLines(`${text}{"outco`);
  assert.deepEqual(read, { outcomes: [outcome], unfinished: ['g'] });
  assert.deepEqual(sumOf(read.outcomes), { passed: 1, failed: 0, skipped: 0 });
  assert.deepEqual(readLines(''), { outcomes: [], unfinished: [] });
});
