import { type Client, Metadata, type ServiceError } from '@grpc/grpc-js';
import type { Method } from './contract.ts';

/** Something under way that can be ended from here. */
export interface UnderWay {
  cancel(): void;
}

/**
 * Sends one request and resolves to its answer. When the signal aborts, the call is cancelled here and at the server, which learns of deadlines this way
 * too: no grpc-timeout is sent, so that one clock rules. Rejects with what grpc-js gives (see errors.ts), also when cancelled. While it is under way it is in
 * `underWay`, for whoever closes the channel.
 */
export async function callUnary(
  client: Client,
  method: Method,
  request: object,
  underWay: Set<UnderWay>,
  signal: AbortSignal,
): Promise<object> {
  const { promise, resolve, reject } = Promise.withResolvers<object>();
  const active = client.makeUnaryRequest(
    method.path,
    method.requestSerialize,
    method.responseDeserialize,
    request,
    new Metadata(),
    (error: ServiceError | null, response?: object) => (error === null ? resolve(response ?? {}) : reject(error)),
  );
  using _held = cancelledBy(active, underWay, signal);
  return await promise;
}

/** What the server streams after one request; as callUnary otherwise. Whoever stops reading cancels the call. */
export async function* readStream<Response extends object>(
  client: Client,
  method: Method,
  request: object,
  underWay: Set<UnderWay>,
  signal: AbortSignal,
): AsyncGenerator<Response> {
  const stream = client.makeServerStreamRequest<object, object>(method.path, method.requestSerialize, method.responseDeserialize, request);
  using _held = cancelledBy(stream, underWay, signal);
  try {
    yield* stream as AsyncIterable<Response>;
  } finally {
    // Cancelling a stream that nobody reads any more emits an error that must have a listener.
    stream.on('error', () => undefined);
    stream.cancel();
  }
}

function cancelledBy(call: UnderWay, underWay: Set<UnderWay>, signal: AbortSignal): Disposable {
  const onAbort = (): void => call.cancel();
  if (signal.aborted) onAbort();
  else signal.addEventListener('abort', onAbort, { once: true });
  underWay.add(call);
  return {
    [Symbol.dispose]: () => {
      signal.removeEventListener('abort', onAbort);
      underWay.delete(call);
    },
  };
}
