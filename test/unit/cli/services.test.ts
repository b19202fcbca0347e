import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import { agent } from '../../../agent/cli/local/client.ts';
import { describeWhy } from '../../../agent/cli/local/describe.ts';
import { describeServices } from '../../../agent/cli/local/describe-services.ts';
import { createProxyView } from '../../../agent/cli/wiring/proxy-view.ts';
import { watchReadyTimes } from '../../../agent/cli/wiring/ready-times.ts';
import { answerServices, type InRules, type LocalProxy } from '../../../agent/server/local-services.ts';
import { pathParts, serveLocalSocket } from '../../../agent/server/local-socket.ts';
import { house, wall } from '../../fakes/running-proxy.ts';
import { anEndpoint, aService, aSlice } from '../../fakes/services.ts';

const podOf = (uid: string, ...ips: string[]) => ({ metadata: { uid }, status: { podIPs: ips.map((ip) => ({ ip })) } });
const signal = new AbortController().signal;

function view(h: ReturnType<typeof house>, readyMs?: number) {
  return createProxyView({ proxy: h.proxy, services: h.services, readyMs: () => readyMs });
}

test('why: since when the rules of which Services send to a pod', async () => {
  const h = house();
  h.service(aService());
  h.service(aService({ name: 'other', spec: { clusterIP: '10.96.0.2' } }));
  await h.synced();
  await h.clock.advance(1012);
  h.slice(aSlice([anEndpoint('10.1.0.7'), anEndpoint('10.1.0.9', { uid: 'someone' })]));
  await h.clock.advance(0);
  const inRules = view(h, wall + 1000).inRulesOf(podOf('uid-10.1.0.7', '10.1.0.7', 'fd00::7'));
  assert.deepEqual(inRules, [{ service: 'default/web', sinceMs: wall + 1012, readyMs: wall + 1000 }]);
  // Another pod of the host network, or one that had the address before.
  assert.deepEqual(view(h).inRulesOf(podOf('me', '10.1.0.9')), []);
  const told = (given: readonly InRules[] | undefined, ready = true): string =>
    describeWhy({
      pod: {
        metadata: { name: 'web-1', namespace: 'default', uid: 'u' },
        status: { conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }] },
      },
      ...{ activity: undefined, events: [], pressure: [], now: wall + 61_012 },
      inRules: given,
    });
  assert.match(told(inRules), /\nServices:\n {2}in the rules of web since 12 ms after Ready\n/);
  assert.match(told([{ service: 'a/b', sinceMs: wall, readyMs: undefined }]), /in the rules of a\/b for 1m1s at least/);
  assert.match(told([{ service: 'a/b', sinceMs: wall, readyMs: wall + 1 }]), /in the rules of a\/b since before it was Ready/);
  assert.match(told([]), /Services:\n {2}in the rules of none/);
  // One that is not Ready is in none, as it should be; and with no proxy here nothing is said.
  assert.doesNotMatch(told([], false), /Services/);
  assert.doesNotMatch(told(undefined), /Services/);
});

test('when a pod became Ready is known of those that were seen before', () => {
  const row = (status: 'True' | 'False') => ({ status: { conditions: [{ type: 'Ready', status }] } });
  const statuses = new Table<ReturnType<typeof row>>('statuses');
  statuses.set('ready before', row('True'));
  let now = 5;
  using times = watchReadyTimes(statuses, () => now);
  statuses.set('new', row('False'));
  statuses.set('ready at once', row('True'));
  now = 6;
  statuses.set('new', row('True'));
  now = 7;
  statuses.set('new', row('True'));
  assert.deepEqual([times.of('ready before'), times.of('ready at once'), times.of('new')], [undefined, undefined, 6]);
  statuses.set('new', row('False'));
  assert.equal(times.of('new'), undefined);
  statuses.set('new', row('True'));
  assert.equal(times.of('new'), 7);
  statuses.delete('new');
  assert.equal(times.of('new'), undefined);
});

/** Asks as the command does, over a socket of its own. */
async function asked(proxy: LocalProxy, service: string | undefined, verify = false) {
  const folder = mkdtempSync(join(tmpdir(), 'services-'));
  process.env.KEELSON_SOCKET = join(folder, 'agent.sock');
  process.env.KEELSON_PROXY_SOCKET = join(folder, 'proxy.sock');
  try {
    await using _server = await serveLocalSocket({
      socket: process.env.KEELSON_PROXY_SOCKET,
      clock: systemClock,
      log: silentLog,
      answer: async (request, response, gone) => await answerServices(proxy, pathParts(request).parts.slice(1), verify, response, gone),
    });
    const [namespace = '', name = ''] = service?.split('/') ?? [];
    return await agent.services(service === undefined ? undefined : { namespace, name }, verify, signal);
  } finally {
    delete process.env.KEELSON_SOCKET;
    delete process.env.KEELSON_PROXY_SOCKET;
    rmSync(folder, { recursive: true });
  }
}

test('services: what is programmed, for whom, why an endpoint is out, and what is skipped', async () => {
  const h = house();
  const spec = { type: 'NodePort', internalTrafficPolicy: 'Local', externalIPs: ['192.0.2.1', 'nonsense'], sessionAffinity: 'ClientIP' };
  h.service(aService({ spec, ports: [{ name: 'http', port: 80, nodePort: 30080 }] }));
  h.service(aService({ name: 'young', created: '2026-01-01T12:00:00Z', spec: { clusterIP: '10.96.0.1' } }));
  h.slice(
    aSlice([
      anEndpoint('10.1.0.7', { node: 'node' }),
      anEndpoint('10.1.0.8'),
      anEndpoint('10.1.0.9', { state: 'notReady' }),
      anEndpoint('10.1.0.10', { state: 'terminating' }),
    ]),
  );
  await h.synced();
  const proxy = { view: () => view(h), whyOff: () => '' };
  const text = describeServices(await asked(proxy, 'default/web'), true);
  for (const line of [
    /^Service default\/web\n/,
    /\n10\.96\.0\.1:80 +tcp +http +cluster IP, Local, ClientIP 10800 s +1 +programmed\n/i,
    /\nnode port 30080 \(IPv4\) +tcp +http +node port, Cluster, ClientIP 10800 s +2 +programmed\n/i,
    /\n192\.0\.2\.1:80 +tcp +http +external IP, Cluster/i,
    /\n10\.1\.0\.7:8080 +http +default\/pod-uid-10\.1\.0\.7 +node +yes\n/,
    /\n10\.1\.0\.8:8080 .* far +no: it is on another node/,
    /\n10\.1\.0\.9:8080 .* no: it is not ready\n/,
    /\n10\.1\.0\.10:8080 .* no: it terminates\n/,
    /\nCannot be served:\n {2}InvalidAddress \(1\), such as nonsense\n$/,
  ])
    assert.match(text, line);
  const list = describeServices(await asked(proxy, undefined), false);
  assert.match(list, /^SERVICE +PROGRAMMED +ENDPOINTS +CLUSTER IP\n/);
  assert.match(list, /\ndefault\/web +3\/3 +1\/4 +10\.96\.0\.1:80 +parts cannot be served\n/);
  assert.match(list, /\ndefault\/young +0\/1 +0\/0 +10\.96\.0\.1:80 +conflict\n$/);
  assert.match(describeServices(await asked(proxy, 'default/young'), true), /none: refused +taken by default\/web\n/);
  await assert.rejects(asked(proxy, 'shop/web'), {
    code: 'NotFound',
    message: /no Service shop\/web is programmed on this node .*; there is default\/web$/,
  });
  await assert.rejects(asked(proxy, 'a/b'), { code: 'NotFound', message: /2 are: "keelson services" lists them$/ });
  await assert.rejects(asked({ view: () => undefined, whyOff: () => 'it was started with --no-proxy' }, undefined), {
    code: 'Refused',
    message: 'this daemon programs no Services: it was started with --no-proxy',
  });
});

test('services --verify says whether the kernel has the rules', async () => {
  const h = house();
  h.service(aService());
  await h.synced();
  const told = async (): Promise<string> => {
    const verifying = asked({ view: () => view(h), whyOff: () => '' }, undefined, true);
    return describeServices(await verifying, false);
  };
  assert.match(await told(), /\n\nIPv4: the kernel has all rules as they were programmed\n$/);
  h.backend.intact = false;
  assert.match(await told(), /\n\nIPv4: the kernel lacked rules, or had others: they are made anew\n$/);
  await h.clock.advance(0);
  h.backend.audit = async () => {
    throw new Error('nft is gone');
  };
  await assert.rejects(told(), { message: 'nft is gone' });
});
