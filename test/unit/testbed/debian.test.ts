import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { makeOnce, parseAptSource, run, withLock } from '../../testbed/images-debian.ts';

const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg';

const aptSources: { name: string; texts: string[]; source: { base: string; signedBy: string } | undefined }[] = [
  {
    name: 'deb822: the archive, not the security one',
    texts: [
      `Types: deb\nURIs: http://deb.debian.org/debian-security\nSuites: bookworm-security\n\nTypes: deb\n# a comment\nURIs: http://mirror/debian/\nSuites: bookworm\nSigned-By: /k.gpg\n`,
    ],
    source: { base: 'http://mirror/debian', signedBy: '/k.gpg' },
  },
  {
    name: 'one line',
    texts: ['# deb http://no/debian x main\ndeb http://mirror/debian bookworm main\n'],
    source: { base: 'http://mirror/debian', signedBy: keyring },
  },
  {
    name: 'one line with options',
    texts: ['deb [arch=amd64 signed-by=/k.gpg] https://mirror/debian bookworm main\n'],
    source: { base: 'https://mirror/debian', signedBy: '/k.gpg' },
  },
  {
    name: 'a disabled stanza is passed over',
    texts: ['Enabled: no\nTypes: deb\nURIs: http://off/debian\n', 'Types: deb\nURIs: http://on/debian\n'],
    source: { base: 'http://on/debian', signedBy: keyring },
  },
  { name: 'other vendors only', texts: ['deb https://packages.example/apt stable main\n'], source: undefined },
];

for (const { name, texts, source } of aptSources) test(`apt source: ${name}`, () => assert.deepEqual(parseAptSource(texts), source));

const inFolder = async (work: (folder: string) => Promise<void>): Promise<void> => {
  const folder = await mkdtemp(join(tmpdir(), 'keelson-testbed-'));
  try {
    await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

test('makeOnce: several at once make it once, and all see it whole', () =>
  inFolder(async (folder) => {
    let made = 0;
    const target = join(folder, 'thing');
    const build = async (into: string): Promise<void> => {
      made += 1;
      await writeFile(join(into, 'file'), 'whole');
    };
    await Promise.all([1, 2, 3].map(() => makeOnce(target, build)));
    await makeOnce(target, build);
    assert.equal(made, 1);
    assert.equal(await readFile(join(target, 'file'), 'utf8'), 'whole');
  }));

test('makeOnce: a failed build leaves nothing and may be tried again', () =>
  inFolder(async (folder) => {
    const target = join(folder, 'thing');
    await assert.rejects(
      makeOnce(target, async (into) => {
        await writeFile(join(into, 'file'), 'half');
        throw new Error('disk full');
      }),
      /disk full/,
    );
    assert.equal(existsSync(target), false);
    assert.deepEqual(await readdir(folder), ['thing.lock']);
    await makeOnce(target, async () => {});
    assert.equal(existsSync(target), true);
  }));

test('withLock: lets go when the work throws', () =>
  inFolder(async (folder) => {
    const file = join(folder, 'lock');
    await assert.rejects(
      withLock(file, async () => {
        throw new Error('no');
      }),
      /no/,
    );
    assert.equal(await withLock(file, async () => 'got it'), 'got it');
  }));

test('run: a failure names the command and its words', () =>
  assert.rejects(run('sh', ['-c', 'echo broken >&2; exit 3']), /sh -c .* ended with exit code 3: broken/));
