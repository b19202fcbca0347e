import type { TokenRequest } from './generated/api.ts';

// When service account tokens are renewed (pkg/kubelet/token/token_manager.go). Times are wall milliseconds.

const longestMs = 24 * 3_600_000;
const jitterMs = 10_000;
// Where the clocks of node and server are far apart, a token may be due, or over, as soon as it is issued: kubelet asks anew about once a minute then.
const soonestMs = 60_000;
/** What the API's defaulting gives a request that names no lifetime. */
export const defaultTokenSeconds = 3600;

export interface HeldToken {
  readonly token: string;
  /** From here on it is to be renewed. */
  readonly refreshAt: number;
  readonly expiresAt: number;
}

/** The token of an answer: due at 80 % of its life or after 24 hours, up to 10 s earlier. `random` in [0, 1). Undefined when the answer has none. */
export function heldToken(answer: TokenRequest, now: number, random: number): HeldToken | undefined {
  const { token, expirationTimestamp } = answer.status ?? {};
  if (token === undefined || expirationTimestamp === undefined) return undefined;
  const expiresAt = Date.parse(expirationTimestamp);
  const lifeMs = (answer.spec?.expirationSeconds ?? defaultTokenSeconds) * 1000;
  const due = Math.min(expiresAt - lifeMs + longestMs, expiresAt - Math.floor(lifeMs * 0.2));
  return { token, expiresAt, refreshAt: Math.max(due - Math.floor(random * jitterMs), now + Math.min(soonestMs, lifeMs * 0.2)) };
}
