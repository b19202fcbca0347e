import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import type { EndpointSlice, Service } from '../../../agent/model/generated/api.ts';
import { serviceRow } from '../../../proxy/model/service-row.ts';
import { sliceRow } from '../../../proxy/model/slice-row.ts';
import { anEndpoint, aService, aSlice } from '../../fakes/services.ts';

const skippedOf = (row: { skipped: readonly { reason: string; count: number }[] | undefined } | undefined): Record<string, number> =>
  Object.fromEntries((row?.skipped ?? []).map(({ reason, count }) => [reason, count]));

describe('what is kept of a Service', () => {
  const notProxied: Record<string, Service> = {
    headless: aService({ spec: { clusterIP: 'None' } }),
    'headless with both families': aService({ spec: { clusterIP: 'None', clusterIPs: ['None'], ipFamilies: ['IPv4', 'IPv6'] } }),
    'no cluster IP yet': aService({ spec: { clusterIP: '' } }),
    ExternalName: aService({ spec: { type: 'ExternalName', externalName: 'example.org' } }),
    'ExternalName that kept a cluster IP': aService({ spec: { type: 'ExternalName', clusterIP: '10.96.0.1' } }),
    'for another proxy': aService({ metadata: { labels: { 'service.kubernetes.io/service-proxy-name': 'other' } } }),
    'for another proxy, without its name': aService({ metadata: { labels: { 'service.kubernetes.io/service-proxy-name': '' } } }),
    'an invalid cluster IP': aService({ spec: { clusterIP: '10.96.0' } }),
    'no spec': { metadata: { name: 'web', namespace: 'default' } },
  };
  for (const [name, service] of Object.entries(notProxied)) test(`nothing: ${name}`, () => assert.equal(serviceRow(service), undefined));

  test('a ClusterIP Service', () => {
    assert.deepEqual(serviceRow(aService()), {
      key: 'default/web',
      uid: 'uid-web',
      createdMs: Date.UTC(2026, 0, 1),
      addresses: { ip: { clusterIP: '10.96.0.1', loadBalancerIPs: [], externalIPs: [], sourceRanges: undefined } },
      ports: [{ name: 'http', protocol: 'tcp', port: 80, nodePort: undefined }],
      externalLocal: false,
      internalLocal: false,
      affinitySeconds: undefined,
      healthCheckNodePort: undefined,
      skipped: undefined,
    });
  });

  const dual = { clusterIP: '10.96.0.1', clusterIPs: ['10.96.0.1', 'fd00::1'] };
  const families: Record<string, { spec: NonNullable<Service['spec']>; is: Record<string, string> }> = {
    'one family': { spec: { ipFamilies: ['IPv4'] }, is: { ip: '10.96.0.1' } },
    both: { spec: { ...dual, ipFamilies: ['IPv4', 'IPv6'] }, is: { ip: '10.96.0.1', ip6: 'fd00::1' } },
    'IPv6 first': {
      spec: { clusterIP: 'fd00::1', clusterIPs: ['fd00::1', '10.96.0.1'], ipFamilies: ['IPv6', 'IPv4'] },
      is: { ip: '10.96.0.1', ip6: 'fd00::1' },
    },
    'going back to one: the second cluster IP is no longer its own': { spec: { ...dual, ipFamilies: ['IPv4'] }, is: { ip: '10.96.0.1' } },
    'going to two: the second has none yet': { spec: { ipFamilies: ['IPv4', 'IPv6'], clusterIPs: ['10.96.0.1'] }, is: { ip: '10.96.0.1' } },
    'an old object without families': { spec: { clusterIP: 'fd00::1' }, is: { ip6: 'fd00::1' } },
  };
  for (const [name, { spec, is }] of Object.entries(families))
    test(`families: ${name}`, () => {
      const row = serviceRow(aService({ spec }));
      assert.deepEqual(Object.fromEntries(Object.entries(row?.addresses ?? {}).map(([family, each]) => [family, each.clusterIP])), is);
    });

  test('load balancer addresses: VIP mode only, by family, each once', () => {
    const service = aService({ spec: { type: 'LoadBalancer', clusterIPs: ['10.96.0.1', 'fd00::1'], ipFamilies: ['IPv4', 'IPv6'] } });
    service.status = {
      loadBalancer: {
        ingress: [
          { ip: '192.0.2.1' },
          { ip: '192.0.2.2', ipMode: 'Proxy' },
          { ip: '192.0.2.1', ipMode: 'VIP' },
          { hostname: 'lb' },
          { ip: '2001:DB8::1' },
          { ip: 'junk' },
        ],
      },
    };
    const row = serviceRow(service);
    assert.deepEqual(row?.addresses.ip?.loadBalancerIPs, ['192.0.2.1']);
    assert.deepEqual(row?.addresses.ip6?.loadBalancerIPs, ['2001:db8::1']);
    assert.deepEqual(skippedOf(row), { InvalidAddress: 1 });
  });

  const ranges: Record<string, { given: string[]; ip: string[] | undefined; ip6?: string[] | undefined }> = {
    none: { given: [], ip: undefined },
    'blank and nested (kubernetes#109826)': {
      given: [' 198.51.100.0/24', '198.51.100.0/25', '172.30.0.0/24'],
      ip: ['172.30.0.0/24', '198.51.100.0/24'],
    },
    'everything among them': { given: ['198.51.100.0/24', '0.0.0.0/0'], ip: undefined },
    'one family leaves the other open': { given: ['198.51.100.0/24'], ip: ['198.51.100.0/24'], ip6: undefined },
    'both families': { given: ['198.51.100.0/24', 'fd00::/8'], ip: ['198.51.100.0/24'], ip6: ['fd00::/8'] },
    'none that can be read: nobody': { given: ['everybody'], ip: [], ip6: [] },
    'one that cannot be read beside others': { given: ['everybody', '198.51.100.0/24'], ip: ['198.51.100.0/24'], ip6: undefined },
  };
  for (const [name, { given, ip, ip6 }] of Object.entries(ranges))
    test(`source ranges: ${name}`, () => {
      const spec = { clusterIPs: ['10.96.0.1', 'fd00::1'], ipFamilies: ['IPv4', 'IPv6'], loadBalancerSourceRanges: given };
      const row = serviceRow(aService({ spec, ingress: ['192.0.2.1'] }));
      assert.deepEqual(
        [row?.addresses.ip?.sourceRanges?.map(({ text }) => text), row?.addresses.ip6?.sourceRanges?.map(({ text }) => text)],
        [ip, ip6],
      );
    });

  const policies: Record<string, { spec: NonNullable<Service['spec']>; ingress?: string[]; is: Partial<ReturnType<typeof serviceRow>> }> = {
    'external Local of a ClusterIP Service means nothing': { spec: { externalTrafficPolicy: 'Local' }, is: { externalLocal: false } },
    'external Local with external IPs': {
      spec: { externalTrafficPolicy: 'Local', externalIPs: ['192.0.2.9'] },
      is: { externalLocal: true },
    },
    'external Local of a NodePort Service': {
      spec: { type: 'NodePort', externalTrafficPolicy: 'Local', healthCheckNodePort: 31555 },
      is: { externalLocal: true, healthCheckNodePort: undefined },
    },
    'external Local of a LoadBalancer': {
      spec: { externalTrafficPolicy: 'Local', healthCheckNodePort: 31555 },
      ingress: ['192.0.2.1'],
      is: { externalLocal: true, healthCheckNodePort: 31555 },
    },
    'a health-check port that is none': {
      spec: { externalTrafficPolicy: 'Local', healthCheckNodePort: 70000 },
      ingress: ['192.0.2.1'],
      is: { healthCheckNodePort: undefined },
    },
    'internal Local': { spec: { internalTrafficPolicy: 'Local' }, is: { internalLocal: true } },
    affinity: {
      spec: { sessionAffinity: 'ClientIP', sessionAffinityConfig: { clientIP: { timeoutSeconds: 5 } } },
      is: { affinitySeconds: 5 },
    },
    'affinity without a time': { spec: { sessionAffinity: 'ClientIP' }, is: { affinitySeconds: 10800 } },
  };
  for (const [name, { spec, ingress, is }] of Object.entries(policies))
    test(`policies: ${name}`, () => {
      const row = serviceRow(aService({ spec, ...(ingress && { ingress }) }));
      assert.deepEqual({ ...row, ...is }, row);
    });

  test('ports that cannot be served are skipped and counted, the others stay', () => {
    const ports = [
      { name: 'a', port: 80 },
      { name: 'b', port: 80, protocol: 'UDP' },
      { name: 'c', port: 80, protocol: 'TCP' },
      { name: 'a', port: 81 },
      { name: 'd', port: 0 },
      { name: 'e', port: 70000 },
      { name: 'f', port: 82, protocol: 'ICMP' },
      null,
      { name: 'g', port: 83, nodePort: 0 },
    ];
    const row = serviceRow(aService({ ports: ports as never }));
    assert.deepEqual(
      row?.ports.map(({ name, protocol, port }) => `${name} ${protocol} ${port}`),
      ['a tcp 80', 'b udp 80', 'g tcp 83'],
    );
    assert.equal(row?.ports[2]?.nodePort, undefined);
    assert.deepEqual(skippedOf(row), { DuplicatePort: 2, InvalidPort: 3, InvalidProtocol: 1 });
  });
});

describe('what is kept of a slice', () => {
  const notProxied: Record<string, EndpointSlice> = {
    'no Service': aSlice([], { labels: { 'kubernetes.io/service-name': '' } }),
    'names for addresses': aSlice([], { addressType: 'FQDN' }),
    'of a headless Service': aSlice([], { labels: { 'service.kubernetes.io/headless': '' } }),
    'of another proxy': aSlice([], { labels: { 'service.kubernetes.io/service-proxy-name': 'other' } }),
  };
  for (const [name, slice] of Object.entries(notProxied)) test(`nothing: ${name}`, () => assert.equal(sliceRow(slice), undefined));

  test('absent conditions, hints and targets', () => {
    const row = sliceRow(aSlice([{ addresses: ['10.1.0.7'] }]));
    assert.deepEqual(row?.addresses, [
      {
        ip: '10.1.0.7',
        uid: undefined,
        pod: undefined,
        nodeName: undefined,
        ready: true,
        serving: true,
        terminating: false,
        zoneHints: undefined,
        nodeHints: undefined,
      },
    ]);
  });

  test('only the first address of an endpoint counts', () => {
    const row = sliceRow(aSlice([{ addresses: ['10.1.0.7', '10.1.0.8'] }]));
    assert.deepEqual(
      row?.addresses.map(({ ip }) => ip),
      ['10.1.0.7'],
    );
  });

  test('addresses and ports that cannot be served are skipped and counted, the others stay', () => {
    const endpoints = [
      { addresses: ['10.1.0.7'] },
      { addresses: ['fd00::7'] },
      { addresses: ['127.0.0.1'] },
      { addresses: [] },
      { addresses: null },
      null,
      { addresses: ['x'] },
    ];
    const ports = [
      { name: 'http', port: 8080 },
      { port: 8081 },
      { name: 'any' },
      { name: 'zero', port: 0 },
      { name: 'icmp', port: 1, protocol: 'ICMP' },
      null,
    ];
    const row = sliceRow(aSlice(endpoints as never, { ports: ports as never }));
    assert.deepEqual(
      row?.addresses.map(({ ip }) => ip),
      ['10.1.0.7'],
    );
    assert.deepEqual(row?.ports, [{ name: 'http', protocol: 'tcp', port: 8080 }]);
    assert.deepEqual(skippedOf(row), {
      WrongFamily: 1,
      InvalidAddress: 2,
      NoAddress: 3,
      UnnamedPort: 2,
      InvalidPort: 2,
      InvalidProtocol: 1,
    });
  });

  test('no ports at all is no port', () => {
    const slice = { ...aSlice([anEndpoint('10.1.0.7')]), ports: undefined };
    assert.deepEqual(sliceRow(slice)?.ports, []);
  });

  test('property: whatever is in the objects, reading them does not throw and yields only ports and addresses', () => {
    const junk = fc.oneof(fc.anything(), fc.string(), fc.integer(), fc.constant(null));
    fc.assert(
      fc.property(fc.array(junk), fc.array(junk), junk, (list, ports, value) => {
        const slice = sliceRow(aSlice(list as never, { ports: ports as never }));
        assert.ok(slice?.ports.every(({ port }) => port > 0 && port < 65536) && slice.addresses.every(({ ip }) => /^[\d.]+$/.test(ip)));
        const spec = { externalIPs: list, loadBalancerSourceRanges: list, healthCheckNodePort: value, sessionAffinityConfig: null };
        const row = serviceRow(aService({ ports: ports as never, spec: spec as never }));
        assert.ok(row?.ports.every(({ port }) => port > 0 && port < 65536));
      }),
    );
  });
});
