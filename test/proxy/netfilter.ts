// Both ways to the kernel's nf_tables, in the node's namespace of a test network.
import { closeSync, openSync } from 'node:fs';
import koffi from 'koffi';
import { systemClock } from '../../agent/base/clock.ts';
import { netfilterSocket } from '../../agent/cli/wiring/proxy-netlink.ts';
import { netfilterProtocol, openNetlink } from '../../agent/drivers/netlink/netlink.ts';
import type { Netfilter } from '../../proxy/backends/nftables/netfilter.ts';
import { createNetlinkElements } from '../../proxy/backends/nftables/netlink.ts';
import { createNft } from '../../proxy/backends/nftables/nft.ts';
import type { Family } from '../../proxy/model/address.ts';
import { type Network, networkFiles } from './network.ts';

export type Transport = 'text' | 'netlink';
export const transports: readonly Transport[] = ['text', 'netlink'];

const setns = koffi.load('libc.so.6').func('int setns(int fd, int type)') as (fd: number, type: number) => number;
const CLONE_NEWNET = 0x40000000;

/** Runs something synchronous in a network namespace: a socket that it opens stays there. */
export function insideNamespace<T>(path: string, run: () => T): T {
  const own = openSync('/proc/self/ns/net', 'r');
  const other = openSync(path, 'r');
  try {
    if (setns(other, CLONE_NEWNET) !== 0) throw new Error(`cannot enter ${path}`);
    return run();
  } finally {
    setns(own, CLONE_NEWNET);
    closeSync(own);
    closeSync(other);
  }
}

export function netfilterOn(network: Network, transport: Transport, family: Family = 'ip'): Netfilter {
  const text = createNft(family, { clock: systemClock, command: [...network.inside('node'), 'nft'], files: networkFiles(network) });
  if (transport === 'text') return text;
  const netlink = insideNamespace(network.namespace('node'), () => openNetlink(netfilterProtocol));
  const elements = createNetlinkElements(family, text, netfilterSocket(netlink));
  return {
    ...elements,
    async [Symbol.asyncDispose]() {
      await elements[Symbol.asyncDispose]();
      await netlink[Symbol.asyncDispose]();
    },
  };
}
