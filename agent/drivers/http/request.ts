import { AgentError } from '../../base/errors.ts';
import { joinHostPort } from '../../base/net-errors.ts';
import { resolveContainerPort } from '../../model/container-port.ts';
import type { Container, HTTPGetAction, HTTPHeader } from '../../model/generated/api.ts';

/** One GET, ready to be sent. */
export interface HttpRequest {
  readonly secure: boolean;
  /** A name or an address, without brackets. */
  readonly host: string;
  readonly port: number;
  /** With its query, escaped. */
  readonly path: string;
  /** As messages show it. */
  readonly url: string;
  /** Name, value, name, value, …: a name may come several times. A character of a value is a byte. */
  readonly headers: readonly string[];
}

// What belongs to the connection is not the caller's to say in Go's client.
// A length without a body would keep the server waiting for one.
const notSent = new Set(['Content-Length', 'Transfer-Encoding', 'Trailer']);

/**
 * The request that an httpGet of a probe or a hook asks for, with kubelet's defaults (pkg/probe/http/request.go).
 * `userAgent` is sent unless the action names its own. Throws AgentError InvalidRequest.
 */
export function httpGetRequest(action: HTTPGetAction, container: Container, podIp: string, userAgent: string): HttpRequest {
  const resolved = resolveContainerPort(action.port, container);
  if ('problem' in resolved) throw new AgentError('InvalidRequest', resolved.problem);
  const scheme = (action.scheme || 'HTTP').toLowerCase();
  const host = action.host || podIp;
  const authority = joinHostPort(host, resolved.port);
  const path = pathOf(action.path ?? '');
  const url = `${scheme}://${authority}${path}`;
  if (scheme !== 'http' && scheme !== 'https') {
    throw new AgentError('InvalidRequest', `Get ${JSON.stringify(url)}: unsupported protocol scheme "${scheme}"`);
  }
  return {
    secure: scheme === 'https',
    host,
    port: resolved.port,
    path: path.startsWith('?') ? `/${path}` : path || '/',
    url,
    headers: headersOf(action.httpHeaders ?? [], authority, userAgent),
  };
}

/** Escapes what may not stand in a request line, and leaves escapes that are there. */
function pathOf(text: string): string {
  const escaped = text.replace(/#.*$/s, '').replace(/[^\x21-\x7e]/gu, (c) => encodeURIComponent(c.isWellFormed() ? c : '\ufffd'));
  return escaped === '' || escaped.startsWith('/') || escaped.startsWith('?') ? escaped : `/${escaped}`;
}

function headersOf(wanted: readonly HTTPHeader[], authority: string, userAgent: string): string[] {
  const byName = new Map<string, string[]>();
  for (const { name, value } of wanted) {
    const key = canonicalName(name);
    byName.set(key, [...(byName.get(key) ?? []), value ?? '']);
  }
  const headers: string[] = [];
  for (const [name, values] of byName) {
    if (notSent.has(name)) continue;
    // Of these Go's client sends the first, and none when that is empty.
    const single = name === 'Host' || name === 'User-Agent';
    if ((single || name === 'Accept') && values[0] === '') continue;
    for (const value of single ? values.slice(0, 1) : values) headers.push(name, wireValue(value));
  }
  if ((byName.get('Host')?.[0] ?? '') === '') headers.push('Host', authority);
  if (!byName.has('User-Agent')) headers.push('User-Agent', userAgent);
  if (!byName.has('Accept')) headers.push('Accept', '*/*');
  // A connection serves one request: what is on it says nothing about the next one.
  if (!byName.has('Connection')) headers.push('Connection', 'close');
  return headers;
}

/** `x-my-header` as Go's client writes it: `X-My-Header`. What is no token stays as it is (textproto.CanonicalMIMEHeaderKey). */
function canonicalName(name: string): string {
  if (!isToken(name)) return name;
  return name.toLowerCase().replace(/(^|-)[a-z]/g, (start) => start.toUpperCase());
}

/** Whether a header may have this name (RFC 9110, 5.6.2). */
export function isToken(name: string): boolean {
  return /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(name);
}

/** Node writes a character a byte, and refuses those that do not fit. */
function wireValue(value: string): string {
  return Buffer.from(value.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, ''), 'utf8').toString('latin1');
}
