// Forgets tracked connections that a change of rules has made stale; all others are left alone.
import type { Clock } from '../../agent/base/clock.ts';
import { hasCode, messageOf } from '../../agent/base/errors.ts';
import type { Log } from '../../agent/base/log.ts';
import type { Family } from '../model/address.ts';
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

/** Starts it. Rounds of one family run one after another; disposing waits for what is under way. */
export function startConntrack(options: ConntrackOptions): Conntrack {
  const { clock, log } = options;
  let last: Promise<void> = Promise.resolve();
  let closed = false;

  async function forget(family: Family, requests: readonly ForgetRequest[]): Promise<void> {
    const startedAt = clock.mono();
    let deleted = 0;
    for (const request of requests) {
      if (closed) return;
      const { protocol, address, port } = request;
      try {
        const local = options.localAddresses();
        for (const payload of await options.request(dumpMessage(family, protocol, address, port))) {
          if (closed) return;
          const flow = parseFlow(family, payload, options.read);
          if (flow === undefined || !isForgotten(flow, request, (text) => local.has(text))) continue;
          if (await drop(family, flow)) deleted++;
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
