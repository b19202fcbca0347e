// Forgets tracked connections that a change of rules has made stale; all others are left alone.
import type { Clock } from '../../agent/base/clock.ts';
import { hasCode, messageOf } from '../../agent/base/errors.ts';
import type { Log } from '../../agent/base/log.ts';
import type { Family } from '../model/address.ts';
import type { Protocol } from '../model/service-row.ts';
import type { NetfilterMessage, ReadAttributes } from '../netlink.ts';
import type { Commit } from '../programmed.ts';
import { deleteMessage, dumpMessage, parseFlow } from './codec.ts';
import { type ForgetRequest, forgetRequests, isForgotten } from './forget.ts';

export interface ConntrackOptions {
  readonly clock: Clock;
  readonly log: Log;
  /** Sends a message to NETLINK_NETFILTER and resolves with the payloads of the answer. Throws `NotFound` for a flow that is gone. */
  readonly request: (message: NetfilterMessage) => Promise<readonly Buffer[]>;
  readonly read: ReadAttributes;
  /** The node's own addresses of now. */
  readonly localAddresses: () => ReadonlySet<string>;
  /** How long a round took and how many flows it deleted. */
  readonly observe: (family: Family, tookMs: number, deleted: number) => void;
}

export interface Conntrack extends AsyncDisposable {
  /** The kernel has these rules from now on. Never waits and never throws. */
  committed(family: Family, commits: readonly Commit[]): void;
}

/**
 * For each dump the kernel goes through its whole table, whatever it is asked for (8 ms for 262,144 buckets): beyond so many
 * requests of a protocol, as at start, all its flows are dumped once.
 */
const mostDumps = 8;

interface Dump {
  readonly protocol: Protocol;
  readonly address: string | undefined;
  readonly port: number | undefined;
  readonly group: readonly ForgetRequest[];
}

function dumpsOf(requests: readonly ForgetRequest[]): Dump[] {
  return [...Map.groupBy(requests, ({ protocol }) => protocol)].flatMap(([protocol, group]): Dump[] =>
    group.length > mostDumps
      ? [{ protocol, address: undefined, port: undefined, group }]
      : group.map((request) => ({ protocol, address: request.address, port: request.port, group: [request] })),
  );
}

/** Starts it. Rounds of one family run one after another; disposing waits for what is under way. */
export function startConntrack(options: ConntrackOptions): Conntrack {
  const { clock, log } = options;
  let last: Promise<void> = Promise.resolve();
  let closed = false;

  async function forget(family: Family, requests: readonly ForgetRequest[]): Promise<void> {
    const startedAt = clock.mono();
    let deleted = 0;
    for (const { protocol, address, port, group } of dumpsOf(requests)) {
      if (closed) return;
      const byPort = Map.groupBy(group, (request) => request.port);
      try {
        const local = options.localAddresses();
        for (const payload of await options.request(dumpMessage(family, protocol, address, port))) {
          if (closed) return;
          const flow = parseFlow(family, payload, options.read);
          if (flow === undefined) continue;
          const goes = byPort.get(flow.to.port)?.some((request) => isForgotten(flow, request, (text) => local.has(text)));
          if (goes && (await drop(family, flow))) deleted++;
        }
      } catch (error) {
        // The rules are right; only clients that were here before may be late to notice.
        log.warn({ family, protocol, address, port, err: messageOf(error) }, 'could not forget tracked connections');
      }
    }
    options.observe(family, clock.mono() - startedAt, deleted);
    if (deleted > 0) log.debug({ family, deleted, tookMs: Math.round(clock.mono() - startedAt) }, 'forgot tracked connections');
  }

  async function drop(family: Family, flow: Parameters<typeof deleteMessage>[1]): Promise<boolean> {
    try {
      await options.request(deleteMessage(family, flow));
      return true;
    } catch (error) {
      if (hasCode(error, 'NotFound')) return false;
      throw error;
    }
  }

  return {
    committed(family, commits) {
      const requests = forgetRequests(commits);
      if (requests.length === 0) return;
      last = last.then(() => forget(family, requests));
    },
    async [Symbol.asyncDispose]() {
      closed = true;
      await last;
    },
  };
}
