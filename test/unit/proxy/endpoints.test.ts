import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import type { EndpointSlice } from '../../../agent/model/generated/api.ts';
import { mergeEndpoints } from '../../../proxy/model/endpoints.ts';
import { sliceRow } from '../../../proxy/model/slice-row.ts';
import { anEndpoint, aSlice } from '../../fakes/services.ts';

const rows = (slices: readonly EndpointSlice[]) => slices.map((slice) => sliceRow(slice) ?? assert.fail('not proxied'));

/** `port: address state uid`, one line an endpoint. */
function linesOf(slices: readonly EndpointSlice[], node = 'node'): string[] {
  return [...mergeEndpoints(rows(slices), node)].flatMap(([port, endpoints]) =>
    endpoints.map(({ key, local, address }) => {
      const state = address.terminating ? (address.serving ? 'terminating' : 'gone') : address.ready ? 'ready' : 'notReady';
      return `${port}: ${key} ${state} ${address.uid}${local ? ' local' : ''}`;
    }),
  );
}

describe('merging slices', () => {
  const old = anEndpoint('10.244.1.10', { uid: 'u1', node: 'gone', state: 'gone' });
  const live = anEndpoint('10.244.1.10', { uid: 'u2', node: 'node' });
  const readyBefore = aSlice([anEndpoint('10.1.0.7', { uid: 'u1' })], {
    name: 'web-a',
    triggered: '2026-01-01T00:00:01Z',
    resourceVersion: '90',
  });
  const servesNoMore = aSlice([anEndpoint('10.1.0.7', { uid: 'u1', state: 'notReady' })], {
    name: 'web-b',
    triggered: '2026-01-01T00:00:02Z',
    resourceVersion: '80',
  });

  const cases: Record<string, { slices: EndpointSlice[]; is: string[] }> = {
    'no slices': { slices: [], is: [] },
    'endpoints of several slices, in order': {
      slices: [
        aSlice([anEndpoint('10.1.0.9')], { name: 'web-b' }),
        aSlice([anEndpoint('10.1.0.10', { node: 'node' }), anEndpoint('10.1.0.7')]),
      ],
      is: [
        'tcp http: 10.1.0.10:8080 ready uid-10.1.0.10 local',
        'tcp http: 10.1.0.7:8080 ready uid-10.1.0.7',
        'tcp http: 10.1.0.9:8080 ready uid-10.1.0.9',
      ],
    },
    'a named target port that differs between pods': {
      slices: [
        aSlice([anEndpoint('10.1.0.7')]),
        aSlice([anEndpoint('10.1.0.8')], { name: 'web-b', ports: [{ name: 'http', port: 9090 }] }),
      ],
      is: ['tcp http: 10.1.0.7:8080 ready uid-10.1.0.7', 'tcp http: 10.1.0.8:9090 ready uid-10.1.0.8'],
    },
    'one name for two protocols': {
      slices: [
        aSlice([anEndpoint('10.1.0.7')], {
          ports: [
            { name: 'dns', port: 53, protocol: 'UDP' },
            { name: 'dns', port: 53, protocol: 'TCP' },
          ],
        }),
      ],
      is: ['udp dns: 10.1.0.7:53 ready uid-10.1.0.7', 'tcp dns: 10.1.0.7:53 ready uid-10.1.0.7'],
    },
    IPv6: {
      slices: [aSlice([anEndpoint('FD00::7')], { addressType: 'IPv6' })],
      is: ['tcp http: [fd00::7]:8080 ready uid-FD00::7'],
    },
    'two pods, one address: the live one (kubernetes#135266)': {
      slices: [aSlice([old, live])],
      is: ['tcp http: 10.244.1.10:8080 ready u2 local'],
    },
    'the same, swapped': { slices: [aSlice([live, old])], is: ['tcp http: 10.244.1.10:8080 ready u2 local'] },
    'the same, in slices of their own, the dead one newer': {
      slices: [aSlice([live], { resourceVersion: '5' }), aSlice([old], { name: 'web-b', resourceVersion: '10' })],
      is: ['tcp http: 10.244.1.10:8080 ready u2 local'],
    },
    'two live pods, one address (host network): the ready one': {
      slices: [aSlice([anEndpoint('10.1.0.7', { uid: 'u1', state: 'notReady' }), anEndpoint('10.1.0.7', { uid: 'u2' })])],
      is: ['tcp http: 10.1.0.7:8080 ready u2'],
    },
    'one pod in two slices: the later moment wins': { slices: [readyBefore, servesNoMore], is: ['tcp http: 10.1.0.7:8080 notReady u1'] },
    'one pod in two slices without moments: the later write wins': {
      slices: [
        aSlice([anEndpoint('10.1.0.7', { state: 'terminating' })], { name: 'web-a', resourceVersion: '100' }),
        aSlice([anEndpoint('10.1.0.7')], { name: 'web-b', resourceVersion: '99' }),
      ],
      is: ['tcp http: 10.1.0.7:8080 terminating uid-10.1.0.7'],
    },
    'one pod twice in one slice: the better word': {
      slices: [aSlice([anEndpoint('10.1.0.7', { state: 'notReady' }), anEndpoint('10.1.0.7')])],
      is: ['tcp http: 10.1.0.7:8080 ready uid-10.1.0.7'],
    },
    'no ports: no endpoints': { slices: [aSlice([anEndpoint('10.1.0.7')], { ports: [] })], is: [] },
  };
  for (const [name, { slices, is }] of Object.entries(cases)) test(name, () => assert.deepEqual(linesOf(slices), is));

  test('a node without a name has no local endpoints', () => {
    assert.deepEqual(linesOf([aSlice([{ ...live, nodeName: '' }])], ''), ['tcp http: 10.244.1.10:8080 ready u2']);
  });

  const aState = fc.constantFrom('ready', 'notReady', 'terminating', 'gone');
  const endpoint = fc
    .tuple(fc.constantFrom('10.1.0.7', '10.1.0.8'), aState, fc.constantFrom('u1', 'u2'))
    .map(([ip, state, uid]) => anEndpoint(ip, { state: state as 'ready', uid }));
  const time = fc.option(fc.constantFrom('2026-01-01T00:00:01Z', '2026-01-01T00:00:02Z'), { nil: undefined });
  const slice = fc.tuple(fc.array(endpoint, { maxLength: 3 }), time, fc.integer({ min: 1, max: 12 }));

  test('property: the order of slices and endpoints means nothing', () => {
    fc.assert(
      fc.property(fc.array(slice, { maxLength: 4 }), fc.integer(), (made, seed) => {
        const slices = made.map(([endpoints, triggered, version], index) =>
          aSlice(endpoints, { name: `web-${index}`, resourceVersion: `${version}`, ...(triggered && { triggered }) }),
        );
        const turn = Math.abs(seed) % (slices.length + 1);
        const shuffled = [...slices.slice(turn), ...slices.slice(0, turn)].map((each) => ({
          ...each,
          endpoints: [...(each.endpoints ?? [])].reverse(),
        }));
        assert.deepEqual(linesOf(shuffled), linesOf(slices));
      }),
    );
  });

  test('property: an address that some pod serves as ready, in its newest word, is ready', () => {
    fc.assert(
      fc.property(fc.array(endpoint, { maxLength: 8 }), (endpoints) => {
        // One slice: every word is of one age.
        const merged = [...mergeEndpoints(rows([aSlice(endpoints)]), 'node').values()].flat();
        for (const { address } of merged)
          assert.equal(
            address.ready,
            endpoints.some((each) => each.addresses[0] === address.ip && each.conditions?.ready),
          );
      }),
    );
  });
});
