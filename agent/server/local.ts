import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Clock } from '../base/clock.ts';
import { AgentError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { ReadonlyTable } from '../base/table.ts';
import { type AgentPod, podKey } from '../model/pod.ts';
import { containerToRead, hasContainer } from './containers.ts';
import type { NodeView, ReadContainerLog, StreamingRuntime } from './contracts.ts';
import type { TrailEvent } from './event-trail.ts';
import { answerServices, type InRules, type LocalProxy } from './local-services.ts';
import { pathParts, serveLocalSocket } from './local-socket.ts';
import { parseLogOptions, sinceOf } from './log-options.ts';
import { drained, sendJson, sendText } from './reply.ts';

/** What a pod is doing, as the pods room tells it. */
export interface LocalActivity {
  readonly lifecycle: string;
  readonly waiting: readonly { readonly subject: string; readonly message: string }[];
  readonly inFlight: readonly string[];
  /** Oldest first; times in wall ms. */
  readonly steps: readonly {
    readonly step: string;
    readonly startedAt: number;
    readonly tookMs: number;
    readonly error?: string | undefined;
  }[];
}

/** A pod with what it is doing; `pod.spec` is missing for one that is only still being ended. */
export interface LocalPod {
  readonly pod: Pick<AgentPod, 'metadata'> & Partial<Pick<AgentPod, 'spec' | 'status'>>;
  readonly activity: LocalActivity | undefined;
}

/** Answer of `GET /status`. */
export interface LocalStatus {
  readonly node: string;
  readonly runtime: string;
  readonly standalone: boolean;
  /** Wall time, ms. */
  readonly startedAt: number;
  readonly manifests: string | undefined;
  /** What the node runs short of: MemoryPressure, DiskPressure, PIDPressure. */
  readonly pressure: readonly string[];
  /** What is wrong with manifests. */
  readonly problems: readonly { readonly origin: string; readonly message: string }[];
  /** What lies among the manifests and is no Pod. */
  readonly passedOver: readonly { readonly origin: string; readonly message: string }[];
  readonly pods: readonly LocalPod[];
}

/** Answer of `GET /why/NAMESPACE/NAME`. */
export interface LocalWhy extends LocalPod {
  readonly events: readonly TrailEvent[];
  /** What the node runs short of. */
  readonly pressure: readonly string[];
  /** Services whose rules on this node send to the pod; absent where the agent programs none. */
  readonly inRules?: readonly InRules[] | undefined;
  readonly now: number;
}

export interface LocalServerOptions {
  /** Path of the socket; its folder is made when missing. */
  readonly socket: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly nodeName: string;
  readonly runtimeName: string;
  readonly standalone: boolean;
  readonly manifests: string | undefined;
  readonly node: NodeView;
  /** By UID: what the runtime holds. */
  readonly running: ReadonlyTable<{ readonly name: string; readonly namespace: string }>;
  readonly runtime: Pick<StreamingRuntime, 'exec'>;
  readonly readLog: ReadContainerLog;
  readonly activity: (podUid: string) => LocalActivity | undefined;
  readonly events: (podUid: string) => readonly TrailEvent[];
  readonly problems: () => ReadonlyMap<string, string>;
  readonly passedOver: () => ReadonlyMap<string, string>;
  readonly pressure: () => readonly string[];
  readonly proxy: LocalProxy;
  /** Lets go of all static pods, so that they end. */
  readonly drain: () => Promise<void>;
}

/**
 * Serves the commands of the person at the keyboard on a unix socket that only root can open: status, why, services, logs, exec, drain. A socket that another
 * agent answers on is left to it, and undefined returned.
 */
export async function startLocalServer(options: LocalServerOptions): Promise<AsyncDisposable | undefined> {
  const startedAt = options.clock.wall();
  return await serveLocalSocket({
    ...options,
    answer: (request, response, signal) => answer(options, startedAt, request, response, signal),
  });
}

async function answer(
  options: LocalServerOptions,
  startedAt: number,
  request: IncomingMessage,
  response: ServerResponse,
  signal: AbortSignal,
): Promise<void> {
  const { url, parts } = pathParts(request);
  const [what, namespace = '', name = '', container = ''] = parts;
  switch (`${request.method} ${what}`) {
    case 'GET status':
      return sendJson(response, statusOf(options, startedAt));
    case 'GET why':
      return sendJson(response, whyOf(options, find(options, namespace, name)));
    case 'GET services':
      return await answerServices(options.proxy, parts.slice(1), url.searchParams.has('verify'), response, signal);
    case 'GET logs':
      return sendLog(options, find(options, namespace, name), container, url.searchParams, response, signal);
    case 'POST exec':
      return sendJson(response, { url: await execUrl(options, find(options, namespace, name), container, url.searchParams, signal) });
    case 'POST drain':
      if (!options.standalone) return sendText(response, 409, 'this node belongs to a cluster: drain it with kubectl drain');
      await options.drain();
      return sendJson(response, {});
    default:
      return sendText(response, 404, `the agent does not know ${request.method} ${url.pathname}`);
  }
}

function statusOf(options: LocalServerOptions, startedAt: number): LocalStatus {
  const pods: LocalPod[] = [];
  const seen = new Set<string>();
  for (const pod of options.node.pods()) {
    seen.add(pod.metadata.uid);
    pods.push({ pod, activity: options.activity(pod.metadata.uid) });
  }
  for (const [uid, { name, namespace }] of options.running.entries())
    if (!seen.has(uid)) pods.push({ pod: { metadata: { name, namespace, uid } }, activity: options.activity(uid) });
  pods.sort((a, b) => (podKeyOf(a) < podKeyOf(b) ? -1 : 1));
  return {
    node: options.nodeName,
    runtime: options.runtimeName,
    standalone: options.standalone,
    startedAt,
    manifests: options.manifests,
    pressure: options.pressure(),
    problems: [...options.problems()].map(([origin, message]) => ({ origin, message })),
    passedOver: [...options.passedOver()].map(([origin, message]) => ({ origin, message })),
    pods,
  };
}

const podKeyOf = ({ pod }: LocalPod): string => `${pod.metadata.namespace}/${pod.metadata.name}`;

function whyOf(options: LocalServerOptions, pod: AgentPod): LocalWhy {
  const { uid } = pod.metadata;
  return {
    pod,
    activity: options.activity(uid),
    events: options.events(uid),
    pressure: options.pressure(),
    inRules: options.proxy.view()?.inRulesOf(pod),
    now: options.clock.wall(),
  };
}

/** A pod by its name, or by the name it has in its manifest. Throws NotFound with the names there are. */
function find(options: LocalServerOptions, namespace: string, name: string): AgentPod {
  const { node, nodeName } = options;
  const pod = node.pod(namespace, name) ?? node.pod(namespace, `${name}-${nodeName}`);
  if (pod !== undefined) return pod;
  const known = [...node.pods()].map(podKey).join(', ');
  throw new AgentError(
    'NotFound',
    `there is no pod "${name}" in namespace ${namespace}; there ${known === '' ? 'are none at all' : `are: ${known}`}`,
  );
}

async function sendLog(
  options: LocalServerOptions,
  pod: AgentPod,
  container: string,
  query: URLSearchParams,
  response: ServerResponse,
  signal: AbortSignal,
): Promise<void> {
  const parsed = parseLogOptions(query, true);
  if ('error' in parsed) return sendText(response, parsed.error.status, parsed.error.text);
  requireContainer(pod, container);
  const { node, clock } = options;
  const wanted = parsed.options;
  const found = containerToRead(pod, container, wanted.previous);
  if ('refusal' in found) return sendText(response, found.refusal.status, found.refusal.text);
  const file = node.containerLog(found.id);
  if (file === undefined) return sendText(response, 404, `the runtime no longer has container ${found.id}`);
  const { id } = found;
  const read = options.readLog(
    file.path,
    {
      tailLines: wanted.tailLines,
      limitBytes: wanted.limitBytes,
      since: sinceOf(wanted, clock.wall()),
      timestamps: wanted.timestamps,
      stream: wanted.stream,
      follow: wanted.follow
        ? { running: () => node.isRunning(id), onChange: (listener) => node.onContainerChange(id, listener) }
        : undefined,
    },
    signal,
  );
  for await (const chunk of read) {
    if (!response.headersSent) response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8' }).flushHeaders();
    if (chunk.length > 0 && !response.write(chunk)) await drained(response, signal);
  }
  response.end();
}

async function execUrl(
  options: LocalServerOptions,
  pod: AgentPod,
  container: string,
  query: URLSearchParams,
  signal: AbortSignal,
): Promise<string> {
  requireContainer(pod, container);
  const id = options.node.runningContainer(pod.metadata.uid, container);
  if (id === undefined)
    throw new AgentError('NotFound', `container ${container} of pod ${podKey(pod)} is not running; see: keelson why ${pod.metadata.name}`);
  const tty = query.get('tty') === '1';
  const { url } = await options.runtime.exec(
    { container_id: id, cmd: query.getAll('command'), stdin: query.get('stdin') === '1', stdout: true, stderr: !tty, tty },
    signal,
  );
  if (!url) throw new AgentError('Internal', 'the runtime gave no address for the stream');
  return url;
}

function requireContainer(pod: AgentPod, container: string): void {
  if (hasContainer(pod, container)) return;
  const names = [...(pod.spec.initContainers ?? []), ...pod.spec.containers].map((c) => c.name);
  throw new AgentError('NotFound', `pod ${podKey(pod)} has no container "${container}"; it has: ${names.join(', ')}`);
}
