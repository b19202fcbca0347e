import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ContainerStatus } from '../../../agent/model/generated/api.ts';
import type { RuntimeContainer } from '../../../agent/pods/observed.ts';
import { computeStatus } from '../../../agent/pods/status.ts';
import { instance, now, pod, runtimePod, sandbox, syncing } from './build.ts';

const oom = { exitCode: 137, reason: 'OOMKilled' };
const ended = (fields: Partial<RuntimeContainer> = {}) =>
  instance('a', { state: 'exited', exitCode: 1, reason: 'Error', message: 'the disk is gone', finishedAt: 1_800_000_000_000, ...fields });

/** The status of a pod with these containers, newest first, after what was published of them before. */
function seen(containers: RuntimeContainer[], before?: ContainerStatus): ContainerStatus {
  const status = computeStatus({
    pod: pod(),
    previous: before === undefined ? {} : { phase: 'Running', containerStatuses: [before] },
    runtime: runtimePod([sandbox()], containers),
    runtimeName: 'containerd',
    lifecycle: syncing,
    volumesMounted: true,
    waiting: new Map(),
    starting: new Set(),
    verdicts: () => ({}),
    recursiveReadOnly: () => true,
    hostIps: ['192.0.2.1'],
    now: now.wall,
  }).containerStatuses?.[0] as ContainerStatus;
  return JSON.parse(JSON.stringify(status)) as ContainerStatus;
}

const unread = 'Error on reading termination log /t: context deadline exceeded';
const later: { name: string; first?: Partial<RuntimeContainer>; next: Partial<RuntimeContainer>; expect: object }[] = [
  { name: 'its message file is gone', next: { message: '' }, expect: { message: 'the disk is gone' } },
  { name: 'its message file cannot be read', next: { message: unread }, expect: { message: 'the disk is gone' } },
  { name: 'its message file is gone and its log is read instead', next: { message: 'last line' }, expect: { message: 'the disk is gone' } },
  {
    name: 'what the runtime says of its end is left alone',
    first: { message: 'killed: the disk is gone' },
    next: { message: 'killed' },
    expect: { message: 'killed: the disk is gone' },
  },
  { name: 'it had no message and has one', first: { message: '' }, next: { message: 'late' }, expect: { message: 'late' } },
  { name: 'its message could not be read and now can', first: { message: unread }, next: { message: 'late' }, expect: { message: 'late' } },
  { name: 'its message could not be read and is gone', first: { message: unread }, next: { message: '' }, expect: { message: unread } },
  { name: 'its OOM kill has no proof any more', first: oom, next: { exitCode: 137 }, expect: oom },
  { name: 'its OOM kill is found later', first: { exitCode: 137 }, next: oom, expect: oom },
  { name: 'the runtime has no reason', next: { reason: '' }, expect: { reason: 'Error' } },
  {
    name: 'the runtime has no times',
    next: { startedAt: 0, finishedAt: 0 },
    expect: { startedAt: '2027-01-15T07:59:10Z', finishedAt: '2027-01-15T08:00:00Z' },
  },
  {
    name: 'the runtime says that it missed the end',
    next: { exitCode: 255, reason: 'Unknown', finishedAt: 1_900_000_000_000, message: '' },
    expect: { exitCode: 1, reason: 'Error', message: 'the disk is gone', finishedAt: '2027-01-15T08:00:00Z' },
  },
  { name: 'the runtime does not know its state', next: { state: 'unknown', message: '' }, expect: { exitCode: 1, reason: 'Error' } },
];
for (const { name, first, next, expect } of later)
  test(`what is known of an end stays: ${name}`, () => {
    const before = seen([ended(first)]);
    const part = (whole: object | undefined): object =>
      Object.fromEntries(Object.keys(expect).map((key) => [key, (whole as Record<string, unknown> | undefined)?.[key]]));
    const after = seen([ended({ ...first, ...next })], before);
    assert.deepEqual(part(after.state?.terminated), expect);
    // And when the container has been started again, in `lastState`: told by both instances, and by the published status alone.
    const restartedAs = instance('a', { id: 'a-next', restartCount: 1 });
    const restarted = seen([restartedAs, ended({ ...first, ...next })], after);
    assert.deepEqual(part(restarted.lastState?.terminated), expect);
    assert.deepEqual(part(seen([restartedAs, ended({ ...first, ...next })], restarted).lastState?.terminated), expect);
    assert.deepEqual(part(seen([restartedAs], restarted).lastState?.terminated), expect);
  });

test("another instance's end is its own", () => {
  const before = seen([ended()]);
  const second = seen([ended({ id: 'a-next', restartCount: 1, message: '' }), ended()], before);
  assert.equal(second.state?.terminated?.message, undefined);
  assert.equal(second.lastState?.terminated?.message, 'the disk is gone');
  const missed = { id: 'a-next', restartCount: 1, exitCode: 255, reason: 'Unknown', message: '' };
  assert.equal(seen([ended(missed), ended()], before).state?.terminated?.exitCode, 255);
});
