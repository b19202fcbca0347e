import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Clock, systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { createKubeClient, type KubeClient } from '../../../agent/drivers/kube/client.ts';
import { readClusterInfo } from '../../../agent/drivers/kube/join.ts';
import type { KubeAuth } from '../../../agent/drivers/kube/kubeconfig.ts';
import { chooseProxy } from '../../../agent/drivers/kube/proxy.ts';
import { makeCa } from '../../fakes/certs.ts';
import { type ConnectProxy, startConnectProxy } from '../../fakes/connect-proxy.ts';
import { type FakeKubeApi, startFakeKubeApi } from '../../fakes/kube-api.ts';
import { pods, signal, until } from './fixtures.ts';

type Env = Record<string, string>;
const both: Env = { HTTPS_PROXY: 'http://secure:3128', HTTP_PROXY: 'http://plain:3128' };
const choices: [name: string, target: string, env: Env, expected: string | undefined][] = [
  ['none is set', 'https://api:6443', {}, undefined],
  ['https', 'https://api:6443', both, 'http://secure:3128'],
  ['http', 'http://api:8080', both, 'http://plain:3128'],
  ['https with only HTTP_PROXY', 'https://api', { HTTP_PROXY: 'http://plain:3128' }, undefined],
  ['lower case', 'https://api', { https_proxy: 'http://low:1' }, 'http://low:1'],
  ['upper case comes first', 'https://api', { https_proxy: 'http://low:1', HTTPS_PROXY: 'http://up:1' }, 'http://up:1'],
  ['upper case that is empty', 'https://api', { https_proxy: 'http://low:1', HTTPS_PROXY: '' }, 'http://low:1'],
  ['without a scheme', 'https://api', { HTTPS_PROXY: 'proxy:3128' }, 'http://proxy:3128'],
  ['an https proxy', 'https://api', { HTTPS_PROXY: 'https://proxy' }, 'https://proxy'],
  ['localhost is never far', 'https://localhost:6443', both, undefined],
  ['nor is 127.0.0.0/8', 'https://127.8.8.8:6443', both, undefined],
  ['nor is ::1', 'https://[::1]:6443', both, undefined],
];
for (const [name, target, env, expected] of choices)
  test(`the proxy by the environment: ${name}`, () => assert.equal(chooseProxy(target, undefined, env)?.url.origin, expected));

const exempt: [noProxy: string, target: string, direct: boolean][] = [
  ['*', 'https://api.example', true],
  ['other, * ', 'https://api.example', true],
  ['example', 'https://api.example', true],
  ['api.example', 'https://api.example', true],
  ['pi.example', 'https://api.example', false],
  ['API.Example', 'https://api.example', true],
  ['.example', 'https://api.example', true],
  ['.example', 'https://example', false],
  ['*.example', 'https://api.example', true],
  ['*.example', 'https://example', false],
  ['api.example:6443', 'https://api.example:6443', true],
  ['api.example:6443', 'https://api.example', false],
  ['api.example:443', 'https://api.example', true],
  ['api.example:80', 'http://api.example', true],
  ['bücher.example', 'https://xn--bcher-kva.example', true],
  [':6443', 'https://api.example:6443', false],
  ['10.0.0.1', 'https://10.0.0.1:6443', true],
  ['10.0.0.1:6443', 'https://10.0.0.1:6443', true],
  ['10.0.0.1:443', 'https://10.0.0.1:6443', false],
  ['10.0.0.0/8', 'https://10.9.9.9', true],
  ['10.0.0.0/8', 'https://11.0.0.1', false],
  ['10.0.0.0/40', 'https://10.0.0.1', false],
  ['10', 'https://10.0.0.1', false],
  ['fd00::/8', 'https://[fd12::1]:6443', true],
  ['fd00::/8', 'https://[fe80::1]', false],
  ['fd00::1', 'https://[fd00:0:0::1]', true],
  ['[fd00::1]:6443', 'https://[fd00::1]:6443', true],
  ['[fd00::1]:443', 'https://[fd00::1]:6443', false],
  ['[fd00::1]', 'https://[fd00::1]:6443', true],
  ['', 'https://api.example', false],
  [' , ,', 'https://api.example', false],
];
for (const [noProxy, target, direct] of exempt)
  test(`NO_PROXY=${noProxy} and ${target}: ${direct ? 'direct' : 'through the proxy'}`, () => {
    for (const name of ['NO_PROXY', 'no_proxy'])
      assert.equal(chooseProxy(target, undefined, { ...both, [name]: noProxy }) === undefined, direct);
  });

test("the kubeconfig's proxy goes before the environment's, and holds for any server", () => {
  const env = { ...both, NO_PROXY: '*' };
  assert.equal(chooseProxy('https://127.0.0.1:6443', 'http://own:8888/', env)?.url.origin, 'http://own:8888');
  assert.equal(chooseProxy('https://api', '', env), undefined);
});

test('credentials become a header and are nowhere else', () => {
  const proxy = chooseProxy('https://api', undefined, { HTTPS_PROXY: 'http://us%40er:p%3Aw@proxy:1' });
  assert.equal(proxy?.authorization, `Basic ${Buffer.from('us@er:p:w').toString('base64')}`);
  assert.equal(String(proxy?.url), 'http://proxy:1/');
  assert.equal(chooseProxy('https://api', 'http://u@proxy', {})?.authorization, `Basic ${Buffer.from('u:').toString('base64')}`);
  assert.equal(chooseProxy('https://api', 'http://100%:x@proxy', {})?.authorization, `Basic ${Buffer.from('100%:x').toString('base64')}`);
});

const refused: [string, configured: string | undefined, Env, RegExp][] = [
  [
    'socks5',
    undefined,
    { HTTPS_PROXY: 'socks5://u:SECRET@p:1080' },
    /^environment variable HTTPS_PROXY: proxies of scheme socks5 are not supported; use one of/,
  ],
  ['no URL', undefined, { https_proxy: 'http://u:SECRET@[' }, /^environment variable https_proxy: is not a URL$/],
  ['socks5 of a kubeconfig', 'socks5://p:1080', {}, /^the proxy of https:\/\/api: proxies of scheme socks5/],
];
for (const [name, configured, env, message] of refused)
  test(`a proxy refused: ${name}`, () =>
    assert.throws(
      () => chooseProxy('https://api', configured, env),
      (error: Error & { code?: string }) =>
        error.code === 'InvalidConfig' && message.test(error.message) && !error.message.includes('SECRET'),
    ));

const portOf = (api: FakeKubeApi): number => Number(new URL(api.url).port);

/** A client that knows the API server by a name which only the proxy can resolve. */
function clientThrough(api: FakeKubeApi, auth: Partial<KubeAuth>, env: Env, clock: Clock = systemClock): KubeClient {
  const server = `${new URL(api.url).protocol}//api.example:6443`;
  return createKubeClient({ auth: { ...api.auth, server, ...auth }, env, clock, log: silentLog, userAgent: 'test/1' });
}

/** What each way to a proxy has to be able to do. */
async function useIt(api: FakeKubeApi, client: KubeClient): Promise<void> {
  const created = await client.create(pods, { metadata: { name: 'a' } }, signal);
  assert.equal((created as { metadata: { name: string } }).metadata.name, 'a');
  const lines: string[] = [];
  const stop = new AbortController();
  const watching = client.watch(pods, stop.signal, { query: {}, onLine: (line) => lines.push(line.toString()) });
  await until('the watch stands', () => api.watches.length === 1);
  api.put(pods, { metadata: { name: 'b' } });
  await until('the watch tells', () => lines.some((line) => line.includes('"b"')));
  stop.abort(new Error('enough'));
  await assert.rejects(watching, /enough/);
  assert.equal((await client.list(pods, signal)).items.length, 2);
}

test('requests and watches go through the proxy by CONNECT, in HTTP/2, each kind over one connection', async () => {
  await using api = await startFakeKubeApi();
  await using proxy = await startConnectProxy(portOf(api));
  await using client = clientThrough(api, {}, { HTTPS_PROXY: proxy.url.replace('//', '//me:secret@') });
  await useIt(api, client);
  assert.deepEqual(proxy.asked, ['CONNECT api.example:6443', 'CONNECT api.example:6443']);
  assert.deepEqual(new Set(proxy.authorizations), new Set([`Basic ${Buffer.from('me:secret').toString('base64')}`]));
  assert.deepEqual(new Set(api.seen.map((request) => request.httpVersion)), new Set(['2.0']));
  assert.ok(api.seen.every((request) => request.headers['proxy-authorization'] === undefined));
});

test("the kubeconfig's proxy-url holds for a server of this machine too, and the client's certificate goes to the server", async () => {
  await using api = await startFakeKubeApi();
  await using proxy = await startConnectProxy(portOf(api));
  const { cert, key } = api.issue('system:node:n1');
  const auth = {
    server: api.url,
    proxyUrl: proxy.url,
    clientCert: { kind: 'data', pem: cert },
    clientKey: { kind: 'data', pem: key },
  } as const;
  await using client = clientThrough(api, auth, { HTTPS_PROXY: 'http://127.0.0.1:1' });
  await useIt(api, client);
  assert.deepEqual(new Set(proxy.asked), new Set([`CONNECT ${new URL(api.url).host}`]));
  assert.equal(api.seen[0]?.clientName, 'system:node:n1');
});

test('the port that https has by itself is named to the proxy', async () => {
  await using api = await startFakeKubeApi();
  await using proxy = await startConnectProxy(portOf(api));
  await using client = clientThrough(api, { server: 'https://api.example' }, { https_proxy: proxy.url });
  await client.list(pods, signal);
  assert.deepEqual(proxy.asked, ['CONNECT api.example:443']);
});

test('an https proxy is believed when the cluster authority has signed it, and told by its own name', async () => {
  await using api = await startFakeKubeApi();
  using ca = makeCa('proxy-ca');
  await using proxy = await startConnectProxy(portOf(api), ca.issue({ commonName: 'proxy', sans: ['IP:127.0.0.1'] }));
  await using stranger = clientThrough(api, {}, { HTTPS_PROXY: proxy.url });
  await assert.rejects(stranger.list(pods, signal), {
    code: 'Unavailable',
    message: /cannot reach proxy https:\/\/127\.0\.0\.1:\d+: .*certificate/,
  });
  await using client = clientThrough(api, { ca: { kind: 'data', pem: `${api.caPem}\n${ca.cert}` } }, { HTTPS_PROXY: proxy.url });
  await useIt(api, client);
});

test('a server without TLS is asked for through the proxy, whose password it does not see', async () => {
  await using api = await startFakeKubeApi({ plainHttp1: true });
  await using proxy = await startConnectProxy(portOf(api));
  await using client = clientThrough(api, {}, { HTTP_PROXY: proxy.url.replace('//', '//me:secret@') });
  await useIt(api, client);
  assert.equal(proxy.asked[0], `POST http://api.example:6443${pods}`);
  assert.equal(proxy.authorizations[0], `Basic ${Buffer.from('me:secret').toString('base64')}`);
  assert.ok(api.seen.every((request) => request.headers['proxy-authorization'] === undefined));
});

test('a broken proxy is told, and used again when it is whole', async () => {
  await using api = await startFakeKubeApi();
  await using proxy = await startConnectProxy(portOf(api));
  await using client = clientThrough(api, {}, { HTTPS_PROXY: proxy.url });
  proxy.refuse = 407;
  await assert.rejects(client.create(pods, { metadata: { name: 'x' } }, signal), {
    code: 'Unavailable',
    message: /api\.example:6443 does not answer: proxy http:\/\/127\.0\.0\.1:\d+ refuses to connect to api\.example:6443: 407 Not So$/,
  });
  assert.equal(client.reachable, false);
  await assert.rejects(client.watch(pods, signal, { query: {}, onLine: () => undefined }), { code: 'Unavailable', message: /407/ });
  proxy.refuse = undefined;
  await useIt(api, client);
  await using away = clientThrough(api, {}, { HTTPS_PROXY: 'http://127.0.0.1:1' });
  await assert.rejects(away.list(pods, signal), {
    code: 'Unavailable',
    message: /cannot reach proxy http:\/\/127\.0\.0\.1:1: .*ECONNREFUSED/,
  });
});

test('a proxy that does not answer is waited for no longer than a connection; the end of the client ends the waiting', async () => {
  await using api = await startFakeKubeApi();
  await using proxy = await startConnectProxy(portOf(api));
  proxy.silent = true;
  const waiting: (() => void)[] = [];
  const clock: Clock = {
    ...systemClock,
    deadline(parent, ms) {
      const deadline = systemClock.deadline(parent, ms === 10_000 ? 50 : ms);
      if (ms === 10_000) waiting.push(() => undefined);
      return deadline;
    },
  };
  await using client = clientThrough(api, {}, { HTTPS_PROXY: proxy.url }, clock);
  await assert.rejects(client.create(pods, {}, signal), { code: 'Unavailable', message: /has given no connection within 10 s/ });
  const closing = clientThrough(api, {}, { HTTPS_PROXY: proxy.url });
  const call = closing.create(pods, {}, signal);
  const before = proxy.asked.length;
  await until('the proxy is asked', () => proxy.asked.length > before);
  await closing[Symbol.asyncDispose]();
  await assert.rejects(call, { code: 'Unavailable' });
});

test('cluster-info is read through the proxy, with and without trust', async () => {
  await using api = await startFakeKubeApi();
  api.put('/api/v1/namespaces/kube-public/configmaps', { kind: 'ConfigMap', metadata: { name: 'cluster-info' }, data: { a: 'b' } });
  await using proxy = await startConnectProxy(portOf(api));
  const read = (options: { caPem?: string; proxyUrl?: string; env?: Env; server?: string }, through: ConnectProxy = proxy) =>
    readClusterInfo(
      {
        server: 'https://api.example:6443',
        caPem: undefined,
        env: { HTTPS_PROXY: through.url },
        clock: systemClock,
        timeoutMs: 2000,
        ...options,
      },
      signal,
    );
  assert.deepEqual((await read({})).data, { a: 'b' });
  assert.deepEqual((await read({ caPem: api.caPem })).data, { a: 'b' });
  assert.deepEqual((await read({ server: api.url, caPem: api.caPem, proxyUrl: proxy.url, env: {} })).data, { a: 'b' });
  assert.deepEqual(proxy.asked, ['CONNECT api.example:6443', 'CONNECT api.example:6443', `CONNECT ${new URL(api.url).host}`]);
  // The proxy cannot pretend to be the server.
  await assert.rejects(read({ server: 'https://other.example:6443', caPem: api.caPem }), { code: 'Untrusted' });
  proxy.refuse = 503;
  await assert.rejects(read({}), {
    code: 'Unreachable',
    message: /cannot reach https:\/\/api\.example:6443: proxy .* refuses to connect .*: 503/,
  });
  await assert.rejects(read({ env: { HTTPS_PROXY: 'socks5://p' } }), { code: 'InvalidConfig' });
});
