import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Credential } from '../../../agent/images/credentials.ts';
import {
  allowlistTrouble,
  formatIntent,
  formatPulledRecord,
  judgeAccess,
  matchCredentials,
  mergePulled,
  type PulledBy,
  type PulledRecord,
  parseIntent,
  parsePulledRecord,
  pulledWith,
  recordFileName,
  type VerificationPolicy,
} from '../../../agent/images/records.ts';

const record = (mapping: Record<string, PulledBy>): PulledRecord => ({
  imageRef: 'sha256:id',
  lastUpdatedTime: '2026-01-01T00:00:00Z',
  credentialMapping: mapping,
});
const secretOf = (name: string, credentialHash: string) => ({ uid: `uid-${name}`, namespace: 'ns', name, credentialHash });
const credentialOf = (name: string, hash: string): Credential => ({
  user: { username: '', password: '', email: '' },
  source: { kind: 'secret', uid: `uid-${name}`, namespace: 'ns', name },
  hash,
});
const accountOf = (name: string): Credential => ({
  user: { username: '', password: '', email: '' },
  source: { kind: 'serviceAccount', uid: `uid-${name}`, namespace: 'ns', name },
  hash: 'h',
});

test('files have the names and the text that kubelet gives them', () => {
  // Names and texts as in pkg/kubelet/images/pullmanager/testdata of upstream.
  assert.equal(recordFileName('test-brokenhash'), 'sha256-38a8906435c4dd5f4258899d46621bfd8eea3ad6ff494ee3c2f17ef0321625bd');
  assert.equal(recordFileName('secretorg/myimage:customtag'), 'sha256-5f3ca9e4d82e32203c2fafb410dfae9c8047bc6ebe57d642fe264d479e152955');
  assert.equal(
    formatIntent('secretorg/myimage:customtag'),
    '{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"secretorg/myimage:customtag"}\n',
  );
  const text =
    '{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","lastUpdatedTime":"2024-10-21T12:26:40Z","imageRef":"ref","credentialMapping":{"docker.io/testing/test":{"kubernetesSecrets":[{"uid":"u","namespace":"default","name":"pull-secret","credentialHash":""}]}}}\n';
  assert.equal(formatPulledRecord(parsePulledRecord(text)), text);
  assert.equal(parsePulledRecord(text.replace('v1beta1', 'v1alpha1')).imageRef, 'ref');
  assert.equal(parseIntent(formatIntent('a')), 'a');
});

for (const text of ['', '{', '{"kind":"ImagePullIntent"}', formatIntent('a').replace('v1beta1', 'v9'), 'null'])
  test(`no intent: ${JSON.stringify(text)}`, () => assert.throws(() => parseIntent(text), { code: 'InvalidArgument' }));

const preloaded: VerificationPolicy = { kind: 'NeverVerifyPreloadedImages', allowlist: [] };
const verdicts: [string, VerificationPolicy, image: string, PulledRecord | undefined, intent: boolean, verdict: string][] = [
  ['preloaded: nobody pulled it here', preloaded, 'web:1', undefined, false, 'allowed'],
  ['preloaded: a pull began and nothing is known of it', preloaded, 'web:1', undefined, true, 'mustPull'],
  ['pulled without credentials', preloaded, 'web:1', record({ web: { nodePodsAccessible: true } }), false, 'allowed'],
  ['pulled under another name', preloaded, 'web:1', record({ other: { nodePodsAccessible: true } }), false, 'mustPull'],
  ['pulled, nobody knows for whom', preloaded, 'web:1', record({}), false, 'mustPull'],
  ['pulled with a secret', preloaded, 'web:2', record({ web: { kubernetesSecrets: [secretOf('a', 'h')] } }), false, 'needsCredentials'],
  ['an empty entry', preloaded, 'web:1', record({ web: {} }), false, 'mustPull'],
  ['never verify', { kind: 'NeverVerify', allowlist: [] }, 'web:1', record({}), false, 'allowed'],
  ['always verify, even preloaded', { kind: 'AlwaysVerify', allowlist: [] }, 'web:1', undefined, false, 'mustPull'],
  [
    'allowlist: the very name',
    { kind: 'NeverVerifyAllowlistedImages', allowlist: ['r.io/web'] },
    'r.io/web:1',
    undefined,
    false,
    'allowed',
  ],
  [
    'allowlist: a beginning',
    { kind: 'NeverVerifyAllowlistedImages', allowlist: ['r.io/*'] },
    'r.io/team/web:1',
    undefined,
    false,
    'allowed',
  ],
  ['allowlist: another', { kind: 'NeverVerifyAllowlistedImages', allowlist: ['r.io/web'] }, 'r.io/webx:1', undefined, false, 'mustPull'],
];
for (const [name, policy, image, known, intent, verdict] of verdicts)
  test(`access: ${name}`, () => assert.equal(judgeAccess(policy, image, known, intent), verdict));

const withSecrets = record({
  web: { kubernetesSecrets: [secretOf('a', 'h1')], kubernetesServiceAccounts: [{ uid: 'uid-sa', namespace: 'ns', name: 'sa' }] },
});
const credentialCases: [string, Credential[], boolean, PulledBy | undefined][] = [
  ['the same secret', [credentialOf('a', 'h1')], true, undefined],
  ['another secret of the same content is remembered', [credentialOf('b', 'h1')], true, { kubernetesSecrets: [secretOf('b', 'h1')] }],
  ['the same secret rotated is remembered', [credentialOf('a', 'h2')], true, { kubernetesSecrets: [secretOf('a', 'h2')] }],
  ['another secret', [credentialOf('b', 'h2')], false, undefined],
  ['none', [], false, undefined],
  ['the same service account', [accountOf('sa')], true, undefined],
  ['another service account', [accountOf('sb')], false, undefined],
  ["the node's own credentials prove nothing for a pod", [{ ...credentialOf('a', 'h1'), source: undefined }], false, undefined],
];
for (const [name, credentials, allowed, remember] of credentialCases)
  test(`credentials: ${name}`, () =>
    assert.deepEqual({ remember: undefined, ...matchCredentials('web:1', withSecrets, credentials) }, { allowed, remember }));

const at = Date.parse('2026-02-03T04:05:06.789Z');
const merges: [string, PulledRecord | undefined, PulledBy | undefined, mapping: Record<string, PulledBy> | undefined][] = [
  ['the first pull', undefined, pulledWith(undefined), { web: { nodePodsAccessible: true } }],
  ['a pull nobody knows how', undefined, undefined, {}],
  ['nothing new to know', record({}), undefined, undefined],
  ['a secret', record({}), pulledWith(credentialOf('a', 'h')), { web: { kubernetesSecrets: [secretOf('a', 'h')] } }],
  [
    'another secret, sorted',
    record({ web: { kubernetesSecrets: [secretOf('b', 'h')] } }),
    pulledWith(credentialOf('a', 'h')),
    { web: { kubernetesSecrets: [secretOf('a', 'h'), secretOf('b', 'h')] } },
  ],
  ['the same secret', record({ web: { kubernetesSecrets: [secretOf('a', 'h')] } }), pulledWith(credentialOf('a', 'h')), undefined],
  [
    'a rotated secret',
    record({ web: { kubernetesSecrets: [secretOf('a', 'h')] } }),
    pulledWith(credentialOf('a', 'i')),
    { web: { kubernetesSecrets: [secretOf('a', 'i')] } },
  ],
  [
    'open to all forgets the secrets',
    record({ web: { kubernetesSecrets: [secretOf('a', 'h')] } }),
    pulledWith(undefined),
    { web: { nodePodsAccessible: true } },
  ],
  ['open to all stays so', record({ web: { nodePodsAccessible: true } }), pulledWith(credentialOf('a', 'h')), undefined],
  [
    'a service account beside a secret',
    record({ web: { kubernetesSecrets: [secretOf('a', 'h')] } }),
    pulledWith(accountOf('sa')),
    { web: { kubernetesSecrets: [secretOf('a', 'h')], kubernetesServiceAccounts: [{ uid: 'uid-sa', namespace: 'ns', name: 'sa' }] } },
  ],
  [
    'other names stay',
    record({ other: { nodePodsAccessible: true } }),
    pulledWith(undefined),
    { other: { nodePodsAccessible: true }, web: { nodePodsAccessible: true } },
  ],
];
for (const [name, old, by, mapping] of merges)
  test(`merge: ${name}`, () => {
    const merged = mergePulled(old, 'sha256:id', 'web:1', by, at);
    assert.deepEqual(merged?.credentialMapping, mapping);
    if (merged !== undefined) assert.equal(merged.lastUpdatedTime, '2026-02-03T04:05:06Z');
  });

const patterns: [string, string | undefined][] = [
  ['r.io/web', undefined],
  ['r.io/*', undefined],
  [' r.io/web', 'leading/trailing spaces are not allowed:  r.io/web'],
  ['', 'the supplied pattern is too short: '],
  ['r*.io/web', "not a valid wildcard pattern, only patterns ending with '/*' are allowed: r*.io/web"],
  ['/*', 'at least registry hostname is required'],
  ['r.io/web:1', 'neither tag nor digest is accepted in an image reference: r.io/web:1'],
  ['R.io/WEB', 'failed to parse as an image name: invalid reference format'],
];
for (const [pattern, trouble] of patterns)
  test(`allowlist pattern ${JSON.stringify(pattern)}`, () => assert.equal(allowlistTrouble(pattern), trouble));
