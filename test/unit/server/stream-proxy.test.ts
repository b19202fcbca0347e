import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type IncomingMessage, ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, connect, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { proxyUpgrade } from '../../../agent/server/stream-proxy.ts';
import { makeCa } from '../../fakes/certs.ts';

const listening = async (server: Server): Promise<number> => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()));
  return (server.address() as AddressInfo).port;
};

/** Node destroys a socket that cannot be written to, with what it has received: a client in C or Go goes on reading. */
const survivesWriteErrors = (socket: Socket): Socket => {
  const write = socket._write.bind(socket);
  socket._write = (chunk, encoding, callback) => write(chunk, encoding, () => callback());
  return socket.on('error', () => undefined);
};

test('the output of a runtime that closes with something unread reaches a client that still speaks', async () => {
  const output = 'y'.repeat(500);
  let client: Socket | undefined;
  const runtime = createServer().on('upgrade', (_request: IncomingMessage, socket: Duplex) => {
    socket.on('error', () => undefined);
    socket.pause();
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n');
    setTimeout(() => {
      socket.write(output, () => socket.destroy());
      // The proxy wakes to both: the output and a broken connection on one side, more of the client's on the other.
      const speak = (times: number): void => {
        client?.write('ping');
        if (times > 0) setImmediate(speak, times - 1);
      };
      speak(10);
    }, 5);
  });
  const runtimePort = await listening(runtime);
  const never = new AbortController().signal;
  const proxied: Promise<void>[] = [];
  const proxy = createServer().on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    const response = new ServerResponse(request);
    response.assignSocket(request.socket);
    const url = `http://127.0.0.1:${runtimePort}/exec`;
    proxied.push(
      proxyUpgrade(request, response, { socket, head }, { clock: systemClock, url, idleTimeoutMs: 0, signal: never, closing: never }),
    );
  });
  const proxyPort = await listening(proxy);
  for (let round = 0; round < 60; round++) {
    const socket = survivesWriteErrors(connect({ port: proxyPort, host: '127.0.0.1' }));
    client = socket;
    socket.write('GET /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nping');
    let received = '';
    socket.on('data', (chunk: Buffer) => {
      received += chunk.toString('latin1');
    });
    await new Promise<void>((resolve) => socket.once('close', () => resolve()));
    assert.equal(received.slice(received.indexOf('\r\n\r\n') + 4), output, `round ${round}`);
  }
  await Promise.all(proxied);
  runtime.close();
  proxy.close();
});

test('a client that is slow to take the last of the output gets all of it; one that keeps its half open after that does not stay', async (t) => {
  const runtime = createServer().on('upgrade', (_request: IncomingMessage, socket: Duplex) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n');
    socket.end('all of it');
  });
  const runtimePort = await listening(runtime);
  const never = new AbortController().signal;
  let proxied: Promise<void> | undefined;
  const proxy = createServer().on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
    const response = new ServerResponse(request);
    response.assignSocket(socket);
    // As while its buffers are full: `kubectl exec … | less`.
    const write = socket._write.bind(socket);
    socket._write = (chunk, encoding, callback) =>
      void setTimeout(() => write(chunk, encoding, callback), String(chunk).includes('all of it') ? 500 : 0);
    const url = `http://127.0.0.1:${runtimePort}/exec`;
    const options = { clock: systemClock, url, idleTimeoutMs: 0, signal: never, closing: never, lingerMs: 100 };
    proxied = proxyUpgrade(request, response, { socket, head }, options);
  });
  const socket = connect({ port: await listening(proxy), host: '127.0.0.1', allowHalfOpen: true });
  t.after(() => {
    socket.destroy();
    runtime.close();
    proxy.close();
  });
  socket.write('GET /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n');
  let received = '';
  socket
    .on('error', () => undefined)
    .on('data', (chunk: Buffer) => {
      received += chunk.toString('latin1');
    });
  await new Promise<void>((resolve) => socket.once('end', resolve).once('close', resolve));
  assert.match(received, /\r\n\r\nall of it$/);
  await proxied;
});

for (const slow of ['runtime', 'client'] as const)
  test(`a slow ${slow} slows the other side down: what it does not take is not kept here`, async (t) => {
    const chunk = Buffer.alloc(64 * 1024);
    const total = 64 * 1024 * 1024;
    // The kernel's buffers of two connections hold some megabytes; this is far more.
    const tooMuch = total / 2;
    let sent = 0;
    let received = 0;
    const receive = (socket: Socket): void => void socket.on('data', (data: Buffer) => (received += data.length)).pause();
    const send = (socket: Socket): void => {
      while (sent < total) {
        sent += chunk.length;
        if (!socket.write(chunk)) return void socket.once('drain', () => send(socket));
      }
      socket.end();
    };
    let receiver: Socket | undefined;
    const runtime = createServer().on('upgrade', (_request: IncomingMessage, socket: Socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n');
      if (slow === 'client') return send(socket);
      receiver = socket;
      receive(socket);
    });
    const runtimePort = await listening(runtime);
    const never = new AbortController().signal;
    let proxied: Promise<void> | undefined;
    const proxy = createServer().on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
      const response = new ServerResponse(request);
      response.assignSocket(socket);
      const url = `http://127.0.0.1:${runtimePort}/exec`;
      proxied = proxyUpgrade(
        request,
        response,
        { socket, head },
        { clock: systemClock, url, idleTimeoutMs: 0, signal: never, closing: never, lingerMs: 100 },
      );
    });
    const client = connect({ port: await listening(proxy), host: '127.0.0.1', allowHalfOpen: true });
    t.after(() => {
      client.destroy();
      runtime.close();
      proxy.close();
    });
    client.write('GET /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n');
    const head = (await once(client, 'data')) as [Buffer];
    assert.match(head[0].toString('latin1'), /^HTTP\/1\.1 101 /);
    if (slow === 'client') {
      received = head[0].length - head[0].indexOf('\r\n\r\n') - 4;
      receiver = client;
      receive(client);
    } else send(client);
    for (let before = -1, same = 0; same < 20; before = sent) {
      same = sent === before ? same + 1 : 0;
      await systemClock.sleep(10, never);
    }
    assert.ok(sent < tooMuch, `${sent} bytes were taken of a sender whose receiver takes none`);
    receiver?.resume();
    await once(receiver as Socket, 'end');
    assert.equal(received, total);
    client.end();
    receiver?.end();
    await proxied;
  });

test('a runtime whose streaming server has TLS, with a certificate that it signed itself', async (t) => {
  using ca = makeCa('runtime');
  const runtime = createHttpsServer(ca.issue({ commonName: 'runtime' })).on('upgrade', (_request: IncomingMessage, socket: Duplex) => {
    socket.end('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nall of it');
  });
  const runtimePort = await listening(runtime);
  const never = new AbortController().signal;
  let proxied: Promise<void> | undefined;
  const proxy = createServer().on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
    const response = new ServerResponse(request);
    response.assignSocket(socket);
    const url = `https://127.0.0.1:${runtimePort}/exec`;
    proxied = proxyUpgrade(
      request,
      response,
      { socket, head },
      { clock: systemClock, url, idleTimeoutMs: 0, signal: never, closing: never, lingerMs: 100 },
    );
    proxied.catch(() => socket.destroy());
  });
  const socket = connect({ port: await listening(proxy), host: '127.0.0.1' });
  t.after(() => {
    socket.destroy();
    runtime.close();
    proxy.close();
  });
  socket.write('GET /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n');
  let received = '';
  socket
    .on('error', () => undefined)
    .on('data', (chunk: Buffer) => {
      received += chunk.toString('latin1');
    });
  await once(socket, 'close');
  await proxied;
  assert.match(received, /^HTTP\/1\.1 101 .*\r\n\r\nall of it$/s);
});
