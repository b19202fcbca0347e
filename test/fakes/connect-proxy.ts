import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, connect, type Socket } from 'node:net';
import type { CertPair } from './certs.ts';

/** An HTTP proxy on 127.0.0.1. Wherever it is asked to go it goes to `targetPort` of 127.0.0.1: names need not exist. */
export interface ConnectProxy extends AsyncDisposable {
  readonly url: string;
  /** `CONNECT host:port` or `GET http://host:port/path`, in order. */
  readonly asked: string[];
  /** The Proxy-Authorization of each, '' without. */
  readonly authorizations: string[];
  /** Answers with this instead. */
  refuse: number | undefined;
  /** Does not answer at all. */
  silent: boolean;
}

export async function startConnectProxy(targetPort: number, tls?: CertPair): Promise<ConnectProxy> {
  const sockets = new Set<Socket>();
  const keep = (socket: Socket): void => {
    sockets.add(socket.on('error', () => undefined));
    socket.on('close', () => sockets.delete(socket));
  };
  const note = (message: IncomingMessage): void => {
    proxy.asked.push(`${message.method} ${message.url}`);
    proxy.authorizations.push(message.headers['proxy-authorization'] ?? '');
  };
  const onRequest = (asked: IncomingMessage, answer: ServerResponse): void => {
    note(asked);
    if (proxy.refuse !== undefined) return void answer.writeHead(proxy.refuse).end();
    const { pathname, search } = new URL(asked.url ?? '');
    const { 'proxy-authorization': _, ...headers } = asked.headers;
    const onward = request({ port: targetPort, method: asked.method, path: pathname + search, headers }, (from) => {
      answer.writeHead(from.statusCode ?? 502, from.headers);
      from.pipe(answer);
    });
    answer.on('close', () => onward.destroy());
    onward.on('error', () => answer.destroy());
    asked.pipe(onward);
  };
  const server = tls === undefined ? createServer(onRequest) : createHttpsServer({ cert: tls.cert, key: tls.key }, onRequest);
  server.on('connection', keep);
  server.on('tlsClientError', () => undefined);
  server.on('connect', (asked: IncomingMessage, client: Socket, head: Buffer) => {
    note(asked);
    client.on('error', () => undefined);
    if (proxy.silent) return;
    if (proxy.refuse !== undefined) return void client.end(`HTTP/1.1 ${proxy.refuse} Not So\r\n\r\n`);
    const onward = connect(targetPort, '127.0.0.1', () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n');
      onward.write(head);
      onward.pipe(client).pipe(onward);
    });
    keep(onward);
    client.on('close', () => onward.destroy());
    onward.on('close', () => client.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const proxy: ConnectProxy = {
    url: `${tls === undefined ? 'http' : 'https'}://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked: [],
    authorizations: [],
    refuse: undefined,
    silent: false,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return proxy;
}
