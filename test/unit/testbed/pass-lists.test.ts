import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { type Exclusion, parseTallies, passesSteadily } from '../../testbed/e2e-report.ts';

const folder = resolve(import.meta.dirname, '../../e2e');
const tallies = parseTallies(readFileSync(join(folder, 'upstream-runs.tsv'), 'utf8'));
const exclusions = JSON.parse(readFileSync(join(folder, 'exclusions.json'), 'utf8')) as Exclusion[];

for (const file of readdirSync(join(folder, 'passes')).filter((name) => !name.startsWith('node-local'))) {
  const specs = readFileSync(join(folder, 'passes', file), 'utf8')
    .trim()
    .split('\n');

  test(`${file}: upstream has passed each spec in two of three runs`, () => {
    assert.deepEqual(
      specs.filter((spec) => !passesSteadily(tallies.get(spec))),
      [],
    );
  });

  test(`${file}: nothing is excluded, and its suite exists`, () => {
    assert.deepEqual(
      specs.filter((spec) => exclusions.some((each) => each.spec === spec)),
      [],
    );
    assert.ok(existsSync(join(folder, 'suites', file.replace('.txt', '.json'))));
  });
}

test('each exclusion has a reason, and none is there twice', () => {
  for (const { spec, reason } of exclusions) assert.ok(reason.length > 20, spec);
  assert.equal(new Set(exclusions.map(({ spec }) => spec)).size, exclusions.length);
});
