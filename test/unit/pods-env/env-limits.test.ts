import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { hasCode } from '../../../agent/base/errors.ts';
import type { Container, EnvVar } from '../../../agent/model/generated/api.ts';
import { makeEnvironment } from '../../../agent/pods/env.ts';
import { expandAll, expandSubPath } from '../../../agent/pods/env-expand.ts';
import { checkProcess } from '../../../agent/pods/env-limits.ts';
import { container, pod } from '../pods/build.ts';

const environmentOf = (more: Partial<Container>, data: Record<string, string> = {}) => {
  const own = container('c', more);
  return makeEnvironment({
    pod: pod({ containers: [own] }),
    container: own,
    facts: { nodeName: 'n', podIPs: [], hostIPs: [] },
    services: [],
    objects: { configMap: () => ({ data }), secret: () => undefined },
    allocatable: {},
    envFile: () => undefined,
  });
};

/** A doubles with each variable. */
const doubling = (count: number): EnvVar[] =>
  Array.from({ length: count }, (_, i) => ({ name: `V${i}`, value: i === 0 ? 'x'.repeat(500) : `$(V${i - 1})$(V${i - 1})` }));

const refusal = (act: () => unknown): string => {
  try {
    act();
  } catch (error) {
    assert.ok(hasCode(error, 'CreateContainerConfigError'), String(error));
    return error.message;
  }
  return 'taken';
};

describe('what a process may be started with', () => {
  test('variables that double stop at the first that the kernel would not take, and cost nothing', () => {
    const before = process.memoryUsage().heapUsed;
    const told = refusal(() => environmentOf({ env: doubling(40) }));
    assert.equal(told, 'environment variable V9 is longer than 131072 bytes, the most that the kernel takes');
    assert.ok(process.memoryUsage().heapUsed - before < 50_000_000);
  });

  test('many variables of the longest kind stop at what a process may have in all', () => {
    const env = [...doubling(9), ...Array.from({ length: 20_000 }, (_, i) => ({ name: `W${i}`, value: '$(V8)' }))];
    assert.match(
      refusal(() => environmentOf({ env })),
      /environment are longer than 6291456 bytes together/,
    );
  });

  // name=value and its NUL: 131072 bytes.
  const edges: [string, string, string][] = [
    ['A', 'x'.repeat(131_069), 'taken'],
    ['A', 'x'.repeat(131_070), 'environment variable A is longer than 131072 bytes, the most that the kernel takes'],
    ['AB', 'x'.repeat(131_068), 'taken'],
    ['AB', 'x'.repeat(131_069), 'environment variable AB is longer than 131072 bytes, the most that the kernel takes'],
    ['A', 'é'.repeat(65_535), 'environment variable A is longer than 131072 bytes, the most that the kernel takes'],
  ];
  for (const [name, value, told] of edges) {
    test(`a literal ${name} of ${Buffer.byteLength(value)} bytes: ${told.slice(0, 40)}`, () => {
      assert.equal(
        refusal(() => environmentOf({ env: [{ name, value }] })),
        told,
      );
      assert.equal(
        refusal(() => checkProcess([], [{ name, value }])),
        told,
      );
    });
  }

  test('a key of a ConfigMap that is too long counts unless a variable takes its place', () => {
    const data = { BIG: 'x'.repeat(200_000) };
    const envFrom = [{ configMapRef: { name: 'cm' } }];
    assert.match(
      refusal(() => checkProcess([], environmentOf({ envFrom }, data))),
      /^environment variable BIG is longer/,
    );
    assert.equal(
      refusal(() => checkProcess([], environmentOf({ envFrom, env: [{ name: 'BIG', value: 'small' }] }, data))),
      'taken',
    );
  });

  test('arguments: one, all of them, and a subPathExpr', () => {
    const envs = [{ name: 'A', value: 'x'.repeat(100_000) }];
    const one = 'an argument of the command is longer than 131072 bytes, the most that the kernel takes';
    assert.equal(
      refusal(() => expandAll(['$(A)$(A)'], envs)),
      one,
    );
    assert.equal(
      refusal(() => expandAll(['x'.repeat(131_071)], [])),
      'taken',
    );
    assert.equal(
      refusal(() => expandAll(['x'.repeat(131_072)], [])),
      one,
    );
    assert.match(
      refusal(() => expandAll(Array(10_000).fill('$(A)'), envs)),
      /together/,
    );
    assert.match(
      refusal(() => expandSubPath('$(A)$(A)', envs)),
      /^a subPathExpr is longer/,
    );
    assert.match(
      refusal(() => checkProcess([Array(40).fill('x'.repeat(100_000)), Array(40).fill('x'.repeat(100_000))], envs)),
      /together/,
    );
  });
});
