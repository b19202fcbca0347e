import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { type Clock, systemClock } from '../../../agent/base/clock.ts';
import { hasCode } from '../../../agent/base/errors.ts';
import { type Log, silentLog } from '../../../agent/base/log.ts';
import { changeAtomically, writeAtomically } from '../../../agent/drivers/files/atomic.ts';
import { startWriteBehind } from '../../../agent/drivers/files/write-behind.ts';
import { openJournal } from '../../../agent/drivers/journal/journal.ts';
import { openPodResources } from '../../../agent/drivers/journal/pod-resources.ts';

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'write-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Timers that only `pass` fires; their delays are kept. */
function manualTimers() {
  const pending: { ms: number; fn: () => void }[] = [];
  const delays: number[] = [];
  const clock: Clock = {
    ...systemClock,
    after(ms, fn) {
      const timer = { ms, fn };
      pending.push(timer);
      delays.push(ms);
      return { [Symbol.dispose]: () => void (pending.includes(timer) && pending.splice(pending.indexOf(timer), 1)) };
    },
  };
  return {
    clock,
    delays,
    pass(): void {
      for (const { fn } of pending.splice(0)) fn();
    },
  };
}

function recordingLog() {
  const lines: string[] = [];
  const at = (level: string) => (_: object, message: string) => void lines.push(`${level}: ${message}`);
  const log: Log = { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error'), child: () => log };
  return { log, lines };
}

const settled = async (): Promise<void> => {
  for (let i = 0; i < 50; i++) await new Promise((resolve) => setImmediate(resolve));
};

/** Fires the timers until it is so. A busy disk takes seconds for a sync: only the limit of its test ends it, with a word for what did not come. */
async function eventually(isSo: () => boolean, pass: () => void): Promise<void> {
  while (!isSo()) {
    pass();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const failing = 'error: state cannot be written to the disk, and is tried again';

describe('files that are whole or not there', () => {
  test('a file is written and replaced with its mode, and its folder is made', async (t) => {
    const path = join(folderOf(t), 'a', 'b', 'f');
    await writeAtomically(path, 'one', { mode: 0o600, folderMode: 0o700 });
    await writeAtomically(path, 'two', { mode: 0o640 });
    assert.equal(readFileSync(path, 'utf8'), 'two');
    assert.equal(statSync(path).mode & 0o777, 0o640);
    assert.equal(statSync(join(path, '..')).mode & 0o777, 0o700);
    assert.deepEqual(readdirSync(join(path, '..')), ['f']);
  });

  test('a link laid where the temporary file comes is not followed, and a leftover lends no mode', async (t) => {
    const folder = folderOf(t);
    writeFileSync(join(folder, 'victim'), 'untouched', { mode: 0o644 });
    symlinkSync('victim', join(folder, 'f.tmp'));
    await writeAtomically(join(folder, 'f'), 'secret', { mode: 0o600 });
    assert.equal(readFileSync(join(folder, 'victim'), 'utf8'), 'untouched');
    writeFileSync(join(folder, 'g.tmp'), 'left', { mode: 0o666 });
    await writeAtomically(join(folder, 'g'), 'secret', { mode: 0o600 });
    assert.equal(statSync(join(folder, 'g')).mode & 0o777, 0o600);
  });

  test('of several changes those that fail are told by path, and leave nothing behind', async (t) => {
    const folder = folderOf(t);
    mkdirSync(join(folder, 'taken'));
    writeFileSync(join(folder, 'old'), 'old');
    const failed = await changeAtomically(
      [
        { path: join(folder, 'new'), text: 'new' },
        { path: join(folder, 'taken'), text: 'x' },
        { path: join(folder, 'old'), text: undefined },
        { path: join(folder, 'old', 'x'), text: 'x' },
      ],
      { mode: 0o600 },
    );
    assert.deepEqual([...failed.keys()], [join(folder, 'taken')]);
    assert.ok(hasCode(failed.get(join(folder, 'taken')), 'IsADirectory'));
    assert.deepEqual(readdirSync(folder).sort(), ['new', 'old', 'taken']);
    assert.deepEqual(readdirSync(join(folder, 'old')), ['x']);
  });
});

describe('writing behind', () => {
  test('what failed stays dirty, is tried again after pauses that double, and is written with what changed since', async () => {
    const { clock, delays, pass } = manualTimers();
    const { log, lines } = recordingLog();
    const calls: string[][] = [];
    let broken = true;
    await using behind = startWriteBehind<string>({
      path: '/p',
      clock,
      log,
      async write(keys) {
        calls.push([...keys]);
        return new Map(broken ? keys.map((key) => [key, new Error('no space')]) : []);
      },
    });
    behind.touch('a');
    await settled();
    behind.touch('b');
    await settled();
    // The pause holds for new changes too: a full disk is not asked with every status.
    assert.deepEqual(calls, [['a']]);
    for (let i = 0; i < 6; i++) {
      pass();
      await settled();
    }
    assert.deepEqual(delays, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    broken = false;
    pass();
    await settled();
    assert.deepEqual(calls.at(-1), ['a', 'b']);
    assert.deepEqual(
      lines.filter((line) => !line.startsWith('debug')),
      ['error: state cannot be written to the disk, and is tried again', 'info: state is written to the disk again'],
    );
  });

  test('what cannot even be made into text stays dirty too', async () => {
    const { clock, pass } = manualTimers();
    const { log } = recordingLog();
    let calls = 0;
    await using behind = startWriteBehind<string>({
      path: '/p',
      clock,
      log,
      write() {
        if (++calls === 1) throw new Error('no text');
        return Promise.resolve(new Map());
      },
    });
    behind.touch('a');
    await settled();
    pass();
    await behind.written();
    assert.equal(calls, 2);
  });

  test('one write at a time; what changes meanwhile goes together with the next', async () => {
    const calls: string[][] = [];
    const gates: (() => void)[] = [];
    await using behind = startWriteBehind<string>({
      path: '/p',
      clock: systemClock,
      log: silentLog,
      async write(keys) {
        calls.push([...keys]);
        if (calls.length === 1) await new Promise<void>((resolve) => gates.push(resolve));
        return new Map();
      },
    });
    behind.touch('a');
    for (const key of ['a', 'b', 'c', 'b']) behind.touch(key);
    gates[0]?.();
    await behind.written();
    assert.deepEqual(calls, [['a'], ['a', 'b', 'c']]);
  });

  test('closing tries once more, without waiting for the pause, and says what is lost', async () => {
    for (const broken of [false, true]) {
      const { clock } = manualTimers();
      const { log, lines } = recordingLog();
      let calls = 0;
      const behind = startWriteBehind<string>({
        path: '/p',
        clock,
        log,
        write: async (keys) => new Map(++calls === 1 || broken ? keys.map((key) => [key, new Error('no')]) : []),
      });
      behind.touch('a');
      await settled();
      await behind[Symbol.asyncDispose]();
      assert.equal(calls, 2);
      assert.equal(lines.includes('error: state is lost: it could not be written to the disk before the end'), broken);
    }
  });
});

describe('the journal', () => {
  test('what is set is there after the end, what is deleted is not', async (t) => {
    const folder = join(folderOf(t), 'j');
    {
      await using journal = await openJournal<{ n: number }>(folder, systemClock, silentLog);
      for (let n = 0; n < 100; n++) journal.set(`k${n}`, { n });
      journal.delete('k7');
      journal.set('../outside', { n: 0 });
    }
    assert.equal(readdirSync(folder).length, 99);
    await using journal = await openJournal<{ n: number }>(folder, systemClock, silentLog);
    assert.equal([...journal.entries()].length, 99);
    assert.deepEqual(journal.get('k99'), { n: 99 });
  });

  const odd: [string, (path: string) => void][] = [
    ['half of it', (path) => writeFileSync(path, '{"n":')],
    ['nothing', (path) => writeFileSync(path, '')],
    ['zeros, as after a power cut', (path) => writeFileSync(path, Buffer.alloc(4096))],
    ['null', (path) => writeFileSync(path, 'null')],
    ['a number', (path) => writeFileSync(path, '7')],
    ['a folder', (path) => mkdirSync(path)],
    ['a FIFO', (path) => void execFileSync('mkfifo', [path])],
    ['a link to nowhere', (path) => symlinkSync('/none', path)],
    ['more than anybody wrote', (path) => writeFileSync(path, Buffer.alloc(11 * 2 ** 20, 0x20))],
  ];
  for (const [what, make] of odd)
    test(`a file that holds ${what} is put aside and told, and the others count`, { timeout: 10_000 }, async (t) => {
      const folder = folderOf(t);
      make(join(folder, 'bad.json'));
      writeFileSync(join(folder, 'good.json'), '{"n":1}');
      writeFileSync(join(folder, 'x.json.tmp'), '{');
      const { log, lines } = recordingLog();
      await using journal = await openJournal<{ n: number }>(folder, systemClock, log);
      assert.deepEqual([...journal.entries()], [['good', { n: 1 }]]);
      assert.deepEqual(lines, ['error: file cannot be read and is put aside']);
      assert.deepEqual(readdirSync(folder).sort(), ['bad.json.broken', 'good.json']);
    });

  test('a folder that cannot be used never keeps the agent from starting, and is used when it can', async (t) => {
    const folder = join(folderOf(t), 'j');
    writeFileSync(folder, 'a file where the folder should be');
    const { clock, pass } = manualTimers();
    const { log, lines } = recordingLog();
    await using journal = await openJournal<{ n: number }>(folder, clock, log);
    journal.set('a', { n: 1 });
    await eventually(
      () => lines.includes(failing),
      () => undefined,
    );
    assert.deepEqual(lines[0], 'error: journal cannot be read, and begins anew');
    rmSync(folder);
    await eventually(() => existsSync(join(folder, 'a.json')), pass);
  });

  test('a full disk that gets room again', { skip: process.getuid?.() !== 0 && 'a tmpfs needs root' }, async (t) => {
    const at = mkdtempSync(join(tmpdir(), 'write-'));
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', at]);
    t.after(() => {
      execFileSync('umount', ['-l', at]);
      rmSync(at, { recursive: true });
    });
    const { clock, pass } = manualTimers();
    const { log, lines } = recordingLog();
    const filler = join(at, 'filler');
    {
      await using journal = await openJournal<{ n: number; text: string }>(join(at, 'j'), clock, log);
      await using state = await openPodResources(join(at, 'state'), clock, log);
      const requests = { cpu: '1' };
      journal.set('before', { n: 1, text: 'x' });
      state.set('u1', { containers: { constructor: { requests } }, pod: undefined });
      await eventually(() => existsSync(join(at, 'j', 'before.json')) && existsSync(join(at, 'state')), pass);
      try {
        writeFileSync(filler, Buffer.alloc(128 * 1024));
      } catch (error) {
        assert.match(String(error), /ENOSPC/);
      }
      journal.set('before', { n: 2, text: 'y'.repeat(5000) });
      journal.set('after', { n: 3, text: 'z'.repeat(5000) });
      state.set('u2', { containers: { a: { requests } }, pod: undefined });
      await eventually(
        () => lines.filter((line) => line === failing).length === 2,
        () => undefined,
      );
      // Nothing is torn: the old file is whole, and no temporary one takes room.
      assert.equal(JSON.parse(readFileSync(join(at, 'j', 'before.json'), 'utf8')).n, 1);
      assert.deepEqual(readdirSync(join(at, 'j')), ['before.json']);
      rmSync(filler);
      await eventually(() => existsSync(join(at, 'j', 'after.json')), pass);
      assert.equal(JSON.parse(readFileSync(join(at, 'j', 'after.json'), 'utf8')).n, 3);
      await eventually(() => JSON.parse(readFileSync(join(at, 'j', 'before.json'), 'utf8')).n === 2, pass);
    }
    await using back = await openPodResources(join(at, 'state'), clock, log);
    assert.deepEqual(back.get('u2')?.containers, { a: { requests: { cpu: '1' } } });
    assert.deepEqual(back.get('u1')?.containers, { constructor: { requests: { cpu: '1' } } });
  });
});
