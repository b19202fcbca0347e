// The iptables binaries of this machine, for tests that need their kernel parts.
import { execFileSync } from 'node:child_process';
import type { Network } from './network.ts';

/** Whether this kernel has the tables of iptables-legacy. */
export function hasLegacy(): boolean {
  try {
    execFileSync('unshare', ['--net', 'iptables-legacy', '-t', 'nat', '-S'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** Takes all rules of the node away, whatever made them. */
export function resetNode(network: Network): void {
  network.run('node', 'nft', 'flush', 'ruleset');
  for (const [tool, names] of [
    ['iptables-legacy', '/proc/net/ip_tables_names'],
    ['ip6tables-legacy', '/proc/net/ip6_tables_names'],
  ])
    network.run('node', 'sh', '-c', `for table in $(cat ${names} 2>/dev/null); do ${tool} -t $table -F; ${tool} -t $table -X; done`);
}
