import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatDuration, parseDuration } from '../../../agent/config/duration.ts';

const texts: [text: string, ms: number, back: string][] = [
  ['0', 0, '0s'],
  ['0s', 0, '0s'],
  ['300ms', 300, '300ms'],
  ['1.5s', 1500, '1.5s'],
  ['10s', 10_000, '10s'],
  ['90s', 90_000, '1m30s'],
  ['1h0m0s', 3_600_000, '1h0m0s'],
  ['2h45m', 9_900_000, '2h45m0s'],
  ['-1m', -60_000, '-1m0s'],
  ['100us', 0.1, '100µs'],
  ['.5s', 500, '500ms'],
];

for (const [text, ms, back] of texts) {
  test(`${text} is ${ms} ms and prints as ${back}`, () => {
    assert.equal(parseDuration(text), ms);
    assert.equal(formatDuration(ms), back);
  });
}

for (const text of ['', '10', 's', '1x', '1s ', '1 s', '--1s', '1d']) {
  test(`"${text}" is no duration`, () => {
    assert.throws(() => parseDuration(text), { code: 'InvalidDuration' });
  });
}
