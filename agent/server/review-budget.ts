import type { Clock } from '../base/clock.ts';
import { AgentError } from '../base/errors.ts';
import { createTokenBucket, type TokenBucket } from '../base/token-bucket.ts';

/** How many reviews the API server is asked for on behalf of the node's clients. It is theirs alone: what the node itself asks is counted elsewhere. */
export interface ReviewBudget {
  /**
   * Runs a review that `client` (an address, a user) is the cause of. Throws an AgentError of code Throttled, at once and with nothing spent, when that
   * client, or all of them together, have spent theirs.
   */
  spend<T>(client: string, review: () => Promise<T>): Promise<T>;
}

export interface ReviewLimits {
  /** Reviews a second of all clients, and how many may be saved up. */
  readonly qps: number;
  readonly burst: number;
  /** The same for a single client, so that a flood from one address leaves something for the others. */
  readonly clientQps: number;
  readonly clientBurst: number;
  /** Reviews under way. An API server allows 100 streams a connection, and the node's own calls want most of them. */
  readonly inFlight: number;
}

/** Whose tokens are reviewed is unknown. A known token is asked for once in its TTL, so honest clients need next to nothing. */
export const tokenReviewLimits: ReviewLimits = { qps: 20, burst: 40, clientQps: 5, clientBurst: 20, inFlight: 20 };
/** Of users who have shown who they are. */
export const accessReviewLimits: ReviewLimits = { qps: 50, burst: 100, clientQps: 20, clientBurst: 50, inFlight: 20 };

const mostClients = 1024;

export function createReviewBudget(clock: Clock, limits: ReviewLimits): ReviewBudget {
  const all = createTokenBucket(limits.qps, limits.burst, clock.mono());
  // The least recently seen go first; one that was forgotten has a full bucket again, and the common one still holds.
  const clients = new Map<string, TokenBucket>();
  let inFlight = 0;

  function bucketOf(client: string, now: number): TokenBucket {
    const bucket = clients.get(client) ?? createTokenBucket(limits.clientQps, limits.clientBurst, now);
    clients.delete(client);
    clients.set(client, bucket);
    const [oldest] = clients.keys();
    if (clients.size > mostClients && oldest !== undefined) clients.delete(oldest);
    return bucket;
  }

  return {
    async spend(client, review) {
      const now = clock.mono();
      const own = bucketOf(client, now);
      if (inFlight >= limits.inFlight || own.waitMs(now, 0) > 0 || !all.take(now)) {
        throw new AgentError('Throttled', 'Too many requests, please try again later.');
      }
      own.take(now);
      inFlight++;
      try {
        return await review();
      } finally {
        inFlight--;
      }
    },
  };
}
