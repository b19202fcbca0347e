// `kubectl logs --tail`: lines as the container wrote them, across the pieces and files that runtime and rotation make of them.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, mkdtemp, open, rename, rm, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { type ReadLogOptions, readContainerLog } from '../../../agent/drivers/logs/read.ts';

const context = { clock: systemClock, log: silentLog };
const never = new AbortController().signal;

interface Record {
  readonly stream: 'stdout' | 'stderr';
  readonly partial: boolean;
  readonly text: string;
}

const timeOf = (second: number): string => new Date(Date.UTC(2026, 0, 2) + second * 1000).toISOString();
const written = (record: Record, second: number): string =>
  `${timeOf(second)} ${record.stream} ${record.partial ? 'P' : 'F'} ${record.text}\n`;
const shown = ({ partial, text }: Record): string => (partial ? text : `${text}\n`);

async function folder() {
  const path = await mkdtemp(join(tmpdir(), 'log-tail-'));
  return { path, file: join(path, '0.log'), [Symbol.asyncDispose]: () => rm(path, { recursive: true }) };
}

async function all(path: string, options: ReadLogOptions, signal = never): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of readContainerLog(path, options, context, signal)) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

/** The last lines by the book: lines are made of all records first, then counted from the end. */
function expectedTail(records: readonly Record[], lines: number): string {
  const lineOf: number[] = [];
  const current = new Map<string, number>();
  const endedAt: number[] = [];
  records.forEach((record, i) => {
    const line = current.get(record.stream) ?? endedAt.push(0) - 1;
    lineOf[i] = line;
    endedAt[line] = i;
    if (record.partial) current.set(record.stream, line);
    else current.delete(record.stream);
  });
  const wanted = new Set([...endedAt.keys()].sort((a, b) => endedAt[b]! - endedAt[a]!).slice(0, lines));
  return records
    .filter((_, i) => wanted.has(lineOf[i]!))
    .map(shown)
    .join('');
}

test('the last lines of any log, however it is cut into pieces and files', async () => {
  // What stands before a record and is none.
  const junk = fc.constantFrom('', '', '', 'no record\n', '\n', '{"log":"cut\n', `${'y'.repeat(70_000)}\n`);
  const record = fc.record({
    junk,
    stream: fc.constantFrom('stdout' as const, 'stdout' as const, 'stderr' as const),
    partial: fc.boolean(),
    // Some records span several of the blocks that are read at once.
    text: fc.oneof({ weight: 20, arbitrary: fc.string({ maxLength: 20 }) }, { weight: 1, arbitrary: fc.constant('x'.repeat(70_000)) }),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(record, { maxLength: 30 }),
      fc.array(fc.nat(30), { maxLength: 3 }),
      fc.nat(12),
      async (records, cuts, lines) => {
        await using at = await folder();
        const clean = records.map((each) => ({ ...each, text: each.text.replaceAll('\n', '') }));
        const bounds = [...new Set(cuts.filter((cut) => cut < clean.length))].sort((a, b) => a - b);
        const files = [0, ...bounds].map((from, i) =>
          clean.slice(from, bounds[i] ?? clean.length).map((each, j) => written(each, from + j)),
        );
        for (const [i, file] of files.entries()) {
          const age = files.length - 1 - i;
          if (age === 0) await writeFile(at.file, file.join(''));
          // As the agent leaves them: the file before the present one is plain, those before it are packed.
          else if (age === 1) await writeFile(`${at.file}.20260101-00000${i}`, file.join(''));
          else await writeFile(`${at.file}.20260101-00000${i}.gz`, gzipSync(file.join('')));
        }
        const got = await all(at.file, { tailLines: lines });
        const expected = expectedTail(clean, lines);
        // A line that began in an archive and ends in a later file is looked for there only when lines are missing.
        if (files.length <= 2) assert.equal(got, expected);
        else assert.ok(got === expected || expected.endsWith(got), `got ${got.length} bytes`);
      },
    ),
    { numRuns: 150 },
  );
});

test('the tail goes back into rotated files, plain and packed', async () => {
  await using at = await folder();
  const lines = (from: number, to: number): string =>
    Array.from({ length: to - from }, (_, i) => written({ stream: 'stdout', partial: false, text: `line ${from + i}` }, from + i)).join('');
  await writeFile(`${at.file}.20260101-000001.gz`, gzipSync(lines(0, 1000)));
  await writeFile(`${at.file}.20260101-000002.gz`, gzipSync(lines(1000, 2000)));
  await writeFile(`${at.file}.20260101-000003`, lines(2000, 3000));
  await writeFile(at.file, lines(3000, 3003));
  const plain = (from: number, to: number): string => Array.from({ length: to - from }, (_, i) => `line ${from + i}\n`).join('');
  const table: [string, ReadLogOptions, string][] = [
    ['in the present file', { tailLines: 3 }, plain(3000, 3003)],
    ['one more', { tailLines: 4 }, plain(2999, 3003)],
    ['into an archive', { tailLines: 1500 }, plain(1503, 3003)],
    ['more than there is', { tailLines: 10_000 }, plain(0, 3003)],
    ['without a tail the present file alone, as kubelet', {}, plain(3000, 3003)],
    ['since', { tailLines: 1500, since: timeOf(2998) }, plain(2998, 3003)],
    ['since, of a present file that is old', { tailLines: 1500, since: timeOf(3002) }, plain(3002, 3003)],
    ['limit', { tailLines: 4, limitBytes: 11 }, 'line 2999\nl'],
    ['limit within an older file', { tailLines: 4, limitBytes: 3 }, 'lin'],
  ];
  for (const [name, options, expected] of table) assert.equal(await all(at.file, options), expected, name);

  // A rotation that has just been: the present file is empty.
  await rename(at.file, `${at.file}.20260101-000004`);
  await writeFile(at.file, '');
  assert.equal(await all(at.file, { tailLines: 5 }), plain(2998, 3003));
  // An archive that is broken ends the search, and what is newer is shown.
  await writeFile(`${at.file}.20260101-000002.gz`, gzipSync(lines(1000, 2000)).subarray(0, 500));
  assert.equal(await all(at.file, { tailLines: 1500 }), plain(2000, 3003));
  await unlink(`${at.file}.20260101-000002.gz`);
  // What is no file is not waited for.
  execFileSync('mkfifo', [`${at.file}.20260101-000002`]);
  assert.equal(await all(at.file, { tailLines: 1500 }), plain(2000, 3003));
});

test('a tail that is followed starts in an older file and goes on with what comes', async () => {
  await using at = await folder();
  const say = (text: string, second: number): string => written({ stream: 'stdout', partial: false, text }, second);
  await writeFile(`${at.file}.20260101-000001`, say('one', 1) + say('two', 2));
  await writeFile(at.file, say('three', 3));
  let running = true;
  let changed = (): void => undefined;
  const follow = {
    running: () => running,
    onChange(listener: () => void) {
      changed = listener;
      return { [Symbol.dispose]: () => undefined };
    },
  };
  let text = '';
  for await (const chunk of readContainerLog(at.file, { tailLines: 2, follow }, context, never)) {
    text += chunk.toString();
    if (text === 'two\nthree\n')
      await appendFile(
        at.file,
        written({ stream: 'stderr', partial: true, text: 'fo' }, 4) + written({ stream: 'stderr', partial: false, text: 'ur' }, 4),
      );
    if (text === 'two\nthree\nfour\n') {
      running = false;
      changed();
    }
  }
  assert.equal(text, 'two\nthree\nfour\n');
});

test('a record that is being written is shown when it is whole', async () => {
  await using at = await folder();
  const whole = written({ stream: 'stderr', partial: false, text: 'late' }, 2);
  await writeFile(at.file, written({ stream: 'stdout', partial: false, text: 'one' }, 1) + whole.slice(0, 15));
  let running = true;
  let changed = (): void => undefined;
  const follow = {
    running: () => running,
    onChange(listener: () => void) {
      changed = listener;
      return { [Symbol.dispose]: () => undefined };
    },
  };
  let text = '';
  for await (const chunk of readContainerLog(at.file, { tailLines: 0, follow }, context, never)) {
    text += chunk.toString();
    if (text === '') await appendFile(at.file, whole.slice(15));
    else {
      running = false;
      changed();
    }
  }
  assert.equal(text, 'late\n');
});

test('a log of one line without an end takes time, and no memory', async () => {
  await using at = await folder();
  const sparse = join(at.path, '1.log');
  const bomb = join(at.path, '2.log');
  // A record of 256 MiB: holes in the file cost nothing.
  const file = await open(sparse, 'w');
  await file.write(written({ stream: 'stdout', partial: false, text: 'first' }, 1));
  await file.write(`${timeOf(2)} stdout F `);
  await file.truncate(256 * 1024 * 1024);
  await file.close();
  await writeFile(bomb, written({ stream: 'stdout', partial: false, text: 'last' }, 2));
  // More short records, packed, than are kept in memory at once.
  const short = written({ stream: 'stdout', partial: false, text: '' }, 1);
  await writeFile(`${bomb}.20260101-000001.gz`, gzipSync(Buffer.from(short.repeat(Math.floor(20_000_000 / short.length)))));
  const script = `
    import { readContainerLog } from ${JSON.stringify(new URL('../../../agent/drivers/logs/read.ts', import.meta.url).href)};
    import { systemClock } from ${JSON.stringify(new URL('../../../agent/base/clock.ts', import.meta.url).href)};
    import { silentLog } from ${JSON.stringify(new URL('../../../agent/base/log.ts', import.meta.url).href)};
    let bytes = 0;
    const read = async (path, options) => {
      let length = 0;
      for await (const chunk of readContainerLog(path, options, { clock: systemClock, log: silentLog }, new AbortController().signal)) length += chunk.length;
      return length;
    };
    // What is in use, not what the process has: that also grows where the garbage collector's threads get no processor.
    const inUse = () => {
      gc();
      const { heapUsed, external } = process.memoryUsage();
      return heapUsed + external;
    };
    const before = inUse();
    let most = before;
    let watched;
    const watch = () => {
      most = Math.max(most, inUse());
      watched = setTimeout(watch, 25);
    };
    watch();
    const lengths = [
      await read(${JSON.stringify(sparse)}, { tailLines: 1, limitBytes: 1000 }),
      await read(${JSON.stringify(sparse)}, { tailLines: 5 }),
      await read(${JSON.stringify(bomb)}, { tailLines: 300_000 }),
    ];
    clearTimeout(watched);
    console.log(JSON.stringify({ lengths, grown: most - before }));
  `;
  const child = spawn(process.execPath, ['--expose-gc', '--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let out = '';
  child.stdout.on('data', (chunk: Buffer) => {
    out += chunk.toString();
  });
  await once(child, 'close');
  const { lengths, grown } = JSON.parse(out) as { lengths: number[]; grown: number };
  const head = `${timeOf(2)} stdout F `.length + written({ stream: 'stdout', partial: false, text: 'first' }, 1).length;
  assert.deepEqual(lengths, [1000, 256 * 1024 * 1024 - head + 'first\n'.length, 299_999 + 'last\n'.length]);
  assert.ok(grown < 64 * 1024 * 1024, `${Math.round(grown / 1024 / 1024)} MiB`);
});

test('looking for the start of a tail stops when it is no longer wanted', async () => {
  await using at = await folder();
  const file = await open(at.file, 'w');
  await file.truncate(100 * 1024 * 1024 * 1024);
  await file.close();
  const controller = new AbortController();
  const read = all(at.file, { tailLines: 1 }, controller.signal);
  setTimeout(() => controller.abort(new Error('gone')), 50);
  await assert.rejects(read, /gone/);
});
