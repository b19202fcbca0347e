import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Server, ServerCredentials, status } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { type CriClient, connectCri, deadlineMs, objectOf } from '../../../agent/drivers/cri/client.ts';
import { GrpcError } from '../../../agent/drivers/grpc/errors.ts';

type Reply = (error: { code: number; details: string } | null, response?: object) => void;
type Handlers = Record<string, (call: { request: Record<string, unknown> } & Record<string, unknown>, reply: Reply) => void>;

const definitions = loadSync(join(import.meta.dirname, '../../../cri-protos/cri.proto'), {
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
});
const never = new AbortController().signal;
// Nothing here waits for long. What never comes ends its test with a word, not the run.
const limit = { timeout: 60_000 };

/** A runtime that answers as the handlers say, and a client of it. */
async function withRuntime(
  handlers: Handlers,
  run: (client: CriClient, restart: () => Promise<void>) => Promise<void>,
  requestTimeoutMs = 20_000,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'cri-'));
  const endpoint = `unix://${join(folder, 'cri.sock')}`;
  const start = async (): Promise<Server> => {
    const server = new Server();
    for (const service of ['runtime.v1.RuntimeService', 'runtime.v1.ImageService'])
      server.addService(definitions[service] as never, handlers as never);
    await new Promise<void>((resolve, reject) => {
      server.bindAsync(endpoint, ServerCredentials.createInsecure(), (error) => (error === null ? resolve() : reject(error)));
    });
    return server;
  };
  let server = await start();
  const client = connectCri({ endpoint, clock: systemClock, log: silentLog, requestTimeoutMs });
  try {
    await run(client, async () => {
      server.forceShutdown();
      rmSync(join(folder, 'cri.sock'), { force: true });
      await assert.rejects(client.version({}, never), { code: 'Unavailable' });
      server = await start();
    });
  } finally {
    await client[Symbol.asyncDispose]();
    server.forceShutdown();
    rmSync(folder, { recursive: true });
  }
}

test('a response has undefined for what was not sent, defaults for scalars, names for enums', limit, async () => {
  await withRuntime(
    { ListContainers: (_call, reply) => reply(null, { containers: [{ id: 'a', created_at: 1_700_000_000_000_000_000 }] }) },
    async (client) => {
      const { containers } = await client.listContainers({}, never);
      assert.deepEqual(containers, [
        {
          id: 'a',
          pod_sandbox_id: '',
          metadata: undefined,
          image: undefined,
          image_ref: '',
          state: 'CONTAINER_CREATED',
          created_at: 1_700_000_000_000_000_000,
          labels: {},
          annotations: {},
          image_id: '',
        },
      ]);
    },
  );
});

test('a request arrives as given', limit, async () => {
  let seen: unknown;
  await withRuntime(
    {
      UpdateContainerResources: (call, reply) => {
        seen = call.request;
        reply(null, {});
      },
    },
    async (client) => {
      await client.updateContainerResources(
        { container_id: 'c', linux: { cpu_quota: -1, memory_limit_in_bytes: 2 ** 40, unified: { 'memory.high': 'max' } } },
        never,
      );
    },
  );
  const { container_id, linux } = seen as {
    container_id: string;
    linux: { cpu_quota: number; memory_limit_in_bytes: number; unified: object };
  };
  assert.equal(container_id, 'c');
  assert.deepEqual([linux.cpu_quota, linux.memory_limit_in_bytes, linux.unified], [-1, 2 ** 40, { 'memory.high': 'max' }]);
});

test("an error has the code's name, reads as in Go, and has the runtime's words apart", limit, async () => {
  await withRuntime({ PullImage: (_call, reply) => reply({ code: status.NOT_FOUND, details: 'no such tag' }) }, async (client) => {
    await assert.rejects(client.pullImage({ image: { image: 'web:1' } }, never), (error) => {
      assert.ok(error instanceof GrpcError);
      assert.deepEqual(
        [error.code, error.details, error.message],
        ['NotFound', 'no such tag', 'rpc error: code = NotFound desc = no such tag'],
      );
      return true;
    });
    await assert.rejects(client.runtimeConfig({}, never), { code: 'Unimplemented' });
  });
});

test('the signal cancels a call, here and in the runtime', limit, async () => {
  let cancelledThere: (value: boolean) => void = () => undefined;
  const there = new Promise<boolean>((resolve) => {
    cancelledThere = resolve;
  });
  const controller = new AbortController();
  await withRuntime(
    {
      PullImage: (call) => {
        (call as unknown as NodeJS.EventEmitter).on('cancelled', () => cancelledThere(true));
        // Not before the runtime has the call: one that is cancelled on its way never gets there.
        controller.abort(new Error('pod deleted'));
      },
    },
    async (client) => {
      const pull = client.pullImage({ image: { image: 'web' } }, controller.signal);
      await assert.rejects(pull, (error) => {
        assert.ok(error instanceof AgentError);
        assert.deepEqual([error.code, error.message], ['Canceled', 'pod deleted']);
        return true;
      });
      assert.equal(await there, true);
      await assert.rejects(client.version({}, controller.signal), { code: 'Canceled' });
    },
  );
});

test('a call without an answer ends at its own deadline', limit, async () => {
  await withRuntime(
    { Version: () => undefined },
    async (client) => {
      await assert.rejects(client.version({}, never), {
        code: 'DeadlineExceeded',
        message: 'rpc error: code = DeadlineExceeded desc = context deadline exceeded',
      });
    },
    400,
  );
});

test('after a restart of the runtime calls work again within two seconds', limit, async () => {
  await withRuntime({ Version: (_call, reply) => reply(null, { runtime_name: 'fake' }) }, async (client, restart) => {
    assert.equal((await client.version({}, never)).runtime_name, 'fake');
    await restart();
    const startedAt = performance.now();
    for (;;) {
      try {
        assert.equal((await client.version({}, never)).runtime_name, 'fake');
        break;
      } catch (error) {
        assert.ok(error instanceof AgentError && error.code === 'Unavailable', String(error));
        assert.ok(performance.now() - startedAt < 2000);
        await systemClock.sleep(20, never);
      }
    }
  });
});

test('events are iterated; the end of the stream ends the loop, a break throws, leaving cancels it', limit, async () => {
  let mode = 'end';
  let left: () => void = () => undefined;
  const cancelled = new Promise<void>((resolve) => {
    left = resolve;
  });
  await withRuntime(
    {
      GetContainerEvents: ((call: NodeJS.EventEmitter & { write(v: object): void; end(): void }) => {
        call.write({ container_id: 'a', container_event_type: 'CONTAINER_STOPPED_EVENT' });
        if (mode === 'end') call.end();
        else if (mode === 'break') call.emit('error', { code: status.INTERNAL, details: 'lost' });
        else call.on('cancelled', left);
      }) as never,
    },
    async (client) => {
      const seen: unknown[] = [];
      for await (const event of client.containerEvents(never))
        seen.push([event.container_id, event.container_event_type, event.pod_sandbox_status]);
      assert.deepEqual(seen, [['a', 'CONTAINER_STOPPED_EVENT', undefined]]);

      mode = 'break';
      await assert.rejects(
        async () => {
          for await (const _ of client.containerEvents(never));
        },
        { code: 'Internal' },
      );

      mode = 'stay';
      for await (const _ of client.containerEvents(never)) break;
      await cancelled;

      const controller = new AbortController();
      await assert.rejects(
        async () => {
          for await (const _ of client.containerEvents(controller.signal)) controller.abort(new Error('stop'));
        },
        { code: 'Canceled' },
      );
    },
  );
});

test('closing cancels what is under way', limit, async () => {
  await withRuntime({ Version: () => undefined }, async (client) => {
    const call = client.version({}, never);
    await client[Symbol.asyncDispose]();
    await assert.rejects(call, { code: 'Canceled' });
    await assert.rejects(client.version({}, never), { code: 'Canceled' });
  });
});

const deadlines: [string, string, { timeout?: number }, number | undefined][] = [
  ['a plain call', 'ListContainers', {}, 120_000],
  ['a sandbox may take twice as long', 'RunPodSandbox', {}, 240_000],
  ['a stop waits for the grace besides', 'StopContainer', { timeout: 30 }, 150_000],
  ['an exec waits for its command besides', 'ExecSync', { timeout: 5 }, 125_000],
  ['an exec without timeout has no end', 'ExecSync', { timeout: 0 }, undefined],
  ['a pull has no end', 'PullImage', {}, undefined],
  ['a checkpoint takes what was asked for', 'CheckpointContainer', { timeout: 600 }, 600_000],
];
for (const [name, method, request, expected] of deadlines)
  test(`deadline: ${name}`, () => assert.equal(deadlineMs(method, request, 120_000), expected));

const objects: [object, string][] = [
  [{ container_id: 'c1' }, 'c1'],
  [{ pod_sandbox_id: 's1', config: { metadata: { name: 'web', attempt: 2 } } }, 'web'],
  [{ config: { metadata: { name: 'web', namespace: 'shop' } } }, 'shop/web'],
  [{ image: { image: 'busybox:1' } }, 'busybox:1'],
  [{}, ''],
];
for (const [request, expected] of objects) test(`object of ${JSON.stringify(request)}`, () => assert.equal(objectOf(request), expected));
