/**
 * How many bytes of request line and headers are taken: as many as Go's servers take (net/http, DefaultMaxHeaderBytes). The command of an exec is in the query,
 * and Node's own 16 KiB are less than a script that somebody passes to `sh -c`.
 */
const largest = 1024 * 1024;
/** What Node takes by itself: enough for any token. */
const smallest = 16 * 1024;
const shared = 32 * 1024 * 1024;

/**
 * How many bytes of headers a new connection may send while so many are open, itself included. Headers are held until they are whole or their time is over,
 * and strangers send them too: of N connections the i-th oldest has at most 32 MiB / i, so that all of 1,000 hold 142 MiB, and not 1,000.
 */
export function headerLimit(open: number): number {
  return Math.max(smallest, Math.min(largest, Math.floor(shared / Math.max(1, open))));
}
