import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { after } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { lookWithin } from '../../../agent/drivers/files/look.ts';
import type { SubjectAccessReviewSpec } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import type { ServerOptions, ServerSettings } from '../../../agent/server/contracts.ts';
import { createMetrics } from '../../../agent/server/metrics.ts';
import { startServer } from '../../../agent/server/server.ts';

export const folder = mkdtempSync(join(tmpdir(), 'server-'));
after(() => rmSync(folder, { recursive: true }));
export const file = (name: string) => join(folder, name);
export const read = (name: string) => readFileSync(file(name), 'utf8');
export const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' });

function makeCa(name: string): void {
  openssl(
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-days',
    '1',
    '-subj',
    `/CN=${name}`,
    '-keyout',
    `${name}.key`,
    '-out',
    `${name}.crt`,
  );
}

export function makeCertificate(name: string, subject: string, ca: string, usage: string): void {
  openssl(
    'req',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-subj',
    subject,
    '-keyout',
    `${name}.key`,
    '-out',
    `${name}.csr`,
  );
  writeFileSync(file(`${name}.ext`), `extendedKeyUsage=${usage}\nsubjectAltName=IP:127.0.0.1\n`);
  openssl(
    'x509',
    '-req',
    '-in',
    `${name}.csr`,
    '-CA',
    `${ca}.crt`,
    '-CAkey',
    `${ca}.key`,
    '-days',
    '1',
    '-extfile',
    `${name}.ext`,
    '-out',
    `${name}.crt`,
  );
}

makeCa('ca');
makeCa('other-ca');
makeCertificate('serving', '/CN=node', 'ca', 'serverAuth');
makeCertificate('serving2', '/CN=node2', 'ca', 'serverAuth');
makeCertificate('admin', '/O=ops/O=system:masters/CN=admin', 'ca', 'clientAuth');
makeCertificate('wrong-usage', '/CN=admin', 'ca', 'serverAuth');
makeCertificate('stranger', '/CN=admin', 'other-ca', 'clientAuth');

// A streaming server as a runtime has one, without the runtime.
let streamingUrl = '';
/** What the runtime's streaming server does next; tests set it. */
export const runtimeSide: { refuseWith: { status: number; text: string } | undefined; onStream: (socket: Duplex) => void } = {
  refuseWith: undefined,
  onStream: () => undefined,
};
export const seen: { url: string; headers: IncomingHttpHeaders; method: string }[] = [];
const streaming = createServer({}, (_, response) => {
  response.writeHead(runtimeSide.refuseWith?.status ?? 200, { 'content-type': 'text/plain' });
  response.end(runtimeSide.refuseWith?.text ?? 'second request got through');
});
streaming.on('upgrade', (request, socket: Socket, head) => {
  socket.on('error', () => undefined);
  seen.push({ url: request.url ?? '', headers: request.headers, method: request.method ?? '' });
  const { refuseWith } = runtimeSide;
  if (refuseWith !== undefined) {
    socket.write(
      `HTTP/1.1 ${refuseWith.status} Nope\r\nContent-Type: text/plain\r\nContent-Length: ${refuseWith.text.length}\r\n\r\n${refuseWith.text}`,
    );
    return;
  }
  socket.write(
    'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n',
  );
  if (head.length > 0) socket.unshift(head);
  runtimeSide.onStream(socket);
});
await new Promise<void>((resolve) => streaming.listen(0, '127.0.0.1', resolve));
streamingUrl = `http://127.0.0.1:${(streaming.address() as AddressInfo).port}/exec/token`;
after(() => streaming.close());

export const settings: ServerSettings = {
  address: '127.0.0.1',
  port: 0,
  readOnlyPort: 0,
  healthzBindAddress: '127.0.0.1',
  healthzPort: 0,
  clientCaFile: file('ca.crt'),
  anonymous: false,
  tokenWebhook: true,
  tokenTtlMs: 60_000,
  authorizationMode: 'Webhook',
  authorizedTtlMs: 60_000,
  unauthorizedTtlMs: 60_000,
  enableDebuggingHandlers: true,
  enableSystemLogHandler: true,
  enableDebugFlagsHandler: true,
  streamingConnectionIdleTimeoutMs: 0,
  splitLogStreams: false,
};

export const pod = {
  metadata: { name: 'web', namespace: 'default', uid: 'uid-1' },
  spec: { containers: [{ name: 'c', tty: true }, { name: 'waiting' }] },
  status: {
    containerStatuses: [
      { name: 'c', image: '', imageID: '', ready: true, restartCount: 0, containerID: 'containerd://id-c', state: { running: {} } },
      { name: 'waiting', image: '', imageID: '', ready: false, restartCount: 0, state: { waiting: { reason: 'ContainerCreating' } } },
    ],
  },
} as AgentPod;

export interface Fixture {
  settings?: Partial<ServerSettings>;
  options?: Partial<ServerOptions>;
  may?: (spec: SubjectAccessReviewSpec) => boolean;
}

export async function start(fixture: Fixture = {}) {
  const asked: SubjectAccessReviewSpec[] = [];
  const tokens: string[] = [];
  let serving = 'serving';
  let changed: (() => void) | undefined;
  const calls: unknown[] = [];
  const answer =
    <T>(value: T) =>
    async (request: unknown): Promise<T> => {
      calls.push(request);
      return value;
    };
  const options: ServerOptions = {
    clock: systemClock,
    log: silentLog,
    nodeName: 'node-1',
    settings: { ...settings, ...fixture.settings },
    certificate: {
      current: () => (serving === '' ? undefined : { certPem: read(`${serving}.crt`), keyPem: read(`${serving}.key`) }),
      onChange(listener) {
        changed = listener;
        return {
          [Symbol.dispose]() {
            changed = undefined;
          },
        };
      },
    },
    node: {
      pods: () => [pod],
      pod: (namespace, name) => (namespace === 'default' && name === 'web' ? pod : undefined),
      runningPods: () => [],
      runningContainer: (_, name) => (name === 'c' ? 'id-c' : undefined),
      readySandbox: () => 'sandbox-1',
      containerLog: () => ({ path: '/logs/c/0.log' }),
      isRunning: () => true,
      onContainerChange: () => ({ [Symbol.dispose]: () => undefined }),
    },
    runtime: {
      exec: answer({ url: streamingUrl }),
      attach: answer({ url: streamingUrl }),
      portForward: answer({ url: streamingUrl }),
      execSync: answer({ stdout: Buffer.from('out'), stderr: Buffer.from('err'), exit_code: 0 }),
    },
    lookWithin,
    async *readLog(path, options) {
      yield Buffer.alloc(0);
      yield Buffer.from(`${path} ${options.tailLines} ${options.follow !== undefined}\n`);
    },
    reviewToken: async (token) => {
      tokens.push(token);
      await setImmediate();
      return token === 'good' ? { authenticated: true, user: { username: 'alice', uid: '7', groups: ['dev'] } } : { authenticated: false };
    },
    reviewAccess: async (spec) => {
      asked.push(spec);
      return { allowed: fixture.may?.(spec) ?? true };
    },
    configz: () => ({ kind: 'KubeletConfiguration' }),
    checks: [],
    metrics: createMetrics(),
    ...fixture.options,
  };
  const server = await startServer(options);
  return {
    server,
    options,
    asked,
    tokens,
    calls,
    show(name: string) {
      serving = name;
      changed?.();
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

export interface Ask {
  certificate?: string;
  token?: string;
  method?: string;
  headers?: Record<string, string>;
  body?: string;
}

export function get(
  port: number,
  path: string,
  ask: Ask = { certificate: 'admin' },
): Promise<{ status: number; text: string; headers: IncomingHttpHeaders; cn: unknown }> {
  return new Promise((resolve, reject) => {
    const request = httpsRequest({
      host: '127.0.0.1',
      port,
      path,
      method: ask.method ?? 'GET',
      agent: false,
      ca: read('ca.crt'),
      headers: { ...ask.headers, ...(ask.token === undefined ? {} : { authorization: `Bearer ${ask.token}` }) },
      ...(ask.certificate === undefined ? {} : { cert: read(`${ask.certificate}.crt`), key: read(`${ask.certificate}.key`) }),
    });
    request.on('error', reject);
    request.on('response', async (response) => {
      const cn = (response.socket as unknown as { getPeerCertificate(): { subject?: { CN?: unknown } } }).getPeerCertificate().subject?.CN;
      let text = '';
      for await (const chunk of response) text += String(chunk);
      resolve({ status: response.statusCode ?? 0, text, headers: response.headers, cn });
    });
    request.end(ask.body);
  });
}
