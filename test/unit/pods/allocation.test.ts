import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { Clock } from '../../../agent/base/clock.ts';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { decodePodResources, encodePodResources, openPodResources } from '../../../agent/drivers/journal/pod-resources.ts';
import type { Container, PodSpec, ResourceRequirements } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import {
  type Allocation,
  allocationOf,
  decideResize,
  heldPod,
  podSize,
  rankPending,
  resizeConditions,
  resizeEventMessage,
  resizeOf,
  resizeOrder,
  resizeStateOf,
  sameResources,
  sizedContainer,
  withAllocation,
} from '../../../agent/pods/allocation.ts';
import { createResizing } from '../../../agent/pods/resizing.ts';
import { container, instance, now, pod, runtimePod, sandbox } from './build.ts';

type List = Record<string, string>;
const resources = (requests: List, limits?: List): ResourceRequirements => (limits === undefined ? { requests } : { requests, limits });
const small = resources({ cpu: '100m', memory: '64Mi' }, { cpu: '200m', memory: '128Mi' });
const large = resources({ cpu: '300m', memory: '96Mi' }, { cpu: '400m', memory: '256Mi' });
const sized = (name: string, own: ResourceRequirements, more: Partial<Container> = {}): Container =>
  container(name, { resources: own, ...more });
const podOf = (spec: Partial<PodSpec>, metadata: Partial<AgentPod['metadata']> = {}): AgentPod => pod(spec, metadata);
const mib = 1024 * 1024;

test('an allocation takes the place of what the spec asks for', () => {
  const asked = podOf({ containers: [sized('a', large)], initContainers: [sized('i', large)] });
  const given = withAllocation(asked, { containers: { a: small }, pod: undefined });
  assert.equal(given.spec.containers[0]?.resources, small);
  assert.equal(given.spec.initContainers?.[0]?.resources, large);
  assert.deepEqual(withAllocation(asked, { containers: {}, pod: small }).spec.resources, small);
});

test('one that says the same, however written, changes nothing', () => {
  const asked = podOf({ containers: [sized('a', resources({ cpu: '0.1' }))] });
  assert.equal(withAllocation(asked, { containers: { a: resources({ cpu: '100m' }) }, pod: undefined }), asked);
  assert.equal(withAllocation(asked, allocationOf(asked)), asked);
  assert.equal(withAllocation(asked, undefined), asked);
  assert.ok(sameResources(undefined, {}));
  assert.ok(!sameResources(resources({ cpu: '1' }), resources({ cpu: '1' }, { cpu: '1' })));
});

test('the size of a pod: limits only where all containers have one, or the pod', () => {
  assert.deepEqual(podSize(podOf({ containers: [sized('a', small), sized('b', small)] })), {
    cpuRequest: 200,
    cpuLimit: 400,
    memoryLimit: 256 * mib,
  });
  const unlimited = [sized('a', small), sized('b', resources({ cpu: '1' }))];
  assert.deepEqual(podSize(podOf({ containers: unlimited })), { cpuRequest: 1100, cpuLimit: 0, memoryLimit: 0 });
  const bounded = podOf({ containers: unlimited, resources: { limits: { cpu: '2' } } });
  assert.equal(podSize(bounded).cpuLimit, 2000);
  assert.deepEqual(podSize(podOf({ containers: [container('a')] })), { cpuRequest: 0, cpuLimit: 0, memoryLimit: 0 });
});

const running = runtimePod([sandbox()], [instance('a')]);
const told = (own: ResourceRequirements, podLevel?: ResourceRequirements): Allocation => ({ containers: { a: own }, pod: podLevel });
const restart = (...names: string[]): Partial<Container> => ({
  resizePolicy: ['cpu', 'memory'].map((resourceName) => ({
    resourceName,
    restartPolicy: names.includes(resourceName) ? 'RestartContainer' : 'NotRequired',
  })),
});

type ResizeCase = {
  name: string;
  pod: AgentPod;
  actuated: Allocation | undefined;
  runtime?: typeof running;
  due: boolean;
  restarts?: string[];
  containers?: string[];
};
const resizeCases: ResizeCase[] = [
  { name: 'all is as allocated', pod: podOf({ containers: [sized('a', small)] }), actuated: told(small), due: false },
  {
    name: 'no record: it was made with what is allocated',
    pod: podOf({ containers: [sized('a', small)] }),
    actuated: undefined,
    due: false,
  },
  { name: 'more of all', pod: podOf({ containers: [sized('a', large)] }), actuated: told(small), due: true, containers: ['a'] },
  {
    name: 'a container that does not run is made with its size, but the pod is resized',
    pod: podOf({ containers: [sized('a', large)] }),
    actuated: told(small),
    runtime: runtimePod([sandbox()], [instance('a', { state: 'exited' })]),
    due: true,
  },
  {
    name: 'cpu changes, cpu restarts',
    pod: podOf({ containers: [sized('a', resources({ cpu: '150m', memory: '64Mi' }, { cpu: '200m', memory: '128Mi' }), restart('cpu'))] }),
    actuated: told(small),
    due: true,
    restarts: ['a'],
  },
  {
    name: 'cpu changes, memory restarts: none',
    pod: podOf({
      containers: [sized('a', resources({ cpu: '150m', memory: '64Mi' }, { cpu: '200m', memory: '128Mi' }), restart('memory'))],
    }),
    actuated: told(small),
    due: true,
    containers: ['a'],
  },
  {
    name: 'the pod’s own limit reaches containers that have none',
    pod: podOf({ containers: [container('a')], resources: large }),
    actuated: told({ limits: small.limits }, small),
    due: true,
    containers: ['a'],
  },
  {
    name: 'the pod’s own request alone changes',
    pod: podOf({ containers: [sized('a', small)], resources: resources({ memory: '70Mi' }) }),
    actuated: told(small, resources({ memory: '65Mi' })),
    due: true,
  },
  {
    name: 'an init container that runs, whatever its policy',
    pod: podOf({ containers: [container('b')], initContainers: [sized('a', large, restart('cpu', 'memory'))] }),
    actuated: told(small),
    due: true,
    containers: ['a'],
  },
  {
    name: 'a sidecar is restarted by its policy',
    pod: podOf({ containers: [container('b')], initContainers: [sized('a', large, { restartPolicy: 'Always', ...restart('cpu') })] }),
    actuated: told(small),
    due: true,
    restarts: ['a'],
  },
];
for (const c of resizeCases) {
  test(`resize: ${c.name}`, () => {
    const result = resizeOf(c.pod, c.actuated, undefined, c.runtime ?? running);
    assert.equal(result.due, c.due);
    assert.deepEqual(result.restarts, c.restarts ?? []);
    assert.deepEqual(
      result.containers.map((one) => one.name),
      c.containers ?? [],
    );
  });
}

test('resize: what the pod’s cgroup was last told counts, not what its containers were', () => {
  const p = podOf({ containers: [sized('a', large)] });
  const gone = runtimePod([sandbox()], [instance('a', { state: 'exited' })]);
  assert.equal(resizeOf(p, told(small), podSize(p), gone).due, false);
});

test('containers that give come before those that take', () => {
  const change = (name: string, from: number, to: number) => ({
    name,
    id: name,
    from: { cpuRequest: from, cpuLimit: from, memoryRequest: 1, memoryLimit: 1 },
    to: { cpuRequest: to, cpuLimit: to, memoryRequest: 1, memoryLimit: 1 },
  });
  const changes = [change('more', 10, 20), change('same', 10, 10), change('less', 20, 10)];
  assert.deepEqual(
    resizeOrder(changes, 'cpu').map((c) => c.name),
    ['less', 'more'],
  );
  assert.deepEqual(resizeOrder(changes, 'memory'), []);
});

test('a container of a size keeps its other resources', () => {
  const own = resources({ cpu: '1', memory: '1', 'example.com/gpu': '1' }, { 'example.com/gpu': '1' });
  assert.deepEqual(sizedContainer(sized('a', own), { cpuRequest: 250, cpuLimit: 0, memoryRequest: 5, memoryLimit: 10 }).resources, {
    requests: { 'example.com/gpu': '1', cpu: '250m', memory: '5' },
    limits: { 'example.com/gpu': '1', memory: '10' },
  });
});

test('a pod that is giving resources back still holds them', () => {
  const p = podOf({ containers: [sized('a', small)] });
  assert.equal(heldPod(p, told(large), running).spec.containers[0]?.resources?.requests?.cpu, '300m');
  assert.equal(heldPod(p, told(large), runtimePod()).spec.containers[0]?.resources?.requests?.cpu, '100m');
  assert.equal(heldPod(p, undefined, running), p);
});

const decide = (desired: Container, allocated: Container, more: Partial<Parameters<typeof decideResize>[0]> = {}) =>
  decideResize({
    desired: podOf({ containers: [desired] }),
    allocated: podOf({ containers: [allocated] }),
    others: [],
    admit: () => undefined,
    swaps: () => false,
    ...more,
  });
const full = { reason: 'OutOfcpu', message: "Node didn't have enough resource: cpu" };

test('decide: fits, does not fit, may not', () => {
  assert.deepEqual(decide(sized('a', large), sized('a', small)), { kind: 'accept' });
  const deferred = { kind: 'pending', reason: 'Deferred', message: full.message };
  assert.deepEqual(decide(sized('a', large), sized('a', small), { admit: () => full }), deferred);
  const swapping = decide(sized('a', large), sized('a', small), { swaps: () => true });
  assert.deepEqual(swapping, {
    kind: 'pending',
    reason: 'Infeasible',
    message: 'In-place resize of containers with swap is not supported.',
  });
  assert.equal(decide(sized('a', large, restart('memory')), sized('a', small), { swaps: () => true }).kind, 'accept');
  assert.deepEqual(decide(sized('a', large), sized('a', small), { admit: () => ({ victims: [pod()], resource: 'cpu' }) }).kind, 'pending');
});

test('who asks for less comes first, then priority, Guaranteed, who waits longest', () => {
  const guaranteed = (cpu: string): ResourceRequirements => resources({ cpu, memory: '1Mi' }, { cpu, memory: '1Mi' });
  const one = (uid: string, from: ResourceRequirements, to: ResourceRequirements, since: number | undefined, priority = 0) => ({
    uid,
    desired: podOf({ containers: [sized('a', to)], priority }, { uid }),
    allocated: podOf({ containers: [sized('a', from)], priority }, { uid }),
    since,
  });
  const order = rankPending([
    one('new', small, large, undefined),
    one('late', small, large, 20),
    one('early', small, large, 10),
    one('guaranteed', guaranteed('1'), guaranteed('2'), 30),
    one('important', small, large, 40, 5),
    one('less', large, small, 50),
  ]);
  assert.deepEqual(
    order.map((p) => p.uid),
    ['less', 'important', 'guaranteed', 'early', 'late', 'new'],
  );
});

test('conditions are what a restarted agent goes on with', () => {
  const state = {
    pending: { reason: 'Deferred', message: 'full', generation: 3, since: now.wall },
    inProgress: { reason: '', message: '', generation: 2, since: now.wall - 5000 },
  };
  assert.deepEqual(resizeStateOf(resizeConditions(state)), state);
  assert.deepEqual(resizeConditions({ pending: undefined, inProgress: undefined }), []);
});

test('events tell the resources as tools read them', () => {
  const p = podOf({ containers: [sized('a', resources({ memory: '1Mi', cpu: '1' })), container('b')] });
  assert.equal(
    resizeEventMessage('error', p, 4, 'no'),
    'Pod resize error: {"containers":[{"name":"a","resources":{"requests":{"cpu":"1","memory":"1Mi"}}},{"name":"b","resources":{}}],"generation":4,"error":"no"}',
  );
});

// The book-keeping beside the decisions: a node of one CPU.
function book(limitMilli = 1000) {
  const files = () => {
    const rows = new Map<string, Allocation>();
    return {
      get: (uid: string) => rows.get(uid),
      set: (uid: string, a: Allocation) => void rows.set(uid, a),
      delete: (uid: string) => void rows.delete(uid),
      prune: () => undefined,
    };
  };
  const events: string[] = [];
  const pods = new Map<string, AgentPod>();
  const changed: string[] = [];
  const cpu = (p: AgentPod): number => podSize(p).cpuRequest;
  const resizing = createResizing({
    clock: { wall: () => now.wall, mono: () => now.mono } as Clock,
    recordEvent: (p, _type, reason) => void events.push(`${p.metadata.uid} ${reason}`),
    allocated: files(),
    actuated: files(),
    others: (uid) => [...pods.values()].filter((p) => p.metadata.uid !== uid).map((p) => resizing.allocatedPod(p)),
    admit: (p, others) => (others.reduce((sum, o) => sum + cpu(o), cpu(p)) > limitMilli ? full : undefined),
    preempt: () => undefined,
    swaps: () => false,
    changed: (uid) => void changed.push(uid),
  });
  const set = (uid: string, milli: number, generation = 1): AgentPod => {
    const p = podOf({ containers: [sized('a', resources({ cpu: `${milli}m` }))] }, { uid, generation });
    pods.set(uid, p);
    resizing.admit(p);
    resizing.consider(p);
    return p;
  };
  return { resizing, events, pods, set, given: (uid: string) => cpu(resizing.allocatedPod(pods.get(uid) as AgentPod)) };
}

test('a resize that fits is given at once, and told as started, then as completed', () => {
  const { resizing, events, set, given } = book();
  set('x', 200);
  const p = set('x', 400, 2);
  assert.equal(given('x'), 400);
  assert.deepEqual(
    resizing.conditions('x').map((c) => [c.type, c.observedGeneration]),
    [['PodResizeInProgress', 2]],
  );
  resizing.settle(p, true);
  resizing.failed(p, 'in use');
  resizing.failed(p, 'in use');
  assert.equal(resizing.conditions('x')[0]?.reason, 'Error');
  resizing.settle(p, false);
  assert.deepEqual(resizing.conditions('x'), []);
  assert.deepEqual(events, ['x ResizeStarted', 'x ResizeError', 'x ResizeCompleted']);
});

test('one that does not fit waits, is told once, and is given when another pod goes', () => {
  const { resizing, events, pods, set, given } = book();
  set('y', 700);
  set('x', 200);
  set('x', 400, 2);
  set('x', 400, 2);
  assert.equal(given('x'), 200);
  assert.deepEqual(
    resizing.conditions('x').map((c) => [c.type, c.reason, c.message]),
    [['PodResizePending', 'Deferred', full.message]],
  );
  pods.delete('y');
  resizing.ended('y');
  assert.equal(given('x'), 400);
  assert.deepEqual(events, ['x ResizeDeferred', 'x ResizeStarted']);
});

test('one that is taken back is forgotten', () => {
  const { resizing, set } = book();
  set('y', 700);
  set('x', 200);
  set('x', 400, 2);
  set('x', 200, 3);
  assert.deepEqual(resizing.conditions('x'), []);
});

test('a pod that shrinks gives way to one that waits', () => {
  const { set, given } = book();
  set('y', 700);
  set('x', 200);
  set('x', 400, 2);
  set('y', 100, 2);
  assert.deepEqual([given('y'), given('x')], [100, 400]);
});

const folder = mkdtempSync(join(tmpdir(), 'allocation-'));
after(() => rmSync(folder, { recursive: true }));

test('the checkpoint is kubelet’s', () => {
  // Checksums as pkg/kubelet/checkpointmanager/checksum gives them for this data.
  const data = '{"entries":{"u1":{"ContainerResources":{"a":{"limits":{"cpu":"1"}}},"PodLevelResources":null}}}';
  const pods: [string, Allocation][] = [['u1', { containers: { a: { limits: { cpu: '1' } } }, pod: undefined }]];
  assert.equal(encodePodResources(pods), JSON.stringify({ data, checksum: 2783797010 }));
  assert.deepEqual([...decodePodResources(JSON.stringify({ data, checksum: 2783797010 }))], pods);
  assert.throws(() => decodePodResources(JSON.stringify({ data, checksum: 1 })));
  assert.equal(decodePodResources(encodePodResources([])).size, 0);
});

test('the checkpoint outlives the agent; one that is broken is put aside', async () => {
  const path = join(folder, 'allocated_pods_state');
  {
    await using file = await openPodResources(path, systemClock, silentLog);
    file.set('u1', told(small));
    file.set('u2', told(large));
    file.prune((uid) => uid === 'u1');
  }
  {
    await using file = await openPodResources(path, systemClock, silentLog);
    assert.deepEqual(file.get('u1'), told(small));
    assert.equal(file.get('u2'), undefined);
  }
  await writeFile(path, '{"data":"{}","checksum":7}');
  {
    await using file = await openPodResources(path, systemClock, silentLog);
    assert.equal(file.get('u1'), undefined);
  }
  assert.equal(await readFile(`${path}.broken`, 'utf8'), '{"data":"{}","checksum":7}');
});
