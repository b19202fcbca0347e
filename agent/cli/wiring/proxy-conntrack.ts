import type { ConntrackMessage } from '../../../proxy/conntrack/codec.ts';
import { type Netlink, netlinkMessage } from '../../drivers/netlink/netlink.ts';

// include/uapi/linux/socket.h
const addressFamilies = { ip: 2, ip6: 10 } as const;

/** Sends the proxy's messages about tracked connections over a netlink socket. */
export function conntrackRequest(netlink: Netlink): (message: ConntrackMessage) => Promise<Buffer[]> {
  return async ({ type, flags, family, write }) => {
    // struct nfgenmsg: address family, version, resource ID.
    const head = Buffer.from([addressFamilies[family], 0, 0, 0]);
    return (await netlink.request(netlinkMessage(type, flags, head, write))).map(({ payload }) => payload);
  };
}
