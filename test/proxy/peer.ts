// Runs in a network namespace of a test: serves and connects as it is told, a line of JSON at a time.
// A server answers with its own address and the client's it saw.
import { createSocket } from 'node:dgram';
import { connect, createServer } from 'node:net';
import { createInterface } from 'node:readline';

export type PeerRequest =
  | { readonly do: 'serve'; readonly protocol: 'tcp' | 'udp'; readonly address: string; readonly port: number }
  | {
      readonly do: 'connect';
      readonly protocol: 'tcp' | 'udp';
      readonly address: string;
      readonly port: number;
      readonly source?: string | undefined;
      readonly sourcePort?: number | undefined;
      readonly count: number;
      readonly timeoutMs: number;
    }
  /** A new TCP connection every so often, whatever becomes of the others. */
  | {
      readonly do: 'probe';
      readonly address: string;
      readonly port: number;
      readonly everyMs: number;
      readonly forMs: number;
      readonly timeoutMs: number;
    };

/** `SERVER CLIENT`, `ECONNREFUSED` or another code, `timeout`; each with how long it took. */
export interface PeerAnswer {
  readonly said: string;
  readonly ms: number;
  /** When it began, ms since the epoch with fractions; in answers to `probe`. */
  readonly at?: number;
}

type Connect = PeerRequest & { readonly do: 'connect' };

const hostPort = (address: string, port: number): string => (address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`);

async function serve(protocol: string, address: string, port: number): Promise<void> {
  if (protocol === 'tcp') {
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.end(`${hostPort(socket.localAddress ?? address, port)} ${socket.remoteAddress}`);
    });
    await new Promise<void>((resolve, reject) => void server.on('error', reject).listen({ port, host: address, backlog: 512 }, resolve));
    return;
  }
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  socket.on('message', (_message, from) => socket.send(`${hostPort(address, port)} ${from.address}`, from.port, from.address));
  await new Promise<void>((resolve) => void socket.bind(port, address, resolve));
}

function byTcp({ address, port, source, sourcePort, timeoutMs }: Connect): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port, ...(source && { localAddress: source }), ...(sourcePort && { localPort: sourcePort }) });
    let said = '';
    const end = (word: string): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(word);
    };
    const timer = setTimeout(() => end('timeout'), timeoutMs);
    socket.setEncoding('utf8').on('data', (chunk: string) => {
      said += chunk;
    });
    socket.on('end', () => end(said));
    socket.on('error', (error: NodeJS.ErrnoException) => end(error.code ?? error.message));
  });
}

function byUdp({ address, port, source, sourcePort, timeoutMs }: Connect): Promise<string> {
  return new Promise((resolve) => {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    const end = (word: string): void => {
      clearTimeout(timer);
      socket.close();
      resolve(word);
    };
    const timer = setTimeout(() => end('timeout'), timeoutMs);
    socket.on('error', (error: NodeJS.ErrnoException) => end(error.code ?? error.message));
    socket.on('message', (message) => end(message.toString()));
    socket.bind(sourcePort ?? 0, source, () => socket.connect(port, address, () => socket.send('hello')));
  });
}

async function connectAll(request: Connect): Promise<PeerAnswer[]> {
  const answers: PeerAnswer[] = [];
  for (let index = 0; index < request.count; index++) {
    const from = performance.now();
    const said = await (request.protocol === 'tcp' ? byTcp(request) : byUdp(request));
    answers.push({ said, ms: performance.now() - from });
    // One that hangs says enough.
    if (said === 'timeout') break;
  }
  return answers;
}

async function probe({ address, port, everyMs, forMs, timeoutMs }: PeerRequest & { readonly do: 'probe' }): Promise<PeerAnswer[]> {
  const started = performance.now();
  const attempts: Promise<PeerAnswer>[] = [];
  while (performance.now() - started < forMs) {
    const from = performance.now();
    const at = performance.timeOrigin + from;
    const request = { do: 'connect', protocol: 'tcp', address, port, count: 1, timeoutMs } as const;
    attempts.push(byTcp(request).then((said) => ({ said, ms: performance.now() - from, at })));
    const rest = started + attempts.length * everyMs - performance.now();
    await new Promise((resolve) => (rest > 0.5 ? setTimeout(resolve, rest) : setImmediate(resolve)));
  }
  return await Promise.all(attempts);
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, request } = JSON.parse(line) as { id: number; request: PeerRequest };
  const done =
    request.do === 'serve'
      ? serve(request.protocol, request.address, request.port)
      : request.do === 'probe'
        ? probe(request)
        : connectAll(request);
  done.then(
    (answers) => process.stdout.write(`${JSON.stringify({ id, answers: answers ?? [] })}\n`),
    (error: Error) => process.stdout.write(`${JSON.stringify({ id, error: error.message })}\n`),
  );
}
process.exit(0);
