import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { cidrContains, hostCidr, isUnusable, mergeCidrs, parseAddress, parseCidr } from '../../../proxy/model/address.ts';

describe('addresses', () => {
  const addresses: Record<string, { text: string; is?: string }> = {
    IPv4: { text: '10.96.0.1', is: 'ip 10.96.0.1' },
    'leading zeros are decimal': { text: '010.096.000.001', is: 'ip 10.96.0.1' },
    'a number too large': { text: '10.96.0.256' },
    'three numbers': { text: '10.96.1' },
    'IPv6 in its long form': { text: 'FD00:0:0:0:0:0:0:0001', is: 'ip6 fd00::1' },
    'IPv6 unspecified': { text: '::', is: 'ip6 ::' },
    'IPv6 with an IPv4 tail': { text: '64:ff9b::10.0.0.1', is: 'ip6 64:ff9b::a00:1' },
    'IPv4-mapped': { text: '::ffff:10.0.0.1', is: 'ip 10.0.0.1' },
    'IPv4-mapped in hex': { text: '::ffff:a00:1', is: 'ip 10.0.0.1' },
    'a zone': { text: 'fe80::1%eth0' },
    'a name': { text: 'example' },
    nothing: { text: '' },
    'a command': { text: '10.0.0.1; flush ruleset' },
    'a line break at the end': { text: '10.0.0.1\n' },
  };
  for (const [name, { text, is }] of Object.entries(addresses))
    test(name, () => {
      const address = parseAddress(text);
      assert.equal(address && `${address.family} ${address.text}`, is);
    });

  const cidrs: Record<string, { text: string; is?: string }> = {
    IPv4: { text: '10.96.0.0/12', is: '10.96.0.0/12' },
    'host bits are cut off': { text: '10.97.3.4/12', is: '10.96.0.0/12' },
    'blanks around it': { text: ' 198.51.100.0/24 ', is: '198.51.100.0/24' },
    everything: { text: '1.2.3.4/0', is: '0.0.0.0/0' },
    IPv6: { text: 'FD00::1/64', is: 'fd00::/64' },
    'IPv4-mapped': { text: '::ffff:10.0.0.0/104', is: '10.0.0.0/8' },
    'too long': { text: '10.0.0.0/33' },
    'too long for IPv6': { text: 'fd00::/129' },
    'no length': { text: '10.0.0.0' },
    negative: { text: '10.0.0.0/-1' },
  };
  for (const [name, { text, is }] of Object.entries(cidrs)) test(`CIDR: ${name}`, () => assert.equal(parseCidr(text)?.text, is));

  test('what names no Service and no endpoint', () => {
    const unusable = ['0.0.0.0', '127.0.0.1', '224.0.0.1', '239.1.1.1', '255.255.255.255', '::', '::1', 'ff02::1'];
    const usable = ['10.0.0.1', '223.255.255.255', '240.0.0.1', '169.254.20.10', 'fe80::1', 'fd00::1'];
    const judged = [...unusable, ...usable].filter((text) => isUnusable(parseAddress(text) ?? assert.fail(text)));
    assert.deepEqual(judged, unusable);
  });

  test('nested ranges: only the outer ones stay', () => {
    const texts = ['198.51.100.0/25', '198.51.100.0/24', '172.30.0.0/24', '198.51.100.128/25', '198.51.100.7/32', '198.51.101.0/24'];
    const merged = mergeCidrs(texts.map((text) => parseCidr(text) ?? assert.fail(text)));
    assert.deepEqual(
      merged.map(({ text }) => text),
      ['172.30.0.0/24', '198.51.100.0/24', '198.51.101.0/24'],
    );
  });

  const anAddress = fc.oneof(fc.ipV4(), fc.ipV6());

  test('property: an address has one spelling', () => {
    fc.assert(
      fc.property(anAddress, (text) => {
        const address = parseAddress(text) ?? assert.fail(text);
        assert.deepEqual(parseAddress(address.text), address);
        assert.ok(cidrContains(hostCidr(address), address));
      }),
    );
  });

  test('property: merged ranges are disjoint and hold the same addresses', () => {
    // Few distinct networks, so that they meet.
    const aCidr = fc
      .tuple(fc.integer({ min: 0, max: 63 }), fc.integer({ min: 22, max: 32 }))
      .map(([host, length]) => `10.0.${host >> 4}.${(host & 15) * 17}/${length}`);
    fc.assert(
      fc.property(fc.array(aCidr, { maxLength: 12 }), fc.integer({ min: 0, max: 1023 }), (texts, host) => {
        const cidrs = texts.map((text) => parseCidr(text) ?? assert.fail(text));
        const merged = mergeCidrs(cidrs);
        const address = parseAddress(`10.0.${host >> 8}.${host & 255}`) ?? assert.fail();
        assert.equal(
          merged.some((cidr) => cidrContains(cidr, address)),
          cidrs.some((cidr) => cidrContains(cidr, address)),
        );
        assert.ok(merged.every((cidr, index) => index === 0 || cidr.first > (merged[index - 1]?.last ?? 0n)));
      }),
    );
  });
});
