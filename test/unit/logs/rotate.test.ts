import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import { planRotation } from '../../../agent/logs/rotate.ts';
import { type LogFiles, type LogRotationOptions, startLogRotation } from '../../../agent/logs/worker.ts';

const now = new Date(2026, 10, 21, 9, 5, 3).getTime();
const rotateTo = '0.log.20261121-090503';
const at = (time: string): string => `0.log.20261121-${time}`;

const cases: { name: string; names: string[]; maxFiles: number; remove?: string[]; compress?: string[]; none?: true }[] = [
  { name: 'the first rotation', names: ['0.log'], maxFiles: 5 },
  { name: "other logs are none of this one's", names: ['0.log', '1.log', '1.log.20261121-080000', '10.log.20261121-080000'], maxFiles: 5 },
  { name: 'the one before is compressed', names: ['0.log', at('080000')], maxFiles: 5, compress: [at('080000')] },
  { name: 'archives stay', names: ['0.log', at('070000.gz'), at('080000')], maxFiles: 5, compress: [at('080000')] },
  {
    name: 'the oldest go beyond the limit, the new log and the one before counted',
    names: ['0.log', at('080000'), at('050000.gz'), at('060000.gz'), at('070000.gz')],
    maxFiles: 5,
    remove: [at('050000.gz')],
    compress: [at('080000')],
  },
  {
    name: 'a lowered limit',
    names: ['0.log', at('050000.gz'), at('060000.gz'), at('080000')],
    maxFiles: 3,
    remove: [at('050000.gz'), at('060000.gz')],
    compress: [at('080000')],
  },
  { name: 'two files: nothing older is kept', names: ['0.log', at('080000')], maxFiles: 2, remove: [at('080000')] },
  {
    name: 'compression broken off: the temporary file goes, the log is compressed again',
    names: ['0.log', at('080000'), at('080000.tmp')],
    maxFiles: 5,
    remove: [at('080000.tmp')],
    compress: [at('080000')],
  },
  {
    name: 'ended between archive and removal: the plain file goes',
    names: ['0.log', at('080000'), at('080000.gz')],
    maxFiles: 5,
    remove: [at('080000')],
  },
  { name: 'rotated within this second', names: ['0.log', rotateTo], maxFiles: 5, none: true },
  { name: 'rotated and compressed within this second', names: ['0.log', `${rotateTo}.gz`], maxFiles: 5, none: true },
];

describe('planRotation', () => {
  for (const { name, names, maxFiles, remove = [], compress = [], none } of cases)
    test(name, () => {
      const plan = planRotation('0.log', names.toReversed(), maxFiles, now);
      assert.deepEqual(plan, none === true ? undefined : { remove, compress, rotateTo });
    });
});

type Container = { id: string; name: string; state: string; logPath: string };

/** Files by path, as text; every step is written down. */
function bed(containers: Container[], present: Record<string, string>, over: Partial<LogRotationOptions> = {}) {
  const disk = new Map(Object.entries(present));
  const steps: string[] = [];
  const { promise: quiet, resolve: settled } = Promise.withResolvers<void>();
  const files: LogFiles = {
    size: async (path) => disk.get(path)?.length,
    names: async (folder) => [...disk.keys()].filter((p) => p.startsWith(`${folder}/`)).map((p) => p.slice(folder.length + 1)),
    remove: async (path) => {
      steps.push(`remove ${path}`);
      disk.delete(path);
    },
    compress: async (path) => {
      steps.push(`compress ${path}`);
      disk.set(`${path}.gz`, disk.get(path) ?? '');
      disk.delete(path);
    },
    move: async (from, to) => {
      steps.push('move');
      disk.set(to, disk.get(from) ?? '');
      disk.delete(from);
    },
    restore: async (from, to) => {
      steps.push('restore');
      if (disk.has(to)) return false;
      disk.set(to, disk.get(from) ?? '');
      disk.delete(from);
      return true;
    },
  };
  const runtime = new Table<{ namespace: string; name: string; containers: Container[] }>('runtime');
  runtime.set('u', { namespace: 'n', name: 'p', containers });
  const options: LogRotationOptions = {
    // The first look is at once; after it nothing more happens.
    clock: {
      ...systemClock,
      wall: () => now,
      sleep: async (_, signal) => {
        for (let i = 0; i < 50; i++) await Promise.resolve();
        settled();
        await new Promise((__, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }));
      },
    },
    log: silentLog,
    signal: new AbortController().signal,
    runtime,
    files,
    reopen: async (id) => {
      steps.push(`reopen ${id}`);
      disk.set('/l/0.log', '');
    },
    maxSizeBytes: 10,
    maxFiles: 3,
    workers: 1,
    intervalMs: 10_000,
    ...over,
  };
  return {
    disk,
    steps,
    run: async () => {
      await using _rotation = startLogRotation(options);
      await quiet;
    },
  };
}

const running: Container = { id: 'c', name: 'main', state: 'running', logPath: '/l/0.log' };
const full = '0123456789';

describe('log rotation', () => {
  test('a full log is rotated, in order', async () => {
    const b = bed([running], { '/l/0.log': full, [`/l/${at('080000')}`]: 'old', [`/l/${at('070000.gz')}`]: 'older' });
    await b.run();
    assert.deepEqual(b.steps, [`remove /l/${at('070000.gz')}`, `compress /l/${at('080000')}`, 'move', 'reopen c']);
    assert.deepEqual([...b.disk.keys()].sort(), ['/l/0.log', `/l/${at('080000')}.gz`, `/l/${rotateTo}`].sort());
  });

  test('below the limit nothing happens', async () => {
    const b = bed([running], { '/l/0.log': full.slice(1) });
    await b.run();
    assert.deepEqual(b.steps, []);
  });

  test('a container that has ended is left alone', async () => {
    const b = bed([{ ...running, state: 'exited' }], { '/l/0.log': full });
    await b.run();
    assert.deepEqual(b.steps, []);
  });

  test('a log that is gone is opened anew', async () => {
    const b = bed([running], {});
    await b.run();
    assert.deepEqual(b.steps, ['reopen c']);
  });

  test('a refused reopening is undone', async () => {
    const b = bed([running], { '/l/0.log': full }, { reopen: async () => Promise.reject(new AgentError('Unavailable', 'gone')) });
    await b.run();
    assert.deepEqual(b.steps, ['move', 'restore']);
    assert.deepEqual([...b.disk], [['/l/0.log', full]]);
  });

  test('an answer that was lost: what the runtime opened is kept', async () => {
    const lost = bed(
      [running],
      { '/l/0.log': full },
      {
        reopen: async () => {
          lost.disk.set('/l/0.log', 'new');
          throw new AgentError('DeadlineExceeded', 'no answer');
        },
      },
    );
    await lost.run();
    assert.equal(lost.disk.get('/l/0.log'), 'new');
    assert.equal(lost.disk.get(`/l/${rotateTo}`), full);
  });

  test('a negative size turns it off', async () => {
    const rotation = startLogRotation({ maxSizeBytes: -1 } as LogRotationOptions);
    await rotation[Symbol.asyncDispose]();
  });
});
