import assert from 'node:assert/strict';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, createServer as createTcpServer, type Server } from 'node:net';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { runHook } from '../../../agent/pods/hooks.ts';
import { makeCa } from '../../fakes/certs.ts';
import { container, pod } from './build.ts';

async function listening<T extends Server>(server: T) {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return { port, [Symbol.asyncDispose]: () => new Promise<void>((resolve) => void server.close(() => resolve())) };
}

function hook(port: number, action: object, fellBack?: (host: string) => void): Promise<void> {
  const deps = {
    clock: systemClock,
    execSync: () => Promise.reject(new Error('no exec')),
    ...(fellBack === undefined ? {} : { fellBack }),
  };
  const handler = { httpGet: { port, ...action } };
  return runHook(deps, pod({}), container('a'), 'id', '127.0.0.1', handler, AbortSignal.timeout(20_000));
}

test('an HTTP hook is run where the answer sends it', async () => {
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
  await hook(server.port, { path: '/away', httpHeaders });
  assert.deepEqual(asked.splice(0), ['/away secret 1, 2', '/there - 1, 2']);
  await assert.rejects(hook(server.port, { path: '/loop' }), { code: 'HookFailed', message: /stopped after 10 redirects/ });
});

test('an HTTP hook ends with its answer, whatever that looks like', async () => {
  for (const [name, text] of [
    ['lines that end in LF alone', 'HTTP/1.1 200 OK\n\nhello'],
    ['an upgrade', 'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'],
    ['a body that does not end', 'HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello'],
  ] as const) {
    await using server = await listening(
      createTcpServer((socket) => void socket.on('error', () => undefined).once('data', () => socket.write(text))),
    );
    await assert.doesNotReject(hook(server.port, { path: '/' }), name);
  }
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
});

test('a sleep that is called off is told, one that ends is not', async () => {
  let cut = 0;
  const deps = { clock: systemClock, execSync: () => Promise.reject(new Error('no exec')), sleepCut: () => void cut++ };
  const sleep = (seconds: number, signal: AbortSignal) =>
    runHook(deps, pod({}), container('a'), 'id', undefined, { sleep: { seconds } }, signal);
  await sleep(0, new AbortController().signal);
  assert.equal(cut, 0);
  await assert.rejects(sleep(60, AbortSignal.abort(new Error('the pod has to end sooner'))));
  assert.equal(cut, 1);
});
