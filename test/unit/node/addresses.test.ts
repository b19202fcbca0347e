import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NetworkFacts } from '../../../agent/drivers/proc/machine.ts';
import type { NodeAddress } from '../../../agent/model/generated/api.ts';
import { hostIPs, planAddresses, providedIpAnnotation } from '../../../agent/node/addresses.ts';
import { network } from './fixtures.ts';

interface Case {
  readonly name: string;
  readonly nodeIPs?: string[];
  readonly hostname?: string;
  readonly external?: boolean;
  readonly resolved?: string[];
  readonly network?: NetworkFacts;
  readonly before?: { type: string; address: string }[];
  /** `InternalIP=…` in order, the host name left out. */
  readonly want?: string[];
  readonly problem?: RegExp;
}

const cases: Case[] = [
  { name: 'nothing said: the default route’s IPv4', want: ['172.30.0.2'] },
  { name: '"::" prefers IPv6', nodeIPs: ['::'], want: ['fd00:30::2'] },
  { name: '"0.0.0.0" prefers IPv4', nodeIPs: ['0.0.0.0'], want: ['172.30.0.2'] },
  { name: 'an address of this machine', nodeIPs: ['10.9.0.1'], want: ['10.9.0.1'] },
  { name: 'the same in other words', nodeIPs: ['fd00:30:0:0::2'], want: ['fd00:30:0:0::2'] },
  { name: 'a pair, in the order given', nodeIPs: ['fd00:30::2', '172.30.0.2'], want: ['fd00:30::2', '172.30.0.2'] },
  {
    name: 'an address of another machine',
    nodeIPs: ['10.9.0.9'],
    problem: /failed to validate nodeIP: node IP: "10.9.0.9" not found in the host's network interfaces/,
  },
  { name: 'loopback', nodeIPs: ['127.0.0.1'], problem: /can't be loopback/ },
  { name: 'link-local', nodeIPs: ['fe80::1'], problem: /link-local/ },
  { name: 'multicast', nodeIPs: ['224.0.0.1'], problem: /multicast/ },
  { name: 'a host name that is an address', hostname: '10.1.1.1', want: ['10.1.1.1'] },
  { name: 'a host name that resolves to this machine', resolved: ['10.1.1.1', '10.9.0.1'], want: ['10.9.0.1'] },
  { name: 'a host name that resolves to IPv6 only', resolved: ['fd00:30::2'], want: ['fd00:30::2'] },
  { name: 'a host name that resolves to loopback only (Debian’s 127.0.1.1)', resolved: ['127.0.1.1'], want: ['172.30.0.2'] },
  { name: 'only an IPv6 route', network: { ...network, defaultRoutes: [{ family: 6, interface: 'eth0' }] }, want: ['fd00:30::2'] },
  { name: 'no route', network: { ...network, defaultRoutes: [] }, problem: /can't get ip address of node n1/ },
  {
    name: 'link-local interfaces, the address on lo',
    network: {
      addresses: [
        { interface: 'lo', address: '10.5.5.5', family: 4 },
        { interface: 'eth0', address: '169.254.1.1', family: 4 },
      ],
      defaultRoutes: [{ family: 4, interface: 'eth0' }],
    },
    want: ['10.5.5.5'],
  },
  { name: 'a cloud controller’s addresses stay', external: true, before: [{ type: 'ExternalIP', address: '1.2.3.4' }], want: ['1.2.3.4'] },
  { name: 'waiting for a cloud controller', external: true, want: [] },
  { name: 'a cloud controller is helped by --node-ip', external: true, nodeIPs: ['172.30.0.2'], want: ['172.30.0.2'] },
];

for (const c of cases)
  test(c.name, () => {
    const plan = planAddresses({
      nodeIPs: c.nodeIPs ?? [],
      hostname: c.hostname ?? 'n1',
      cloudProviderExternal: c.external ?? false,
      network: c.network ?? network,
      resolved: c.resolved ?? [],
      before: c.before ?? [],
    });
    if (c.problem !== undefined) {
      assert.equal(plan.kind, 'problem');
      assert.match(plan.kind === 'problem' ? plan.message : '', c.problem);
      return;
    }
    assert.equal(plan.kind, 'addresses');
    const addresses = plan.kind === 'addresses' ? plan.addresses : [];
    assert.deepEqual(
      addresses.filter((a) => a.type !== 'Hostname').map((a) => a.address),
      c.want,
    );
    if (c.before === undefined) assert.deepEqual(addresses.at(-1), { type: 'Hostname', address: c.hostname ?? 'n1' });
  });

test('the annotation for a cloud controller', () => {
  assert.equal(providedIpAnnotation(['10.0.0.1', 'fd00::1'], true), '10.0.0.1,fd00::1');
  assert.equal(providedIpAnnotation(['10.0.0.1'], false), undefined);
  assert.equal(providedIpAnnotation(['::'], true), undefined);
});

const ofTypes = (text: string): NodeAddress[] =>
  text.split(' ').map((one) => ({ type: one.split('=')[0] ?? '', address: one.split('=')[1] ?? '' }));
const seen: [string, NodeAddress[] | undefined, string[]][] = [
  ['none yet', undefined, []],
  ['a name only', ofTypes('Hostname=n'), []],
  ['the internal one', ofTypes('ExternalIP=203.0.113.1 InternalIP=10.0.0.1 Hostname=n'), ['10.0.0.1']],
  ['an external one where there is no other', ofTypes('ExternalIP=203.0.113.1'), ['203.0.113.1']],
  ['one of each family', ofTypes('InternalIP=fd00::1 InternalIP=10.0.0.1'), ['fd00::1', '10.0.0.1']],
  [
    'no second one of a family',
    ofTypes('InternalIP=10.0.0.1 InternalIP=10.1.0.1 InternalIP=fd00::1 InternalIP=fd00::2'),
    ['10.0.0.1', 'fd00::1'],
  ],
  [
    'the other family from outside',
    ofTypes('InternalIP=10.0.0.1 ExternalIP=203.0.113.1 ExternalIP=2001:db8::1'),
    ['10.0.0.1', '2001:db8::1'],
  ],
];
for (const [name, addresses, want] of seen) test(`addresses that pods are told: ${name}`, () => assert.deepEqual(hostIPs(addresses), want));
