import assert from 'node:assert/strict';
import { once } from 'node:events';
import { get as httpGet } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { headerLimit } from '../../../agent/server/header-limit.ts';
import { createListener } from '../../../agent/server/listener.ts';

test('what all connections together may hold in headers is bounded, and few may send as much as to a Go server', () => {
  assert.equal(headerLimit(1), 1024 * 1024);
  assert.equal(headerLimit(32), 1024 * 1024);
  assert.equal(headerLimit(1_000_000), 16 * 1024);
  const held = Array.from({ length: 1000 }, (_, i) => headerLimit(i + 1)).reduce((sum, each) => sum + each);
  assert.ok(held < 143 * 1024 ** 2, `${held}`);
});

test('a server takes less from a new connection while many are open, and as much as before when they have gone', async (t) => {
  const server = createListener({ clock: systemClock, log: silentLog, handle: (_request, response) => void response.end() });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const ask = (bytes: number) =>
    new Promise<number | undefined>((resolve, reject) => {
      const request = httpGet({ port, host: '127.0.0.1', agent: false, headers: { x: 'y'.repeat(bytes) } }, (response) => {
        response.resume();
        resolve(response.statusCode);
      });
      request.on('error', reject);
    });
  assert.equal(await ask(900_000), 200);
  const held = await Promise.all(
    Array.from({ length: 400 }, async () => {
      const socket = connect(port, '127.0.0.1');
      await once(socket, 'connect');
      return socket;
    }),
  );
  assert.equal(await ask(100_000), 431);
  assert.equal(await ask(50_000), 200);
  for (const socket of held) socket.destroy();
  while ((await new Promise<number>((resolve) => server.getConnections((_error, count) => resolve(count)))) > 1)
    await systemClock.sleep(1, AbortSignal.timeout(9000));
  assert.equal(await ask(900_000), 200);
});
