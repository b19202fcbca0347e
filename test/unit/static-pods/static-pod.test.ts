import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hasCode } from '../../../agent/base/errors.ts';
import { podLogDirectory } from '../../../agent/pods/sandbox-config.ts';
import { type ManifestContext, parseManifest } from '../../../agent/pods/static-pod.ts';
import { podDir } from '../../../agent/volumes/layout.ts';

const context: ManifestContext = {
  origin: '/manifests/web.yaml',
  source: 'file',
  nodeName: 'Node-1',
  now: Date.UTC(2026, 0, 2, 3, 4, 5),
  unknownFields: 'refuse',
  allowApiReferences: false,
};

const plain = 'apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: app\n    image: busybox:1\n';

function one(text: string, overrides: Partial<ManifestContext> = {}) {
  const { pods } = parseManifest(text, { ...context, ...overrides });
  const [pod] = pods;
  assert.ok(pod);
  assert.equal(pods.length, 1);
  return pod;
}

test("a pod gets the node's name, an identity and what the API server would fill in", () => {
  const pod = one(plain);
  const { uid } = pod.metadata;
  assert.match(uid, /^[0-9a-f]{32}$/);
  assert.deepEqual(pod, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: 'web-node-1',
      namespace: 'default',
      uid,
      annotations: {
        'kubernetes.io/config.hash': uid,
        'kubernetes.io/config.source': 'file',
        'kubernetes.io/config.seen': '2026-01-02T03:04:05.000Z',
      },
    },
    spec: {
      containers: [
        {
          name: 'app',
          image: 'busybox:1',
          imagePullPolicy: 'IfNotPresent',
          terminationMessagePath: '/dev/termination-log',
          terminationMessagePolicy: 'File',
          resources: {},
        },
      ],
      restartPolicy: 'Always',
      dnsPolicy: 'ClusterFirst',
      terminationGracePeriodSeconds: 30,
      schedulerName: 'default-scheduler',
      enableServiceLinks: true,
      securityContext: {},
      nodeName: 'Node-1',
      tolerations: [{ operator: 'Exists', effect: 'NoExecute' }],
    },
    status: { phase: 'Pending' },
  });
});

test('defaults of ports, probes, volumes, resources and host networking', () => {
  const pod = one(`
apiVersion: v1
kind: Pod
metadata: {name: web, creationTimestamp: null}
spec:
  hostNetwork: true
  containers:
  - name: app
    image: busybox
    ports: [{containerPort: 80}]
    resources: {limits: {cpu: 1, memory: 64Mi}, requests: {memory: 32Mi}}
    readinessProbe: {httpGet: {port: 80}}
    env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    volumeMounts: [{name: tmp, mountPath: /tmp}, {name: info, mountPath: /info}]
  volumes:
  - name: tmp
  - {name: data, image: {reference: 'busybox:1'}}
  - name: host
    hostPath: {path: /srv}
  - name: info
    downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}], defaultMode: 0600}
status: {}
`);
  const [app] = pod.spec.containers;
  assert.equal(app?.imagePullPolicy, 'Always');
  assert.deepEqual(app?.ports, [{ containerPort: 80, protocol: 'TCP', hostPort: 80 }]);
  assert.deepEqual(app?.resources, { limits: { cpu: '1', memory: '64Mi' }, requests: { cpu: '1', memory: '32Mi' } });
  assert.deepEqual(app?.readinessProbe, {
    httpGet: { port: 80, path: '/', scheme: 'HTTP' },
    timeoutSeconds: 1,
    periodSeconds: 10,
    successThreshold: 1,
    failureThreshold: 3,
  });
  assert.equal(app?.env?.[0]?.valueFrom?.fieldRef?.apiVersion, 'v1');
  assert.deepEqual(pod.spec.volumes, [
    { name: 'tmp', emptyDir: {} },
    { name: 'data', image: { reference: 'busybox:1', pullPolicy: 'IfNotPresent' } },
    { name: 'host', hostPath: { path: '/srv', type: '' } },
    {
      name: 'info',
      downwardAPI: { items: [{ path: 'labels', fieldRef: { fieldPath: 'metadata.labels', apiVersion: 'v1' } }], defaultMode: 0o600 },
    },
  ]);
});

const podLevel: [name: string, pod: string, app: string, want: object][] = [
  ['limits alone', '{limits: {cpu: 2, memory: 1Gi}}', '{}', { limits: { cpu: '2', memory: '1Gi' }, requests: { cpu: '2', memory: '1Gi' } }],
  [
    'limits, and a container that asks for less',
    '{limits: {cpu: 2, memory: 1Gi}}',
    '{requests: {cpu: 500m}}',
    { limits: { cpu: '2', memory: '1Gi' }, requests: { cpu: '500m', memory: '1Gi' } },
  ],
  [
    'huge pages of a container',
    '{requests: {cpu: 1}}',
    '{limits: {hugepages-2Mi: 4Mi, memory: 64Mi}}',
    { requests: { cpu: '1', memory: '64Mi', 'hugepages-2Mi': '4Mi' }, limits: { 'hugepages-2Mi': '4Mi' } },
  ],
  ['requests alone', '{requests: {cpu: 1}}', '{requests: {memory: 64Mi}}', { requests: { cpu: '1' } }],
  ['nothing', '{}', '{limits: {cpu: 1}}', {}],
];
for (const [name, ofPod, ofApp, want] of podLevel) {
  test(`defaults of pod-level resources: ${name}`, () => {
    const pod = one(`
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  resources: ${ofPod}
  containers:
  - {name: app, image: busybox, resources: ${ofApp}}
`);
    assert.deepEqual(pod.spec.resources, want);
  });
}

test('the UID follows what the manifest says and where it lies, not how it is written', () => {
  const { uid } = one(plain).metadata;
  assert.equal(one(plain.replace('spec:', '# a comment\nspec:')).metadata.uid, uid);
  const json = '{"kind":"Pod","apiVersion":"v1","spec":{"containers":[{"image":"busybox:1","name":"app"}]},"metadata":{"name":"web"}}';
  assert.equal(one(json).metadata.uid, uid);
  assert.notEqual(one(plain.replace('busybox:1', 'busybox:2')).metadata.uid, uid);
  assert.notEqual(one(plain, { origin: '/manifests/other.yaml' }).metadata.uid, uid);
  assert.notEqual(one(plain, { nodeName: 'node-2' }).metadata.uid, uid);
  assert.equal(one(plain.replace('name: web', 'name: web\n  uid: my-own')).metadata.uid, 'my-own');
});

test('lists, and pods from a URL', () => {
  const item = plain.replace('apiVersion: v1\nkind: Pod\n', '').replaceAll('\n', '\n  ');
  const { pods } = parseManifest(
    `apiVersion: v1\nkind: PodList\nitems:\n- ${item}\n- ${item.replace('name: web', 'name: other')}`,
    context,
  );
  assert.deepEqual(
    pods.map((p) => p.metadata.name),
    ['web-node-1', 'other-node-1'],
  );
  const pod = one(plain, { source: 'http', origin: 'http://127.0.0.1/pods' });
  assert.equal(pod.metadata.annotations?.['kubernetes.io/config.source'], 'http');
  assert.equal(pod.spec.tolerations, undefined);
});

const other = plain.replace('name: web', 'name: other');
const service = 'apiVersion: v1\nkind: Service\nmetadata:\n  name: front\n';
const inCluster: ManifestContext = { ...context, unknownFields: 'warn' };

function taken(text: string, overrides: Partial<ManifestContext> = {}) {
  const { pods, warnings, passedOver } = parseManifest(text, { ...context, ...overrides });
  return { pods: pods.map((pod) => pod.metadata.name), warnings, passedOver };
}

test('beside an API server the first document counts, as with kubelet', () => {
  const rest = '/manifests/web.yaml: only the first YAML document is used; put';
  assert.deepEqual(taken(`${plain}---\n${other}`, inCluster), {
    pods: ['web-node-1'],
    warnings: [`${rest} the other 1 into files of their own`],
    passedOver: [],
  });
  assert.deepEqual(taken(`${plain}---\na: [\n`, inCluster).warnings, [`${rest} the others into files of their own`]);
  for (const text of [`---\n${plain}---\n`, `# License\n---\n---\n${plain}...\n`, `\ufeff${plain}`, plain.replaceAll('\n', '\r\n')])
    assert.deepEqual(taken(text, inCluster), { pods: ['web-node-1'], warnings: [], passedOver: [] });
  assert.throws(() => parseManifest(`${service}---\n${plain}`, inCluster), {
    message: /only Pods can run from a manifest.*not v1 Service/,
  });
});

test('beside an API server the last of two like keys counts, and a warning names file, line and key', () => {
  const text = plain.replace('    image: busybox:1\n', '    image: busybox:1\n    image: busybox:2\n');
  const { pods, warnings } = parseManifest(text, inCluster);
  assert.equal(pods[0]?.spec.containers[0]?.image, 'busybox:2');
  assert.deepEqual(warnings, [
    '/manifests/web.yaml: line 9: the key "image" stands more than once in spec.containers[0]; the last one counts',
  ]);
  assert.throws(() => parseManifest(text, context), {
    code: 'InvalidManifest',
    message: '/manifests/web.yaml: line 9: the key "image" stands more than once in spec.containers[0]',
  });
});

test('by itself a file gives every Pod it holds, and a word for what else there is', () => {
  assert.deepEqual(taken(`---\n# Source: web/templates/pod.yaml\n${plain}---\n${service}---\n# nothing\n---\n${other}---\n`), {
    pods: ['web-node-1', 'other-node-1'],
    warnings: [],
    passedOver: ['/manifests/web.yaml: document 2: Service front is passed over: without a cluster only Pods run'],
  });
  const list = `apiVersion: v1\nkind: List\nitems:\n- ${plain.replaceAll('\n', '\n  ')}\n- ${service.replaceAll('\n', '\n  ')}\n`;
  assert.deepEqual(taken(list), {
    pods: ['web-node-1'],
    warnings: [],
    passedOver: ['/manifests/web.yaml: Service front is passed over: without a cluster only Pods run'],
  });
  assert.deepEqual(taken('replicas: 3\nimage: {tag: 1}\n', { origin: '/manifests/values.yaml' }).passedOver, [
    '/manifests/values.yaml: is passed over: no Kubernetes object',
  ]);
  assert.throws(() => parseManifest(`${plain}---\n${other.replace('image:', 'imag:')}`, context), {
    message: /document 2: spec\.containers\[0\]\.imag: unknown field; document 2: spec\.containers\[0\]\.image: required/,
  });
});

test('by itself a file that is no manifest is passed over, whatever is in it', () => {
  const word = ['/manifests/README.md is passed over: it is no manifest'];
  for (const text of ['# Title\n\nText: with *stars* and `ticks`.\n', 'plain words', '', '- a\n- b\n', 'a: [', '\t\0'])
    assert.deepEqual(taken(text, { origin: '/manifests/README.md' }), { pods: [], warnings: [], passedOver: word });
  assert.deepEqual(taken(plain, { origin: '/manifests/web' }).pods, ['web-node-1']);
  for (const text of ['', 'just words', '- a\n', 'a: [', 'apiVersion: v1\n', 'kind: Pod\nspec: {}\n', 'apiVersion: v1\nkind: pod\n'])
    assert.throws(() => parseManifest(text, context), { code: 'InvalidManifest' }, text);
});

test('what looks like base 60, octal or a boolean means what it means to kubelet', () => {
  const text = plain.replace(
    '  name: web',
    '  name: web\n  annotations:\n    mac: 02:42:ac:11:00:02\n    at: 12:30:45\n    ports: 2222:22',
  );
  const { annotations } = one(text).metadata;
  assert.deepEqual([annotations?.mac, annotations?.at, annotations?.ports], ['02:42:ac:11:00:02', '12:30:45', '2222:22']);
});

const container = (rest: string): string => plain + rest.replace(/^/gm, '    ');
const spec = (rest: string): string => plain + rest.replace(/^/gm, '  ');

const refused: readonly (readonly [what: string, text: string, problem: string])[] = [
  ['nothing', '', 'the file is empty: it should hold a Pod'],
  ['broken YAML', 'a: [', 'not YAML: line 1: Flow sequence in block collection must be sufficiently indented and end with a ]'],
  [
    'another kind',
    plain.replace('kind: Pod', 'kind: Pods'),
    'only Pods can run from a manifest (apiVersion: v1, kind: Pod, PodList or List), not v1 Pods',
  ],
  ['no name', plain.replace('  name: web', '  labels: {a: b}'), 'metadata.name: required'],
  ['a bad name', plain.replace('name: web', 'name: Web_1'), 'metadata.name: "Web_1-node-1" is no name'],
  ['an unknown field', container('comand: [sh]'), 'spec.containers[0].comand: unknown field'],
  ['an unknown field at the top', `${plain}spek: {}\n`, 'spek: unknown field'],
  [
    'a number for text',
    plain.replace('name: web', 'name: web\n  labels: {version: 1.20}'),
    'metadata.labels[version]: must be text (quote it), not 1.2',
  ],
  ['text for a list', container('command: sh'), 'spec.containers[0].command: must be a list, not "sh"'],
  ['no container', plain.replace(/ {2}containers:[\s\S]*/, '  containers: []\n'), 'spec.containers: must have at least one container'],
  ['no containers', plain.replace(/ {2}containers:[\s\S]*/, '  hostNetwork: true\n'), 'spec.containers: required'],
  ['two of one name', spec('- name: app\n  image: x'), 'spec.containers[1].name: "app" is there twice'],
  ['no image', plain.replace('    image: busybox:1\n', ''), 'spec.containers[0].image: required'],
  [
    'an unknown volume',
    container('volumeMounts: [{name: data, mountPath: /data}]'),
    'spec.containers[0].volumeMounts[0].name: the pod has no volume "data"',
  ],
  ['an unknown policy', spec('restartPolicy: Sometimes'), 'spec.restartPolicy: must be one of Always, OnFailure, Never, not "Sometimes"'],
  [
    'requests over limits',
    container('resources: {limits: {cpu: 1}, requests: {cpu: 2}}'),
    'spec.containers[0].resources.requests[cpu]: 2 is more than the limit of 1',
  ],
  [
    'a quantity that is none',
    container('resources: {limits: {cpu: much}}'),
    'spec.containers[0].resources.limits[cpu]: must be a quantity such as 100m or 64Mi, not "much"',
  ],
  [
    'a probe of two kinds',
    container('livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 1}}'),
    'spec.containers[0].livenessProbe: must have exactly one of',
  ],
  [
    'a Secret in the environment',
    container('env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]'),
    'spec.containers[0].env[0].valueFrom.secretKeyRef: static pods may not reference secrets',
  ],
  [
    'a ConfigMap as environment',
    container('envFrom: [{configMapRef: {name: c}}]'),
    'spec.containers[0].envFrom[0].configMapRef: static pods may not reference configmaps',
  ],
  [
    'a Secret volume',
    spec('volumes: [{name: s, secret: {secretName: s}}]'),
    'spec.volumes[0].secret: static pods may not reference secrets (via secret volumes)',
  ],
  [
    'a claim',
    spec('volumes: [{name: s, persistentVolumeClaim: {claimName: c}}]'),
    'spec.volumes[0].persistentVolumeClaim: static pods may not reference persistentvolumeclaims',
  ],
  [
    'a token',
    spec('volumes: [{name: t, projected: {sources: [{serviceAccountToken: {path: t}}]}}]'),
    'spec.volumes[0].projected.sources[0].serviceAccountToken: static pods may not reference serviceaccounts (via projected volumes)',
  ],
  ['a service account', spec('serviceAccountName: me'), 'spec.serviceAccountName: static pods may not reference serviceaccounts'],
  ['pull secrets', spec('imagePullSecrets: [{name: s}]'), 'spec.imagePullSecrets: static pods may not reference secrets'],
  [
    'a resource claim',
    spec('resourceClaims: [{name: gpu, resourceClaimName: gpu}]'),
    'spec.resourceClaims: static pods may not reference resourceclaims',
  ],
];

for (const [what, text, problem] of refused) {
  test(`refused: ${what}`, () => {
    assert.throws(
      () => parseManifest(text, context),
      (error: unknown) => {
        assert.ok(hasCode(error, 'InvalidManifest'), String(error));
        assert.ok(error.message.startsWith('/manifests/web.yaml: '), error.message);
        assert.ok(error.message.includes(problem), `${error.message}\nlacks: ${problem}`);
        return true;
      },
    );
  });
}

test('every problem is told at once', () => {
  assert.throws(
    () => parseManifest(container('comand: [sh]\nimagePullPolicy: Rarely\nvolumeMounts: [{name: x, mountPath: /x}]'), context),
    {
      message:
        '/manifests/web.yaml: spec.containers[0].comand: unknown field; ' +
        'spec.containers[0].imagePullPolicy: must be one of Always, IfNotPresent, Never, not "Rarely"; ' +
        'spec.containers[0].volumeMounts[0].name: the pod has no volume "x"',
    },
  );
});

test('in a cluster an unknown field is only told, and with the gate off API objects may be named', () => {
  const { pods, warnings } = parseManifest(container('comand: [sh]'), { ...context, unknownFields: 'warn' });
  assert.equal(pods.length, 1);
  assert.deepEqual(warnings, ['/manifests/web.yaml: spec.containers[0].comand: unknown field, ignored']);
  assert.equal(one(spec('serviceAccountName: me'), { allowApiReferences: true }).spec.serviceAccountName, 'me');
});

test('what looks like a date in YAML stays text', () => {
  assert.equal(one(plain.replace('name: web', 'name: web\n  labels: {day: 2026-01-02}')).metadata.labels?.day, '2026-01-02');
});

test("a UID that names another place is refused, and a pod's folder is never made of it", () => {
  const withUid = (uid: string): string => plain.replace('name: web', `name: web\n  uid: ${JSON.stringify(uid)}`);
  assert.equal(one(withUid('My.own-1')).metadata.uid, 'My.own-1');
  assert.match(one(withUid('')).metadata.uid, /^[0-9a-f]{32}$/);
  for (const uid of ['..', '.', '../../../home', 'a/b', '/etc', 'a_b', 'a\0', 'x'.repeat(200)])
    for (const unknownFields of ['refuse', 'warn'] as const)
      assert.throws(
        () => parseManifest(withUid(uid), { ...context, unknownFields }),
        (error) => hasCode(error, 'InvalidManifest') && error.message.includes('metadata.uid:'),
      );
  // Also where a UID came another way: the label of a sandbox, an API server.
  for (const uid of ['', '.', '..', '../../home', 'a/b', 'a\0']) {
    assert.throws(
      () => podDir('/var/lib/kubelet', uid),
      (error) => hasCode(error, 'InvalidArgument'),
    );
    assert.throws(
      () => podLogDirectory('/var/log/pods', { namespace: 'ns', name: 'n', uid }),
      (error) => hasCode(error, 'InvalidArgument'),
    );
  }
});
