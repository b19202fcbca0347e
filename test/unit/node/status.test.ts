import assert from 'node:assert/strict';
import { test } from 'node:test';
import { imagesOf, planNodeStatus, runtimeVersion, type StatusInput, type StatusPlan } from '../../../agent/node/status.ts';
import { config, machine, runtimeStatus } from './fixtures.ts';

const wallMs = Date.UTC(2026, 0, 2, 3, 4, 5, 678);
const monoMs = 1_000_000;

const good: StatusInput = {
  nodeName: 'n1',
  before: {},
  machine,
  addresses: { kind: 'addresses', addresses: [{ type: 'InternalIP', address: '172.30.0.2' }] },
  runtime: { name: 'containerd', version: 'v2.1.9', status: runtimeStatus(), readyAtMono: monoMs - 5000 },
  images: [],
  config,
  port: 10250,
  devices: { capacity: {}, allocatable: {} },
  pressure: { memory: false, disk: false, pid: false },
  problems: [],
  declaredFeatures: ['B', 'A'],
  volumesInUse: undefined,
  wallMs,
  monoMs,
};

const earlier = '2026-01-01T00:00:00Z';
const settled = {
  ...planNodeStatus(good).status,
  conditions: planNodeStatus(good).status.conditions?.map((c) => ({ ...c, lastHeartbeatTime: earlier, lastTransitionTime: earlier })) ?? [],
};

function condition(plan: StatusPlan, type: string) {
  return plan.status.conditions?.find((c) => c.type === type);
}

test('a first status is whole', () => {
  const { status, events, problems } = planNodeStatus(good);
  assert.deepEqual(problems, []);
  assert.deepEqual(
    status.conditions?.map((c) => [c.type, c.status, c.reason, c.lastTransitionTime]),
    [
      ['MemoryPressure', 'False', 'KubeletHasSufficientMemory', '2026-01-02T03:04:05Z'],
      ['DiskPressure', 'False', 'KubeletHasNoDiskPressure', '2026-01-02T03:04:05Z'],
      ['PIDPressure', 'False', 'KubeletHasSufficientPID', '2026-01-02T03:04:05Z'],
      ['Ready', 'True', 'KubeletReady', '2026-01-02T03:04:05Z'],
    ],
  );
  assert.deepEqual(
    events.map((e) => e.reason),
    ['NodeHasSufficientMemory', 'NodeHasNoDiskPressure', 'NodeHasSufficientPID'],
  );
  assert.equal(events[0]?.message, 'Node n1 status is now: NodeHasSufficientMemory');
  assert.deepEqual(status.nodeInfo, {
    machineID: 'm1',
    systemUUID: 'u1',
    bootID: 'b1',
    kernelVersion: '6.1.0',
    osImage: 'Debian GNU/Linux 12 (bookworm)',
    containerRuntimeVersion: 'containerd://2.1.9',
    kubeletVersion: 'v1.36.1',
    kubeProxyVersion: '',
    operatingSystem: 'linux',
    architecture: 'amd64',
  });
  assert.deepEqual(status.daemonEndpoints, { kubeletEndpoint: { Port: 10250 } });
  assert.deepEqual(
    status.runtimeHandlers?.map((h) => h.name),
    ['', 'runc'],
  );
  assert.deepEqual(status.features, { supplementalGroupsPolicy: true });
  assert.deepEqual(status.declaredFeatures, ['A', 'B']);
});

test('swap is told where there is some', () => {
  assert.deepEqual(planNodeStatus({ ...good, machine: { ...machine, swapBytes: 1 << 30 } }).status.nodeInfo?.swap, { capacity: 1 << 30 });
});

interface Case {
  readonly name: string;
  readonly input: Partial<StatusInput>;
  readonly ready: 'True' | 'False';
  readonly message?: string;
  readonly events?: string[];
}

const cases: Case[] = [
  { name: 'nothing changed: no events', input: { before: settled }, ready: 'True', message: 'kubelet is posting ready status', events: [] },
  {
    name: 'the runtime has never answered',
    input: { before: settled, runtime: { name: undefined, version: undefined, status: undefined, readyAtMono: undefined } },
    ready: 'False',
    message: '[container runtime status check may not have completed yet, container runtime network not ready: network state unknown]',
    events: ['NodeNotReady'],
  },
  {
    name: 'the runtime has been silent for less than 30 s',
    input: { before: settled, runtime: { ...good.runtime, readyAtMono: monoMs - 29_999 } },
    ready: 'True',
    events: [],
  },
  {
    name: 'the runtime is down',
    input: { before: settled, runtime: { ...good.runtime, readyAtMono: monoMs - 30_000 } },
    ready: 'False',
    message: 'container runtime is down',
    events: ['NodeNotReady'],
  },
  {
    name: 'the network is not there',
    input: { before: settled, runtime: { ...good.runtime, status: runtimeStatus(true, false) } },
    ready: 'False',
    message:
      'container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized',
    events: ['NodeNotReady'],
  },
  {
    name: 'the runtime says that it is not ready',
    input: { before: settled, runtime: { ...good.runtime, status: runtimeStatus(false) } },
    ready: 'False',
    message: 'container runtime not ready: RuntimeReady=false reason:Busy message:starting',
  },
  {
    name: 'a runtime that tells no conditions',
    input: { before: settled, runtime: { ...good.runtime, status: { status: { conditions: [] } } } },
    ready: 'False',
    message: '[container runtime not ready: <nil>, container runtime network not ready: <nil>]',
  },
  {
    name: 'problems of other rooms count',
    input: { before: settled, problems: ['PLEG is not healthy: pleg was last seen active 3m0s ago; threshold is 3m0s'] },
    ready: 'False',
    message: 'PLEG is not healthy: pleg was last seen active 3m0s ago; threshold is 3m0s',
  },
  {
    name: 'no filesystem for pods',
    input: { machine: { ...machine, storageBytes: undefined } },
    ready: 'False',
    message: 'missing node capacity for resources: ephemeral-storage',
  },
  {
    name: 'ready again',
    input: { before: { ...settled, conditions: settled.conditions.map((c) => (c.type === 'Ready' ? { ...c, status: 'False' } : c)) } },
    ready: 'True',
    events: ['NodeReady'],
  },
  {
    name: 'the controller’s Unknown is answered',
    input: { before: { ...settled, conditions: settled.conditions.map((c) => ({ ...c, status: 'Unknown' })) } },
    ready: 'True',
    events: ['NodeHasSufficientMemory', 'NodeHasNoDiskPressure', 'NodeHasSufficientPID', 'NodeReady'],
  },
  {
    name: 'pressure',
    input: { before: settled, pressure: { memory: true, disk: true, pid: true } },
    ready: 'True',
    events: ['NodeHasInsufficientMemory', 'NodeHasDiskPressure', 'NodeHasInsufficientPID'],
  },
  { name: 'another boot', input: { before: settled, machine: { ...machine, bootId: 'b2' } }, ready: 'True', events: ['Rebooted'] },
];

for (const c of cases)
  test(c.name, () => {
    const plan = planNodeStatus({ ...good, ...c.input });
    const ready = condition(plan, 'Ready');
    assert.equal(ready?.status, c.ready);
    assert.equal(ready?.reason, c.ready === 'True' ? 'KubeletReady' : 'KubeletNotReady');
    if (c.message !== undefined) assert.equal(ready?.message, c.message);
    if (c.events !== undefined)
      assert.deepEqual(
        plan.events.map((e) => e.reason),
        c.events,
      );
  });

test('a heartbeat moves, a transition only with the status', () => {
  const same = condition(planNodeStatus({ ...good, before: settled }), 'MemoryPressure');
  assert.deepEqual([same?.lastHeartbeatTime, same?.lastTransitionTime], ['2026-01-02T03:04:05Z', earlier]);
  const changed = condition(
    planNodeStatus({ ...good, before: settled, pressure: { memory: true, disk: false, pid: false } }),
    'MemoryPressure',
  );
  assert.deepEqual([changed?.lastTransitionTime, changed?.reason], ['2026-01-02T03:04:05Z', 'KubeletHasInsufficientMemory']);
});

test('what others wrote stays: conditions, extended resources, attached volumes', () => {
  const before = {
    ...settled,
    conditions: [{ type: 'NetworkUnavailable', status: 'False' }, ...settled.conditions],
    capacity: { ...settled.capacity, 'example.com/fake': '5', 'hugepages-64Ki': '0' },
    allocatable: { ...settled.allocatable, 'example.com/fake': '5', 'example.com/gone': '3' },
    volumesAttached: [{ name: 'v', devicePath: '/dev/x' }],
  };
  const { status } = planNodeStatus({ ...good, before });
  assert.equal(status.conditions?.[0]?.type, 'NetworkUnavailable');
  assert.equal(status.capacity?.['example.com/fake'], '5');
  assert.equal(status.allocatable?.['example.com/fake'], '5');
  assert.equal(status.allocatable?.['example.com/gone'], undefined);
  assert.equal(status.capacity?.['hugepages-64Ki'], undefined);
  assert.deepEqual(status.volumesAttached, before.volumesAttached);
});

test('addresses that can’t be told leave the old ones', () => {
  const { status, problems } = planNodeStatus({ ...good, before: settled, addresses: { kind: 'problem', message: 'no route' } });
  assert.deepEqual(status.addresses, settled.addresses);
  assert.deepEqual(problems, ['no route']);
});

test('images: the largest first, five names each, digests before tags', () => {
  const tags = ['r/a:1', 'r/a:2', 'r/a:3', 'r/a:4', 'r/a:5', 'r/a:6'];
  const images = [
    { id: '1', size: 10, repo_tags: ['small:1'] },
    { id: '2', size: 30, repo_tags: tags, repo_digests: ['r/a@sha256:x'] },
    { id: '3', size: 10, repo_digests: ['d@sha256:y'] },
  ];
  assert.deepEqual(imagesOf(images, 2), [
    { names: ['r/a@sha256:x', 'r/a:1', 'r/a:2', 'r/a:3', 'r/a:4'], sizeBytes: 30 },
    { names: ['d@sha256:y'], sizeBytes: 10 },
  ]);
  assert.equal(imagesOf(images, -1).length, 3);
});

for (const [version, want] of [
  ['v2.1.9', '2.1.9'],
  ['1.6.20~ds1', '1.6.20'],
  ['v2.0.0-rc.3', '2.0.0-rc.3'],
  ['1.7.24+build.1', '1.7.24+build.1'],
  ['20.10', '20.10'],
  ['', 'Unknown'],
  [undefined, 'Unknown'],
] as const)
  test(`runtime version ${version} is shown as ${want}`, () => assert.equal(runtimeVersion(version), want));
