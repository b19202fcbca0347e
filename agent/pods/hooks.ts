import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { isIP, isIPv6 } from 'node:net';
import type { Clock } from '../base/clock.ts';
import { AgentError, messageOf } from '../base/errors.ts';
import type { Container, HTTPGetAction, LifecycleHandler } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';

export interface HookDeps {
  readonly clock: Clock;
  /** Told that a handler written as HTTPS was answered in the clear; `host` with its port. */
  readonly fellBack?: (host: string) => void;
  /** Told that a sleep was called off before its time. */
  readonly sleepCut?: () => void;
  /** Runs a command in a container; `timeout` in seconds, 0 for none. */
  execSync(
    request: { container_id: string; cmd: string[]; timeout: number },
    signal: AbortSignal,
  ): Promise<{ stdout?: Buffer | Uint8Array | undefined; stderr?: Buffer | Uint8Array | undefined; exit_code?: number | undefined }>;
}

/** Runs a postStart or preStop handler to its end. Throws AgentError HookFailed with kubelet's words; the signal ends it early. */
export async function runHook(
  deps: HookDeps,
  pod: AgentPod,
  container: Container,
  containerId: string,
  podIp: string | undefined,
  handler: LifecycleHandler,
  signal: AbortSignal,
): Promise<void> {
  const where = `for Container "${container.name}" in Pod "${pod.metadata.name}_${pod.metadata.namespace}(${pod.metadata.uid})" failed - error: `;
  if (handler.exec !== undefined) {
    const command = handler.exec.command ?? [];
    let output = '';
    try {
      const result = await deps.execSync({ container_id: containerId, cmd: command, timeout: 0 }, signal);
      output = Buffer.concat([Buffer.from(result.stdout ?? []), Buffer.from(result.stderr ?? [])]).toString('utf8');
      if ((result.exit_code ?? 0) !== 0)
        throw new AgentError('HookFailed', `command '${command.join(' ')}' exited with ${result.exit_code}`);
    } catch (error) {
      throw new AgentError(
        'HookFailed',
        `Exec lifecycle hook ([${command.join(' ')}]) ${where}${messageOf(error)}, message: ${JSON.stringify(output)}`,
        { cause: error },
      );
    }
  } else if (handler.httpGet !== undefined) {
    try {
      await httpHook(deps, handler.httpGet, container, podIp, signal);
    } catch (error) {
      throw new AgentError('HookFailed', `HTTP lifecycle hook (${handler.httpGet.path ?? ''}) ${where}${messageOf(error)}`, {
        cause: error,
      });
    }
  } else if (handler.sleep !== undefined) {
    try {
      await deps.clock.sleep(handler.sleep.seconds * 1000, signal);
    } catch (error) {
      deps.sleepCut?.();
      throw error;
    }
  } else if (handler.tcpSocket !== undefined) {
    // Kept by the API for old objects; kubelet too refuses to run it.
    throw new AgentError('HookFailed', 'Cannot run handler: invalid handler: tcpSocket is not supported as a lifecycle hook');
  }
}

/** The number behind a port that may be a name of one of the container's ports. Throws AgentError InvalidPort. */
function resolvePort(port: number | string, container: Container): number {
  const named = container.ports?.find((p) => p.name === port)?.containerPort;
  const number = typeof port === 'number' ? port : (named ?? Number(port));
  if (!Number.isInteger(number) || number < 1 || number > 65_535) {
    throw new AgentError('InvalidPort', `container ${container.name} has no port named "${port}"`);
  }
  return number;
}

// What a client must not carry to another host (net/http shouldCopyHeaderOnRedirect).
const secretHeaders = new Set(['authorization', 'cookie', 'www-authenticate']);
const maxRedirects = 10;

interface HookRequest {
  readonly url: URL;
  /** By lower-case name. */
  readonly headers: ReadonlyMap<string, readonly string[]>;
}

async function httpHook(
  deps: HookDeps,
  action: HTTPGetAction,
  container: Container,
  podIp: string | undefined,
  signal: AbortSignal,
): Promise<void> {
  const host = action.host !== undefined && action.host !== '' ? action.host : podIp;
  if (host === undefined) throw new AgentError('HookFailed', 'the pod has no address');
  const authority = `${isIPv6(host) ? `[${host}]` : host}:${resolvePort(action.port, container)}`;
  const scheme = (action.scheme || 'HTTP').toLowerCase();
  const url = URL.parse(`${scheme}://${authority}/${(action.path ?? '').replace(/^\//, '')}`);
  if (url === null) throw new AgentError('HookFailed', `${scheme}://${authority} is no URL`);
  const headers = new Map<string, string[]>();
  for (const { name, value } of action.httpHeaders ?? []) {
    const key = name.toLowerCase();
    headers.set(key, [...(headers.get(key) ?? []), value]);
  }
  if (!headers.has('user-agent')) headers.set('user-agent', ['kube-lifecycle/1.36']);
  if (!headers.has('accept')) headers.set('accept', ['*/*']);
  if (headers.get('host')?.[0] === '') headers.delete('host');
  try {
    await follow({ url, headers }, signal);
  } catch (error) {
    // A handler written as HTTPS that is served as HTTP has always worked (kubernetes#114216): it is tried in the clear, without its authorization.
    const isPlain = messageOf(error).includes('wrong version number') || messageOf(error).includes('packet length too long');
    if (url.protocol !== 'https:' || !isPlain) throw error;
    url.protocol = 'http:';
    headers.delete('authorization');
    await follow({ url, headers }, signal);
    deps.fellBack?.(authority);
  }
}

/** Asks, and goes where the answer sends us: a handler of `/stop` that is served as `/stop/` has not been run by its redirect. */
async function follow(first: HookRequest, signal: AbortSignal): Promise<void> {
  let at = first;
  for (let hops = 0; hops < maxRedirects; hops++) {
    const location = await get(at, signal);
    const url = location === undefined ? null : URL.parse(location, at.url);
    if (url === null) return;
    const stays = url.host === at.url.host;
    const headers = new Map([...at.headers].filter(([name]) => stays || (name !== 'host' && !secretHeaders.has(name))));
    at = { url, headers };
  }
  throw new AgentError('HookFailed', `Get "${at.url.href}": stopped after ${maxRedirects} redirects`);
}

/** Resolves with where an answer sends us. Any other answer will do; what it says is not read. */
function get({ url, headers }: HookRequest, signal: AbortSignal): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    const host = url.hostname.replace(/^\[|\]$/g, '');
    const secure = url.protocol === 'https:';
    const options = {
      host,
      port: Number(url.port) || (secure ? 443 : 80),
      path: `${url.pathname}${url.search}`,
      headers: Object.fromEntries(headers) as Record<string, string[]>,
      signal,
      method: 'GET',
      agent: false as const,
      // As lenient as Go's parser.
      insecureHTTPParser: true,
    };
    // Hooks speak to the pod's own server, whose certificate nobody vouches for: as with probes it is not verified.
    const call = secure
      ? httpsRequest({ ...options, rejectUnauthorized: false, servername: isIP(host) === 0 ? host : '' })
      : httpRequest(options);
    call.on('response', (response) => {
      response.destroy();
      const { location } = response.headers;
      resolve([301, 302, 303, 307, 308].includes(response.statusCode ?? 0) ? location : undefined);
    });
    // Node has no other word for 101: without a listener it drops the connection and tells nobody, and the hook would never end.
    call.on('upgrade', (_, socket) => {
      socket.destroy();
      resolve(undefined);
    });
    call.on('error', reject);
    call.end();
  });
}
