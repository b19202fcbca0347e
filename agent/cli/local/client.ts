import { type IncomingMessage, request } from 'node:http';
import { systemClock } from '../../base/clock.ts';
import { AgentError, hasCode } from '../../base/errors.ts';
import type { LocalStatus, LocalWhy } from '../../server/local.ts';
import type { LocalServices } from '../../server/local-services.ts';
import { localProxySocket, socketToAsk } from './paths.ts';

/** Asks the agent that answers on `socketPath`; resolves to the response as it begins. Throws AgentError Unavailable when no agent runs here, else with its words. */
export async function askAgent(
  method: 'GET' | 'POST',
  path: string,
  signal: AbortSignal,
  socketPath: string = socketToAsk(),
): Promise<IncomingMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const asked = request({ socketPath, method, path, signal }, resolve);
  asked.on('error', (cause: NodeJS.ErrnoException) => {
    if (cause.code === 'EACCES')
      reject(new AgentError('Forbidden', `only root may talk to the agent (${socketPath}): run this as root`, { cause }));
    else if (cause.code === 'ENOENT' || cause.code === 'ECONNREFUSED')
      reject(new AgentError('Unavailable', `no agent runs here (nobody answers on ${socketPath}): start one with ./keelson up`, { cause }));
    else reject(cause);
  });
  asked.end();
  const response = await promise;
  if ((response.statusCode ?? 500) < 300) return response;
  throw new AgentError(response.statusCode === 404 ? 'NotFound' : 'Refused', (await textOf(response)).trim());
}

async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}

// What it knows it tells at once; only a machine that is very busy makes it slow.
const answerWithinMs = 30_000;

/** Asks for what the agent knows. Throws AgentError DeadlineExceeded besides, for an agent that hangs. */
async function json<T>(method: 'GET' | 'POST', path: string, signal: AbortSignal, socketPath = socketToAsk()): Promise<T> {
  using deadline = systemClock.deadline(signal, answerWithinMs);
  try {
    return JSON.parse(await textOf(await askAgent(method, path, deadline.signal, socketPath))) as T;
  } catch (error) {
    if (signal.aborted || !deadline.signal.aborted) throw error;
    throw new AgentError(
      'DeadlineExceeded',
      `the agent on ${socketPath} has not answered within ${answerWithinMs / 1000} s: it hangs, or this machine is overloaded`,
      { cause: error },
    );
  }
}

/** The questions to an agent; without a socket to the one that commands are about. */
export const agent = {
  status: (signal: AbortSignal, socketPath?: string): Promise<LocalStatus> => json('GET', '/status', signal, socketPath),
  why: (pod: PodName, signal: AbortSignal): Promise<LocalWhy> => json('GET', `/why/${pathOf(pod)}`, signal),
  /** All Services, or one; asks the proxy that runs alone where the agent programs none. Throws AgentError Refused where nobody does. */
  services: async (service: PodName | undefined, verify: boolean, signal: AbortSignal): Promise<LocalServices> => {
    const path = `/services${service === undefined ? '' : `/${pathOf(service)}`}${verify ? '?verify' : ''}`;
    try {
      return await json('GET', path, signal);
    } catch (error) {
      if (!hasCode(error, 'Unavailable') && !hasCode(error, 'Refused')) throw error;
      return await json<LocalServices>('GET', path, signal, localProxySocket()).catch((second: unknown) => {
        throw hasCode(second, 'Unavailable') ? error : second;
      });
    }
  },
  /** Waits for the runtime, however long it takes. */
  exec: async (pod: PodName, container: string, query: URLSearchParams, signal: AbortSignal): Promise<{ url: string }> =>
    JSON.parse(await textOf(await askAgent('POST', `/exec/${pathOf(pod)}/${encodeURIComponent(container)}?${query}`, signal))),
  drain: (signal: AbortSignal, socketPath: string): Promise<object> => json('POST', '/drain', signal, socketPath),
};

export interface PodName {
  readonly namespace: string;
  readonly name: string;
}

/** `web`, or `kube-system/web`. */
export function parsePodName(text: string, namespace: string | undefined): PodName {
  const [first = '', second] = text.replace(/^pods?\//, '').split('/');
  return second === undefined ? { namespace: namespace ?? 'default', name: first } : { namespace: first, name: second };
}

export function pathOf({ namespace, name }: PodName): string {
  return `${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`;
}

/** The container that is meant when none is named, as kubectl has it. */
export function defaultContainer({ pod }: LocalWhy): string {
  return pod.metadata.annotations?.['kubectl.kubernetes.io/default-container'] ?? pod.spec?.containers[0]?.name ?? '';
}
