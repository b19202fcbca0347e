import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isExtendedResource } from '../../../agent/model/resources.ts';
import { allocatableOf, cgroupCapacity, effectiveReservations, machineCapacity, reservationOf } from '../../../agent/node/capacity.ts';
import { config, machine } from './fixtures.ts';

interface Case {
  readonly name: string;
  readonly config?: Partial<typeof config>;
  readonly machine?: Partial<typeof machine>;
  readonly capacity: Record<string, string>;
  readonly allocatable: Record<string, string>;
}

const plain = {
  cpu: '2',
  memory: '24684096Ki',
  'hugepages-2Mi': '0',
  'hugepages-1Gi': '0',
  'ephemeral-storage': '102624184Ki',
  pods: '110',
};

const cases: Case[] = [
  {
    name: 'eviction thresholds are kept from pods; a percentage in single precision',
    capacity: plain,
    allocatable: { ...plain, memory: '24581696Ki', 'ephemeral-storage': '94578447818' },
  },
  {
    name: 'no thresholds, no reservations',
    config: { evictionHard: {} },
    capacity: plain,
    allocatable: plain,
  },
  {
    name: 'thresholds left out by flag',
    config: { allocatableIgnoresEviction: true },
    capacity: plain,
    allocatable: plain,
  },
  {
    name: 'reservations add up with the thresholds',
    config: {
      systemReserved: { cpu: '100m', memory: '1Gi' },
      kubeReserved: { cpu: '200m', memory: '1Gi', 'ephemeral-storage': '1Gi' },
      evictionHard: { 'memory.available': '100Mi' },
    },
    capacity: plain,
    allocatable: { ...plain, cpu: '1700m', memory: '22484544Ki', 'ephemeral-storage': '101575608Ki' },
  },
  {
    name: 'reserved CPUs take the place of both reservations of cpu',
    config: { systemReserved: { cpu: '100m' }, kubeReserved: { cpu: '200m' }, reservedCpuCount: 1, evictionHard: {} },
    capacity: plain,
    allocatable: { ...plain, cpu: '1' },
  },
  {
    name: 'never below nothing',
    config: { systemReserved: { memory: '100Gi' }, evictionHard: {} },
    capacity: plain,
    allocatable: { ...plain, memory: '0' },
  },
  {
    name: 'huge pages are taken out of memory',
    config: { evictionHard: {} },
    machine: { hugePages: [{ pageBytes: 2 * 1024 * 1024, totalBytes: 1024 ** 3 }] },
    capacity: { cpu: '2', memory: '24684096Ki', 'hugepages-2Mi': '1Gi', 'ephemeral-storage': '102624184Ki', pods: '110' },
    allocatable: { cpu: '2', memory: '23635520Ki', 'hugepages-2Mi': '1Gi', 'ephemeral-storage': '102624184Ki', pods: '110' },
  },
  {
    name: 'pods by core, at most maxPods',
    config: { podsPerCore: 10, evictionHard: {} },
    capacity: { ...plain, pods: '20' },
    allocatable: { ...plain, pods: '20' },
  },
  {
    name: 'without isolation of local storage there is none to have',
    config: { localStorageCapacityIsolation: false, evictionHard: {} },
    capacity: { cpu: '2', memory: '24684096Ki', 'hugepages-2Mi': '0', 'hugepages-1Gi': '0', pods: '110' },
    allocatable: { cpu: '2', memory: '24684096Ki', 'hugepages-2Mi': '0', 'hugepages-1Gi': '0', pods: '110' },
  },
];

for (const c of cases)
  test(c.name, () => {
    const settings = { ...config, ...c.config };
    const capacity = machineCapacity({ ...machine, ...c.machine }, settings);
    assert.deepEqual(capacity, c.capacity);
    assert.deepEqual(allocatableOf(capacity, reservationOf(capacity, settings)), c.allocatable);
  });

test('cgroups are sized with process ids and without pods', () => {
  const amounts = cgroupCapacity(machine, config);
  assert.equal(amounts.pid, '32768');
  assert.equal(amounts.pods, undefined);
});

for (const [name, want] of [
  ['cpu', false],
  ['hugepages-2Mi', false],
  ['nvidia.com/gpu', true],
  ['kubernetes.io/x', false],
  ['node.kubernetes.io/x', false],
] as const)
  test(`${name} is ${want ? 'an' : 'no'} extended resource`, () => assert.equal(isExtendedResource(name), want));

test('what cgroups are sized by counts reserved CPUs as kubelet does: as reserved for the system', () => {
  const given = { systemReserved: { cpu: '100m', memory: '1Gi' }, kubeReserved: { cpu: '200m', pid: '100' } };
  assert.deepEqual(effectiveReservations({ ...given, reservedCpuCount: 0 }), { system: given.systemReserved, kube: given.kubeReserved });
  assert.deepEqual(effectiveReservations({ ...given, reservedCpuCount: 2 }), {
    system: { cpu: '2', memory: '1Gi' },
    kube: { pid: '100' },
  });
});
