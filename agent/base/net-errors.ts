import { isIPv6 } from 'node:net';
import { messageOf } from './errors.ts';

/** `host:port`, with brackets around an IPv6 address. */
export function joinHostPort(host: string, port: number): string {
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;
}

const dialErrors: ReadonlyMap<string, string> = new Map([
  ['ECONNREFUSED', 'connect: connection refused'],
  ['EHOSTUNREACH', 'connect: no route to host'],
  ['ENETUNREACH', 'connect: network is unreachable'],
  ['ECONNRESET', 'read: connection reset by peer'],
  ['ETIMEDOUT', 'connect: connection timed out'],
  ['EINVAL', 'connect: invalid argument'],
]);

/** A failed connection in the words of a Go program: people search their logs for them. */
export function dialErrorText(error: unknown, host: string, port: number): string {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (code === 'ENOTFOUND') return `dial tcp: lookup ${host}: no such host`;
  return `dial tcp ${joinHostPort(host, port)}: ${dialErrors.get(code) ?? messageOf(error)}`;
}

/** True when nobody listens on the port. */
export function isConnectionRefused(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'ECONNREFUSED';
}
