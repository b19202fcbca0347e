import assert from 'node:assert/strict';
import test from 'node:test';
import { containerdConfig, type RuntimeKind, upstreamVersion } from '../../testbed/runtimes.ts';

const versions = [
  ['1.6.20~ds1-1+deb12u3', '1.6.20'],
  ['2.1.9+ds1-5', '2.1.9'],
  ['1:5.2-3', '5.2'],
] as const;

for (const [debian, upstream] of versions) test(`upstreamVersion of ${debian}`, () => assert.equal(upstreamVersion(debian), upstream));

const config = (kind: RuntimeKind, more: { cgroupPath?: string; snapshotter?: 'native' } = {}): string =>
  containerdConfig({
    runtime: { kind, containerd: '/r/containerd', ctr: '/r/ctr', runc: '/r/runc', shimDir: '/r', cniBinDir: '/r/cni', version: '0' },
    root: '/n/root',
    state: '/n/state',
    socket: '/n/c.sock',
    cniConfDir: '/n/cni',
    certsDir: '/n/certs',
    pauseImage: 'p:1',
    ...more,
  });

/** Keys of one TOML table; tables are named as they are written. */
const table = (text: string, name: string): Record<string, string> => {
  const lines = text.split('\n');
  const at = lines.indexOf(`[${name}]`);
  assert.ok(at >= 0, `[${name}] is there`);
  const end = lines.findIndex((line, index) => index > at && line.startsWith('['));
  const pairs = lines.slice(at + 1, end < 0 ? undefined : end).filter((line) => line.includes(' = '));
  return Object.fromEntries(pairs.map((line) => [line.slice(0, line.indexOf(' = ')), line.slice(line.indexOf(' = ') + 3)]));
};

test('1.6: config version 2, everything under the one CRI plugin', () => {
  const text = config('containerd-1.6');
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  assert.match(text, /^version = 2\n/);
  assert.equal(table(text, cri).sandbox_image, '"p:1"');
  assert.equal(table(text, cri).restrict_oom_score_adj, 'true');
  assert.equal(table(text, cri).enable_cdi, undefined);
  assert.equal(table(text, `${cri}.cni`).bin_dir, '"/r/cni"');
  assert.equal(table(text, `${cri}.registry`).config_path, '"/n/certs"');
  assert.equal(table(text, `${cri}.containerd`).snapshotter, '"overlayfs"');
});

test('2.x: config version 3, images and runtime apart', () => {
  const text = config('containerd-2', { snapshotter: 'native' });
  const runtime = 'plugins."io.containerd.cri.v1.runtime"';
  const images = 'plugins."io.containerd.cri.v1.images"';
  assert.match(text, /^version = 3\n/);
  assert.equal(table(text, `${images}.pinned_images`).sandbox, '"p:1"');
  assert.equal(table(text, images).snapshotter, '"native"');
  assert.equal(table(text, `${images}.registry`).config_path, '"/n/certs"');
  assert.equal(table(text, runtime).restrict_oom_score_adj, 'true');
  assert.equal(table(text, runtime).enable_cdi, 'true');
  assert.equal(table(text, `${runtime}.cni`).bin_dirs, '["/r/cni"]');
});

for (const kind of ['containerd-1.6', 'containerd-2'] as const) {
  test(`${kind}: nothing outside the node's own folders, no table twice`, () => {
    const text = config(kind, { cgroupPath: '/lab/containerd' });
    assert.equal(table(text, 'cgroup').path, '"/lab/containerd"');
    assert.doesNotMatch(text, /"\/(run|opt|var\/lib)\//);
    const tables = text.split('\n').filter((line) => line.startsWith('['));
    assert.equal(new Set(tables).size, tables.length);
    for (const handler of ['runc', 'test-handler'])
      assert.match(text, new RegExp(`runtimes\\.${handler}\\.options\\]\nBinaryName = "/r/runc"\nRoot = "/n/state/runc"`));
  });
}
