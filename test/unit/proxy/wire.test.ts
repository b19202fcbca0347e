import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { netlinkMessage } from '../../../agent/drivers/netlink/netlink.ts';
import type { ElementOp } from '../../../proxy/backends/nftables/batch.ts';
import { layout } from '../../../proxy/backends/nftables/layout.ts';
import { elementMessages, fillMessages, parseElements, schemaOf } from '../../../proxy/backends/nftables/wire.ts';
import { type Family, families } from '../../../proxy/model/address.ts';
import type { NetfilterMessage } from '../../../proxy/netlink.ts';
import { settingsOf } from '../../proxy/drive.ts';

/** What stands behind the netlink header, as the kernel would tell it. */
const payload = ({ type, flags, write }: NetfilterMessage): Buffer => netlinkMessage(type, flags, Buffer.alloc(4), write).subarray(16);

const add = (set: string, key: string, value?: string): ElementOp => ({ op: 'add', set, key, value });

describe('elements on the wire', () => {
  const four = ['10.96.0.1', '10.1.0.7', '192.0.2.0/24'];
  const six = ['fd96::1', 'fd44:1::7', '2001:db8::/48'];
  for (const [family, [vip, pod, cidr]] of [
    ['ip', four],
    ['ip6', six],
  ] as [Family, string[]][])
    test(`${family}: what is written is read back as it was spelled`, () => {
      const elements = [
        add('frontends', `${vip} . tcp . 80`, 'goto pick-5'),
        add('closed', `${vip} . udp . 65535`, 'drop'),
        add('sctp-endpoints', `${vip} . sctp . 80 . 70000`, `${pod} . 8080`),
        add('nodeport-tcp-endpoints-local', 'tcp . 30080 . 0', `${pod} . 8080`),
        add('cluster-ips', `${vip}`),
        add('hairpin', `${pod} . ${pod}`),
        add('allowed-sources', `${vip} . tcp . 80 . ${cidr}`),
        add('allowed-sources', `${vip} . tcp . 81 . ${family === 'ip' ? '0.0.0.0/0' : '::/0'}`),
        add('clients-0123456789ab', `${pod}`, `${vip}`),
        add('client-ports-0123456789ab', `${pod}`, '8080'),
      ];
      for (const element of elements) {
        const messages = elementMessages(family, [element]) ?? assert.fail(element.set);
        assert.deepEqual([...parseElements(family, element.set, messages.map(payload))], [[element.key, element.value]], element.set);
      }
    });

  test('every set of the layout is known, but those that are filled whole', () => {
    for (const family of families) {
      const unknown = layout(family, settingsOf({}, family)).sets.filter(({ name }) => schemaOf(name) === undefined);
      assert.deepEqual(
        unknown.map(({ name }) => name),
        ['service-cidrs', 'nodeport-ips'],
      );
    }
  });

  test('the kernel’s order of bytes: goto is -4, a slot is in the machine’s order, a port in the network’s', () => {
    const [message] = elementMessages('ip', [add('tcp-endpoints', '10.96.0.1 . tcp . 80 . 1', '10.1.0.7 . 8080')]) ?? [];
    const hex = payload(message ?? assert.fail()).toString('hex');
    assert.match(hex, /0a600001060000000050000001000000/);
    assert.match(hex, /0a0100071f900000/);
  });

  test('many elements are many messages of at most 64 KiB; operations keep their order', () => {
    const many = Array.from({ length: 10_000 }, (_, index) => add('tcp-endpoints', `10.96.0.1 . tcp . 80 . ${index}`, '10.1.0.7 . 8080'));
    const gone: ElementOp = { op: 'delete', set: 'cluster-ips', key: '10.96.0.9', value: undefined };
    const messages = elementMessages('ip', [gone, ...many, add('cluster-ips', '10.96.0.9')]) ?? [];
    assert.deepEqual([messages[0]?.type, messages[1]?.type, messages.at(-1)?.type], [0x0a0e, 0x0a0c, 0x0a0c]);
    assert.ok(messages.every((message) => payload(message).length < 65_536));
    assert.equal(parseElements('ip', 'tcp-endpoints', messages.slice(1, -1).map(payload)).size, 10_000);
  });

  test('a set that is nobody’s of ours is left to the text; an element that is none is refused', () => {
    assert.equal(elementMessages('ip', [add('other', '10.96.0.1')]), undefined);
    assert.throws(() => elementMessages('ip', [add('frontends', '10.96.0.1 . tcp', 'drop')]), { code: 'BatchRefused' });
    assert.throws(() => elementMessages('ip', [add('frontends', '10.96.0.1 . tcp . 80', 'queue')]), { code: 'BatchRefused' });
  });

  test('intervals: nested and touching ranges are one, and the last address has no end', () => {
    const keys = (given: string[]): string[] =>
      [
        ...Buffer.concat(fillMessages('ip', 'service-cidrs', given).slice(1).map(payload))
          .toString('hex')
          .matchAll(/08000100([0-9a-f]{8})(0800030000000001)?/g),
      ].map(([, key, end]) => `${key}${end === undefined ? '' : ' end'}`);
    assert.deepEqual(keys([]), []);
    assert.deepEqual(keys(['10.0.0.0/9', '10.1.0.0/16', '10.128.0.0/9', '192.0.2.1']), [
      '0a000000',
      '0b000000 end',
      'c0000201',
      'c0000202 end',
    ]);
    assert.deepEqual(keys(['240.0.0.0/4']), ['f0000000']);
  });
});
