import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ContainerState } from '../../../agent/model/generated/api.ts';
import { type LifecycleInput, nextLifecycle, type PodLifecycle } from '../../../agent/pods/lifecycle.ts';
import { container, instance, now, pod, runtimePod, sandbox, syncing } from './build.ts';

const deleted = (graceSeconds: number) => ({ deletionTimestamp: '2027-01-01T00:00:00Z', deletionGracePeriodSeconds: graceSeconds });
const evicted = (graceSeconds: number | undefined) => ({
  reason: 'Evicted',
  message: 'The node was low on resource: memory.',
  graceSeconds,
});
const terminating = (graceSeconds: number, agoMs = 0): PodLifecycle => ({
  kind: 'terminating',
  since: now.mono - agoMs,
  graceSeconds,
  cause: { kind: 'deleted' },
});
const running = runtimePod([sandbox()], [instance('a')]);

const shown = (state: ContainerState, lastState?: ContainerState) => ({
  ...{ name: 'a', image: 'a:1', imageID: '', ready: false, restartCount: 0, state },
  ...(lastState === undefined ? {} : { lastState }),
});

/** What the state is, how long it has left, and why. */
function brief(lifecycle: PodLifecycle): string {
  switch (lifecycle.kind) {
    case 'syncing':
      return 'syncing';
    case 'terminating': {
      const cause = lifecycle.cause.kind === 'ended' ? lifecycle.cause.reason : lifecycle.cause.kind;
      return `terminating ${cause} ${lifecycle.graceSeconds} s since ${lifecycle.since - now.mono} ms`;
    }
    case 'terminated':
      return `terminated ${lifecycle.cause.kind}`;
  }
}

const never = { restartPolicy: 'Never' };
const init = { initContainers: [container('i')], restartPolicy: 'Never' };
const cases: { name: string; input: Partial<LifecycleInput>; is: string }[] = [
  { name: 'all is well', input: {}, is: 'syncing' },
  { name: 'deleted', input: { pod: pod({}, deleted(7)) }, is: 'terminating deleted 7 s since 0 ms' },
  {
    name: 'deleted and evicted: the shorter grace',
    input: { pod: pod({}, deleted(600)), ending: evicted(1) },
    is: 'terminating deleted 1 s since 0 ms',
  },
  {
    name: 'deleted and evicted softly: the shorter grace',
    input: { pod: pod({}, deleted(5)), ending: evicted(60) },
    is: 'terminating deleted 5 s since 0 ms',
  },
  { name: 'evicted with no grace of its own: the pod’s', input: { ending: evicted(undefined) }, is: 'terminating Evicted 30 s since 0 ms' },
  {
    name: 'being deleted, then evicted for memory: hastened from now',
    input: { pod: pod({}, deleted(600)), lifecycle: terminating(600, 10_000), ending: evicted(1) },
    is: 'terminating deleted 1 s since 0 ms',
  },
  {
    name: 'being deleted, then again with a shorter grace',
    input: { pod: pod({}, deleted(5)), lifecycle: terminating(600, 10_000) },
    is: 'terminating deleted 5 s since 0 ms',
  },
  {
    name: 'a shorter grace that ends later than the one under way changes nothing',
    input: { pod: pod({}, deleted(20)), lifecycle: terminating(30, 15_000) },
    is: 'terminating deleted 30 s since -15000 ms',
  },
  {
    name: 'a longer grace changes nothing',
    input: { pod: pod({}, deleted(600)), lifecycle: terminating(30, 15_000) },
    is: 'terminating deleted 30 s since -15000 ms',
  },
  {
    name: 'ending, and nothing runs: ended',
    input: { lifecycle: terminating(30), runtime: runtimePod([sandbox()], [instance('a', { state: 'exited' })]) },
    is: 'terminated deleted',
  },
  {
    name: 'ending, nothing runs, but a start is under way',
    input: { lifecycle: terminating(30), runtime: runtimePod([sandbox()], []), busy: true },
    is: 'terminating deleted 30 s since 0 ms',
  },
  {
    name: 'ending, and what runs is not known',
    input: { lifecycle: terminating(30), runtime: runtimePod([sandbox()], [instance('a', { state: 'unknown' })]) },
    is: 'terminating deleted 30 s since 0 ms',
  },
  { name: 'gone from its source', input: { inSource: false }, is: 'terminating removed 30 s since 0 ms' },
  {
    name: 'the API says that it has failed (pod garbage collection)',
    input: { pod: pod({}, {}, { phase: 'Failed' }) },
    is: 'terminating completed 30 s since 0 ms',
  },
  {
    name: 'deadline passed by the start time that the API shows',
    input: { pod: pod({ activeDeadlineSeconds: 60 }, {}, { startTime: new Date(now.wall - 60_000).toISOString() }) },
    is: 'terminating DeadlineExceeded 30 s since 0 ms',
  },
  {
    name: 'deadline not passed',
    input: { pod: pod({ activeDeadlineSeconds: 60 }, {}, { startTime: new Date(now.wall - 59_000).toISOString() }) },
    is: 'syncing',
  },
  {
    name: 'Never, all app containers ended',
    input: { pod: pod(never), runtime: runtimePod([sandbox()], [instance('a', { state: 'exited', exitCode: 3 })]) },
    is: 'terminating completed 30 s since 0 ms',
  },
  {
    name: 'Never, an init container failed',
    input: { pod: pod(init), runtime: runtimePod([sandbox()], [instance('i', { state: 'exited', exitCode: 1 })]) },
    is: 'terminating completed 30 s since 0 ms',
  },
  {
    name: 'Never, an init container failed that a new sandbox ran anew, after an app container had ended in the old one',
    input: {
      pod: pod({ ...init, containers: [container('a'), container('b')] }),
      runtime: runtimePod(
        [sandbox({ id: 's1', attempt: 1 }), sandbox({ ready: false })],
        [instance('i', { sandboxId: 's1', state: 'exited', exitCode: 1 }), instance('a', { state: 'exited' })],
      ),
    },
    is: 'terminating completed 30 s since 0 ms',
  },
  {
    name: 'Never, an init container that its own rule restarts failed',
    input: {
      pod: pod({
        ...init,
        initContainers: [
          container('i', {
            restartPolicy: 'Never',
            restartPolicyRules: [{ action: 'Restart', exitCodes: { operator: 'In', values: [1] } }],
          }),
        ],
      }),
      runtime: runtimePod([sandbox()], [instance('i', { state: 'exited', exitCode: 1 })]),
    },
    is: 'syncing',
  },
  {
    name: 'Never, and the runtime has lost what ran: killed, not to be run again',
    input: { pod: pod(never), runtime: runtimePod([sandbox()]), published: [shown({ running: { startedAt: '2027-01-15T07:59:10Z' } })] },
    is: 'terminating completed 30 s since 0 ms',
  },
  {
    name: 'Never, and the runtime has lost what had ended while it waited for a new sandbox',
    input: {
      pod: pod(never),
      runtime: runtimePod([sandbox()]),
      published: [shown({ waiting: { reason: 'ContainerCreating' } }, { terminated: { exitCode: 1, reason: 'Error' } })],
    },
    is: 'terminating completed 30 s since 0 ms',
  },
  {
    name: 'Never, and what was taken away has yet to start anew',
    input: {
      pod: pod(never),
      runtime: runtimePod([sandbox()]),
      published: [
        shown({ waiting: { reason: 'ContainerCreating' } }, { terminated: { exitCode: 137, reason: 'RestartingAllContainers' } }),
      ],
    },
    is: 'syncing',
  },
  {
    name: 'OnFailure, and the runtime has lost what ran',
    input: {
      pod: pod({ restartPolicy: 'OnFailure' }),
      runtime: runtimePod([sandbox()]),
      published: [shown({ running: { startedAt: '2027-01-15T07:59:10Z' } })],
    },
    is: 'syncing',
  },
  {
    name: 'OnFailure, one ended well and the other badly',
    input: {
      pod: pod({ restartPolicy: 'OnFailure', containers: [container('a'), container('b')] }),
      runtime: runtimePod([sandbox()], [instance('a', { state: 'exited' }), instance('b', { state: 'exited', exitCode: 1 })]),
    },
    is: 'syncing',
  },
  {
    name: 'ended is for ever',
    input: { lifecycle: { kind: 'terminated', at: 0, cause: { kind: 'completed' } } },
    is: 'terminated completed',
  },
];

for (const { name, input, is } of cases) {
  test(`lifecycle: ${name}`, () => {
    const result = nextLifecycle({
      pod: pod(),
      inSource: true,
      ending: undefined,
      lifecycle: syncing,
      runtime: running,
      published: [],
      busy: false,
      now,
      ...input,
    });
    assert.equal(brief(result), is);
  });
}
