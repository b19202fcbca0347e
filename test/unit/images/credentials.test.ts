import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  buildKeyring,
  configsOfSecrets,
  hashCredential,
  lookUp,
  matchesImage,
  parseDockerCfg,
  parseDockerConfigJson,
} from '../../../agent/images/credentials.ts';
import type { Secret } from '../../../agent/model/generated/api.ts';

const matches: [pattern: string, image: string, boolean][] = [
  ['registry.io', 'registry.io/web', true],
  ['registry.io/', 'registry.io/web', true],
  ['registry.io/team', 'registry.io/team/web', true],
  ['registry.io/team', 'registry.io/teammate/web', true],
  ['registry.io/team', 'registry.io/other/web', false],
  ['registry.io', 'registry.io:5000/web', false],
  ['registry.io:5000', 'registry.io:5000/web', true],
  ['registry.io:5000/team', 'registry.io:5000/team/web', true],
  ['registry.io:5001', 'registry.io:5000/web', false],
  ['*.registry.io', 'eu.registry.io/web', true],
  ['*.registry.io', 'registry.io/web', false],
  ['*.registry.io', 'a.eu.registry.io/web', false],
  ['eu.*.io', 'eu.registry.io/web', true],
  ['eu.registry.*', 'eu.registry.io/web', true],
  ['*-good.registry.io', 'very-good.registry.io/web', true],
  ['*registry.io', 'registry.io/web', true],
  ['*registry.io', 'a.registry.io/web', false],
  ['*.*.registry.io', 'a.b.registry.io/web', true],
  ['r?gistry.io', 'r/web', true], // a query to Go's URLs, not a glob
  ['registry[0-9].io', 'registry7.io/web', true],
  ['registry[^0-9].io', 'registry7.io/web', false],
  ['registry.io', 'registryxio/web', false],
  ['[::1]:5000', '[::1]:5000/web', true],
  ['docker.io', 'docker.io/library/web', true],
  ['', 'registry.io/web', false],
];
for (const [pattern, image, expected] of matches)
  test(`${JSON.stringify(pattern)} ${expected ? 'covers' : 'does not cover'} ${image}`, () =>
    assert.equal(matchesImage(pattern, image), expected));

test('the hash is the one that kubelet writes', () => {
  // From upstream's own test (pkg/credentialprovider/secrets/secrets_test.go).
  assert.equal(
    hashCredential({ username: 'user', password: 'password', email: '' }),
    'a55436fc140d516560d072c5fe8700385ce9f41629abf65c1edcbcb39fac691d',
  );
  assert.notEqual(
    hashCredential({ username: 'user', password: '<', email: '' }),
    hashCredential({ username: 'user', password: '\\u003c', email: '' }),
  );
});

const auth = (text: string): string => Buffer.from(text).toString('base64');

test('docker configs: plain fields, auth over them, auth without padding', () => {
  const config = parseDockerConfigJson(
    JSON.stringify({
      auths: {
        a: { username: 'u', password: 'p', email: 'e' },
        b: { username: 'u', auth: auth('x:y:z') },
        c: { auth: auth('x:yy').replace(/=+$/, '') },
      },
    }),
  );
  assert.deepEqual(Object.fromEntries(config), {
    a: { username: 'u', password: 'p', email: 'e' },
    b: { username: 'x', password: 'y:z', email: '' },
    c: { username: 'x', password: 'yy', email: '' },
  });
  assert.equal(parseDockerConfigJson('{}').size, 0);
  assert.equal(parseDockerCfg('{"a":{"username":"u"}}').get('a')?.username, 'u');
});

for (const [name, text] of [
  ['no JSON', '{"auths": SECRET'],
  ['auth without colon', `{"auths":{"a":{"auth":"${auth('nocolon')}"}}}`],
  ['auth that is no base64', '{"auths":{"a":{"auth":"***"}}}'],
  ['an array', '[]'],
] as const)
  test(`a broken docker config is an error without its text: ${name}`, () => {
    assert.throws(
      () => parseDockerConfigJson(text),
      (error: Error) => !error.message.includes('SECRET'),
    );
  });

const ring = (config: Record<string, string>) =>
  buildKeyring([
    { config: new Map(Object.entries(config).map(([key, username]) => [key, { username, password: '', email: '' }])), source: undefined },
  ]);

const lookups: [string, Record<string, string>, image: string, users: string[]][] = [
  ['a longer path first', { 'r.io': 'host', 'r.io/team': 'team', 'r.io/team/web': 'web' }, 'r.io/team/web', ['web', 'team', 'host']],
  ['schemes and /v1/, /v2/ do not count', { 'https://r.io/v2/': 'a', 'http://r.io/v1/team': 'b' }, 'r.io/team/web', ['b', 'a']],
  ['nothing fits', { 'other.io': 'a' }, 'r.io/web', []],
  ['Docker Hub by its old name', { 'https://index.docker.io/v1/': 'hub' }, 'docker.io/library/web', ['hub']],
  ['Docker Hub by its new name first', { 'https://index.docker.io/v1/': 'hub', 'docker.io': 'new' }, 'docker.io/library/web', ['new']],
  ['Docker Hub is no default for others', { 'https://index.docker.io/v1/': 'hub' }, 'r.io/web', []],
  ['an exact host before a glob', { '*.r.io': 'glob', 'eu.r.io': 'exact' }, 'eu.r.io/web', ['exact', 'glob']],
  ['what is no URL is passed over', { 'r io': 'a', 'r.io': 'b', 'r.io:port': 'c' }, 'r.io/web', ['b']],
];
for (const [name, config, image, users] of lookups)
  test(`keyring: ${name}`, () =>
    assert.deepEqual(
      lookUp(ring(config), image).map((credential) => credential.user.username),
      users,
    ));

const secret = (type: string, key: string, text: string): Secret => ({
  type,
  metadata: { name: 's', namespace: 'ns', uid: 'u' },
  data: { [key]: auth(text) },
});

test('pull secrets of both types count, others do not', () => {
  const configs = configsOfSecrets([
    secret('kubernetes.io/dockerconfigjson', '.dockerconfigjson', '{"auths":{"a.io":{"username":"1"}}}'),
    secret('kubernetes.io/dockercfg', '.dockercfg', '{"b.io":{"username":"2"}}'),
    secret('Opaque', '.dockerconfigjson', '{"auths":{"c.io":{"username":"3"}}}'),
    secret('kubernetes.io/dockercfg', '.dockerconfigjson', '{}'),
  ]);
  assert.deepEqual(
    configs.map(({ config, source }) => [...config.keys(), source]),
    [
      ['a.io', { kind: 'secret', uid: 'u', namespace: 'ns', name: 's' }],
      ['b.io', { kind: 'secret', uid: 'u', namespace: 'ns', name: 's' }],
    ],
  );
});

test('a broken pull secret is named', () => {
  assert.throws(() => configsOfSecrets([secret('kubernetes.io/dockercfg', '.dockercfg', 'x')]), {
    code: 'ErrImagePull',
    message: 'image pull secret ns/s cannot be read: not valid JSON',
  });
});
