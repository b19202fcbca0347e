import type { ServiceError } from '@grpc/grpc-js';
import { AgentError, hasCode, messageOf } from '../../base/errors.ts';

// gRPC's status codes by number, spelt as Go's `codes` spells them: those words reach events and statuses.
const codeNames = [
  'OK',
  'Canceled',
  'Unknown',
  'InvalidArgument',
  'DeadlineExceeded',
  'NotFound',
  'AlreadyExists',
  'PermissionDenied',
  'ResourceExhausted',
  'FailedPrecondition',
  'Aborted',
  'OutOfRange',
  'Unimplemented',
  'Internal',
  'Unavailable',
  'DataLoss',
  'Unauthenticated',
] as const;

/**
 * What a gRPC peer answered. `code` is the status code's name (NotFound, Unavailable, …), `details` the peer's own words alone, and the message names
 * the call and its object before them.
 */
export class GrpcError extends AgentError {
  readonly details: string;

  constructor(code: string, message: string, details: string, options?: { cause?: unknown }) {
    super(code, message, options);
    this.name = 'GrpcError';
    this.details = details;
  }
}

/** Translates what grpc-js throws. `call` is the method, `object` what it was about (an ID, a name; may be empty). */
export function translateGrpcError(error: unknown, call: string, object: string): AgentError {
  if (error instanceof AgentError) return error;
  const subject = subjectOf(call, object);
  if (!isServiceError(error)) {
    // A request that does not fit the contract fails in the serializer, before anything is sent.
    return new AgentError('Internal', `${subject}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
  const code = codeNames[error.code] ?? 'Unknown';
  return new GrpcError(code, `${subject}: ${code}: ${error.details}`, error.details, { cause: error });
}

export function subjectOf(call: string, object: string): string {
  return object === '' ? call : `${call} ${object}`;
}

/** A call that its signal ended: `DeadlineExceeded` when a deadline did, else `Canceled`. `subject`, which may be empty, comes before the reason. */
export function abortedCall(reason: unknown, subject: string): AgentError {
  const code = hasCode(reason, 'DeadlineExceeded') ? 'DeadlineExceeded' : 'Canceled';
  return new AgentError(code, `${subject === '' ? '' : `${subject}: `}${messageOf(reason)}`, { cause: reason });
}

function isServiceError(error: unknown): error is ServiceError {
  return (
    error instanceof Error && 'code' in error && typeof error.code === 'number' && 'details' in error && typeof error.details === 'string'
  );
}
