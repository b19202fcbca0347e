import { hasCode, messageOf } from '../base/errors.ts';
import type { AgentPod } from '../model/pod.ts';
import { portForwardPortsOf, streamOptionsOf } from './containers.ts';
import type { Call, ServerOptions } from './contracts.ts';
import { sendText } from './reply.ts';
import type { Route } from './routes.ts';
import { proxyUpgrade } from './stream-proxy.ts';

// KubeletConfiguration.runtimeRequestTimeout's default: how long a runtime may take to hand out a stream's address.
const streamUrlDeadlineMs = 120_000;

/** Hands an exec, attach or port-forward to the runtime's streaming server. */
export async function serveStream(
  options: ServerOptions,
  call: Call,
  route: Extract<Route, { kind: 'exec' | 'attach' | 'portForward' }>,
): Promise<void> {
  const { response, upgraded, signal } = call;
  const url = await streamUrl(options, call, route);
  if ('refusal' in url) {
    sendText(response, url.refusal.status, url.refusal.text);
    return;
  }
  if (upgraded === undefined) {
    sendText(response, 400, 'Upgrade request required');
    return;
  }
  await proxyUpgrade(call.request, response, upgraded, {
    clock: options.clock,
    url: url.url,
    idleTimeoutMs: options.settings.streamingConnectionIdleTimeoutMs,
    signal,
    closing: call.closing,
  });
}

type StreamAddress = { readonly url: string } | { readonly refusal: { readonly status: number; readonly text: string } };

async function streamUrl(
  options: ServerOptions,
  call: Call,
  route: Extract<Route, { kind: 'exec' | 'attach' | 'portForward' }>,
): Promise<StreamAddress> {
  const refuse = (status: number, text: string): StreamAddress => ({ refusal: { status, text } });
  const { node, runtime, clock } = options;
  const isWebSocket = call.request.headers.upgrade?.toLowerCase() === 'websocket';
  const streams = route.kind === 'portForward' ? portForwardPortsOf(call.query, isWebSocket) : streamOptionsOf(call.query);
  if ('refusal' in streams) return streams;
  const pod = node.pod(route.namespace, route.pod);
  if (pod === undefined) return refuse(404, 'pod does not exist');
  if (route.uid !== undefined && route.uid !== '' && pod.metadata.uid !== route.uid) return refuse(404, 'pod not found');
  const fullName = `${route.pod}_${route.namespace}`;
  using deadline = clock.deadline(call.signal, streamUrlDeadlineMs);
  try {
    let url: string | undefined;
    if (route.kind === 'portForward') {
      const sandbox = node.readySandbox(pod.metadata.uid);
      if (sandbox === undefined) return refuse(500, `pod not found ("${fullName}")`);
      const ports = 'ports' in streams ? streams.ports : [];
      url = (await runtime.portForward({ pod_sandbox_id: sandbox, port: ports }, deadline.signal)).url;
    } else {
      const container = node.runningContainer(pod.metadata.uid, route.container);
      const wanted = 'options' in streams ? streams.options : { stdin: false, stdout: false, stderr: false, tty: false };
      if (route.kind === 'exec') {
        if (container === undefined) return refuse(500, `container not found ("${route.container}")`);
        url = (await runtime.exec({ container_id: container, cmd: call.query.getAll('command'), ...wanted }, deadline.signal)).url;
      } else {
        if (container === undefined) return refuse(500, `container ${route.container} not found in pod ${fullName}`);
        // Whether there is a terminal was decided when the container was created.
        const tty = ttyOf(pod, route.container);
        url = (await runtime.attach({ container_id: container, ...wanted, tty, stderr: wanted.stderr && !tty }, deadline.signal)).url;
      }
    }
    if (!url) return refuse(500, 'the runtime gave no address for the stream');
    return { url };
  } catch (error) {
    if (call.signal.aborted) throw error;
    if (hasCode(error, 'NotFound')) return refuse(404, error.message);
    if (hasCode(error, 'ResourceExhausted')) {
      // As long as the runtime keeps a stream that nobody has claimed (cri-streaming, request_cache.go).
      call.response.setHeader('Retry-After', '60');
      return refuse(429, error.message);
    }
    return refuse(500, messageOf(error));
  }
}

function ttyOf(pod: AgentPod, name: string): boolean {
  const all = [...pod.spec.containers, ...(pod.spec.initContainers ?? []), ...(pod.spec.ephemeralContainers ?? [])];
  return all.find((c) => c.name === name)?.tty === true;
}
