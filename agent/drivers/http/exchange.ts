import { request as httpRequest } from 'node:http';
import { type ClientHttp2Session, connect as connectHttp2, type OutgoingHttpHeaders } from 'node:http2';
import { isIP, type Socket, connect as tcpConnect } from 'node:net';
import { type TLSSocket, connect as tlsConnect } from 'node:tls';
import { joinHostPort } from '../../base/net-errors.ts';
import type { HttpRequest } from './request.ts';

/** What came back. */
export interface Answer {
  readonly status: number;
  readonly location: string | undefined;
  /** As text, as far as it counts. */
  readonly body: string;
  /** What kept the body from being read to its end. */
  readonly broken?: unknown;
}

// kubelet's maxRespBodyLength (pkg/probe/http and pkg/kubelet/lifecycle).
const maxBodyBytes = 10 * 1024;
const maxHeaderBytes = 1024 * 1024;

/**
 * Sends one request over a connection of its own and reads the answer's head and at most 10 KiB of its body.
 * No proxy is ever used, since the connection is made here. Rejects when there is no head; `dialling` says whether it failed to connect.
 */
export async function exchange(request: HttpRequest, signal: AbortSignal): Promise<Answer> {
  const socket = await connected(tcpConnect({ host: request.host, port: request.port }), 'connect', signal).catch((error: unknown) => {
    throw Object.assign(error as Error, { dialling: true });
  });
  if (!request.secure) return await exchangeHttp1(request, socket, signal);
  const secure = await handshake(request, socket, signal);
  return secure.alpnProtocol === 'h2' ? await exchangeHttp2(request, secure, signal) : await exchangeHttp1(request, secure, signal);
}

/**
 * The server chooses between HTTP/2 and HTTP/1.1, as from a Go client: some have only one of them.
 * The certificate is not verified: a pod's address is in no certificate.
 */
async function handshake(request: HttpRequest, socket: Socket, signal: AbortSignal): Promise<TLSSocket> {
  const secure = tlsConnect({
    socket,
    ALPNProtocols: ['h2', 'http/1.1'],
    rejectUnauthorized: false,
    // A name is told to the server (SNI), an address is not: as Go does.
    servername: isIP(request.host) === 0 ? request.host : '',
  });
  // What an ended handshake leaves behind must not be heard by nobody.
  socket.on('error', () => undefined);
  try {
    return await connected(secure, 'secureConnect', signal);
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

/** Resolves with the socket once `event` has come; rejects, and ends it, when it fails or the signal aborts first. */
function connected<S extends Socket>(socket: S, event: 'connect' | 'secureConnect', signal: AbortSignal): Promise<S> {
  return new Promise((resolve, reject) => {
    const settle = (): void => {
      signal.removeEventListener('abort', onAbort);
      socket.off('error', fail);
      socket.off('close', onClose);
    };
    const fail = (error: unknown): void => {
      settle();
      // What an ended connection has still to say says nothing new.
      socket.on('error', () => undefined).destroy();
      reject(error);
    };
    const onAbort = (): void => fail(signal.reason);
    const onClose = (): void => fail(Object.assign(new Error('socket hang up'), { code: 'ECONNRESET' }));
    signal.addEventListener('abort', onAbort, { once: true });
    socket.on('error', fail);
    socket.once('close', onClose);
    socket.once(event, () => {
      settle();
      resolve(socket);
    });
    if (signal.aborted) onAbort();
  });
}

/** Collects an answer: its head, its body as far as it counts, its end; `close` takes down what it came over. */
function collect(resolve: (answer: Answer) => void, reject: (error: unknown) => void, close: () => void) {
  let head: { readonly status: number; readonly location: string | undefined } | undefined;
  const chunks: Buffer[] = [];
  let length = 0;
  const done = (broken?: unknown): void => {
    if (head === undefined) reject(broken);
    else resolve({ ...head, body: Buffer.concat(chunks).subarray(0, maxBodyBytes).toString('utf8'), broken });
    close();
  };
  return {
    begin(status: number | undefined, location: string | undefined): void {
      head = { status: status ?? 0, location };
    },
    add(chunk: Buffer): void {
      chunks.push(chunk);
      length += chunk.length;
      if (length >= maxBodyBytes) done();
    },
    done,
    hasBegun: () => head !== undefined,
  };
}

function exchangeHttp1(request: HttpRequest, socket: Socket, signal: AbortSignal): Promise<Answer> {
  const call = orDestroy(socket, () =>
    httpRequest({
      host: request.host,
      port: request.port,
      method: 'GET',
      path: request.path,
      headers: [...request.headers],
      signal,
      setHost: false,
      maxHeaderSize: maxHeaderBytes,
      // Go's parser is as lenient: a shell script that answers `HTTP/1.1 200 OK\n\n` is a server.
      insecureHTTPParser: true,
      createConnection: () => socket,
    }),
  );
  return new Promise((resolve, reject) => {
    const answer = collect(resolve, reject, () => call.destroy());
    // More than the head announced (a body after 204, say) is a mistake that Go's client does not look at: the answer was complete.
    const fail = (error: NodeJS.ErrnoException): void =>
      answer.done(answer.hasBegun() && error.code?.startsWith('HPE_') ? undefined : error);
    call.on('error', fail);
    // Node has no other word for 101: without a listener it drops the connection and tells nobody.
    call.on('upgrade', (response, upgraded) => {
      answer.begin(response.statusCode, response.headers.location);
      upgraded.destroy();
      answer.done();
    });
    call.on('response', (response) => {
      answer.begin(response.statusCode, response.headers.location);
      response.on('data', answer.add);
      response.on('end', () => answer.done());
      response.on('error', fail);
    });
    call.end();
  });
}

function exchangeHttp2(request: HttpRequest, socket: TLSSocket, signal: AbortSignal): Promise<Answer> {
  const [session, stream] = orDestroy(socket, () => openHttp2(request, socket, signal));
  return new Promise((resolve, reject) => {
    const answer = collect(resolve, reject, () => session.destroy());
    session.on('error', answer.done);
    session.on('close', () => answer.done(new Error('EOF')));
    stream.on('error', answer.done);
    stream.on('response', (headers) => answer.begin(headers[':status'], headers.location));
    stream.on('data', answer.add);
    stream.on('aborted', () => answer.done(new Error('unexpected EOF')));
    stream.on('end', () => answer.done(answer.hasBegun() ? undefined : new Error('EOF')));
  });
}

function openHttp2(request: HttpRequest, socket: TLSSocket, signal: AbortSignal) {
  const options = {
    createConnection: () => socket,
    // A pushed stream would have nobody to hear its errors.
    settings: { maxHeaderListSize: maxHeaderBytes, enablePush: false },
    // Whoever writes a header twice means it, as over HTTP/1.1. The types do not know the option yet.
    strictSingleValueFields: false,
  };
  const session: ClientHttp2Session = connectHttp2(`https://${joinHostPort(request.host, request.port)}`, options);
  return [session, session.request(http2Headers(request), { endStream: true, signal })] as const;
}

/** Runs `open`, which may refuse the request; the connection does not outlive that. */
function orDestroy<T>(socket: Socket, open: () => T): T {
  try {
    return open();
  } catch (error) {
    socket.on('error', () => undefined).destroy();
    throw error;
  }
}

// Of HTTP/1.1 alone; in HTTP/2 they are an error (RFC 9113, 8.2.2).
const connectionHeaders = new Set(['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade']);

function http2Headers({ path, headers }: HttpRequest): OutgoingHttpHeaders {
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
