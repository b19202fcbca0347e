// What iptables-save prints.
import { type ChainId, chainId, type TableName } from './names.ts';

/** A table as the kernel has it: each chain's rules as they were printed, without `-A CHAIN`. */
export type Listing = ReadonlyMap<ChainId, readonly string[]>;

export function parseSave(table: TableName, text: string): Listing {
  const chains = new Map<ChainId, string[]>();
  for (const line of text.split('\n')) {
    const chain = /^:(\S+) /.exec(line)?.[1];
    if (chain !== undefined) {
      chains.set(chainId(table, chain), []);
      continue;
    }
    const [, name = '', rule] = /^-A (\S+) ?(.*)$/.exec(line) ?? [];
    if (rule !== undefined) chains.get(chainId(table, name))?.push(rule);
  }
  return chains;
}
