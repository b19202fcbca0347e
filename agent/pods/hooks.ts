import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { connect, isIPv6 } from 'node:net';
import type { Clock } from '../base/clock.ts';
import { AgentError, messageOf } from '../base/errors.ts';
import type { Container, HTTPGetAction, LifecycleHandler } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';

export interface HookDeps {
  readonly clock: Clock;
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
      await httpHook(handler.httpGet, container, podIp, signal);
    } catch (error) {
      throw new AgentError('HookFailed', `HTTP lifecycle hook (${handler.httpGet.path ?? ''}) ${where}${messageOf(error)}`, {
        cause: error,
      });
    }
  } else if (handler.sleep !== undefined) {
    await deps.clock.sleep(handler.sleep.seconds * 1000, signal);
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

async function httpHook(action: HTTPGetAction, container: Container, podIp: string | undefined, signal: AbortSignal): Promise<void> {
  const host = action.host !== undefined && action.host !== '' ? action.host : podIp;
  if (host === undefined) throw new AgentError('HookFailed', 'the pod has no address');
  const port = resolvePort(action.port, container);
  const headers: Record<string, string | string[]> = { 'user-agent': 'kube-lifecycle/1.36', accept: '*/*' };
  for (const { name, value } of action.httpHeaders ?? []) headers[name.toLowerCase()] = value;
  const secure = action.scheme === 'HTTPS';
  const target = { host: isIPv6(host) ? host : host, port, path: `/${(action.path ?? '').replace(/^\//, '')}`, headers, signal };
  try {
    await get(secure, target);
  } catch (error) {
    // A handler written as HTTPS that is served as HTTP has always worked (kubernetes#114216): it is tried in the clear, without its authorization.
    if (!secure || (!messageOf(error).includes('wrong version number') && !messageOf(error).includes('packet length too long')))
      throw error;
    const { authorization: _, ...plain } = headers;
    await get(false, { ...target, headers: plain });
  }
}

function get(
  secure: boolean,
  target: { host: string; port: number; path: string; headers: Record<string, string | string[]>; signal: AbortSignal },
): Promise<void> {
  return new Promise((resolve, reject) => {
    const options = { ...target, method: 'GET', agent: false as const };
    // Hooks speak to the pod's own server, whose certificate nobody vouches for: as with probes it is not verified.
    const call = secure
      ? httpsRequest({ ...options, rejectUnauthorized: false })
      : httpRequest({ ...options, createConnection: () => connect(target.port, target.host) });
    call.on('response', (response) => {
      // Any answer will do; what it says is not read.
      response.destroy();
      resolve();
    });
    call.on('error', reject);
    call.end();
  });
}
