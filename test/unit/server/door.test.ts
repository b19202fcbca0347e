import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, request as httpRequest } from 'node:http';
import { type AddressInfo, connect as connectTcp, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import { startLocalServer } from '../../../agent/server/local.ts';
import { createMetrics } from '../../../agent/server/metrics.ts';
import { type OddConnection, oddConnection, randomOf } from './door-fuzz.ts';
import { get, pod, read, runtimeSide, start } from './server-fixture.ts';

const seed = Number(process.env.KEELSON_SEED ?? 20261128);
const patienceMs = 20_000;

// What would end the agent. The runner hears of it too, but not of which connection it was.
const unhandled: string[] = [];
const hear = (error: unknown): void => void unhandled.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
process.on('uncaughtExceptionMonitor', hear);
after(() => process.off('uncaughtExceptionMonitor', hear));

/** `ready` is the event of a connection that the server has taken up; `speaks` false: the server cannot understand what comes. */
interface Port {
  readonly name: string;
  readonly ready: 'connect' | 'secureConnect';
  readonly speaks: boolean;
  connect(): Socket;
}

/** Waits for one of these, or for so long. */
async function firstOf(ms: number, ...what: Promise<void>[]): Promise<void> {
  const over = Promise.withResolvers<void>();
  using _timer = systemClock.after(ms, over.resolve);
  await Promise.race([...what, over.promise]);
}

/** Makes one odd connection, and gives what came back. It waits for the server's end only where there has to be one. */
async function make(port: Port, odd: OddConnection): Promise<string> {
  const socket = port.connect();
  let text = '';
  const closed = new Promise<void>((resolve) => void socket.on('error', () => undefined).once('close', () => resolve()));
  const answered = new Promise<void>((resolve) => {
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
      if (text.includes('\r\n\r\n')) resolve();
    });
  });
  await Promise.race([closed, new Promise((resolve) => socket.once(port.ready, resolve))]);
  for (const piece of odd.pieces) {
    socket.write(piece);
    await new Promise((resolve) => setImmediate(resolve));
  }
  if (odd.whole && port.speaks) {
    await firstOf(patienceMs, answered, closed);
    assert.match(text, /^HTTP\/1\.1 \d{3} /, `${port.name}: no answer to ${odd.name}`);
  } else if (odd.end === 'wait') await firstOf(30, answered, closed);
  if (odd.end === 'fin') socket.end();
  if (odd.end === 'break') socket.destroy();
  else await firstOf(20, closed);
  socket.destroy();
  await closed;
  return text;
}

async function storm(port: Port, count: number, random: () => number): Promise<{ made: number; answers: number }> {
  let made = 0;
  let answers = 0;
  const workers = Array.from({ length: 24 }, async () => {
    while (made < count) {
      made++;
      const odd = oddConnection(random);
      if ((await make(port, odd)) !== '') answers++;
      assert.deepEqual(unhandled, [], `${port.name}: ${odd.name}, or one beside it`);
    }
  });
  await Promise.all(workers);
  return { made, answers };
}

const tcp = (name: string, port: number): Port => ({
  name,
  ready: 'connect',
  speaks: true,
  connect: () => connectTcp({ port, host: '127.0.0.1', allowHalfOpen: true }),
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A runtime that treats streams as odd as clients treat ports. */
function oddRuntime(random: () => number): void {
  runtimeSide.onStream = (socket) => {
    const way = random();
    if (way < 0.3) socket.destroy();
    else if (way < 0.6) socket.end('bye');
    else if (way < 0.8) socket.pipe(socket);
    else socket.resume();
  };
}

test('one request without credentials is refused, and harms nobody', async () => {
  await using s = await start();
  const ends = ['Content-Length: 1', 'Transfer-Encoding: chunked'];
  for (const method of ['GET', 'POST', 'PUT'])
    for (const end of ends) {
      const socket = connectTls({ host: '127.0.0.1', port: s.server.port, rejectUnauthorized: false });
      socket.write(`${method} /exec/d/p/c HTTP/1.1\r\nHost: n\r\nUpgrade: x\r\nConnection: Upgrade\r\n${end}\r\n\r\n`);
      let text = '';
      for await (const chunk of socket) text += String(chunk);
      assert.match(text, /^HTTP\/1\.1 401 Unauthorized\r\n/, `${method} ${end}`);
    }
  assert.equal((await get(s.server.port, '/healthz')).status, 200);
  assert.deepEqual(unhandled, []);
});

test('a stream whose request body never comes is idle, and ends in its time', async () => {
  await using s = await start({ settings: { streamingConnectionIdleTimeoutMs: 100 } });
  runtimeSide.onStream = (socket) => void socket.resume();
  const options = { host: '127.0.0.1', port: s.server.port, rejectUnauthorized: false, cert: read('admin.crt'), key: read('admin.key') };
  const socket = connectTls(options);
  socket.write('GET /exec/default/web/c?output=1 HTTP/1.1\r\nHost: n\r\nUpgrade: x\r\nConnection: Upgrade\r\nContent-Length: 1\r\n\r\n');
  let text = '';
  for await (const chunk of socket) text += String(chunk);
  assert.match(text, /^HTTP\/1\.1 101 /);
});

test('an upgrade or CONNECT behind a request that is not answered yet', async () => {
  await using s = await start();
  for (const [second, answers] of [
    ['GET /exec/d/p/c HTTP/1.1\r\nHost: n\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n', 2],
    ['CONNECT n:1 HTTP/1.1\r\nHost: n\r\n\r\n', 0],
  ] as const) {
    const socket = connectTls({ host: '127.0.0.1', port: s.server.port, rejectUnauthorized: false });
    socket.on('error', () => undefined);
    // The token is asked for, so that the first answer takes a turn.
    socket.write(`GET /pods HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer slow-${answers}\r\n\r\n${second}`);
    let text = '';
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      if (text.split('HTTP/1.1 401').length > answers) socket.end();
    });
    await once(socket, 'close');
    assert.equal(text.split('HTTP/1.1 401').length - 1, answers, second);
  }
  assert.equal((await get(s.server.port, '/healthz')).status, 200);
  assert.deepEqual(unhandled, []);
});

test('the fuzz of the ports: nothing that a client sends ends the agent', { timeout: 180_000 }, async (t) => {
  const random = randomOf(seed);
  oddRuntime(random);
  const [healthzPort, readOnlyPort] = await Promise.all([freePort(), freePort()]);
  const metrics = createMetrics();
  await using s = await start({ settings: { healthzPort, readOnlyPort, streamingConnectionIdleTimeoutMs: 50 }, options: { metrics } });
  const folder = mkdtempSync(join(tmpdir(), 'door-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const socketPath = join(folder, 'agent.sock');
  await using _local = await startLocalServer({
    socket: socketPath,
    clock: systemClock,
    log: silentLog,
    nodeName: 'node-1',
    runtimeName: 'fake',
    standalone: false,
    manifests: undefined,
    node: s.options.node,
    running: new Table('running'),
    runtime: s.options.runtime,
    readLog: s.options.readLog,
    activity: () => undefined,
    events: () => [],
    problems: () => new Map(),
    passedOver: () => new Map(),
    pressure: () => [],
    proxy: { view: () => undefined, whyOff: () => 'none is here' },
    drain: async () => undefined,
  });
  const tls = { host: '127.0.0.1', port: s.server.port, rejectUnauthorized: false, allowHalfOpen: true };
  const storms: [Port, number][] = [
    [{ name: 'TLS without credentials', ready: 'secureConnect', speaks: true, connect: () => connectTls(tls) }, 700],
    [
      {
        name: 'TLS with a certificate',
        ready: 'secureConnect',
        speaks: true,
        connect: () => connectTls({ ...tls, cert: read('admin.crt'), key: read('admin.key') }),
      },
      500,
    ],
    [{ ...tcp('no TLS to the TLS port', s.server.port), speaks: false }, 300],
    [tcp('healthz', healthzPort), 500],
    [tcp('read-only', readOnlyPort), 500],
    [{ name: 'local socket', ready: 'connect', speaks: true, connect: () => connectTcp({ path: socketPath, allowHalfOpen: true }) }, 500],
  ];
  let total = 0;
  for (const [port, count] of storms) {
    const { made, answers } = await storm(port, count, random);
    total += made;
    t.diagnostic(`${port.name}: ${made} connections, ${answers} answered`);
  }
  t.diagnostic(`count: fuzz of the ports: ${total} connections, seed ${seed}`);

  assert.deepEqual(unhandled, []);
  assert.equal((await get(s.server.port, '/pods')).status, 200);
  assert.equal((await get(s.server.port, '/pods', {})).status, 401);
  for (const port of [healthzPort, readOnlyPort]) assert.equal((await fetch(`http://127.0.0.1:${port}/healthz`)).status, 200);
  const local = httpRequest({ socketPath, path: '/status' }).end();
  const [answer] = (await once(local, 'response')) as [{ statusCode: number; resume(): void }];
  answer.resume();
  assert.equal(answer.statusCode, 200);
  // Who has gone is no request under way: what is left would be held for ever.
  const inflight = (): string[] =>
    metrics
      .text()
      .split('\n')
      .filter((line) => line.startsWith('kubelet_http_inflight_requests{') && !line.endsWith(' 0'));
  for (let i = 0; i < 200 && inflight().length > 0; i++) await firstOf(10);
  assert.deepEqual(inflight(), []);
  assert.equal(pod.metadata.name, 'web');
});

test('headers of a megabyte, and thousands of requests in one piece', { timeout: 60_000 }, async () => {
  await using s = await start();
  const ask = async (bytes: string, until: (text: string) => boolean): Promise<string> => {
    const socket = connectTls({ host: '127.0.0.1', port: s.server.port, rejectUnauthorized: false });
    const closed = new Promise<void>((resolve) => void socket.on('error', () => undefined).once('close', () => resolve()));
    let text = '';
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
      if (until(text)) socket.destroy();
    });
    socket.write(bytes);
    await closed;
    return text;
  };
  const long = await ask(`GET /pods HTTP/1.1\r\nHost: n\r\nX: ${'y'.repeat(1024 * 1024)}\r\n\r\n`, (text) => text.includes('\r\n\r\n'));
  // The connection may be reset before the answer is read: more was sent than was taken.
  assert.match(long, /^(HTTP\/1\.1 431 .*)?$/s);
  const answersIn = (text: string): number => text.split('HTTP/1.1 401 ').length - 1;
  const many = await ask('GET /pods HTTP/1.1\r\nHost: n\r\n\r\n'.repeat(3000), (text) => answersIn(text) === 3000);
  assert.equal(answersIn(many), 3000);
  assert.equal((await get(s.server.port, '/healthz')).status, 200);
  assert.deepEqual(unhandled, []);
});

test('a thousand half-open connections: others are served, and nothing of them stays', { timeout: 120_000 }, async (t) => {
  await using s = await start();
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as () => void;
  const inUse = (): number => {
    gc();
    const { heapUsed, external } = process.memoryUsage();
    return heapUsed + external;
  };
  const tls = { host: '127.0.0.1', port: s.server.port, rejectUnauthorized: false };
  const halves: (() => Socket)[] = [
    () => connectTcp(s.server.port, '127.0.0.1'),
    // The start of a handshake that never goes on.
    () => {
      const socket = connectTcp(s.server.port, '127.0.0.1');
      socket.write(Buffer.from('1603010200010001fc0303', 'hex'));
      return socket;
    },
    () => connectTls(tls),
    () => {
      const socket = connectTls(tls);
      socket.write('GET /exec/d/p/c HTTP/1.1\r\nHost: n\r\nX: ');
      return socket;
    },
  ];
  const openSockets = (): number => process.getActiveResourcesInfo().filter((name) => name === 'TCPSocketWrap').length;
  const idle = openSockets();
  const after: number[] = [];
  for (let wave = 0; wave < 3; wave++) {
    const sockets = Array.from({ length: 1000 }, (_, i) => (halves[i % 10 < 7 ? i % 2 : 2 + (i % 2)] as () => Socket)());
    const closed = sockets.map(
      (socket) => new Promise<void>((resolve) => void socket.on('error', () => undefined).once('close', () => resolve())),
    );
    await Promise.all(sockets.map((socket) => (socket.connecting ? once(socket, 'connect') : undefined)));
    const startedAt = performance.now();
    assert.equal((await get(s.server.port, '/pods')).status, 200);
    t.diagnostic(`wave ${wave}: another client was answered in ${Math.round(performance.now() - startedAt)} ms`);
    for (const socket of sockets) socket.destroy();
    await Promise.all(closed);
    // The server hears of the ends in its own time: after this its side of each connection is closed too.
    while (openSockets() > idle) await firstOf(50);
    // Objects with a finalizer take more than one collection.
    for (let i = 0; i < 5; i++) {
      await firstOf(20);
      gc();
    }
    after.push(inUse());
  }
  t.diagnostic(`in use after each wave: ${after.map((bytes) => `${(bytes / 1024 / 1024).toFixed(1)} MiB`).join(', ')}`);
  assert.ok((after[2] as number) < (after[0] as number) + 5 * 1024 * 1024, 'something of each connection is kept');
  assert.deepEqual(unhandled, []);
});
