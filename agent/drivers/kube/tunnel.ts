import { type RequestOptions, request as requestHttp, STATUS_CODES } from 'node:http';
import { request as requestHttps } from 'node:https';
import { isIP, type Socket } from 'node:net';
import { getCACertificates } from 'node:tls';
import { ProxyAgent } from 'undici';
import { AgentError, messageOf } from '../../base/errors.ts';
import { chooseProxy, type HttpProxy, hostnameOf } from './proxy.ts';

// As long as a connection without a proxy is quiet before the kernel asks whether its peer is there.
const keepAliveMs = 10_000;

/** Whom to believe that it is the proxy, where the way to it is TLS. */
export interface ProxyTrust {
  /** Besides the machine's authorities: a Go client asks the proxy for a certificate of the cluster's authority. */
  readonly ca?: string | undefined;
  readonly rejectUnauthorized: boolean;
}

/**
 * Asks a proxy for a connection to `authority` (`host:port`) and resolves to it. Rejects with AgentError `Unavailable` when the proxy is out of reach or refuses, with the
 * signal's reason when it aborts before.
 */
export async function openTunnel(proxy: HttpProxy, authority: string, trust: ProxyTrust, signal: AbortSignal): Promise<Socket> {
  signal.throwIfAborted();
  const host = hostnameOf(proxy.url);
  const secure = proxy.url.protocol === 'https:';
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const options: RequestOptions = {
    host,
    port: proxy.url.port || (secure ? 443 : 80),
    method: 'CONNECT',
    path: authority,
    agent: false,
    headers: { host: authority, ...(proxy.authorization === undefined ? {} : { 'proxy-authorization': proxy.authorization }) },
  };
  const asked = secure
    ? requestHttps({
        ...options,
        // Else the name would be taken from the Host header, which is the target's.
        servername: isIP(host) === 0 ? host : '',
        ca: rootsWith(trust.ca),
        rejectUnauthorized: trust.rejectUnauthorized,
      })
    : requestHttp(options);
  const onAbort = (): void => void asked.destroy(new AgentError('Canceled', 'the connection is no longer wanted'));
  signal.addEventListener('abort', onAbort, { once: true });
  asked.once('connect', (answer, socket: Socket, head) => {
    if (answer.statusCode === 200) {
      if (head.length > 0) socket.unshift(head);
      socket.setNoDelay(true).setKeepAlive(true, keepAliveMs);
      resolve(socket);
      return;
    }
    socket.destroy();
    const said = answer.statusMessage || STATUS_CODES[answer.statusCode ?? 0] || '';
    reject(
      new AgentError('Unavailable', `proxy ${proxy.url.origin} refuses to connect to ${authority}: ${answer.statusCode} ${said}`.trimEnd()),
    );
  });
  asked.on('error', (cause) =>
    reject(
      signal.aborted
        ? signal.reason
        : new AgentError('Unavailable', `cannot reach proxy ${proxy.url.origin}: ${messageOf(cause)}`, { cause }),
    ),
  );
  asked.end();
  try {
    return await promise;
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** For undici: what the environment says is the way to `url`; undefined where that is the direct one. Throws AgentError `InvalidConfig` as chooseProxy. */
export function proxyAgentFor(url: string, env: Readonly<Record<string, string | undefined>>): ProxyAgent | undefined {
  const proxy = chooseProxy(url, undefined, env);
  if (proxy === undefined) return undefined;
  return new ProxyAgent(proxyAgentOptions(proxy));
}

export function proxyAgentOptions(proxy: HttpProxy): ProxyAgent.Options {
  const ca = systemRoots();
  return {
    uri: proxy.url.origin,
    ...(proxy.authorization === undefined ? {} : { token: proxy.authorization }),
    ...(ca === undefined ? {} : { proxyTls: { ca } }),
  };
}

function rootsWith(ca: string | undefined): string[] | undefined {
  const roots = systemRoots();
  if (ca === undefined) return roots;
  return [ca, ...(roots ?? getCACertificates('default'))];
}

let roots: string[] | undefined;

/** The machine's certificate authorities, as Go programs use them when a kubeconfig names none. */
export function systemRoots(): string[] | undefined {
  roots ??= getCACertificates('system');
  return roots.length > 0 ? roots : undefined;
}
