import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { PlanInput } from '../../../agent/pods/plan-draft.ts';
import type { PodWork } from '../../../agent/pods/work.ts';
import { brief, container, idleWork, instance, now, plan, pod, runtimePod, sandbox } from './build.ts';

const have = (...names: string[]): Pick<PodWork, 'images'> => ({
  images: new Map(names.map((n) => [n, { attempt: 0, image: `${n}:1`, imageRef: `ref-${n}` }])),
});
const terminating = (graceSeconds = 30, agoMs = 0): PlanInput['lifecycle'] => ({
  kind: 'terminating',
  since: now.mono - agoMs,
  graceSeconds,
  cause: { kind: 'deleted' },
});
const terminated: PlanInput['lifecycle'] = { kind: 'terminated', at: now.mono, cause: { kind: 'deleted' } };
const hook = { lifecycle: { preStop: { exec: { command: ['x'] } } } };
const sidecar = container('side', { restartPolicy: 'Always' });

type Case = { name: string; input: Parameters<typeof plan>[0]; actions: string[]; wakeInMs?: number };

const cases: Case[] = [
  { name: 'runtime not looked at yet: nothing', input: { runtime: undefined, work: { prepared: false, mounted: false } }, actions: [] },
  { name: 'new pod: prepare first', input: { runtime: runtimePod([]), work: { prepared: false, mounted: false } }, actions: ['prepare'] },
  {
    name: 'prepared: volumes, pulls of all containers and the sandbox start together',
    input: {
      runtime: runtimePod([]),
      work: { mounted: false },
      pod: pod({ initContainers: [container('i')], containers: [container('a'), container('b')] }),
    },
    actions: ['mountVolumes', 'pull i#0', 'pull a#0', 'pull b#0', 'createSandbox#0'],
  },
  {
    name: 'the image has changed since it was fetched, while the container had not started yet: the new one is fetched',
    input: { work: have('a'), pod: pod({ containers: [container('a', { image: 'a:2' })] }) },
    actions: ['pull a#0'],
  },
  {
    name: 'a sandbox seen while it is being made is left alone',
    input: { runtime: runtimePod([sandbox({ ips: [] })]), work: { ...have('a'), inFlight: new Map([['createSandbox', 1]]) } },
    actions: [],
  },
  {
    name: 'network down: the sandbox waits, and looks again',
    input: { runtime: runtimePod([]), networkProblem: 'cni', work: have('a') },
    actions: [],
    wakeInMs: 1000,
  },
  {
    name: 'network down: host network does not care',
    input: { runtime: runtimePod([]), networkProblem: 'cni', work: have('a'), pod: pod({ hostNetwork: true }) },
    actions: ['createSandbox#0'],
  },
  { name: 'everything is good: do nothing', input: { runtime: runtimePod([sandbox()], [instance('a')]) }, actions: [] },
  {
    name: 'given more: its cgroups are resized',
    input: {
      pod: pod({ containers: [container('a', { resources: { requests: { cpu: '2' } } })] }),
      actuated: { containers: { a: { requests: { cpu: '1' } } }, pod: undefined },
      work: { podSize: { cpuRequest: 1000, cpuLimit: 0, memoryLimit: 0 } },
      runtime: runtimePod([sandbox()], [instance('a')]),
    },
    actions: ['resizePod'],
  },
  {
    name: 'given more, by its policy with a restart: stopped first',
    input: {
      pod: pod({
        containers: [
          container('a', {
            resources: { requests: { cpu: '2' } },
            resizePolicy: [{ resourceName: 'cpu', restartPolicy: 'RestartContainer' }],
          }),
        ],
      }),
      actuated: { containers: { a: { requests: { cpu: '1' } } }, pod: undefined },
      work: { podSize: { cpuRequest: 1000, cpuLimit: 0, memoryLimit: 0 } },
      runtime: runtimePod([sandbox()], [instance('a')]),
    },
    actions: ['stop a 30'],
  },
  {
    name: 'stopped to be started again: started although it ended well and OnFailure',
    input: {
      pod: pod({ restartPolicy: 'OnFailure' }),
      runtime: runtimePod([sandbox()], [instance('a', { state: 'exited', comesBack: true })]),
      work: { images: new Map([['a', { attempt: 1, image: 'a:1', imageRef: 'r' }]]) },
    },
    actions: ['start a#1'],
  },
  {
    name: 'a container is not started before the pod’s cgroup has its size',
    input: {
      pod: pod({ containers: [container('a', { resources: { requests: { cpu: '2' } } })] }),
      work: { ...have('a'), podSize: { cpuRequest: 1000, cpuLimit: 0, memoryLimit: 0 } },
    },
    actions: ['resizePod'],
  },
  {
    name: 'a resize that fails keeps nothing from starting, and is tried again',
    input: {
      pod: pod({ containers: [container('a', { resources: { requests: { cpu: '2' } } })] }),
      work: {
        ...have('a'),
        podSize: { cpuRequest: 1000, cpuLimit: 0, memoryLimit: 0 },
        resizeFailure: { reason: 'ResizeError', message: 'in use', retryAt: now.mono + 500 },
      },
    },
    actions: ['start a#0'],
    wakeInMs: 500,
  },
  {
    name: 'after a restart of the agent the pod’s cgroup is told its size again',
    input: { runtime: runtimePod([sandbox()], [instance('a')]), work: { podSize: undefined } },
    actions: ['resizePod'],
  },
  { name: 'image there: start', input: { work: have('a') }, actions: ['start a#0'] },
  { name: 'volumes not mounted: no start', input: { work: { ...have('a'), mounted: false } }, actions: ['mountVolumes'] },
  { name: 'one start at a time', input: { work: { ...have('a', 'b'), inFlight: new Map([['start:b', 1]]) } }, actions: [] },
  {
    name: 'postStart holds back those after it',
    input: {
      pod: pod({ containers: [container('a', { lifecycle: { postStart: { sleep: { seconds: 1 } } } }), container('b')] }),
      work: { ...have('b'), inFlight: new Map([['pull:a', 1]]) },
    },
    actions: [],
  },
  {
    name: 'sandbox died: containers are stopped, then a new sandbox',
    input: { runtime: runtimePod([sandbox({ ready: false })], [instance('a')]) },
    actions: ['stop a 30'],
  },
  {
    name: 'dead sandbox: it is stopped before the next is made, or its address would stay taken',
    input: {
      runtime: runtimePod([sandbox({ ready: false })], [instance('a', { state: 'exited', exitCode: 1 })]),
      work: { released: new Set(), images: new Map([['a', { attempt: 1, image: 'a:1', imageRef: 'r' }]]) },
    },
    actions: ['stopSandbox'],
  },
  {
    name: 'a stop of a dead sandbox that failed waits before it is tried again',
    input: {
      runtime: runtimePod([sandbox({ ready: false })]),
      work: { ...have('a'), released: new Set(), sandboxFailure: { reason: 'Unknown', message: 'cni', retryAt: now.mono + 500 } },
    },
    actions: [],
    wakeInMs: 500,
  },
  {
    name: 'the next sandbox gets a number that none has had, whatever the clock said when they were made',
    input: {
      runtime: runtimePod([sandbox({ id: 's1', attempt: 1, ready: false }), sandbox({ attempt: 4, ready: false, createdAt: 0 })]),
      work: { ...have('a'), released: new Set(['s0', 's1']) },
    },
    actions: ['createSandbox#5'],
  },
  {
    name: 'an older sandbox is removed when the containers in it have gone',
    input: {
      runtime: runtimePod(
        [sandbox({ id: 's2', attempt: 2 }), sandbox({ id: 's1', attempt: 1, ready: false }), sandbox({ ready: false })],
        [instance('a', { id: 'a-1', sandboxId: 's2' }), instance('a', { sandboxId: 's1', state: 'exited' })],
      ),
    },
    actions: ['removeSandbox s0'],
  },
  {
    name: 'a container that runs beside a newer instance of it is stopped',
    input: { runtime: runtimePod([sandbox()], [instance('a', { id: 'a-1', restartCount: 1 }), instance('a')]) },
    actions: ['stop a 30'],
  },
  {
    name: 'nor is one started while an older instance may still run',
    input: {
      runtime: runtimePod(
        [sandbox()],
        [instance('a', { id: 'a-1', restartCount: 1, state: 'exited' }), instance('a', { state: 'unknown' })],
      ),
      work: { images: new Map([['a', { attempt: 2, image: 'a:1', imageRef: 'r' }]]) },
    },
    actions: ['stop a 30'],
  },
  {
    name: 'one of unknown state that the runtime does not let go, however often it is told, is gone round',
    input: {
      runtime: runtimePod(
        [sandbox()],
        [instance('a', { id: 'a-1', restartCount: 1, state: 'exited' }), instance('a', { state: 'unknown' })],
      ),
      work: {
        images: new Map([['a', { attempt: 2, image: 'a:1', imageRef: 'r' }]]),
        stuck: new Map([['a-0', { reason: 'Unknown', message: 'no', retryAt: 0, tries: 6 }]]),
      },
    },
    actions: ['start a#2'],
  },
  {
    name: 'a container that runs in a sandbox that died is stopped',
    input: {
      runtime: runtimePod([sandbox({ id: 's1', attempt: 1 }), sandbox({ ready: false })], [instance('a')]),
    },
    actions: ['stop a 30'],
  },
  {
    name: 'what was only made in a sandbox that died is removed',
    input: {
      runtime: runtimePod(
        [sandbox({ id: 's1', attempt: 1 }), sandbox({ ready: false })],
        [instance('a', { id: 'a-1', sandboxId: 's1', restartCount: 1 }), instance('a', { state: 'created' })],
      ),
    },
    actions: ['remove a-0'],
  },
  {
    name: 'a container that was to run once is not run again because the runtime has lost it',
    input: {
      pod: pod(
        { containers: [container('a', { restartPolicy: 'Never' }), container('b')] },
        {},
        {
          containerStatuses: [{ name: 'a', image: '', imageID: '', ready: false, restartCount: 0, state: { terminated: { exitCode: 0 } } }],
        },
      ),
      runtime: runtimePod([sandbox()], [instance('b')]),
    },
    actions: [],
  },
  {
    name: 'a container of unknown state may run: it gets its grace',
    input: { runtime: runtimePod([sandbox()], [instance('a', { state: 'unknown' })]) },
    actions: ['stop a 30'],
  },
  {
    name: 'a container that the runtime lost, which the status has counted: its next number is that of the status',
    input: {
      pod: pod(
        {},
        {},
        {
          containerStatuses: [
            {
              ...{ name: 'a', image: '', imageID: '', ready: false, restartCount: 4 },
              state: { waiting: { reason: 'ContainerCreating' } },
              lastState: { terminated: { exitCode: 137, reason: 'ContainerStatusUnknown' } },
            },
          ],
        },
      ),
    },
    actions: ['pull a#4'],
  },
  {
    name: 'Never: an init container that failed is not started again, though an app container has run in an older sandbox',
    input: {
      pod: pod({ restartPolicy: 'Never', initContainers: [container('i')], containers: [container('a'), container('b')] }),
      runtime: runtimePod(
        [sandbox({ id: 's1', attempt: 1 }), sandbox({ ready: false })],
        [instance('a', { state: 'exited' }), instance('i', { sandboxId: 's1', state: 'exited', exitCode: 1 })],
      ),
    },
    actions: [],
  },
  {
    name: 'dead sandbox, nothing left: attempt counts on',
    input: {
      runtime: runtimePod([sandbox({ ready: false })], [instance('a', { state: 'exited', exitCode: 1 })]),
      work: { images: new Map([['a', { attempt: 1, image: 'a:1', imageRef: 'r' }]]) },
    },
    actions: ['createSandbox#1'],
  },
  {
    name: 'exited, Always: restart with the next attempt',
    input: {
      runtime: runtimePod([sandbox()], [instance('a', { state: 'exited', exitCode: 0 })]),
      work: { images: new Map([['a', { attempt: 1, image: 'a:1', imageRef: 'r' }]]) },
    },
    actions: ['start a#1'],
  },
  {
    name: 'restart pulls again',
    input: { runtime: runtimePod([sandbox()], [instance('a', { state: 'exited' })]), work: have('a') },
    actions: ['pull a#1'],
  },
  {
    name: 'in crash-loop back-off: wait, and wake when it ends',
    input: {
      runtime: runtimePod([sandbox()], [instance('a', { state: 'exited', exitCode: 1 })]),
      work: { crashes: new Map([['a', { delayMs: 10_000, updatedAt: now.wall - 5000, hash: instance('a').hash }]]) },
    },
    actions: [],
    wakeInMs: 9000,
  },
  {
    name: 'exited 0, OnFailure: stays',
    input: { pod: pod({ restartPolicy: 'OnFailure' }), runtime: runtimePod([sandbox()], [instance('a', { state: 'exited' })]) },
    actions: [],
  },
  {
    name: 'created but never started: removed first',
    input: { runtime: runtimePod([sandbox()], [instance('a', { state: 'created' })]), work: have('a') },
    actions: ['remove a-0'],
  },
  {
    name: 'created, and the runtime will not let it go: left, the next beside it, and asked again later',
    input: {
      runtime: runtimePod([sandbox()], [instance('a', { state: 'created' })]),
      work: {
        images: new Map([['a', { attempt: 1, image: 'a:1', imageRef: 'r' }]]),
        stuck: new Map([
          ['a-0', { reason: 'FailedPrecondition', message: 'cannot delete running task', retryAt: now.mono + 1000, tries: 6 }],
        ]),
      },
    },
    actions: ['start a#1'],
    wakeInMs: 1000,
  },
  {
    name: 'a stop that failed waits before it is tried again',
    input: {
      lifecycle: terminating(),
      runtime: runtimePod([sandbox()], [instance('a')]),
      work: { stuck: new Map([['a-0', { reason: 'Unavailable', message: 'no runtime', retryAt: now.mono + 500, tries: 1 }]]) },
    },
    actions: [],
    wakeInMs: 500,
  },
  {
    name: 'init containers one by one',
    input: { pod: pod({ initContainers: [container('i'), container('j')] }), work: have('i', 'j', 'a') },
    actions: ['start i#0'],
  },
  {
    name: 'first init done: the second',
    input: {
      pod: pod({ initContainers: [container('i'), container('j')] }),
      runtime: runtimePod([sandbox()], [instance('i', { state: 'exited' })]),
      work: have('i', 'j', 'a'),
    },
    actions: ['start j#0'],
  },
  {
    name: 'an init container that somebody has removed from the runtime is not run again when a later one has been started',
    input: {
      pod: pod({ initContainers: [container('i'), container('j')] }),
      runtime: runtimePod([sandbox()], [instance('j')]),
      work: have('a', 'i'),
    },
    actions: [],
  },
  {
    name: 'a sidecar that runs lets the app start',
    input: { pod: pod({ initContainers: [sidecar] }), runtime: runtimePod([sandbox()], [instance('side')]), work: have('a') },
    actions: ['start a#0'],
  },
  {
    name: 'a sidecar with an unanswered startup probe does not',
    input: {
      pod: pod({ initContainers: [{ ...sidecar, startupProbe: {} }] }),
      runtime: runtimePod([sandbox()], [instance('side')]),
      work: have('a'),
    },
    actions: [],
  },
  {
    name: 'liveness failed: stop with the probe’s own grace',
    input: {
      pod: pod({ containers: [container('a', { livenessProbe: { terminationGracePeriodSeconds: 5 } })] }),
      runtime: runtimePod([sandbox()], [instance('a')]),
      verdicts: () => ({ liveness: false }),
    },
    actions: ['stop a 5'],
  },
  ...(
    [
      ['Never', ['stop a 30'], 'the pod is about to end: its sidecar is not started again'],
      ['Always', ['stop a 30', 'start side#1'], 'the sidecar is started again for the container that comes back'],
    ] as const
  ).map(
    ([restartPolicy, actions, what]): Case => ({
      name: `liveness of the only app container failed, ${restartPolicy}: ${what}`,
      input: {
        pod: pod({ restartPolicy, initContainers: [sidecar], containers: [container('a', { livenessProbe: {} })] }),
        runtime: runtimePod([sandbox()], [instance('a'), instance('side', { state: 'exited', exitCode: 1 })]),
        verdicts: () => ({ liveness: false }),
        work: { images: new Map([['side', { attempt: 1, image: 'side:1', imageRef: 'r' }]]) },
      },
      actions: [...actions],
    }),
  ),
  {
    name: 'image changed: stop',
    input: { pod: pod({ containers: [container('a', { image: 'a:2' })] }), runtime: runtimePod([sandbox()], [instance('a')]) },
    actions: ['stop a 30'],
  },
  {
    name: 'third dead instance is removed',
    input: {
      runtime: runtimePod(
        [sandbox()],
        [
          instance('a', { id: 'a2', restartCount: 2 }),
          instance('a', { id: 'a1', state: 'exited' }),
          instance('a', { id: 'a0', state: 'exited' }),
        ],
      ),
    },
    actions: ['remove a0'],
  },
  {
    name: 'ending: all containers at once',
    input: {
      lifecycle: terminating(),
      pod: pod({ containers: [container('a'), container('b')] }),
      runtime: runtimePod([sandbox()], [instance('a'), instance('b')]),
    },
    actions: ['stop a 30', 'stop b 30'],
  },
  {
    name: 'ending with preStop: the hook first',
    input: {
      lifecycle: terminating(),
      pod: pod({ containers: [container('a', hook)] }),
      runtime: runtimePod([sandbox()], [instance('a')]),
    },
    actions: ['preStop a'],
  },
  {
    name: 'preStop done after 10 s: the rest of the grace',
    input: {
      lifecycle: terminating(30, 10_000),
      pod: pod({ containers: [container('a', hook)] }),
      runtime: runtimePod([sandbox()], [instance('a')]),
      work: { preStopped: new Set(['a-0']) },
    },
    actions: ['stop a 20'],
  },
  {
    name: 'preStop used up the grace: two seconds are left',
    input: {
      lifecycle: terminating(30, 40_000),
      pod: pod({ containers: [container('a', hook)] }),
      runtime: runtimePod([sandbox()], [instance('a')]),
    },
    actions: ['stop a 2'],
  },
  {
    name: 'sidecars wait for the app containers',
    input: {
      lifecycle: terminating(),
      pod: pod({ initContainers: [sidecar] }),
      runtime: runtimePod([sandbox()], [instance('a'), instance('side')]),
    },
    actions: ['stop a 30'],
    wakeInMs: 30_000,
  },
  {
    name: 'and go, the last first, when those are gone',
    input: {
      lifecycle: terminating(),
      pod: pod({ initContainers: [sidecar, { ...sidecar, name: 'late', image: 'late:1' }] }),
      runtime: runtimePod([sandbox()], [instance('a', { state: 'exited' }), instance('side'), instance('late')]),
    },
    actions: ['stop late 30'],
  },
  {
    name: 'sidecars do not wait for a debugging shell',
    input: {
      pod: pod({ initContainers: [sidecar], ephemeralContainers: [container('debug')] }),
      lifecycle: terminating(),
      runtime: runtimePod([sandbox()], [instance('a', { state: 'exited' }), instance('debug'), instance('side')]),
    },
    actions: ['stop debug 30', 'stop side 30'],
  },
  {
    name: 'a hastier wish replaces the stop under way',
    input: {
      lifecycle: terminating(2),
      runtime: runtimePod([sandbox()], [instance('a')]),
      work: { inFlight: new Map([['stop:a-0', now.mono + 30_000]]) },
    },
    actions: ['stop a 2'],
  },
  {
    name: 'the same wish does not',
    input: {
      lifecycle: terminating(30, 5000),
      runtime: runtimePod([sandbox()], [instance('a')]),
      work: { inFlight: new Map([['stop:a-0', now.mono + 25_000]]) },
    },
    actions: [],
  },
  { name: 'ended: sandbox and volumes go together', input: { lifecycle: terminated }, actions: ['stopSandbox', 'unmountVolumes'] },
  {
    name: 'ended, and its sandbox died by itself: it is stopped for its address, which nothing waits for',
    input: { lifecycle: terminated, runtime: runtimePod([sandbox({ ready: false })]), work: { unmounted: true, released: new Set() } },
    actions: ['stopSandbox', 'removeCgroup'],
  },
  {
    name: 'then the cgroup',
    input: { lifecycle: terminated, runtime: runtimePod([sandbox({ ready: false })]), work: { unmounted: true } },
    actions: ['removeCgroup'],
  },
  {
    name: 'in its source: its remains stay, for logs',
    input: { lifecycle: terminated, runtime: runtimePod([]), work: { unmounted: true, cgroupRemoved: true } },
    actions: [],
  },
  {
    name: 'gone from its source: everything goes',
    input: { lifecycle: terminated, inSource: false, runtime: runtimePod([]), work: { unmounted: true, cgroupRemoved: true } },
    actions: ['purge'],
  },
];

for (const { name, input, actions, wakeInMs } of cases) {
  test(`plan: ${name}`, () => {
    const result = plan(input);
    assert.deepEqual(brief(result), actions);
    if (wakeInMs !== undefined) assert.equal(result.wakeAt, now.mono + wakeInMs);
  });
}

test('plan: a failed step waits for its retry and says why', () => {
  const result = plan({
    runtime: runtimePod([]),
    work: { ...have('a'), sandboxFailure: { reason: 'x', message: 'no bridge', retryAt: now.mono + 700 } },
  });
  assert.deepEqual(brief(result), []);
  assert.equal(result.wakeAt, now.mono + 700);
  assert.deepEqual(result.waiting, [{ subject: 'sandbox', message: 'no bridge' }]);
});

test('plan: that a container is being ended is told before its hook, and once', () => {
  const ending = {
    pod: pod({ containers: [container('a', hook)] }),
    runtime: runtimePod([sandbox()], [instance('a')]),
    lifecycle: terminating(),
  };
  const messages = (work: Partial<PodWork>) =>
    plan({ ...ending, work }).actions.map((a) => [a.kind, a.kind === 'preStop' || a.kind === 'stopContainer' ? a.message : '']);
  assert.deepEqual(messages({}), [['preStop', 'Stopping container a']]);
  assert.deepEqual(messages({ preStopped: new Set(['a-0']) }), [['stopContainer', undefined]]);
});

test('plan: the same state gives the same plan', () => {
  assert.deepEqual(plan({ work: have('a') }), plan({ work: have('a') }));
  assert.equal(idleWork.inFlight.size, 0);
});
