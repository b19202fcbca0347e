/**
 * Whether one resource version comes before another of the same history: versions are numbers that grow (KEP-5504); of others nothing can be said.
 * An etcd that was restored from a snapshot gives versions out a second time. So an older version than a known one may be news: it is told apart from a
 * cache that lags by asking the server again, never by dropping it.
 */
export function isOlderVersion(a: string | undefined, b: string | undefined): boolean {
  if (a === undefined || b === undefined || !/^\d+$/.test(a) || !/^\d+$/.test(b)) return false;
  return BigInt(a) < BigInt(b);
}
