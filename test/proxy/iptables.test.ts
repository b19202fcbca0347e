// What changes, restarts and others do to the rules of iptables mode: on the kernel of this machine, by real packets.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { systemClock } from '../../agent/base/clock.ts';
import { createIptables, type Variant } from '../../proxy/backends/iptables/iptables.ts';
import { createIptablesBackend, removeIptables } from '../../proxy/backends/iptables/worker.ts';
import { anEndpoint, aService, aSlice } from '../fakes/services.ts';
import { drive } from './drive.ts';
import { hasLegacy, resetNode } from './iptables.ts';
import { addresses, addresses6, createNetwork, type Network, networkFiles, type Place } from './network.ts';

const { signal } = new AbortController();
const sticky = { sessionAffinity: 'ClientIP', sessionAffinityConfig: { clientIP: { timeoutSeconds: 2 } } };
const a = (state: 'ready' | 'notReady' = 'ready') => anEndpoint(addresses['pod-a'], { node: 'node', state });
const b = (state: 'ready' | 'notReady' = 'ready') => anEndpoint(addresses['pod-b'], { node: 'node', state });
const far = () => anEndpoint(addresses['far-pod']);
const udp = { name: 'dns', port: 53, protocol: 'UDP' } as const;
const ports = [{ name: 'http', port: 80, nodePort: 30080 }, udp];

/** One of everything that rules are made for. */
const ofAllKinds = [
  aService({ ports, spec: { ...sticky, externalTrafficPolicy: 'Local', externalIPs: ['192.0.2.9'] }, ingress: ['192.0.2.20'] }),
  aSlice([a(), b(), far()], { ports: [{ name: 'http', port: 8080 }, udp] }),
  aService({
    name: 'guard',
    spec: { clusterIP: '10.96.0.72', loadBalancerSourceRanges: ['198.51.100.0/24', '172.30.0.0/24'] },
    ports: [{ name: '', port: 7001, nodePort: 30071 }],
    ingress: ['192.0.2.70'],
  }),
  aSlice([far()], { service: 'guard', name: 'guard-1', ports: [{ name: '', port: 8080 }] }),
  aService({
    name: 'closed',
    spec: { clusterIP: '10.96.0.73', loadBalancerSourceRanges: ['198.51.100.0/24'] },
    ports: [{ name: 'sctp', port: 7002, nodePort: 30072, protocol: 'SCTP' }, udp, { name: 'http', port: 81, nodePort: 30081 }],
    ingress: ['192.0.2.71'],
  }),
  aService({ name: 'inner', spec: { clusterIP: '10.96.0.74', internalTrafficPolicy: 'Local' } }),
  aSlice([far()], { service: 'inner', name: 'inner-1' }),
];

for (const variant of ['nft', 'legacy'] as const satisfies Variant[])
  describe(`iptables under change, ${variant}`, {
    skip: variant === 'legacy' && !hasLegacy() && 'this kernel has no legacy iptables',
  }, () => {
    let network: Network;
    const tool = (family: 'ip' | 'ip6' = 'ip') =>
      createIptables(family, { clock: systemClock, prefix: network.inside('node'), files: networkFiles(network), variant });
    const backend = (family: 'ip' | 'ip6' = 'ip') => createIptablesBackend(family, tool(family), 0);
    const run = (script: string): string => network.run('node', 'sh', '-ec', script);
    /** Rules without counters; by handles too, where the kernel gives them. */
    const rules = (): string =>
      variant === 'nft' ? run('nft -a list ruleset | grep -v "counter packets [1-9]" || true') : run('iptables-legacy-save | grep "^[-*]"');

    async function answers(from: Place, address: string, port: number, count: number): Promise<string[]> {
      const given = await network.ask(from, { do: 'connect', protocol: 'tcp', address, port, count, timeoutMs: 700 });
      return given.map(({ said }) => said.split(':')[0] ?? '');
    }

    before(async () => {
      network = await createNetwork();
      for (const [place, address] of [
        ['pod-a', addresses['pod-a']],
        ['pod-b', addresses['pod-b']],
        ['far', addresses['far-pod']],
      ] as const)
        await network.ask(place, { do: 'serve', protocol: 'tcp', address, port: 8080 });
    });
    beforeEach(() => resetNode(network));
    after(async () => await network[Symbol.asyncDispose]());

    test('a restart and an audit find all as it was made', async () => {
      {
        await using _first = await drive(backend(), { objects: ofAllKinds, localhostNodePorts: true });
      }
      const before = rules();
      const second = backend();
      {
        await using driven = await drive(second, { objects: ofAllKinds, localhostNodePorts: true });
        driven.set(aService({ name: 'new', spec: { clusterIP: '10.96.1.1' } }));
        await driven.settled();
        driven.deleteService('default/new');
        await driven.settled();
        assert.deepEqual(driven.events, []);
      }
      assert.equal(rules(), before);
      for (const depth of ['structure', 'everything'] as const) assert.equal(await second.audit(depth, signal), true, depth);
    });

    test('the same in IPv6', async () => {
      const six = (place: 'pod-a' | 'far-pod') => anEndpoint(addresses6[place], { node: place === 'pod-a' ? 'node' : 'far' });
      const spec = { clusterIP: 'fd96::1', ipFamilies: ['IPv6'], externalIPs: ['2001:db8::9'], ...sticky };
      const objects = [aService({ spec, ports }), aSlice([six('pod-a'), six('far-pod')], { addressType: 'IPv6' })];
      {
        await using _first = await drive(backend('ip6'), { objects, family: 'ip6' });
      }
      const save = `ip6tables-${variant}-save | grep "^[-*]"`;
      const before = run(save);
      assert.match(before, /KUBE-SEP-\S+ .*--to-destination \[fd44:1::10\]:8080/);
      const second = backend('ip6');
      {
        await using driven = await drive(second, { objects, family: 'ip6' });
        assert.deepEqual(driven.events, []);
      }
      assert.equal(run(save), before);
      for (const depth of ['structure', 'everything'] as const) assert.equal(await second.audit(depth, signal), true, depth);
    });

    test('affinity: one endpoint per client, another at once when it goes, a free choice after the time', async () => {
      await using driven = await drive(backend(), { objects: [aService({ spec: sticky }), aSlice([a(), b()])] });
      const [first = '', ...others] = await answers('outside', '10.96.0.1', 80, 20);
      assert.deepEqual(new Set(others), new Set([first]));
      driven.set(aSlice(first === addresses['pod-a'] ? [a('notReady'), b()] : [a(), b('notReady')]));
      await driven.settled();
      const moved = new Set(await answers('outside', '10.96.0.1', 80, 20));
      assert.deepEqual(moved, new Set([first === addresses['pod-a'] ? addresses['pod-b'] : addresses['pod-a']]));
      // A third comes: nobody moves.
      driven.set(aSlice([a(), b(), far()]));
      await driven.settled();
      assert.deepEqual(new Set(await answers('outside', '10.96.0.1', 80, 20)), moved);
    });

    test('rules that somebody takes away, or puts in, are repaired with an Event', async () => {
      await using driven = await drive(backend(), { objects: [aService(), aSlice([a()])] });
      for (const harm of ['-t nat -F', '-t nat -F KUBE-SERVICES', '-t nat -I KUBE-SERVICES 1 -j RETURN', '-t filter -D FORWARD 1']) {
        driven.events.length = 0;
        run(`iptables-${variant} -w 5 ${harm}`);
        driven.proxy.audit('ip');
        for (let waited = 0; driven.events.length === 0 && waited < 10_000; waited += 5) await systemClock.sleep(5, signal);
        await driven.settled();
        assert.deepEqual(
          driven.events.map(({ reason }) => reason),
          ['ProxyRulesRepaired'],
          harm,
        );
        assert.deepEqual(await answers('pod-b', '10.96.0.1', 80, 1), [addresses['pod-a']], harm);
      }
    });

    test('rules as kube-proxy writes them are taken over, and what is stale goes', async () => {
      run(`iptables-${variant}-restore --noflush <<'END'
*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-STALESTALESTALES - [0:0]
-A KUBE-SVC-STALESTALESTALES -m comment --comment "default/stale:http -> 10.9.9.9:80" -j RETURN
-A KUBE-SERVICES -m comment --comment "default/web:http cluster IP" -m tcp -p tcp -d 10.96.0.1 --dport 80 -j KUBE-SVC-STALESTALESTALES
-A KUBE-SERVICES -m comment --comment "default/stale:http cluster IP" -m tcp -p tcp -d 10.96.0.99 --dport 80 -j KUBE-SVC-STALESTALESTALES
COMMIT
END`);
      await using driven = await drive(backend(), { objects: [aService(), aSlice([a()])] });
      assert.deepEqual(driven.events, []);
      assert.doesNotMatch(rules(), /STALE|stale/);
      assert.deepEqual(await answers('pod-b', '10.96.0.1', 80, 1), [addresses['pod-a']]);
    });

    test('a FORWARD policy of DROP lets node ports through; removing leaves what is not ours', async () => {
      run(`iptables-${variant} -P FORWARD DROP; iptables-${variant} -t nat -N OTHERS; iptables-${variant} -t nat -A PREROUTING -j OTHERS`);
      const others = run(`iptables-${variant}-save | grep "^-"`);
      {
        const nodePort = aService({ spec: { type: 'NodePort' }, ports: [{ name: 'http', port: 80, nodePort: 30080 }] });
        await using _driven = await drive(backend(), { objects: [nodePort, aSlice([a()])] });
        assert.deepEqual(await answers('outside', addresses.node, 30080, 1), [addresses['pod-a']]);
      }
      await removeIptables(tool(), signal);
      run(`iptables-${variant} -P FORWARD ACCEPT`);
      assert.equal(run(`iptables-${variant}-save | grep "^-"`), others);
      assert.doesNotMatch(run(`iptables-${variant}-save`), /KUBE-/);
    });
  });
