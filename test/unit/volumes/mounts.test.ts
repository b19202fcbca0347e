import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, describe, test } from 'node:test';
import { hasCode } from '../../../agent/base/errors.ts';
import { canHang, mountHolding, mountsUnder, parseMountinfo, type RealPath } from '../../../agent/drivers/mounts/mountinfo.ts';
import { openMounts } from '../../../agent/drivers/mounts/mounts.ts';

const table = parseMountinfo(
  [
    '27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard',
    '28 27 0:25 / /var/lib/kubelet/pods/u1/volumes/kubernetes.io~secret/a rw,relatime shared:12 master:3 - tmpfs tmpfs rw,size=4k',
    '29 28 0:26 /sub\\040dir /var/lib/kubelet/pods/u1/volumes/kubernetes.io~secret/a/x\\134y rw - nfs4 server:/export rw,vers=4.2',
    'garbage',
    '',
  ].join('\n'),
);

describe('mountinfo', () => {
  test('fields, escapes and optional fields', () => {
    assert.equal(table.length, 3);
    assert.deepEqual(table[1]?.propagation, ['shared:12', 'master:3']);
    assert.equal(table[2]?.root, '/sub dir');
    assert.equal(table[2]?.mountPoint, '/var/lib/kubelet/pods/u1/volumes/kubernetes.io~secret/a/x\\y');
    assert.equal(table[2]?.source, 'server:/export');
  });
  test('mounts under a path, in order of unmounting', () => {
    assert.deepEqual(
      mountsUnder(table, '/var/lib/kubelet/pods/u1' as RealPath).map((m) => m.mountId),
      [29, 28],
    );
    assert.deepEqual(mountsUnder(table, '/var/lib/kubelet/pods/u' as RealPath), []);
  });
  test('the mount that holds a path, and whether it can hang', () => {
    const at = mountHolding(table, '/var/lib/kubelet/pods/u1/volumes/kubernetes.io~secret/a/x\\y/z' as RealPath);
    assert.equal(at?.mountId, 29);
    assert.equal(at !== undefined && canHang(at), true);
    assert.equal(mountHolding(table, '/var' as RealPath)?.mountId, 27);
  });
});

describe('mounts on the kernel', { skip: process.getuid?.() !== 0 && 'needs root' }, () => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'keelson-mounts-'));
  const signal = new AbortController().signal;
  after(async () => {
    const mounts = openMounts();
    for (const entry of await mounts.listUnder(dir)) await mounts.unmount(entry.mountPoint, { lazy: true }, signal);
    fs.rmSync(dir, { recursive: true });
  });
  const make = (name: string): string => {
    const at = path.join(dir, name);
    fs.mkdirSync(at, { recursive: true });
    return at;
  };

  for (const alwaysInChild of [false, true]) {
    const where = alwaysInChild ? 'in a child' : 'in process';
    const mounts = openMounts({ alwaysInChild });

    test(`tmpfs: once, with its size, and unmounted twice (${where})`, async () => {
      const at = make(`tmpfs-${alwaysInChild}`);
      await mounts.mountTmpfs(at, { sizeBytes: 1 << 20, noswap: true }, signal);
      await mounts.mountTmpfs(at, { sizeBytes: 1 << 20 }, signal);
      assert.equal(await mounts.isMountPoint(at), true);
      assert.equal((await mounts.listUnder(at)).length, 1);
      assert.equal(fs.statfsSync(at).blocks * fs.statfsSync(at).bsize, 1 << 20);
      await mounts.unmount(at, {}, signal);
      await mounts.unmount(at, {}, signal);
      await mounts.unmount(path.join(at, 'absent'), {}, signal);
      assert.equal(await mounts.isMountPoint(at), false);
    });

    test(`a busy mount says Busy, and goes when lazy (${where})`, async () => {
      const at = make(`busy-${alwaysInChild}`);
      await mounts.mountTmpfs(at, {}, signal);
      const fd = fs.openSync(path.join(at, 'open'), 'w');
      await assert.rejects(mounts.unmount(at, {}, signal), (e) => hasCode(e, 'Busy'));
      await mounts.unmount(at, { lazy: true }, signal);
      assert.equal(await mounts.isMountPoint(at), false);
      fs.closeSync(fd);
    });

    // A process each: the rest needs no second look.
    if (alwaysInChild) continue;

    test(`subPath: directories, files and inner links are bound; what leads out is refused (${where})`, async () => {
      const base = make(`sub-${alwaysInChild}/vol`);
      const outside = make(`sub-${alwaysInChild}/outside`);
      const target = (n: number): string => path.join(dir, `sub-${alwaysInChild}`, 'binds', `${n}`);
      fs.writeFileSync(path.join(base, 'file'), 'f');
      fs.chmodSync(base, 0o2775);
      fs.symlinkSync('a', path.join(base, 'inner'));
      fs.symlinkSync(outside, path.join(base, 'evil'));
      fs.symlinkSync('../outside', path.join(base, 'evil2'));
      await mounts.makeSubPathDirectory(base, 'a/b/c', signal);
      assert.equal(fs.statSync(path.join(base, 'a/b')).mode & 0o7777, 0o2775);
      await mounts.bindSubPath(base, 'inner/b', target(0), signal);
      await mounts.bindSubPath(base, 'inner/b', target(0), signal);
      assert.equal((await mounts.listUnder(target(0))).length, 1);
      fs.writeFileSync(path.join(target(0), 'seen'), 'x');
      assert.equal(fs.readFileSync(path.join(base, 'a/b/seen'), 'utf8'), 'x');
      await mounts.bindSubPath(base, 'file', target(1), signal);
      assert.equal(fs.readFileSync(target(1), 'utf8'), 'f');
      for (const evil of ['evil', 'evil2', '../outside', 'evil/x'])
        await assert.rejects(mounts.bindSubPath(base, evil, target(2), signal), (e) => hasCode(e, 'OutsideVolume', 'NotFound'));
      for (const evil of ['evil/new', 'evil2/new/x', '../outside/new'])
        await assert.rejects(mounts.makeSubPathDirectory(base, evil, signal), (e) => hasCode(e, 'OutsideVolume'));
      assert.deepEqual(fs.readdirSync(outside), []);
      for (const n of [0, 1]) await mounts.unmount(target(n), {}, signal);
    });

    test(`mount points are made beneath a volume, over no link (${where})`, async () => {
      const base = fs.mkdtempSync(path.join(dir, 'points-'));
      const outside = fs.mkdtempSync(path.join(dir, 'elsewhere-'));
      fs.mkdirSync(path.join(base, 'there'), { mode: 0o700 });
      fs.writeFileSync(path.join(base, 'file'), 'kept');
      fs.symlinkSync(outside, path.join(base, 'link'));
      fs.symlinkSync(path.join(outside, 'dangling'), path.join(base, 'last'));
      const make = (at: string, directory: boolean) => mounts.makeMountPoint(base, at, directory, signal);
      await make('a/b', true);
      await make('a/c.conf', false);
      await make('a/c.conf', false);
      assert.deepEqual(
        ['a', 'a/b', 'a/c.conf'].map((at) => (fs.statSync(path.join(base, at)).mode & 0o170777).toString(8)),
        ['40755', '40755', '100644'],
      );
      await make('there', true);
      assert.equal(fs.statSync(path.join(base, 'there')).mode & 0o777, 0o700);
      // What is in the way is the runtime's to judge.
      for (const [at, directory] of [
        ['file', true],
        ['file', false],
        ['file/x', true],
        ['there', false],
        ['link/x', true],
        ['link/x', false],
        ['last', true],
        ['last', false],
      ] as const)
        await make(at, directory);
      assert.equal(fs.readFileSync(path.join(base, 'file'), 'utf8'), 'kept');
      assert.deepEqual(fs.readdirSync(outside), []);
      for (const evil of ['../x', 'a/../../x', '', '/x']) await assert.rejects(make(evil, true), (e) => hasCode(e, 'OutsideVolume'));
    });

    test(`file types (${where})`, async () => {
      assert.equal(await mounts.fileType('/dev/null', signal), 'CharDevice');
      assert.equal(await mounts.fileType('/proc', signal), 'Directory');
      assert.equal(await mounts.fileType(path.join(dir, 'none'), signal), undefined);
    });
  }

  test('a hanging child ends with its signal', async () => {
    const mounts = openMounts({ alwaysInChild: true, childCommand: ['sleep', '60', '#'] });
    const hanging = openMounts({ alwaysInChild: true, childCommand: ['sh', '-c', 'exec sleep 60'] });
    await assert.rejects(mounts.fileType('/', signal), (e) => hasCode(e, 'Internal'));
    const controller = new AbortController();
    const asked = hanging.fileType('/', controller.signal);
    setTimeout(() => controller.abort(new Error('too long')), 50);
    await assert.rejects(asked, /too long/);
  });
});
