import assert from 'node:assert/strict';
import { test } from 'node:test';
import { stringify } from 'yaml';
import { parseKubeconfig } from '../../../agent/drivers/kube/kubeconfig.ts';

const pem = '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n';
const base64 = (text: string): string => Buffer.from(text).toString('base64');

function config(cluster: object, user: object = {}): string {
  return stringify({
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'here',
    contexts: [{ name: 'here', context: { cluster: 'c', user: 'u', namespace: 'apps' } }],
    clusters: [{ name: 'c', cluster }],
    users: [{ name: 'u', user }],
  });
}

test('data and files, relative paths resolved against the kubeconfig', () => {
  const auth = parseKubeconfig(
    config(
      {
        server: 'https://10.0.0.1:6443/prefix/',
        'certificate-authority-data': base64(pem),
        'tls-server-name': 'kubernetes',
        'proxy-url': 'http://proxy:3128',
      },
      { 'client-certificate': 'pki/client.crt', 'client-key': '/abs/client.key' },
    ),
    '/etc/kubernetes/kubelet.conf',
  );
  assert.equal(auth.server, 'https://10.0.0.1:6443/prefix');
  assert.deepEqual(auth.ca, { kind: 'data', pem });
  assert.deepEqual(auth.clientCert, { kind: 'file', path: '/etc/kubernetes/pki/client.crt' });
  assert.deepEqual(auth.clientKey, { kind: 'file', path: '/abs/client.key' });
  assert.equal(auth.tlsServerName, 'kubernetes');
  assert.equal(auth.proxyUrl, 'http://proxy:3128');
  assert.equal(auth.namespace, 'apps');
  assert.equal(auth.insecureSkipVerify, false);
});

test('tokens: tokenFile is kept beside token', () => {
  const auth = parseKubeconfig(config({ server: 'https://a' }, { token: 'abc\n', tokenFile: 'token' }), '/x/config');
  assert.equal(auth.token, 'abc');
  assert.equal(auth.tokenFile, '/x/token');
});

test('exec plugin', () => {
  const exec = {
    apiVersion: 'client.authentication.k8s.io/v1',
    command: './login',
    args: ['--x'],
    env: [{ name: 'A', value: '1' }],
    interactiveMode: 'IfAvailable',
    provideClusterInfo: true,
    installHint: 'apt install login',
  };
  const cluster = {
    server: 'https://a',
    extensions: [
      { name: 'other', extension: { x: 1 } },
      { name: 'client.authentication.k8s.io/exec', extension: { audience: 'a', deep: { list: [1] } } },
    ],
  };
  assert.equal(parseKubeconfig(config({ server: 'https://a' }, { exec }), '/x/config').exec?.clusterConfig, undefined);
  assert.deepEqual(parseKubeconfig(config(cluster, { exec }), '/x/config').exec, {
    apiVersion: 'client.authentication.k8s.io/v1',
    command: './login',
    args: ['--x'],
    env: [{ name: 'A', value: '1' }],
    provideClusterInfo: true,
    clusterConfig: { audience: 'a', deep: { list: [1] } },
    installHint: 'apt install login',
    baseDir: '/x',
  });
});

test('the first document that holds something counts, and the last of two like keys', () => {
  const text = config({ server: 'https://a' });
  for (const file of [
    `---\n# made by hand\n---\n${text}---\nkind: Pod\n`,
    `\ufeff${text.replaceAll('\n', '\r\n')}`,
    text.replace('server:', 'server: https://b\n      server:'),
  ])
    assert.equal(parseKubeconfig(file, 'f').server, 'https://a');
});

test('a user may be missing from the context: the bootstrap of an insecure server', () => {
  const text = stringify({
    'current-context': 'x',
    contexts: [{ name: 'x', context: { cluster: 'c' } }],
    clusters: [{ name: 'c', cluster: { server: '127.0.0.1:8080' } }],
  });
  assert.equal(parseKubeconfig(text, 'f').server, 'http://127.0.0.1:8080');
});

const v1 = 'client.authentication.k8s.io/v1';
const refused: { name: string; text: string; says: RegExp }[] = [
  { name: 'nothing', text: '# nothing', says: /^kubeconfig \/f: the file is empty/ },
  { name: 'not YAML', text: 'a: [', says: /^kubeconfig \/f: not YAML/ },
  { name: 'a list', text: '- a', says: /^kubeconfig \/f: expected a mapping/ },
  { name: 'another kind', text: 'kind: Pod', says: /kind: expected Config, found Pod/ },
  { name: 'no current context', text: 'kind: Config', says: /current-context: is not set/ },
  { name: 'unknown context', text: 'current-context: a\ncontexts: []', says: /contexts: has no entry named a/ },
  { name: 'no server', text: config({}), says: /clusters\[c\]\.cluster\.server: is not set/ },
  { name: 'bad server', text: config({ server: 'ftp://a' }), says: /server: expected an https URL/ },
  {
    name: 'a proxy of another scheme',
    text: config({ server: 'https://a', 'proxy-url': 'socks5://u:SECRET@p' }),
    says: /clusters\[c\]\.cluster\.proxy-url: proxies of scheme socks5 are not supported; use one of scheme http or https$/,
  },
  { name: 'a proxy without a scheme', text: config({ server: 'https://a', 'proxy-url': 'p' }), says: /proxy-url: is not a URL$/ },
  {
    name: 'bad base64',
    text: config({ server: 'https://a', 'certificate-authority-data': '!!' }),
    says: /certificate-authority-data: is not base64 of PEM/,
  },
  {
    name: 'insecure with a CA',
    text: config({ server: 'https://a', 'insecure-skip-tls-verify': true, 'certificate-authority': 'x' }),
    says: /insecure-skip-tls-verify: cannot be set together/,
  },
  {
    name: 'certificate without key',
    text: config({ server: 'https://a' }, { 'client-certificate': 'x' }),
    says: /users\[u\]\.user\.client-key: is not set/,
  },
  { name: 'key without certificate', text: config({ server: 'https://a' }, { 'client-key': 'x' }), says: /client-certificate: is not set/ },
  { name: 'basic auth', text: config({ server: 'https://a' }, { username: 'x' }), says: /username: .*basic authentication/ },
  { name: 'auth provider', text: config({ server: 'https://a' }, { 'auth-provider': { name: 'gcp' } }), says: /auth-provider: / },
  { name: 'impersonation', text: config({ server: 'https://a' }, { as: 'root' }), says: /as: impersonation/ },
  { name: 'wrong type', text: config({ server: 1 }), says: /server: expected a string/ },
  {
    name: 'exec of an old version',
    text: config({ server: 'https://a' }, { exec: { apiVersion: 'client.authentication.k8s.io/v1alpha1', command: 'x' } }),
    says: /exec\.apiVersion: expected/,
  },
  {
    name: 'exec without command',
    text: config({ server: 'https://a' }, { exec: { apiVersion: v1, interactiveMode: 'Never' } }),
    says: /exec\.command: is not set/,
  },
  {
    name: 'v1 exec without mode',
    text: config({ server: 'https://a' }, { exec: { apiVersion: v1, command: 'x' } }),
    says: /interactiveMode: is not set/,
  },
  {
    name: 'exec that wants a terminal',
    text: config({ server: 'https://a' }, { exec: { apiVersion: v1, command: 'x', interactiveMode: 'Always' } }),
    says: /interactiveMode: Always needs a terminal/,
  },
  {
    name: 'exec and token',
    text: config({ server: 'https://a' }, { token: 't', exec: { apiVersion: v1, command: 'x', interactiveMode: 'Never' } }),
    says: /exec: cannot be set together with a token/,
  },
];
for (const { name, text, says } of refused) {
  test(`refused with the field named: ${name}`, () => {
    assert.throws(() => parseKubeconfig(text, '/f'), { code: 'InvalidConfig', message: says });
  });
}
