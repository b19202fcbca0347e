import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { AgentError } from '../../../agent/base/errors.ts';
import { checkPlugins, dockerConfigPaths, firstReadable, readProviderConfigFiles } from '../../../agent/drivers/images/credential-files.ts';
import { createRunPlugin } from '../../../agent/drivers/images/plugin.ts';
import { openRecordFiles } from '../../../agent/drivers/images/record-files.ts';
import { parseDockerConfigJson } from '../../../agent/images/credentials.ts';

const never = new AbortController().signal;
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'drivers-images-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

function script(name: string, body: string): void {
  writeFileSync(join(folder, name), `#!/bin/sh\n${body}\n`);
  chmodSync(join(folder, name), 0o755);
}

test('record files are private, whole, and only those of the records are listed', async () => {
  const files = await openRecordFiles(folder);
  await files.write('pulled', 'sha256-a', 'text');
  const home = join(folder, 'image_manager/pulled');
  writeFileSync(join(home, 'sha256-b.tmp'), 'half');
  writeFileSync(join(home, 'notes'), 'x');
  mkdirSync(join(home, 'sha256-folder'));
  assert.deepEqual(await files.list('pulled'), ['sha256-a']);
  assert.equal(await files.read('pulled', 'sha256-a'), 'text');
  assert.equal(await files.read('pulled', 'sha256-none'), undefined);
  assert.equal(statSync(join(home, 'sha256-a')).mode & 0o777, 0o600);
  assert.equal(statSync(home).mode & 0o777, 0o700);
  await files.remove('pulled', 'sha256-a');
  await files.remove('pulled', 'sha256-a');
  assert.equal(existsSync(join(home, 'sha256-a')), false);
  await assert.rejects(files.write('pulled', 'sha256-folder', 'text'));
  assert.equal(readdirSync(home).includes('sha256-folder.tmp'), false);
});

test('the first docker config that can be read counts', async () => {
  writeFileSync(join(folder, 'broken'), '{');
  writeFileSync(join(folder, 'good'), '{"auths":{"r.io":{"username":"u"}}}');
  const paths = ['none', 'broken', 'good'].map((name) => join(folder, name));
  assert.equal((await firstReadable(paths, parseDockerConfigJson))?.get('r.io')?.username, 'u');
  assert.equal(await firstReadable(paths.slice(0, 2), parseDockerConfigJson), undefined);
  assert.deepEqual(dockerConfigPaths('/var/lib/kubelet', '/work', '/root'), {
    json: ['/var/lib/kubelet/config.json', '/work/config.json', '/root/.docker/config.json', '/.docker/config.json'],
    cfg: ['/var/lib/kubelet/.dockercfg', '/work/.dockercfg', '/root/.dockercfg', '/.dockercfg'],
  });
});

test('a provider config is a file, or the files of a folder by name', async () => {
  for (const name of ['b.yaml', 'a.json', 'c.yml', 'd.txt']) writeFileSync(join(folder, name), name);
  assert.deepEqual(
    (await readProviderConfigFiles(folder)).map(({ text }) => text),
    ['a.json', 'b.yaml', 'c.yml'],
  );
  assert.deepEqual(await readProviderConfigFiles(join(folder, 'd.txt')), [{ path: join(folder, 'd.txt'), text: 'd.txt' }]);
  await assert.rejects(readProviderConfigFiles(join(folder, 'none')), { code: 'InvalidArgument', message: /none cannot be read/ });
  mkdirSync(join(folder, 'empty'));
  await assert.rejects(readProviderConfigFiles(join(folder, 'empty')), { message: /no configuration files/ });
});

test('plugins must be there and executable', async () => {
  script('good', 'true');
  writeFileSync(join(folder, 'plain'), '');
  chmodSync(join(folder, 'plain'), 0o644);
  await checkPlugins(folder, ['good']);
  await assert.rejects(checkPlugins(folder, ['good', 'missing']), { code: 'InvalidArgument', message: /missing cannot be executed/ });
  await assert.rejects(checkPlugins(folder, ['plain']), { message: /plain cannot be executed/ });
});

test('a plugin gets its request, arguments and environment', async () => {
  script('plugin', 'read request; echo "$request $1 $REGION $HOME_TOWN"');
  const run = createRunPlugin(folder, { PATH: process.env.PATH, REGION: 'us', HOME_TOWN: 'here' });
  const stdout = await run({ name: 'plugin', args: ['--fast'], env: [{ name: 'REGION', value: 'eu' }], stdin: '{}\n' }, never);
  assert.equal(stdout, '{} --fast eu here\n');
});

const failing: [string, string, RegExp][] = [
  ['exits', 'echo no such role >&2; exit 4', /^error execing credential provider plugin plugin: exit status 4: no such role$/],
  ['is killed', 'kill -9 $$', /signal: SIGKILL/],
];
for (const [name, body, message] of failing)
  test(`a plugin that ${name} fails with its own words`, async () => {
    script('plugin', body);
    await assert.rejects(createRunPlugin(folder, process.env)({ name: 'plugin', args: [], env: [], stdin: 'x'.repeat(200_000) }, never), {
      code: 'PluginFailed',
      message,
    });
  });

test('a plugin that is not there, and one that takes too long', async () => {
  const run = createRunPlugin(folder, process.env);
  await assert.rejects(run({ name: 'missing', args: [], env: [], stdin: '' }, never), { code: 'PluginFailed', message: /ENOENT/ });
  script('slow', 'exec sleep 20');
  const controller = new AbortController();
  const slow = run({ name: 'slow', args: [], env: [], stdin: '' }, controller.signal);
  controller.abort(new AgentError('DeadlineExceeded', 'timed out after 60000 ms'));
  await assert.rejects(slow, { code: 'PluginFailed', message: 'credential provider plugin slow: timed out after 60000 ms' });
});
