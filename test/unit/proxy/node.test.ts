import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Family, parseCidr } from '../../../proxy/model/address.ts';
import { detectLocalIn, nodePortAddressesIn, nodePortAddressesProblem } from '../../../proxy/model/node.ts';

const node = { name: 'node', zone: '', addresses: { ip: '172.30.0.2', ip6: 'fd30::2' } };
const own = ['127.0.0.1', '::1', '172.30.0.2', '172.30.0.9', '10.0.0.5', 'fd30::2', 'fe80::1'];

describe('where node ports are served', () => {
  const cases: Record<string, { words: string[]; localhost?: boolean; family?: Family; is: string }> = {
    'by default everywhere but on loopback': { words: [], is: 'all' },
    'with localhost node ports': { words: [], localhost: true, is: 'all+localhost' },
    'IPv6 has no localhost node ports': { words: [], localhost: true, family: 'ip6', is: 'all' },
    primary: { words: ['primary'], localhost: true, is: '172.30.0.2' },
    'primary, IPv6': { words: ['primary'], family: 'ip6', is: 'fd30::2' },
    'primary and localhost': { words: ['primary', 'localhost'], is: '172.30.0.2+localhost' },
    'all and localhost': { words: ['all', 'localhost'], is: 'all+localhost' },
    'localhost alone': { words: ['localhost'], is: '+localhost' },
    'localhost alone, IPv6: nowhere': { words: ['localhost'], family: 'ip6', is: '' },
    'a CIDR': { words: ['172.30.0.0/24'], localhost: true, is: '172.30.0.2,172.30.0.9' },
    'a CIDR and localhost': { words: ['10.0.0.0/8', 'localhost'], is: '10.0.0.5+localhost' },
    'a CIDR of loopback, localhost node ports on': { words: ['127.0.0.0/8', '10.0.0.0/8'], localhost: true, is: '10.0.0.5+localhost' },
    'a CIDR of loopback, localhost node ports off': { words: ['127.0.0.0/8', '10.0.0.0/8'], is: '10.0.0.5' },
    everything: { words: ['0.0.0.0/0'], localhost: true, is: 'all+localhost' },
    'a CIDR that holds none of the addresses: nowhere': { words: ['192.0.2.0/24'], is: '' },
    'CIDRs of the other family alone: everywhere, as upstream': { words: ['fd30::/64'], is: 'all' },
  };
  for (const [name, { words, localhost = false, family = 'ip', is }] of Object.entries(cases))
    test(name, () => {
      assert.equal(nodePortAddressesProblem(words), undefined);
      const where = nodePortAddressesIn(family, { words, localhost }, node, own);
      assert.equal((where.kind === 'all' ? 'all' : where.addresses.join()) + (where.localhost ? '+localhost' : ''), is);
    });

  const problems: Record<string, { words: string[]; says: RegExp }> = {
    'a word nobody knows': { words: ['secondary'], says: /"secondary" is neither a CIDR nor/ },
    'an address without a length': { words: ['10.0.0.1'], says: /neither a CIDR/ },
    'primary and a CIDR': { words: ['primary', '10.0.0.0/8'], says: /'primary' stands alone/ },
    'all and primary': { words: ['all', 'primary'], says: /stands alone/ },
  };
  for (const [name, { words, says }] of Object.entries(problems))
    test(`refused: ${name}`, () => assert.match(nodePortAddressesProblem(words) ?? '', says));
});

describe('which packets are of pods', () => {
  const four = parseCidr('10.244.0.0/16') ?? assert.fail();
  test('CIDRs of one family', () => {
    assert.deepEqual(detectLocalIn('ip', { kind: 'cidrs', cidrs: [four] }), { kind: 'cidrs', cidrs: [four] });
    assert.deepEqual(detectLocalIn('ip6', { kind: 'cidrs', cidrs: [four] }), { kind: 'none' });
  });
  test('interfaces are of both families', () => {
    assert.deepEqual(detectLocalIn('ip6', { kind: 'interfacePrefix', prefix: 'veth' }), { kind: 'interfacePrefix', prefix: 'veth' });
  });
});
