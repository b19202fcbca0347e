import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createInterpreter, type Outcome } from '../../../proxy/backends/nftables/interpreter.ts';
import { createNftables } from '../../../proxy/backends/nftables/worker.ts';
import { type Client, contracts, type Probe, servers } from '../../proxy/contract.ts';
import { drive, ownAddresses } from '../../proxy/drive.ts';
import { addresses, addresses6 } from '../../proxy/network.ts';

const isOwn = (address: string): boolean => ownAddresses.includes(address);
const interfaces: Record<Client, string | undefined> = { node: undefined, 'pod-a': 'veth0', 'pod-b': 'veth1', outside: 'e0', guest: 'e0' };

/** Which server an outcome reaches, as a probe says it. */
function serverOf({ kind, daddr, dport, masqueraded }: Outcome, from: Client): string {
  if (kind !== 'delivered') return kind;
  const found = Object.entries(servers).find(
    ([, { address, address6, port }]) => port === dport && (address === daddr || address6 === daddr),
  );
  if (found === undefined) return isOwn(daddr) ? 'refused' : 'dropped';
  return `${found[0]}${masqueraded || from === 'node' ? '*' : ''}`;
}

/** `10.96.0.1:80` or `[fd96::1]:80`. */
function placeOf(to: string): { daddr: string; dport: number; six: boolean } {
  const [, six, four, port] = /^(?:\[(.+)\]|([^[\]]+)):(\d+)$/.exec(to) ?? [];
  return { daddr: six ?? four ?? '', dport: Number(port), six: six !== undefined };
}

function sourceOf({ from, to }: Probe): string {
  const { daddr, six } = placeOf(to);
  if (from === 'node' && daddr === '127.0.0.1') return daddr;
  return six ? addresses6[from as 'node'] : addresses[from];
}

describe('the rules of nftables, followed by the interpreter', () => {
  for (const [name, contract] of Object.entries(contracts))
    test(name, async () => {
      const interpreter = createInterpreter();
      const { family = 'ip' } = contract;
      await using driven = await drive(
        createNftables(family, interpreter, () => performance.now()),
        contract,
      );
      for (const probe of contract.probes) {
        const { daddr, dport } = placeOf(probe.to);
        const packet = { saddr: sourceOf(probe), daddr, dport, protocol: probe.protocol ?? 'tcp', from: interfaces[probe.from] } as const;
        const outcomes = interpreter.trace(packet, isOwn);
        const reached = [...new Set(outcomes.map((outcome) => serverOf(outcome, probe.from)))].sort().join(' ');
        assert.equal(reached, probe.is, `${probe.from} → ${probe.to}: ${outcomes[0]?.path.join(' → ')}`);
      }
      assert.deepEqual(
        driven.events.filter(({ reason }) => reason !== 'FrontendConflict'),
        [],
      );
    });
});
