import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import type { Service, Endpoint as SliceEndpoint } from '../../../agent/model/generated/api.ts';
import type { Family } from '../../../proxy/model/address.ts';
import { mergeEndpoints } from '../../../proxy/model/endpoints.ts';
import { type Frontend, policyPick } from '../../../proxy/model/frontend.ts';
import { planService, type ServicePlan } from '../../../proxy/model/plan.ts';
import { serviceRow } from '../../../proxy/model/service-row.ts';
import { sliceRow } from '../../../proxy/model/slice-row.ts';
import { outReason } from '../../../proxy/model/topology.ts';
import { anEndpoint, aService, aSlice } from '../../fakes/services.ts';

const node = { name: 'node', zone: 'z1', addresses: { ip: '172.30.0.2', ip6: 'fd30::2' } };

function plan(service: Service, endpoints: SliceEndpoint[], family: Family = 'ip'): ServicePlan {
  const slice = sliceRow(aSlice(endpoints, { addressType: family === 'ip' ? 'IPv4' : 'IPv6' })) ?? assert.fail();
  return planService(serviceRow(service), mergeEndpoints([slice], 'node'), node, family);
}

/** `kind key policy: cluster … / local … closed`, addresses by their last number. */
function lineOf({ kind, key, policy, cluster, local, closed, affinitySeconds, sources }: Frontend): string {
  const list = (name: string, pick: Frontend['cluster']): string[] =>
    pick === undefined ? [] : [`${name} ${pick.why} [${pick.endpoints.map((each) => each.address.ip.split(/[.:]/).at(-1)).join()}]`];
  const parts = [`${kind} ${key} ${policy}:`, ...list('cluster', cluster), ...list('local', local)];
  if (closed !== undefined) parts.push(closed);
  if (affinitySeconds !== undefined) parts.push(`affinity ${affinitySeconds}`);
  if (sources !== undefined) parts.push(`sources ${sources.map(({ text }) => text).join()}`);
  return parts.join(' ');
}

const here = (ip: string, state: 'ready' | 'notReady' | 'terminating' | 'gone' = 'ready') => anEndpoint(ip, { node: 'node', state });
const there = (ip: string, state: 'ready' | 'notReady' | 'terminating' | 'gone' = 'ready') => anEndpoint(ip, { state });
const hinted = (ip: string, zones?: string[], nodes?: string[]) => anEndpoint(ip, { ...(zones && { zones }), ...(nodes && { nodes }) });

const everyKind = {
  type: 'LoadBalancer',
  externalIPs: ['192.0.2.9'],
  ports: [{ name: 'http', port: 80, nodePort: 30080 }],
};
const local = { ...everyKind, externalTrafficPolicy: 'Local', healthCheckNodePort: 31555 };
const ingress = ['192.0.2.20'];

describe('the plan of a Service', () => {
  const cases: Record<string, { service?: Service; endpoints: SliceEndpoint[]; family?: Family; is: string[] }> = {
    'a cluster IP': {
      endpoints: [here('10.1.0.7'), there('10.1.0.8')],
      is: ['clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster ready [7,8]'],
    },
    'no endpoints: refused': { endpoints: [], is: ['clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster none [] reject'] },
    'none that is ready: refused': {
      endpoints: [here('10.1.0.7', 'notReady'), there('10.1.0.8', 'gone')],
      is: ['clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster none [] reject'],
    },
    'while one is ready, none that terminates is used': {
      endpoints: [here('10.1.0.7', 'terminating'), there('10.1.0.8')],
      is: ['clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster ready [8]'],
    },
    'none ready: those that still serve while they terminate': {
      endpoints: [here('10.1.0.7', 'terminating'), there('10.1.0.8', 'gone'), there('10.1.0.9', 'notReady')],
      is: ['clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster terminating [7]'],
    },
    'publishNotReadyAddresses: ready while it terminates': {
      endpoints: [{ ...here('10.1.0.7'), conditions: { ready: true, serving: false, terminating: true } }],
      is: ['clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster ready [7]'],
    },
    'the other family has no cluster IP': { endpoints: [anEndpoint('fd00::7')], family: 'ip6', is: [] },
    IPv6: {
      service: aService({
        spec: { clusterIPs: ['10.96.0.1', 'fd96::1'], ipFamilies: ['IPv4', 'IPv6'], externalIPs: ['192.0.2.9', '2001:db8::9'] },
      }),
      endpoints: [anEndpoint('fd00::7')],
      family: 'ip6',
      is: ['clusterIP ip6|fd96::1|tcp|80 Cluster: cluster ready [7]', 'externalIP ip6|2001:db8::9|tcp|80 Cluster: cluster ready [7]'],
    },
    'internal Local': {
      service: aService({ spec: { internalTrafficPolicy: 'Local' } }),
      endpoints: [here('10.1.0.7'), there('10.1.0.8')],
      is: ['clusterIP ip|10.96.0.1|tcp|80 Local: local ready [7]'],
    },
    'internal Local without an endpoint here: dropped': {
      service: aService({ spec: { internalTrafficPolicy: 'Local' } }),
      endpoints: [there('10.1.0.8')],
      is: ['clusterIP ip|10.96.0.1|tcp|80 Local: local none [] drop'],
    },
    'internal Local without an endpoint anywhere: refused': {
      service: aService({ spec: { internalTrafficPolicy: 'Local' } }),
      endpoints: [there('10.1.0.8', 'notReady')],
      is: ['clusterIP ip|10.96.0.1|tcp|80 Local: local none [] reject'],
    },
    'internal Local: one that terminates here, while others are ready elsewhere': {
      service: aService({ spec: { internalTrafficPolicy: 'Local' } }),
      endpoints: [here('10.1.0.7', 'terminating'), there('10.1.0.8')],
      is: ['clusterIP ip|10.96.0.1|tcp|80 Local: local terminating [7]'],
    },
    'every kind of address, Cluster': {
      service: aService({ spec: everyKind, ingress }),
      endpoints: [there('10.1.0.8')],
      is: [
        'clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster ready [8]',
        'loadBalancerIP ip|192.0.2.20|tcp|80 Cluster: cluster ready [8]',
        'externalIP ip|192.0.2.9|tcp|80 Cluster: cluster ready [8]',
        'nodePort ip|nodeport|tcp|30080 Cluster: cluster ready [8]',
      ],
    },
    'every kind of address, external Local, no endpoint here (kubernetes#131765)': {
      service: aService({ spec: local, ingress }),
      endpoints: [there('10.1.0.8')],
      is: [
        'clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster ready [8]',
        'loadBalancerIP ip|192.0.2.20|tcp|80 Local: cluster ready [8] local none [] drop',
        'externalIP ip|192.0.2.9|tcp|80 Local: cluster ready [8] local none [] drop',
        'nodePort ip|nodeport|tcp|30080 Local: cluster ready [8] local none [] drop',
      ],
    },
    'external Local, one here': {
      service: aService({ spec: { ...local, externalIPs: [] }, ingress }),
      endpoints: [here('10.1.0.7'), there('10.1.0.8')],
      is: [
        'clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster ready [7,8]',
        'loadBalancerIP ip|192.0.2.20|tcp|80 Local: cluster ready [7,8] local ready [7]',
        'nodePort ip|nodeport|tcp|30080 Local: cluster ready [7,8] local ready [7]',
      ],
    },
    'external Local, no endpoint anywhere: refused': {
      service: aService({ spec: { ...local, externalIPs: [] }, ingress }),
      endpoints: [],
      is: [
        'clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster none [] reject',
        'loadBalancerIP ip|192.0.2.20|tcp|80 Local: cluster none [] local none [] reject',
        'nodePort ip|nodeport|tcp|30080 Local: cluster none [] local none [] reject',
      ],
    },
    'both policies Local: pods still reach all through external addresses': {
      service: aService({ spec: { ...local, externalIPs: [], internalTrafficPolicy: 'Local' }, ingress }),
      endpoints: [here('10.1.0.7'), there('10.1.0.8')],
      is: [
        'clusterIP ip|10.96.0.1|tcp|80 Local: local ready [7]',
        'loadBalancerIP ip|192.0.2.20|tcp|80 Local: cluster ready [7,8] local ready [7]',
        'nodePort ip|nodeport|tcp|30080 Local: cluster ready [7,8] local ready [7]',
      ],
    },
    'source ranges are of the load balancer alone': {
      service: aService({ spec: { ...everyKind, externalIPs: [], loadBalancerSourceRanges: ['198.51.100.0/24'] }, ingress }),
      endpoints: [there('10.1.0.8')],
      is: [
        'clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster ready [8]',
        'loadBalancerIP ip|192.0.2.20|tcp|80 Cluster: cluster ready [8] sources 198.51.100.0/24',
        'nodePort ip|nodeport|tcp|30080 Cluster: cluster ready [8]',
      ],
    },
    'source ranges with the node in them: the addresses of the load balancer too': {
      service: aService({
        spec: { type: 'LoadBalancer', loadBalancerSourceRanges: ['172.30.0.0/24', '192.0.2.0/28'] },
        ingress: ['192.0.2.70', '192.0.2.1'],
        ports: [{ name: 'http', port: 80 }],
      }),
      endpoints: [there('10.1.0.8')],
      is: [
        'clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster ready [8]',
        'loadBalancerIP ip|192.0.2.70|tcp|80 Cluster: cluster ready [8] sources 172.30.0.0/24,192.0.2.0/28,192.0.2.70/32',
        'loadBalancerIP ip|192.0.2.1|tcp|80 Cluster: cluster ready [8] sources 172.30.0.0/24,192.0.2.0/28,192.0.2.70/32',
      ],
    },
    'one address for two kinds: the guarded one, once': {
      service: aService({ spec: { type: 'LoadBalancer', externalIPs: ingress, loadBalancerSourceRanges: ['198.51.100.0/24'] }, ingress }),
      endpoints: [there('10.1.0.8')],
      is: [
        'clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster ready [8]',
        'loadBalancerIP ip|192.0.2.20|tcp|80 Cluster: cluster ready [8] sources 198.51.100.0/24',
      ],
    },
    affinity: {
      service: aService({ spec: { sessionAffinity: 'ClientIP', sessionAffinityConfig: { clientIP: { timeoutSeconds: 5 } } } }),
      endpoints: [there('10.1.0.8')],
      is: ['clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster ready [8] affinity 5'],
    },
    'ports by name and protocol': {
      service: aService({
        ports: [
          { name: 'http', port: 80 },
          { name: 'http', port: 80, protocol: 'UDP' },
          { name: 'other', port: 81, protocol: 'SCTP' },
        ],
      }),
      endpoints: [there('10.1.0.8')],
      is: [
        'clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster ready [8]',
        'clusterIP ip|10.96.0.1|udp|80 Cluster: cluster none [] reject',
        'clusterIP ip|10.96.0.1|sctp|81 Cluster: cluster none [] reject',
      ],
    },
  };
  for (const [name, { service = aService(), endpoints, family, is }] of Object.entries(cases))
    test(name, () => assert.deepEqual(plan(service, endpoints, family).frontends.map(lineOf), is));

  const hints: Record<string, { endpoints: SliceEndpoint[]; is: string }> = {
    'our zone': { endpoints: [hinted('10.1.0.7', ['z1']), hinted('10.1.0.8', ['z2'])], is: 'sameZone [7]' },
    'an endpoint for several zones': {
      endpoints: [hinted('10.1.0.7', ['z1', 'z2']), hinted('10.1.0.8', ['z2', 'z1'])],
      is: 'sameZone [7,8]',
    },
    'one without hints: all': { endpoints: [hinted('10.1.0.7', ['z1']), hinted('10.1.0.8')], is: 'ready [7,8]' },
    'none for our zone: all': { endpoints: [hinted('10.1.0.7', ['z2']), hinted('10.1.0.8', ['z3'])], is: 'ready [7,8]' },
    'one without hints that is not ready does not count': {
      endpoints: [hinted('10.1.0.7', ['z1']), hinted('10.1.0.9', ['z2']), { ...hinted('10.1.0.8'), conditions: { ready: false } }],
      is: 'sameZone [7]',
    },
    'our node before our zone': {
      endpoints: [hinted('10.1.0.7', ['z1'], ['node']), hinted('10.1.0.8', ['z1'], ['far'])],
      is: 'sameNode [7]',
    },
    'none for our node: our zone': {
      endpoints: [hinted('10.1.0.7', ['z1'], ['far']), hinted('10.1.0.8', ['z2'], ['gone'])],
      is: 'sameZone [7]',
    },
    'one without node hints: our zone': {
      endpoints: [hinted('10.1.0.7', ['z1'], ['node']), hinted('10.1.0.8', ['z1'])],
      is: 'sameZone [7,8]',
    },
    'none is ready: hints mean nothing': {
      endpoints: [
        { ...hinted('10.1.0.7', ['z1']), conditions: { ready: false, serving: true, terminating: true } },
        { ...hinted('10.1.0.8', ['z2']), conditions: { ready: false, serving: true, terminating: true } },
      ],
      is: 'terminating [7,8]',
    },
  };
  for (const [name, { endpoints, is }] of Object.entries(hints))
    test(`hints: ${name}`, () => {
      const [frontend] = plan(aService(), endpoints).frontends;
      assert.equal(lineOf(frontend ?? assert.fail()), `clusterIP ip|10.96.0.1|tcp|80 Cluster: cluster ${is}`);
    });

  test('a node without a zone, endpoints hinted for an empty zone: all', () => {
    const slice = sliceRow(aSlice([hinted('10.1.0.7', ['z1']), hinted('10.1.0.8', ['z2'])])) ?? assert.fail();
    const planned = planService(serviceRow(aService()), mergeEndpoints([slice], 'node'), { ...node, zone: '' }, 'ip');
    assert.equal(planned.frontends[0]?.cluster?.why, 'ready');
  });

  test('hints mean nothing to Local policy', () => {
    const endpoints = [{ ...hinted('10.1.0.7', ['z2']), nodeName: 'node' }, hinted('10.1.0.8', ['z1'])];
    const [frontend] = plan(aService({ spec: { internalTrafficPolicy: 'Local' } }), endpoints).frontends;
    assert.equal(lineOf(frontend ?? assert.fail()), 'clusterIP ip|10.96.0.1|tcp|80 Local: local ready [7]');
  });

  test('why an endpoint is out', () => {
    const endpoints = [
      hinted('10.1.0.5', ['z1']),
      hinted('10.1.0.6', ['z2']),
      { ...hinted('10.1.0.7', ['z1']), conditions: { ready: false } },
      there('10.1.0.8', 'terminating'),
    ];
    const slice = sliceRow(aSlice(endpoints)) ?? assert.fail();
    const merged = mergeEndpoints([slice], 'node');
    const [frontend] = planService(serviceRow(aService()), merged, node, 'ip').frontends;
    const pick = policyPick(frontend ?? assert.fail()) ?? assert.fail();
    const out = [...merged.values()].flat().map((each) => outReason(each, pick));
    assert.deepEqual(out, [undefined, 'OtherZone', 'NotReady', 'Terminating']);
  });

  const checks: Record<string, { service: Service; endpoints: SliceEndpoint[]; is: number | undefined }> = {
    'ready pods of this node': {
      service: aService({ spec: local, ingress }),
      endpoints: [here('10.1.0.7'), here('10.1.0.8'), there('10.1.0.9')],
      is: 2,
    },
    'one that terminates does not count, though it serves': {
      service: aService({ spec: local, ingress }),
      endpoints: [here('10.1.0.7', 'terminating')],
      is: 0,
    },
    'Cluster policy has no health check': {
      service: aService({ spec: { ...everyKind, healthCheckNodePort: 31555 }, ingress }),
      endpoints: [],
      is: undefined,
    },
  };
  for (const [name, { service, endpoints, is }] of Object.entries(checks))
    test(`health check: ${name}`, () => assert.equal(plan(service, endpoints).healthCheck?.localEndpoints, is));

  test('health check: a pod with two ports counts once', () => {
    const slice =
      sliceRow(
        aSlice([here('10.1.0.7')], {
          ports: [
            { name: 'a', port: 1 },
            { name: 'b', port: 2 },
          ],
        }),
      ) ?? assert.fail();
    const planned = planService(serviceRow(aService({ spec: local, ingress })), mergeEndpoints([slice], 'node'), node, 'ip');
    assert.equal(planned.healthCheck?.localEndpoints, 1);
  });

  const anEndpointSomewhere = fc
    .record({
      host: fc.integer({ min: 1, max: 6 }),
      node: fc.constantFrom('node', 'far'),
      state: fc.constantFrom('ready', 'notReady', 'terminating', 'gone') as fc.Arbitrary<'ready'>,
      zones: fc.option(fc.subarray(['z1', 'z2'], { minLength: 1 }), { nil: undefined }),
      nodes: fc.option(fc.subarray(['node', 'far'], { minLength: 1 }), { nil: undefined }),
    })
    .map(({ host, node: where, state, zones, nodes }) =>
      anEndpoint(`10.1.0.${host}`, { node: where, state, ...(zones && { zones }), ...(nodes && { nodes }) }),
    );
  const aSpec = fc.record({
    internalTrafficPolicy: fc.constantFrom('Cluster', 'Local'),
    externalTrafficPolicy: fc.constantFrom('Cluster', 'Local'),
    type: fc.constantFrom('ClusterIP', 'NodePort', 'LoadBalancer'),
    externalIPs: fc.subarray(['192.0.2.9', '192.0.2.20', '10.96.0.1']),
  });

  test('property: keys are unique, lists hold usable endpoints only, and a ready endpoint anywhere means no refusal', () => {
    fc.assert(
      fc.property(aSpec, fc.array(anEndpointSomewhere, { maxLength: 6 }), (spec, endpoints) => {
        const { frontends } = plan(aService({ spec: { ...spec, ports: everyKind.ports }, ingress: ['192.0.2.20'] }), endpoints);
        assert.equal(new Set(frontends.map(({ key }) => key)).size, frontends.length);
        const merged = [...mergeEndpoints([sliceRow(aSlice(endpoints)) ?? assert.fail()], 'node').values()].flat();
        for (const frontend of frontends) {
          for (const pick of [frontend.cluster, frontend.local]) {
            const states = (pick?.endpoints ?? []).map(({ address }) => address.ready || (address.serving && address.terminating));
            assert.ok(states.every(Boolean));
          }
          assert.ok((frontend.local?.endpoints ?? []).every((each) => each.local));
          assert.equal(frontend.closed !== undefined, (policyPick(frontend)?.endpoints.length ?? 0) === 0);
          if (merged.some(({ address }) => address.ready)) {
            assert.notEqual(frontend.closed, 'reject');
            assert.ok(frontend.cluster === undefined || frontend.cluster.endpoints.length > 0);
          }
        }
      }),
    );
  });
});
