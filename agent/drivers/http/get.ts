import { AgentError, messageOf } from '../../base/errors.ts';
import { dialErrorText, isConnectionRefused, joinHostPort } from '../../base/net-errors.ts';
import type { Container, HTTPGetAction } from '../../model/generated/api.ts';
import { type Answer, exchange } from './exchange.ts';
import { type HttpRequest, httpGetRequest, isToken } from './request.ts';

/** The last answer of a GET: of the place asked for, or of the last one on the same host that it was sent to. */
export interface HttpAnswer {
  readonly status: number;
  /** At most 10 KiB of it. */
  readonly body: string;
  /** Why the body was not told to its end, in the words of a Go program. */
  readonly broken?: string;
}

const maxRedirects = 10;
const redirects = new Set([301, 302, 303, 307, 308]);

/**
 * Carries out an httpGet of a probe or of a lifecycle hook. `userAgent` is what it calls itself, such as `kube-probe/1.36`.
 * Redirects to the same host are followed, as often as kubelet does; one that leads elsewhere is the answer.
 * So credentials in headers never reach another host (pkg/probe/http RedirectChecker).
 * Throws AgentError in the words of a Go program: InvalidRequest when nothing could be asked, ConnectionRefused when nobody listens,
 * ServedInTheClear when what was asked by HTTPS does not speak TLS, HttpGet for the rest.
 */
export async function httpGet(
  action: HTTPGetAction,
  container: Container,
  podIp: string,
  userAgent: string,
  signal: AbortSignal,
): Promise<HttpAnswer> {
  const first = httpGetRequest(action, container, podIp, userAgent);
  refuseHeaders(first);
  let at = first;
  for (let hops = 1; ; hops++) {
    const answer = await exchange(at, signal).catch((error: unknown) => {
      throw failure(error, at, signal);
    });
    const next = redirectOf(answer, at);
    if (next === undefined || hostOf(next) !== hostOf(first)) return told(answer, signal);
    // Go's client names the place as the answer wrote it.
    if (hops >= maxRedirects)
      throw new AgentError('HttpGet', `Get ${JSON.stringify(answer.location)}: stopped after ${maxRedirects} redirects`);
    at = next;
  }
}

function told({ status, body, broken }: Answer, signal: AbortSignal): HttpAnswer {
  if (broken === undefined) return { status, body };
  if (signal.aborted) {
    return { status, body, broken: 'context deadline exceeded (Client.Timeout or context cancellation while reading body)' };
  }
  // Node's words for a connection that ended before the announced length.
  return { status, body, broken: messageOf(broken) === 'aborted' ? 'unexpected EOF' : messageOf(broken) };
}

/** Headers that no client sends: told before anybody is asked. */
function refuseHeaders({ url, headers }: HttpRequest): void {
  for (let i = 0; i + 1 < headers.length; i += 2) {
    const name = headers[i]!;
    if (!isToken(name)) throw new AgentError('HttpGet', `Get "${url}": net/http: invalid header field name ${JSON.stringify(name)}`);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
    if (/[\x00-\x08\x0a-\x1f\x7f]/.test(headers[i + 1]!)) {
      throw new AgentError('HttpGet', `Get "${url}": net/http: invalid header field value for ${JSON.stringify(name)}`);
    }
  }
}

function failure(error: unknown, at: HttpRequest, signal: AbortSignal): AgentError {
  const code = isConnectionRefused(error) ? 'ConnectionRefused' : at.secure && isNoTls(error) ? 'ServedInTheClear' : 'HttpGet';
  return new AgentError(code, `Get "${at.url}": ${errorText(error, at, signal)}`, { cause: error });
}

function errorText(error: unknown, at: HttpRequest, signal: AbortSignal): string {
  if (signal.aborted) return 'context deadline exceeded (Client.Timeout exceeded while awaiting headers)';
  const { code = '', dialling = false } = error as NodeJS.ErrnoException & { dialling?: boolean };
  if (dialling) return dialErrorText(error, at.host, at.port);
  // Node's names for a connection that ended before an answer, or before its handshake did.
  if (code === 'ECONNRESET' && /^(socket hang up$|Client network socket disconnected)/.test(messageOf(error))) return 'EOF';
  if (code === 'ECONNRESET') return `read tcp ${joinHostPort(at.host, at.port)}: read: connection reset by peer`;
  if (at.secure && isNoTls(error)) return 'http: server gave HTTP response to HTTPS client';
  return messageOf(error);
}

/** OpenSSL's names for a first record that is none of TLS: most often the first bytes of `HTTP/1.1 400`. */
function isNoTls(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ERR_SSL_WRONG_VERSION_NUMBER' || code === 'ERR_SSL_PACKET_LENGTH_TOO_LONG';
}

/** Where an answer sends us, by the same rules as Go's client: 301, 302, 303, 307 and 308 with a Location. */
function redirectOf({ status, location }: Answer, at: HttpRequest): HttpRequest | undefined {
  // A redirect to nowhere is an answer, as for Go's client (golang/go#17773).
  if (!redirects.has(status) || !location) return undefined;
  const url = URL.parse(location, at.url);
  if (url === null) throw new AgentError('HttpGet', `Get "${at.url}": failed to parse Location header ${JSON.stringify(location)}`);
  const secure = url.protocol === 'https:';
  if (!secure && url.protocol !== 'http:') {
    throw new AgentError('HttpGet', `Get ${JSON.stringify(location)}: unsupported protocol scheme "${url.protocol.slice(0, -1)}"`);
  }
  // A Host that was asked for holds for the place it was asked of; a redirect without a scheme stays there.
  const absolute = /^[a-z][a-z0-9+.-]*:/i.test(location);
  const headers: string[] = [];
  for (let i = 0; i + 1 < at.headers.length; i += 2) {
    const name = at.headers[i]!;
    const value = at.headers[i + 1]!;
    if (name === 'Referer') continue;
    const isOwnHost = name === 'Host' && value !== joinHostPort(at.host, at.port) && value !== URL.parse(at.url)?.host;
    headers.push(name, name === 'Host' && (absolute || !isOwnHost) ? url.host : value);
  }
  if (secure || !at.secure) headers.push('Referer', Buffer.from(at.url, 'utf8').toString('latin1'));
  return {
    secure,
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: Number(url.port) || (secure ? 443 : 80),
    path: `${url.pathname}${url.search}`,
    url: url.href,
    headers,
  };
}

/** The host in the one spelling of URLs. */
function hostOf({ url, host }: HttpRequest): string {
  return URL.parse(url)?.hostname ?? host;
}
