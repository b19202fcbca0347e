import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import type { Endpoint } from '../../../agent/model/generated/api.ts';
import { mergeEndpoints } from '../../../proxy/model/endpoints.ts';
import { planService } from '../../../proxy/model/plan.ts';
import { fakeBackend } from '../../fakes/proxy-backend.ts';
import { house, node, wall } from '../../fakes/running-proxy.ts';
import { anEndpoint, aService, aSlice } from '../../fakes/services.ts';

const webKey = 'ip|10.96.0.1|tcp|80';
const named = (name: string, ip: string) => aService({ name, spec: { clusterIP: ip } });
const sliceOf = (service: string, endpoints: Endpoint[], facts: object = {}) => aSlice(endpoints, { service, ...facts });

describe('the proxy', () => {
  test('does nothing before both tables are synced', async () => {
    const h = house();
    h.service(aService());
    h.services.markSynced();
    await h.clock.advance(1000);
    assert.deepEqual(h.backend.calls, []);
    h.slice(aSlice([anEndpoint('10.1.0.7')]));
    await h.synced();
    assert.deepEqual(h.backend.calls, ['open', 'apply 10.96.0.1', 'complete']);
    assert.equal(h.endpoints(webKey), '7');
    assert.equal(h.proxy.health('ip')?.synced, true);
    await h.proxy[Symbol.asyncDispose]();
    assert.equal(h.backend.calls.at(-1), 'closed');
  });

  test('what the API and names need is programmed first', async () => {
    const h = house();
    h.service(named('a', '10.96.0.9'));
    h.service(aService({ name: 'kube-dns', metadata: { namespace: 'kube-system' }, spec: { clusterIP: '10.96.0.10' } }));
    h.service(named('kubernetes', '10.96.0.1'));
    await h.synced();
    assert.deepEqual(h.backend.calls.slice(0, 2), ['open', 'apply 10.96.0.10,10.96.0.1,10.96.0.9']);
  });

  test('what an earlier run left is adopted; what nobody wants goes after everything else is in', async () => {
    const h = house();
    h.backend.kernel.set('ip|10.96.9.9|tcp|80', undefined);
    h.backend.kernel.set(webKey, undefined);
    h.service(aService());
    await h.synced();
    assert.deepEqual(h.backend.calls, ['open', 'apply 10.96.0.1', 'apply -10.96.9.9', 'complete']);
  });

  test('a change at rest is one transaction at once; what arrives while it runs is the next', async () => {
    const h = house();
    await h.synced();
    h.service(aService());
    const gate = Promise.withResolvers<void>();
    h.backend.gate = gate.promise;
    await h.clock.advance(0);
    h.slice(aSlice([anEndpoint('10.1.0.7')]));
    h.slice(aSlice([anEndpoint('10.1.0.8')], { name: 'web-2' }));
    h.service(named('other', '10.96.0.2'));
    await h.clock.advance(0);
    assert.deepEqual(h.backend.calls, ['open', 'complete']);
    assert.equal(h.proxy.describe('default/web').families[0]?.frontends[0]?.state, 'waiting');
    gate.resolve();
    await h.clock.advance(0);
    assert.deepEqual(h.backend.calls.slice(2), ['apply 10.96.0.1', 'apply 10.96.0.1,10.96.0.2']);
    assert.equal(h.endpoints(webKey), '7,8');
    assert.equal(h.proxy.describe('default/web').families[0]?.frontends[0]?.state, 'programmed');
    assert.equal(h.proxy.health('ip')?.waitingSince, undefined);
  });

  test('a backend that asks for time between transactions gets it', async () => {
    const h = house(fakeBackend('ip', 1000));
    await h.synced();
    h.service(aService());
    await h.clock.advance(0);
    h.slice(aSlice([anEndpoint('10.1.0.7')]));
    await h.clock.advance(900);
    assert.equal(h.endpoints(webKey), '');
    await h.clock.advance(200);
    assert.equal(h.endpoints(webKey), '7');
  });

  test('a Service that the kernel refuses delays nobody, has an Event, and is tried again when it changes', async () => {
    const h = house();
    h.backend.refuses.add('default/bad');
    for (const [index, name] of ['a', 'b', 'bad', 'c', 'd'].entries()) h.service(named(name, `10.96.1.${index}`));
    await h.synced();
    assert.deepEqual(
      [...h.backend.kernel.keys()].map((key) => key.split('|')[1]),
      ['10.96.1.0', '10.96.1.1', '10.96.1.3', '10.96.1.4'],
    );
    assert.deepEqual(
      h.events.map(({ reason, service }) => `${reason} ${service?.name}`),
      ['FailedToProgramService bad'],
    );
    assert.deepEqual(h.outcomes, ['partlyRefused 5']);
    assert.equal(h.proxy.health('ip')?.synced, true);
    assert.equal(h.proxy.health('ip')?.waitingSince, undefined);
    assert.deepEqual(
      h.proxy.describe('default/bad').families[0]?.frontends.map(({ state, detail }) => `${state} ${detail}`),
      ['refused no such chain'],
    );
    await h.clock.advance(10_000);
    assert.equal(h.events.length, 1);
    h.backend.refuses.clear();
    h.service(named('bad', '10.96.1.9'));
    await h.clock.advance(0);
    assert.ok(h.backend.kernel.has('ip|10.96.1.9|tcp|80'));
  });

  test('when everything is refused nobody is to blame', async () => {
    const h = house();
    for (let index = 0; index < 40; index++) {
      h.backend.refuses.add(`default/s${index}`);
      h.service(named(`s${index}`, `10.96.1.${index}`));
    }
    await h.synced();
    assert.deepEqual(
      h.events.map(({ reason }) => reason),
      ['ProxyBackendFailed'],
    );
    assert.ok(h.backend.calls.length < 30, `${h.backend.calls.length} calls`);
    h.backend.refuses.clear();
    await h.clock.advance(1000);
    assert.equal(h.backend.kernel.size, 40);
  });

  for (const failure of ['crash', 'lost'] as const)
    test(`after a failure that blames nobody (${failure}) the kernel is read back, and everything comes in`, async () => {
      const h = house();
      await h.synced();
      h.backend.failures.push(failure, failure);
      h.service(aService());
      h.slice(aSlice([anEndpoint('10.1.0.7')]));
      await h.clock.advance(0);
      assert.equal(typeof h.proxy.health('ip')?.waitingSince, 'number');
      await h.clock.advance(5000);
      assert.equal(h.endpoints(webKey), '7');
      assert.equal(h.backend.calls.filter((call) => call === 'open').length, 3);
      assert.equal(h.backend.calls.at(-1), 'complete');
      assert.deepEqual(
        h.events.map(({ reason }) => reason),
        ['ProxyBackendFailed'],
      );
      assert.equal(h.proxy.health('ip')?.waitingSince, undefined);
    });

  test('a clash has an Event that names the owner, once; the younger takes over when the older goes', async () => {
    const h = house();
    const balancer = (name: string, clusterIP: string, created: string) =>
      aService({ name, created, ingress: ['192.0.2.80'], spec: { clusterIP } });
    h.service(balancer('young', '10.96.0.2', '2026-01-01T00:00:02Z'));
    await h.synced();
    h.service(balancer('old', '10.96.0.1', '2026-01-01T00:00:01Z'));
    await h.clock.advance(0);
    for (let turn = 0; turn < 3; turn++) {
      h.slice(sliceOf('young', [anEndpoint(`10.1.0.${turn}`)]));
      await h.clock.advance(0);
    }
    assert.equal(h.backend.kernel.get('ip|192.0.2.80|tcp|80')?.service, 'default/old');
    assert.equal(h.backend.kernel.get('ip|10.96.0.2|tcp|80')?.service, 'default/young');
    assert.deepEqual(
      h.events.map(({ service, message }) => `${service?.name}: ${message}`),
      ['young: 192.0.2.80 port 80 (TCP) belongs to Service default/old, and is served for it until it lets go'],
    );
    assert.deepEqual(
      h.proxy.describe('default/young').families[0]?.frontends.map(({ state, detail }) => `${state} ${detail ?? ''}`),
      ['programmed ', 'conflict default/old'],
    );
    h.services.delete('default/old');
    await h.clock.advance(0);
    assert.equal(h.backend.kernel.get('ip|192.0.2.80|tcp|80')?.service, 'default/young');
    assert.equal(h.backend.kernel.size, 2);
  });

  test('which pods are in the rules of which Services, since when', async () => {
    const h = house();
    h.service(aService());
    h.service(named('other', '10.96.0.2'));
    await h.synced();
    h.slice(aSlice([anEndpoint('10.1.0.7')], { triggered: new Date(wall + 100).toISOString() }));
    await h.clock.advance(250);
    h.slice(sliceOf('other', [anEndpoint('10.1.0.7')]));
    h.slice(aSlice([anEndpoint('10.1.0.7'), anEndpoint('10.1.0.8')]));
    await h.clock.advance(0);
    assert.deepEqual(h.proxy.programmed.get('10.1.0.7')?.services, [
      { service: 'default/other', sinceMs: wall + 250, frontends: 1 },
      { service: 'default/web', sinceMs: wall, frontends: 1 },
    ]);
    h.services.delete('default/web');
    h.slices.delete('default/other-1');
    await h.clock.advance(0);
    assert.deepEqual([...h.proxy.programmed.keys()], []);
  });

  test('how long it took from the change of endpoints to the rules', async () => {
    const h = house();
    h.service(aService());
    h.slice(aSlice([anEndpoint('10.1.0.7')], { triggered: new Date(wall - 60_000).toISOString() }));
    await h.synced();
    assert.deepEqual(h.latencies, []);
    await h.clock.advance(1000);
    h.slice(aSlice([anEndpoint('10.1.0.8')], { triggered: new Date(wall + 900).toISOString() }));
    await h.clock.advance(0);
    assert.deepEqual(h.latencies, [100]);
  });

  test('health checks follow what is programmed', async () => {
    const h = house();
    const spec = { externalTrafficPolicy: 'Local', healthCheckNodePort: 31555 };
    h.service(aService({ spec, ingress: ['192.0.2.1'] }));
    h.slice(aSlice([anEndpoint('10.1.0.7', { node: 'node' })]));
    await h.synced();
    assert.deepEqual(h.proxy.healthChecks.get('ip|default/web'), { service: 'default/web', port: 31555, localEndpoints: 1, family: 'ip' });
    h.slice(aSlice([]));
    await h.clock.advance(0);
    assert.equal(h.proxy.healthChecks.get('ip|default/web')?.localEndpoints, 0);
    h.services.delete('default/web');
    await h.clock.advance(0);
    assert.equal(h.proxy.healthChecks.size, 0);
  });

  test('what is asked for and cannot be reached from here is counted by port', async () => {
    const h = house();
    h.service(
      aService({ spec: { internalTrafficPolicy: 'Local', externalTrafficPolicy: 'Local', externalIPs: ['192.0.2.1', '192.0.2.2'] } }),
    );
    h.slice(aSlice([anEndpoint('10.1.0.7')]));
    await h.synced();
    assert.deepEqual(h.proxy.health('ip')?.counts, { frontends: 3, noLocalEndpointsInternal: 1, noLocalEndpointsExternal: 1 });
  });

  test('a kernel that was found as it should be, or needs nothing of a change, is in step from then on', async () => {
    const h = house();
    await h.synced();
    const inStep = (): number => h.clock.mono() - (h.proxy.health('ip')?.lastCommitAt ?? Number.NaN);
    await h.clock.advance(20_000);
    assert.equal(inStep(), 20_000);
    await h.clock.advance(10_000);
    assert.equal(inStep(), 0);
    await h.clock.advance(5000);
    h.service(aService({ spec: { clusterIP: 'fd00::1', clusterIPs: ['fd00::1'], ipFamilies: ['IPv6'] } }));
    await h.clock.advance(0);
    assert.equal(inStep(), 0);
  });

  test('the kernel is audited each period, everything each hour; what somebody changed is made anew', async () => {
    const h = house();
    h.service(aService());
    await h.synced();
    await h.clock.advance(31_000);
    assert.equal(h.backend.calls.at(-1), 'audit structure');
    h.backend.intact = false;
    h.backend.kernel.clear();
    await h.clock.advance(30_000);
    assert.deepEqual(h.backend.calls.slice(-3), ['open', 'apply 10.96.0.1', 'complete']);
    assert.deepEqual(
      h.events.map(({ reason }) => reason),
      ['ProxyRulesRepaired'],
    );
    h.proxy.audit('ip');
    await h.clock.advance(0);
    assert.equal(h.backend.calls.at(-1), 'audit everything');
  });

  test('everything is in: told once the last guards are up', async () => {
    const h = house();
    let synced = false;
    void h.proxy.synced.then(() => {
      synced = true;
    });
    h.service(aService());
    h.backend.failures.push('crash');
    await h.synced();
    assert.equal(synced, false);
    await h.clock.advance(1000);
    assert.equal(synced, true);
  });

  test('asked whether the rules are whole: what is wanted comes first, then all is read back, and what is lacking is made anew', async () => {
    const h = house();
    h.service(aService());
    const early = h.proxy.verify('ip', new AbortController().signal);
    await h.synced();
    assert.equal(await early, true);
    assert.deepEqual(h.backend.calls, ['open', 'apply 10.96.0.1', 'complete', 'audit everything']);
    h.backend.intact = false;
    h.backend.kernel.clear();
    const late = h.proxy.verify('ip', new AbortController().signal);
    await h.clock.advance(0);
    assert.equal(await late, false);
    assert.deepEqual(h.backend.calls.slice(-3), ['open', 'apply 10.96.0.1', 'complete']);
    await assert.rejects(h.proxy.verify('ip6', new AbortController().signal), { code: 'NotFound' });
  });

  test('asked whether the rules are whole, a backend that fails is told, and nobody waits for longer than they want to', async () => {
    const h = house();
    const gone = new AbortController();
    const left = assert.rejects(h.proxy.verify('ip', gone.signal), /gone/);
    gone.abort(new Error('gone'));
    await left;
    h.service(aService());
    h.backend.failures.push('crash');
    const failed = assert.rejects(h.proxy.verify('ip', new AbortController().signal), { code: 'Crashed' });
    await h.synced();
    await failed;
  });

  test('another zone concerns Services with hints alone', async () => {
    const h = house();
    h.service(aService());
    h.service(named('plain', '10.96.0.2'));
    h.slice(aSlice([anEndpoint('10.1.0.7', { zones: ['z1'] }), anEndpoint('10.1.0.8', { zones: ['z2'] })]));
    h.slice(sliceOf('plain', [anEndpoint('10.1.0.9')]));
    await h.synced();
    assert.equal(h.endpoints(webKey), '7');
    h.proxy.updateNode({ ...node, zone: 'z2' });
    await h.clock.advance(0);
    assert.equal(h.backend.calls.at(-1), 'apply 10.96.0.1');
    assert.equal(h.endpoints(webKey), '8');
  });

  test('slices of Services that do not exist are nobody’s business', async () => {
    const h = house();
    h.slice(sliceOf('ghost', [anEndpoint('10.1.0.7')]));
    await h.synced();
    assert.deepEqual(h.backend.calls, ['open', 'complete']);
    assert.equal(h.proxy.describe('default/ghost').proxied, false);
  });

  test('property: whatever happens in whatever order, and however the backend fails, at rest the kernel has what is wanted', async () => {
    const name = fc.constantFrom('a', 'b', 'c');
    const act = fc.oneof(
      fc.record({ do: fc.constant('service'), name, external: fc.boolean(), port: fc.constantFrom(80, 81) }),
      fc.record({ do: fc.constant('slice'), name, hosts: fc.subarray([1, 2, 3]), slice: fc.constantFrom('1', '2') }),
      fc.record({ do: fc.constant('delete'), name }),
      fc.record({ do: fc.constant('fail'), how: fc.constantFrom('crash', 'lost') }),
      fc.record({ do: fc.constant('flush') }),
      fc.record({ do: fc.constant('pause') }),
    ) as fc.Arbitrary<{ do: string; name: string; external: boolean; port: number; hosts: number[]; slice: string; how: 'crash' | 'lost' }>;
    await fc.assert(
      fc.asyncProperty(fc.array(act, { maxLength: 14 }), async (acts) => {
        const h = house();
        await h.synced();
        for (const each of acts) {
          const clusterIP = `10.96.0.${'abc'.indexOf(each.name) + 1}`;
          if (each.do === 'service')
            h.service(
              aService({
                name: each.name,
                spec: { clusterIP, externalIPs: each.external ? ['192.0.2.1'] : [] },
                ports: [{ name: 'http', port: each.port }],
              }),
            );
          if (each.do === 'slice')
            h.slice(
              sliceOf(
                each.name,
                each.hosts.map((host) => anEndpoint(`10.1.0.${host}`)),
                { name: `${each.name}-${each.slice}` },
              ),
            );
          if (each.do === 'delete') h.services.delete(`default/${each.name}`);
          if (each.do === 'fail') h.backend.failures.push(each.how);
          if (each.do === 'flush') {
            h.backend.kernel.clear();
            h.backend.intact = false;
          }
          if (each.do === 'pause') await h.clock.advance(0);
        }
        h.proxy.audit('ip');
        await h.clock.advance(120_000);
        const wanted = new Map<string, string>();
        for (const service of [...h.services.values()].sort((a, b) => (a.uid < b.uid ? 1 : -1))) {
          const endpoints = mergeEndpoints(
            [...h.slices.values()].filter((slice) => slice.service === service.key),
            'node',
          );
          for (const frontend of planService(service, endpoints, node, 'ip').frontends) wanted.set(frontend.key, JSON.stringify(frontend));
        }
        const kernel = new Map([...h.backend.kernel].map(([key, frontend]) => [key, JSON.stringify(frontend)]));
        assert.deepEqual([...kernel].sort(), [...wanted].sort());
        assert.equal(h.proxy.health('ip')?.waitingSince, undefined);
        const rows = new Set(
          [...h.backend.kernel.values()].flatMap(
            (each) => each?.cluster?.endpoints.map(({ address }) => `${address.ip} ${each.service}`) ?? [],
          ),
        );
        const told = [...h.proxy.programmed.values()].flatMap(({ address, services }) =>
          services.map(({ service }) => `${address} ${service}`),
        );
        assert.deepEqual(told.sort(), [...rows].sort());
        await h.proxy[Symbol.asyncDispose]();
      }),
      { numRuns: 60 },
    );
  });
});
