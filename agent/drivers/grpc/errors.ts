import type { ServiceError } from '@grpc/grpc-js';
import { AgentError, hasCode, messageOf } from '../../base/errors.ts';
import { grpcCodeName, grpcStatusText } from '../../base/grpc-status.ts';

/**
 * What a gRPC peer answered, or why it could not be asked. `code` is the status code's name (NotFound, Unavailable, …), `details` the peer's own words
 * alone. The message is what Go's gRPC prints of a status: events and statuses show it as kubelet's do, and users search for those words.
 */
export class GrpcError extends AgentError {
  readonly details: string;

  constructor(code: string, details: string, options?: { cause?: unknown }) {
    super(code, grpcStatusText(code, details), options);
    this.name = 'GrpcError';
    this.details = details;
  }
}

/** Translates what grpc-js throws. `call` is the method: a request that does not fit the contract names it. */
export function translateGrpcError(error: unknown, call: string): AgentError {
  if (error instanceof AgentError) return error;
  if (!isServiceError(error)) {
    // Such a request fails in the serializer, before anything is sent.
    return new AgentError('Internal', `${call}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
  return new GrpcError(grpcCodeName(error.code), error.details, { cause: error });
}

/** A call that its signal ended. One whose deadline did reads as in Go; of any other the message is the signal's reason. */
export function abortedCall(reason: unknown): AgentError {
  if (hasCode(reason, 'DeadlineExceeded')) return new GrpcError('DeadlineExceeded', 'context deadline exceeded', { cause: reason });
  return new AgentError('Canceled', messageOf(reason), { cause: reason });
}

function isServiceError(error: unknown): error is ServiceError {
  return (
    error instanceof Error && 'code' in error && typeof error.code === 'number' && 'details' in error && typeof error.details === 'string'
  );
}
