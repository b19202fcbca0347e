import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { type AttributeWriter, collect, netlinkMessage, readAttributes } from '../../../agent/drivers/netlink/netlink.ts';
import { dumpMessage, parseFlow } from '../../../proxy/conntrack/codec.ts';
import { type Flow, forgetRequests, isForgotten } from '../../../proxy/conntrack/forget.ts';
import { conntrackSysctls } from '../../../proxy/conntrack/sysctls.ts';
import { startConntrack } from '../../../proxy/conntrack/worker.ts';
import type { Endpoint } from '../../../proxy/model/endpoints.ts';
import type { Frontend } from '../../../proxy/model/frontend.ts';
import type { Protocol } from '../../../proxy/model/service-row.ts';

const frontend = (protocol: Protocol, address: string | undefined, endpoints: string[]): Frontend => ({
  key: `ip|${address ?? 'nodeport'}|${protocol}|53`,
  kind: address === undefined ? 'nodePort' : 'clusterIP',
  family: 'ip',
  address,
  protocol,
  port: 53,
  service: 'kube-system/dns',
  portName: '',
  policy: 'Cluster',
  cluster: { endpoints: endpoints.map((key) => ({ key }) as Endpoint), why: 'ready' },
  local: undefined,
  closed: undefined,
  affinitySeconds: undefined,
  sources: undefined,
});

const dns = '10.96.0.10';
const commit = (protocol: Protocol, before: string[] | undefined, after: string[] | undefined, address: string | undefined = dns) => ({
  key: 'k',
  before: before && frontend(protocol, address, before),
  after: after && frontend(protocol, address, after),
});
const [a, b] = ['10.1.0.7:5353', '10.1.0.8:5353'];

describe('what is forgotten when rules change', () => {
  const cases: Record<string, { of: ReturnType<typeof commit>; endpoints?: string[]; untranslated?: boolean }> = {
    'an endpoint of UDP leaves': { of: commit('udp', [a, b], [b]), endpoints: [a] },
    'the last endpoint of UDP leaves': { of: commit('udp', [a], []), endpoints: [a] },
    'a Service of UDP goes': { of: commit('udp', [a, b], undefined), endpoints: [a, b] },
    'an endpoint of SCTP leaves': { of: commit('sctp', [a, b], [b]), endpoints: [a] },
    'an endpoint of TCP leaves: it drains': { of: commit('tcp', [a, b], [b]) },
    'an endpoint of UDP comes': { of: commit('udp', [a], [a, b]) },
    'the first endpoint of UDP comes': { of: commit('udp', [], [a]), untranslated: true },
    'the first endpoint of TCP comes': { of: commit('tcp', undefined, [a]), untranslated: true },
    'the first endpoint of SCTP comes': { of: commit('sctp', undefined, [a]) },
    'nothing changes': { of: commit('udp', [a], [a]) },
    'a Service without endpoints comes': { of: commit('udp', undefined, []) },
  };
  for (const [name, { of, endpoints = [], untranslated = false }] of Object.entries(cases))
    test(name, () => {
      const [request, ...more] = forgetRequests([of]);
      assert.deepEqual(more, []);
      assert.deepEqual([...(request?.endpoints ?? [])], endpoints);
      assert.equal(request?.untranslated ?? false, untranslated);
    });

  const to = (address: string, port = 53) => ({ address, port });
  const flow = (over: Partial<Flow>): Flow => ({ to: to(dns), answeredBy: to(dns), replied: false, opening: false, ...over });
  const left = forgetRequests([commit('udp', [a, b], [b])])[0];
  const firstUdp = forgetRequests([commit('udp', undefined, [a])])[0];
  const firstTcp = forgetRequests([commit('tcp', undefined, [a])])[0];
  const nodePort = forgetRequests([{ key: 'k', before: frontend('udp', undefined, [a]), after: undefined }])[0];
  const flows: Record<string, { flow: Flow; request: typeof left; goes: boolean }> = {
    'to the endpoint that left': { flow: flow({ answeredBy: to('10.1.0.7', 5353) }), request: left, goes: true },
    'to the endpoint that left, answered': { flow: flow({ answeredBy: to('10.1.0.7', 5353), replied: true }), request: left, goes: true },
    'to the endpoint that stays': { flow: flow({ answeredBy: to('10.1.0.8', 5353) }), request: left, goes: false },
    'to another port of the endpoint that left': { flow: flow({ answeredBy: to('10.1.0.7', 53) }), request: left, goes: false },
    'of another Service, to the endpoint that left': {
      flow: flow({ to: to('10.96.0.11'), answeredBy: to('10.1.0.7', 5353) }),
      request: left,
      goes: false,
    },
    'straight to the pod': { flow: flow({ to: to('10.1.0.7', 5353), answeredBy: to('10.1.0.7', 5353) }), request: left, goes: false },
    'that tried too early': { flow: flow({}), request: firstUdp, goes: true },
    'that somebody answers, who had the address before': { flow: flow({ replied: true }), request: firstUdp, goes: false },
    'of TCP that still knocks': { flow: flow({ opening: true }), request: firstTcp, goes: true },
    'of TCP that is past knocking': { flow: flow({ replied: true }), request: firstTcp, goes: false },
    'to a node port of this node': {
      flow: flow({ to: to('172.30.0.2'), answeredBy: to('10.1.0.7', 5353) }),
      request: nodePort,
      goes: true,
    },
    'to that port of another machine': {
      flow: flow({ to: to('8.8.8.8'), answeredBy: to('10.1.0.7', 5353) }),
      request: nodePort,
      goes: false,
    },
  };
  for (const [name, { flow: one, request, goes }] of Object.entries(flows))
    test(`a flow ${name} ${goes ? 'goes' : 'stays'}`, () => {
      assert.ok(request !== undefined);
      assert.equal(
        isForgotten(one, request, (address) => address === '172.30.0.2'),
        goes,
      );
    });
});

test('a dump says its filter, and flows of odd or cut messages are passed over', () => {
  const { type, flags, write } = dumpMessage('ip', 'udp', dns, 53);
  const message = netlinkMessage(type, flags, Buffer.from([2, 0, 0, 0]), write);
  assert.equal(message.readUInt32LE(0), message.length);
  const attributes = readAttributes(message, 20);
  assert.deepEqual([...attributes.keys()], [1, 25]);
  const ip = readAttributes(readAttributes(attributes.get(1) ?? Buffer.alloc(0)).get(1) ?? Buffer.alloc(0)).get(2);
  assert.deepEqual([...(ip ?? [])], [10, 96, 0, 10]);
  for (let length = 0; length < message.length; length++)
    assert.equal(parseFlow('ip', message.subarray(16, Math.max(16, length)), readAttributes), undefined);
});

test('a round of many Services asks the kernel once a protocol, and drops only what is theirs', async () => {
  const asked: string[] = [];
  const tuple = (source: number[], destination: number[], sourcePort: number, port: number) => (attributes: AttributeWriter) => {
    attributes.nested(1, () => {
      attributes.bytes(1, Uint8Array.from(source));
      attributes.bytes(2, Uint8Array.from(destination));
    });
    attributes.nested(2, () => {
      attributes.u8(1, 17);
      attributes.u16(2, sourcePort);
      attributes.u16(3, port);
    });
  };
  const flowTo = (last: number, port: number): Buffer =>
    netlinkMessage(0x100, 0, Buffer.from([2, 0, 0, 0]), (attributes) => {
      attributes.nested(1, () => tuple([10, 1, 0, 9], [10, 96, 1, last], 4000, port)(attributes));
      attributes.nested(2, () => tuple([10, 1, 0, 7], [10, 1, 0, 9], 5353, 4000)(attributes));
      attributes.u32(12, last);
      attributes.u32(3, 0);
    }).subarray(16);
  await using conntrack = startConntrack({
    clock: systemClock,
    log: silentLog,
    read: readAttributes,
    localAddresses: () => new Set(),
    observe: () => undefined,
    async request(message) {
      asked.push(message.type === 0x101 ? 'dump' : 'delete');
      return message.type === 0x101 ? [flowTo(1, 53), flowTo(2, 53), flowTo(2, 54), flowTo(200, 53)] : [];
    },
  });
  const addresses = Array.from({ length: 100 }, (_, index) => `10.96.1.${index}`);
  conntrack.committed(
    'ip',
    addresses.map((address) => commit('udp', [a], [b], address)),
  );
  for (let turn = 0; turn < 10; turn++) await new Promise(setImmediate);
  assert.deepEqual(asked, ['dump', 'delete', 'delete']);
});

test('an answer of the kernel: whole, broken off, cut', () => {
  const of = (type: number, sequence: number, payload: Buffer): Buffer => {
    const message = netlinkMessage(type, 0, payload, () => undefined);
    message.writeUInt32LE(sequence, 8);
    return message;
  };
  const done = (errno: number): Buffer => {
    const payload = Buffer.alloc(4);
    payload.writeInt32LE(errno);
    return of(3, 7, payload);
  };
  const flow = of(0x100, 7, Buffer.alloc(8));
  const answer: Parameters<typeof collect>[2] = [];
  assert.equal(collect(Buffer.concat([flow, of(0x100, 6, Buffer.alloc(4)), flow]), 7, answer), false);
  assert.equal(answer.length, 2);
  assert.equal(collect(done(0), 7, answer), true);
  assert.throws(() => collect(done(-12), 7, []), /ENOMEM/);
  const whole = Buffer.concat([flow, done(0)]);
  for (let length = 0; length < whole.length; length++) assert.equal(collect(whole.subarray(0, length), 7, []), false);
  assert.equal(collect(of(2, 7, Buffer.alloc(0)), 7, []), true);
});

test('sysctls of connection tracking: as kube-proxy sets them', () => {
  const settings = {
    maxPerCore: 32 * 1024,
    min: 128 * 1024,
    tcpEstablishedTimeout: 86_400_000,
    tcpCloseWaitTimeout: 3_600_000,
    tcpBeLiberal: false,
    udpTimeout: 0,
    udpStreamTimeout: 0,
  };
  const values = (over: Partial<typeof settings>, cpus: number) =>
    Object.fromEntries(
      conntrackSysctls({ ...settings, ...over }, cpus).map(({ name, value }) => [name.replace('net/netfilter/nf_conntrack_', ''), value]),
    );
  assert.deepEqual(values({}, 2), { max: 131_072, tcp_timeout_established: 86_400, tcp_timeout_close_wait: 3600 });
  assert.equal(values({}, 16).max, 524_288);
  assert.equal(values({}, 256).max, 1_048_576);
  assert.equal('max' in values({ maxPerCore: 0 }, 16), false);
  assert.deepEqual(values({ tcpBeLiberal: true, udpTimeout: 30_000, udpStreamTimeout: 120_000, maxPerCore: 0 }, 1), {
    tcp_timeout_established: 86_400,
    tcp_timeout_close_wait: 3600,
    tcp_be_liberal: 1,
    udp_timeout: 30,
    udp_timeout_stream: 120,
  });
});
