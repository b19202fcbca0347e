import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  amountsOf,
  changedHealth,
  devicesOf,
  type Offer,
  registrationProblem,
  stopGraceMs,
  stoppedOffer,
} from '../../../agent/devices/offers.ts';

const now = 1_000_000;
const told = (...healths: string[]): Offer['devices'] => devicesOf(healths.map((health, i) => ({ ID: `d${i}`, health })));
const offer = (...healths: string[]): Offer => ({ devices: told(...healths), stoppedAt: undefined });

const amounts: [string, Offer, now: number, capacity: string | undefined, allocatable: string | undefined][] = [
  ['a plugin that has not told yet', { devices: undefined, stoppedAt: undefined }, now, undefined, undefined],
  ['healthy devices', offer('Healthy', 'Healthy'), now, '2', '2'],
  ['one that is not', offer('Healthy', 'Unhealthy'), now, '2', '1'],
  ['what is not called healthy', offer('Healthy', '', 'ok'), now, '3', '1'],
  ['a plugin that went before it told', stoppedOffer({ devices: undefined, stoppedAt: undefined }, now), now, '0', '0'],
  ['a plugin that went', stoppedOffer(offer('Healthy', 'Healthy'), now), now + stopGraceMs - 1, '2', '0'],
  ['and has not come back', stoppedOffer(offer('Healthy', 'Healthy'), now), now + stopGraceMs, '0', '0'],
];
for (const [name, one, at, capacity, allocatable] of amounts)
  test(`what the Node shows: ${name}`, () => {
    const shown = amountsOf(new Map([['v.example/gpu', one]]), at);
    assert.deepEqual([shown.capacity['v.example/gpu'], shown.allocatable['v.example/gpu']], [capacity, allocatable]);
  });

test('whose health has changed: new ones too, since a container may have had them before they went away', () => {
  assert.deepEqual(changedHealth(undefined, told('Healthy') ?? new Map()), ['d0']);
  assert.deepEqual(changedHealth(told('Healthy', 'Healthy', 'Unhealthy'), told('Healthy', 'Unhealthy', 'Healthy') ?? new Map()), [
    'd1',
    'd2',
  ]);
});

const names: [resource: string, version: string, problem: RegExp | undefined][] = [
  ['nvidia.com/gpu', 'v1beta1', undefined],
  ['intel.com/sriov_net-A.b', 'v1beta1', undefined],
  ['nvidia.com/gpu', 'v1alpha1', /API version "v1alpha1" is not supported .* \["v1beta1"\]/],
  ['gpu', 'v1beta1', /"gpu" is invalid: .* extended resource/],
  ['kubernetes.io/gpu', 'v1beta1', /is invalid/],
  ['x.kubernetes.io/gpu', 'v1beta1', /is invalid/],
  ['requests.x.example/gpu', 'v1beta1', /is invalid/],
  ['a.example/b/c', 'v1beta1', /is invalid/],
  ['a.example/', 'v1beta1', /is invalid/],
  ['A.example/x', 'v1beta1', /is invalid/],
  [`a.example/${'x'.repeat(64)}`, 'v1beta1', /is invalid/],
];
for (const [resource, version, problem] of names)
  test(`registering ${resource} with ${version}`, () => {
    const text = registrationProblem(resource, [version]);
    if (problem === undefined) assert.equal(text, undefined);
    else assert.match(text ?? '', problem);
  });
