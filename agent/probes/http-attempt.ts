import { request as httpRequest } from 'node:http';
import { connect as connectHttp2, type OutgoingHttpHeaders } from 'node:http2';
import { isIP } from 'node:net';
import { type TLSSocket, connect as tlsConnect } from 'node:tls';
import type { Clock } from '../base/clock.ts';
import { messageOf } from '../base/errors.ts';
import { type Attempt, dialErrors, dialText, isRefused, maxOutputBytes } from './attempt.ts';
import { type HttpTarget, joinHostPort } from './targets.ts';

const maxRedirects = 10;

/**
 * Sends the request and follows redirects to the same host: 2xx and 3xx are good, a redirect elsewhere is good with a warning. Certificates are not
 * verified: a pod's address is in no certificate. The timeout is for the whole of it.
 */
export async function httpAttempt(target: HttpTarget, timeoutMs: number, clock: Clock, signal: AbortSignal): Promise<Attempt> {
  using deadline = clock.deadline(signal, timeoutMs);
  let at: HttpTarget = target;
  for (let hops = 0; ; hops++) {
    let answer: Answer;
    try {
      answer = await exchange(at, deadline.signal);
    } catch (error) {
      return { kind: 'failure', message: `Get "${at.url}": ${httpErrorText(error, at, deadline.signal)}`, refused: isRefused(error) };
    }
    const { status } = answer;
    const next = redirectOf(answer, at);
    if (next !== undefined && next.host === target.host) {
      if (hops + 1 >= maxRedirects) return { kind: 'failure', message: `Get "${next.url}": stopped after ${maxRedirects} redirects` };
      at = next;
      continue;
    }
    // As upstream: an answer that began well and was not told to its end says nothing.
    if (answer.broken !== undefined) {
      const why = deadline.signal.aborted
        ? 'context deadline exceeded (Client.Timeout or context cancellation while reading body)'
        : bodyErrorText(answer.broken);
      return { kind: 'error', message: why };
    }
    if (status >= 200 && status < 300) return { kind: 'success' };
    if (status >= 300 && status < 400) return { kind: 'warning', message: `Probe terminated redirects, Response body: ${answer.body}` };
    // Never the body: it may hold secrets, and events are read by many (kubernetes#99425).
    return { kind: 'failure', message: `HTTP probe failed with statuscode: ${status}` };
  }
}

function httpErrorText(error: unknown, at: HttpTarget, signal: AbortSignal): string {
  if (signal.aborted) return 'context deadline exceeded (Client.Timeout exceeded while awaiting headers)';
  const code = (error as NodeJS.ErrnoException).code ?? '';
  // Node's names for a connection that ended before an answer, or before its handshake did.
  if (code === 'ECONNRESET' && /^(socket hang up$|Client network socket disconnected)/.test(messageOf(error))) return 'EOF';
  if (code === 'ECONNRESET') return `read tcp ${joinHostPort(at.host, at.port)}: read: connection reset by peer`;
  if (Object.hasOwn(dialErrors, code) || code === 'ENOTFOUND') return dialText(error, at.host, at.port);
  return messageOf(error);
}

function bodyErrorText(error: unknown): string {
  // Node's words for a connection that ended before the announced length.
  return messageOf(error) === 'aborted' ? 'unexpected EOF' : messageOf(error);
}

/** Where an answer sends us, by the same rules as Go's client: 301, 302, 303, 307 and 308 with a Location. */
function redirectOf({ status, location }: Answer, at: HttpTarget): HttpTarget | undefined {
  if (![301, 302, 303, 307, 308].includes(status) || location === undefined) return undefined;
  const url = URL.parse(location, at.url);
  if (url === null) return undefined;
  const secure = url.protocol === 'https:';
  const headers: string[] = [];
  for (let i = 0; i + 1 < at.headers.length; i += 2) {
    // A Host that was asked for holds for the place it was asked of; a relative redirect stays there.
    const absolute = /^([a-z][a-z0-9+.-]*:)?\/\//i.test(location);
    const value = absolute && at.headers[i]!.toLowerCase() === 'host' ? url.host : at.headers[i + 1]!;
    headers.push(at.headers[i]!, value);
  }
  return {
    secure,
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: Number(url.port) || (secure ? 443 : 80),
    path: `${url.pathname}${url.search}`,
    url: url.href,
    headers,
  };
}

interface Head {
  readonly status: number;
  readonly location: string | undefined;
}

interface Answer extends Head {
  readonly body: string;
  /** What kept the body from being read to its end. */
  readonly broken?: unknown;
}

/** The head of the answer and as much of its body as counts. Rejects when there is no head. */
async function exchange(target: HttpTarget, signal: AbortSignal): Promise<Answer> {
  if (!target.secure) return await exchangeHttp1(target, undefined, signal);
  const socket = await connectTls(target, signal);
  return socket.alpnProtocol === 'h2' ? await exchangeHttp2(target, socket, signal) : await exchangeHttp1(target, socket, signal);
}

/** The server chooses between HTTP/2 and HTTP/1.1, as from a Go client: some have only one of them. */
function connectTls(target: HttpTarget, signal: AbortSignal): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = tlsConnect({
      host: target.host,
      port: target.port,
      ALPNProtocols: ['h2', 'http/1.1'],
      rejectUnauthorized: false,
      // A name is told to the server (SNI), an address is not: as Go does.
      servername: isIP(target.host) === 0 ? target.host : '',
    });
    const settle = (): void => {
      signal.removeEventListener('abort', onAbort);
      socket.off('error', fail);
      socket.off('close', onClose);
    };
    const fail = (error: unknown): void => {
      settle();
      // What an ended handshake has still to say says nothing new.
      socket.on('error', () => undefined).destroy();
      reject(error);
    };
    const onAbort = (): void => fail(signal.reason);
    const onClose = (): void => fail(Object.assign(new Error('socket hang up'), { code: 'ECONNRESET' }));
    signal.addEventListener('abort', onAbort, { once: true });
    socket.once('error', fail);
    socket.once('close', onClose);
    socket.once('secureConnect', () => {
      settle();
      resolve(socket);
    });
    if (signal.aborted) onAbort();
  });
}

/** Collects an answer: its head, its body as far as it counts, its end; `close` takes down what it came over. */
function collect(resolve: (answer: Answer) => void, reject: (error: unknown) => void, close: () => void) {
  let head: Head | undefined;
  const chunks: Buffer[] = [];
  let length = 0;
  const done = (broken?: unknown): void => {
    if (head === undefined) reject(broken);
    else resolve({ ...head, body: Buffer.concat(chunks).subarray(0, maxOutputBytes).toString('utf8'), broken });
    close();
  };
  return {
    begin(status: number | undefined, location: string | undefined): void {
      head = { status: status ?? 0, location };
    },
    add(chunk: Buffer): void {
      chunks.push(chunk);
      length += chunk.length;
      if (length >= maxOutputBytes) done();
    },
    done,
    hasBegun: () => head !== undefined,
  };
}

/** Over `socket`, or in the clear over a connection of its own. */
function exchangeHttp1(target: HttpTarget, socket: TLSSocket | undefined, signal: AbortSignal): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({
      host: target.host,
      port: target.port,
      method: 'GET',
      path: target.path,
      headers: [...target.headers],
      signal,
      setHost: false,
      maxHeaderSize: 1024 * 1024,
      // Go's parser is as lenient: a shell script that answers `HTTP/1.1 200 OK\n\n` is a server.
      insecureHTTPParser: true,
      ...(socket === undefined ? { agent: false } : { createConnection: () => socket }),
    });
    const answer = collect(resolve, reject, () => request.destroy());
    // More than the head announced (a body after 204, say) is a mistake that Go's client does not look at: the answer was complete.
    const fail = (error: NodeJS.ErrnoException): void =>
      answer.done(answer.hasBegun() && error.code?.startsWith('HPE_') ? undefined : error);
    request.on('error', fail);
    // Node has no other word for 101: without a listener it drops the connection and tells nobody.
    request.on('upgrade', (response, upgraded) => {
      answer.begin(response.statusCode, response.headers.location);
      upgraded.destroy();
      answer.done();
    });
    request.on('response', (response) => {
      answer.begin(response.statusCode, response.headers.location);
      response.on('data', answer.add);
      response.on('end', () => answer.done());
      response.on('error', fail);
    });
    request.end();
  });
}

function exchangeHttp2(target: HttpTarget, socket: TLSSocket, signal: AbortSignal): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const session = connectHttp2(`https://${joinHostPort(target.host, target.port)}`, {
      createConnection: () => socket,
      settings: { maxHeaderListSize: 1024 * 1024 },
    });
    const answer = collect(resolve, reject, () => session.destroy());
    session.on('error', answer.done);
    session.on('close', () => answer.done(new Error('EOF')));
    const stream = session.request(http2Headers(target), { endStream: true, signal });
    stream.on('error', answer.done);
    stream.on('response', (headers) => answer.begin(headers[':status'], headers.location));
    stream.on('data', answer.add);
    stream.on('aborted', () => answer.done(new Error('unexpected EOF')));
    stream.on('end', () => answer.done(answer.hasBegun() ? undefined : new Error('EOF')));
  });
}

// Of HTTP/1.1 alone; in HTTP/2 they are an error (RFC 9113, 8.2.2).
const connectionHeaders = new Set(['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade']);

function http2Headers({ path, headers }: HttpTarget): OutgoingHttpHeaders {
  const fields = new Map<string, string[]>();
  for (let i = 0; i + 1 < headers.length; i += 2) {
    const name = headers[i]!.toLowerCase();
    if (connectionHeaders.has(name)) continue;
    const field = name === 'host' ? ':authority' : name;
    fields.set(field, [...(fields.get(field) ?? []), headers[i + 1]!]);
  }
  const single = [...fields].map(([name, values]) => [name, values.length === 1 ? values[0] : values]);
  return { ...Object.fromEntries(single), ':path': path };
}
