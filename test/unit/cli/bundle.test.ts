import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { globSync, readdirSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';

const repository = resolve(import.meta.dirname, '../../..');
// Where the launcher puts it: the library with a native part is found from there.
const folder = join(repository, 'node_modules', '.keelson-agent', `test-${process.pid}`);
const node = async (...args: string[]): Promise<string> => (await promisify(execFile)(process.execPath, args, { cwd: '/' })).stdout;

before(() => node(join(repository, 'scripts', 'bundle.ts'), folder), { timeout: 60_000 });
after(() => rm(folder, { recursive: true, force: true }));

test('the packed agent knows its commands', async () => {
  assert.match(await node(join(folder, 'main.mjs'), 'help'), /^ {2}run +run this machine as a Kubernetes node/m);
});

test('everything that running a node takes can be loaded, the contracts too', async () => {
  const load = `for (const name of ${JSON.stringify(readdirSync(folder).filter((name) => name.startsWith('run-')))}) {
    const { run } = await import(${JSON.stringify(`${folder}/`)} + name);
    console.log(typeof run);
  }`;
  assert.equal(await node('--input-type=module', '--eval', load), 'function\n');
  // What the code says of where the contracts lie is true from where it lies now.
  const code = readdirSync(folder).map((name) => readFileSync(join(folder, name), 'utf8').replaceAll(/\\?\n/g, ''));
  const [, file = ''] = /cri-protos\/\$\{file\}`,\s*new URL\("([^"]+)"/.exec(code.join('\n')) ?? [];
  assert.equal(join(folder, file), join(repository, 'agent/drivers/grpc/contract.ts'));
});

test('the child that does what may hang runs', async () => {
  const args = ['fileType', JSON.stringify({ path: '/' }), String(process.pid)];
  assert.equal(await node(join(folder, 'child.mjs'), ...args), '{"result":"Directory"}\n');
});

test('no package is loaded by a dynamic import', () => {
  // Packed, what such an import of a CommonJS library gives has nothing but a default: names taken from it are undefined, and only when they are used.
  const sources = globSync('agent/**/*.ts', { cwd: repository });
  assert.ok(sources.length > 100);
  assert.deepEqual(
    sources.filter((file) => /import\(['"](?!\.|node:)/.test(readFileSync(join(repository, file), 'utf8'))),
    [],
  );
});
