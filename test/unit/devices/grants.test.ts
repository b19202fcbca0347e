import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  askedDevices,
  byNumaNode,
  type Choice,
  type ChoiceInput,
  chooseDevices,
  fillChoice,
  type Grant,
  healthOf,
  partsOf,
  reusableDevices,
  takenDevices,
} from '../../../agent/devices/grants.ts';
import { devicesOf, stoppedOffer } from '../../../agent/devices/offers.ts';
import { container, pod } from '../pods/build.ts';

const gpu = 'v.example/gpu';
const given = (name: string, ids: string[], more: Partial<Grant> = {}): Grant => ({
  container: name,
  resource: gpu,
  devices: { '-1': ids },
  response: {},
  ...more,
});
const offer = (healthy: string[], unhealthy: string[] = []) => ({
  devices: devicesOf([...healthy.map((ID) => ({ ID, health: 'Healthy' })), ...unhealthy.map((ID) => ({ ID, health: 'Unhealthy' }))]),
  stoppedAt: undefined,
});

const input: ChoiceInput = { resource: gpu, needed: 2, held: undefined, reusable: [], offer: offer(['a', 'b', 'c']), taken: new Set() };
const choices: [string, Partial<ChoiceInput>, Choice | RegExp][] = [
  ['free ones', {}, { kind: 'take', reused: [], missing: 2, available: ['a', 'b', 'c'] }],
  ['not those that others have', { taken: new Set(['b']) }, { kind: 'take', reused: [], missing: 2, available: ['a', 'c'] }],
  ['nor those that are not well', { offer: offer(['a', 'c'], ['b']) }, { kind: 'take', reused: [], missing: 2, available: ['a', 'c'] }],
  [
    "an init container's first",
    { reusable: ['b'], taken: new Set(['b']) },
    { kind: 'take', reused: ['b'], missing: 1, available: ['a', 'c'] },
  ],
  ['it has them', { held: ['a', 'b'], taken: new Set(['a', 'b']) }, { kind: 'held' }],
  [
    'it has them, and one is not well any more',
    { held: ['a', 'b'], offer: offer(['a'], ['b']) },
    /previously allocated devices are no longer healthy/,
  ],
  ['it has others than it asks for', { held: ['a'] }, /changed its request for resource v\.example\/gpu from 1 to 2/],
  ['too few', { taken: new Set(['a', 'b']) }, /^requested number of devices unavailable for v\.example\/gpu\. Requested: 2, Available: 1$/],
  ['no plugin', { offer: undefined }, /^cannot allocate unregistered device v\.example\/gpu$/],
  ['a plugin that has not told', { offer: { devices: undefined, stoppedAt: undefined } }, /cannot allocate unregistered device/],
  [
    'a plugin that went',
    { offer: stoppedOffer(offer(['a', 'b']), 0) },
    /^no healthy devices present; cannot allocate unhealthy devices v\.example\/gpu$/,
  ],
];
for (const [name, change, expected] of choices)
  test(`choosing: ${name}`, () => {
    const choice = chooseDevices({ ...input, ...change });
    if (expected instanceof RegExp) assert.match(choice.kind === 'refused' ? choice.message : choice.kind, expected);
    else assert.deepEqual(choice, expected);
  });

test('what the plugin prefers comes first, as far as it is to be had; the rest fills up', () => {
  const choice = { kind: 'take' as const, reused: ['r'], missing: 2, available: ['a', 'b', 'c'] };
  assert.deepEqual(fillChoice(choice, []), ['r', 'a', 'b']);
  assert.deepEqual(fillChoice(choice, ['c', 'x', 'r', 'c']), ['r', 'c', 'a']);
  assert.deepEqual(fillChoice(choice, ['c', 'b', 'a']), ['r', 'c', 'b']);
});

test('what init containers had the others may have; what a sidecar has it keeps', () => {
  const p = pod({
    initContainers: [container('i1'), container('side', { restartPolicy: 'Always' }), container('i2')],
    containers: [container('a'), container('b')],
  });
  const own = [given('i1', ['1', '2', '3']), given('side', ['1']), given('i2', ['2', '4']), given('a', ['3'])];
  assert.deepEqual(reusableDevices(p, 'i1', own, gpu), []);
  assert.deepEqual(reusableDevices(p, 'side', own, gpu), ['1', '2', '3']);
  assert.deepEqual(reusableDevices(p, 'i2', own, gpu), ['2', '3']);
  assert.deepEqual(reusableDevices(p, 'a', own, gpu), ['2', '3', '4']);
  assert.deepEqual(reusableDevices(p, 'b', own, gpu), ['2', '4']);
  assert.deepEqual(reusableDevices(p, 'b', own, 'v.example/nic'), []);
});

test('what is asked for: by limits, what has a domain, more than nothing', () => {
  const c = container('a', { resources: { limits: { cpu: '2', [gpu]: '2', 'a.example/nic': '1k', 'v.example/none': '0' } } });
  assert.deepEqual(
    [...askedDevices(c)],
    [
      ['a.example/nic', 1000],
      [gpu, 2],
    ],
  );
});

test('by NUMA node, a device near to two under both; each counts once', () => {
  const known = devicesOf([
    { ID: 'a', health: 'Healthy', topology: { nodes: [{ ID: 0 }, { ID: 1 }] } },
    { ID: 'b', health: 'Healthy' },
  ]);
  const devices = byNumaNode(['a', 'b', 'x'], known);
  assert.deepEqual(devices, { '0': ['a'], '1': ['a'], '-1': ['b', 'x'] });
  assert.deepEqual(takenDevices(new Map([['u1', [given('m', [], { devices })]]]), gpu), new Set(['a', 'b', 'x']));
});

test('what a container gets: of all its resources, each name once, the first by resource', () => {
  const own = [
    given('m', ['1'], {
      resource: 'b.example/x',
      response: {
        envs: { A: 'late', B: '2' },
        mounts: [{ container_path: '/m', host_path: '/late' }],
        devices: [{ container_path: '/dev/x', host_path: '/dev/h', permissions: 'rw' }],
        cdi_devices: [{ name: 'v/x=1' }, { name: 'v/x=2' }],
      },
    }),
    given('m', ['1'], {
      resource: 'a.example/x',
      response: {
        envs: { A: 'first' },
        mounts: [{ container_path: '/m', host_path: '/first', read_only: true }],
        annotations: { k: 'v' },
        cdi_devices: [{ name: 'v/x=1' }],
      },
    }),
    given('other', ['2'], { response: { envs: { NOT: 'mine' } } }),
  ];
  assert.deepEqual(partsOf(own, 'm'), {
    envs: [
      { name: 'A', value: 'first' },
      { name: 'B', value: '2' },
    ],
    mounts: [{ containerPath: '/m', hostPath: '/first', readonly: true }],
    devices: [{ containerPath: '/dev/x', hostPath: '/dev/h', permissions: 'rw' }],
    annotations: { k: 'v' },
    cdiDevices: ['v/x=1', 'v/x=2'],
  });
});

test('how its devices are', () => {
  const offers = new Map([[gpu, offer(['a'], ['b'])]]);
  assert.equal(healthOf([], 'm', offers), undefined);
  assert.deepEqual(healthOf([given('m', ['a', 'b', 'gone'])], 'm', offers), [
    {
      name: gpu,
      resources: [
        { resourceID: 'a', health: 'Healthy' },
        { resourceID: 'b', health: 'Unhealthy' },
        { resourceID: 'gone', health: 'Healthy' },
      ],
    },
  ]);
});
