import assert from 'node:assert/strict';
import { createServer as createHttpServer } from 'node:http';
import { createSecureServer } from 'node:http2';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, createServer as createTcpServer, type Server } from 'node:net';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { httpGet } from '../../../agent/drivers/http/get.ts';
import { type HookDeps, runHook } from '../../../agent/pods/hooks.ts';
import { makeCa } from '../../fakes/certs.ts';
import { container, pod } from './build.ts';

async function listening<T extends Server>(server: T) {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return { port, [Symbol.asyncDispose]: () => new Promise<void>((resolve) => void server.close(() => resolve())) };
}

const base: HookDeps = {
  clock: systemClock,
  execSync: () => Promise.reject(new Error('no exec')),
  expand: async (command) => [...command],
  httpGet,
};

function hook(port: number, action: object, fellBack?: (host: string) => void): Promise<void> {
  const deps = { ...base, ...(fellBack === undefined ? {} : { fellBack }) };
  const handler = { httpGet: { port, ...action } };
  return runHook(deps, pod({}), container('a'), 'id', '127.0.0.1', handler, AbortSignal.timeout(20_000));
}

test('an HTTP hook is run where the answer sends it, on the same host', async () => {
  const asked: string[] = [];
  const answer = createHttpServer((request, response) => {
    asked.push(`${request.url} ${request.headers.authorization ?? '-'} ${request.headers['x-a'] ?? '-'}`);
    const to = { '/stop': '/stop/', '/loop': '/loop', '/away': `http://localhost:${server.port}/there` }[request.url ?? ''];
    response.writeHead(to === undefined ? 500 : 302, to === undefined ? {} : { location: to }).end();
  });
  await using server = await listening(answer);
  const httpHeaders = [
    { name: 'Authorization', value: 'secret' },
    { name: 'X-A', value: '1' },
    { name: 'X-A', value: '2' },
  ];
  // A status that is bad is an answer all the same, as with kubelet.
  await hook(server.port, { path: 'stop', httpHeaders });
  assert.deepEqual(asked.splice(0), ['/stop secret 1, 2', '/stop/ secret 1, 2']);
  await hook(server.port, { path: '/ä b?c=d' });
  assert.deepEqual(asked.splice(0), ['/%C3%A4%20b?c=d - -']);
  // Elsewhere it is not run: what its headers say is not for other hosts (pkg/probe/http RedirectChecker).
  await hook(server.port, { path: '/away', httpHeaders });
  assert.deepEqual(asked.splice(0), ['/away secret 1, 2']);
  await assert.rejects(hook(server.port, { path: '/loop' }), { code: 'HookFailed', message: /stopped after 10 redirects/ });
});

test('an HTTP hook ends with its answer, whatever that looks like', async () => {
  for (const [name, text] of [
    ['lines that end in LF alone', 'HTTP/1.1 200 OK\n\nhello'],
    ['an upgrade', 'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'],
    ['a body that is longer than counts', `HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n${'x'.repeat(10_240)}`],
  ] as const) {
    await using server = await listening(
      createTcpServer((socket) => void socket.on('error', () => undefined).once('data', () => socket.write(text))),
    );
    await assert.doesNotReject(hook(server.port, { path: '/' }), name);
  }
});

test('an HTTP hook has ended when its answer has: until then the handler may be at work', async () => {
  await using server = await listening(
    createHttpServer((_, response) => {
      response.write('draining');
      setTimeout(() => {
        drained = true;
        response.end();
      }, 50);
    }),
  );
  let drained = false;
  await hook(server.port, { path: '/' });
  assert.ok(drained);
});

test('a hook speaks HTTP/2 where the server has nothing else, and says who it is', async () => {
  using ca = makeCa();
  const seen: unknown[] = [];
  const server = createSecureServer({ ...ca.issue({ commonName: 'elsewhere' }), allowHTTP1: false }, (request, response) => {
    seen.push([request.httpVersion, request.headers['user-agent'], request.headers[':authority'], request.headers.authorization]);
    response.end();
  });
  await using listener = await listening(server);
  const httpHeaders = ['host:app.example', 'authorization:a', 'Authorization:b'].map((text) => ({
    name: text.split(':')[0] ?? '',
    value: text.split(':')[1] ?? '',
  }));
  await hook(listener.port, { scheme: 'HTTPS', httpHeaders });
  assert.deepEqual(seen, [['2.0', 'kube-lifecycle/1.36', 'app.example', 'a']]);
});

test('an HTTP hook that fails says so in the words of a Go program', async () => {
  const server = await listening(createTcpServer());
  await server[Symbol.asyncDispose]();
  const { port } = server;
  await assert.rejects(hook(port, { path: '/x' }), {
    code: 'HookFailed',
    message: `HTTP lifecycle hook (/x) for Container "a" in Pod "web_default(u1)" failed - error: Get "http://127.0.0.1:${port}/x": dial tcp 127.0.0.1:${port}: connect: connection refused`,
  });
  await assert.rejects(hook(0, { path: '/x', port: 'none' }), { message: /failed - error: strconv.Atoi: parsing "none": invalid syntax$/ });
});

test("an exec hook's command is expanded, and what its variables stand for is told to nobody", async () => {
  const ran: string[][] = [];
  const deps: HookDeps = {
    ...base,
    expand: async (command) => command.map((text) => text.replace('$(TOKEN)', 'secret')),
    execSync: async ({ cmd }) => {
      ran.push(cmd);
      return { exit_code: 3, stderr: Buffer.from('no') };
    },
  };
  const failed = runHook(
    deps,
    pod({}),
    container('a'),
    'id',
    undefined,
    { exec: { command: ['say', '$(TOKEN)'] } },
    AbortSignal.timeout(20_000),
  );
  await assert.rejects(failed, (error: Error) => {
    assert.match(
      error.message,
      /^Exec lifecycle hook \(\[say \$\(TOKEN\)\]\) .*error: command 'say \$\(TOKEN\)' exited with 3: no, message: "no"$/,
    );
    return true;
  });
  assert.deepEqual(ran, [['say', 'secret']]);
});

test('an HTTPS hook: whatever the certificate, and in the clear where that is what is served', async () => {
  using ca = makeCa();
  const asked: string[] = [];
  const note = (
    request: { url?: string | undefined; headers: { authorization?: string | undefined } },
    response: { end(): void },
  ): void => {
    asked.push(`${request.url} ${request.headers.authorization ?? '-'}`);
    response.end();
  };
  const action = { scheme: 'HTTPS', path: '/x', httpHeaders: [{ name: 'Authorization', value: 'secret' }] };
  await using secure = await listening(createHttpsServer(ca.issue({ commonName: 'elsewhere' }), note));
  const told: string[] = [];
  const tell = (host: string): void => void told.push(host);
  await hook(secure.port, action, tell);
  await using plain = await listening(createHttpServer(note));
  await hook(plain.port, action, tell);
  assert.deepEqual(asked, ['/x secret', '/x -']);
  assert.deepEqual(told, [`127.0.0.1:${plain.port}`]);
  // What is served in the clear and fails there is told as it was written.
  await using junk = await listening(
    createTcpServer((socket) => void socket.on('error', () => undefined).once('data', () => socket.end('SSH-2.0-x\r\n'))),
  );
  await assert.rejects(hook(junk.port, action, tell), { message: /Get "https:.*: http: server gave HTTP response to HTTPS client$/ });
  assert.equal(told.length, 1);
});

test('a sleep that is called off is told, one that ends is not', async () => {
  let cut = 0;
  const deps = { ...base, sleepCut: () => void cut++ };
  const sleep = (seconds: number, signal: AbortSignal) =>
    runHook(deps, pod({}), container('a'), 'id', undefined, { sleep: { seconds } }, signal);
  await sleep(0, new AbortController().signal);
  assert.equal(cut, 0);
  await assert.rejects(sleep(60, AbortSignal.abort(new Error('the pod has to end sooner'))));
  assert.equal(cut, 1);
});
