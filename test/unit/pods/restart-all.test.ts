import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Container } from '../../../agent/model/generated/api.ts';
import { nextLifecycle } from '../../../agent/pods/lifecycle.ts';
import { couldRestartAll, isRestartingAll } from '../../../agent/pods/restart-all.ts';
import { computeStatus } from '../../../agent/pods/status.ts';
import { brief, container, idleWork, instance, now, plan, pod, runtimePod, sandbox, syncing } from './build.ts';

const rules: Partial<Container> = {
  restartPolicy: 'Never',
  restartPolicyRules: [{ action: 'RestartAllContainers', exitCodes: { operator: 'In', values: [42] } }],
};
const spec = pod({
  restartPolicy: 'Never',
  initContainers: [container('init'), container('side', { restartPolicy: 'Always' })],
  containers: [container('source', rules), container('other')],
});
const fired = instance('source', { state: 'exited', exitCode: 42 });

test('only pods with such a rule know of it', () => {
  assert.equal(couldRestartAll(spec.spec), true);
  assert.equal(couldRestartAll(pod().spec), false);
});

const orders: { name: string; containers: ReturnType<typeof instance>[]; actions: string[] }[] = [
  {
    name: 'another exit code: nothing of the kind',
    containers: [instance('source', { state: 'exited', exitCode: 1 }), instance('other')],
    actions: [],
  },
  {
    name: 'app containers go first, running ones are stopped',
    containers: [fired, instance('other'), instance('side'), instance('init', { state: 'exited' })],
    actions: ['reset other-0 kill'],
  },
  {
    name: 'then sidecars and init containers, the last started first',
    containers: [fired, instance('side'), instance('init', { state: 'exited' })],
    actions: ['reset side-0 kill'],
  },
  { name: 'then the init container that has ended', containers: [fired, instance('init', { state: 'exited' })], actions: ['reset init-0'] },
  { name: 'the one whose end asked for it goes last', containers: [fired], actions: ['reset source-0'] },
  {
    name: 'older instances of that one go before it',
    containers: [fired, instance('source', { id: 'source-old', state: 'exited', exitCode: 42 })],
    actions: ['reset source-old'],
  },
];
for (const { name, containers, actions } of orders) {
  test(name, () => {
    const result = plan({ pod: spec, runtime: runtimePod([sandbox()], containers) });
    assert.deepEqual(
      brief(result).filter((a) => a.startsWith('reset')),
      actions,
    );
  });
}

test('a start under way comes to its end first', () => {
  const runtime = runtimePod([sandbox()], [fired, instance('side')]);
  assert.deepEqual(brief(plan({ pod: spec, runtime, work: { inFlight: new Map([['start:other', 1]]) } })), []);
});

test('when all are gone the init containers start anew, counted on', () => {
  const resets = new Map([
    ['init', { attempt: 1, endedAt: undefined }],
    ['source', { attempt: 1, endedAt: now.wall - 100 }],
  ]);
  const images = new Map([['init', { attempt: 1, image: 'init:1', imageRef: 'r' }]]);
  assert.deepEqual(brief(plan({ pod: spec, work: { resets, images } })), ['start init#1']);
});

test('one that asks for it again and again backs off', () => {
  const again = pod({ containers: [container('source', rules)] });
  const resets = new Map([['source', { attempt: 2, endedAt: now.wall - 1000 }]]);
  const crashes = new Map([['source', { delayMs: 10_000, updatedAt: now.wall - 5000, hash: instance('source').hash }]]);
  const result = plan({ pod: again, work: { resets, crashes } });
  assert.deepEqual(brief(result), []);
  assert.equal(result.wakeAt, now.mono + 9000);
});

test('no end on the way is the end of the pod', () => {
  const containers = [fired, instance('other', { state: 'exited', exitCode: 137 }), instance('init', { state: 'exited', exitCode: 137 })];
  const runtime = runtimePod([sandbox()], containers);
  assert.equal(isRestartingAll(spec, runtime), true);
  const input = { pod: spec, inSource: true, ending: undefined, lifecycle: syncing, runtime, published: [], busy: false, now };
  assert.equal(nextLifecycle({ ...input, restartingAll: true }).kind, 'syncing');
});

test('status: the condition is true until all are gone; what is gone waits, and counts one more', () => {
  const common = {
    pod: spec,
    runtimeName: 'containerd',
    lifecycle: syncing,
    volumesMounted: true,
    waiting: new Map(),
    starting: new Set<string>(),
    verdicts: () => ({}),
    recursiveReadOnly: () => false,
    hostIps: ['10.0.0.1'],
    now: now.wall,
  };
  const everything = [fired, instance('other'), instance('side'), instance('init', { state: 'exited' })];
  const condition = (status: ReturnType<typeof computeStatus>, type: string) => status.conditions?.find((c) => c.type === type)?.status;
  let status = computeStatus({ ...common, previous: {}, runtime: runtimePod([sandbox()], [instance('source'), ...everything.slice(1)]) });
  assert.equal(condition(status, 'AllContainersRestarting'), 'False');
  assert.equal(status.phase, 'Running');
  for (const containers of [everything, everything.slice(0, 1)]) {
    status = computeStatus({ ...common, previous: status, runtime: runtimePod([sandbox()], containers) });
    assert.equal(condition(status, 'AllContainersRestarting'), 'True');
    assert.equal(condition(status, 'Initialized'), 'True');
    assert.equal(status.phase, 'Running');
  }
  status = computeStatus({ ...common, previous: status, runtime: runtimePod([sandbox()], []) });
  assert.equal(condition(status, 'AllContainersRestarting'), 'False');
  for (const s of [...(status.containerStatuses ?? []), ...(status.initContainerStatuses ?? [])]) {
    assert.equal(s.restartCount, 1, s.name);
    assert.equal(s.state?.waiting?.reason, 'RestartingAllContainers', s.name);
    assert.equal(s.lastState?.terminated?.exitCode, 137, s.name);
  }
  assert.equal(status.phase, 'Running');
  const again = runtimePod([sandbox()], [instance('init', { id: 'init-1', restartCount: 1 })]);
  status = computeStatus({ ...common, previous: status, runtime: again });
  assert.equal(status.initContainerStatuses?.[0]?.restartCount, 1);
  assert.equal(status.initContainerStatuses?.[0]?.lastState?.terminated?.reason, 'RestartingAllContainers');
  assert.equal(status.containerStatuses?.[0]?.restartCount, 1);
});

test('a sandbox whose volumes keep failing is given back, and made again when they are there', () => {
  const failing = { mounted: false, mountingSince: now.mono - 200_000, inFlight: new Map([['volumes', 1]]) };
  assert.deepEqual(brief(plan({ work: failing })), ['stopSandbox']);
  assert.deepEqual(
    brief(plan({ work: { ...failing, mountingSince: now.mono - 1000 } })),
    ['pullImage'].map(() => 'pull a#0'),
  );
  assert.deepEqual(brief(plan({ work: failing, runtime: runtimePod([sandbox({ ready: false })]) })), []);
  assert.deepEqual(brief(plan({ work: failing, runtime: runtimePod([sandbox()], [instance('a')]) })), []);
  const there = { ...idleWork, images: new Map([['a', { attempt: 0, image: 'a:1', imageRef: 'r' }]]) };
  assert.deepEqual(brief(plan({ work: there, runtime: runtimePod([sandbox({ ready: false })]) })), ['createSandbox#1']);
});
