import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Node } from '../../../agent/model/generated/api.ts';
import { nodePatch, sameStatus } from '../../../agent/node/patch.ts';

interface Case {
  readonly name: string;
  readonly before: Node;
  readonly after: Node;
  readonly want: unknown;
}

const cases: Case[] = [
  { name: 'equal: no patch', before: { status: { phase: 'x' } }, after: { status: { phase: 'x' } }, want: undefined },
  { name: 'empty is absent', before: { status: {} }, after: { status: { volumesInUse: [], declaredFeatures: [] } }, want: undefined },
  {
    name: 'a condition by its type, changed fields only',
    before: {
      status: {
        conditions: [
          { type: 'Ready', status: 'True', reason: 'A' },
          { type: 'X', status: 'True' },
        ],
      },
    },
    after: {
      status: {
        conditions: [
          { type: 'Ready', status: 'False', reason: 'A' },
          { type: 'X', status: 'True' },
          { type: 'Y', status: 'True' },
        ],
      },
    },
    want: {
      status: {
        conditions: [
          { type: 'Ready', status: 'False' },
          { type: 'Y', status: 'True' },
        ],
      },
    },
  },
  {
    name: 'addresses as a whole',
    before: { status: { addresses: [{ type: 'InternalIP', address: '1' }] } },
    after: {
      status: {
        addresses: [
          { type: 'InternalIP', address: '1' },
          { type: 'InternalIP', address: '2' },
        ],
      },
    },
    want: { status: { addresses: [{ type: 'InternalIP', address: '1' }, { type: 'InternalIP', address: '2' }, { $patch: 'replace' }] } },
  },
  {
    name: 'a resource that is gone is null',
    before: { status: { capacity: { cpu: '2', 'hugepages-2Mi': '0' } } },
    after: { status: { capacity: { cpu: '4' } } },
    want: { status: { capacity: { cpu: '4', 'hugepages-2Mi': null } } },
  },
  {
    name: 'labels and annotations, not the spec',
    before: { metadata: { labels: { a: '1', b: '2' } }, spec: { podCIDR: 'x' } },
    after: { metadata: { labels: { a: '2', b: '2' }, annotations: { c: '3' } }, spec: {} },
    want: { metadata: { labels: { a: '2' }, annotations: { c: '3' } } },
  },
  {
    name: 'lists that do not merge are whole',
    before: { status: { images: [{ names: ['a'], sizeBytes: 1 }] } },
    after: {
      status: {
        images: [
          { names: ['a'], sizeBytes: 1 },
          { names: ['b'], sizeBytes: 2 },
        ],
      },
    },
    want: {
      status: {
        images: [
          { names: ['a'], sizeBytes: 1 },
          { names: ['b'], sizeBytes: 2 },
        ],
      },
    },
  },
];

for (const c of cases) test(c.name, () => assert.deepEqual(nodePatch(c.before, c.after), c.want));

test('heartbeats are no change, transitions are; order of conditions is not', () => {
  const a = {
    conditions: [
      { type: 'A', status: 'True', lastHeartbeatTime: '1' },
      { type: 'B', status: 'True' },
    ],
  };
  const b = {
    conditions: [
      { type: 'B', status: 'True' },
      { type: 'A', status: 'True', lastHeartbeatTime: '2' },
    ],
  };
  assert.ok(sameStatus(a, b));
  assert.ok(!sameStatus(a, { conditions: [...b.conditions, { type: 'C', status: 'True' }] }));
  assert.ok(
    !sameStatus(a, {
      conditions: [
        { type: 'A', status: 'True', lastTransitionTime: '9' },
        { type: 'B', status: 'True' },
      ],
    }),
  );
});
