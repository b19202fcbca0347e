import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { AgentError, hasCode } from '../../../agent/base/errors.ts';
import { lookAt, lookBeneath, lookWithin, readBytes, readTail, readText } from '../../../agent/drivers/files/look.ts';

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'look-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

const codeOf = async (act: Promise<unknown>): Promise<string> =>
  await act.then(
    () => 'none',
    (error: unknown) => (error instanceof AgentError ? error.code : String(error)),
  );

async function tailBeneath(root: string, relative: string, bytes: number): Promise<string> {
  await using at = await lookBeneath(root, relative);
  await using file = await at.open();
  return (await readTail(file, relative, bytes)).toString('utf8');
}

// A FIFO that is opened for reading holds a thread for ever: the test would time out.
describe('what lies where a text is expected', { timeout: 120_000 }, () => {
  test('a FIFO, a device, a socket, a folder: refused by name, at once, and more often than there are threads for files', async (t) => {
    const folder = folderOf(t);
    execFileSync('mkfifo', [join(folder, 'fifo')]);
    mkdirSync(join(folder, 'folder'));
    const server = createServer().listen(join(folder, 'socket'));
    await new Promise((resolve) => server.once('listening', resolve));
    t.after(() => server.close());
    const table: [string, string, RegExp][] = [
      [folder, 'fifo', /fifo is a FIFO, not a regular file$/],
      ['/dev', 'zero', /zero is a device, not a regular file$/],
      [folder, 'socket', /socket is a socket, not a regular file$/],
      [folder, 'folder', /folder is a directory, not a regular file$/],
    ];
    for (const [root, name, says] of table) {
      const refused = (error: unknown): boolean => hasCode(error, 'NotAFile') && says.test(error.message);
      await Promise.all(Array.from({ length: 10 }, () => assert.rejects(tailBeneath(root, name, 10), refused)));
      await Promise.all(Array.from({ length: 10 }, () => assert.rejects(readText(join(root, name)), refused)));
    }
  });

  test('a place deeper than a path may be long is refused, and nothing is left open: what is left ends the process', async (t) => {
    const folder = folderOf(t);
    const deep = (letter: string): string => Array.from({ length: 12 }, () => letter.repeat(200)).join('/');
    mkdirSync(join(folder, deep('a')), { recursive: true });
    symlinkSync(deep('a'), join(folder, 'hop'));
    mkdirSync(join(folder, 'hop', deep('b')), { recursive: true });
    const before = readdirSync('/proc/self/fd').length;
    for (let i = 0; i < 5; i++) assert.equal(await codeOf(lookWithin(folder, join('hop', deep('b')))), 'ENAMETOOLONG');
    assert.equal(readdirSync('/proc/self/fd').length, before);
  });

  test('links: beneath a root none is followed, nor anything that leads out', async (t) => {
    const folder = folderOf(t);
    mkdirSync(join(folder, 'in'));
    writeFileSync(join(folder, 'in', 'text'), 'inside');
    symlinkSync('/etc/shadow', join(folder, 'shadow'));
    symlinkSync('/etc', join(folder, 'etc'));
    symlinkSync('loop', join(folder, 'loop'));
    symlinkSync('in', join(folder, 'within'));
    assert.equal(await tailBeneath(folder, 'in/text', 100), 'inside');
    assert.equal(await tailBeneath(`${folder}/`, '/in//./text', 3), 'ide');
    for (const path of ['shadow', 'etc/shadow', 'loop', 'within/text'])
      assert.equal(await codeOf(tailBeneath(folder, path, 9)), 'UnexpectedSymlink', path);
    for (const path of ['..', 'in/../../x', '../etc/shadow']) assert.equal(await codeOf(tailBeneath(folder, path, 9)), 'OutsideRoot', path);
    assert.equal(await codeOf(tailBeneath(folder, 'none', 9)), 'NotFound');
    assert.equal(await codeOf(tailBeneath(folder, 'in/text/more', 9)), 'NotADirectory');
    // The root itself may be reached by a link.
    symlinkSync(folder, `${folder}-link`);
    t.after(() => rmSync(`${folder}-link`));
    assert.equal(await tailBeneath(`${folder}-link`, 'in/text', 100), 'inside');
    // Where links count, a loop is told as one.
    assert.equal(await readText(join(folder, 'within', 'text')), 'inside');
    assert.equal(await codeOf(readText(join(folder, 'loop'))), 'UnexpectedSymlink');
  });

  test('a file of 10 GB without a block: its end is read, and the whole is not', async (t) => {
    const folder = folderOf(t);
    const path = join(folder, 'sparse');
    writeFileSync(path, '');
    truncateSync(path, 10 * 2 ** 30);
    {
      await using file = await open(path, 'a');
      await file.write('the end');
    }
    assert.equal(await tailBeneath(folder, 'sparse', 7), 'the end');
    assert.equal(await codeOf(readText(path)), 'TooLarge');
    assert.equal(await codeOf(readBytes(path, 100)), 'TooLarge');
  });

  test('the limit: to the byte, for a file that grows too, and for the kernel’s own files, which have no size', async (t) => {
    const folder = folderOf(t);
    writeFileSync(join(folder, 'ten'), '0123456789');
    assert.equal(await readText(join(folder, 'ten'), 10), '0123456789');
    assert.equal(await codeOf(readText(join(folder, 'ten'), 9)), 'TooLarge');
    assert.match(await readText('/proc/self/status'), /^Name:/);
    assert.equal(await codeOf(readText('/proc/self/status', 100)), 'TooLarge');
  });

  test('what is swapped after the look is not what is read', async (t) => {
    const folder = folderOf(t);
    const path = join(folder, 'f');
    writeFileSync(path, 'looked at');
    await using at = await lookBeneath(folder, 'f');
    assert.equal(await at.realPath(), path);
    execFileSync('mkfifo', [join(folder, 'fifo')]);
    renameSync(join(folder, 'fifo'), path);
    await using file = await at.open();
    assert.equal((await readTail(file, path, 100)).toString(), 'looked at');
    assert.equal(await at.realPath(), `${path} (deleted)`);
    assert.equal(await codeOf(tailBeneath(folder, 'f', 9)), 'NotAFile');
  });

  test('swapped while it is opened, thousands of times: the text, or a refusal, never a wait and never the target of the link', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'look-'));
    const path = join(folder, 'f');
    writeFileSync(join(folder, 'secret'), 'secret');
    const swap = 'until [ -e stop ]; do printf text > t; mv -f t f; mkfifo p; mv -f p f; ln -s secret l; mv -f l f; done';
    const child = spawn('sh', ['-c', swap], { cwd: folder, stdio: 'ignore' });
    const ended = new Promise((resolve) => child.once('close', resolve));
    // In this order also when the time is up: a folder in which files are still made cannot be removed.
    t.after(async () => {
      writeFileSync(join(folder, 'stop'), '');
      await ended;
      rmSync(folder, { recursive: true });
    });
    const seen = new Map<string, number>();
    for (let i = 0; i < 2_000 || (seen.size < 3 && i < 10_000); i++) {
      const told = await tailBeneath(folder, 'f', 100).catch((error: unknown) => (error as AgentError).code);
      assert.ok(['text', '', 'NotAFile', 'UnexpectedSymlink', 'NotFound'].includes(told), `${told} at ${path}`);
      seen.set(told, (seen.get(told) ?? 0) + 1);
    }
    assert.ok(seen.has('NotAFile') && seen.has('UnexpectedSymlink'), JSON.stringify([...seen]));
  });

  test('a folder is listed by what was looked at', async (t) => {
    const folder = folderOf(t);
    mkdirSync(join(folder, 'a'));
    writeFileSync(join(folder, 'a', 'x'), '');
    await using at = await lookAt(join(folder, 'a'));
    renameSync(join(folder, 'a'), join(folder, 'b'));
    symlinkSync('/etc', join(folder, 'a'));
    assert.deepEqual(
      (await at.list()).map((e) => e.name),
      ['x'],
    );
    assert.equal(await at.realPath(), join(folder, 'b'));
  });
});
