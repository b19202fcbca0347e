import { Client, credentials } from '@grpc/grpc-js';
import type { Clock } from '../../base/clock.ts';
import { AgentError, messageOf } from '../../base/errors.ts';
import { grpcSockets } from '../../base/grpc-sockets.ts';
import { callUnary, readStream, type UnderWay } from '../grpc/call.ts';
import type { Method } from '../grpc/contract.ts';
import { abortedCall, translateGrpcError } from '../grpc/errors.ts';

/** A plugin's socket that has been reached. Calls reject with GrpcErrors. */
export interface UnixClient extends Disposable {
  call<Response>(method: Method, request: object, signal: AbortSignal): Promise<Response>;
  /** What the server streams; throws when the stream breaks. */
  stream<Response extends object>(method: Method, request: object, signal: AbortSignal): AsyncIterable<Response>;
}

const channelOptions = {
  'grpc.enable_http_proxy': 0,
  'grpc.service_config_disable_resolution': 1,
  'grpc.use_local_subchannel_pool': 1,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_receive_message_length': 16 * 1024 * 1024,
};

// Longer than any caller waits.
const longestDialMs = 15_000;

/** Connects to a unix socket; rejects when nobody has answered by the time the signal aborts. */
export async function connectUnix(path: string, clock: Clock, signal: AbortSignal): Promise<UnixClient> {
  const sockets = grpcSockets(credentials.createInsecure());
  const client = new Client(`unix:${path}`, sockets.credentials, channelOptions);
  const close = (): void => client.close();
  signal.addEventListener('abort', close, { once: true });
  try {
    signal.throwIfAborted();
    // The signal is what ends the waiting; a client that is closed keeps its own timer until it has run out, so that one is not long either.
    await new Promise<void>((resolve, reject) => {
      const gaveUp = (): void => reject(new AgentError('Unavailable', `failed to dial ${path}: ${messageOf(signal.reason)}`));
      signal.addEventListener('abort', gaveUp, { once: true });
      client.waitForReady(clock.wall() + longestDialMs, (error) => {
        signal.removeEventListener('abort', gaveUp);
        if (error === undefined) resolve();
        else reject(new AgentError('Unavailable', `failed to dial ${path}: ${error.message}`, { cause: error }));
      });
    });
  } catch (error) {
    client.close();
    sockets[Symbol.dispose]();
    throw error;
  } finally {
    signal.removeEventListener('abort', close);
  }
  // Closing a plugin's channel lets its last calls end by themselves, so nobody asks which those are.
  const underWay = new Set<UnderWay>();
  return {
    async call<Response>(method: Method, request: object, callSignal: AbortSignal) {
      try {
        return (await callUnary(client, method, request, underWay, callSignal)) as Response;
      } catch (error) {
        throw callSignal.aborted ? abortedCall(callSignal.reason) : translateGrpcError(error, method.path);
      }
    },
    async *stream<Response extends object>(method: Method, request: object, callSignal: AbortSignal) {
      try {
        yield* readStream<Response>(client, method, request, underWay, callSignal);
      } catch (error) {
        throw callSignal.aborted ? abortedCall(callSignal.reason) : translateGrpcError(error, method.path);
      }
    },
    [Symbol.dispose]: () => client.close(),
  };
}
