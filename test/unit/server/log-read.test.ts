import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFile, mkdir, mkdtemp, readdir, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { hasCode } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { pathWhenOpened } from '../../../agent/drivers/logs/open.ts';
import { type ReadLogOptions, readContainerLog } from '../../../agent/drivers/logs/read.ts';

const context = { clock: systemClock, log: silentLog };
const never = new AbortController().signal;
const line = (second: number, text: string, stream = 'stdout', tag = 'F') =>
  `2026-01-02T03:04:${String(second).padStart(2, '0')}.5Z ${stream} ${tag} ${text}\n`;

async function folder() {
  const path = await mkdtemp(join(tmpdir(), 'logs-'));
  return { path, file: join(path, '0.log'), [Symbol.asyncDispose]: () => rm(path, { recursive: true }) };
}

async function all(path: string, options: ReadLogOptions): Promise<string> {
  let text = '';
  for await (const chunk of readContainerLog(path, options, context, never)) text += chunk.toString();
  return text;
}

test('what is shown of a log', async () => {
  await using at = await folder();
  await writeFile(
    at.file,
    [line(1, 'one'), line(2, 'two', 'stderr'), line(3, 'thr', 'stdout', 'P'), line(4, 'ee'), 'broken line\n', line(5, 'five')].join(''),
  );
  const table: [string, ReadLogOptions, string][] = [
    ['all', {}, 'one\ntwo\nthree\nfive\n'],
    ['tail', { tailLines: 1 }, 'five\n'],
    ['tail counts lines, not the pieces that a runtime makes of them', { tailLines: 2 }, 'three\nfive\n'],
    ['tail of one stream', { tailLines: 1, stream: 'stderr' }, 'two\n'],
    ['tail of more than there is', { tailLines: 100 }, 'one\ntwo\nthree\nfive\n'],
    ['tail 0', { tailLines: 0 }, ''],
    ['limit', { limitBytes: 6 }, 'one\ntw'],
    ['since', { since: '2026-01-02T03:04:04.500Z' }, 'ee\nfive\n'],
    ['since by the nanosecond', { since: '2026-01-02T03:04:05.500000001Z' }, ''],
    ['one stream', { stream: 'stderr' }, 'two\n'],
    [
      'timestamps stand at the start of whole lines',
      { timestamps: true, since: '2026-01-02T03:04:03Z' },
      '2026-01-02T03:04:03.500000000Z three\n2026-01-02T03:04:05.500000000Z five\n',
    ],
    ['limit counts timestamps', { timestamps: true, limitBytes: 33 }, '2026-01-02T03:04:01.500000000Z on'],
  ];
  for (const [name, options, expected] of table) assert.equal(await all(at.file, options), expected, name);
});

test('long files: every line, and the tail without reading the rest', async () => {
  await using at = await folder();
  const lines = Array.from({ length: 20_000 }, (_, i) => line(i % 60, `line ${i}`));
  await writeFile(at.file, lines.join(''));
  assert.equal((await all(at.file, {})).split('\n').length, 20_001);
  assert.equal(await all(at.file, { tailLines: 2 }), 'line 19998\nline 19999\n');
  assert.equal((await all(at.file, { tailLines: 5000 })).split('\n')[0], 'line 15000');
});

test('an unfinished last line is shown when the log ends there', async () => {
  await using at = await folder();
  await writeFile(at.file, line(1, 'one') + line(2, 'two').slice(0, -1));
  assert.equal(await all(at.file, {}), 'one\ntwo');
});

test('an absent file is NotFound in the words of a Go program', async () => {
  await assert.rejects(all('/nonexistent/0.log', {}), (error: unknown) => {
    assert.ok(hasCode(error, 'NotFound'));
    assert.equal(
      error.message,
      'failed to try resolving symlinks in path "/nonexistent/0.log": lstat /nonexistent/0.log: no such file or directory',
    );
    return true;
  });
});

/** A follower whose text can be awaited. */
function follow(path: string, options: ReadLogOptions = {}) {
  let running = true;
  let listener: (() => void) | undefined;
  let text = '';
  let wake: (() => void) | undefined;
  const controller = new AbortController();
  const done = (async () => {
    const follow = {
      running: () => running,
      onChange: (l: () => void) => {
        listener = l;
        return {
          [Symbol.dispose]() {
            listener = undefined;
          },
        };
      },
    };
    for await (const chunk of readContainerLog(path, { ...options, follow }, context, controller.signal)) {
      text += chunk.toString();
      wake?.();
    }
  })();
  return {
    done,
    controller,
    text: () => text,
    subscribed: () => listener !== undefined,
    end() {
      running = false;
      listener?.();
    },
    async until(expected: string) {
      while (text !== expected) {
        assert.ok(expected.startsWith(text), `got ${JSON.stringify(text)}`);
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
  };
}

test('following shows lines as they come, and ends with the container and all it wrote', async () => {
  await using at = await folder();
  await writeFile(at.file, line(1, 'one'));
  const f = follow(at.file);
  await f.until('one\n');
  await appendFile(at.file, line(2, 'two').slice(0, 20));
  await appendFile(at.file, line(2, 'two').slice(20));
  await f.until('one\ntwo\n');
  await appendFile(at.file, line(3, 'last'));
  f.end();
  await f.done;
  assert.equal(f.text(), 'one\ntwo\nlast\n');
  assert.equal(f.subscribed(), false);
});

test('following goes on across rotations and loses nothing of the old file', async () => {
  await using at = await folder();
  await writeFile(at.file, line(1, 'one'));
  const f = follow(at.file, { tailLines: 10 });
  await f.until('one\n');
  await rename(at.file, `${at.file}.20260101-000001`);
  await appendFile(`${at.file}.20260101-000001`, line(2, 'late'));
  await f.until('one\nlate\n');
  await writeFile(at.file, line(3, 'new'));
  await f.until('one\nlate\nnew\n');
  // Twice before the reader looks: the file between is read too.
  await appendFile(at.file, line(4, 'a'));
  await rename(at.file, `${at.file}.20260101-000002`);
  await writeFile(at.file, line(5, 'b'));
  await rename(at.file, `${at.file}.20260101-000003`);
  await writeFile(at.file, line(6, 'c'));
  await f.until('one\nlate\nnew\na\nb\nc\n');
  f.end();
  await f.done;
});

test('following waits where a rotation has renamed the log and it is not made anew yet', { timeout: 60_000 }, async () => {
  await using at = await folder();
  await writeFile(at.file, line(0, '0'));
  const f = follow(at.file);
  await f.until('0\n');
  let expected = '0\n';
  let failure: unknown;
  f.done.catch((error: unknown) => {
    failure = error;
  });
  // Two rotations at a time: the reader looks between any two of these steps, and finds its next file renamed as it opens it.
  for (let i = 0; i < 200; i += 2) {
    await rename(at.file, `${at.file}.20260101-${String(i).padStart(6, '0')}`);
    await writeFile(at.file, line(1, String(i)));
    for (let n = 0; n < i % 7; n++) await new Promise((resolve) => setImmediate(resolve));
    await rename(at.file, `${at.file}.20260101-${String(i + 1).padStart(6, '0')}`);
    for (let n = 0; n < i % 11; n++) await new Promise((resolve) => setImmediate(resolve));
    await writeFile(at.file, line(1, String(i + 1)));
    expected += `${i}\n${i + 1}\n`;
    if (i % 20 === 0) {
      await Promise.race([f.until(expected), f.done]);
      // What is read may go: a log has a few files, and each look at the folder takes its time.
      for (const name of await readdir(at.path)) if (name !== basename(at.file)) await rm(join(at.path, name));
    }
    assert.equal(failure, undefined);
  }
  await f.until(expected);
  f.end();
  await f.done;
});

const folderOfPod = '/var/log/pods/ns_p_u/c';
const docker = `/var/lib/docker/containers/${'a'.repeat(64)}/${'a'.repeat(64)}-json.log`;
const whenOpened: [what: string, real: string, path: string, expected: string][] = [
  ['as it was', `${folderOfPod}/0.log`, `${folderOfPod}/0.log`, `${folderOfPod}/0.log`],
  ['rotated meanwhile', `${folderOfPod}/0.log.20260101-000001`, `${folderOfPod}/0.log`, `${folderOfPod}/0.log`],
  ['removed meanwhile', `${folderOfPod}/0.log (deleted)`, `${folderOfPod}/0.log`, `${folderOfPod}/0.log`],
  ['rotated by Docker', `${docker}.1`, `${folderOfPod}/0.log`, docker],
  ['an older file', `${folderOfPod}/0.log.20260101-000001`, `${folderOfPod}/0.log.20260101-000001`, `${folderOfPod}/0.log.20260101-000001`],
  ['elsewhere stays elsewhere', '/etc/0.log.20260101-000001', `${folderOfPod}/0.log`, '/etc/0.log'],
];
for (const [what, real, path, expected] of whenOpened)
  test(`where a log lay when it was opened: ${what}`, () => assert.equal(pathWhenOpened(real, path), expected));

test('following reads a file cut in place from its start, behind the link that cri-dockerd lays', async () => {
  await using at = await folder();
  const id = '0123456789abcdef'.repeat(4);
  const own = join(at.path, 'containers', id, `${id}-json.log`);
  await mkdir(dirname(own), { recursive: true });
  await writeFile(own, line(1, 'a long first line'));
  await symlink(own, at.file);
  const f = follow(at.file);
  await f.until('a long first line\n');
  await truncate(own);
  await appendFile(own, line(2, 'b'));
  await f.until('a long first line\nb\n');
  f.end();
  await f.done;
});

test('what a pod with /var/log puts in the place of a log is not read', { timeout: 10_000 }, async () => {
  await using at = await folder();
  const pod = join(at.path, 'pods', 'ns_p_u', 'c');
  await mkdir(pod, { recursive: true });
  await writeFile(join(pod, '0.log'), line(1, 'good'));
  // Folders above the pod's may be links: an administrator's.
  await symlink(join(at.path, 'pods'), join(at.path, 'linked'));
  assert.equal(await all(join(at.path, 'linked', 'ns_p_u', 'c', '0.log'), {}), 'good\n');
  await symlink('/etc/shadow', join(pod, '1.log'));
  await symlink('2.log', join(pod, '2.log'));
  await symlink('/etc', join(pod, 'etc'));
  execFileSync('mkfifo', [join(pod, '3.log')]);
  for (const [name, says] of [
    ['1.log', /leads to \/etc\/shadow$/],
    ['2.log', /too many levels of symbolic links$/],
    ['etc/shadow', /leads to \/etc\/shadow$/],
    ['3.log', /is no regular file$/],
    ['4.log', /no such file or directory$/],
  ] as const)
    await assert.rejects(all(join(pod, name), { tailLines: 5 }), says);
});

test('following stops when it is no longer wanted', async () => {
  await using at = await folder();
  await writeFile(at.file, line(1, 'one'));
  const f = follow(at.file);
  await f.until('one\n');
  f.controller.abort(new Error('gone'));
  await assert.rejects(f.done, /gone/);
  assert.equal(f.subscribed(), false);
});
