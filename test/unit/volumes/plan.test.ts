import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { unreachable } from '../../../agent/base/errors.ts';
import { cleanPath } from '../../../agent/drivers/mounts/volume-disk.ts';
import type { ConfigMap, Container, Secret, Volume } from '../../../agent/model/generated/api.ts';
import { heldToken } from '../../../agent/model/held-token.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import { plannedMounts } from '../../../agent/volumes/container-mounts.ts';
import { hugePageBytes, tmpfsBytes } from '../../../agent/volumes/empty-dir.ts';
import { nestedMounts } from '../../../agent/volumes/nested.ts';
import { fsUserOf } from '../../../agent/volumes/ownership.ts';
import type { Known } from '../../../agent/volumes/payload.ts';
import { type ObservedVolumes, planVolumes, type TokenState, usedVolumes, type VolumeState } from '../../../agent/volumes/plan.ts';
import { tokenRequestSpec } from '../../../agent/volumes/tokens.ts';

const now = 1_000_000_000;

function podWith(volumes: Volume[], spec: Partial<AgentPod['spec']> = {}, container: Partial<Container> = {}): AgentPod {
  return {
    metadata: { name: 'p', namespace: 'ns', uid: 'u', labels: { a: 'b' } },
    spec: {
      containers: [{ name: 'c', image: 'i', volumeMounts: volumes.map((v) => ({ name: v.name, mountPath: `/${v.name}` })), ...container }],
      volumes,
      ...spec,
    },
  };
}

interface Given {
  states?: Record<string, VolumeState>;
  configMaps?: Record<string, Known<ConfigMap>>;
  secrets?: Record<string, Known<Secret>>;
  tokens?: Record<string, TokenState>;
}

function observed(given: Given): ObservedVolumes {
  return {
    state: (name) => given.states?.[name] ?? { kind: 'none' },
    configMap: (name) => given.configMaps?.[name] ?? { kind: 'unknown' },
    secret: (name) => given.secrets?.[name] ?? { kind: 'unknown' },
    token: (volume, index) => given.tokens?.[`${volume}/${index}`] ?? { kind: 'none' },
  };
}

/** A plan in short: actions as words, waiting as reasons. */
function short(pod: AgentPod, given: Given): { do: string[]; wait: string[]; wakeAt?: number } {
  const plan = planVolumes(pod, observed(given), (p, file) => `${file.fieldRef?.fieldPath}=${p.metadata.name}`, now);
  return {
    do: plan.actions.map((action): string => {
      switch (action.kind) {
        case 'fetch':
          return `fetch ${action.object} ${action.name}`;
        case 'requestToken':
          return `token ${action.volume}/${action.sourceIndex} (${action.reason})`;
        case 'makeEmptyDir':
          return `emptyDir ${action.volume} ${action.medium}${action.sizeLimit ?? ''}`;
        case 'checkHostPath':
          return `hostPath ${action.path} ${action.type}`;
        case 'write':
          return `write ${action.volume}${action.memory ? ' in memory' : ''}: ${[...action.files]
            .map(
              ([path, f]) => `${path}=${Buffer.from(f.data).toString()} ${f.mode.toString(8)}${f.uid === undefined ? '' : ` by ${f.uid}`}`,
            )
            .join(', ')} (${action.reason})`;
        default:
          return unreachable(action);
      }
    }),
    wait: plan.waiting.map((w) => `${w.volume}: ${w.reason}${w.blocking ? '' : ' (old content)'}`),
    ...(plan.wakeAt === undefined ? {} : { wakeAt: plan.wakeAt - now }),
  };
}

const configMap: Volume = { name: 'cm', configMap: { name: 'conf', defaultMode: 0o644 } };
const found: Known<ConfigMap> = { kind: 'found', value: { data: { k: 'v' }, binaryData: { b: Buffer.from('x').toString('base64') } } };
const secret: Volume = { name: 'sec', secret: { secretName: 's', defaultMode: 0o400 } };
const secretFound: Known<Secret> = { kind: 'found', value: { data: { pass: Buffer.from('word').toString('base64') } } };
const api: Volume = {
  name: 'api',
  projected: {
    defaultMode: 0o644,
    sources: [
      { serviceAccountToken: { path: 'token', expirationSeconds: 3607 } },
      { configMap: { name: 'ca', items: [{ key: 'ca.crt', path: 'ca.crt' }] } },
      { downwardAPI: { items: [{ path: 'namespace', fieldRef: { fieldPath: 'metadata.namespace' } }] } },
    ],
  },
};
const ca: Known<ConfigMap> = { kind: 'found', value: { data: { 'ca.crt': 'CA' } } };
const held = (refreshIn: number, expiresIn: number, retryIn?: number): TokenState => ({
  kind: 'held',
  token: { token: 'T', refreshAt: now + refreshIn, expiresAt: now + expiresIn },
  retryAt: retryIn === undefined ? undefined : now + retryIn,
});
const ready: VolumeState = { kind: 'ready', written: undefined };

describe('plan', () => {
  const table: [string, AgentPod, Given, ReturnType<typeof short>][] = [
    ['no volumes', podWith([]), {}, { do: [], wait: [] }],
    ['a volume that no container uses', podWith([configMap], {}, { volumeMounts: [] }), {}, { do: [], wait: [] }],
    ['an emptyDir', podWith([{ name: 'e', emptyDir: {} }]), {}, { do: ['emptyDir e '], wait: [] }],
    ['a volume without a source', podWith([{ name: 'e' }]), {}, { do: ['emptyDir e '], wait: [] }],
    [
      'in memory',
      podWith([{ name: 'e', emptyDir: { medium: 'Memory', sizeLimit: '1Mi' } }]),
      {},
      { do: ['emptyDir e Memory1Mi'], wait: [] },
    ],
    ['made already', podWith([{ name: 'e', emptyDir: {} }]), { states: { e: ready } }, { do: [], wait: [] }],
    ['hostPath', podWith([{ name: 'h', hostPath: { path: '/x', type: 'Socket' } }]), {}, { do: ['hostPath /x Socket'], wait: [] }],
    [
      'a type that is not there yet',
      podWith([{ name: 'd', persistentVolumeClaim: { claimName: 'c' } }]),
      {},
      {
        do: [],
        wait: [
          'd: spec.volumes{d}.persistentVolumeClaim: volumes of this type are not supported by this node; take another type, or keep the pod to nodes that have it',
        ],
      },
    ],
    [
      'a configMap not asked for',
      podWith([configMap]),
      {},
      { do: ['fetch configmap conf'], wait: ['cm: configmap "conf" has not been read yet'] },
    ],
    [
      'asked for once',
      podWith([configMap, { ...configMap, name: 'again' }]),
      {},
      {
        do: ['fetch configmap conf'],
        wait: ['cm: configmap "conf" has not been read yet', 'again: configmap "conf" has not been read yet'],
      },
    ],
    ['not there', podWith([configMap]), { configMaps: { conf: { kind: 'absent' } } }, { do: [], wait: ['cm: configmap "conf" not found'] }],
    [
      'gone while in use',
      podWith([configMap]),
      { configMaps: { conf: { kind: 'absent' } }, states: { cm: ready } },
      { do: [], wait: ['cm: configmap "conf" not found (old content)'] },
    ],
    [
      'optional and not there',
      podWith([{ name: 'cm', configMap: { name: 'conf', optional: true, items: [{ key: 'k', path: 'p' }] } }]),
      { configMaps: { conf: { kind: 'absent' } } },
      { do: ['write cm:  (not there yet)'], wait: [] },
    ],
    ['there', podWith([configMap]), { configMaps: { conf: found } }, { do: ['write cm: k=v 644, b=x 644 (not there yet)'], wait: [] }],
    [
      'items with modes',
      podWith([
        {
          name: 'cm',
          configMap: {
            name: 'conf',
            items: [
              { key: 'k', path: 'd/k', mode: 0o400 },
              { key: 'b', path: 'b' },
            ],
          },
        },
      ]),
      { configMaps: { conf: found }, states: { cm: ready } },
      { do: ['write cm: d/k=v 400, b=x 644 (written before this agent started)'], wait: [] },
    ],
    [
      'an item that is not there',
      podWith([{ name: 'cm', configMap: { name: 'conf', items: [{ key: 'z', path: 'z' }] } }]),
      { configMaps: { conf: found } },
      { do: [], wait: ['cm: configmap references non-existent config key: z'] },
    ],
    [
      'changed',
      podWith([configMap]),
      { configMaps: { conf: found }, states: { cm: { kind: 'ready', written: 'other' } } },
      { do: ['write cm: k=v 644, b=x 644 (its content has changed)'], wait: [] },
    ],
    [
      'a secret is kept in memory',
      podWith([secret]),
      { secrets: { s: secretFound } },
      { do: ['write sec in memory: pass=word 400 (not there yet)'], wait: [] },
    ],
    [
      'a secret the node may not read',
      podWith([secret]),
      { secrets: { s: { kind: 'failed', message: 'forbidden' } } },
      { do: [], wait: ['sec: forbidden'] },
    ],
    [
      'a write that failed',
      podWith([configMap]),
      { configMaps: { conf: found }, states: { cm: { kind: 'failed', message: 'disk full', whole: false } } },
      { do: [], wait: ['cm: disk full'] },
    ],
    [
      'the API volume, nothing known',
      podWith([api]),
      {},
      {
        do: ['token api/0 (the pod has none yet)', 'fetch configmap ca'],
        wait: ['api: [the service account token has not been issued yet, configmap "ca" has not been read yet]'],
      },
    ],
    [
      'what is missing is told before what is only awaited',
      podWith([api]),
      { configMaps: { ca: { kind: 'absent' } } },
      { do: ['token api/0 (the pod has none yet)'], wait: ['api: configmap "ca" not found'] },
    ],
    [
      'the API volume, all known',
      podWith([api]),
      { configMaps: { ca }, tokens: { 'api/0': held(1000, 2000) } },
      {
        do: ['write api in memory: token=T 644, ca.crt=CA 644, namespace=metadata.namespace=p 644 (not there yet)'],
        wait: [],
        wakeAt: 1000,
      },
    ],
    [
      'a token belongs to the one user of the pod',
      podWith([api], { securityContext: { runAsUser: 1000 } }),
      { configMaps: { ca }, tokens: { 'api/0': held(1000, 2000) } },
      {
        do: ['write api in memory: token=T 600 by 1000, ca.crt=CA 644, namespace=metadata.namespace=p 644 (not there yet)'],
        wait: [],
        wakeAt: 1000,
      },
    ],
    [
      'a token that is due',
      podWith([api]),
      {
        configMaps: { ca },
        tokens: { 'api/0': held(0, 2000) },
        states: { api: { kind: 'ready', written: '4T9BCcHzHTp9XTMtfMEbLCOgkN1fUVCn38R1p1TcDbQ=' } },
      },
      {
        do: [
          'token api/0 (it is due to be renewed)',
          'write api in memory: token=T 644, ca.crt=CA 644, namespace=metadata.namespace=p 644 (its content has changed)',
        ],
        wait: [],
      },
    ],
    [
      'a token that could not be renewed',
      podWith([api]),
      { configMaps: { ca }, tokens: { 'api/0': held(-5, 2000, 300) }, states: { api: ready } },
      {
        do: ['write api in memory: token=T 644, ca.crt=CA 644, namespace=metadata.namespace=p 644 (written before this agent started)'],
        wait: [],
        wakeAt: 300,
      },
    ],
    [
      'a token that has expired',
      podWith([api]),
      { configMaps: { ca }, tokens: { 'api/0': held(-500, -1, 300) }, states: { api: ready } },
      { do: [], wait: ['api: token expired and refresh failed (old content)'], wakeAt: 300 },
    ],
    [
      'a token that cannot be had',
      podWith([api]),
      { configMaps: { ca }, tokens: { 'api/0': { kind: 'failed', message: 'failed to fetch token: x', retryAt: now + 10 } } },
      { do: [], wait: ['api: failed to fetch token: x'], wakeAt: 10 },
    ],
    [
      'gates that are off',
      podWith([{ name: 'x', projected: { sources: [{ clusterTrustBundle: { path: 'p', name: 'n' } }] } }]),
      {},
      { do: [], wait: ['x: ClusterTrustBundle projection is not supported because the ClusterTrustBundleProjection feature gate is off'] },
    ],
  ];
  for (const [name, pod, given, want] of table) test(name, () => assert.deepEqual(short(pod, given), want));

  test('what has been written is not written again', () => {
    const pod = podWith([configMap]);
    const [action] = planVolumes(pod, observed({ configMaps: { conf: found } }), () => '', now).actions;
    assert.ok(action?.kind === 'write');
    assert.deepEqual(short(pod, { configMaps: { conf: found }, states: { cm: { kind: 'ready', written: action.fingerprint } } }), {
      do: [],
      wait: [],
    });
  });
  test('a volume that only an env file needs is used', () => {
    const env = [{ name: 'A', valueFrom: { fileKeyRef: { volumeName: 'e', path: 'p', key: 'k' } } }];
    assert.deepEqual(
      usedVolumes(podWith([{ name: 'e' }], {}, { volumeMounts: [], env })).map((v) => v.name),
      ['e'],
    );
  });
});

describe('tokens', () => {
  const pod = podWith([]);
  test('what is asked for', () =>
    assert.deepEqual(tokenRequestSpec(pod, { path: 't', audience: 'vault' }), {
      audiences: ['vault'],
      expirationSeconds: 3600,
      boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name: 'p', uid: 'u' },
    }));
  const iso = (ms: number): string => new Date(ms).toISOString();
  const day = 86_400;
  const table: [string, number, number, number][] = [
    ['an hour: after 80 %', 3600, 0, 2880],
    ['jittered', 3600, 0.5, 2875],
    ['ten days: after one', 10 * day, 0, day],
  ];
  for (const [name, seconds, random, want] of table) {
    test(name, () => {
      const token = heldToken(
        { spec: { expirationSeconds: seconds }, status: { token: 'T', expirationTimestamp: iso(now + seconds * 1000) } },
        now,
        random,
      );
      assert.equal(((token?.refreshAt ?? 0) - now) / 1000, want);
    });
  }
  for (const [name, ahead] of [
    ['most of its life', 3000],
    ['more than its life', 7200],
  ] as const) {
    test(`a clock that is ahead by ${name}: the token is used, and renewed in a minute`, () => {
      const answer = { spec: { expirationSeconds: 3600 }, status: { token: 'T', expirationTimestamp: iso(now + (3600 - ahead) * 1000) } };
      const token = heldToken(answer, now, 0) ?? assert.fail();
      assert.deepEqual(short(podWith([api]), { configMaps: { ca }, tokens: { 'api/0': { kind: 'held', token, retryAt: undefined } } }), {
        do: ['write api in memory: token=T 644, ca.crt=CA 644, namespace=metadata.namespace=p 644 (not there yet)'],
        wait: [],
        wakeAt: 60_000,
      });
    });
  }
  test('an answer without a token', () => assert.equal(heldToken({}, now, 0), undefined));
});

describe('owners', () => {
  const c = (name: string, runAsUser?: number): Container => ({
    name,
    image: 'i',
    ...(runAsUser === undefined ? {} : { securityContext: { runAsUser } }),
  });
  const table: [string, Container[], number | undefined, number | undefined][] = [
    ['none', [c('a')], undefined, undefined],
    ['the pod', [c('a'), c('b')], 5, 5],
    ['all the same', [c('a', 7), c('b', 7)], undefined, 7],
    ['one without', [c('a', 7), c('b')], undefined, undefined],
    ['different', [c('a', 7), c('b')], 8, undefined],
  ];
  for (const [name, containers, podUser, want] of table) {
    test(name, () =>
      assert.equal(
        fsUserOf(podWith([], { containers, ...(podUser === undefined ? {} : { securityContext: { runAsUser: podUser } }) })),
        want,
      ),
    );
  }
});

test('mount points inside of read-only mounts', () => {
  const nested = (...mounts: [containerPath: string, readOnly: boolean, isOwn: boolean][]): string[] =>
    nestedMounts(
      mounts.map(([containerPath, readOnly, isOwn]) => ({ containerPath, hostPath: `/host${containerPath}`, readOnly, isOwn })),
    ).map(({ outer, path, inner }) => `${outer.containerPath} ${path} ${inner.hostPath}`);
  const table: [string, [string, boolean, boolean][], string[]][] = [
    [
      'each in the innermost that is around it, outer ones first',
      [
        ['/dir/nested/other', true, true],
        ['/dir/p/q/', false, true],
        ['/dir', true, true],
        ['/dir/nested', true, true],
        ['/dir/nested-vol', false, false],
        ['/dir2/x', true, true],
      ],
      [
        '/dir p/q /host/dir/p/q/',
        '/dir nested /host/dir/nested',
        '/dir nested-vol /host/dir/nested-vol',
        '/dir/nested other /host/dir/nested/other',
      ],
    ],
    [
      'a runtime makes its own in what it may write',
      [
        ['/dir', false, true],
        ['/dir/x', true, true],
      ],
      [],
    ],
    [
      "nothing is made in the node's own files",
      [
        ['/dir', true, false],
        ['/dir/x', true, true],
      ],
      [],
    ],
    [
      'the same place twice is no nesting',
      [
        ['/dir', true, true],
        ['/dir/', true, true],
      ],
      [],
    ],
  ];
  for (const [name, mounts, expected] of table) assert.deepEqual(nested(...mounts).sort(), expected.toSorted(), name);
  assert.deepEqual(nested(['/a/b/c', true, true], ['/a/b', true, true], ['/a', true, true]), ['/a b /host/a/b', '/a/b c /host/a/b/c']);
  assert.throws(() => nested(['/v', true, true], ['../x', true, true]), /invalid container mount point/);
});

test('sizes in memory', () => {
  const Mi = 1 << 20;
  assert.equal(tmpfsBytes(100 * Mi, undefined, undefined), 100 * Mi);
  assert.equal(tmpfsBytes(100 * Mi, 50 * Mi, undefined), 50 * Mi);
  assert.equal(tmpfsBytes(100 * Mi, 50 * Mi, '10Mi'), 10 * Mi);
  assert.equal(tmpfsBytes(100 * Mi, 0, '200Mi'), 100 * Mi);
  assert.equal(tmpfsBytes(undefined, undefined, undefined), undefined);
  const huge = podWith([], {}, { resources: { requests: { 'hugepages-2Mi': '4Mi' } } });
  assert.equal(hugePageBytes('HugePages', huge), 2 * Mi);
  assert.equal(hugePageBytes('HugePages-2Mi', huge), 2 * Mi);
  assert.throws(() => hugePageBytes('HugePages-1Gi', huge), /there is no resource request for huge pages/);
});

describe('mounts of a container', () => {
  const volumes: Volume[] = [
    configMap,
    { name: 'e', emptyDir: {} },
    { name: 'h', hostPath: { path: '/host' } },
    { name: 'img', image: { reference: 'r' } },
  ];
  const settings = {
    rootDir: '/root',
    expandSubPath: (text: string) => (text === '$(X)' ? { path: '', missing: ['X'] } : { path: text.replace('$(A)', 'a'), missing: [] }),
    recursiveReadOnlySupported: false,
  };
  const plan = (
    mount: NonNullable<Container['volumeMounts']>[number],
    change = {},
  ): ReturnType<typeof plannedMounts>[number] | undefined => {
    const pod = podWith(volumes, {}, { volumeMounts: [mount] });
    return plannedMounts(pod, pod.spec.containers[0] as Container, { ...settings, ...change })[0];
  };
  const base = {
    index: 0,
    subPath: '',
    readOnly: false,
    recursiveReadOnly: false,
    propagation: 'PROPAGATION_PRIVATE',
    selinuxRelabel: true,
    isOwn: true,
  };
  test('API data is read-only', () =>
    assert.deepEqual(plan({ name: 'cm', mountPath: 'etc' }), {
      ...base,
      volume: 'cm',
      base: '/root/pods/u/volumes/kubernetes.io~configmap/cm',
      containerPath: '/etc',
      readOnly: true,
    }));
  test('an emptyDir with everything', () =>
    assert.deepEqual(
      plan(
        { name: 'e', mountPath: '/e', readOnly: true, subPathExpr: 'x/$(A)', recursiveReadOnly: 'Enabled' },
        { recursiveReadOnlySupported: true },
      ),
      {
        ...base,
        volume: 'e',
        base: '/root/pods/u/volumes/kubernetes.io~empty-dir/e',
        containerPath: '/e',
        subPath: 'x/a',
        readOnly: true,
        recursiveReadOnly: true,
      },
    ));
  test('the node', () =>
    assert.deepEqual(plan({ name: 'h', mountPath: '/h', mountPropagation: 'Bidirectional' }), {
      ...base,
      volume: 'h',
      base: '/host',
      containerPath: '/h',
      propagation: 'PROPAGATION_BIDIRECTIONAL',
      selinuxRelabel: false,
      isOwn: false,
    }));
  test('an image has no directory', () => assert.equal(plan({ name: 'img', mountPath: '/i' })?.base, undefined));
  const failures: [string, NonNullable<Container['volumeMounts']>[number], RegExp][] = [
    ['unknown volume', { name: 'z', mountPath: '/z' }, /cannot find volume "z" to mount into container "c"/],
    ['absolute subPath', { name: 'e', mountPath: '/e', subPath: '/x' }, /must not be an absolute path/],
    ['backsteps', { name: 'e', mountPath: '/e', subPath: 'a/../..' }, /must not contain '\.\.'/],
    ['no value', { name: 'e', mountPath: '/e', subPathExpr: '$(X)' }, /missing value for X/],
    ['recursive without read-only', { name: 'e', mountPath: '/e', recursiveReadOnly: 'IfPossible' }, /but it is not read-only/],
    [
      'recursive without support',
      { name: 'e', mountPath: '/e', readOnly: true, recursiveReadOnly: 'Enabled' },
      /not supported by the runtime/,
    ],
  ];
  for (const [name, mount, message] of failures) test(`fails: ${name}`, () => assert.throws(() => plan(mount), message));
});

test('paths of files', () => {
  assert.equal(cleanPath('a//b/./c'), 'a/b/c');
  for (const bad of ['', '/a', 'a/../b', '..x', '..', 'x'.repeat(256)]) assert.throws(() => cleanPath(bad), /invalid path/, bad);
});
