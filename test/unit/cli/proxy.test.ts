import assert from 'node:assert/strict';
import { lstat, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { proxy } from '../../../agent/cli/proxy.ts';

const never = new AbortController().signal;

test('--write-config-to writes through a link, as /dev/stdout is one', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'proxy-'));
  t.after(() => rm(folder, { recursive: true }));
  const [file, link] = [join(folder, 'file'), join(folder, 'link')];
  await writeFile(file, 'x'.repeat(100_000));
  await symlink(file, link);
  assert.equal(await proxy(['--write-config-to', link], never), 0);
  assert.equal((await lstat(link)).isSymbolicLink(), true);
  assert.equal(JSON.parse(await readFile(file, 'utf8')).kind, 'KubeProxyConfiguration');
});

test('a mode that is not there is told at once, without an API server and before anything is set', async () => {
  assert.equal(await proxy(['--proxy-mode=ipvs', '--master=http://127.0.0.1:1'], never), 1);
});
