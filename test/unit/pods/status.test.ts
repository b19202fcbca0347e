import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { PodStatus } from '../../../agent/model/generated/api.ts';
import { computeStatus, rememberedStatus, type StatusInput } from '../../../agent/pods/status.ts';
import { container, instance, now, pod, runtimePod, sandbox, syncing } from './build.ts';

function status(input: Partial<StatusInput> = {}): PodStatus {
  return computeStatus({
    pod: pod(),
    previous: {},
    runtime: runtimePod(),
    runtimeName: 'containerd',
    lifecycle: syncing,
    volumesMounted: true,
    waiting: new Map(),
    starting: new Set(),
    verdicts: () => ({}),
    recursiveReadOnly: () => true,
    hostIps: ['192.0.2.1', '2001:db8::1'],
    now: now.wall,
    ...input,
  });
}

const conditions = (s: PodStatus): Record<string, string> =>
  Object.fromEntries((s.conditions ?? []).map((c) => [c.type, c.reason ?? c.status]));
const exited = (name: string, exitCode = 0) =>
  instance(name, { state: 'exited', exitCode, reason: exitCode === 0 ? 'Completed' : 'Error' });
const ended = { kind: 'terminated', at: now.mono, cause: { kind: 'deleted' } } as const;
const evictedCause = { kind: 'ended', reason: 'Evicted', message: 'm' } as const;
const ending = { kind: 'terminating', since: now.mono, graceSeconds: 30, cause: { kind: 'deleted' } } as const;
const published: PodStatus = {
  phase: 'Running',
  containerStatuses: [
    {
      name: 'a',
      image: 'a:1',
      imageID: 'sha256:1',
      containerID: 'containerd://a-0',
      ready: true,
      started: true,
      restartCount: 0,
      state: { running: { startedAt: '2027-01-15T07:59:10Z' } },
    },
  ],
};

const phases: { name: string; input: Partial<StatusInput>; phase: string }[] = [
  { name: 'nothing there yet', input: { runtime: runtimePod([]) }, phase: 'Pending' },
  { name: 'runtime not looked at yet: what was published stays', input: { runtime: undefined, previous: published }, phase: 'Running' },
  { name: 'running', input: { runtime: runtimePod([sandbox()], [instance('a')]) }, phase: 'Running' },
  {
    name: 'one of two running, the other not made',
    input: { pod: pod({ containers: [container('a'), container('b')] }), runtime: runtimePod([sandbox()], [instance('a')]) },
    phase: 'Pending',
  },
  { name: 'exited 0, Always: comes back', input: { runtime: runtimePod([sandbox()], [exited('a')]) }, phase: 'Running' },
  {
    name: 'exited 0, Never',
    input: { lifecycle: ended, pod: pod({ restartPolicy: 'Never' }), runtime: runtimePod([sandbox()], [exited('a')]) },
    phase: 'Succeeded',
  },
  {
    name: 'exited 0, Never, and the pod’s end is not settled yet',
    input: { previous: published, pod: pod({ restartPolicy: 'Never' }), runtime: runtimePod([sandbox()], [exited('a')]) },
    phase: 'Running',
  },
  {
    name: 'exited 1, Never',
    input: { lifecycle: ended, pod: pod({ restartPolicy: 'Never' }), runtime: runtimePod([sandbox()], [exited('a', 1)]) },
    phase: 'Failed',
  },
  {
    name: 'exited 1, OnFailure',
    input: { pod: pod({ restartPolicy: 'OnFailure' }), runtime: runtimePod([sandbox()], [exited('a', 1)]) },
    phase: 'Running',
  },
  {
    name: 'init running',
    input: { pod: pod({ initContainers: [container('i')] }), runtime: runtimePod([sandbox()], [instance('i')]) },
    phase: 'Pending',
  },
  {
    name: 'init failed for good',
    input: {
      lifecycle: ended,
      pod: pod({ restartPolicy: 'Never', initContainers: [container('i')] }),
      runtime: runtimePod([sandbox()], [exited('i', 1)]),
    },
    phase: 'Failed',
  },
  {
    name: 'done, but still stopping: not terminal before nothing runs',
    input: {
      pod: pod({ restartPolicy: 'Never' }),
      previous: published,
      lifecycle: ending,
      runtime: runtimePod([sandbox()], [exited('a')]),
    },
    phase: 'Running',
  },
  {
    name: 'deleted and ended, exit 0',
    input: { previous: published, lifecycle: ended, runtime: runtimePod([], [exited('a')]) },
    phase: 'Succeeded',
  },
  {
    name: 'deleted and killed',
    input: { previous: published, lifecycle: ended, runtime: runtimePod([], [exited('a', 137)]) },
    phase: 'Failed',
  },
  { name: 'deleted before anything ran', input: { lifecycle: ended, runtime: runtimePod([]) }, phase: 'Failed' },
  {
    name: 'terminal is for ever',
    input: { pod: pod({}, {}, { phase: 'Succeeded' }), runtime: runtimePod([sandbox()], [instance('a')]) },
    phase: 'Succeeded',
  },
  {
    name: 'ended by the node, killed',
    input: { lifecycle: { ...ended, cause: evictedCause }, runtime: runtimePod([], [exited('a', 137)]) },
    phase: 'Failed',
  },
  {
    name: 'ended by the node, and came to a good end (e2e_node/critical_pod_test.go)',
    input: { lifecycle: { ...ended, cause: evictedCause }, runtime: runtimePod([], [exited('a')]) },
    phase: 'Succeeded',
  },
  {
    name: 'ended by the node before it ran',
    input: { lifecycle: { ...ended, cause: evictedCause }, runtime: runtimePod([]) },
    phase: 'Failed',
  },
  {
    name: 'ended by its deadline, whatever its containers came to',
    input: {
      lifecycle: { ...ended, cause: { kind: 'ended', reason: 'DeadlineExceeded', message: 'm' } },
      runtime: runtimePod([], [exited('a')]),
    },
    phase: 'Failed',
  },
];

test('why a pod was ended is told where it failed, and not where it succeeded', () => {
  const reasons = [137, 0].map((exitCode) => {
    const { reason, message } = status({ lifecycle: { ...ended, cause: evictedCause }, runtime: runtimePod([], [exited('a', exitCode)]) });
    return [reason, message];
  });
  assert.deepEqual(reasons, [
    ['Evicted', 'm'],
    [undefined, undefined],
  ]);
});

for (const { name, input, phase } of phases) test(`phase: ${name}`, () => assert.equal(status(input).phase, phase));

test('conditions: running and ready', () => {
  assert.deepEqual(conditions(status({ runtime: runtimePod([sandbox()], [instance('a')]) })), {
    PodReadyToStartContainers: 'True',
    Initialized: 'True',
    Ready: 'True',
    ContainersReady: 'True',
    PodScheduled: 'True',
  });
});

test('conditions: volumes still missing', () => {
  assert.equal(conditions(status({ volumesMounted: false })).PodReadyToStartContainers, 'False');
});

test('conditions: a readiness gate that nobody has answered', () => {
  const gated = status({
    pod: pod({ readinessGates: [{ conditionType: 'example.com/ok' }] }),
    runtime: runtimePod([sandbox()], [instance('a')]),
  });
  const ready = gated.conditions?.find((c) => c.type === 'Ready');
  assert.equal(ready?.reason, 'ReadinessGatesNotReady');
  assert.equal(ready?.message, 'corresponding condition of pod readiness gate "example.com/ok" does not exist.');
});

test('conditions: the transition time moves with the status only', () => {
  const first = status({ runtime: runtimePod([sandbox()], [instance('a')]) });
  const later = status({ previous: first, runtime: runtimePod([sandbox()], [instance('a')]), now: now.wall + 60_000 });
  assert.deepEqual(later.conditions, first.conditions);
});

test('readiness: until a probe has spoken, the published verdict on the same instance stands', () => {
  const probed = pod({ containers: [container('a', { readinessProbe: {}, startupProbe: {} })] });
  const runtime = runtimePod([sandbox()], [instance('a')]);
  assert.equal(status({ pod: probed, runtime, previous: published }).containerStatuses?.[0]?.ready, true);
  assert.equal(status({ pod: probed, runtime }).containerStatuses?.[0]?.ready, false);
  assert.equal(
    status({ pod: probed, runtime, previous: published, verdicts: () => ({ ready: false }) }).containerStatuses?.[0]?.ready,
    false,
  );
  const other = runtimePod([sandbox()], [instance('a', { id: 'a-1' })]);
  assert.equal(status({ pod: probed, runtime: other, previous: published }).containerStatuses?.[0]?.ready, false);
});

test('stopped to come back: the end is never shown as one for good, which the API would not take back', () => {
  const stopped = { ...exited('a'), comesBack: true };
  const of = (restartPolicy: string, instanceEnded: typeof stopped) =>
    status({ pod: pod({ restartPolicy }), runtime: runtimePod([sandbox()], [instanceEnded]) }).containerStatuses?.[0];
  for (const restartPolicy of ['OnFailure', 'Never']) {
    assert.deepEqual(of(restartPolicy, stopped)?.state, { waiting: { reason: 'ContainerCreating' } });
    assert.equal(of(restartPolicy, stopped)?.lastState?.terminated?.exitCode, 0);
  }
  assert.equal(of('Always', stopped)?.state?.terminated?.exitCode, 0);
});

const initialised = pod({ initContainers: [container('i'), container('side', { restartPolicy: 'Always' })] });
const remembered: PodStatus = {
  ...published,
  initContainerStatuses: ['i', 'side'].map((name) => ({
    ...{ name, image: '', imageID: '', ready: true, restartCount: 2 },
    state: { terminated: { exitCode: 0, reason: 'Completed' } },
  })),
};
const reminders: { name: string; source: 'api' | 'file'; containers: string[]; i: string | undefined }[] = [
  { name: 'of a pod of the API', source: 'api', containers: ['a'], i: 'Completed' },
  { name: 'of a manifest, and the runtime still has it', source: 'file', containers: ['a', 'i'], i: 'Completed' },
  { name: 'of a manifest, and the runtime has lost it', source: 'file', containers: ['a'], i: undefined },
  { name: 'of a manifest, and the pod does not run', source: 'file', containers: [], i: 'Completed' },
];
for (const { name, source, containers, i } of reminders)
  test(`after a restart of the agent, the end of an init container: ${name}`, () => {
    const runtime = runtimePod(
      [sandbox()],
      containers.map((one) => (one === 'a' ? instance(one) : exited(one))),
    );
    const told = rememberedStatus(remembered, { pod: initialised, source }, runtime);
    const [first, second] = told?.initContainerStatuses ?? [];
    assert.deepEqual([first?.state?.terminated?.reason, first?.restartCount], [i, 2]);
    assert.equal(second?.state?.terminated?.reason, 'Completed', 'a sidecar');
    if (i !== undefined) return;
    const now = status({ pod: initialised, previous: told ?? {}, runtime }).initContainerStatuses?.[0];
    assert.match(now?.state?.terminated?.message ?? '', /^Unable to get init container status/);
    assert.equal(now?.restartCount, 2);
  });

test('waiting: a crash loop shows its reason, the end moves to lastState', () => {
  const crashed = status({
    runtime: runtimePod([sandbox()], [exited('a', 3)]),
    waiting: new Map([['a', { reason: 'CrashLoopBackOff', message: 'back-off 10s' }]]),
  }).containerStatuses?.[0];
  assert.deepEqual(crashed?.state, { waiting: { reason: 'CrashLoopBackOff', message: 'back-off 10s' } });
  assert.equal(crashed?.lastState?.terminated?.exitCode, 3);
});

test('waiting: an init container that runs does not wait, whatever was told of its start', () => {
  const failed = new Map([['side', { reason: 'RunContainerError', message: 'deadline exceeded' }]]);
  const withSidecar = pod({ initContainers: [container('side', { restartPolicy: 'Always' })] });
  const s = status({ pod: withSidecar, runtime: runtimePod([sandbox()], [instance('side'), instance('a')]), waiting: failed });
  assert.equal(s.initContainerStatuses?.[0]?.state?.waiting, undefined);
  assert.equal(s.phase, 'Running');
});

test('a container of unknown state that ran is told as killed, and goes on so', () => {
  const runtime = runtimePod([sandbox()], [instance('a', { state: 'unknown' })]);
  const first = status({ previous: published, runtime });
  assert.equal(first.containerStatuses?.[0]?.state?.terminated?.reason, 'ContainerStatusUnknown');
  assert.deepEqual(status({ previous: first, runtime }).containerStatuses, first.containerStatuses);
});

test('an init container that the runtime has lost track of once app containers ran has completed', () => {
  const s = status({
    pod: pod({ initContainers: [container('i')], restartPolicy: 'Never' }),
    runtime: runtimePod([sandbox()], [instance('i', { state: 'unknown' }), instance('a')]),
  });
  assert.equal(s.initContainerStatuses?.[0]?.state?.terminated?.exitCode, 0);
  assert.equal(s.phase, 'Running');
});

test('a restart shows the end before as lastState', () => {
  const restarted = status({ runtime: runtimePod([sandbox()], [instance('a', { id: 'a-1', restartCount: 1 }), exited('a', 3)]) })
    .containerStatuses?.[0];
  assert.equal(restarted?.restartCount, 1);
  assert.equal(restarted?.lastState?.terminated?.exitCode, 3);
  assert.equal(restarted?.lastState?.terminated?.containerID, 'containerd://a-0');
});

test('a container that the runtime lost while the pod lives counts as ended', () => {
  const lost = status({ previous: published, runtime: runtimePod([sandbox()]) }).containerStatuses?.[0];
  assert.equal(lost?.lastState?.terminated?.reason, 'ContainerStatusUnknown');
  assert.equal(lost?.restartCount, 1);
});

test('a container with a postStart hook under way is not shown as running', () => {
  const s = status({ runtime: runtimePod([sandbox()], [instance('a')]), starting: new Set(['a']) });
  assert.deepEqual(s.containerStatuses?.[0]?.state, { waiting: { reason: 'ContainerCreating' } });
  assert.equal(s.phase, 'Pending');
});

test('addresses: the node’s first family first; host network has the node’s', () => {
  const dual = runtimePod([sandbox({ ips: ['fd00::5', '10.0.0.5'] })]);
  assert.deepEqual(
    status({ runtime: dual }).podIPs?.map((p) => p.ip),
    ['10.0.0.5', 'fd00::5'],
  );
  assert.equal(status({ runtime: dual, hostIps: ['2001:db8::1'] }).podIP, 'fd00::5');
  assert.equal(status({ pod: pod({ hostNetwork: true }) }).podIP, '192.0.2.1');
});

test('addresses: one of each family, as the API takes no more; of a host network pod none is taken back while the node’s are unknown', () => {
  const many = runtimePod([sandbox({ ips: ['10.0.0.5', '10.1.0.5', 'fd00::5', 'fd01::5'] })]);
  assert.deepEqual(
    status({ runtime: many }).podIPs?.map((p) => p.ip),
    ['10.0.0.5', 'fd00::5'],
  );
  const before: PodStatus = { podIP: '192.0.2.1', podIPs: [{ ip: '192.0.2.1' }] };
  assert.equal(status({ pod: pod({ hostNetwork: true }), hostIps: [], previous: before }).podIP, '192.0.2.1');
});

test('containers are listed by name, init containers in their order', () => {
  const unordered = pod({ initContainers: [container('z'), container('y')], containers: [container('b'), container('a')] });
  const s = status({ pod: unordered, runtime: runtimePod() });
  assert.deepEqual(
    s.containerStatuses?.map((c) => c.name),
    ['a', 'b'],
  );
  assert.deepEqual(
    s.initContainerStatuses?.map((c) => c.name),
    ['z', 'y'],
  );
});

test('what stays behind of a start that was cut short is nobody’s last end', () => {
  const s = status({
    runtime: runtimePod(
      [sandbox()],
      [instance('a', { id: 'a-2', restartCount: 2 }), instance('a', { id: 'a-1', restartCount: 1, state: 'created' }), exited('a', 3)],
    ),
  });
  assert.equal(s.containerStatuses?.[0]?.lastState?.terminated?.exitCode, 3);
});

test('recursive read-only is claimed only where the runtime can', () => {
  const mounts = [{ name: 'v', mountPath: '/v', readOnly: true, recursiveReadOnly: 'IfPossible' }];
  const of = (can: boolean) =>
    status({ pod: pod({ containers: [container('a', { volumeMounts: mounts })] }), recursiveReadOnly: () => can }).containerStatuses?.[0]
      ?.volumeMounts?.[0]?.recursiveReadOnly;
  assert.deepEqual([of(true), of(false)], ['Enabled', 'Disabled']);
});

const inits = { initContainers: [container('i'), container('j')] };
const ends: { name: string; input: Partial<StatusInput>; is: string[] }[] = [
  { name: 'its image never came', input: { runtime: runtimePod() }, is: ['a 137 ContainerStatusUnknown'] },
  {
    name: 'one of two had ended well',
    input: { pod: pod({ containers: [container('a'), container('b')] }), runtime: runtimePod([], [exited('a')]) },
    is: ['a 0 Completed', 'b 137 ContainerStatusUnknown'],
  },
  {
    name: 'its first init container failed: the others were never to run',
    input: { pod: pod({ ...inits, restartPolicy: 'Never' }), runtime: runtimePod([], [exited('i', 1)]) },
    is: ['i 1 Error', 'j waiting PodInitializing', 'a waiting PodInitializing'],
  },
  {
    name: 'its init containers had ended well',
    input: { pod: pod(inits), runtime: runtimePod([], [exited('i'), exited('j')]) },
    is: ['i 0 Completed', 'j 0 Completed', 'a 137 ContainerStatusUnknown'],
  },
  {
    name: 'its init container ended with 0 because it was asked to end: that is no completion',
    input: {
      pod: pod({ initContainers: [container('i')] }),
      atEnd: { initContainerStatuses: [{ name: 'i', image: '', imageID: '', ready: false, restartCount: 0, state: { running: {} } }] },
      runtime: runtimePod([], [exited('i')]),
    },
    is: ['i 0 Completed', 'a waiting PodInitializing'],
  },
  {
    name: 'nothing of it was ever made: its first init container is said to have failed',
    input: { pod: pod(inits), runtime: runtimePod([]) },
    is: ['i 137 ContainerStatusUnknown', 'j waiting PodInitializing', 'a waiting PodInitializing'],
  },
];

for (const { name, input, is } of ends) {
  test(`the last status of a pod: ${name}`, () => {
    const s = status({ lifecycle: ended, ...input });
    const told = [...(s.initContainerStatuses ?? []), ...(s.containerStatuses ?? [])].map((c) => {
      const { terminated, waiting } = c.state ?? {};
      return terminated === undefined ? `${c.name} waiting ${waiting?.reason}` : `${c.name} ${terminated.exitCode} ${terminated.reason}`;
    });
    assert.deepEqual(told, is);
    assert.equal(s.phase, 'Failed');
  });
}

test('conditions: a pod that was initialized stays so when a new sandbox runs its init containers anew', () => {
  const previous: PodStatus = { phase: 'Running', conditions: [{ type: 'Initialized', status: 'True' }] };
  const s = status({ pod: pod({ initContainers: [container('i')] }), previous, runtime: runtimePod([sandbox()], [instance('i')]) });
  assert.equal(conditions(s).Initialized, 'True');
});

test('conditions: a pod that succeeded restarts nothing', () => {
  const rules = {
    restartPolicy: 'Never',
    restartPolicyRules: [{ action: 'RestartAllContainers', exitCodes: { operator: 'In', values: [42] } }],
  };
  const s = status({
    pod: pod({ restartPolicy: 'Never', containers: [container('a', rules)] }),
    lifecycle: ended,
    runtime: runtimePod([], [exited('a')]),
  });
  assert.equal(conditions(s).AllContainersRestarting, 'PodCompleted');
});

test('messages share the API’s limit of 12 KiB', () => {
  const wordy = instance('a', { state: 'exited', message: 'x'.repeat(20_000) });
  assert.equal(status({ runtime: runtimePod([sandbox()], [wordy]) }).containerStatuses?.[0]?.state?.terminated?.message?.length, 12 * 1024);
});

const disrupted = { kind: 'ended', reason: 'Evicted', message: 'm', disruption: 'd' } as const;
const byTaint = { type: 'DisruptionTarget', status: 'True', reason: 'DeletionByTaintManager', lastTransitionTime: '2027-01-15T07:59:10Z' };
const targets: { name: string; input: Partial<StatusInput>; reason: string | undefined }[] = [
  {
    name: 'not while its containers still run',
    input: { lifecycle: { ...ending, cause: disrupted }, runtime: runtimePod([sandbox()], [instance('a')]) },
    reason: undefined,
  },
  {
    name: 'with the terminal phase',
    input: { lifecycle: { ...ended, cause: disrupted }, runtime: runtimePod([], [exited('a', 137)]) },
    reason: 'TerminationByKubelet',
  },
  { name: 'not of a pod that was deleted', input: { lifecycle: ended, runtime: runtimePod([], [exited('a')]) }, reason: undefined },
  {
    name: 'somebody else’s stays',
    input: {
      pod: { ...pod(), status: { conditions: [byTaint] } },
      lifecycle: { ...ending, cause: disrupted },
      runtime: runtimePod([sandbox()], [instance('a')]),
    },
    reason: 'DeletionByTaintManager',
  },
];
for (const { name, input, reason } of targets)
  test(`DisruptionTarget: ${name}`, () =>
    assert.equal(status(input).conditions?.find((c) => c.type === 'DisruptionTarget')?.reason, reason));

test('a pod that was evicted before a restart of the agent stays so, although its container ended well', () => {
  const evicted: PodStatus = { ...published, phase: 'Failed', reason: 'Evicted', message: 'The node was low on resource: memory. ' };
  const after = status({
    pod: pod({ restartPolicy: 'OnFailure' }, {}, evicted),
    previous: evicted,
    runtime: runtimePod([sandbox({ ready: false })], [exited('a')]),
    lifecycle: { kind: 'terminated', at: now.mono, cause: { kind: 'completed' } },
  });
  assert.deepEqual([after.phase, after.reason, after.message], ['Failed', 'Evicted', 'The node was low on resource: memory. ']);
});

test('that a container was killed for want of memory stays told, also of the instance before', () => {
  const oom = exited('a', 137);
  const told = status({ runtime: runtimePod([sandbox()], [{ ...oom, reason: 'OOMKilled' }]) });
  const id = told.containerStatuses?.[0]?.state?.terminated?.containerID;
  // A restart of the agent: the runtime still says Error.
  const later = status({ runtime: runtimePod([sandbox()], [oom]), previous: told });
  assert.equal(later.containerStatuses?.[0]?.state?.terminated?.reason, 'OOMKilled');
  const next = instance('a', { id: 'a-next', restartCount: 1 });
  const restarted = status({ runtime: runtimePod([sandbox()], [next, oom]), previous: later });
  assert.equal(restarted.containerStatuses?.[0]?.lastState?.terminated?.reason, 'OOMKilled');
  const again = status({ runtime: runtimePod([sandbox()], [next, oom]), previous: restarted });
  assert.equal(again.containerStatuses?.[0]?.lastState?.terminated?.reason, 'OOMKilled');
  assert.equal(again.containerStatuses?.[0]?.lastState?.terminated?.containerID, id);
  // Another instance's end is its own.
  const killed = { ...oom, id: 'a-next', restartCount: 1 };
  const other = status({ runtime: runtimePod([sandbox()], [killed, oom]), previous: again });
  assert.equal(other.containerStatuses?.[0]?.state?.terminated?.reason, 'Error');
});
