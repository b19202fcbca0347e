import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assemblePod, parseContainer } from '../../../agent/pods/runtime-parse.ts';
import type { ContainerStatus } from '../../../cri-protos/generated/cri.ts';
import { instance, sandbox } from './build.ts';

const cutShort: ContainerStatus = {
  id: 'c1',
  state: 'CONTAINER_EXITED',
  started_at: 0,
  exit_code: 128,
  reason: 'StartError',
  message: 'failed to create containerd task: failed to create shim task: context canceled',
  finished_at: 1_795_253_742_000_000_000,
};

// What containerd 2.1 tells of containers whose caller was killed in the middle of StartContainer, and what looks like it.
const table: [string, Partial<ContainerStatus>, 'created' | 'exited' | 'running' | 'unknown'][] = [
  ['a start that its caller gave up', {}, 'created'],
  [
    'a start that failed by itself',
    { message: 'failed to create containerd task: exec: "nope": executable file not found in $PATH' },
    'exited',
  ],
  ['a container that ran, and prints such words', { started_at: 1_795_253_741_000_000_000, reason: 'Error' }, 'exited'],
  ['one that the runtime lost in the middle of its start, stopped since', { reason: 'Completed', exit_code: 0, message: '' }, 'created'],
  ['a container that has ended', { started_at: 1_795_253_741_000_000_000, reason: 'Completed', exit_code: 0, message: '' }, 'exited'],
  ['a container that runs', { state: 'CONTAINER_RUNNING', reason: '' }, 'running'],
];

for (const [name, more, state] of table) {
  test(`state: ${name} is ${state}`, () => assert.equal(parseContainer({ ...cutShort, ...more }, 's1', '').state, state));
}

test('newest is what has the highest attempt, though the clock went back in between', () => {
  const assembled = assemblePod(
    { uid: 'u1', name: 'web', namespace: 'default' },
    [sandbox({ id: 's0', attempt: 0, createdAt: 2000, ready: false }), sandbox({ id: 's1', attempt: 1, createdAt: 1000 })],
    [
      instance('b', { id: 'b0' }),
      instance('a', { id: 'a0', restartCount: 0, createdAt: 2000 }),
      instance('a', { id: 'a1', restartCount: 1, createdAt: 1000 }),
    ],
  );
  assert.deepEqual(
    [...assembled.sandboxes, ...assembled.containers].map(({ id }) => id),
    ['s1', 's0', 'a1', 'a0', 'b0'],
  );
});
