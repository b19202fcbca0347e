import { Client, credentials } from '@grpc/grpc-js';
import type { ContainerEventResponse, ImageServiceMethods, RuntimeServiceMethods } from '../../../cri-protos/generated/cri.ts';
import type { Clock } from '../../base/clock.ts';
import { AgentError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { setOwn } from '../../base/own.ts';
import { callUnary, readStream, type UnderWay } from '../grpc/call.ts';
import { loadServices, type Method } from '../grpc/contract.ts';
import { abortedCall, translateGrpcError } from '../grpc/errors.ts';

type Unary<Methods extends Record<keyof Methods, { request: unknown; response: unknown }>> = {
  [M in keyof Methods as Uncapitalize<M & string>]: (
    request: Methods[M]['request'],
    signal: AbortSignal,
  ) => Promise<Methods[M]['response']>;
};

type RuntimeCalls = Unary<Omit<RuntimeServiceMethods, 'GetContainerEvents'>>;
type ImageCalls = Unary<ImageServiceMethods>;

/**
 * A container runtime behind its CRI sockets. Each call takes the request as the contract has it and a signal that cancels it, and has a deadline of its
 * own (see `deadlineMs`). Rejects with an AgentError: the gRPC code's name (NotFound, Unavailable, DeadlineExceeded, Unimplemented, …) as `code`, and
 * `details` with the runtime's own words where it gave any. `Canceled` when the signal aborted, its reason as cause.
 */
export interface CriClient extends RuntimeCalls, ImageCalls, AsyncDisposable {
  /** The runtime's event stream. Ends when the runtime closes it; throws when it breaks or is not implemented (containerd before 1.7). */
  containerEvents(signal: AbortSignal): AsyncIterable<ContainerEventResponse>;
}

export interface CriOptions {
  /** `unix:///run/containerd/containerd.sock` */
  readonly endpoint: string;
  /** Where images are served, when elsewhere. */
  readonly imageEndpoint?: string | undefined;
  readonly clock: Clock;
  readonly log: Log;
  /** The plain deadline (`runtimeRequestTimeout`); default 2 minutes. */
  readonly requestTimeoutMs?: number | undefined;
}

const services = ['runtime.v1.RuntimeService', 'runtime.v1.ImageService'] as const;
let contract: ReturnType<typeof loadServices<(typeof services)[number]>> | undefined;

const channelOptions = {
  'grpc.max_receive_message_length': 16 * 1024 * 1024,
  'grpc.max_send_message_length': 16 * 1024 * 1024,
  // A restarted runtime is found again within a second; grpc's own backoff goes up to two minutes.
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 1000,
  // No keepalive pings: the kernel tells of a dead peer on a unix socket, every call has a deadline, and Go's gRPC server closes connections that ping
  // more often than every five minutes ("too_many_pings").
  'grpc.service_config_disable_resolution': 1,
  'grpc.enable_http_proxy': 0,
  'grpc.use_local_subchannel_pool': 1,
};

/** How long a call may take by itself, in ms; undefined is for ever. `plainMs` is kubelet's runtimeRequestTimeout; the sums are kubelet's too. */
export function deadlineMs(method: string, request: { timeout?: number | undefined }, plainMs: number): number | undefined {
  switch (method) {
    case 'RunPodSandbox':
      return 2 * plainMs;
    case 'StopContainer':
      return plainMs + 1000 * (request.timeout ?? 0);
    case 'ExecSync':
      return (request.timeout ?? 0) === 0 ? undefined : plainMs + 1000 * (request.timeout ?? 0);
    case 'CheckpointContainer':
      return Math.max(plainMs, 1000 * (request.timeout ?? 0));
    case 'PullImage':
      return undefined;
    default:
      return plainMs;
  }
}

/** What a request is about, for the log. */
export function objectOf(request: object): string {
  const { container_id, pod_sandbox_id, config, image } = request as {
    container_id?: string;
    pod_sandbox_id?: string;
    config?: { metadata?: { namespace?: string; name?: string } };
    image?: { image?: string };
  };
  const metadata = config?.metadata;
  const name =
    metadata === undefined ? undefined : metadata.namespace === undefined ? metadata.name : `${metadata.namespace}/${metadata.name}`;
  return container_id ?? name ?? pod_sandbox_id ?? image?.image ?? '';
}

/** Opens the channel (one per endpoint) without waiting for the runtime: calls made while it is away reject with `Unavailable`. */
export function connectCri(options: CriOptions): CriClient {
  const { clock, log } = options;
  const plainMs = options.requestTimeoutMs ?? 120_000;
  contract ??= loadServices('cri.proto', services);
  const runtimeChannel = new Client(options.endpoint, credentials.createInsecure(), channelOptions);
  const imageChannel =
    options.imageEndpoint === undefined || options.imageEndpoint === options.endpoint
      ? runtimeChannel
      : new Client(options.imageEndpoint, credentials.createInsecure(), channelOptions);
  const underWay = new Set<UnderWay>();
  let closed = false;

  function begin(name: string, signal: AbortSignal): void {
    if (closed) throw new AgentError('Canceled', `${name}: the connection to ${options.endpoint} is closed`);
    if (signal.aborted) throw abortedCall(signal.reason);
  }

  async function call(channel: Client, name: string, method: Method, request: object, signal: AbortSignal): Promise<object> {
    begin(name, signal);
    const limitMs = deadlineMs(name, request, plainMs);
    if (limitMs === undefined) return await send(channel, name, method, request, signal);
    using deadline = clock.deadline(signal, limitMs);
    return await send(channel, name, method, request, deadline.signal);
  }

  async function send(channel: Client, name: string, method: Method, request: object, signal: AbortSignal): Promise<object> {
    const startedAt = clock.mono();
    try {
      return await callUnary(channel, method, request, underWay, signal);
    } catch (error) {
      const object = objectOf(request);
      const failure = signal.aborted ? abortedCall(signal.reason) : translateGrpcError(error, name);
      log.debug({ call: name, object, tookMs: Math.round(clock.mono() - startedAt), err: failure.message }, 'runtime call failed');
      throw failure;
    }
  }

  async function* containerEvents(method: Method, signal: AbortSignal): AsyncGenerator<ContainerEventResponse> {
    begin('GetContainerEvents', signal);
    try {
      yield* readStream<ContainerEventResponse>(runtimeChannel, method, {}, underWay, signal);
    } catch (error) {
      throw signal.aborted ? abortedCall(signal.reason) : translateGrpcError(error, 'GetContainerEvents');
    }
  }

  const calls: Record<string, unknown> = {};
  for (const [service, channel] of [
    ['runtime.v1.RuntimeService', runtimeChannel],
    ['runtime.v1.ImageService', imageChannel],
  ] as const) {
    for (const [name, method] of contract[service]) {
      if (name === 'GetContainerEvents') calls.containerEvents = (signal: AbortSignal) => containerEvents(method, signal);
      else
        setOwn(calls, name.charAt(0).toLowerCase() + name.slice(1), (request: object, signal: AbortSignal) =>
          call(channel, name, method, request, signal),
        );
    }
  }
  return Object.assign(calls as unknown as Omit<CriClient, typeof Symbol.asyncDispose>, {
    async [Symbol.asyncDispose]() {
      closed = true;
      for (const active of [...underWay]) active.cancel();
      runtimeChannel.close();
      if (imageChannel !== runtimeChannel) imageChannel.close();
    },
  });
}
