import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Client, credentials, Server, ServerCredentials } from '@grpc/grpc-js';
import { callUnary, readStream, type UnderWay } from '../../../agent/drivers/grpc/call.ts';
import { loadServices } from '../../../agent/drivers/grpc/contract.ts';

const methods = loadServices('device-plugin.proto', ['v1beta1.DevicePlugin'])['v1beta1.DevicePlugin'];
const [check, watch] = [methods.get('GetDevicePluginOptions'), methods.get('ListAndWatch')];
assert.ok(check && watch);

/** What became of one call, and what it left: a listener on the signal would be kept as long as the signal lives. */
const outcomes: [
  string,
  call: 'check' | 'watch',
  how: 'answered' | 'aborted' | 'aborted before' | 'left' | 'cancelled from here',
  string,
][] = [
  ['a call that is answered', 'check', 'answered', '{"pre_start_required":true,"get_preferred_allocation_available":false}'],
  ['a call whose signal aborts', 'check', 'aborted', 'code 1'],
  ['a call whose signal has aborted before', 'check', 'aborted before', 'code 1'],
  ['a call that the channel owner cancels', 'check', 'cancelled from here', 'code 1'],
  ['a stream that the server ends', 'watch', 'answered', 'd1'],
  ['a stream whose signal aborts', 'watch', 'aborted', 'code 1'],
  ['a stream that is left', 'watch', 'left', 'd1'],
];
for (const [name, call, how, expected] of outcomes)
  test(`${name} leaves nothing behind, and the server knows`, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'grpc-'));
    const endpoint = `unix://${join(folder, 'x.sock')}`;
    const controller = new AbortController();
    const { signal } = controller;
    const underWay = new Set<UnderWay>();
    const atServer = Promise.withResolvers<string>();
    const act = (): void => {
      if (how === 'aborted') controller.abort(new Error('enough'));
      if (how === 'cancelled from here') for (const one of underWay) one.cancel();
    };
    const server = new Server();
    server.addService(
      { Check: check, Watch: watch },
      {
        Check: (there: NodeJS.EventEmitter, reply: (error: null, response: object) => void) => {
          there.on('cancelled', () => atServer.resolve('cancelled'));
          if (how === 'answered') {
            reply(null, { pre_start_required: true });
            atServer.resolve('answered');
          } else act();
        },
        Watch: (there: NodeJS.EventEmitter & { write(message: object): void; end(): void }) => {
          there.on('cancelled', () => atServer.resolve('cancelled'));
          there.write({ devices: [{ ID: 'd1', health: 'Healthy' }] });
          if (how === 'answered') {
            there.end();
            atServer.resolve('answered');
          } else act();
        },
      },
    );
    await new Promise<void>((resolve, reject) =>
      server.bindAsync(endpoint, ServerCredentials.createInsecure(), (error) => (error === null ? resolve() : reject(error))),
    );
    const client = new Client(endpoint, credentials.createInsecure());
    try {
      if (how === 'aborted before') controller.abort(new Error('enough'));
      const run = async (): Promise<string> => {
        if (call === 'check') return JSON.stringify(await callUnary(client, check, {}, underWay, signal));
        let last = '';
        for await (const message of readStream<{ devices: { ID: string }[] }>(client, watch, {}, underWay, signal)) {
          last = message.devices.map((d) => d.ID).join();
          if (how === 'left') break;
        }
        return last;
      };
      assert.equal(await run().catch((error) => `code ${error.code}`), expected);
      // What was called off before it was sent never got there.
      if (how !== 'aborted before') assert.equal(await atServer.promise, how === 'answered' ? 'answered' : 'cancelled');
      assert.deepEqual([underWay.size, getEventListeners(signal, 'abort').length], [0, 0]);
    } finally {
      client.close();
      server.forceShutdown();
      rmSync(folder, { recursive: true });
    }
  });
