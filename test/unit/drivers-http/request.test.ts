import assert from 'node:assert/strict';
import { test } from 'node:test';
import { httpGetRequest } from '../../../agent/drivers/http/request.ts';
import { resolveContainerPort } from '../../../agent/model/container-port.ts';
import type { Container } from '../../../agent/model/generated/api.ts';
import { kubeUserAgent } from '../../../agent/model/kubernetes-version.ts';

const container: Container = { name: 'c', ports: [{ name: 'web', containerPort: 8080 }] };

test('ports by number, name, or number in a string', () => {
  assert.deepEqual(resolveContainerPort(80, container), { port: 80 });
  assert.deepEqual(resolveContainerPort('web', container), { port: 8080 });
  assert.deepEqual(resolveContainerPort('90', container), { port: 90 });
  assert.deepEqual(resolveContainerPort(0, container), { problem: 'invalid port number: 0' });
  assert.deepEqual(resolveContainerPort('nope', container), { problem: 'strconv.Atoi: parsing "nope": invalid syntax' });
});

test('what an httpGet asks for', () => {
  const ask = (action: object) => httpGetRequest({ port: 80, ...action }, container, '10.0.0.1', kubeUserAgent('probe'));
  const agent = ['User-Agent', 'kube-probe/1.36'];
  const accept = ['Accept', '*/*'];
  const close = ['Connection', 'close'];
  const table: [string, object, object][] = [
    [
      'defaults',
      {},
      {
        secure: false,
        host: '10.0.0.1',
        port: 80,
        path: '/',
        url: 'http://10.0.0.1:80',
        headers: ['Host', '10.0.0.1:80', ...agent, ...accept, ...close],
      },
    ],
    ['path with query', { path: '/a?b=c#d' }, { path: '/a?b=c', url: 'http://10.0.0.1:80/a?b=c' }],
    ['path without slash', { path: 'ready' }, { path: '/ready' }],
    ['path that needs escapes', { path: '/ä b' }, { path: '/%C3%A4%20b' }],
    [
      'https, IPv6 host, named port',
      { scheme: 'HTTPS', host: 'fd00::1', port: 'web' },
      { secure: true, host: 'fd00::1', url: 'https://[fd00::1]:8080' },
    ],
    [
      'own headers, twice, and none of ours in their place',
      {
        httpHeaders: [
          { name: 'X-A', value: '1' },
          { name: 'X-A', value: '2' },
          { name: 'user-agent', value: 'me' },
          { name: 'Accept', value: '' },
          { name: 'Host', value: 'example.com' },
        ],
      },
      { headers: ['X-A', '1', 'X-A', '2', 'User-Agent', 'me', 'Host', 'example.com', ...close] },
    ],
    [
      "names as Go's client spells them, values without blanks around, and of what counts once the first",
      {
        httpHeaders: [
          { name: 'x-request-ID', value: ' 1\t' },
          { name: 'ÄX', value: 'no token' },
          { name: 'host', value: 'first.example' },
          { name: 'Host', value: 'second.example' },
          { name: 'connection', value: 'keep-alive' },
        ],
      },
      { headers: ['X-Request-Id', '1', 'ÄX', 'no token', 'Host', 'first.example', 'Connection', 'keep-alive', ...agent, ...accept] },
    ],
    [
      "headers that are empty, not ASCII, or not the caller's to say",
      {
        httpHeaders: [
          { name: 'Host', value: '' },
          { name: 'User-Agent', value: '' },
          { name: 'Content-Length', value: '5' },
          { name: 'X-Price', value: '5 €' },
        ],
      },
      { headers: ['X-Price', '5 \xe2\x82\xac', 'Host', '10.0.0.1:80', ...accept, ...close] },
    ],
  ];
  for (const [name, action, expected] of table) {
    const found = ask(action) as unknown as Record<string, unknown>;
    for (const [key, value] of Object.entries(expected)) assert.deepEqual(found[key], value, `${name}: ${key}`);
  }
  assert.throws(() => ask({ port: 'x' }), { code: 'InvalidRequest', message: 'strconv.Atoi: parsing "x": invalid syntax' });
  assert.throws(() => ask({ scheme: 'gopher' }), { code: 'InvalidRequest', message: /unsupported protocol scheme "gopher"/ });
});
