import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Clock, systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { createAccountTokens } from '../../../agent/images/account-tokens.ts';
import { createAskProviders, type RunPlugin } from '../../../agent/images/ask-providers.ts';
import { parsePluginAnswer, parseProviderConfig } from '../../../agent/images/providers.ts';
import type { ServiceAccount, TokenRequest } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';

const provider = (fields: string): string => `apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: cloud
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ["*.cloud.io", "r.io:5000/team"]
  defaultCacheDuration: 10m
${fields}`;
const tokenFields = `  tokenAttributes:
    serviceAccountTokenAudience: registry
    cacheType: ServiceAccount
    requireServiceAccount: true
    requiredServiceAccountAnnotationKeys: [example.com/role]
    optionalServiceAccountAnnotationKeys: [example.com/zone]
`;

test('a config is read whole', () => {
  const text = provider(`  args: [--fast]\n  env:\n  - {name: REGION, value: eu}\n${tokenFields}`);
  assert.deepEqual(parseProviderConfig([{ path: 'c.yaml', text }]), [
    {
      name: 'cloud',
      matchImages: ['*.cloud.io', 'r.io:5000/team'],
      defaultCacheMs: 600_000,
      apiVersion: 'credentialprovider.kubelet.k8s.io/v1',
      args: ['--fast'],
      env: [{ name: 'REGION', value: 'eu' }],
      tokenAttributes: {
        audience: 'registry',
        cacheType: 'ServiceAccount',
        requireServiceAccount: true,
        requiredAnnotations: ['example.com/role'],
        optionalAnnotations: ['example.com/zone'],
      },
    },
  ]);
});

const wrong: [string, string, RegExp][] = [
  ['an unknown field', provider('  colour: red\n'), /c\.yaml is no valid CredentialProviderConfig: .*colour/s],
  ['another kind', 'apiVersion: v1\nkind: Pod\n', /is no valid CredentialProviderConfig/],
  ['no provider', 'apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n', /at least 1 item in providers/],
  ['a path for a name', provider('').replace('name: cloud', 'name: a/b'), /must be a file name/],
  ['an unknown protocol', provider('').replace('k8s.io/v1\n  match', 'k8s.io/v9\n  match'), /apiVersion .* is not supported/],
  ['no images', provider('').replace(/matchImages: .*/, 'matchImages: []'), /at least 1 item in matchImages/],
  ['a duration that is none', provider('').replace('10m', '"10"'), /must be a duration/],
  ['a token without cacheType', provider(tokenFields.replace('cacheType: ServiceAccount', 'cacheType: ""')), /cacheType must be/],
  ['a token without audience', provider(tokenFields.replace('registry', '""')), /serviceAccountTokenAudience is required/],
  [
    'required annotations without required account',
    provider(tokenFields.replace('requireServiceAccount: true', 'requireServiceAccount: false')),
    /cannot be false/,
  ],
  ['an annotation twice', provider(tokenFields.replace('zone', 'role')), /listed twice/],
  ['a bad annotation key', provider(tokenFields.replace('example.com/zone', '-x')), /no qualified name/],
];
for (const [name, text, message] of wrong)
  test(`refused: ${name}`, () =>
    assert.throws(() => parseProviderConfig([{ path: 'c.yaml', text }]), { code: 'InvalidArgument', message }));

test('refused: one name in two files', () => {
  const text = provider('');
  assert.throws(
    () =>
      parseProviderConfig([
        { path: 'a.yaml', text },
        { path: 'b.yaml', text },
      ]),
    /b\.yaml: .*duplicate/,
  );
});

const v1 = 'credentialprovider.kubelet.k8s.io/v1';
const answer = (fields: object): string =>
  JSON.stringify({
    kind: 'CredentialProviderResponse',
    apiVersion: v1,
    cacheKeyType: 'Image',
    auth: { 'a.cloud.io': { username: 'u', password: 'p' } },
    ...fields,
  });

for (const [name, stdout, message] of [
  ['no answer', 'password: SECRET', /wrong kind or fields/],
  ['no JSON', 'password: [SECRET', /neither JSON nor YAML/],
  ['another version', answer({ apiVersion: 'credentialprovider.kubelet.k8s.io/v1beta1' }), /did not match expected/],
  ['no cache key type', answer({ cacheKeyType: 'Planet' }), /valid cacheKeyType: Planet/],
  ['another kind', answer({ kind: 'Pod' }), /wrong kind/],
] as const)
  test(`a plugin's answer refused: ${name}`, () =>
    assert.throws(
      () => parsePluginAnswer(v1, stdout),
      (error: Error) => message.test(error.message) && !error.message.includes('SECRET'),
    ));

const pod = (name: string, serviceAccountName = 'sa'): AgentPod => ({
  metadata: { name, namespace: 'ns', uid: `uid-${name}` },
  spec: { containers: [], serviceAccountName },
});
const never = new AbortController().signal;

/** Plugins that answer as `reply` says, and a record of what they were asked. */
function bed(
  config: string,
  reply: (stdin: Record<string, unknown>) => string,
  annotations: Record<string, string> = { 'example.com/role': 'puller' },
) {
  let now = 0;
  const asked: Record<string, unknown>[] = [];
  const requests: TokenRequest[] = [];
  const clock: Clock = { ...systemClock, mono: () => now, wall: () => Date.parse('2026-01-01T00:00:00Z') + now };
  const tokens = createAccountTokens({
    requestToken: async (_namespace, _name, request) => {
      requests.push(request);
      const expirationTimestamp = new Date(clock.wall() + 3_600_000).toISOString();
      const token = `token-for-${request.spec?.boundObjectRef?.name}${requests.length === 1 ? '' : `-${requests.length}`}`;
      return { ...request, spec: { ...request.spec, audiences: [], expirationSeconds: 3600 }, status: { token, expirationTimestamp } };
    },
    clock,
    log: silentLog,
    random: () => 0,
  });
  const runPlugin: RunPlugin = async ({ stdin }) => {
    asked.push(JSON.parse(stdin));
    return reply(JSON.parse(stdin));
  };
  const ask = createAskProviders({
    providers: parseProviderConfig([{ path: 'c.yaml', text: config }]),
    runPlugin,
    clock,
    log: silentLog,
    serviceAccounts: {
      get: async (namespace, name): Promise<ServiceAccount> => ({ metadata: { namespace, name, uid: 'uid-sa', annotations } }),
      requestToken: tokens.get,
    },
  });
  const names = async (image: string, by = pod('a')): Promise<string[]> =>
    (await ask(by, image, never)).map((credential) => credential.user.username);
  return { ask, names, asked, requests, pass: (ms: number) => (now += ms) };
}

test('only images that match are asked about; an answer of another registry does not count', async () => {
  const { names, asked } = bed(provider(''), () => answer({}));
  assert.deepEqual(await names('other.io/web'), []);
  assert.deepEqual(asked, []);
  assert.deepEqual(await names('a.cloud.io/web'), ['u']);
  assert.deepEqual(await names('b.cloud.io/web'), []);
  assert.deepEqual(asked[0], { kind: 'CredentialProviderRequest', apiVersion: v1, image: 'a.cloud.io/web' });
});

const caching: [string, object, image: string, ms: number, runs: number][] = [
  ['by image', { cacheKeyType: 'Image' }, 'a.cloud.io/web', 1000, 1],
  ['by image, another image', { cacheKeyType: 'Image' }, 'a.cloud.io/other', 1000, 2],
  ['by registry', { cacheKeyType: 'Registry' }, 'a.cloud.io/other', 1000, 1],
  ['by registry, another registry', { cacheKeyType: 'Registry' }, 'b.cloud.io/web', 1000, 2],
  ['for all', { cacheKeyType: 'Global' }, 'b.cloud.io/web', 1000, 1],
  ['the default time passes', { cacheKeyType: 'Global' }, 'a.cloud.io/web', 600_001, 2],
  ["the answer's own time passes", { cacheKeyType: 'Global', cacheDuration: '1s' }, 'a.cloud.io/web', 1001, 2],
  ['not at all', { cacheKeyType: 'Global', cacheDuration: '0s' }, 'a.cloud.io/web', 0, 2],
];
for (const [name, fields, image, ms, runs] of caching)
  test(`cached ${name}`, async () => {
    const { names, asked, pass } = bed(provider(''), () => answer(fields));
    await names('a.cloud.io/web');
    pass(ms);
    await names(image);
    assert.equal(asked.length, runs);
  });

test('asked twice at once, a plugin runs once', async () => {
  const { names, asked } = bed(provider(''), () => answer({ cacheDuration: '0s' }));
  assert.deepEqual(await Promise.all([names('a.cloud.io/web'), names('a.cloud.io/web')]), [['u'], ['u']]);
  assert.equal(asked.length, 1);
});

test('a failing plugin is no error, and is asked again', async () => {
  let broken = true;
  const { names } = bed(provider(''), () => (broken ? 'no' : answer({})));
  assert.deepEqual(await names('a.cloud.io/web'), []);
  broken = false;
  assert.deepEqual(await names('a.cloud.io/web'), ['u']);
});

test('a plugin with tokens gets a token bound to the pod, and its credentials belong to the account', async () => {
  const { ask, asked, requests } = bed(provider(tokenFields), () => answer({}));
  const found = await ask(pod('a'), 'a.cloud.io/web', never);
  assert.deepEqual(found[0]?.source, { kind: 'serviceAccount', uid: 'uid-sa', namespace: 'ns', name: 'sa' });
  assert.deepEqual(asked[0]?.serviceAccountToken, 'token-for-a');
  assert.deepEqual(asked[0]?.serviceAccountAnnotations, { 'example.com/role': 'puller' });
  assert.deepEqual(requests[0], {
    metadata: { uid: 'uid-sa' },
    spec: { audiences: ['registry'], boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name: 'a', uid: 'uid-a' } },
  });
});

test('cached by account: another pod of it shares; cached by token: it does not', async () => {
  const shared = bed(provider(tokenFields), () => answer({}));
  await shared.names('a.cloud.io/web', pod('a'));
  await shared.names('a.cloud.io/web', pod('b'));
  assert.equal(shared.asked.length, 1);
  const apart = bed(provider(tokenFields.replace('cacheType: ServiceAccount', 'cacheType: Token')), () => answer({}));
  await apart.names('a.cloud.io/web', pod('a'));
  await apart.names('a.cloud.io/web', pod('b'));
  assert.equal(apart.asked.length, 2);
});

const byToken = provider(tokenFields.replace('cacheType: ServiceAccount', 'cacheType: Token')).replace('10m', '10h');
const tokenCaching: [string, object, image: string, by: string, ms: number, runs: number, tokens: number][] = [
  ['the next pull of the pod', {}, 'a.cloud.io/web', 'a', 1000, 1, 1],
  ['another image', {}, 'a.cloud.io/other', 'a', 1000, 2, 1],
  ['another image of the registry', { cacheKeyType: 'Registry' }, 'a.cloud.io/other', 'a', 1000, 1, 1],
  ['another registry', { cacheKeyType: 'Global' }, 'b.cloud.io/web', 'a', 1000, 1, 1],
  ['another pod of the account', { cacheKeyType: 'Global' }, 'a.cloud.io/web', 'b', 1000, 2, 2],
  ['the token is good for long', {}, 'a.cloud.io/web', 'a', 0.8 * 3_600_000, 1, 1],
  ['the token is due for renewal', {}, 'a.cloud.io/web', 'a', 0.8 * 3_600_000 + 1, 2, 2],
  ['the answer has run out', { cacheDuration: '1s' }, 'a.cloud.io/web', 'a', 1001, 2, 1],
  ['the answer is not to be cached', { cacheDuration: '0s' }, 'a.cloud.io/web', 'a', 0, 2, 1],
];
for (const [name, fields, image, by, ms, runs, tokens] of tokenCaching)
  test(`cached by token: ${name}`, async () => {
    const { names, asked, requests, pass } = bed(byToken, () =>
      answer({ auth: { '*.cloud.io': { username: 'u', password: 'p' } }, ...fields }),
    );
    assert.deepEqual(await names('a.cloud.io/web', pod('a')), ['u']);
    pass(ms);
    assert.deepEqual(await names(image, pod(by)), ['u']);
    assert.deepEqual([asked.length, requests.length], [runs, tokens]);
  });

test('cached by token: two pulls of one pod at once are one token and one run', async () => {
  const { names, asked, requests } = bed(byToken, () => answer({}));
  await Promise.all([names('a.cloud.io/web'), names('a.cloud.io/web')]);
  assert.deepEqual([asked.length, requests.length], [1, 1]);
});

test('the token itself as password is refused unless cached by token', async () => {
  const echo = (stdin: Record<string, unknown>): string =>
    answer({ auth: { 'a.cloud.io': { username: 'u', password: stdin.serviceAccountToken } } });
  assert.deepEqual(await bed(provider(tokenFields), echo).names('a.cloud.io/web'), []);
  assert.deepEqual(
    await bed(provider(tokenFields.replace('cacheType: ServiceAccount', 'cacheType: Token')), echo).names('a.cloud.io/web'),
    ['u'],
  );
});

test('no account, or an account without the annotation: a plugin that requires it is not asked', async () => {
  const { names, asked } = bed(provider(tokenFields), () => answer({}));
  assert.deepEqual(await names('a.cloud.io/web', pod('a', '')), []);
  assert.equal(asked.length, 0);
  const bare = bed(provider(tokenFields), () => answer({}), {});
  assert.deepEqual(await bare.names('a.cloud.io/web'), []);
  assert.equal(bare.asked.length, 0);
});
