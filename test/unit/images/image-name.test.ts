import assert from 'node:assert/strict';
import { test } from 'node:test';
import { defaultPullPolicy, parseImageName, withDefaultTag, withoutTagAndDigest } from '../../../agent/model/image-name.ts';

const sha = 'a'.repeat(64);

const valid: [string, repository: string, tag: string | undefined, digest: string | undefined, withTag: string][] = [
  ['busybox', 'docker.io/library/busybox', undefined, undefined, 'busybox:latest'],
  ['busybox:1.36', 'docker.io/library/busybox', '1.36', undefined, 'busybox:1.36'],
  ['docker.io/busybox', 'docker.io/library/busybox', undefined, undefined, 'docker.io/busybox:latest'],
  ['index.docker.io/busybox:1', 'docker.io/library/busybox', '1', undefined, 'index.docker.io/busybox:1'],
  ['team/web', 'docker.io/team/web', undefined, undefined, 'team/web:latest'],
  ['localhost/web:v1', 'localhost/web', 'v1', undefined, 'localhost/web:v1'],
  ['localhost:5000/web', 'localhost:5000/web', undefined, undefined, 'localhost:5000/web:latest'],
  ['[::1]:5000/web:v1', '[::1]:5000/web', 'v1', undefined, '[::1]:5000/web:v1'],
  [
    'registry.k8s.io/e2e-test-images/agnhost:2.59',
    'registry.k8s.io/e2e-test-images/agnhost',
    '2.59',
    undefined,
    'registry.k8s.io/e2e-test-images/agnhost:2.59',
  ],
  [`web@sha256:${sha}`, 'docker.io/library/web', undefined, `sha256:${sha}`, `web@sha256:${sha}`],
  [`web:v1@sha256:${sha}`, 'docker.io/library/web', 'v1', `sha256:${sha}`, `web:v1@sha256:${sha}`],
  ['Registry/web', 'Registry/web', undefined, undefined, 'Registry/web:latest'],
  ['a__b/c-----d.e', 'docker.io/a__b/c-----d.e', undefined, undefined, 'a__b/c-----d.e:latest'],
];
for (const [image, repository, tag, digest, withTag] of valid)
  test(`${image} is ${repository}`, () => {
    const name = parseImageName(image);
    assert.deepEqual([name.repository, name.tag, name.digest, withDefaultTag(image)], [repository, tag, digest, withTag]);
    assert.equal(`${name.domain}/${name.path}`, repository);
  });

const invalid: [string, why: string][] = [
  ['', 'invalid reference format'],
  ['INVALID:::', 'invalid reference format: repository name (library/INVALID) must be lowercase'],
  ['Busybox', 'invalid reference format: repository name (library/Busybox) must be lowercase'],
  ['web:', 'invalid reference format'],
  ['web:-1', 'invalid reference format'],
  ['web tag', 'invalid reference format'],
  ['a//b', 'invalid reference format'],
  [sha, `invalid repository name (${sha}), cannot specify 64-byte hexadecimal strings`],
  ['web@sha256:abcd', 'invalid reference format'],
  [`web@sha256:${sha}b`, 'invalid checksum digest length'],
  [`web@sha256:${'A'.repeat(64)}`, 'invalid checksum digest format'],
  [`web@md5:${'a'.repeat(32)}`, 'unsupported digest algorithm'],
  [`x/${'a'.repeat(260)}`, 'repository name must not be more than 255 characters'],
];
for (const [image, why] of invalid)
  test(`${JSON.stringify(image)} is invalid: ${why}`, () => {
    assert.throws(() => parseImageName(image), {
      code: 'InvalidImageName',
      message: `couldn't parse image name ${JSON.stringify(image)}: ${why}`,
    });
  });

const policies: [string, string][] = [
  ['web', 'Always'],
  ['web:latest', 'Always'],
  ['web:v1', 'IfNotPresent'],
  [`web@sha256:${sha}`, 'IfNotPresent'],
  [`web:latest@sha256:${sha}`, 'Always'],
  ['Not Valid', 'IfNotPresent'],
];
for (const [image, policy] of policies)
  test(`default pull policy of ${image} is ${policy}`, () => assert.equal(defaultPullPolicy(image), policy));

const trimmed: [string, string | undefined][] = [
  ['web', 'web'],
  ['web:v1', 'web'],
  [`localhost:5000/web:v1@sha256:${sha}`, 'localhost:5000/web'],
  ['Not Valid', undefined],
];
for (const [image, expected] of trimmed)
  test(`${image} without tag and digest is ${expected}`, () => assert.equal(withoutTagAndDigest(image), expected));
