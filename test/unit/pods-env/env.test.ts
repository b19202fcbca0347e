import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { AgentError, hasCode } from '../../../agent/base/errors.ts';
import type { Container, EnvVar, Service } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import { type EnvironmentInputs, makeEnvironment, parseEnvFile } from '../../../agent/pods/env.ts';
import { expand, expandAll, expandHookCommand, madeEnvironment, referredNames } from '../../../agent/pods/env-expand.ts';
import { objectFieldValue } from '../../../agent/pods/env-field-ref.ts';

describe('expansion', () => {
  // The cases of third_party/forked/golang/expansion/expand_test.go.
  const vars: Record<string, string> = { VAR_A: 'A', VAR_B: 'B', VAR_C: 'C', VAR_REF: '$(VAR_A)', VAR_EMPTY: '' };
  const table: [string, string][] = [
    ['$(VAR_A)', 'A'],
    ['___$(VAR_B)___', '___B___'],
    ['foo-$(VAR_REF)', 'foo-$(VAR_A)'],
    ['foo$$(VAR_A)', 'foo$(VAR_A)'],
    ['$$$(VAR_A)', '$A'],
    ['$$$$(VAR_A)', '$$(VAR_A)'],
    ['$(VAR_DNE)', '$(VAR_DNE)'],
    ['$$$$$$(BIG_MONEY)', '$$$(BIG_MONEY)'],
    ['foo-$(VAR_EMPTY)-x', 'foo--x'],
    ['$(VAR_A', '$(VAR_A'],
    ['$VAR_A)', '$VAR_A)'],
    ['f000-$VAR_A', 'f000-$VAR_A'],
    ['foo\\$(VAR_C)bar', 'foo\\Cbar'],
    ['foobarbaz$', 'foobarbaz$'],
    ['foobarbaz$$', 'foobarbaz$'],
    ['$(VAR_A)$(VAR_B', 'A$(VAR_B'],
    ['$$(VAR_A)$$(VAR_B', '$(VAR_A)$(VAR_B'],
    ['$?_boo_$!', '$?_boo_$!'],
    ['$()', '$()'],
    ['$($(VAR_A))', '$($(VAR_A))'],
  ];
  for (const [text, want] of table)
    test(text, () =>
      assert.equal(
        expand(text, (name) => vars[name]),
        want,
      ),
    );
  test('commands', () => assert.deepEqual(expandAll(['a', '$(X)', '$(Y)'], [{ name: 'X', value: '1' }]), ['a', '1', '$(Y)']));
});

const service = (
  namespace: string,
  name: string,
  clusterIP: string,
  ports: { name?: string; port: number; protocol?: string }[],
): Service => ({
  metadata: { namespace, name },
  spec: { clusterIP, ports },
});
const kubernetes = service('default', 'kubernetes', '10.0.0.1', [{ name: 'https', port: 443, protocol: 'TCP' }]);

const base64 = (text: string): string => Buffer.from(text).toString('base64');

function inputs(
  container: Partial<Container>,
  change: Partial<EnvironmentInputs> = {},
  spec: Partial<AgentPod['spec']> = {},
): EnvironmentInputs {
  const own: Container = { name: 'c', image: 'i', ...container };
  return {
    pod: {
      metadata: { name: 'p', namespace: 'ns', uid: 'u', labels: { app: 'x', 'a/b': 'l"1' }, annotations: { note: 'line\n2', Z: 'z' } },
      spec: { containers: [own], serviceAccountName: 'sa', enableServiceLinks: false, ...spec },
    },
    container: own,
    facts: { nodeName: 'node-1', podIPs: ['10.1.0.5', 'fd00::5'], hostIPs: ['192.168.0.1', 'fd01::1'] },
    services: [],
    objects: {
      configMap: (name) => (name === 'cm' ? { data: { KEY: 'from-cm', other: 'o', '1bad': 'kept' } } : undefined),
      secret: (name) => (name === 'sec' ? { data: { KEY: base64('from-secret'), pass: base64('pä$$') } } : undefined),
    },
    allocatable: { cpu: '2', memory: '4Gi', 'ephemeral-storage': '10Gi' },
    envFile: (volume, path) => (volume === 'v' && path === 'dir/env' ? "# c\nA='1'\nB='two\nlines' # x\n" : undefined),
    ...change,
  };
}
const env = (list: { name: string; value: string }[]): Record<string, string> => Object.fromEntries(list.map((e) => [e.name, e.value]));
const from = (name: string, valueFrom: EnvVar['valueFrom']): EnvVar => ({ name, valueFrom });

describe('environment', () => {
  const table: [string, EnvironmentInputs, Record<string, string>][] = [
    ['nothing', inputs({}), {}],
    ['values, empty ones too', inputs({ env: [{ name: 'A', value: 'x' }, { name: 'B' }] }), { A: 'x', B: '' }],
    [
      'references look back, not ahead',
      inputs({
        env: [
          { name: 'A', value: '$(B)' },
          { name: 'B', value: 'b' },
          { name: 'C', value: '$(A)-$(B)-$$(B)' },
        ],
      }),
      { A: '$(B)', B: 'b', C: '$(B)-b-$(B)' },
    ],
    [
      'envFrom with prefix, later sources and env win; names that no shell takes are kept',
      inputs({
        envFrom: [{ configMapRef: { name: 'cm' } }, { prefix: 'S_', secretRef: { name: 'sec' } }, { secretRef: { name: 'sec' } }],
        env: [{ name: 'other', value: '$(KEY)/$(S_pass)' }],
      }),
      { KEY: 'from-secret', other: 'from-secret/pä$$', '1bad': 'kept', S_KEY: 'from-secret', S_pass: 'pä$$', pass: 'pä$$' },
    ],
    [
      'optional objects and keys leave their variable out',
      inputs({
        envFrom: [{ configMapRef: { name: 'none', optional: true } }, { secretRef: { name: 'none', optional: true } }],
        env: [
          from('A', { configMapKeyRef: { name: 'none', key: 'k', optional: true } }),
          from('B', { secretKeyRef: { name: 'sec', key: 'k', optional: true } }),
          from('C', { configMapKeyRef: { name: 'cm', key: 'KEY' } }),
          from('D', { secretKeyRef: { name: 'sec', key: 'KEY' } }),
        ],
      }),
      { C: 'from-cm', D: 'from-secret' },
    ],
    [
      'fields',
      inputs({
        env: [
          'metadata.name',
          'metadata.namespace',
          'metadata.uid',
          "metadata.labels['app']",
          "metadata.annotations['Z']",
          'spec.nodeName',
          'spec.serviceAccountName',
          'status.hostIP',
          'status.hostIPs',
          'status.podIP',
          'status.podIPs',
        ].map((fieldPath) => from(fieldPath, { fieldRef: { apiVersion: 'v1', fieldPath } })),
      }),
      {
        'metadata.name': 'p',
        'metadata.namespace': 'ns',
        'metadata.uid': 'u',
        "metadata.labels['app']": 'x',
        "metadata.annotations['Z']": 'z',
        'spec.nodeName': 'node-1',
        'spec.serviceAccountName': 'sa',
        'status.hostIP': '192.168.0.1',
        'status.hostIPs': '192.168.0.1,fd01::1',
        'status.podIP': '10.1.0.5',
        'status.podIPs': '10.1.0.5,fd00::5',
      },
    ],
    [
      'resources, with divisors and the node as the default limit',
      inputs({
        resources: { requests: { cpu: '250m', memory: '32Mi' }, limits: { memory: '64Mi', 'hugepages-2Mi': '4Mi' } },
        env: [
          from('A', { resourceFieldRef: { resource: 'requests.cpu' } }),
          from('B', { resourceFieldRef: { resource: 'requests.cpu', divisor: '1m' } }),
          from('C', { resourceFieldRef: { resource: 'limits.memory', divisor: '1Mi' } }),
          from('D', { resourceFieldRef: { resource: 'limits.cpu' } }),
          from('E', { resourceFieldRef: { resource: 'limits.ephemeral-storage', divisor: '1Gi' } }),
          from('F', { resourceFieldRef: { resource: 'requests.memory', containerName: 'c', divisor: '0' } }),
          from('G', { resourceFieldRef: { resource: 'limits.hugepages-2Mi', divisor: '1Mi' } }),
        ],
      }),
      { A: '1', B: '250', C: '64', D: '2', E: '10', F: '33554432', G: '4' },
    ],
    ['a file key', inputs({ env: [from('A', { fileKeyRef: { volumeName: 'v', path: 'dir/env', key: 'B' } })] }), { A: 'two\nlines' }],
    [
      'an optional file key that is missing',
      inputs({ env: [from('A', { fileKeyRef: { volumeName: 'v', path: 'dir/env', key: 'Z', optional: true } })] }),
      {},
    ],
    [
      'keys that every JavaScript object seems to have are not there unless they are',
      inputs(
        {
          env: [
            from('A', { configMapKeyRef: { name: 'cm', key: 'constructor', optional: true } }),
            from('B', { secretKeyRef: { name: 'sec', key: 'toString', optional: true } }),
            from('C', { fieldRef: { fieldPath: "metadata.labels['constructor']" } }),
            from('D', { fieldRef: { fieldPath: "metadata.annotations['valueOf']" } }),
          ],
        },
        {},
      ),
      { C: '', D: '' },
    ],
    [
      'an optional file key of an empty value',
      inputs(
        { env: [from('A', { fileKeyRef: { volumeName: 'v', path: 'e', key: 'A', optional: true } })] },
        { envFile: () => "A=''\nB='b'\r" },
      ),
      {},
    ],
    [
      'a Secret that begins with a byte order mark keeps it',
      inputs(
        { env: [from('A', { secretKeyRef: { name: 'x', key: 'k' } })] },
        { objects: { configMap: () => undefined, secret: () => ({ data: { k: base64('\ufeffa') } }) } },
      ),
      { A: '\ufeffa' },
    ],
    [
      'the API server is always linked',
      inputs({}, { services: [kubernetes, service('ns', 'db', '10.0.0.9', [{ port: 5432 }])] }),
      {
        KUBERNETES_SERVICE_HOST: '10.0.0.1',
        KUBERNETES_SERVICE_PORT: '443',
        KUBERNETES_SERVICE_PORT_HTTPS: '443',
        KUBERNETES_PORT: 'tcp://10.0.0.1:443',
        KUBERNETES_PORT_443_TCP: 'tcp://10.0.0.1:443',
        KUBERNETES_PORT_443_TCP_PROTO: 'tcp',
        KUBERNETES_PORT_443_TCP_PORT: '443',
        KUBERNETES_PORT_443_TCP_ADDR: '10.0.0.1',
      },
    ],
    [
      'service links: the namespace only, none for headless ones; references reach them, own values hide them',
      inputs(
        {
          env: [
            { name: 'URL', value: '$(MY_DB_PORT)' },
            { name: 'MY_DB_SERVICE_HOST', value: 'mine' },
          ],
        },
        {
          services: [
            service('ns', 'my-db', 'fd00::9', [{ port: 53, protocol: 'UDP' }]),
            service('ns', 'headless', 'None', [{ port: 1 }]),
            service('other', 'far', '10.0.0.3', [{ port: 1 }]),
          ],
        },
        { enableServiceLinks: true },
      ),
      {
        URL: 'udp://[fd00::9]:53',
        MY_DB_SERVICE_HOST: 'mine',
        MY_DB_SERVICE_PORT: '53',
        MY_DB_PORT: 'udp://[fd00::9]:53',
        MY_DB_PORT_53_UDP: 'udp://[fd00::9]:53',
        MY_DB_PORT_53_UDP_PROTO: 'udp',
        MY_DB_PORT_53_UDP_PORT: '53',
        MY_DB_PORT_53_UDP_ADDR: 'fd00::9',
      },
    ],
  ];
  for (const [name, given, want] of table) test(name, () => assert.deepEqual(env(makeEnvironment(given)), want));

  const failures: [string, EnvironmentInputs, string][] = [
    ['configMap', inputs({ envFrom: [{ configMapRef: { name: 'x' } }] }), 'configmap "x" not found'],
    ['secret', inputs({ env: [from('A', { secretKeyRef: { name: 'x', key: 'k' } })] }), 'secret "x" not found'],
    [
      'configMap key',
      inputs({ env: [from('A', { configMapKeyRef: { name: 'cm', key: 'k' } })] }),
      "couldn't find key k in ConfigMap ns/cm",
    ],
    ['secret key', inputs({ env: [from('A', { secretKeyRef: { name: 'sec', key: 'k' } })] }), "couldn't find key k in Secret ns/sec"],
    [
      'standalone',
      inputs({ envFrom: [{ configMapRef: { name: 'cm' } }] }, { objects: undefined }),
      "couldn't get configMap ns/cm, no kubeClient defined",
    ],
    [
      'services not read yet',
      inputs({}, { services: undefined }),
      'services have not yet been read at least once, cannot construct envvars',
    ],
    ['field', inputs({ env: [from('A', { fieldRef: { fieldPath: 'status.reason' } })] }), 'field label not supported: status.reason'],
    [
      'field without value',
      inputs({ env: [from('A', { fieldRef: { fieldPath: 'status.phase' } })] }),
      'unsupported fieldPath: status.phase',
    ],
    [
      'resource',
      inputs({ env: [from('A', { resourceFieldRef: { resource: 'limits.gpu' } })] }),
      'unsupported container resource : limits.gpu',
    ],
    [
      'container',
      inputs({ env: [from('A', { resourceFieldRef: { resource: 'limits.cpu', containerName: 'x' } })] }),
      'container x not found',
    ],
    [
      'volume of a file key',
      inputs({ env: [from('A', { fileKeyRef: { volumeName: 'w', path: 'e', key: 'B' } })] }),
      'cannot find the volume "w" referenced by FileKeyRef',
    ],
    [
      'file key',
      inputs({ env: [from('A', { fileKeyRef: { volumeName: 'v', path: 'dir/env', key: 'Z' } })] }),
      'environment variable key "Z" not found in file "dir/env"',
    ],
    [
      'an env file that is not there, although the key is optional',
      inputs(
        { env: [from('A', { fileKeyRef: { volumeName: 'v', path: 'e', key: 'B', optional: true } })] },
        {
          envFile: () => {
            throw new AgentError('NotFound', 'cannot read e: /var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/v/e');
          },
        },
      ),
      "couldn't parse env file",
    ],
    [
      'bytes of a Secret that are no text',
      inputs(
        { env: [from('A', { secretKeyRef: { name: 'bin', key: 'k' } })] },
        { objects: { configMap: () => undefined, secret: () => ({ metadata: { namespace: 'ns', name: 'bin' }, data: { k: '/wA=' } }) } },
      ),
      'key k in Secret ns/bin is not UTF-8 text; mount it as a file instead',
    ],
    [
      'the same by envFrom',
      inputs(
        { envFrom: [{ secretRef: { name: 'bin' } }] },
        { objects: { configMap: () => undefined, secret: () => ({ metadata: { namespace: 'ns', name: 'bin' }, data: { k: '/wA=' } }) } },
      ),
      'key k in Secret ns/bin is not UTF-8 text; mount it as a file instead',
    ],
    [
      'the address of a node that has none yet',
      inputs(
        { env: [from('A', { fieldRef: { fieldPath: 'status.hostIP' } })] },
        { facts: { nodeName: 'n', podIPs: ['10.0.0.1'], hostIPs: [] } },
      ),
      'host IP unknown; known addresses: []',
    ],
    [
      'broken env file',
      inputs({ env: [from('A', { fileKeyRef: { volumeName: 'v', path: 'e', key: 'B' } })] }, { envFile: () => 'A=1' }),
      "couldn't parse env file",
    ],
  ];
  for (const [name, given, message] of failures) {
    test(`fails: ${name}`, () =>
      assert.throws(
        () => makeEnvironment(given),
        (e) => hasCode(e, 'CreateContainerConfigError') && e.message === message,
      ));
  }
});

describe('fields of objects', () => {
  const { pod } = inputs({});
  test('maps are sorted and quoted as Go does', () => {
    assert.equal(objectFieldValue(pod, 'metadata.labels'), 'a/b="l\\"1"\napp="x"');
    assert.equal(objectFieldValue(pod, 'metadata.annotations'), 'Z="z"\nnote="line\\n2"');
  });
  test('characters', () => {
    const odd = { ...pod, metadata: { ...pod.metadata, labels: { k: 'é\u0001\u200b\u{1f600}\u{e0001}\\' } } };
    assert.equal(objectFieldValue(odd, 'metadata.labels'), 'k="é\\x01\\u200b\u{1f600}\\U000e0001\\\\"');
  });
  test('subscripts', () => {
    assert.equal(objectFieldValue(pod, "metadata.labels['a/b']"), 'l"1');
    assert.equal(objectFieldValue(pod, "metadata.labels['none']"), '');
    assert.throws(() => objectFieldValue(pod, "metadata.labels['']"), AgentError);
    assert.throws(() => objectFieldValue(pod, "metadata.name['x']"), /does not support subscript/);
  });
});

describe('env files', () => {
  // The cases of pkg/kubelet/util/env/env_util_test.go.
  const table: [string, string, string, string | undefined][] = [
    ['leading blanks', "   KEY1='val1'\n\t\tKEY2='val2'\n", 'KEY2', 'val2'],
    ['blank and comment lines', "# c\n\nKEY1='foo'\n   # d\n\nKEY2='bar'\n", 'KEY2', 'bar'],
    ['not there', "KEY1='foo'\n", 'KEY3', undefined],
    ['a # inside', "KEY1='foo#no'\n", 'KEY1', 'foo#no'],
    ['a blank after =', "A= 'x'\nB='y'\n", 'A', ''],
    ['another after it', "A= 'x'\nB='y'\n", 'B', 'y'],
    ['lines', "A='x\ny'\nB='z'", 'A', 'x\ny'],
    ['a carriage return at the end of a file without a last newline', "A='1'\r\nB='2'\r", 'B', '2'],
  ];
  for (const [name, text, key, want] of table) test(name, () => assert.equal(parseEnvFile(text, key), want));
  const failures: [string, string, RegExp][] = [
    ['no =', 'A\n', /line 1: missing '='/],
    ['a blank before =', "A='1'\nB = 'x'\n", /line 2: whitespace before '=' is not allowed/],
    ['no quotes', 'A=x\n', /must be enclosed in single quotes/],
    ['never closed', "\nA='x\ny\n", /line 2: unclosed single quote/],
    ['more after the quote', "A='x'y\n", /unexpected content after closing quote/],
    ['no name', "='x'\n", /empty variable name/],
  ];
  for (const [name, text, message] of failures) test(`fails: ${name}`, () => assert.throws(() => parseEnvFile(text, 'Q'), message));
});

test("a hook's command: only references to variables that there are change", () => {
  const values = new Map([
    ['A', 'a'],
    ['EMPTY', ''],
    ['REF', '$(A)$&'],
  ]);
  const table: [string, string][] = [
    ['$(A)-$(EMPTY)-$(A)', 'a--a'],
    ['$(REF)', '$(A)$&'],
    ['$$(A)', '$(A)'],
    // A shell's: kubelet runs a hook as it is written.
    ['kill $$; x=$(date); y=$$(date)', 'kill $$; x=$(date); y=$$(date)'],
    ['$(A', '$(A'],
    ['${A} $A', '${A} $A'],
  ];
  for (const [text, expected] of table) assert.deepEqual(expandHookCommand([text], values), [expected], text);
  assert.deepEqual([...referredNames(['$(A)$(B', 'x$$(C)', '$(A)'])], ['A', 'C']);
});

test('the environment that a container was made with, as far as its runtime tells', () => {
  const info = { pid: 1, config: { envs: [{ key: 'A', value: 'a' }, { key: 'EMPTY' }, { key: '__proto__', value: 'p' }, null, {}] } };
  assert.deepEqual(
    [...(madeEnvironment(JSON.stringify(info)) ?? [])],
    [
      ['A', 'a'],
      ['EMPTY', ''],
      ['__proto__', 'p'],
    ],
  );
  for (const text of [undefined, '', 'null', '[]', '{}', '{"config":null}', '{"config":{"envs":"x"}}'])
    assert.equal(madeEnvironment(text), undefined, `${text}`);
});

test('a long text of references that are never closed costs no more than its length', () => {
  const open = '$('.repeat(700_000);
  const started = performance.now();
  assert.equal(
    expand(open, () => 'x', 10_000_000),
    open,
  );
  assert.deepEqual(expandHookCommand([`${open})`.slice(0, -1)], new Map()), [open]);
  assert.equal(referredNames([open]).size, 0);
  // 50 minutes with a regular expression, and the agent stands still meanwhile.
  assert.ok(performance.now() - started < 5_000);
});

test('a hook that makes its command longer than the kernel takes fails, and costs no memory', () => {
  const values = new Map([['A', 'x'.repeat(100_000)]]);
  for (const command of [['$(A)'.repeat(300_000)], Array.from({ length: 100 }, () => '$(A)')])
    assert.throws(() => expandHookCommand(command, values), /longer than \d+ bytes/);
  assert.equal(expandHookCommand(['$(A)'], values)[0]?.length, 100_000);
});

test("hooks' references are those of the regular expression that says what is meant", () => {
  const values = new Map([
    ['A', 'one'],
    ['$(B', 'two'],
  ]);
  const parts = ['$', '(', ')', 'A', '$(A)', '$$(A)', ' ', '$(B)', '$(none)'];
  let seed = 1;
  const random = (below: number): number => {
    seed = (seed * 48_271) % 2_147_483_647;
    return seed % below;
  };
  for (let i = 0; i < 3_000; i++) {
    const text = Array.from({ length: random(12) }, () => parts[random(parts.length)]).join('');
    const expected = text.replace(/\$?\$\(([^)]*)\)/g, (reference, name: string) => {
      const value = values.get(name);
      return value === undefined ? reference : reference.startsWith('$$') ? reference.slice(1) : value;
    });
    assert.deepEqual(expandHookCommand([text], values), [expected], text);
    assert.deepEqual([...referredNames([text])], [...new Set([...text.matchAll(/\$\(([^)]*)\)/g)].map(([, name = '']) => name))], text);
  }
});
