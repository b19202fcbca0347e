import type { NetfilterSocket } from '../../../proxy/backends/nftables/netlink.ts';
import type { NetfilterMessage } from '../../../proxy/netlink.ts';
import { type Netlink, netlinkMessage } from '../../drivers/netlink/netlink.ts';

// include/uapi/linux/socket.h
const addressFamilies = { ip: 2, ip6: 10 } as const;

// include/uapi/linux/netfilter/nfnetlink.h
const NFNL_MSG_BATCH_BEGIN = 0x10;
const NFNL_MSG_BATCH_END = 0x11;
const NFNL_SUBSYS_NFTABLES = 10;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;

/** Sends the proxy's messages over a netlink socket and resolves with the payloads of the answer. */
export function netfilterRequest(netlink: Netlink): (message: NetfilterMessage) => Promise<Buffer[]> {
  return async (message) => (await netlink.request(encode(message))).map(({ payload }) => payload);
}

/** The socket through which a table of nftables is changed. */
export function netfilterSocket(netlink: Netlink): NetfilterSocket {
  return {
    dump: netfilterRequest(netlink),
    async transaction(messages) {
      const last = messages.length - 1;
      const body = messages.map((message, index) =>
        encode(
          index === last ? { ...message, flags: message.flags | NLM_F_ACK, write: (attributes) => message.write(attributes) } : message,
        ),
      );
      const refusal = await netlink.batch([edge(NFNL_MSG_BATCH_BEGIN), ...body, edge(NFNL_MSG_BATCH_END)], messages.length);
      // Index 0 is the begin: nobody's.
      return refusal && { error: refusal.error, message: messages[refusal.index - 1] };
    },
  };
}

function encode({ type, flags, family, write }: NetfilterMessage): Buffer {
  // struct nfgenmsg: address family, version, resource ID.
  return netlinkMessage(type, flags, Buffer.from([addressFamilies[family], 0, 0, 0]), write);
}

/** Begin or end of a batch; its resource ID is the subsystem, big-endian. */
function edge(type: number): Buffer {
  return netlinkMessage(type, NLM_F_REQUEST, Buffer.from([0, 0, 0, NFNL_SUBSYS_NFTABLES]), () => undefined);
}
