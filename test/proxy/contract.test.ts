// The contract of the proxy by real packets, on the kernel of this machine, in namespaces of its own.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { systemClock } from '../../agent/base/clock.ts';
import type { Backend } from '../../proxy/backends/backend.ts';
import { createIptables, type Variant } from '../../proxy/backends/iptables/iptables.ts';
import { createIptablesBackend } from '../../proxy/backends/iptables/worker.ts';
import { createNftables } from '../../proxy/backends/nftables/worker.ts';
import type { Family } from '../../proxy/model/address.ts';
import { type Client, contracts, type Probe, servers } from './contract.ts';
import { drive } from './drive.ts';
import { hasLegacy, resetNode } from './iptables.ts';
import { netfilterOn, type Transport } from './netfilter.ts';
import { addresses, createNetwork, type Network, networkFiles, type Place } from './network.ts';

const places: Record<Client, Place> = { node: 'node', 'pod-a': 'pod-a', 'pod-b': 'pod-b', outside: 'outside', guest: 'outside' };
/** Enough for each of three endpoints to have its turn, but once in fifty thousand runs. */
const connections = 30;

let network: Network;

async function serve(): Promise<void> {
  for (const { place, address, address6, port } of Object.values(servers))
    for (const protocol of ['tcp', 'udp'] as const)
      for (const each of [address, address6]) await network.ask(place, { do: 'serve', protocol, address: each, port });
}

/** What a probe meets, in the words of the contract. */
async function reached({ from, to, protocol = 'tcp' }: Probe): Promise<{ is: string; slowest: number }> {
  const [, six, four, port] = /^(?:\[(.+)\]|([^[\]]+)):(\d+)$/.exec(to) ?? [];
  const source = from === 'guest' ? addresses.guest : from === 'outside' && four !== undefined ? addresses.outside : undefined;
  const answers = await network.ask(places[from], {
    do: 'connect',
    protocol,
    address: six ?? four ?? '',
    port: Number(port),
    source,
    count: connections,
    timeoutMs: 700,
  });
  const words = answers.map(({ said }) => {
    if (said === 'ECONNREFUSED') return 'refused';
    if (said === 'timeout') return 'dropped';
    const [server = '', client = ''] = said.split(' ');
    const found = Object.entries(servers).find(([, each]) =>
      [`${each.address}:${each.port}`, `[${each.address6}]:${each.port}`].includes(server),
    );
    return found === undefined ? said : `${found[0]}${nodeAddresses.has(client) ? '*' : ''}`;
  });
  return { is: [...new Set(words)].sort().join(' '), slowest: Math.max(...answers.map(({ ms }) => ms)) };
}

const nodeAddresses = new Set(['172.30.0.2', '10.244.1.1', '127.0.0.1', 'fd30::2']);

const nftablesOn =
  (transport: Transport) =>
  (family: Family): Backend =>
    createNftables(family, netfilterOn(network, transport, family), () => performance.now());

const iptablesOn =
  (variant: Variant) =>
  (family: Family): Backend => {
    const prefix = network.inside('node');
    return createIptablesBackend(family, createIptables(family, { clock: systemClock, prefix, files: networkFiles(network), variant }), 0);
  };

const backends: Record<string, (family: Family) => Backend> = {
  nftables: nftablesOn('netlink'),
  'nftables, text': nftablesOn('text'),
  'iptables, nft': iptablesOn('nft'),
  ...(hasLegacy() && { 'iptables, legacy': iptablesOn('legacy') }),
};

for (const [backend, createOn] of Object.entries(backends))
  describe(`${backend}, by packets`, () => {
    before(async () => {
      network = await createNetwork();
      await serve();
    });
    after(async () => await network[Symbol.asyncDispose]());

    for (const [name, contract] of Object.entries(contracts)) {
      if (contract.only !== undefined && !backend.startsWith(contract.only)) continue;
      test(name, async () => {
        resetNode(network);
        await using driven = await drive(createOn(contract.family ?? 'ip'), contract);
        for (const probe of contract.probes) {
          const { is, slowest } = await reached(probe);
          assert.equal(is, probe.is, `${probe.from} → ${probe.to}`);
          if (probe.is === 'refused') assert.ok(slowest < 300, `${probe.from} → ${probe.to}: refused after ${slowest} ms`);
        }
        assert.deepEqual(
          driven.events.filter(({ reason }) => reason !== 'FrontendConflict'),
          [],
        );
      });
    }
  });
