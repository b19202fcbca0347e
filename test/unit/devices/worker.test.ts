// The room and its drivers against plugins that are real gRPC servers on real sockets.
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Client, credentials, Server, ServerCredentials, type ServerWritableStream } from '@grpc/grpc-js';
import { type Clock, systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { openNodeDevices } from '../../../agent/cli/wiring/devices.ts';
import type { Devices } from '../../../agent/devices/worker.ts';
import { loadServices, type Method } from '../../../agent/drivers/grpc/contract.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import type { ContainerAllocateResponse, Device, DevicePluginOptions } from '../../../cri-protos/generated/device-plugin.ts';
import { container, pod } from '../pods/build.ts';

const gpu = 'v.example/gpu';
const contract = loadServices('device-plugin.proto', ['v1beta1.Registration', 'v1beta1.DevicePlugin']);
const registration = loadServices('plugin-registration.proto', ['pluginregistration.Registration']);
const base = mkdtempSync(join(tmpdir(), 'dp-'));
after(() => rmSync(base, { recursive: true }));
let roots = 0;
const freshRoot = (): string => join(base, String(roots++));

interface Plugin {
  readonly calls: string[];
  tell(devices: Device[]): void;
  /** As a plugin that crashes. */
  stop(): void;
  breakList(): void;
}

interface PluginAnswers {
  readonly options?: DevicePluginOptions | Error;
  readonly allocate?: (ids: readonly string[]) => Promise<ContainerAllocateResponse | undefined>;
  readonly preferred?: (available: readonly string[], must: readonly string[], size: number) => string[];
  readonly preStart?: () => Error | null;
}

type Answer = (error: object | null, response?: object) => void;

async function servePlugin(path: string, first: Device[], answers: PluginAnswers = {}): Promise<Plugin> {
  let devices = first;
  const calls: string[] = [];
  const streams = new Set<ServerWritableStream<object, object>>();
  const server = new Server();
  server.addService(Object.fromEntries(contract['v1beta1.DevicePlugin']), {
    GetDevicePluginOptions(_: unknown, answer: Answer) {
      calls.push('options');
      if (answers.options instanceof Error) answer({ code: 2, details: answers.options.message });
      else answer(null, answers.options ?? {});
    },
    ListAndWatch(stream: ServerWritableStream<object, object>) {
      calls.push('list');
      streams.add(stream);
      stream.on('cancelled', () => streams.delete(stream));
      stream.write({ devices });
    },
    GetPreferredAllocation({ request }: { request: { container_requests: object[] } }, answer: Answer) {
      const [one] = request.container_requests as {
        available_deviceIDs: string[];
        must_include_deviceIDs: string[];
        allocation_size: number;
      }[];
      calls.push('preferred');
      const deviceIDs =
        answers.preferred?.(one?.available_deviceIDs ?? [], one?.must_include_deviceIDs ?? [], one?.allocation_size ?? 0) ?? [];
      answer(null, { container_responses: [{ deviceIDs }] });
    },
    Allocate({ request }: { request: { container_requests: { devices_ids: string[] }[] } }, answer: Answer) {
      const ids = request.container_requests[0]?.devices_ids ?? [];
      calls.push(`allocate ${ids.join(' ')}`);
      const made = answers.allocate?.(ids) ?? Promise.resolve({ envs: { GPUS: ids.join(',') } });
      made.then(
        (response) => answer(null, { container_responses: response === undefined ? [] : [response] }),
        (error: Error) => answer({ code: 2, details: error.message }),
      );
    },
    PreStartContainer(_: unknown, answer: Answer) {
      calls.push('preStart');
      const error = answers.preStart?.() ?? null;
      answer(error === null ? null : { code: 2, details: error.message }, {});
    },
  });
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) => (error === null ? resolve() : reject(error))),
  );
  after(() => server.forceShutdown());
  return {
    calls,
    tell(next) {
      devices = next;
      for (const stream of streams) stream.write({ devices });
    },
    stop: () => server.forceShutdown(),
    breakList() {
      for (const stream of streams) stream.emit('error', { code: 2, details: 'the list broke' });
    },
  };
}

/** Calls Register as a plugin does; resolves to the error's details, or to undefined. */
function registerWith(root: string, request: object): Promise<string | undefined> {
  const method = contract['v1beta1.Registration'].get('Register') as Method;
  const client = new Client(`unix:${join(root, 'device-plugins/kubelet.sock')}`, credentials.createInsecure());
  return new Promise((resolve) =>
    client.makeUnaryRequest(method.path, method.requestSerialize, method.responseDeserialize, request, (error) => {
      client.close();
      resolve(error?.details);
    }),
  );
}

interface Node extends AsyncDisposable {
  readonly root: string;
  readonly devices: Devices;
  readonly healthNews: string[];
  /** Resolves when the resource shows so many as capacity and allocatable. */
  shows(amounts: string, resource?: string): Promise<void>;
  plugin(devices: Device[], answers?: PluginAnswers, name?: string): Promise<Plugin>;
}

async function startNode(root = freshRoot(), clock: Clock = systemClock): Promise<Node> {
  const controller = new AbortController();
  const healthNews: string[] = [];
  const listeners = new Set<() => void>();
  const open = await openNodeDevices({
    rootDir: root,
    clock,
    log: silentLog,
    signal: controller.signal,
    amountsChanged: () => {
      for (const listener of listeners) listener();
    },
    healthChanged: (uid) => void healthNews.push(uid),
    observe: { registered: () => undefined, allocated: () => undefined },
  });
  const { devices } = open;
  const folder = join(root, 'device-plugins');
  const shows: Node['shows'] = (wanted, resource = gpu) =>
    new Promise((resolve) => {
      const check = (): void => {
        const { capacity, allocatable } = devices.amounts();
        if (`${capacity[resource]}/${allocatable[resource]}` !== wanted) return;
        listeners.delete(check);
        resolve();
      };
      listeners.add(check);
      check();
    });
  return {
    root,
    devices,
    healthNews,
    shows,
    async plugin(told, answers, name = 'gpu.sock') {
      const plugin = await servePlugin(join(folder, name), told, answers);
      assert.equal(await registerWith(root, { version: 'v1beta1', endpoint: name, resource_name: gpu }), undefined);
      await shows(`${told.length}/${told.filter((d) => d.health === 'Healthy').length}`);
      return plugin;
    },
    async [Symbol.asyncDispose]() {
      controller.abort(new Error('test over'));
      await open[Symbol.asyncDispose]();
    },
  };
}

const healthy = (...ids: string[]): Device[] => ids.map((ID) => ({ ID, health: 'Healthy' }));
const asks = (uid: string, count: number, more: Partial<AgentPod['spec']> = {}): AgentPod =>
  pod({ containers: [container('a', { resources: { limits: { [gpu]: String(count) } } })], ...more }, { uid, name: uid });
const signal = new AbortController().signal;
const limit = { timeout: 15_000 };

test('a plugin registers, tells, and a pod is given devices with what goes with them', limit, async () => {
  await using node = await startNode();
  assert.equal(node.devices.hadCheckpoint, false);
  const plugin = await node.plugin(healthy('a', 'b'));
  const p = asks('u1', 2);
  assert.equal(node.devices.concerns(p), true);
  assert.equal(node.devices.concerns(pod()), false);
  assert.equal(await node.devices.grant(p, signal), undefined);
  assert.equal(await node.devices.grant(p, signal), undefined, 'safe to repeat');
  assert.deepEqual(plugin.calls, ['options', 'list', 'allocate a b']);
  const parts = await node.devices.prepare(p, p.spec.containers[0] ?? container('a'), signal);
  assert.deepEqual(parts.envs, [{ name: 'GPUS', value: 'a,b' }]);
  const refusal = await node.devices.grant(asks('u2', 1), signal);
  assert.deepEqual(refusal, {
    reason: 'UnexpectedAdmissionError',
    message: `Allocate failed due to requested number of devices unavailable for ${gpu}. Requested: 1, Available: 0, which is unexpected`,
  });
  node.devices.release('u1');
  assert.equal(await node.devices.grant(asks('u2', 1), signal), undefined);
});

test('devices that fall ill and recover: the Node and the pods that have them are told', limit, async () => {
  await using node = await startNode();
  const plugin = await node.plugin(healthy('a', 'b'));
  assert.equal(await node.devices.grant(asks('u1', 1), signal), undefined);
  plugin.tell([{ ID: 'a', health: 'Unhealthy' }, ...healthy('b')]);
  await node.shows('2/1');
  assert.deepEqual(node.healthNews, ['u1']);
  assert.deepEqual(node.devices.health('u1', 'a')?.[0]?.resources, [{ resourceID: 'a', health: 'Unhealthy' }]);
  plugin.tell(healthy('a', 'b'));
  await node.shows('2/2');
  assert.deepEqual(node.healthNews, ['u1', 'u1']);
});

for (const how of ['stop', 'breakList'] as const)
  test(
    `a plugin that goes away (${how}): its devices are there and not well, nobody asks it again, and it may come back`,
    limit,
    async () => {
      await using node = await startNode();
      const plugin = await node.plugin(healthy('a', 'b'));
      assert.equal(await node.devices.grant(asks('u1', 1), signal), undefined);
      plugin[how]();
      await node.shows('2/0');
      assert.equal(plugin.calls.filter((call) => call === 'list').length, 1);
      const refusal = await node.devices.grant(asks('u2', 1), signal);
      assert.match(refusal?.message ?? '', /no healthy devices present/);
      // What runs keeps what it has: a restart of its container gets it again.
      const p = asks('u1', 1);
      assert.deepEqual((await node.devices.prepare(p, container('a', p.spec.containers[0]), signal)).envs, [{ name: 'GPUS', value: 'a' }]);
      assert.equal(
        node.devices.withTaken({ metadata: { name: 'n' }, status: { allocatable: { [gpu]: '0' } } }).status?.allocatable?.[gpu],
        '1',
      );
      await node.plugin(healthy('a', 'b', 'c'), {}, 'again.sock');
      assert.equal(await node.devices.grant(asks('u2', 2), signal), undefined);
    },
  );

test('one that registers anew while it is there takes the place of the old one', limit, async () => {
  await using node = await startNode();
  const old = await node.plugin(healthy('a'));
  await node.plugin(healthy('a', 'b'), {}, 'new.sock');
  old.stop();
  assert.equal(await node.devices.grant(asks('u1', 2), signal), undefined);
  assert.deepEqual(old.calls, ['options', 'list']);
});

test('plugins that cannot be used are told why, and nothing is shown of them', limit, async () => {
  await using node = await startNode();
  const folder = join(node.root, 'device-plugins');
  await servePlugin(join(folder, 'bad.sock'), healthy('a'), { options: new Error('no options today') });
  const register = (request: object): Promise<string | undefined> => registerWith(node.root, { version: 'v1beta1', ...request });
  assert.match(
    (await register({ endpoint: 'bad.sock', resource_name: gpu })) ?? '',
    /^failed to get device plugin options: rpc error: code = Unknown desc = no options today$/,
  );
  assert.match((await register({ version: 'v2', endpoint: 'bad.sock', resource_name: gpu })) ?? '', /API version "v2" is not supported/);
  assert.match((await register({ endpoint: 'bad.sock', resource_name: 'gpu' })) ?? '', /"gpu" is invalid/);
  assert.match((await register({ endpoint: '../../evil.sock', resource_name: gpu })) ?? '', /is not the name of a socket in the folder/);
  assert.deepEqual(node.devices.amounts(), { capacity: {}, allocatable: {} });
});

test('an Allocate that fails, answers nothing or hangs is the trouble of its pod alone', limit, async () => {
  await using node = await startNode();
  const hanging = Promise.withResolvers<ContainerAllocateResponse>();
  const answers = [
    async () => {
      throw new Error('out of lanes');
    },
    async () => undefined,
    () => hanging.promise,
  ];
  await node.plugin(healthy('a', 'b'), { allocate: (ids) => (answers.shift() ?? (async () => ({ envs: { GPUS: ids.join() } })))() });
  const failed = await node.devices.grant(asks('u1', 1), signal);
  assert.match(failed?.message ?? '', /^Allocate failed due to rpc error: code = Unknown desc = out of lanes, which is unexpected$/);
  assert.match((await node.devices.grant(asks('u2', 1), signal))?.message ?? '', /no containers return in allocation response/);
  const third = node.devices.grant(asks('u3', 1), signal);
  // The other device goes to the next while the first is still on its way to u3.
  assert.equal(await node.devices.grant(asks('u4', 1), signal), undefined);
  assert.deepEqual(node.devices.health('u4', 'a')?.[0]?.resources, [{ resourceID: 'b', health: 'Healthy' }]);
  node.devices.release('u3');
  assert.match((await third)?.message ?? '', /the pod is gone/);
  assert.equal(await node.devices.grant(asks('u5', 1), signal), undefined, "u3's is free again");
});

test('the plugin says which go well together, and is told before each start when it wants', limit, async () => {
  await using node = await startNode();
  let refuse = true;
  const seen: unknown[] = [];
  const plugin = await node.plugin(healthy('a', 'b', 'c', 'd'), {
    options: { get_preferred_allocation_available: true, pre_start_required: true },
    preferred: (available, must, size) => {
      seen.push([available, must, size]);
      return ['d', 'b', 'nonsense'];
    },
    preStart: () => (refuse ? new Error('it smokes') : null),
  });
  const p = asks('u1', 2);
  assert.equal(await node.devices.grant(p, signal), undefined);
  assert.deepEqual(seen, [[['a', 'b', 'c', 'd'], [], 2]]);
  assert.deepEqual(plugin.calls.slice(2), ['preferred', 'allocate d b']);
  const [a = container('a')] = p.spec.containers;
  await assert.rejects(node.devices.prepare(p, a, signal), {
    code: 'CreateContainerConfigError',
    message: 'device plugin PreStartContainer rpc failed with err: rpc error: code = Unknown desc = it smokes',
  });
  refuse = false;
  assert.deepEqual((await node.devices.prepare(p, a, signal)).envs, [{ name: 'GPUS', value: 'd,b' }]);
});

test('an agent that starts again: what pods have stays theirs, and the Node shows nothing until the plugin is back', limit, async () => {
  const root = freshRoot();
  {
    await using node = await startNode(root);
    await node.plugin(healthy('a', 'b'));
    assert.equal(await node.devices.grant(asks('u1', 1), signal), undefined);
    assert.equal(await node.devices.grant(asks('gone', 1), signal), undefined);
  }
  assert.equal(existsSync(join(root, 'device-plugins/kubelet.sock')), false);
  await using node = await startNode(root);
  assert.equal(node.devices.hadCheckpoint, true);
  assert.deepEqual(node.devices.amounts(), { capacity: { [gpu]: '0' }, allocatable: { [gpu]: '0' } });
  const p = asks('u1', 1);
  assert.deepEqual((await node.devices.prepare(p, container('a', p.spec.containers[0]), signal)).envs, [{ name: 'GPUS', value: 'a' }]);
  node.devices.prune((uid) => uid === 'u1');
  // Its socket went with the folder's others.
  await node.plugin(healthy('a', 'b'), {}, 'back.sock');
  assert.match((await node.devices.grant(asks('u2', 2), signal))?.message ?? '', /Available: 1/);
  assert.equal(await node.devices.grant(asks('u2', 1), signal), undefined);
});

test('a container whose devices nobody remembers is given some when it starts, and they are remembered', limit, async () => {
  const root = freshRoot();
  const p = asks('u1', 1);
  const [a = container('a')] = p.spec.containers;
  {
    await using node = await startNode(root);
    await node.plugin(healthy('a'));
    assert.deepEqual((await node.devices.prepare(p, a, signal)).envs, [{ name: 'GPUS', value: 'a' }]);
    await assert.rejects(node.devices.prepare(asks('u2', 1), a, signal), { code: 'CreateContainerConfigError', message: /Available: 0/ });
  }
  await using node = await startNode(root);
  assert.deepEqual((await node.devices.prepare(p, a, signal)).envs, [{ name: 'GPUS', value: 'a' }]);
});

test('what an agent that was killed has left is cleared away; other files stay', limit, async () => {
  const root = freshRoot();
  await (await startNode(root))[Symbol.asyncDispose]();
  const folder = join(root, 'device-plugins');
  writeFileSync(join(folder, 'notes'), 'mine');
  const stale = createServer().listen(join(folder, 'stale.sock'));
  await new Promise((resolve) => stale.once('listening', resolve));
  await using _node = await startNode(root);
  assert.equal(existsSync(join(folder, 'stale.sock')), false);
  assert.equal(existsSync(join(folder, 'notes')), true);
  stale.close();
});

interface Watched {
  readonly server: Server;
  readonly told: Promise<{ plugin_registered?: boolean; error?: string }>;
}

async function serveWatched(path: string, info: object): Promise<Watched> {
  const told = Promise.withResolvers<{ plugin_registered?: boolean; error?: string }>();
  const server = new Server();
  server.addService(Object.fromEntries(registration['pluginregistration.Registration']), {
    GetInfo: (_: unknown, answer: Answer) => answer(null, info),
    NotifyRegistrationStatus({ request }: { request: { plugin_registered?: boolean; error?: string } }, answer: Answer) {
      answer(null, {});
      told.resolve(request);
    },
  });
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) => (error === null ? resolve() : reject(error))),
  );
  after(() => server.forceShutdown());
  return { server, told: told.promise };
}

test('a plugin may also be found by its socket in plugins_registry, and leaves with it', limit, async () => {
  await using node = await startNode();
  const endpoint = join(node.root, 'device-plugins', 'found.sock');
  await servePlugin(endpoint, healthy('a'));
  const info = { type: 'DevicePlugin', name: gpu, endpoint, supported_versions: ['v1beta1'] };
  const { server, told } = await serveWatched(join(node.root, 'plugins_registry', 'gpu-reg.sock'), info);
  assert.deepEqual({ ...(await told) }, { plugin_registered: true, error: '' });
  await node.shows('1/1');
  server.forceShutdown();
  rmSync(join(node.root, 'plugins_registry', 'gpu-reg.sock'), { force: true });
  await node.shows('1/0');
});

test('one of another kind is told that nobody takes it', limit, async () => {
  await using node = await startNode();
  const { told } = await serveWatched(join(node.root, 'plugins_registry', 'csi.sock'), { type: 'CSIPlugin', name: 'csi.example' });
  const { plugin_registered, error } = await told;
  assert.equal(plugin_registered, false);
  assert.match(error ?? '', /no handler registered for plugin type: CSIPlugin/);
});
