import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, describe, test } from 'node:test';
import { parseMountinfo } from '../../../agent/drivers/mounts/mountinfo.ts';
import { openMounts } from '../../../agent/drivers/mounts/mounts.ts';
import { makeRealFolder, placeOf } from '../../../agent/drivers/mounts/real-path.ts';
import { removeTreeHere } from '../../../agent/drivers/mounts/remove-tree.ts';

const root = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'keelson-real-')));
const at = (...names: string[]): string => path.join(root, ...names);
const { signal } = new AbortController();
const mounts = openMounts();
const isRoot = process.getuid?.() === 0;
after(async () => {
  if (isRoot) await mounts.unmountUnder(root, signal);
  removeTreeHere(root);
});

fs.mkdirSync(at('disk/kubelet'), { recursive: true });
fs.symlinkSync('disk', at('link'));
fs.symlinkSync(at('nowhere'), at('dangling'));
fs.symlinkSync(at('disk/kubelet'), at('disk/last'));

describe('where a folder really is', () => {
  test('it is made, and told without links', async () => {
    assert.equal(await makeRealFolder(at('link/kubelet/new'), 0o750), at('disk/kubelet/new'));
    assert.equal(fs.statSync(at('disk/kubelet/new')).mode & 0o777, 0o750);
    assert.equal(await makeRealFolder(at('link/last'), 0o750), at('disk/kubelet'));
  });

  for (const folder of ['dangling', 'dangling/kubelet'])
    test(`a link to nothing is an error that says so: ${folder}`, () =>
      assert.rejects(makeRealFolder(at(folder), 0o750), {
        code: 'NotFound',
        message: `${at(folder)} is, or lies below, a symbolic link that leads to nothing`,
      }));

  const places: [string, string][] = [
    ['link/kubelet/x', 'disk/kubelet/x'],
    ['link/last', 'disk/last'],
    ['link/last/x', 'disk/kubelet/x'],
    ['link/not/there', 'disk/not/there'],
    ['dangling/x', 'dangling/x'],
    ['link/../link/./x/', 'disk/x'],
  ];
  for (const [given, real] of places)
    test(`the place of ${given}`, async () => {
      assert.equal(await placeOf(`${root}/${given}`), at(real));
    });

  test('the root is where it is', async () => {
    assert.equal(await placeOf('/'), '/');
  });
});

describe('mounts below a link', { skip: !isRoot && 'needs root' }, () => {
  test('are seen, and taken away', async () => {
    fs.mkdirSync(at('disk/kubelet/pods/u/v'), { recursive: true });
    await mounts.mountTmpfs(at('link/kubelet/pods/u/v'), {}, signal);
    assert.equal(await mounts.isMountPoint(at('link/kubelet/pods/u/v')), true);
    assert.deepEqual(
      (await mounts.listUnder(at('link/last/pods'))).map(({ mountPoint }) => mountPoint),
      [at('disk/kubelet/pods/u/v')],
    );
    await mounts.unmountUnder(at('link/kubelet/pods/u'), signal);
    assert.equal(await mounts.isMountPoint(at('link/kubelet/pods/u/v')), false);
  });

  test('whatever they are called: a name need not be text', async () => {
    fs.mkdirSync(at('names'));
    const name = Buffer.concat([Buffer.from(at('names', 'größe \\ \n')), Buffer.from([0xff, 0xfe])]);
    fs.mkdirSync(name);
    execFileSync('sh', ['-c', 'for each in "$1"/*; do mount -t tmpfs none "$each"; done', 'sh', at('names')]);
    const [found] = await mounts.listUnder(at('link/../names'));
    assert.equal(found?.mountPointBytes, name.toString('latin1'));
    await mounts.unmountUnder(at('names'), signal);
    assert.deepEqual(await mounts.listUnder(at('names')), []);
    removeTreeHere(at('names'));
    assert.equal(fs.existsSync(at('names')), false);
  });
});

test('the table of mounts is read as bytes', () => {
  const line = Buffer.concat([
    Buffer.from('36 35 98:0 / /mnt/gr\u00f6\u00dfe\\040x'),
    Buffer.from([0xff]),
    Buffer.from(' rw - ext4 /dev/s rw\n'),
  ]);
  const [entry] = parseMountinfo(line);
  assert.equal(entry?.mountPoint, '/mnt/gr\u00f6\u00dfe x\ufffd');
  assert.equal(Buffer.from(entry?.mountPointBytes ?? '', 'latin1').at(-1), 0xff);
  assert.equal(parseMountinfo('36 35 98:0 / /mnt/gr\u00f6\u00dfe rw - ext4 /dev/s rw')[0]?.mountPoint, '/mnt/gr\u00f6\u00dfe');
});
