import assert from 'node:assert/strict';
import { once } from 'node:events';
import { symlinkSync } from 'node:fs';
import { createServer, request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { type AddressInfo, connect as connectTcp } from 'node:net';
import type { Duplex } from 'node:stream';
import { test } from 'node:test';
import { type ConnectionOptions, connect } from 'node:tls';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { type Ask, file, folder, get, read, runtimeSide, seen, start } from './server-fixture.ts';

test('only who shows a good certificate or token is let in, and only for what is allowed', async () => {
  await using s = await start({ may: (spec) => spec.user === 'admin' || spec.resourceAttributes?.subresource === 'metrics' });
  const { port } = s.server;
  const table: [string, string, Ask, number, string?][] = [
    ['nobody', '/pods', {}, 401, 'Unauthorized'],
    ['nobody, healthz', '/healthz', {}, 401, 'Unauthorized'],
    ['certificate', '/pods', { certificate: 'admin' }, 200],
    ['certificate of another CA', '/pods', { certificate: 'stranger' }, 401],
    ['certificate for servers', '/pods', { certificate: 'wrong-usage' }, 401],
    ['bad token', '/metrics', { token: 'bad' }, 401],
    ['good token', '/metrics', { token: 'good' }, 200],
    ['good token beside a bad certificate', '/metrics', { token: 'good', certificate: 'stranger' }, 200],
    [
      'good token, not allowed',
      '/pods',
      { token: 'good' },
      403,
      'Forbidden (user=alice, verb=get, resource=nodes, subresource(s)=[pods proxy])\n',
    ],
  ];
  for (const [name, path, ask, status, text] of table) {
    const answer = await get(port, path, ask);
    assert.equal(answer.status, status, name);
    if (text !== undefined) assert.equal(answer.text, text, name);
  }
  assert.deepEqual(s.tokens, ['bad', 'good'], 'each token is reviewed once');
  const admin = s.asked.find((a) => a.user === 'admin');
  assert.deepEqual(admin?.groups, ['ops', 'system:masters', 'system:authenticated']);
  assert.match(admin?.extra?.['authentication.kubernetes.io/credential-id']?.[0] ?? '', /^X509SHA256=[0-9a-f]{64}$/);
  assert.deepEqual(admin?.resourceAttributes, { verb: 'get', version: 'v1', resource: 'nodes', subresource: 'pods', name: 'node-1' });
  const alice = s.asked.filter((a) => a.user === 'alice');
  assert.deepEqual(
    alice.map((a) => a.resourceAttributes?.subresource),
    ['metrics', 'pods', 'proxy'],
  );
  assert.deepEqual([alice[0]?.uid, alice[0]?.groups], ['7', ['dev', 'system:authenticated']]);
});

test('anonymous only when configured, and never for a bad token', async () => {
  await using s = await start({ settings: { anonymous: true } });
  assert.equal((await get(s.server.port, '/healthz', {})).status, 200);
  assert.deepEqual([s.asked[0]?.user, s.asked[0]?.groups], ['system:anonymous', ['system:unauthenticated']]);
  assert.equal((await get(s.server.port, '/healthz', { token: 'bad' })).status, 401);
  assert.equal((await get(s.server.port, '/healthz', { certificate: 'stranger' })).status, 401);
});

test('reviews that fail are told, and not remembered', async () => {
  let up = false;
  await using s = await start({
    options: {
      reviewAccess: async () => {
        if (!up) throw new AgentError('Unavailable', 'no API server');
        return { allowed: true };
      },
    },
  });
  const down = await get(s.server.port, '/pods');
  assert.deepEqual([down.status, down.text], [500, 'Authorization error (user=admin, verb=get, resource=nodes, subresource=pods)']);
  up = true;
  assert.equal((await get(s.server.port, '/pods')).status, 200);
});

test('what the endpoints answer', async () => {
  symlinkSync('/etc', file('outside'));
  await using s = await start({
    options: {
      nodeLogFolder: folder,
      pages: { '/metrics/probes': async () => ({ contentType: 'text/plain', body: 'probes' }) },
    },
  });
  const { port } = s.server;
  const table: [string, number, string | RegExp, Ask?][] = [
    ['/healthz', 200, 'ok'],
    ['/healthz/ping', 200, 'ok'],
    ['/configz', 200, '{"kubeletconfig":{"kind":"KubeletConfiguration"}}'],
    ['/pods', 200, /^\{"kind":"PodList","apiVersion":"v1","metadata":\{\},"items":\[\{"metadata":\{"name":"web"/],
    ['/runningpods/', 200, /"items":\[\]/],
    ['/metrics', 200, /kubelet_http_requests_total\{method="GET",path="healthz",server_type="readwrite",long_running="false"\} 2/],
    ['/metrics/probes', 200, 'probes'],
    ['/metrics/resource', 404, '404 page not found\n'],
    ['/containerLogs/default/web/c?tailLines=3', 200, '/logs/c/0.log 3 false\n'],
    ['/containerLogs/default/web/c?follow=true', 200, '/logs/c/0.log undefined true\n'],
    ['/containerLogs/default/web/c?tailLines=-3', 422, '{"message": "Invalid request."}'],
    ['/containerLogs/default/web/c?previous=true', 400, 'previous terminated container "c" in pod "web" not found'],
    ['/containerLogs/default/web/waiting', 400, 'container "waiting" in pod "web" is waiting to start: ContainerCreating'],
    ['/containerLogs/default/web/x', 404, 'container "x" not found in pod "web"'],
    ['/containerLogs/default/nope/c', 404, 'pod "nope" does not exist'],
    ['/run/default/web/c?cmd=echo%20hi', 200, 'outerr', { certificate: 'admin', method: 'POST' }],
    ['/exec/default/web/c?command=sh&output=1', 400, 'Upgrade request required', { certificate: 'admin', method: 'POST' }],
    [
      '/exec/default/web/c?command=sh',
      400,
      'you must specify at least 1 of stdin, stdout, stderr',
      { certificate: 'admin', method: 'POST' },
    ],
    ['/debug/flags/v', 400, /not a number/, { certificate: 'admin', method: 'PUT', body: '4' }],
    ['/logs/', 200, /<a href="ca.crt">ca.crt<\/a>/],
    ['/logs/ca.crt', 200, /BEGIN CERTIFICATE/],
    ['/logs/../../../etc/passwd', 404, '404 page not found\n'],
    ['/logs/..%2f..%2fetc%2fpasswd', 404, '404 page not found\n'],
    ['/logs/outside/passwd', 404, '404 page not found\n'],
    ['//etc/passwd', 404, '404 page not found\n'],
  ];
  for (const [path, status, text, ask] of table) {
    const answer = await get(port, path, ask);
    assert.equal(answer.status, status, `${path}: ${answer.text}`);
    if (typeof text === 'string') assert.equal(answer.text, text, path);
    else assert.match(answer.text, text, path);
  }
  assert.deepEqual(s.calls[0], { container_id: 'id-c', cmd: ['echo', 'hi'], timeout: 0 });
});

test('a new serving certificate is shown at once; without one there is no connection', async () => {
  await using s = await start();
  assert.equal((await get(s.server.port, '/healthz')).cn, 'node');
  s.show('serving2');
  assert.equal((await get(s.server.port, '/healthz')).cn, 'node2');

  await using none = await start({
    options: { certificate: { current: () => undefined, onChange: () => ({ [Symbol.dispose]: () => undefined }) } },
  });
  await assert.rejects(get(none.server.port, '/healthz'));
});

test('the minimal TLS version holds', async () => {
  await using s = await start({ settings: { tlsMinVersion: 'VersionTLS13' } });
  const socket = connect({ host: '127.0.0.1', port: s.server.port, ca: read('ca.crt'), maxVersion: 'TLSv1.2' });
  await assert.rejects(once(socket, 'secureConnect'), /protocol version|alert/);
  assert.equal((await get(s.server.port, '/healthz')).status, 200);
});

test('only the curves that are configured are spoken', async () => {
  await using s = await start({ settings: { tlsCurvePreferences: [24] } });
  const ask = (ecdhCurve: string) => connect({ host: '127.0.0.1', port: s.server.port, ca: read('ca.crt'), ecdhCurve });
  await assert.rejects(once(ask('X25519'), 'secureConnect'), /handshake failure|alert/);
  const socket = ask('P-384');
  await once(socket, 'secureConnect');
  socket.destroy();
});

test('who only knocks does not hold up the end of the server', { timeout: 10_000 }, async (t) => {
  const s = await start();
  // As a load balancer's check of the port does, and as one that never says anything.
  const knocks = [1, 2].map(() => connectTcp(s.server.port, '127.0.0.1'));
  t.after(() => {
    for (const knock of knocks) knock.destroy();
  });
  await Promise.all(knocks.map((knock) => once(knock, 'connect')));
  knocks[0]?.end();
  assert.equal((await get(s.server.port, '/healthz')).status, 200, 'the knocks have been accepted too');
  await s[Symbol.asyncDispose]();
});

test('healthz and read-only ports', async () => {
  const freePorts = await Promise.all([freePort(), freePort()]);
  await using s = await start({ settings: { healthzPort: freePorts[0]!, readOnlyPort: freePorts[1]! } });
  const plain = async (port: number | undefined, path: string) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`);
    return [response.status, await response.text()];
  };
  assert.deepEqual(await plain(s.server.healthzPort, '/healthz'), [200, 'ok']);
  assert.deepEqual(await plain(s.server.healthzPort, '/pods'), [404, '404 page not found\n']);
  assert.equal((await plain(s.server.readOnlyPort, '/pods'))[0], 200);
  assert.deepEqual(await plain(s.server.readOnlyPort, '/containerLogs/default/web/c'), [405, 'Debug endpoints are disabled.\n']);
  assert.deepEqual(await plain(s.server.readOnlyPort, '/exec/default/web/c'), [405, 'Debug endpoints are disabled.\n']);
  assert.equal((await plain(s.server.readOnlyPort, '/configz'))[0], 404);
});

test('a taken port and a broken client CA are errors that name them', async () => {
  await using s = await start();
  await assert.rejects(start({ settings: { port: s.server.port } }), /cannot listen on 127.0.0.1:\d+/);
  await assert.rejects(start({ settings: { clientCaFile: file('admin.key') } }), /clientCAFile: no certificate in the client CA file/);
});

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Sends an upgrade request by hand and gives the answer's head and the socket behind it. */
async function upgrade(port: number, path: string, ask: Ask & { protocol?: string; first?: string } = {}) {
  const options: ConnectionOptions & { allowHalfOpen: boolean } = {
    host: '127.0.0.1',
    port,
    ca: read('ca.crt'),
    allowHalfOpen: true,
    ...(ask.token === undefined ? { cert: read('admin.crt'), key: read('admin.key') } : {}),
  };
  const socket = connect(options);
  await once(socket, 'secureConnect');
  const headers = ['Host: node', 'Connection: Upgrade', `Upgrade: ${ask.protocol ?? 'SPDY/3.1'}`];
  if (ask.token !== undefined) headers.push(`Authorization: Bearer ${ask.token}`);
  for (const [name, value] of Object.entries(ask.headers ?? {})) headers.push(`${name}: ${value}`);
  socket.write(`${ask.method ?? 'POST'} ${path} HTTP/1.1\r\n${headers.join('\r\n')}\r\nContent-Length: 0\r\n\r\n${ask.first ?? ''}`);
  let text = '';
  let wake = (): void => undefined;
  socket.on('data', (chunk) => {
    text += String(chunk);
    wake();
  });
  const ended = Promise.race([once(socket, 'end'), once(socket, 'close')]).then(() => wake());
  while (!text.includes('\r\n\r\n') && !socket.readableEnded) {
    await new Promise<void>((resolve) => {
      wake = resolve;
    });
  }
  const end = text.indexOf('\r\n\r\n') + 4;
  return {
    head: text.slice(0, end),
    socket,
    /** All that followed the head, once the other side has ended. */
    async rest(): Promise<string> {
      await ended;
      return text.slice(end);
    },
  };
}

/** All text up to the other side's end. Not `for await`: that destroys a socket whose writing side is still wanted. */
async function textOf(stream: Duplex): Promise<string> {
  let text = '';
  stream.on('data', (chunk) => {
    text += String(chunk);
  });
  if (!stream.readableEnded) await Promise.race([once(stream, 'end'), once(stream, 'close')]);
  return text;
}

const execPath = '/exec/default/web/c?command=sh&command=-c&input=1&output=1';

test('exec: bytes both ways, what came with the request first, each end by itself', async () => {
  await using s = await start();
  runtimeSide.onStream = async (socket) => {
    // Answers only after the client's end: half-close must come through both hops.
    const text = await textOf(socket);
    socket.end(`got ${text}`);
  };
  const { head, rest, socket } = await upgrade(s.server.port, execPath, {
    first: 'early ',
    headers: { 'X-Stream-Protocol-Version': 'v4.channel.k8s.io' },
  });
  assert.match(head, /^HTTP\/1.1 101 /);
  assert.match(head, /X-Stream-Protocol-Version: v4.channel.k8s.io/);
  socket.end('late');
  assert.equal(await rest(), 'got early late');
  assert.deepEqual(s.calls, [{ container_id: 'id-c', cmd: ['sh', '-c'], stdin: true, stdout: true, stderr: false, tty: false }]);
  assert.equal(seen.at(-1)?.headers['x-stream-protocol-version'], 'v4.channel.k8s.io');
});

test('exec: 16 MiB each way with slow readers', async () => {
  await using s = await start();
  const size = 16 * 1024 * 1024;
  runtimeSide.onStream = (socket) => void socket.pipe(socket);
  const { socket, rest } = await upgrade(s.server.port, execPath);
  const sent = Buffer.alloc(1024 * 1024, 'x');
  void (async () => {
    for (let i = 0; i < size; i += sent.length) if (!socket.write(sent)) await once(socket, 'drain');
    socket.end();
  })();
  assert.equal((await rest()).length, size);
});

test('the runtime ends first; a broken side breaks the other', async () => {
  await using s = await start();
  runtimeSide.onStream = (socket) => void socket.end('bye');
  const done = await upgrade(s.server.port, execPath);
  assert.equal(await done.rest(), 'bye');
  done.socket.end();

  let runtimeSocket: Duplex | undefined;
  runtimeSide.onStream = (socket) => {
    runtimeSocket = socket;
    socket.resume();
  };
  const broken = await upgrade(s.server.port, execPath);
  broken.socket.destroy();
  if (!runtimeSocket?.readableEnded) await once(runtimeSocket as Duplex, 'end');
});

test('exec: a command as long as any other server of Kubernetes takes', async () => {
  await using s = await start();
  // kubectl puts the whole command into the query: `kubectl exec web -- sh -c "$(cat script)"`.
  const script = 'x'.repeat(200_000);
  const stream = await upgrade(s.server.port, `/exec/default/web/c?output=1&command=sh&command=-c&command=${script}`);
  assert.match(stream.head, /^HTTP\/1\.1 101 /);
  assert.deepEqual((s.calls[0] as { cmd: string[] }).cmd, ['sh', '-c', script]);
  stream.socket.destroy();
});

test('attach takes the terminal from the spec, port-forward the sandbox; a WebSocket goes the same way', async () => {
  await using s = await start();
  runtimeSide.onStream = (socket) => void socket.end();
  (await upgrade(s.server.port, '/attach/default/web/c?output=1&error=1')).socket.end();
  assert.deepEqual(s.calls.at(-1), { container_id: 'id-c', stdin: false, stdout: true, stderr: false, tty: true });
  (await upgrade(s.server.port, '/portForward/default/web')).socket.end();
  assert.deepEqual(s.calls.at(-1), { pod_sandbox_id: 'sandbox-1', port: [] });
  const protocols = `v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.${Buffer.from('good').toString('base64url')}`;
  const webSocket = await upgrade(s.server.port, '/portForward/default/web?port=80', {
    method: 'GET',
    protocol: 'websocket',
    headers: { 'Sec-WebSocket-Protocol': protocols },
  });
  webSocket.socket.end();
  assert.deepEqual(s.calls.at(-1), { pod_sandbox_id: 'sandbox-1', port: [80] });
  assert.equal(seen.at(-1)?.headers['sec-websocket-protocol'], 'v4.channel.k8s.io', 'the token is not for the runtime');
});

test('errors before the upgrade are plain answers', async () => {
  await using s = await start({ may: (spec) => spec.user !== 'alice' });
  const table: [string, Parameters<typeof upgrade>[2], RegExp, string][] = [
    [execPath, { token: 'bad' }, /^HTTP\/1.1 401 /, 'Unauthorized'],
    [execPath, { token: 'good' }, /^HTTP\/1.1 403 /, 'Forbidden (user=alice, verb=create, resource=nodes, subresource(s)=[proxy])\n'],
    ['/exec/default/web/waiting?output=1', {}, /^HTTP\/1.1 500 /, 'container not found ("waiting")'],
    ['/exec/default/nope/c?output=1', {}, /^HTTP\/1.1 404 /, 'pod does not exist'],
    ['/attach/default/web/other-uid/c?output=1', {}, /^HTTP\/1.1 404 /, 'pod not found'],
  ];
  for (const [path, ask, status, text] of table) {
    const answer = await upgrade(s.server.port, path, ask);
    assert.match(answer.head, status, path);
    assert.equal(await answer.rest(), text);
    answer.socket.end();
  }
});

test('what the runtime refuses is passed on, and the connection with it ends (CVE-2018-1002105)', async () => {
  await using s = await start();
  runtimeSide.refuseWith = { status: 404, text: 'no such token' };
  try {
    const { head, rest, socket } = await upgrade(s.server.port, execPath, { first: 'GET /exec/other HTTP/1.1\r\nHost: x\r\n\r\n' });
    assert.match(head, /^HTTP\/1.1 404 /);
    const text = await rest();
    assert.match(text, /no such token/);
    assert.ok(!text.includes('second request'));
    socket.end();
  } finally {
    runtimeSide.refuseWith = undefined;
  }
});

test('runtime errors have their statuses', async () => {
  for (const [code, status] of [
    ['NotFound', 404],
    ['ResourceExhausted', 429],
    ['Unavailable', 500],
  ] as const) {
    const fail = async (): Promise<never> => {
      throw new AgentError(code, `runtime says ${code}`);
    };
    await using s = await start({ options: { runtime: { exec: fail, attach: fail, portForward: fail, execSync: fail } } });
    const { head, rest, socket } = await upgrade(s.server.port, execPath);
    assert.match(head, new RegExp(`^HTTP/1.1 ${status} `));
    assert.equal(await rest(), `runtime says ${code}`);
    socket.end();
  }
});

test('an idle stream ends after its time, and closing the server ends every stream', async () => {
  await using idle = await start({ settings: { streamingConnectionIdleTimeoutMs: 30 } });
  runtimeSide.onStream = (socket) => void socket.resume();
  const first = await upgrade(idle.server.port, execPath);
  first.socket.on('error', () => undefined);
  await first.rest();

  const open = await start();
  const second = await upgrade(open.server.port, execPath);
  second.socket.on('error', () => undefined);
  await Promise.all([second.rest(), open.server[Symbol.asyncDispose]()]);
});

test('a follower that goes away ends the reading', async () => {
  let ended = false;
  await using s = await start({
    options: {
      async *readLog(_path, _options, signal) {
        try {
          yield Buffer.alloc(0);
          await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
        } finally {
          ended = true;
        }
      },
    },
  });
  const request = httpsRequest({
    host: '127.0.0.1',
    port: s.server.port,
    path: '/containerLogs/default/web/c?follow=true',
    agent: false,
    ca: read('ca.crt'),
    cert: read('admin.crt'),
    key: read('admin.key'),
  });
  request.end();
  const [response] = (await once(request, 'response')) as [Duplex];
  response.on('error', () => undefined);
  request.destroy();
  for (let i = 0; i < 200 && !ended; i++) await new Promise((resolve) => setImmediate(resolve));
  while (!ended) await systemClock.sleep(1, AbortSignal.timeout(2000));
});

test('httpRequest of plain HTTP to the TLS port is refused', async () => {
  await using s = await start();
  const request = httpRequest({ host: '127.0.0.1', port: s.server.port, path: '/healthz', agent: false });
  request.end();
  await assert.rejects(once(request, 'response'));
});
