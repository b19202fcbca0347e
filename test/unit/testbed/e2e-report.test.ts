import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  formatTallies,
  isSettled,
  judge,
  parseSpecList,
  parseTallies,
  passesSteadily,
  resultsOf,
  type SpecReport,
  selectSpecs,
  suiteFailures,
  tallied,
} from '../../testbed/e2e-report.ts';

const all = ['[sig-node] Pods should run [Conformance]', '[sig-node] Pods should crawl [Slow]', '[sig-network] DNS should resolve'];

test('parseSpecList takes the names of e2e.test --list-tests', () => {
  const text = 'The following spec names can be used:\n    ../k8s.io/kubernetes@v1/test/e2e/a.go:258: [sig-a] A (b): c\n    x.go:1: B\n\n';
  assert.deepEqual(parseSpecList(text), ['[sig-a] A (b): c', 'B']);
  assert.deepEqual(parseSpecList(text, 'e2e'), ['[sig-a] A (b): c']);
});

const selections: Record<string, { focus: string[]; skip?: string[]; chosen: string[] }> = {
  'a full name': { focus: [all[2] ?? ''], chosen: ['[sig-network] DNS should resolve'] },
  'a regex': { focus: ['/^\\[sig-node\\]/'], chosen: all.slice(0, 2) },
  'a regex without what is skipped': { focus: ['/^\\[sig-node\\]/'], skip: ['/\\[Slow\\]/'], chosen: all.slice(0, 1) },
  'overlapping entries name a spec once, in the order of the suite': { focus: [all[2] ?? '', '/./'], chosen: all },
};
for (const [name, { focus, skip, chosen }] of Object.entries(selections))
  test(`selectSpecs: ${name}`, () =>
    assert.deepEqual(selectSpecs({ description: '', focus, ...(skip === undefined ? {} : { skip }) }, all), chosen));

test('selectSpecs refuses an entry that names nothing', () => {
  assert.throws(
    () => selectSpecs({ description: '', focus: ['[sig-node] Pods'] }, all),
    /no spec of the e2e suite matches \[sig-node\] Pods/,
  );
});

const report = (name: string, state: string, message?: string): SpecReport => ({
  ContainerHierarchyTexts: name === '' ? null : name.split(' ').slice(0, -1),
  LeafNodeType: name === '' ? 'SynchronizedBeforeSuite' : 'It',
  LeafNodeText: name.split(' ').at(-1) ?? '',
  State: state,
  RunTime: 2_500_000_000,
  ...(message === undefined ? {} : { Failure: { Message: message } }),
});

test('resultsOf joins the texts of a spec, and a spec that never ran has failed', () => {
  const results = resultsOf(
    ['a b', 'a c', 'd e', 'f'],
    [report('a b', 'passed'), report('a c', 'skipped', 'no zone'), report('d e', 'timedout')],
  );
  assert.deepEqual(results, [
    { name: 'a b', state: 'passed', seconds: 2.5, message: '' },
    { name: 'a c', state: 'skipped', seconds: 2.5, message: 'no zone' },
    { name: 'd e', state: 'failed', seconds: 2.5, message: 'timedout' },
    { name: 'f', state: 'failed', seconds: 0, message: 'the run ended without it' },
  ]);
});

test('suiteFailures tells what failed outside specs', () => {
  assert.deepEqual(suiteFailures([report('', 'failed', 'no nodes'), report('a b', 'failed', 'x')]), ['SynchronizedBeforeSuite: no nodes']);
});

const spec = (name: string, state: 'passed' | 'failed' | 'skipped') => ({ name, state, seconds: 1, message: '' });
const verdicts: Record<
  string,
  { isSuite: boolean; passList?: string[]; failed: string[]; skipped: string[]; regressions: string[]; gains: string[] }
> = {
  'in a suite, a skipped spec has failed': { isSuite: true, failed: ['b', 'c'], skipped: [], regressions: ['b', 'c'], gains: [] },
  'by a regex, a spec may skip itself': { isSuite: false, failed: ['b'], skipped: ['c'], regressions: ['b'], gains: [] },
  'what the pass list names must pass, what it does not may fail': {
    isSuite: true,
    passList: ['a'],
    failed: ['b', 'c'],
    skipped: [],
    regressions: [],
    gains: [],
  },
  'a listed spec that was not even run is a regression': {
    isSuite: true,
    passList: ['z'],
    failed: ['b', 'c'],
    skipped: [],
    regressions: ['z'],
    gains: ['a'],
  },
};
for (const [name, { isSuite, passList, ...wanted }] of Object.entries(verdicts))
  test(`judge: ${name}`, () => {
    const verdict = judge([spec('a', 'passed'), spec('b', 'failed'), spec('c', 'skipped')], { isSuite, passList });
    const names = (list: { name: string }[]): string[] => list.map((each) => each.name);
    assert.deepEqual(
      { failed: names(verdict.failed), skipped: names(verdict.skipped), regressions: verdict.regressions, gains: verdict.gains },
      wanted,
    );
  });

test('tallies count a run, and survive being written', () => {
  const before = parseTallies('passed\truns\tspec\n1\t2\tb\n');
  const after = tallied(before, [
    spec('b', 'passed'),
    spec('a', 'failed'),
    spec('c', 'skipped'),
    { name: 'd', state: 'failed', seconds: 0, message: 'the run ended without it' },
  ]);
  assert.equal(formatTallies(after), 'passed\truns\tspec\n0\t1\ta\n2\t3\tb\n0\t1\tc\n');
  assert.deepEqual(parseTallies(formatTallies(after)), after);
  assert.throws(() => parseTallies('passed\truns\tspec\nonce\t1\ta\n'), /not a line of tallies/);
});

const tallyCases: Record<string, { tally: [number, number] | undefined; steadily: boolean; settled: boolean }> = {
  'never run': { tally: undefined, steadily: false, settled: false },
  'once of one': { tally: [1, 1], steadily: false, settled: false },
  'twice of two': { tally: [2, 2], steadily: true, settled: true },
  'twice of three': { tally: [2, 3], steadily: true, settled: true },
  'once of three': { tally: [1, 3], steadily: false, settled: true },
  'half of its runs': { tally: [2, 4], steadily: false, settled: true },
};
for (const [name, { tally: counts, steadily, settled }] of Object.entries(tallyCases))
  test(`passesSteadily and isSettled: ${name}`, () => {
    const tally = counts === undefined ? undefined : { passed: counts[0], runs: counts[1] };
    assert.deepEqual([passesSteadily(tally), isSettled(tally)], [steadily, settled]);
  });
