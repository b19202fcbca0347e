import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import type { EndpointSlice, Service } from '../../../agent/model/generated/api.ts';
import { egressInterfaces } from '../../../proxy/backends/localnet.ts';
import { adopt } from '../../../proxy/backends/nftables/adopt.ts';
import { batchCommands, layoutText } from '../../../proxy/backends/nftables/batch.ts';
import { diffFrontend, elementsOf, noElements, placeSlots } from '../../../proxy/backends/nftables/elements.ts';
import { createInterpreter } from '../../../proxy/backends/nftables/interpreter.ts';
import { layout, tableName } from '../../../proxy/backends/nftables/layout.ts';
import { parseListing } from '../../../proxy/backends/nftables/listing.ts';
import { type Committed, stage } from '../../../proxy/backends/nftables/staging.ts';
import { createNftables } from '../../../proxy/backends/nftables/worker.ts';
import { mergeEndpoints } from '../../../proxy/model/endpoints.ts';
import type { Frontend } from '../../../proxy/model/frontend.ts';
import { planService } from '../../../proxy/model/plan.ts';
import { serviceRow } from '../../../proxy/model/service-row.ts';
import { sliceRow } from '../../../proxy/model/slice-row.ts';
import { anEndpoint, aService, aSlice } from '../../fakes/services.ts';
import { drive, settingsOf } from '../../proxy/drive.ts';

const node = { name: 'node', zone: '', addresses: { ip: '172.30.0.2' } };
const settings = settingsOf({}, 'ip');
const signal = new AbortController().signal;

function frontendsOf(service: Service, ...slices: EndpointSlice[]): readonly Frontend[] {
  const rows = slices.map((slice) => sliceRow(slice) ?? assert.fail());
  return planService(serviceRow(service), mergeEndpoints(rows, 'node'), node, 'ip').frontends;
}

const state = (): Committed => ({
  family: 'ip',
  markBit: 14,
  frontends: new Map(),
  uses: new Map(),
  shared: new Set(),
  chains: new Set(layout('ip', settings).chains.map(({ name }) => name)),
});

/** The commands of each step: from nothing to the first list of frontends, then on to the next. */
function commandsOf(...steps: (readonly Frontend[])[]): string[][] {
  const committed = state();
  let before: readonly Frontend[] = [];
  return steps.map((frontends) => {
    const gone = before.filter(({ key }) => !frontends.some((each) => each.key === key)).map(({ key }) => ({ key, frontend: undefined }));
    const staged = stage(committed, [...gone, ...frontends.map((frontend) => ({ key: frontend.key, frontend }))]);
    staged.commit();
    before = frontends;
    return batchCommands(staged.batch).map((command) => command.replaceAll(`ip ${tableName} `, ''));
  });
}

const slice = (...hosts: number[]) => aSlice(hosts.map((host) => anEndpoint(`10.1.0.${host}`)));

describe('a frontend becomes elements', () => {
  test('a Service comes, an endpoint moves, one goes, the Service goes', () => {
    const [added, moved, shrunk, gone] = commandsOf(
      frontendsOf(aService(), slice(1, 2, 3)),
      frontendsOf(aService(), slice(1, 4, 3)),
      frontendsOf(aService(), slice(4, 3)),
      [],
    );
    assert.deepEqual(added, [
      'add element tcp-endpoints { 10.96.0.1 . tcp . 80 . 0 : 10.1.0.1 . 8080, 10.96.0.1 . tcp . 80 . 1 : 10.1.0.2 . 8080, 10.96.0.1 . tcp . 80 . 2 : 10.1.0.3 . 8080 }',
      'add element frontends { 10.96.0.1 . tcp . 80 : goto pick-3 }',
      'add element cluster-ips { 10.96.0.1 }',
    ]);
    assert.deepEqual(moved, [
      'delete element tcp-endpoints { 10.96.0.1 . tcp . 80 . 1 : 10.1.0.2 . 8080 }',
      'add element tcp-endpoints { 10.96.0.1 . tcp . 80 . 1 : 10.1.0.4 . 8080 }',
    ]);
    assert.deepEqual(shrunk, [
      'delete element tcp-endpoints { 10.96.0.1 . tcp . 80 . 0 : 10.1.0.1 . 8080, 10.96.0.1 . tcp . 80 . 2 : 10.1.0.3 . 8080 }',
      'delete element frontends { 10.96.0.1 . tcp . 80 : goto pick-3 }',
      'add element tcp-endpoints { 10.96.0.1 . tcp . 80 . 0 : 10.1.0.3 . 8080 }',
      'add element frontends { 10.96.0.1 . tcp . 80 : goto pick-2 }',
    ]);
    assert.deepEqual(gone, [
      'delete element tcp-endpoints { 10.96.0.1 . tcp . 80 . 0 : 10.1.0.3 . 8080, 10.96.0.1 . tcp . 80 . 1 : 10.1.0.4 . 8080 }',
      'delete element frontends { 10.96.0.1 . tcp . 80 : goto pick-2 }',
      'delete element cluster-ips { 10.96.0.1 }',
    ]);
  });

  test('what is nothing new is no command', () => {
    const frontends = () => frontendsOf(aService(), slice(1, 2));
    assert.deepEqual(commandsOf(frontends(), frontends())[1], []);
  });

  test('one of a thousand endpoints goes: two element operations and a verdict', () => {
    const hosts = Array.from({ length: 250 }, (_, index) => index);
    const big = (without?: number) =>
      aSlice(
        [0, 1, 2, 3].flatMap((net) =>
          hosts.filter((host) => net !== 2 || host !== without).map((host) => anEndpoint(`10.1.${net}.${host}`)),
        ),
      );
    const committed = state();
    const apply = (endpoints: EndpointSlice) => {
      const staged = stage(
        committed,
        frontendsOf(aService(), endpoints).map((frontend) => ({ key: frontend.key, frontend })),
      );
      staged.commit();
      return staged.batch;
    };
    assert.deepEqual(
      apply(big()).chains.map(({ name }) => name),
      ['pick-1000'],
    );
    const { chains, elements } = apply(big(7));
    assert.deepEqual(
      chains.map(({ name }) => name),
      ['pick-999'],
    );
    assert.deepEqual(
      elements.map(({ op, set }) => `${op} ${set}`),
      ['delete tcp-endpoints', 'delete tcp-endpoints', 'delete frontends', 'add tcp-endpoints', 'add frontends'],
    );
  });

  test('ports of one cluster IP share its element', () => {
    const ports = [
      { name: 'a', port: 80 },
      { name: 'b', port: 81 },
    ];
    const [, one, none] = commandsOf(frontendsOf(aService({ ports })), frontendsOf(aService({ ports: ports.slice(1) })), []);
    assert.deepEqual(one, ['delete element closed { 10.96.0.1 . tcp . 80 : goto refused }']);
    assert.deepEqual(none, ['delete element closed { 10.96.0.1 . tcp . 81 : goto refused }', 'delete element cluster-ips { 10.96.0.1 }']);
  });

  test('affinity: chains for the count and the time, once', () => {
    const spec = { sessionAffinity: 'ClientIP', sessionAffinityConfig: { clientIP: { timeoutSeconds: 5 } } };
    const [first, second] = commandsOf(frontendsOf(aService({ spec }), slice(1)), [
      ...frontendsOf(aService({ spec }), slice(1)),
      ...frontendsOf(aService({ name: 'other', spec: { ...spec, clusterIP: '10.96.0.2' } }), slice(1)),
    ]);
    assert.deepEqual(first?.slice(0, 5), [
      'add chain sticky-pick-1',
      'add rule sticky-pick-1 meta l4proto { tcp, udp, sctp } dnat ip to ip saddr . ip daddr . meta l4proto . th dport map @affinity',
      'add rule sticky-pick-1 goto pick-1',
      'add chain remember-5',
      'add rule remember-5 meta l4proto { tcp, udp, sctp } update @affinity { ct original ip saddr . ct original ip daddr . meta l4proto . ct original proto-dst timeout 5s : ip daddr . th dport }',
    ]);
    assert.ok(second?.every((command) => command.startsWith('add element')));
  });

  const slots: Record<string, { before: string[]; wanted: string[]; is: string[] }> = {
    'first time': { before: [], wanted: ['a', 'b'], is: ['a', 'b'] },
    'one replaced keeps the others': { before: ['a', 'b', 'c'], wanted: ['a', 'c', 'd'], is: ['a', 'd', 'c'] },
    'one removed: the last takes its slot': { before: ['a', 'b', 'c'], wanted: ['b', 'c'], is: ['c', 'b'] },
    'one more': { before: ['b', 'c'], wanted: ['a', 'b', 'c'], is: ['b', 'c', 'a'] },
    'a slot that somebody emptied': { before: ['a', '', 'c'], wanted: ['a', 'b', 'c'], is: ['a', 'b', 'c'] },
  };
  for (const [name, { before, wanted, is }] of Object.entries(slots))
    test(`slots: ${name}`, () => assert.deepEqual(placeSlots(before, wanted), is));

  test('property: slots are dense, hold what is wanted, and no more move than have to', () => {
    const list = fc.uniqueArray(fc.constantFrom(...'abcdefgh'), { maxLength: 8 });
    fc.assert(
      fc.property(list, list, (before, wanted) => {
        const placed = placeSlots(before, wanted);
        assert.deepEqual([...placed].sort(), [...wanted].sort());
        const moved = placed.filter((value, index) => value !== before[index]).length;
        const fresh = wanted.filter((value) => !before.includes(value)).length;
        const beyond = before.slice(wanted.length).filter((value) => wanted.includes(value)).length;
        assert.equal(moved, fresh + beyond);
      }),
    );
  });

  test('property: a diff leads from any state of a frontend to any other, and nothing is added twice', () => {
    const aState = fc.record({
      hosts: fc.subarray([1, 2, 3, 4]),
      sources: fc.option(fc.subarray(['10.0.0.0/8', '11.0.0.0/8'])),
      local: fc.boolean(),
      sticky: fc.boolean(),
    });
    const frontendOf = ({
      hosts,
      sources,
      local,
      sticky,
    }: {
      hosts: number[];
      sources: string[] | null;
      local: boolean;
      sticky: boolean;
    }) => {
      const spec = {
        ...(sources !== null && sources.length > 0 && { loadBalancerSourceRanges: sources }),
        ...(local && { externalTrafficPolicy: 'Local' }),
        ...(sticky && { sessionAffinity: 'ClientIP' }),
      };
      const endpoints = hosts.map((host) => anEndpoint(`10.1.0.${host}`, { node: host > 2 ? 'node' : 'far' }));
      return (
        frontendsOf(aService({ spec, ingress: ['192.0.2.1'] }), aSlice(endpoints)).find(({ kind }) => kind === 'loadBalancerIP') ??
        assert.fail()
      );
    };
    fc.assert(
      fc.property(fc.array(aState, { minLength: 1, maxLength: 6 }), (states) => {
        const kernel = new Map<string, string | undefined>();
        let before = noElements;
        for (const each of states) {
          const frontend = frontendOf(each);
          const { deletes, adds, after } = diffFrontend(frontend, before, elementsOf(frontend));
          for (const { set, key } of deletes) assert.ok(kernel.delete(`${set} ${key}`), `${set} ${key} is deleted and not there`);
          for (const { set, key, value } of adds) {
            assert.ok(!kernel.has(`${set} ${key}`), `${set} ${key} is added and there`);
            kernel.set(`${set} ${key}`, value);
          }
          before = after;
        }
        const last = frontendOf(states.at(-1) ?? assert.fail());
        const fresh = new Map(diffFrontend(last, noElements, elementsOf(last)).adds.map(({ set, key, value }) => [`${set} ${key}`, value]));
        assert.deepEqual([...kernel.keys()].sort(), [...fresh.keys()].sort());
        assert.deepEqual([...kernel.values()].map(String).sort(), [...fresh.values()].map(String).sort());
      }),
    );
  });
});

describe('the table', () => {
  test('its text is the same whatever Services there are, and names every chain before it is used', () => {
    const text = layoutText(layout('ip', settings));
    assert.ok(text.split('\n').length < 300);
    assert.match(
      text,
      /add rule ip keelson-services-\d+ services ip daddr @cluster-ips ip saddr != \{ 10.244.1.0\/24 \} meta mark set meta mark or 0x4000\n/,
    );
    assert.doesNotMatch(text, /meta mark set (?!meta mark (or|xor) 0x4000)/);
  });

  test('what nft prints is read back', () => {
    const listing = parseListing(
      'table ip keelson-services {\n\tcomment "keelson: Services of Kubernetes, layout 2"\n\tmap tcp-endpoints {\n\t\ttypeof ip daddr . meta l4proto . th dport . numgen random mod 65536 : ip daddr . tcp dport\n' +
        '\t\telements = { 10.96.0.1 . tcp . 80 . 1 : 10.1.0.8 . 8080,\n\t\t\t     10.96.0.1 . tcp . 80 . 0 : 10.1.0.7 . 8080 }\n\t}\n\n' +
        '\tmap frontends {\n\t\ttype ipv4_addr . inet_proto . inet_service : verdict\n\t\telements = { 10.96.0.1 . tcp . 80 : goto pick-2 }\n\t}\n\n' +
        '\tset cluster-ips {\n\t\ttype ipv4_addr\n\t\telements = { 10.96.0.1, 10.96.0.9 }\n\t}\n\n' +
        '\tset allowed-sources {\n\t\ttype ipv4_addr . inet_proto . inet_service . ipv4_addr\n\t\tflags interval\n\t\telements = { 192.0.2.1 . tcp . 80 . 10.0.0.0/8,\n\t\t\t     192.0.2.1 . tcp . 80 . 11.0.0.4 }\n\t}\n\n' +
        '\tmap affinity {\n\t\ttype ipv4_addr . ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service\n\t\telements = { 10.1.0.7 . 10.96.0.1 . tcp . 80 timeout 5s expires 4s984ms : 10.1.0.8 . 8080 }\n\t}\n\n' +
        '\tset hairpin {\n\t\ttype ipv4_addr . ipv4_addr\n\t}\n\n\tchain pick-1 {\n\t\tdnat ip to x\n\t}\n}\n',
    );
    assert.deepEqual([...listing.chains], [['pick-1', '\t\tdnat ip to x\n']]);
    assert.deepEqual([...(listing.sets.get('affinity') ?? [])], [['10.1.0.7 . 10.96.0.1 . tcp . 80', '10.1.0.8 . 8080']]);
    const { frontends, shared } = adopt('ip', listing);
    assert.deepEqual(frontends.get('ip|10.96.0.1|tcp|80')?.slots, ['10.1.0.7 . 8080', '10.1.0.8 . 8080']);
    assert.deepEqual([...(frontends.get('ip|10.96.0.1|tcp|80')?.verdicts ?? [])], [['frontends', 'goto pick-2']]);
    assert.deepEqual(frontends.get('ip|192.0.2.1|tcp|80')?.sources, ['10.0.0.0/8', '11.0.0.4/32']);
    assert.deepEqual([...shared], ['cluster-ips 10.96.0.1', 'cluster-ips 10.96.0.9']);
  });

  test('a restart adopts what is there and changes nothing; what is left over goes at the end', async () => {
    const interpreter = createInterpreter();
    const changes = [
      ...frontendsOf(aService(), slice(1, 2, 3)),
      ...frontendsOf(aService({ name: 'old', spec: { clusterIP: '10.96.0.9' } })),
    ].map((frontend) => ({ key: frontend.key, frontend }));
    const first = createNftables('ip', interpreter, () => 0);
    await first.open(settings, signal);
    await first.apply(changes, signal);
    await first.complete(signal);
    const before = await interpreter.read(true, signal);
    const second = createNftables('ip', interpreter, () => 0);
    assert.deepEqual([...(await second.open(settings, signal))].sort(), ['ip|10.96.0.1|tcp|80', 'ip|10.96.0.9|tcp|80']);
    const commands = interpreter.commands;
    await second.apply(changes.slice(0, 1), signal);
    assert.equal(interpreter.commands, commands);
    assert.deepEqual(await interpreter.read(true, signal), before);
    await second.apply([{ key: 'ip|10.96.0.9|tcp|80', frontend: undefined }], signal);
    await second.complete(signal);
    const after = await interpreter.read(true, signal);
    assert.deepEqual([...(after?.sets.get('cluster-ips')?.keys() ?? [])], ['10.96.0.1']);
    assert.equal(await second.audit('everything', signal), true);
  });

  test('an audit sees what somebody else changed', async () => {
    const interpreter = createInterpreter();
    const backend = createNftables('ip', interpreter, () => 0);
    await backend.open(settings, signal);
    await backend.apply(
      frontendsOf(aService(), slice(1, 2)).map((frontend) => ({ key: frontend.key, frontend })),
      signal,
    );
    assert.equal(await backend.audit('everything', signal), true);
    await interpreter.apply(
      { family: 'ip', chains: [], elements: [{ op: 'delete', set: 'tcp-endpoints', key: '10.96.0.1 . tcp . 80 . 0', value: undefined }] },
      signal,
    );
    assert.equal(await backend.audit('structure', signal), true);
    assert.equal(await backend.audit('everything', signal), false);
    interpreter.flush();
    assert.equal(await backend.audit('structure', signal), false);
  });
});

describe('whatever happens', () => {
  const act = fc.oneof(
    fc.record({
      do: fc.constant('service'),
      name: fc.constantFrom('a', 'b', 'c'),
      spec: fc.record({
        type: fc.constantFrom('ClusterIP', 'NodePort'),
        externalIPs: fc.subarray(['192.0.2.1', '10.96.0.2']),
        externalTrafficPolicy: fc.constantFrom('Cluster', 'Local'),
        internalTrafficPolicy: fc.constantFrom('Cluster', 'Local'),
        sessionAffinity: fc.constantFrom('None', 'ClientIP'),
      }),
      ranges: fc.subarray(['10.0.0.0/8', '10.1.0.0/16', '11.0.0.0/8']),
    }),
    fc.record({ do: fc.constant('slice'), name: fc.constantFrom('a', 'b', 'c'), hosts: fc.subarray([1, 2, 3, 4, 5]) }),
    fc.record({ do: fc.constantFrom('delete', 'flush', 'settle', 'steal'), name: fc.constantFrom('a', 'b', 'c') }),
  ) as fc.Arbitrary<{ do: string; name: string; spec: object; ranges: string[]; hosts: number[] }>;

  test('property: the kernel has at rest what a fresh start on an empty kernel would give it', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(act, { maxLength: 16 }), async (acts) => {
        const interpreter = createInterpreter();
        const objects = new Map<string, Service | EndpointSlice>();
        const driven = await drive(
          createNftables('ip', interpreter, () => performance.now()),
          { objects: [] },
        );
        for (const each of acts) {
          const clusterIP = `10.96.0.${'abc'.indexOf(each.name) + 1}`;
          const key = `${each.do} ${each.name}`;
          if (each.do === 'service') {
            const ports = [{ name: 'http', port: 80, nodePort: 30080 }];
            const spec = { ...each.spec, clusterIP, loadBalancerSourceRanges: each.ranges };
            objects.set(key, aService({ name: each.name, spec, ports, ingress: ['192.0.2.7'] }));
          }
          if (each.do === 'slice')
            objects.set(
              key,
              aSlice(
                each.hosts.map((host) => anEndpoint(`10.1.0.${host}`, { node: host > 3 ? 'node' : 'far' })),
                { service: each.name, name: each.name },
              ),
            );
          const object = objects.get(key);
          if (object !== undefined) driven.set(object);
          if (each.do === 'delete' && objects.delete(`service ${each.name}`)) driven.deleteService(`default/${each.name}`);
          if (each.do === 'flush') interpreter.flush();
          if (each.do === 'steal') await interpreter.fill({ set: 'cluster-ips', keys: [] }, signal).catch(() => undefined);
          if (each.do === 'settle') await driven.settled();
        }
        driven.proxy.audit('ip');
        await driven.settled();
        await new Promise(setImmediate);
        await driven.settled();
        const fresh = createInterpreter();
        await using other = await drive(
          createNftables('ip', fresh, () => performance.now()),
          { objects: [...objects.values()] },
        );
        await driven.proxy[Symbol.asyncDispose]();
        await other.settled();
        const [is, wanted] = await Promise.all([canonical(interpreter), canonical(fresh)]);
        assert.deepEqual(is, wanted);
      }),
      { numRuns: 60 },
    );
  });
});

/** Elements of all sets in order; of endpoints which there are, since their slots tell of the past. */
async function canonical(interpreter: ReturnType<typeof createInterpreter>): Promise<[string, string[]][]> {
  const listing = await interpreter.read(true, signal);
  return [...(listing?.sets ?? [])].map(([set, elements]) => {
    const texts = [...elements].map(([key, value]) =>
      /endpoints/.test(set) ? `${key.replace(/ \. \d+$/, '')} : ${value}` : `${key} : ${value}`,
    );
    return [set, texts.sort()];
  });
}

describe('where loopback may go', () => {
  // As a node with a pod on a veth shows it; numbers are little-endian.
  const routes =
    'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n' +
    'e0\t00000000\t01001EAC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n' +
    'veth0\t0A01F40A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n' +
    'e1\t0002F40A\t03001EAC\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n';
  test('the longest prefix decides', () => {
    assert.deepEqual([...egressInterfaces(routes, ['10.244.1.10', '10.244.2.10', '192.0.2.1'])], ['veth0', 'e1', 'e0']);
    assert.deepEqual([...egressInterfaces(routes.split('\n').slice(0, 1).join('\n'), ['10.244.1.10'])], []);
  });
});
