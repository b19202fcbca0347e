import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, describe, test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError, hasCode } from '../../../agent/base/errors.ts';
import { openMounts } from '../../../agent/drivers/mounts/mounts.ts';
import { removeFolder, removePodFolder, removeVolumes } from '../../../agent/drivers/mounts/pod-folder.ts';
import { createRemoveTree } from '../../../agent/drivers/mounts/removals.ts';
import { removeTreeHere } from '../../../agent/drivers/mounts/remove-tree.ts';

const root = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'keelson-remove-')));
const { signal } = new AbortController();
const mounts = openMounts();
const isRoot = process.getuid?.() === 0;

after(async () => {
  if (isRoot) await mounts.unmountUnder(root, signal);
  removeTreeHere(root);
  assert.equal(fs.existsSync(root), false);
});

let made = 0;
const place = (): string => path.join(root, `t${made++}`);

/** Folders end with `/`, links have `->`. */
function plant(at: string, ...entries: string[]): string {
  fs.mkdirSync(at, { recursive: true });
  for (const entry of entries) {
    const [name = '', target] = entry.split('->');
    const full = path.join(at, name);
    fs.mkdirSync(path.dirname(full), { recursive: true });
    if (target !== undefined) fs.symlinkSync(target, full);
    else if (name.endsWith('/')) fs.mkdirSync(full, { recursive: true });
    else fs.writeFileSync(full, name);
  }
  return at;
}

/** A chain of `depth` folders, each with a file: deeper than a path may be long. */
function plantDeep(at: string, depth: number, name: string): void {
  fs.mkdirSync(at);
  let fd = fs.openSync(at, fs.constants.O_DIRECTORY);
  for (let n = 0; n < depth; n++) {
    fs.mkdirSync(`/proc/self/fd/${fd}/${name}`);
    fs.writeFileSync(`/proc/self/fd/${fd}/file`, '');
    const next = fs.openSync(`/proc/self/fd/${fd}/${name}`, fs.constants.O_DIRECTORY);
    fs.closeSync(fd);
    fd = next;
  }
  fs.closeSync(fd);
}

const openDescriptors = (): number => fs.readdirSync('/proc/self/fd').length;

describe('a tree is removed', () => {
  test('with links that are not followed, odd names, and special files', () => {
    const outside = plant(place(), 'precious', 'folder/precious');
    const at = plant(
      place(),
      'a/b/c/file',
      'a/empty/',
      `link->${outside}`,
      `a/b/folder->${outside}/folder`,
      'dangling->nowhere',
      'new\nline',
      ' ',
      'größe/日本',
    );
    for (const name of [[0xff, 0xfe], [0xc3], [0x80, 0x2e, 0x2e]]) {
      const folder = Buffer.concat([Buffer.from(`${at}/`), Buffer.from(name)]);
      fs.mkdirSync(folder);
      fs.writeFileSync(Buffer.concat([folder, Buffer.from('/'), Buffer.from(name)]), '');
    }
    const before = openDescriptors();
    assert.equal(removeTreeHere(at), true);
    assert.equal(fs.existsSync(at), false);
    assert.equal(openDescriptors(), before);
    assert.deepEqual(fs.readdirSync(outside, { recursive: true }).sort(), ['folder', 'folder/precious', 'precious']);
  });

  test('absence is success; a file, a link and a folder below a link are what they are', () => {
    const target = plant(place(), 'in/file');
    const top = plant(place(), `link->${target}`, 'file');
    for (const absent of ['none', 'none/deeper', 'file/below']) assert.equal(removeTreeHere(path.join(top, absent)), true);
    removeTreeHere(path.join(top, 'link', 'in'));
    assert.deepEqual(fs.readdirSync(target), []);
    removeTreeHere(path.join(top, 'link'));
    removeTreeHere(path.join(top, 'file'));
    assert.deepEqual([fs.readdirSync(top), fs.existsSync(target)], [[], true]);
    assert.throws(() => removeTreeHere('/'), { code: 'InvalidArgument' });
  });

  test('the top stays when asked so; files stay where only folders were to be', () => {
    const at = plant(place(), 'a/b/', 'c');
    removeTreeHere(at, { keepTop: true });
    assert.deepEqual(fs.readdirSync(at), []);
    removeTreeHere(at, { keepTop: true });
    plant(at, 'a/b/', 'a/c/file', 'd/e/f/');
    assert.throws(() => removeTreeHere(at, { foldersOnly: true }), {
      code: 'NotEmpty',
      message: new RegExp(`cannot remove ${at}/a/c/file: it is a file`),
    });
    assert.deepEqual(fs.readdirSync(at, { recursive: true }).sort(), ['a', 'a/c', 'a/c/file']);
    fs.rmSync(path.join(at, 'a/c/file'));
    removeTreeHere(at, { foldersOnly: true });
    assert.equal(fs.existsSync(at), false);
  });

  test('5,000 folders deep, in names of 200 characters, with few descriptors', () => {
    const at = place();
    plantDeep(at, 5_000, 'x'.repeat(200));
    let most = 0;
    removeTreeHere(at, { progress: () => (most = Math.max(most, openDescriptors())) });
    assert.equal(fs.existsSync(at), false);
    assert.ok(most > 0 && most < 200, `${most} descriptors`);
  });

  test('wide and deep: folders that were let go of are found again', () => {
    const at = place();
    const chain = Array.from({ length: 150 }, () => 'd').join('/');
    plant(at);
    for (let n = 0; n < 10; n++)
      plant(at, `${n}/${chain}/file`, `${n}/${Array.from({ length: 70 }, () => 'd').join('/')}/side/${chain}/file`);
    for (let n = 0; n < 2_000; n++) fs.writeFileSync(path.join(at, `file-${n}`), '');
    removeTreeHere(at);
    assert.equal(fs.existsSync(at), false);
  });

  test('a budget ends it, and the next go ends the rest', () => {
    const at = plant(place());
    for (let n = 0; n < 50; n++) fs.writeFileSync(path.join(at, `${n}`), 'x'.repeat(100));
    assert.equal(removeTreeHere(at, { budget: { entries: 20, bytes: 1 << 20 } }), false);
    assert.equal(fs.readdirSync(at).length, 31);
    assert.equal(removeTreeHere(at, { budget: { entries: 1000, bytes: 1000 } }), false);
    assert.equal(fs.readdirSync(at).length, 21);
    assert.equal(removeTreeHere(at, { budget: { entries: 1000, bytes: 10_000 } }), true);
    assert.equal(fs.existsSync(at), false);
  });

  test('what cannot be removed is named, and the rest goes', { skip: !isRoot && 'needs root' }, async () => {
    const theirs = plant(place(), 'precious');
    const at = plant(place(), 'a/1', 'a/mnt/', 'b/2', 'b/file');
    await mounts.bindMount(theirs, path.join(at, 'a/mnt'), {}, signal);
    await mounts.bindMount(path.join(theirs, 'precious'), path.join(at, 'b/file'), {}, signal);
    assert.throws(
      () => removeTreeHere(at),
      (error) =>
        hasCode(error, 'Busy') &&
        /cannot remove .*\/(a\/mnt|b\/file): it is in use: something is mounted there \(and 1 more\)/.test(error.message),
    );
    assert.deepEqual(fs.readdirSync(at, { recursive: true }).sort(), ['a', 'a/mnt', 'a/mnt/precious', 'b', 'b/file']);
    assert.throws(() => removeTreeHere(path.join(at, 'a/mnt')), { code: 'Busy' });
    assert.throws(() => removeTreeHere(path.join(at, 'a/mnt'), { keepTop: true }), { code: 'Busy' });
    assert.deepEqual(fs.readdirSync(theirs), ['precious']);
    await mounts.unmountUnder(at, signal);
    removeTreeHere(at);
    assert.deepEqual([fs.existsSync(at), fs.readFileSync(path.join(theirs, 'precious'), 'utf8')], [false, 'precious']);
  });
});

test('a deep tree spends a budget as a wide one does', () => {
  const at = place();
  plantDeep(at, 1_000, 'x'.repeat(200));
  const before = systemClock.mono();
  assert.equal(removeTreeHere(at, { budget: { entries: 100, bytes: 1 << 20 } }), false);
  const first = systemClock.mono() - before;
  assert.equal(removeTreeHere(at), true);
  const rest = systemClock.mono() - before - first;
  assert.ok(first < rest / 2, `${first} ms of ${rest} ms`);
});

describe('no mount is ever entered', { skip: !isRoot && 'needs root' }, () => {
  // Seeded: a failure can be played again.
  const random = (seed: number) => (): number => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    return seed / 2 ** 31;
  };

  for (let seed = 1; seed <= 12; seed++) {
    test(`trees with bind mounts and file systems anywhere, seed ${seed}`, async () => {
      const next = random(seed);
      const theirs = place();
      for (let n = 0; n < 5; n++) plant(theirs, `${n}/data`, `${n}/deep/er/data`);
      const at = plant(place());
      const folders = [at];
      for (let n = 0; n < 60; n++) {
        const parent = folders[Math.floor(next() * folders.length)] ?? at;
        const name = path.join(parent, `${n}`);
        if (next() < 0.6) {
          fs.mkdirSync(name);
          folders.push(name);
        } else fs.writeFileSync(name, 'own');
      }
      const points: string[] = [];
      for (let n = 0; n < 5; n++) {
        const free = folders
          .slice(1)
          .filter((each) => !points.some((point) => each === point || each.startsWith(`${point}/`) || point.startsWith(`${each}/`)));
        const point = free[Math.floor(next() * free.length)];
        if (point === undefined) break;
        if (next() < 0.3) await mounts.mountTmpfs(point, {}, signal);
        else await mounts.bindMount(path.join(theirs, `${n}`), point, {}, signal);
        fs.writeFileSync(path.join(point, 'mine'), 'theirs');
        points.push(point);
      }
      const before = points.map((point) => fs.readdirSync(point, { recursive: true }).sort());
      // Through a link too, as a root directory behind one.
      const link = `${at}-link`;
      fs.symlinkSync(path.dirname(at), link);
      assert.throws(() => removeTreeHere(path.join(link, path.basename(at))), { code: 'Busy' });
      assert.deepEqual(
        points.map((point) => fs.readdirSync(point, { recursive: true }).sort()),
        before,
      );
      const kept = fs.readdirSync(at, { recursive: true, encoding: 'utf8' }).map((name) => path.join(at, name));
      const strange = kept.filter(
        (name) => !points.some((point) => name === point || name.startsWith(`${point}/`) || point.startsWith(`${name}/`)),
      );
      assert.deepEqual(strange, []);
      assert.equal((await mounts.listUnder(path.join(link, path.basename(at)))).length, points.length);
      await mounts.unmountUnder(path.join(link, path.basename(at)), signal);
      removeTreeHere(at);
      fs.rmSync(link);
    });
  }
});

describe('a large tree is removed by a child', () => {
  const many = (count: number): string => {
    const at = plant(place());
    for (let n = 0; n < count; n++) fs.writeFileSync(path.join(at, `${n}`), '');
    return at;
  };

  test('which tells how far it is', async () => {
    const at = many(3_000);
    const told: number[] = [];
    await mounts.removeTree(at, { progress: (removed) => void told.push(removed) }, signal);
    assert.equal(fs.existsSync(at), false);
    // 100 went at once.
    assert.deepEqual(told, [1_000, 2_000]);
  });

  test('which may die or not start: the next one goes on', async () => {
    const at = many(1_000);
    for (const [childCommand, why] of [
      [['/nowhere/node'], /cannot start the mount helper/],
      [['sh', '-c', 'kill -9 $$'], /the mount helper ended with SIGKILL during removeTree/],
      [['sh', '-c', 'echo \'{"removed":1}\''], /the mount helper ended with 0 during removeTree/],
    ] as const) {
      await assert.rejects(
        openMounts({ childCommand }).removeTree(at, {}, signal),
        (error) => hasCode(error, 'Internal') && why.test(error.message),
      );
    }
    assert.equal(fs.existsSync(at), true);
    await mounts.removeTree(at, {}, signal);
    assert.equal(fs.existsSync(at), false);
  });

  test('which is killed with its signal, and says why something stays', async () => {
    const at = many(1_000);
    const controller = new AbortController();
    const stuck = openMounts({ childCommand: ['sh', '-c', 'exec sleep 60'] }).removeTree(at, {}, controller.signal);
    setTimeout(() => controller.abort(new Error('too long')), 50);
    await assert.rejects(stuck, /too long/);
    await assert.rejects(
      mounts.removeTree(at, { foldersOnly: true }, signal),
      (error) => hasCode(error, 'NotEmpty') && error.message.includes(' more)'),
    );
  });

  test('which ends when the agent is gone', async () => {
    const at = many(6_000);
    const child = path.resolve(import.meta.dirname, '../../../agent/drivers/mounts/child.ts');
    const parent = spawn('sh', ['-c', '"$@" $$ & wait', 'sh', process.execPath, child, 'removeTree', JSON.stringify({ path: at })], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let out = '';
    for await (const chunk of parent.stdout) {
      out += chunk;
      parent.kill('SIGKILL');
    }
    assert.match(out, /\{"code":"Canceled","message":"the agent that asked for it is gone"\}\n$/);
    assert.ok(fs.readdirSync(at).length > 0);
    // One that has gone while the child started: nothing is removed at all.
    const orphan = spawnSync(process.execPath, [child, 'removeTree', JSON.stringify({ path: at }), '1'], { encoding: 'utf8' });
    assert.equal(orphan.stdout, '{"code":"Canceled","message":"the agent that asked for it is gone"}\n');
    await mounts.removeTree(at, {}, signal);
  });

  test('two at a time, in the order of asking; who gives up leaves the line', async () => {
    const started: string[] = [];
    const ends = new Map<string, () => void>();
    const remove = createRemoveTree((target) => {
      started.push(target);
      return new Promise((resolve) => void ends.set(target, resolve));
    }, true);
    const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
    const controller = new AbortController();
    const all = ['a', 'b'].map((each) => remove(each, {}, signal));
    const givenUp = remove('c', {}, controller.signal);
    all.push(...['d', 'e'].map((each) => remove(each, {}, signal)));
    await turn();
    assert.deepEqual(started, ['a', 'b']);
    controller.abort(new AgentError('Canceled', 'enough'));
    await assert.rejects(givenUp, (error) => hasCode(error, 'Canceled'));
    ends.get('a')?.();
    ends.get('b')?.();
    await turn();
    assert.deepEqual(started, ['a', 'b', 'd', 'e']);
    for (const end of ends.values()) end();
    await Promise.all(all);
  });
});

describe("a pod's folder", { skip: !isRoot && 'needs root' }, () => {
  const own = new Set(['kubernetes.io~empty-dir', 'kubernetes.io~secret']);
  const remover = { mounts, clock: systemClock };

  test("own volumes go with what is in them, others' only when they are empty", async () => {
    const at = plant(
      place(),
      'volumes/kubernetes.io~empty-dir/e/left/by/pod',
      'volumes/kubernetes.io~secret/s/..data/key',
      'volumes/kubernetes.io~csi/taken/vol_data.json',
      'volumes/kubernetes.io~csi/taken/mount/',
      'volumes/kubernetes.io~nfs/share/',
      'volume-subpaths/e/c/0',
      'volume-subpaths/e/c/1/',
      'plugins/kubernetes.io~empty-dir/e/ready',
      'containers/c/abcd',
    );
    await removeVolumes(at, own, remover, signal);
    assert.deepEqual(fs.readdirSync(at), ['containers']);
    await removeVolumes(at, own, remover, signal);
    await removePodFolder(at, remover, signal);
    await removePodFolder(at, remover, signal);
    assert.equal(fs.existsSync(at), false);
  });

  for (const [what, file, message] of [
    [
      'data behind a CSI volume',
      'volumes/kubernetes.io~csi/v/mount/data',
      /volume v of kubernetes.io~csi is not mounted, and has something in it/,
    ],
    ['a file of a CSI volume', 'volumes/kubernetes.io~csi/v/data', /volume v of kubernetes.io~csi is not mounted/],
    ['data of an NFS volume', 'volumes/kubernetes.io~nfs/v/deep/data', /volume v of kubernetes.io~nfs is not mounted/],
    ['a file among volumes', 'volumes/data', /cannot remove .*\/volumes\/data: it is a file/],
    ['data below a subPath', 'volume-subpaths/v/c/0/data', /volume-subpaths.*ENOTEMPTY/],
  ] as const) {
    test(`${what} is nobody's to remove`, async () => {
      const at = plant(place(), file);
      await assert.rejects(removeVolumes(at, own, remover, signal), (error) => hasCode(error, 'NotEmpty') && message.test(error.message));
      await assert.rejects(removePodFolder(at, remover, signal), (error) => hasCode(error, 'NotEmpty'));
      assert.equal(fs.readFileSync(path.join(at, file), 'utf8'), file);
    });
  }

  test('one go has an end, and tells how far it came', async () => {
    const clock = { ...systemClock, deadline: (outer: AbortSignal) => systemClock.deadline(outer, 50) };
    const slow = {
      removeTree: (_: string, { progress }: { progress?: ((n: number) => void) | undefined }, own: AbortSignal) => {
        progress?.(7_000);
        return new Promise<void>((_resolve, reject) => own.addEventListener('abort', () => reject(own.reason)));
      },
      listUnder: async () => [],
    };
    await assert.rejects(removeFolder('/x', { mounts: slow, clock }, signal), {
      code: 'DeadlineExceeded',
      message: 'removing /x takes longer than 60 s: some 7000 files and folders are gone since, and it goes on',
    });
  });
});
