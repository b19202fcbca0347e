import assert from 'node:assert/strict';
import { createServer, type RequestListener } from 'node:http';
import { createSecureServer } from 'node:http2';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from 'node:net';
import { test } from 'node:test';
import type { TLSSocket } from 'node:tls';
import * as grpc from '@grpc/grpc-js';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { httpGet } from '../../../agent/drivers/http/get.ts';
import { decodeHealthResponse, encodeHealthRequest, execAttempt, grpcAttempt, tcpAttempt } from '../../../agent/probes/attempt.ts';
import { httpAttempt } from '../../../agent/probes/http-attempt.ts';
import { makeCa } from '../../fakes/certs.ts';

const never = new AbortController().signal;

async function listening<T extends Server>(server: T) {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return { port, [Symbol.asyncDispose]: () => new Promise<void>((resolve) => void server.close(() => resolve())) };
}

async function unusedPort(): Promise<number> {
  await using server = await listening(createTcpServer());
  return server.port;
}

async function get(port: number, path: string, action: object = {}, timeoutMs = 20_000) {
  const question = { action: { port, path, ...action }, container: { name: 'c' }, podIp: '127.0.0.1', userAgent: 'kube-probe/1.36' };
  return await httpAttempt(httpGet, question, timeoutMs, systemClock, never);
}

test('http: statuses, redirects and what goes wrong', async () => {
  let hops = 0;
  const seen: Record<string, unknown> = {};
  const answer: RequestListener = (request, response) => {
    const url = request.url ?? '';
    seen[url] = { ...request.headers };
    const [, code, to] = /^\/(\d+)(?:\?to=(.*))?$/.exec(url) ?? [];
    if (url === '/hang') return;
    if (url === '/cut') return void request.socket.destroy();
    if (url === '/loop') {
      hops++;
      response.writeHead(302, { location: '/loop' }).end();
    } else if (url === '/long') {
      response.writeHead(300);
      response.end('x'.repeat(200_000));
    } else if (url === '/endless') {
      response.writeHead(200);
      const more = (): void => void (response.write('x'.repeat(10_000)) ? setImmediate(more) : response.once('drain', more));
      more();
    } else response.writeHead(Number(code), to === undefined ? {} : { location: decodeURIComponent(to) }).end('body');
  };
  await using server = await listening(createServer(answer));
  const { port } = server;
  const base = `http://127.0.0.1:${port}`;
  const closed = await unusedPort();
  const to = (url: string): string => encodeURIComponent(url);
  const table: [string, object][] = [
    ['/200', { kind: 'success' }],
    ['/204', { kind: 'success' }],
    ['/404', { kind: 'failure', message: 'HTTP probe failed with statuscode: 404' }],
    ['/500', { kind: 'failure', message: 'HTTP probe failed with statuscode: 500' }],
    [`/302?to=${to('/200')}`, { kind: 'success' }],
    [`/302?to=${to('/500')}`, { kind: 'failure', message: 'HTTP probe failed with statuscode: 500' }],
    [`/307?to=${to(`${base}/204`)}`, { kind: 'success' }],
    [`/302?to=${to('http://0.0.0.0/')}`, { kind: 'warning', message: 'Probe terminated redirects, Response body: body' }],
    ['/302', { kind: 'warning', message: 'Probe terminated redirects, Response body: body' }],
    ['/302?to=', { kind: 'warning', message: 'Probe terminated redirects, Response body: body' }],
    ['/304', { kind: 'warning', message: 'Probe terminated redirects, Response body: ' }],
    ['/long', { kind: 'warning', message: `Probe terminated redirects, Response body: ${'x'.repeat(10_240)}` }],
    ['/endless', { kind: 'success' }],
    ['/loop', { kind: 'failure', message: 'Get "/loop": stopped after 10 redirects', refused: false }],
    ['/cut', { kind: 'failure', message: `Get "${base}/cut": EOF`, refused: false }],
  ];
  for (const [path, expected] of table) assert.deepEqual(await get(port, path), expected, path);
  assert.equal(hops, 10);
  assert.deepEqual(await get(port, '/hang', {}, 30), {
    kind: 'failure',
    message: `Get "${base}/hang": context deadline exceeded (Client.Timeout exceeded while awaiting headers)`,
    refused: false,
  });
  assert.deepEqual(await get(closed, '/'), {
    kind: 'failure',
    message: `Get "http://127.0.0.1:${closed}/": dial tcp 127.0.0.1:${closed}: connect: connection refused`,
    refused: true,
  });
  assert.deepEqual(await get(port, '/200', { scheme: 'HTTPS' }), {
    kind: 'failure',
    message: `Get "https://127.0.0.1:${port}/200": http: server gave HTTP response to HTTPS client`,
    refused: false,
  });
  assert.deepEqual(await get(port, '/', { httpHeaders: [{ name: 'a b', value: 'c' }] }), {
    kind: 'failure',
    message: `Get "${base}/": net/http: invalid header field name "a b"`,
    refused: false,
  });
  await get(port, '/201', { httpHeaders: [{ name: 'Host', value: 'example.com' }] });
  assert.equal((seen['/200'] as { referer: string }).referer, `${base}/302?to=%2F200`, 'as Go, a redirect tells where it comes from');
  await get(port, '/200');
  assert.deepEqual(seen['/200'], { host: `127.0.0.1:${port}`, 'user-agent': 'kube-probe/1.36', accept: '*/*', connection: 'close' });
  assert.equal((seen['/201'] as { host: string }).host, 'example.com');
});

test('http: answers of simple and of sloppy servers count as with a Go client', async () => {
  const good = { kind: 'success' };
  const table: [string, object, string][] = [
    ['lines that end in LF alone', good, 'HTTP/1.1 200 OK\n\nhello'],
    ['more than was announced', good, 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhello'],
    ['a body after 204', good, 'HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok'],
    ['a length and chunks', good, 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'],
    ['a folded header', good, 'HTTP/1.1 200 OK\r\nX-A: a\r\n b\r\nContent-Length: 0\r\n\r\n'],
    ['early hints', good, 'HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'],
    ['an offer to upgrade', good, 'HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: h2\r\nContent-Length: 2\r\n\r\nok'],
    [
      'an upgrade',
      { kind: 'failure', message: 'HTTP probe failed with statuscode: 101' },
      'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n',
    ],
    ['less than was announced', { kind: 'error', message: 'unexpected EOF' }, 'HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello'],
  ];
  for (const [name, expected, text] of table) {
    await using server = await listening(
      createTcpServer((socket) => void socket.on('error', () => undefined).once('data', () => socket.end(text))),
    );
    assert.deepEqual(await get(server.port, '/'), expected, name);
  }
});

test('http: a body that does not end says nothing about the container', async () => {
  const text = 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: x\n\n';
  await using server = await listening(
    createTcpServer((socket) => void socket.on('error', () => undefined).once('data', () => socket.write(text))),
  );
  assert.deepEqual(await get(server.port, '/', {}, 100), {
    kind: 'error',
    message: 'context deadline exceeded (Client.Timeout or context cancellation while reading body)',
  });
});

test('https: a host name is told to the server, an address is not', async () => {
  using ca = makeCa();
  const { cert, key } = ca.issue({ commonName: 'elsewhere' });
  const names: unknown[] = [];
  const server = createHttpsServer({ cert, key }, (request, response) => {
    names.push((request.socket as TLSSocket).servername);
    response.writeHead(200).end();
  });
  await using listener = await listening(server);
  for (const host of ['localhost', '127.0.0.1'])
    assert.deepEqual(await get(listener.port, '/', { scheme: 'HTTPS', host }), { kind: 'success' });
  assert.deepEqual(names, ['localhost', false]);
});

test('https: whatever the certificate', async () => {
  using ca = makeCa();
  const { cert, key } = ca.issue({ commonName: 'elsewhere' });
  await using server = await listening(createHttpsServer({ cert, key }, (_, response) => void response.writeHead(200).end()));
  assert.deepEqual(await get(server.port, '/', { scheme: 'HTTPS' }), { kind: 'success' });
  assert.equal((await get(server.port, '/')).kind, 'failure', 'plain HTTP to a TLS port');
});

test('https: a server that speaks HTTP/2 alone, and one that prefers it', async () => {
  using ca = makeCa();
  const { cert, key } = ca.issue({ commonName: 'elsewhere' });
  for (const allowHTTP1 of [false, true]) {
    const seen: unknown[] = [];
    const server = createSecureServer({ cert, key, allowHTTP1 }, (request, response) => {
      const { headers, url } = request;
      if (url === '/cut') return void response.stream.destroy();
      if (url === '/hang') return;
      seen.push([request.httpVersion, headers[':authority'], headers['x-a'], headers['user-agent'], headers.connection]);
      if (url === '/moved') response.writeHead(302, { location: '/200' }).end();
      else if (url === '/away') response.writeHead(301, { location: 'https://192.0.2.1/' }).end('there');
      else if (url === '/long') response.writeHead(200).end('x'.repeat(200_000));
      else response.writeHead(Number(url.slice(1))).end();
    });
    await using listener = await listening(server);
    const https = {
      scheme: 'HTTPS',
      httpHeaders: [
        ['Host', 'app.example'],
        ['X-A', '1'],
        ['X-A', '2'],
      ].map(([name, value]) => ({ name, value })),
    };
    assert.deepEqual(await get(listener.port, '/200', https), { kind: 'success' });
    assert.deepEqual(seen, [['2.0', 'app.example', '1, 2', 'kube-probe/1.36', undefined]]);
    assert.deepEqual(await get(listener.port, '/moved', https), { kind: 'success' });
    assert.deepEqual(await get(listener.port, '/long', https), { kind: 'success' });
    assert.deepEqual(await get(listener.port, '/away', https), {
      kind: 'warning',
      message: 'Probe terminated redirects, Response body: there',
    });
    assert.deepEqual(await get(listener.port, '/503', https), { kind: 'failure', message: 'HTTP probe failed with statuscode: 503' });
    assert.equal((await get(listener.port, '/cut', https)).kind, 'failure');
    assert.match(
      ((await get(listener.port, '/hang', https, 100)) as { message: string }).message,
      /Client.Timeout exceeded while awaiting headers/,
    );
  }
});

test('https: a server that ends the handshake, or never begins it', async () => {
  await using ends = await listening(
    createTcpServer((socket) => void socket.on('error', () => undefined).once('data', () => socket.end())),
  );
  assert.match(((await get(ends.port, '/', { scheme: 'HTTPS' })) as { message: string }).message, /: EOF$/);
  await using waits = await listening(createTcpServer((socket) => void socket.on('error', () => undefined).resume()));
  const { message } = (await get(waits.port, '/', { scheme: 'HTTPS' }, 100)) as { message: string };
  assert.match(message, /Client.Timeout exceeded while awaiting headers/);
  const closed = await unusedPort();
  assert.deepEqual(await get(closed, '/', { scheme: 'HTTPS' }), {
    kind: 'failure',
    message: `Get "https://127.0.0.1:${closed}/": dial tcp 127.0.0.1:${closed}: connect: connection refused`,
    refused: true,
  });
});

test('tcp', async () => {
  await using server = await listening(createTcpServer((socket) => void socket.on('error', () => undefined).resume()));
  assert.deepEqual(await tcpAttempt('127.0.0.1', server.port, 20_000, systemClock, never), { kind: 'success' });
  const closed = await unusedPort();
  assert.deepEqual(await tcpAttempt('127.0.0.1', closed, 20_000, systemClock, never), {
    kind: 'failure',
    message: `dial tcp 127.0.0.1:${closed}: connect: connection refused`,
    refused: true,
  });
});

test('exec', async () => {
  const exec = (answer: () => Promise<object>) =>
    execAttempt(answer, 'id', { command: ['cat', '/x'], written: ['cat', '$(FILE)'] }, 2000, never);
  assert.deepEqual(await exec(async () => ({ exit_code: 0, stdout: Buffer.from('fine') })), { kind: 'success' });
  const failed = { exit_code: 1, stdout: Buffer.from('out '), stderr: Buffer.from('err') };
  assert.deepEqual(await exec(async () => failed), { kind: 'failure', message: 'out err' });
  const fails = (code: string) => async (): Promise<object> => {
    throw new AgentError(code, `ExecSync: ${code}`);
  };
  assert.deepEqual(await exec(fails('DeadlineExceeded')), {
    kind: 'failure',
    message: 'command timed out: "cat $(FILE)" timed out after 2s',
  });
  assert.deepEqual(await exec(fails('Unknown')), { kind: 'error', message: 'ExecSync: Unknown' });
  let asked: unknown;
  await exec(async (...args: unknown[]) => {
    asked = args[0];
    return {};
  });
  assert.deepEqual(asked, { container_id: 'id', cmd: ['cat', '/x'], timeout: 2 });
});

test('grpc: a server that takes connections and never speaks is left with none of ours', async () => {
  const open = new Set<Socket>();
  const server = createTcpServer((socket) => {
    open.add(socket.resume().on('error', () => undefined));
    socket.on('close', () => open.delete(socket));
  });
  await using listener = await listening(server);
  const attempts = Array.from({ length: 5 }, () => grpcAttempt('127.0.0.1', listener.port, '', 300, 'kube-probe/1.36', systemClock, never));
  for (const { kind } of await Promise.all(attempts)) assert.equal(kind, 'failure');
  const deadline = AbortSignal.timeout(10_000);
  while (open.size > 0) await systemClock.sleep(5, deadline);
});

test('grpc: the health protocol', async () => {
  const method = {
    path: '/grpc.health.v1.Health/Check',
    requestStream: false as const,
    responseStream: false as const,
    requestSerialize: (value: { service: string }) => encodeHealthRequest(value.service),
    requestDeserialize: (bytes: Buffer) => ({ service: bytes.subarray(2).toString() }),
    responseSerialize: (status: number) => (status === 0 ? Buffer.alloc(0) : Buffer.from([8, status])),
    responseDeserialize: (bytes: Buffer) => decodeHealthResponse(bytes),
  };
  const agents: unknown[] = [];
  const start = async (implement: boolean) => {
    const server = new grpc.Server();
    if (implement) {
      server.addService(
        { check: method },
        {
          check: (call: grpc.ServerUnaryCall<{ service: string }, number>, done: grpc.sendUnaryData<number>) => {
            agents.push(call.metadata.get('user-agent')[0]);
            const { service } = call.request;
            if (service === 'hang') return;
            if (service === 'odd') done({ code: grpc.status.NOT_FOUND, details: 'unknown service' });
            else done(null, service === '' ? 1 : service === 'down' ? 2 : 0);
          },
        },
      );
    }
    const port = await new Promise<number>((resolve, reject) =>
      server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, p) => (error ? reject(error) : resolve(p))),
    );
    return { port, [Symbol.dispose]: () => server.forceShutdown() };
  };
  using server = await start(true);
  const check = (service: string, port = server.port, timeoutMs = 20_000) =>
    grpcAttempt('127.0.0.1', port, service, timeoutMs, 'kube-probe/1.36', systemClock, never);
  assert.deepEqual(await check(''), { kind: 'success' });
  assert.match(String(agents[0]), /^kube-probe\/1.36 /);
  assert.deepEqual(await check('down'), { kind: 'failure', message: 'service unhealthy (responded with "NOT_SERVING")' });
  assert.deepEqual(await check('what'), { kind: 'failure', message: 'service unhealthy (responded with "UNKNOWN")' });
  assert.deepEqual(await check('hang', server.port, 100), { kind: 'failure', message: 'timeout: health rpc did not complete within 0.1s' });
  const odd = await check('odd');
  assert.match(
    odd.kind === 'failure' ? odd.message : '',
    /^error: health rpc probe failed: rpc error: code = NotFound desc = unknown service$/,
  );
  using bare = await start(false);
  const other = await check('', bare.port);
  assert.match(other.kind === 'failure' ? other.message : '', /^error: this server does not implement the grpc health protocol/);
  const closed = await unusedPort();
  assert.deepEqual(await check('', closed, 100), {
    kind: 'failure',
    message: `timeout: failed to connect service "127.0.0.1:${closed}" within 0.1s: context deadline exceeded`,
  });
  const stopping = new AbortController();
  const startedAt = systemClock.mono();
  // The library's own timer runs on, and the test with it.
  const asked = grpcAttempt('127.0.0.1', closed, '', 8_000, 'kube-probe/1.36', systemClock, stopping.signal);
  stopping.abort(new Error('the agent stops'));
  assert.deepEqual(await asked, { kind: 'failure', message: 'error: health rpc probe failed: the agent stops' });
  assert.ok(systemClock.mono() - startedAt < 6_000, 'a probe that is called off does not wait for its timeout');
  assert.equal(encodeHealthRequest('x'.repeat(300)).length, 303);
});
