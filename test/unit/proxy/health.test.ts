import assert from 'node:assert/strict';
import { connect, createServer } from 'node:net';
import { describe, test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { startListener } from '../../../proxy/health/listener.ts';
import { healthzReply, isNodeEligible, livezReply, proxierHealth, serviceHealthReply } from '../../../proxy/health/proxier-health.ts';
import { startServiceHealth } from '../../../proxy/health/service-health.ts';

const at = Date.UTC(2026, 10, 28, 12);
const timeoutMs = 60_000;

describe('health of the proxy', () => {
  test('before the first update it is healthy, and says that nothing was updated', () => {
    const starting = [{ family: 'ip' as const, lastUpdatedMs: undefined, waitingSinceMs: at }];
    const reply = livezReply(proxierHealth(starting, at + 10 * timeoutMs, timeoutMs), at);
    assert.equal(reply.status, 200);
    assert.deepEqual(JSON.parse(reply.body), {
      lastUpdated: '2026-11-28T12:00:00.000Z',
      currentTime: '2026-11-28T12:00:00.000Z',
      healthy: true,
    });
  });

  test('a change that waits longer than the timeout makes its family unhealthy', () => {
    const progress = [
      { family: 'ip' as const, lastUpdatedMs: at, waitingSinceMs: at + 10 },
      { family: 'ip6' as const, lastUpdatedMs: at + 1, waitingSinceMs: undefined },
    ];
    assert.equal(proxierHealth(progress, at + timeoutMs + 9, timeoutMs).healthy, true);
    const late = proxierHealth(progress, at + timeoutMs + 10, timeoutMs);
    assert.deepEqual(late, {
      healthy: false,
      lastUpdatedMs: at + 1,
      families: [
        { family: 'ip', lastUpdatedMs: at, healthy: false },
        { family: 'ip6', lastUpdatedMs: at + 1, healthy: true },
      ],
    });
    const reply = healthzReply(late, true, at + timeoutMs + 10);
    assert.equal(reply.status, 503);
    assert.equal(JSON.parse(reply.body).lastUpdated, '2026-11-28T12:00:00.001Z');
    assert.deepEqual(JSON.parse(reply.body).status.IPv4, { lastUpdated: '2026-11-28T12:00:00.000Z', healthy: false });
  });

  const nodes = {
    'an ordinary node': { node: { deleting: false, taintKeys: ['node.kubernetes.io/not-ready'] }, eligible: true },
    'a node that the autoscaler will delete': { node: { deleting: false, taintKeys: ['ToBeDeletedByClusterAutoscaler'] }, eligible: false },
    'a node that is being deleted': { node: { deleting: true, taintKeys: [] }, eligible: false },
    'no node': { node: undefined, eligible: false },
  };
  for (const [name, { node, eligible }] of Object.entries(nodes))
    test(`load balancers and ${name}`, () => {
      const health = proxierHealth([], at, timeoutMs);
      assert.equal(isNodeEligible(node), eligible);
      const reply = healthzReply(health, isNodeEligible(node), at);
      assert.equal(reply.status, eligible ? 200 : 503);
      assert.equal(JSON.parse(reply.body).nodeEligible, eligible);
      assert.equal(livezReply(health, at).status, 200, 'the proxy itself is well');
    });

  test("a Service's reply is upstream's to the letter", () => {
    const { status, headers, body } = serviceHealthReply('shop/web', 2, true);
    assert.equal(status, 200);
    assert.equal(headers['X-Load-Balancing-Endpoint-Weight'], '2');
    assert.equal(
      body,
      '{\n\t"service": {\n\t\t"namespace": "shop",\n\t\t"name": "web"\n\t},\n\t"localEndpoints": 2,\n\t"serviceProxyHealthy": true\n}',
    );
    assert.equal(serviceHealthReply('shop/web', 0, true).status, 503);
    assert.equal(serviceHealthReply('shop/web', 2, false).status, 503);
  });
});

/** A port that nobody listens on now. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

const get = async (port: number): Promise<{ status: number; weight: string | null }> => {
  const response = await fetch(`http://127.0.0.1:${port}/`);
  await response.text();
  return { status: response.status, weight: response.headers.get('x-load-balancing-endpoint-weight') };
};

async function eventually(check: () => Promise<void>): Promise<void> {
  const until = performance.now() + 5000;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() > until) throw error;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

describe('health check node ports', () => {
  test('open, follow the endpoints, move and close', async () => {
    const events: string[] = [];
    let healthy = true;
    await using health = startServiceHealth({
      clock: systemClock,
      log: silentLog,
      nodeName: 'n1',
      proxyHealthy: () => healthy,
      event: (service, reason, message) => events.push(`${service} ${reason} ${message}`),
    });
    const [first, second] = [await freePort(), await freePort()];
    const host = ['127.0.0.1'];
    health.sync([{ service: 'shop/web', port: first, localEndpoints: 3 }], host);
    await eventually(async () => assert.deepEqual(await get(first), { status: 200, weight: '3' }));
    health.sync([{ service: 'shop/web', port: first, localEndpoints: 0 }], host);
    assert.deepEqual(await get(first), { status: 503, weight: '0' });
    health.sync([{ service: 'shop/web', port: first, localEndpoints: 1 }], host);
    healthy = false;
    assert.equal((await get(first)).status, 503);
    healthy = true;
    health.sync([{ service: 'shop/web', port: second, localEndpoints: 1 }], host);
    await eventually(async () => assert.equal((await get(second)).status, 200));
    await assert.rejects(get(first));
    health.sync([], host);
    await assert.rejects(get(second));
    assert.deepEqual(events, []);
  });

  test('a port that somebody else has is told once', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => taken.once('listening', resolve));
    const { port } = taken.address() as { port: number };
    const events: string[] = [];
    await using health = startServiceHealth({
      clock: systemClock,
      log: silentLog,
      nodeName: 'n1',
      proxyHealthy: () => true,
      event: (service, reason, message) => events.push(`${service} ${reason} ${message}`),
    });
    health.sync([{ service: 'shop/web', port, localEndpoints: 1 }], ['127.0.0.1']);
    await eventually(async () => assert.equal(events.length, 1));
    assert.match(
      events[0] ?? '',
      /^shop\/web FailedToStartServiceHealthcheck node n1 failed to start healthcheck "shop\/web" on port \d+: .*EADDRINUSE/,
    );
    await new Promise((resolve) => taken.close(resolve));
  });
});

describe('listener', () => {
  test('what is no request ends its own connection alone', async () => {
    const port = await freePort();
    await using listener = startListener({
      name: 'healthz',
      host: '127.0.0.1',
      port,
      handle: (_request, response) => void response.writeHead(200).end('ok'),
      clock: systemClock,
      log: silentLog,
    });
    assert.equal(await listener.firstTry, undefined);
    for (const text of [
      '\0\0\0\0',
      'GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n',
      'GET /exec HTTP/1.1\r\nHost: n\r\nUpgrade: x\r\nConnection: Upgrade\r\nContent-Length: 1\r\n\r\n',
    ])
      await new Promise<void>((resolve, reject) => {
        const socket = connect(port, '127.0.0.1', () => socket.write(text));
        socket.on('error', () => resolve());
        socket.on('data', () => socket.destroy());
        socket.on('close', () => resolve());
        setTimeout(() => reject(new Error(`no end for ${JSON.stringify(text)}`)), 5000).unref();
      });
    assert.equal((await fetch(`http://127.0.0.1:${port}/`)).status, 200);
  });

  test('a page that cannot be made is told by its status, and ends nothing', async () => {
    const port = await freePort();
    const handle = (): void => {
      throw new Error('no');
    };
    await using listener = startListener({ name: 'x', host: '127.0.0.1', port, handle, clock: systemClock, log: silentLog });
    assert.equal(await listener.firstTry, undefined);
    assert.equal((await fetch(`http://127.0.0.1:${port}/`)).status, 500);
  });

  test('one that is disposed of while it binds its port ends, and lets go of the port', async () => {
    const port = await freePort();
    const start = () => startListener({ name: 'x', host: '127.0.0.1', port, handle: () => undefined, clock: systemClock, log: silentLog });
    await start()[Symbol.asyncDispose]();
    await using again = start();
    assert.equal(await again.firstTry, undefined);
  });
});
