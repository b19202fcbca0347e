import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { AgentPod } from '../../../agent/model/pod.ts';
import { checkResolvConf, type DnsSettings, parseResolvConf, podDns, podHostname, sandboxHostname } from '../../../agent/pods/dns.ts';
import { hostNetworkHosts, managedHosts } from '../../../agent/pods/etc-hosts.ts';

const pod = (spec: Partial<AgentPod['spec']> = {}, name = 'p'): AgentPod => ({
  metadata: { name, namespace: 'ns', uid: 'u' },
  spec: { containers: [], ...spec },
});

test('resolv.conf', () => {
  const text = '# c\nnameserver 1.1.1.1\n nameserver  2.2.2.2 x\nsearch a b\nsearch c. . d\noptions ndots:2 rotate\noptions ndots:3\n\n';
  assert.deepEqual(parseResolvConf(text), { nameservers: ['1.1.1.1', '2.2.2.2'], searches: ['c', 'd'], options: ['ndots:3', 'rotate'] });
  assert.throws(() => parseResolvConf('nameserver\n'), /nameserver list is empty/);
  assert.deepEqual(parseResolvConf(''), { nameservers: [], searches: [], options: [] });
});

describe('dns', () => {
  const settings: DnsSettings = {
    resolvConf: { nameservers: ['8.8.8.8'], searches: ['corp.example', 'svc.cluster.local'], options: ['timeout:1'] },
    clusterDNS: ['10.0.0.10', 'fd00::a'],
    clusterDomain: 'cluster.local',
    nodeIPs: ['192.168.0.1', 'fd01::1'],
  };
  const cluster = {
    servers: ['10.0.0.10', 'fd00::a'],
    searches: ['ns.svc.cluster.local', 'svc.cluster.local', 'cluster.local', 'corp.example'],
    options: ['ndots:5'],
  };
  const host = { servers: ['8.8.8.8'], searches: ['corp.example', 'svc.cluster.local'], options: ['timeout:1'] };
  const local = { servers: ['127.0.0.1', '::1'], searches: ['.'], options: [] };
  const table: [string, Partial<AgentPod['spec']>, Partial<DnsSettings>, object, string[]][] = [
    ['ClusterFirst', { dnsPolicy: 'ClusterFirst' }, {}, cluster, []],
    ['ClusterFirst on the node network', { dnsPolicy: 'ClusterFirst', hostNetwork: true }, {}, host, []],
    ['ClusterFirstWithHostNet', { dnsPolicy: 'ClusterFirstWithHostNet', hostNetwork: true }, {}, cluster, []],
    ['Default', { dnsPolicy: 'Default' }, {}, host, []],
    ['Default without a resolv.conf', { dnsPolicy: 'Default' }, { resolvConf: undefined }, local, []],
    [
      'ClusterFirst without a cluster DNS',
      { dnsPolicy: 'ClusterFirst' },
      { clusterDNS: [] },
      host,
      ['MissingClusterDNS', 'MissingClusterDNS'],
    ],
    ['ClusterFirst without a domain', {}, { clusterDomain: '' }, { ...cluster, searches: host.searches }, []],
    [
      'None with its own',
      {
        dnsPolicy: 'None',
        dnsConfig: { nameservers: ['9.9.9.9'], searches: ['a', 'a'], options: [{ name: 'ndots', value: '1' }, { name: 'edns0' }] },
      },
      {},
      { servers: ['9.9.9.9'], searches: ['a'], options: ['ndots:1', 'edns0'] },
      [],
    ],
    [
      'merged: own options win, doubles count once',
      { dnsConfig: { nameservers: ['10.0.0.10', '9.9.9.9'], searches: ['cluster.local', 'z'], options: [{ name: 'ndots', value: '2' }] } },
      {},
      { servers: ['10.0.0.10', 'fd00::a', '9.9.9.9'], searches: [...cluster.searches, 'z'], options: ['ndots:2'] },
      [],
    ],
    [
      'too many nameservers and search paths',
      { dnsPolicy: 'None', dnsConfig: { nameservers: ['1', '2', '3', '4'], searches: Array.from({ length: 33 }, (_, i) => `d${i}`) } },
      {},
      { servers: ['1', '2', '3'], searches: Array.from({ length: 32 }, (_, i) => `d${i}`), options: [] },
      ['DNSConfigForming', 'DNSConfigForming'],
    ],
    [
      'search paths too long, alone and together',
      {
        dnsPolicy: 'None',
        dnsConfig: { nameservers: ['1'], searches: ['x'.repeat(254), ...Array.from({ length: 9 }, (_, i) => `${i}`.repeat(250))] },
      },
      {},
      { servers: ['1'], searches: Array.from({ length: 8 }, (_, i) => `${i}`.repeat(250)), options: [] },
      ['DNSConfigForming'],
    ],
  ];
  for (const [name, spec, change, config, events] of table) {
    test(name, () => {
      const got = podDns(pod(spec), { ...settings, ...change });
      assert.deepEqual(got.config, config);
      assert.deepEqual(
        got.events.map((e) => e.reason),
        events,
      );
    });
  }
  test('the node itself', () => {
    const searches = (n: number, length = 3): object => ({
      nameservers: [],
      options: [],
      searches: Array.from({ length: n }, () => 'x'.repeat(length)),
    });
    assert.equal(checkResolvConf('/f', searches(29) as never, 'cluster.local'), undefined);
    assert.match(checkResolvConf('/f', searches(30) as never, 'cluster.local')?.message ?? '', /more than 29 domains/);
    assert.match(checkResolvConf('/f', searches(1, 254) as never, '')?.message ?? '', /253 chars/);
    assert.match(checkResolvConf('/f', searches(10, 250) as never, '')?.message ?? '', /2048 chars/);
  });
});

describe('host names', () => {
  const long = `${'a'.repeat(62)}.b-c`;
  const table: [string, AgentPod, { hostname: string; domain: string }][] = [
    ['the pod', pod(), { hostname: 'p', domain: '' }],
    ['its own', pod({ hostname: 'h' }), { hostname: 'h', domain: '' }],
    ['with a subdomain', pod({ hostname: 'h', subdomain: 's' }), { hostname: 'h', domain: 's.ns.svc.cluster.local' }],
    ['a long name is cut, and ends in a letter', pod({}, long), { hostname: 'a'.repeat(62), domain: '' }],
    ['override', pod({ hostname: 'h', subdomain: 's', hostnameOverride: 'x.y' }), { hostname: 'x.y', domain: '' }],
  ];
  for (const [name, p, want] of table) test(name, () => assert.deepEqual(podHostname(p, 'cluster.local'), want));
  test('bad ones', () => {
    assert.throws(() => podHostname(pod({ hostname: 'A' }), 'd'), /pod Hostname "A" is not a valid DNS label/);
    assert.throws(() => podHostname(pod({ subdomain: 'a.b' }), 'd'), /must not contain dots/);
    assert.throws(() => podHostname(pod({ hostnameOverride: '-' }), 'd'), /not a valid DNS subdomain/);
  });
  test('full names', () => {
    assert.equal(sandboxHostname(pod({ subdomain: 's' }), 'cluster.local'), 'p');
    assert.equal(sandboxHostname(pod({ subdomain: 's', setHostnameAsFQDN: true }), 'cluster.local'), 'p.s.ns.svc.cluster.local');
    assert.throws(() => sandboxHostname(pod({ subdomain: 's', setHostnameAsFQDN: true }, 'p'.repeat(50)), 'cluster.local'), /is too long/);
    assert.equal(sandboxHostname(pod({ hostNetwork: true, subdomain: 's', setHostnameAsFQDN: true }, 'p'.repeat(50)), 'd'), '');
  });
});

test('/etc/hosts', () => {
  const head =
    '# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n';
  const aliases = [{ ip: '1.2.3.4', hostnames: ['a', 'b'] }];
  assert.equal(managedHosts(['10.0.0.5', 'fd00::5'], 'h', '', undefined), `${head}10.0.0.5\th\nfd00::5\th\n`);
  assert.equal(
    managedHosts(['10.0.0.5'], 'h', 's.ns.svc.d', aliases),
    `${head}10.0.0.5\th.s.ns.svc.d\th\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n`,
  );
  assert.equal(
    hostNetworkHosts('127.0.0.1 localhost\n', aliases),
    '# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n',
  );
});
