import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, describe, test } from 'node:test';
import { AgentError } from '../../../agent/base/errors.ts';
import { operations } from '../../../agent/drivers/mounts/operations.ts';
import { writeFiles } from '../../../agent/drivers/mounts/volume-disk.ts';

const root = fs.mkdtempSync(path.join(os.tmpdir(), 'keelson-disk-'));
after(() => fs.rmSync(root, { recursive: true }));
const make = (name: string): string => {
  const at = path.join(root, name);
  fs.mkdirSync(at, { recursive: true });
  return at;
};
const file = (text: string) => ({ data: Buffer.from(text), mode: 0o644 });
const readInside = (base: string, path: string, mostBytes: number): Promise<string> => operations.readInside({ base, path, mostBytes });
const stamped = (dir: string): string[] => fs.readdirSync(dir).filter((name) => /^\.\.\d/.test(name));

describe('content that is written in one step', () => {
  test('a write that fails leaves nothing behind, and what was there', () => {
    const dir = make('fails');
    writeFiles(dir, new Map([['a', file('1')]]), undefined, 0);
    const clash = new Map([
      ['a', file('2')],
      ['a/b', file('2')],
    ]);
    for (let i = 0; i < 3; i++) assert.throws(() => writeFiles(dir, clash, undefined, 0));
    assert.equal(stamped(dir).length, 1);
    assert.equal(fs.readFileSync(path.join(dir, 'a'), 'utf8'), '1');
  });

  test('content that a crash of the machine has taken is written anew', () => {
    const dir = make('dangling');
    writeFiles(dir, new Map([['a', file('1')]]), undefined, 0);
    for (const name of stamped(dir)) fs.rmSync(path.join(dir, name), { recursive: true });
    assert.equal(writeFiles(dir, new Map([['a', file('1')]]), undefined, 0), true);
    assert.equal(fs.readFileSync(path.join(dir, 'a'), 'utf8'), '1');
  });
});

describe('files that pods write', () => {
  test('links count inside the volume, and no further', async () => {
    const outside = make('outside');
    fs.writeFileSync(path.join(outside, 'f'), 'secret');
    const dir = make('inside/sub');
    fs.writeFileSync(path.join(dir, 'f'), 'text');
    const base = path.join(root, 'inside');
    fs.symlinkSync('sub', path.join(base, 'link'));
    fs.symlinkSync(outside, path.join(base, 'out'));
    assert.equal(await readInside(base, 'link/f', 100), 'text');
    await assert.rejects(readInside(base, 'out/f', 100), { code: 'OutsideVolume' });
    await assert.rejects(readInside(base, '../outside/f', 100), { code: 'OutsideVolume' });
    await assert.rejects(readInside(base, 'none', 100), { code: 'NotFound' });
    await assert.rejects(readInside(base, 'sub', 100), { code: 'InvalidArgument' });
    await assert.rejects(readInside(base, 'sub/f', 3), { code: 'InvalidArgument' });
  });

  test('a folder that becomes a link while it is looked at leads nowhere', async () => {
    const outside = make('target');
    fs.writeFileSync(path.join(outside, 'f'), 'secret');
    const base = make('swapped');
    make('swapped/d');
    fs.writeFileSync(path.join(base, 'd/f'), 'text');
    fs.symlinkSync(outside, path.join(base, 'l'));
    // A container that swaps as fast as it can.
    const script = `const fs = require('node:fs');
      const b = process.argv[1];
      fs.writeSync(1, 'on');
      for (;;) {
        fs.renameSync(b + '/d', b + '/x'); fs.renameSync(b + '/l', b + '/d');
        fs.renameSync(b + '/d', b + '/l'); fs.renameSync(b + '/x', b + '/d');
      }`;
    const attacker = spawn(process.execPath, ['-e', script, base], { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(attacker.stdout, 'data');
    const read = new Set<string>();
    const errors = new Set<string>();
    try {
      for (let i = 0; i < 5000; i++) {
        try {
          read.add(await readInside(base, 'd/f', 100));
        } catch (error) {
          errors.add(error instanceof AgentError ? error.code : String(error));
        }
      }
    } finally {
      attacker.kill('SIGKILL');
      await once(attacker, 'close');
    }
    assert.deepEqual([...read], ['text']);
    // realpath(3) itself meets a folder where a link was.
    const expected = ['NotFound', 'OutsideVolume', 'UnexpectedSymlink', 'NotADirectory', 'InvalidArgument'];
    assert.deepEqual(
      [...errors].filter((code) => !expected.includes(code)),
      [],
    );
  });
});
