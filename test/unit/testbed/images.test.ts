import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { kubernetesVersion } from '../../testbed/binaries.ts';
import { groupsFor, imageNames, parseImageList } from '../../testbed/images.ts';
import { defaultPath, describeImage, type Layer, sha256 } from '../../testbed/images-archive.ts';
import { fakeRegistryFiles } from '../../testbed/images-layers.ts';
import { imageGroups, pauseImage } from '../../testbed/images-recipes.ts';
import { goModuleDir } from '../cri-protos/upstream.ts';

const layer: Layer = { file: '/cache/layer.tar', digest: sha256('layer'), size: 5 };

test('describeImage: config and manifest name their parts by digest', () => {
  const image = describeImage('a/b:1', { Cmd: ['sh'], ExposedPorts: ['80/tcp'], User: '1234' }, [layer]);
  const manifest = JSON.parse(image.manifest);
  const config = JSON.parse(image.config);
  assert.equal(image.manifestDigest, sha256(image.manifest));
  assert.equal(manifest.config.digest, sha256(image.config));
  assert.equal(manifest.config.size, image.config.length);
  assert.deepEqual(manifest.layers, [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: layer.digest, size: 5 }]);
  assert.deepEqual(config.rootfs, { type: 'layers', diff_ids: [layer.digest] });
  assert.deepEqual(config.config.ExposedPorts, { '80/tcp': {} });
  assert.equal(config.config.User, '1234');
});

test('describeImage: every image has a PATH, its own or the usual one', () => {
  const env = (Env?: string[]): string[] => JSON.parse(describeImage('a:1', { Env }, []).config).config.Env;
  assert.deepEqual(env(), [defaultPath]);
  assert.deepEqual(env(['A=1']), [defaultPath, 'A=1']);
  assert.deepEqual(env(['PATH=/x']), ['PATH=/x']);
});

test('describeImage: two names of the same content are two image IDs', () => {
  assert.notEqual(describeImage('a:1', {}, [layer]).configDigest, describeImage('a:2', {}, [layer]).configDigest);
  assert.equal(describeImage('a:1', {}, [layer]).configDigest, describeImage('a:1', {}, [layer]).configDigest);
});

test('groupsFor: full names, short names, unknown names', () => {
  assert.deepEqual(groupsFor(['busybox']), ['small']);
  assert.deepEqual(groupsFor([pauseImage, 'agnhost']), ['small', 'debian']);
  assert.deepEqual(groupsFor(imageNames), ['small', 'debian']);
  assert.throws(() => groupsFor(['bysubox']), /no image is called bysubox; there are: registry/);
  assert.throws(() => groupsFor(Object.keys(imageGroups.private)), /no image is called/);
});

test('parseImageList: names, digests and whether the CRI has taken note', () => {
  const text = [
    'REF                          TYPE                                       DIGEST     SIZE    PLATFORMS   LABELS',
    'registry.k8s.io/pause:3.10.2 application/vnd.oci.image.manifest.v1+json sha256:aa  672.0 KiB linux/amd64 io.cri-containerd.image=managed,io.cri-containerd.pinned=pinned',
    'docker.io/t/x:1              application/vnd.oci.image.manifest.v1+json sha256:bb  1.0 MiB linux/amd64 -',
    '',
  ].join('\n');
  assert.deepEqual(
    [...parseImageList(text)],
    [
      ['registry.k8s.io/pause:3.10.2', { digest: 'sha256:aa', managed: true }],
      ['docker.io/t/x:1', { digest: 'sha256:bb', managed: false }],
    ],
  );
});

test('fakeRegistryFiles: the tag leads to an index, to a manifest, to blobs that are there', () => {
  const files = fakeRegistryFiles(layer);
  const at = (kind: string, digest: string): string => `var/registry/pause/${kind}/sha256/${digest.slice(7, 9)}/${digest.slice(7)}/data`;
  const text = (path: string): string => {
    const entry = files[path];
    assert.ok(entry !== undefined && 'text' in entry, `${path} is there`);
    return entry.text;
  };
  const index = JSON.parse(text(at('manifests', text('var/registry/pause/manifests/testing').trim())));
  const manifest = JSON.parse(text(at('manifests', index.manifests[0].digest)));
  assert.equal(JSON.parse(text(at('blobs', manifest.config.digest))).os, 'linux');
  assert.deepEqual(files[at('blobs', manifest.layers[0].digest)], { copyOf: layer.file });
});

// Images of the suite that the test bed has not, each with its reason.
const notMade: Record<string, string> = {
  'sample-apiserver': 'aggregation, not a node matter',
  etcd: 'for sample-apiserver',
  'apparmor-loader': 'no AppArmor in this kernel',
  alpine: 'must not exist: specs pull it to see it fail',
  'nfs-provisioner': 'volumes',
  'volume/nfs': 'volumes',
  'volume/iscsi': 'volumes',
  'node-perf/npb-ep': 'performance runs of the node suite',
  'node-perf/npb-is': 'performance runs of the node suite',
  'node-perf/pytorch-wide-deep': 'performance runs of the node suite',
  'regression-issue-74839': 'a Go program that is not built yet',
  'resource-consumer': 'a Go program that is not built yet',
};

test("every image of the suite's manifest is made, or has a reason not to be", () => {
  const source = readFileSync(join(goModuleDir('k8s.io/kubernetes', kubernetesVersion), 'test/utils/image/manifest.go'), 'utf8');
  const registries = new Map([...source.matchAll(/^\t\t(\w+Registry): +"([^"]+)"/gm)].map(([, name, host]) => [name, host]));
  const configs = [...source.matchAll(/^\tconfigs\[\w+\] = Config\{list\.(\w+), "([^"]+)", "([^"]+)"\}/gm)];
  assert.ok(configs.length > 20, 'the manifest was understood');
  const made = new Set([...imageNames, ...Object.keys(imageGroups.private)]);
  for (const [, registry, name = '', version] of configs) {
    if (notMade[name] === undefined)
      assert.ok(made.has(`${registries.get(registry)}/${name}:${version}`), `${registry} ${name}:${version}`);
  }
  const listed = configs.map(([, , name]) => name);
  assert.deepEqual(
    Object.keys(notMade).filter((name) => !listed.includes(name)),
    [],
  );
});
