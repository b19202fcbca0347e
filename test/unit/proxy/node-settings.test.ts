import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Node, Pod } from '../../../agent/model/generated/api.ts';
import { backendSettings, eligibilityOf, healthCheckAddresses, nodeFactsOf, type RuleSettings } from '../../../proxy/node-settings.ts';
import { isKubeProxy } from '../../../proxy/peers.ts';

const node: Node = {
  metadata: { name: 'n1', labels: { 'topology.kubernetes.io/zone': 'z1' } },
  spec: { podCIDR: '10.244.1.0/24', podCIDRs: ['10.244.1.0/24', 'fd00:1::/64'], taints: [{ key: 'k', effect: 'NoSchedule' }] },
  status: {
    addresses: [
      { type: 'Hostname', address: 'n1' },
      { type: 'ExternalIP', address: '198.51.100.7' },
      { type: 'InternalIP', address: '172.30.0.2' },
      { type: 'InternalIP', address: 'fd00::2' },
    ],
  },
};
const settings: RuleSettings = {
  detectLocalMode: 'ClusterCIDR',
  detectLocal: { clusterCIDRs: ['10.244.0.0/16'], bridgeInterface: 'br0', interfaceNamePrefix: 'veth' },
  masqueradeAll: false,
  masqueradeBit: 14,
  nodePortAddresses: ['primary'],
  localhostNodePorts: false,
};

describe('what the proxy knows of its node', () => {
  test('internal addresses before external ones, and a bind address before both', () => {
    assert.deepEqual(nodeFactsOf(node, 'n1', '0.0.0.0'), { name: 'n1', zone: 'z1', addresses: { ip: '172.30.0.2', ip6: 'fd00::2' } });
    assert.deepEqual(nodeFactsOf(node, 'n1', '10.9.9.9').addresses, { ip: '10.9.9.9', ip6: 'fd00::2' });
    assert.deepEqual(nodeFactsOf(node, 'n1', '::').addresses, { ip: '172.30.0.2', ip6: 'fd00::2' });
    assert.deepEqual(nodeFactsOf(undefined, 'n1', '0.0.0.0'), { name: 'n1', zone: '', addresses: {} });
  });

  const kinds: Record<string, { mode: string; four: unknown; six: unknown }> = {
    'the cluster CIDR': { mode: 'ClusterCIDR', four: '10.244.0.0/16', six: 'none' },
    "the node's CIDRs": { mode: 'NodeCIDR', four: '10.244.1.0/24', six: 'fd00:1::/64' },
    'a bridge': { mode: 'BridgeInterface', four: 'interface', six: 'interface' },
    'a prefix of interface names': { mode: 'InterfaceNamePrefix', four: 'interfacePrefix', six: 'interfacePrefix' },
  };
  for (const [name, { mode, four, six }] of Object.entries(kinds))
    test(`pods are told by ${name}`, () => {
      const { ip, ip6 } = backendSettings({ ...settings, detectLocalMode: mode }, node, nodeFactsOf(node, 'n1', ''), [], []);
      const shown = ({ detectLocal }: typeof ip): unknown => (detectLocal.kind === 'cidrs' ? detectLocal.cidrs[0]?.text : detectLocal.kind);
      assert.deepEqual([shown(ip), shown(ip6)], [four, six]);
    });

  test('a Node without a pod CIDR: nobody can tell pods', () => {
    const { ip } = backendSettings({ ...settings, detectLocalMode: 'NodeCIDR' }, {}, nodeFactsOf({}, 'n1', ''), [], []);
    assert.deepEqual(ip.detectLocal, { kind: 'none' });
  });

  test('node ports and service CIDRs are told by family', () => {
    const { ip, ip6 } = backendSettings(
      settings,
      node,
      nodeFactsOf(node, 'n1', ''),
      ['172.30.0.2', '10.0.0.1'],
      ['10.96.0.0/12', 'fd00:96::/112', 'x'],
    );
    assert.deepEqual(ip.nodePorts, { kind: 'list', addresses: ['172.30.0.2'], localhost: false });
    assert.deepEqual(
      [ip.serviceCidrs.map(({ text }) => text), ip6.serviceCidrs.map(({ text }) => text)],
      [['10.96.0.0/12'], ['fd00:96::/112']],
    );
  });

  test('health check node ports listen as node ports do, and not in a family that the machine lacks', () => {
    const all = { nodePorts: { kind: 'all' as const, localhost: false } };
    const one = { nodePorts: { kind: 'list' as const, addresses: ['10.0.0.1'], localhost: false } };
    assert.deepEqual(healthCheckAddresses({ ip: all, ip6: all }, ['ip', 'ip6']), ['::']);
    assert.deepEqual(healthCheckAddresses({ ip: all, ip6: all }, ['ip']), ['0.0.0.0']);
    assert.deepEqual(healthCheckAddresses({ ip: one, ip6: all }, ['ip', 'ip6']), ['10.0.0.1', '::']);
  });

  test('what load balancers go by', () => {
    assert.deepEqual(eligibilityOf(node), { deleting: false, taintKeys: ['k'] });
    assert.equal(eligibilityOf(undefined), undefined);
    assert.equal(eligibilityOf({ metadata: { deletionTimestamp: '2026-11-28T12:00:00Z' } })?.deleting, true);
  });
});

const program = [{ name: 'p', command: ['/usr/local/bin/kube-proxy', '--config=x'] }];
const labelled = { labels: { 'k8s-app': 'kube-proxy' } };
const onNode = { hostNetwork: true, containers: [] };
const pods: Record<string, { pod: Pod; is: boolean }> = {
  "kubeadm's": { pod: { metadata: labelled, spec: onNode }, is: true },
  "AKS's": { pod: { metadata: { labels: { component: 'kube-proxy' } }, spec: onNode }, is: true },
  'one by its program': { pod: { spec: { hostNetwork: true, containers: program } }, is: true },
  'one that has ended': { pod: { metadata: labelled, spec: onNode, status: { phase: 'Failed' } }, is: false },
  'an API proxy': { pod: { spec: { hostNetwork: true, containers: [{ name: 'p', command: ['kube-rbac-proxy'] }] } }, is: false },
  'an ordinary pod that calls itself one': { pod: { metadata: labelled, spec: { containers: program } }, is: false },
};
for (const [name, { pod, is }] of Object.entries(pods)) test(`a kube-proxy pod: ${name}`, () => assert.equal(isKubeProxy(pod), is));
