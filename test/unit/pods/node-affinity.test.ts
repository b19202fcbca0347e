import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NodeSelectorRequirement } from '../../../agent/model/generated/api.ts';
import { matchesNode } from '../../../agent/pods/node-affinity.ts';
import { pod } from './build.ts';

const labels = { zone: 'a', size: '10', empty: '', half: '1.5', hex: '0x10', plus: '1e1', padded: '0010', most: '9223372036854775807' };
const matches = (requirement: NodeSelectorRequirement, where: 'matchExpressions' | 'matchFields' = 'matchExpressions'): boolean => {
  const affinity = {
    nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [{ [where]: [requirement] }] } },
  };
  return matchesNode(pod({ affinity }), { metadata: { name: 'n1', labels } });
};

// What component-helpers' RequiredNodeAffinity.Match says: a requirement that cannot be read matches nothing, nor does one beside it.
const table: [string, string, string[] | undefined, boolean][] = [
  ['constructor', 'Exists', undefined, false],
  ['constructor', 'DoesNotExist', undefined, true],
  ['toString', 'NotIn', ['x'], true],
  ['hasOwnProperty', 'In', ['x'], false],
  ['zone', 'In', ['a', 'b'], true],
  ['zone', 'In', [], false],
  ['zone', 'NotIn', [], false],
  ['zone', 'Exists', ['a'], false],
  ['none', 'DoesNotExist', ['a'], false],
  ['zone', 'In', ['a', 'not a label value'], false],
  ['not a key', 'DoesNotExist', undefined, false],
  ['size', 'Gt', ['9'], true],
  ['size', 'Gt', ['10'], false],
  ['size', 'Lt', ['11'], true],
  ['size', 'Lt', ['11', '12'], false],
  ['size', 'Gt', [''], false],
  ['size', 'Lt', ['10.5'], false],
  ['size', 'Lt', ['0x10'], false],
  ['size', 'Lt', ['1e3'], false],
  // No value of a label begins with a minus.
  ['size', 'Gt', ['-1'], false],
  ['padded', 'Gt', ['9'], true],
  ['empty', 'Lt', ['1'], false],
  ['half', 'Gt', ['1'], false],
  ['hex', 'Gt', ['1'], false],
  ['plus', 'Gt', ['1'], false],
  ['none', 'Lt', ['1'], false],
  ['most', 'Gt', ['9223372036854775806'], true],
  ['size', 'Lt', ['9223372036854775808'], false],
  ['size', 'Near', ['10'], false],
];
for (const [key, operator, values, want] of table)
  test(`${key} ${operator} ${JSON.stringify(values)}`, () =>
    assert.equal(matches({ key, operator, ...(values && { values }) } as NodeSelectorRequirement), want));

const fields: [string, string, string[], boolean][] = [
  ['metadata.name', 'In', ['n1'], true],
  ['metadata.name', 'In', ['n1', 'n2'], false],
  ['metadata.name', 'NotIn', ['n2'], true],
  ['metadata.name', 'Exists', [], false],
  ['constructor', 'In', ['n1'], false],
];
for (const [key, operator, values, want] of fields)
  test(`field ${key} ${operator} ${JSON.stringify(values)}`, () =>
    assert.equal(matches({ key, operator, values } as NodeSelectorRequirement, 'matchFields'), want));

test('a term that cannot be read does not keep another from matching', () => {
  const terms = [
    { matchExpressions: [{ key: 'size', operator: 'Gt' as const, values: ['x'] }] },
    { matchExpressions: [{ key: 'zone', operator: 'In' as const, values: ['a'] }] },
  ];
  const affinity = { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: terms } } };
  assert.equal(matchesNode(pod({ affinity }), { metadata: { name: 'n1', labels } }), true);
});

test('a nodeSelector on a label that only the prototype has', () => {
  assert.equal(matchesNode(pod({ nodeSelector: { constructor: 'x' } }), { metadata: { name: 'n1' } }), false);
});
