import type { Clock } from '../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../base/errors.ts';
import { joinHostPort } from '../base/net-errors.ts';
import { resolveContainerPort } from '../model/container-port.ts';
import type { Container, HTTPGetAction, LifecycleHandler } from '../model/generated/api.ts';
import { kubeUserAgent } from '../model/kubernetes-version.ts';
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
  /** A hook's command with its `$(NAME)` replaced by what the container has in its environment. */
  expand(command: readonly string[], signal: AbortSignal): Promise<string[]>;
  /**
   * Carries out an httpGet. Throws AgentError in the words of a Go program: ServedInTheClear when what was asked by HTTPS speaks no TLS,
   * another code for the rest.
   */
  httpGet(action: HTTPGetAction, container: Container, podIp: string, userAgent: string, signal: AbortSignal): Promise<unknown>;
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
    // Messages show it as it was written: what its variables stand for may be secret.
    const command = handler.exec.command ?? [];
    let output = '';
    try {
      const cmd = await deps.expand(command, signal);
      const result = await deps.execSync({ container_id: containerId, cmd, timeout: 0 }, signal);
      output = Buffer.concat([Buffer.from(result.stdout ?? []), Buffer.from(result.stderr ?? [])]).toString('utf8');
      if ((result.exit_code ?? 0) !== 0)
        // As the CRI client of a kubelet says it (cri-client pkg/remote_runtime.go ExecSync).
        throw new AgentError(
          'HookFailed',
          `command '${command.join(' ')}' exited with ${result.exit_code}: ${Buffer.from(result.stderr ?? []).toString('utf8')}`,
        );
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

const userAgent = kubeUserAgent('lifecycle');

async function httpHook(
  deps: HookDeps,
  action: HTTPGetAction,
  container: Container,
  podIp: string | undefined,
  signal: AbortSignal,
): Promise<void> {
  const host = action.host || podIp;
  if (host === undefined) throw new AgentError('HookFailed', 'failed to find networking container: the pod has no address');
  try {
    // Any status will do: what the handler answers is not judged.
    await deps.httpGet(action, container, host, userAgent, signal);
  } catch (error) {
    // A handler written as HTTPS that is served as HTTP has always worked (kubernetes#114216): it is tried in the clear, without its authorization.
    if (!hasCode(error, 'ServedInTheClear')) throw error;
    const httpHeaders = action.httpHeaders?.filter(({ name }) => name.toLowerCase() !== 'authorization');
    const clear = { ...action, scheme: 'HTTP', httpHeaders };
    await deps.httpGet(clear, container, host, userAgent, signal).catch(() => {
      // What went wrong is told of the handler as it was written.
      throw error;
    });
    const port = resolveContainerPort(action.port, container);
    deps.fellBack?.('port' in port ? joinHostPort(host, port.port) : host);
  }
}
