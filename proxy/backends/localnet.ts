// Node ports on 127.0.0.1: a connection from loopback leaves through an interface only where that
// interface's route_localnet is set. It is set on those that lead to endpoints of node ports, and on
// no other: with it, packets to loopback from outside get in but for the rule against martians.
import { readFile, writeFile } from 'node:fs/promises';

/** Files of the node's network namespace; a test has those of another one. */
export interface NetworkFiles {
  read(path: string): Promise<string>;
  write(path: string, text: string): Promise<void>;
}

export const ownNetwork: NetworkFiles = {
  read: (path) => readFile(path, 'utf8'),
  write: (path, text) => writeFile(path, text),
};

/** Lets connections from loopback go to these IPv4 addresses. */
export async function routeLoopbackTo(addresses: readonly string[], files: NetworkFiles): Promise<void> {
  if (addresses.length === 0) return;
  for (const name of egressInterfaces(await files.read('/proc/net/route'), addresses)) {
    const path = `/proc/sys/net/ipv4/conf/${name}/route_localnet`;
    if ((await files.read(path)).trim() !== '1') await files.write(path, '1');
  }
}

/**
 * The interfaces that packets to these addresses leave through, by the main routing table as
 * /proc/net/route shows it. Where a policy sends them another way, nothing is known of it here.
 */
export function egressInterfaces(routes: string, addresses: readonly string[]): Set<string> {
  const table = routes
    .split('\n')
    .slice(1)
    .map((line) => line.split('\t'))
    .filter((columns) => columns.length > 7)
    .map(([name = '', destination = '', , , , , , mask = '']) => ({
      name,
      destination: littleEndian(destination),
      mask: littleEndian(mask),
    }))
    // The longest prefix first.
    .sort((a, b) => b.mask - a.mask);
  const names = addresses.map((address) => {
    const value = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
    return table.find(({ destination, mask }) => (BigInt(value) & BigInt(mask)) === BigInt(destination))?.name;
  });
  return new Set(names.filter((name) => name !== undefined));
}

/** Numbers of /proc/net/route are in the byte order of the machine, which Node runs on only if little. */
function littleEndian(hex: string): number {
  return Number.parseInt(hex.match(/../g)?.reverse().join('') ?? '0', 16);
}
