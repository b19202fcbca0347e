// What changes, restarts and failures do to connections: nftables on the kernel of this machine, by real packets.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { systemClock } from '../../agent/base/clock.ts';
import { tableName } from '../../proxy/backends/nftables/layout.ts';
import { createNftables } from '../../proxy/backends/nftables/worker.ts';
import { anEndpoint, aService, aSlice } from '../fakes/services.ts';
import { drive, settingsOf } from './drive.ts';
import { netfilterOn, transports } from './netfilter.ts';
import { addresses, addresses6, createNetwork, type Network, type Place } from './network.ts';

let network: Network;

const a = (state: 'ready' | 'notReady' = 'ready') => anEndpoint(addresses['pod-a'], { node: 'node', state });
const b = (state: 'ready' | 'notReady' = 'ready') => anEndpoint(addresses['pod-b'], { node: 'node', state });
const far = () => anEndpoint(addresses['far-pod']);

async function answers(from: Place, address: string, port: number, count: number): Promise<string[]> {
  const given = await network.ask(from, { do: 'connect', protocol: 'tcp', address, port, count, timeoutMs: 700 });
  return given.map(({ said }) => said.split(':')[0] ?? '');
}

const ruleset = (): string => network.run('node', 'nft', 'list', 'ruleset');

for (const transport of transports)
  describe(`nftables under change, by ${transport}`, () => {
    const nft = (family: 'ip' | 'ip6' = 'ip') => netfilterOn(network, transport, family);
    const nftables = () => createNftables('ip', nft(), () => performance.now());

    before(async () => {
      network = await createNetwork();
      for (const [place, address] of [
        ['pod-a', addresses['pod-a']],
        ['pod-b', addresses['pod-b']],
        ['far', addresses['far-pod']],
        ['node', addresses.node],
      ] as const)
        for (const protocol of ['tcp', 'udp'] as const) await network.ask(place, { do: 'serve', protocol, address, port: 8080 });
      for (const place of ['pod-a', 'pod-b'] as const)
        await network.ask(place, { do: 'serve', protocol: 'tcp', address: addresses6[place], port: 8080 });
    });
    beforeEach(() => void network.run('node', 'nft', 'flush', 'ruleset'));
    after(async () => await network[Symbol.asyncDispose]());

    const sticky = { sessionAffinity: 'ClientIP', sessionAffinityConfig: { clientIP: { timeoutSeconds: 2 } } };

    test('affinity: one endpoint per client, another at once when it goes, a free choice after the time (kubernetes#110302, #103000)', async () => {
      await using driven = await drive(nftables(), { objects: [aService({ spec: sticky }), aSlice([a(), b()])] });
      const [first = '', ...others] = await answers('outside', '10.96.0.1', 80, 20);
      assert.deepEqual(new Set(others), new Set([first]));
      // The one it has turns unready while the client goes on.
      const connecting = answers('outside', '10.96.0.1', 80, 200);
      driven.set(aSlice(first === addresses['pod-a'] ? [a('notReady'), b()] : [a(), b('notReady')]));
      await driven.settled();
      const after = await answers('outside', '10.96.0.1', 80, 20);
      assert.deepEqual(new Set(after), new Set([first === addresses['pod-a'] ? addresses['pod-b'] : addresses['pod-a']]));
      assert.deepEqual(
        (await connecting).filter((each) => !each.startsWith('10.244.')),
        [],
      );
      // A third comes: nobody moves.
      driven.set(aSlice([a(), b(), far()]));
      await driven.settled();
      assert.deepEqual(new Set(await answers('outside', '10.96.0.1', 80, 20)), new Set(after));
      const free = new Set<string>();
      for (let turn = 0; turn < 8 && free.size < 2; turn++) {
        await systemClock.sleep(2300, new AbortController().signal);
        for (const each of await answers('outside', '10.96.0.1', 80, 1)) free.add(each);
      }
      assert.ok(free.size > 1, `always ${[...free]}`);
      // Off and on again leaves nothing of before.
      driven.set(aService());
      await driven.settled();
      assert.doesNotMatch(network.run('node', 'nft', 'list', 'map', 'ip', tableName, 'affinity'), /elements/);
    });

    test('affinity in IPv6: one endpoint per client, another when it goes, and nothing is left when it is switched off', async () => {
      const six = (place: 'pod-a' | 'pod-b') => anEndpoint(addresses6[place], { node: 'node' });
      const service = (spec: object) => aService({ spec: { clusterIP: 'fd96::1', ipFamilies: ['IPv6'], ...spec } });
      const slice = (...endpoints: ReturnType<typeof six>[]) => aSlice(endpoints, { addressType: 'IPv6' });
      const backend = createNftables('ip6', nft('ip6'), () => performance.now());
      await using driven = await drive(backend, { objects: [service(sticky), slice(six('pod-a'), six('pod-b'))], family: 'ip6' });
      const given = async () => {
        const request = { do: 'connect', protocol: 'tcp', address: 'fd96::1', port: 80, count: 20, timeoutMs: 700 } as const;
        return [...new Set((await network.ask('outside', request)).map(({ said }) => said.split(' ')[0] ?? ''))];
      };
      const [first = '', ...others] = await given();
      assert.deepEqual(others, []);
      const kept = first.includes('::10') ? six('pod-b') : six('pod-a');
      driven.set(slice(kept));
      await driven.settled();
      assert.deepEqual(await given(), [`[${kept.addresses[0]}]:8080`]);
      driven.set(slice(six('pod-a'), six('pod-b')));
      await driven.settled();
      assert.deepEqual(await given(), [`[${kept.addresses[0]}]:8080`]);
      driven.set(service({}));
      await driven.settled();
      assert.doesNotMatch(network.run('node', 'nft', 'list', 'table', 'ip6', tableName), /clients-|client-ports-|sticky-|remember-[0-9]/);
      assert.equal((await given()).length, 2);
      assert.deepEqual(driven.events, []);
    });

    for (const [name, port, service] of [
      ['by node port', 30080, { type: 'NodePort' }],
      ['by node port with Local policy', 30080, { type: 'NodePort', externalTrafficPolicy: 'Local' }],
    ] as const)
      test(`affinity ${name}`, async () => {
        const object = aService({ spec: { ...service, ...sticky }, ports: [{ name: 'http', port: 80, nodePort: 30080 }] });
        await using _driven = await drive(nftables(), { objects: [object, aSlice([a(), b()])] });
        assert.equal(new Set(await answers('outside', addresses.node, port, 20)).size, 1);
      });

    test('affinity with endpoints in the host network', async () => {
      const host = anEndpoint(addresses.node, { node: 'node' });
      await using _driven = await drive(nftables(), { objects: [aService({ spec: sticky }), aSlice([a(), host])] });
      for (const place of ['pod-b', 'node'] as const) assert.equal(new Set(await answers(place, '10.96.0.1', 80, 20)).size, 1, place);
    });

    test('a restart, an audit and unrelated changes break no connection and move no element', async () => {
      const objects = [aService(), aSlice([a(), b(), far()])];
      {
        await using _first = await drive(nftables(), { objects });
      }
      const rules = ruleset();
      const connecting = answers('pod-a', '10.96.0.1', 80, 400);
      await using driven = await drive(nftables(), { objects });
      driven.proxy.audit('ip');
      for (let index = 0; index < 20; index++) driven.set(aService({ name: `other${index}`, spec: { clusterIP: `10.96.1.${index}` } }));
      await driven.settled();
      for (let index = 0; index < 20; index++) driven.deleteService(`default/other${index}`);
      await driven.settled();
      assert.deepEqual(
        (await connecting).filter((each) => !each.startsWith('10.244.')),
        [],
      );
      assert.equal(ruleset(), rules);
      assert.deepEqual(driven.events, []);
    });

    test('a rolling update: no connection fails while endpoints come and go', async () => {
      await using driven = await drive(nftables(), { objects: [aService(), aSlice([a(), b()])] });
      const connecting = answers('outside', '10.96.0.1', 80, 800);
      for (let turn = 0; turn < 150; turn++) {
        driven.set(aSlice(turn % 3 === 0 ? [a()] : turn % 3 === 1 ? [b(), far()] : [a(), b(), far()]));
        await driven.settled();
      }
      assert.deepEqual(
        (await connecting).filter((each) => !each.startsWith('10.244.')),
        [],
      );
    });

    test('audits find nothing where nobody changed anything, and a rule of somebody else’s in our chain', async () => {
      const signal = new AbortController().signal;
      const backend = nftables();
      const service = aService({ spec: { type: 'NodePort', ...sticky, externalIPs: ['192.0.2.9'], externalTrafficPolicy: 'Local' } });
      await using driven = await drive(backend, { objects: [service, aSlice([a(), b()])] });
      for (const depth of ['structure', 'everything', 'structure'] as const) assert.equal(await backend.audit(depth, signal), true, depth);
      network.run('node', 'nft', 'insert', 'rule', 'ip', tableName, 'services', 'counter');
      assert.equal(await backend.audit('structure', signal), false);
      driven.proxy.audit('ip');
      const until = performance.now() + 5000;
      while (driven.events.length === 0 && performance.now() < until) await systemClock.sleep(5, signal);
      await driven.settled();
      for (const depth of ['structure', 'everything'] as const) assert.equal(await backend.audit(depth, signal), true, depth);
    });

    test('another version’s table serves until ours does, and goes then', async () => {
      const objects = [aService(), aSlice([a(), b()])];
      {
        await using _first = await drive(nftables(), { objects });
      }
      const old = network.run('node', 'nft', 'list', 'table', 'ip', tableName).replaceAll(tableName, 'keelson-services-0');
      network.run('node', 'nft', `delete table ip ${tableName}; ${old}`);
      const connecting = answers('outside', '10.96.0.1', 80, 400);
      await using _driven = await drive(nftables(), { objects });
      assert.deepEqual(
        (await connecting).filter((each) => !each.startsWith('10.244.')),
        [],
      );
      assert.equal(network.run('node', 'nft', 'list', 'tables').trim(), `table ip ${tableName}`);
    });

    test('another bit of the mark, while a chain for many endpoints is there', async () => {
      const many = Array.from({ length: 20 }, (_, index) => ({
        ...a(),
        addresses: [`10.244.1.1${index % 2}`],
        targetRef: { uid: `u${index}` },
      }));
      const ports = Array.from({ length: 20 }, (_, index) => ({ name: 'http', port: 8080 + index, protocol: 'TCP' }));
      const slices = ports.map((port, index) => aSlice([many[index % 2] ?? a()], { name: `web-${index}`, ports: [port] }));
      await using driven = await drive(nftables(), { objects: [aService({ spec: { externalIPs: ['192.0.2.9'] } }), ...slices] });
      assert.match(ruleset(), /chain masq-pick-20 \{\s+meta mark set meta mark \| 0x00004000/);
      driven.proxy.updateSettings('ip', { ...settingsOf({}, 'ip'), masqueradeBit: 20 });
      const until = performance.now() + 5000;
      while (!/masq-pick-20 \{\s+meta mark set meta mark \| 0x00100000/.test(ruleset()) && performance.now() < until)
        await systemClock.sleep(20, new AbortController().signal);
      assert.doesNotMatch(ruleset(), /0x00004000/);
    });

    test('what somebody flushed is there again after the audit, and told', async () => {
      await using driven = await drive(nftables(), { objects: [aService(), aSlice([a()])] });
      network.run('node', 'nft', 'flush', 'ruleset');
      assert.deepEqual(await answers('outside', '10.96.0.1', 80, 1), ['timeout']);
      driven.proxy.audit('ip');
      const until = performance.now() + 5000;
      while (driven.events.length === 0 && performance.now() < until) await systemClock.sleep(5, new AbortController().signal);
      await driven.settled();
      assert.deepEqual(await answers('outside', '10.96.0.1', 80, 1), [addresses['pod-a']]);
      assert.deepEqual(
        driven.events.map(({ reason }) => reason),
        ['ProxyRulesRepaired'],
      );
    });

    test('a change after somebody flushed blames no Service, and all come back', async () => {
      await using driven = await drive(nftables(), { objects: [aService(), aSlice([a()])] });
      network.run('node', 'nft', 'flush', 'ruleset');
      driven.set(aService({ name: 'other', spec: { clusterIP: '10.96.0.2' } }), aSlice([a()], { service: 'other' }));
      await driven.settled();
      assert.deepEqual(await answers('outside', '10.96.0.1', 80, 1), [addresses['pod-a']]);
      assert.deepEqual(await answers('outside', '10.96.0.2', 80, 1), [addresses['pod-a']]);
      assert.deepEqual(
        driven.events.map(({ reason }) => reason),
        ['ProxyBackendFailed'],
      );
    });

    test('the younger claimant takes over within 50 ms', async () => {
      const balancer = (name: string, created: string, clusterIP: string) =>
        aService({ name, created, spec: { clusterIP }, ingress: ['192.0.2.80'] });
      const objects = [
        balancer('old', '2026-01-01T00:00:00Z', '10.96.0.1'),
        balancer('young', '2026-01-02T00:00:00Z', '10.96.0.2'),
        aSlice([a()], { service: 'old' }),
        aSlice([b()], { service: 'young' }),
      ];
      await using driven = await drive(nftables(), { objects });
      assert.deepEqual(new Set(await answers('outside', '192.0.2.80', 80, 50)), new Set([addresses['pod-a']]));
      const from = performance.now();
      driven.deleteService('default/old');
      await driven.settled();
      const took = performance.now() - from;
      assert.deepEqual(new Set(await answers('outside', '192.0.2.80', 80, 50)), new Set([addresses['pod-b']]));
      assert.ok(took < 50, `${took} ms`);
    });

    test('another’s rules are not touched, and nothing of ours is left after cleanup', async () => {
      network.run('node', 'nft', 'add table ip other; add chain ip other c; add rule ip other c counter');
      const before = ruleset();
      {
        await using _driven = await drive(nftables(), { objects: [aService(), aSlice([a()])] });
      }
      await using table = nft();
      await table.remove(new AbortController().signal);
      await table.remove(new AbortController().signal);
      assert.equal(ruleset(), before);
    });

    test('a bit of the mark that is not ours survives', async () => {
      network.run(
        'node',
        'nft',
        'add table ip other; add chain ip other pre { type filter hook prerouting priority -200; }; add rule ip other pre ip daddr 10.96.0.1 meta mark set 0x1; add chain ip other post { type filter hook postrouting priority 300; }; add rule ip other post ip daddr 10.244.1.10 meta mark 0x1 counter',
      );
      await using _driven = await drive(nftables(), { objects: [aService(), aSlice([a()])] });
      assert.deepEqual(await answers('outside', '10.96.0.1', 80, 3), Array(3).fill(addresses['pod-a']));
      assert.match(network.run('node', 'nft', 'list', 'chain', 'ip', 'other', 'post'), /counter packets [1-9]/);
    });

    test('a thousand Services: cold start, a change, and a restart that changes nothing', async () => {
      const objects = Array.from({ length: 1000 }, (_, index) => {
        const name = `s${index}`;
        const ips = Array.from({ length: 5 }, (_each, slot) => anEndpoint(`10.7.${index >> 6}.${(index & 63) * 4 + slot}`));
        return [aService({ name, spec: { clusterIP: `10.96.${100 + (index >> 8)}.${index & 255}` } }), aSlice(ips, { service: name })];
      }).flat();
      const started = performance.now();
      await using driven = await drive(nftables(), { objects: [...objects, aService(), aSlice([a()])] });
      const cold = performance.now() - started;
      assert.deepEqual(await answers('outside', '10.96.0.1', 80, 1), [addresses['pod-a']]);
      const times: number[] = [];
      for (let turn = 0; turn < 20; turn++) {
        const from = performance.now();
        driven.set(aSlice([turn % 2 === 0 ? b() : a()]));
        await driven.settled();
        times.push(performance.now() - from);
      }
      times.sort((x, y) => x - y);
      const median = times[10] ?? 0;
      assert.ok(cold < 5000, `cold start took ${cold} ms`);
      assert.ok(median < 30, `a change took ${median} ms`);
    });

    const evilSet = () => network.run('node', process.execPath, `${import.meta.dirname}/evil-set.ts`);

    if (transport === 'netlink')
      test('a set of somebody else that nft crashes on (kubernetes#136786) holds up no Service', async () => {
        const backend = nftables();
        const sources = { type: 'LoadBalancer', loadBalancerSourceRanges: ['198.51.100.0/24', '203.0.113.9/32'] };
        await using driven = await drive(backend, { objects: [aService(), aSlice([a()])] });
        evilSet();
        const from = performance.now();
        driven.set(
          aService({ name: 'other', spec: { clusterIP: '10.96.0.2', ...sources }, ingress: ['192.0.2.80'] }),
          aSlice([b()], { service: 'other' }),
        );
        await driven.settled();
        assert.deepEqual(await answers('outside', '10.96.0.2', 80, 1), [addresses['pod-b']]);
        assert.ok(performance.now() - from < 1000, `${performance.now() - from} ms`);
        assert.deepEqual(await answers('outside', '192.0.2.80', 80, 1), [addresses['pod-b']]);
        const signal = new AbortController().signal;
        for (const depth of ['structure', 'everything'] as const) assert.equal(await backend.audit(depth, signal), true, depth);
        driven.deleteService('default/other');
        await driven.settled();
        assert.deepEqual(driven.events, []);
        await using table = nft();
        await table.remove(signal);
        assert.equal(await table.read(false, signal), undefined);
      });
    else
      test('nft that crashes on another’s set (kubernetes#136786): nobody is blamed, the old rules stay, and it is told once', async () => {
        await using driven = await drive(nftables(), { objects: [aService(), aSlice([a()])] });
        evilSet();
        driven.set(aService({ name: 'other', spec: { clusterIP: '10.96.0.2' } }));
        const until = performance.now() + 5000;
        while (driven.events.length === 0 && performance.now() < until) await systemClock.sleep(5, new AbortController().signal);
        assert.match(driven.events.map(({ reason, message }) => `${reason} ${message}`).join('\n'), /^ProxyBackendFailed .*SIGSEGV|139/);
        assert.deepEqual(await answers('outside', '10.96.0.1', 80, 1), [addresses['pod-a']]);
        network.run('node', 'nft', 'flush', 'ruleset');
        await driven.settled();
        assert.equal(driven.events.length, 1);
      });
  });
