import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fixedWidthTime, nextAfterRotation, parseLogRecord, rfc3339Nanos, rotatedNames } from '../../../agent/drivers/logs/line.ts';

const parse = (text: string) => {
  const line = parseLogRecord(Buffer.from(text));
  return line && [line.time, line.stream, line.content.toString()];
};

test('a log line is time, stream, tags and text', () => {
  const table: [string, string, unknown][] = [
    ['full', '2026-01-02T03:04:05.123456789Z stdout F hello world\n', ['2026-01-02T03:04:05.123456789Z', 'stdout', 'hello world\n']],
    ['partial loses its newline', '2026-01-02T03:04:05.1Z stderr P half\n', ['2026-01-02T03:04:05.1Z', 'stderr', 'half']],
    ['partial with more tags', '2026-01-02T03:04:05Z stderr P:X half\n', ['2026-01-02T03:04:05Z', 'stderr', 'half']],
    ['empty', '2026-01-02T03:04:05+02:00 stdout F \n', ['2026-01-02T03:04:05+02:00', 'stdout', '\n']],
    ['no newline', '2026-01-02T03:04:05Z stdout F end', ['2026-01-02T03:04:05Z', 'stdout', 'end']],
    ['no time', 'hello stdout F x\n', undefined],
    ['no such stream', '2026-01-02T03:04:05Z stdin F x\n', undefined],
    ['cut short', '2026-01-02T03:04:05Z stdout', undefined],
    ['docker', '{"log":"hi\\n","stream":"stderr","time":"2026-01-02T03:04:05.5Z"}\n', ['2026-01-02T03:04:05.5Z', 'stderr', 'hi\n']],
    ['broken docker', '{"log":"hi', undefined],
    ['nothing', '\n', undefined],
  ];
  for (const [name, text, expected] of table) assert.deepEqual(parse(text), expected, name);
});

test('times keep their nanoseconds', () => {
  assert.equal(rfc3339Nanos('1970-01-01T00:00:01.000000002Z'), 1_000_000_002n);
  assert.equal(rfc3339Nanos('1970-01-01T02:00:00.5+02:00'), 500_000_000n);
  assert.equal(rfc3339Nanos('yesterday'), undefined);
  assert.equal(fixedWidthTime('2026-01-02T03:04:05.12Z'), '2026-01-02T03:04:05.120000000Z');
  assert.equal(fixedWidthTime('2026-01-02T03:04:05+00:00'), '2026-01-02T03:04:05.000000000Z');
  assert.equal(fixedWidthTime('2026-01-02T03:04:05+02:00'), '2026-01-02T03:04:05.000000000+02:00');
});

test('rotated files, the newest first', () => {
  const table: [string, string[], string[]][] = [
    [
      "kubelet's, packed or not, and nothing else",
      [
        '0.log',
        '0.log.20260101-000000.gz',
        '0.log.20260103-000000',
        '0.log.20260102-000000.gz',
        '0.log.20260102-000000.gz.tmp',
        '1.log',
        '0.log.bak',
      ],
      ['0.log.20260103-000000', '0.log.20260102-000000.gz', '0.log.20260101-000000.gz'],
    ],
    ['the plain one of two', ['0.log.20260101-000000', '0.log.20260101-000000.gz'], ['0.log.20260101-000000']],
    ["Docker's", ['0.log.10', '0.log.1', '0.log.2.gz'], ['0.log.1', '0.log.2.gz', '0.log.10']],
  ];
  for (const [name, names, expected] of table) assert.deepEqual(rotatedNames('0.log', names), expected, name);
});

test('a rotated file is continued by the next one that can be read', () => {
  const names = ['0.log', '0.log.20260101-000000.gz', '0.log.20260102-000000', '0.log.20260103-000000', '1.log'];
  assert.equal(nextAfterRotation('0.log', '0.log.20260102-000000', names), '0.log.20260103-000000');
  assert.equal(nextAfterRotation('0.log', '0.log.20260103-000000', names), '0.log');
  assert.equal(nextAfterRotation('0.log', '0.log.20260101-000000', names), '0.log.20260102-000000');
});
