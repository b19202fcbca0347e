import assert from 'node:assert/strict';
import test from 'node:test';
import { describeImage, sha256 } from '../../testbed/images-archive.ts';
import { hostsToml, privateRegistry, splitName, storeFiles } from '../../testbed/registry.ts';
import { type RegistryRule, type Treatment, treat } from '../../testbed/registry-front.ts';

const basic = (user: string, password: string): string => `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;
const manifest = '/v2/registry.k8s.io/e2e/busybox/manifests/1?ns=registry.k8s.io';
const blob = '/v2/registry.k8s.io/e2e/busybox/blobs/sha256:00';
const secret = '/v2/gcr.io/k8s-authenticated-test/agnhost/manifests/2.6';
const { user, password } = privateRegistry.auth;

const cases: { name: string; rules: RegistryRule[]; path: string; authorization?: string; want: Treatment }[] = [
  { name: 'no rule: passed on', rules: [], path: manifest, want: { delayMs: 0 } },
  { name: 'the ping is never touched', rules: [{ repository: '', status: 500 }], path: '/v2/', want: { delayMs: 0 } },
  { name: 'private without a password', rules: [privateRegistry], path: secret, want: { delayMs: 0, status: 401 } },
  {
    name: 'private with a wrong password',
    rules: [privateRegistry],
    path: secret,
    authorization: basic(user, 'x'),
    want: { delayMs: 0, status: 401 },
  },
  { name: 'private with the password', rules: [privateRegistry], path: secret, authorization: basic(user, password), want: { delayMs: 0 } },
  { name: 'another repository needs none', rules: [privateRegistry], path: manifest, want: { delayMs: 0 } },
  { name: 'blobs only: not a manifest', rules: [{ repository: '', kind: 'blobs', status: 503 }], path: manifest, want: { delayMs: 0 } },
  { name: 'blobs only: a blob', rules: [{ repository: '', kind: 'blobs', status: 503 }], path: blob, want: { delayMs: 0, status: 503 } },
  {
    name: 'rules add up; the first status answers',
    rules: [
      { repository: '', delayMs: 100, status: 429 },
      { repository: 'registry.k8s.io/e2e/', delayMs: 50, bytesPerSecond: 1000, status: 500 },
    ],
    path: blob,
    want: { delayMs: 150, bytesPerSecond: 1000, status: 429 },
  },
];

for (const { name, rules, path, authorization, want } of cases) {
  test(`treat: ${name}`, () => {
    const { status, delayMs, bytesPerSecond } = treat(rules, new Map(), { method: 'GET', path, authorization });
    assert.deepEqual({ status, delayMs, bytesPerSecond }, { status: undefined, bytesPerSecond: undefined, ...want });
  });
}

test('treat: a rule with times is over after them', () => {
  const used = new Map<number, number>();
  const statuses = [1, 2, 3].map(() => treat([{ repository: '', status: 500, times: 2 }], used, { method: 'GET', path: blob }).status);
  assert.deepEqual(statuses, [500, 500, undefined]);
});

test('splitName', () => {
  assert.deepEqual(splitName('registry.k8s.io/a/b:1.2'), { repository: 'registry.k8s.io/a/b', tag: '1.2' });
  assert.throws(() => splitName('localhost:5000/a'), /has no tag/);
});

test('storeFiles: links name blobs that are there, and the tag comes last', () => {
  const image = describeImage('h/a:1', {}, [{ file: '/l.tar', digest: sha256('x'), size: 1 }]);
  const files = storeFiles(image);
  for (const [path, content] of Object.entries(files)) {
    if (!path.endsWith('/link')) continue;
    assert.ok('text' in content);
    assert.ok(files[`blobs/sha256/${content.text.slice(7, 9)}/${content.text.slice(7)}/data`] !== undefined, path);
  }
  assert.equal(Object.keys(files).at(-1), 'repositories/h/a/_manifests/tags/1/current/link');
});

test('hostsToml: one server, and no way past it', () => {
  const text = hostsToml('gcr.io', 'http://10.0.0.1:5000');
  assert.match(text, /^server = "http:\/\/10\.0\.0\.1:5000\/v2\/gcr\.io"\n/);
  assert.match(text, /^override_path = true$/m);
});
