/** An error with a stable code that callers may branch on. The message names the object; `cause` holds what came from below. */
export class AgentError extends Error {
  readonly code: string;

  constructor(code: string, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'AgentError';
    this.code = code;
  }
}

/** True when `error` is an AgentError with one of these codes. */
export function hasCode(error: unknown, ...codes: string[]): error is AgentError {
  return error instanceof AgentError && codes.includes(error.code);
}

/** The message of anything thrown, without its stack. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/**
 * The words of a gRPC peer without the code before them, where the error is its answer; else the message. The same as Go's `status.FromError(err).Message()`,
 * by which kubelet tells why a container was not made (pkg/kubelet/kuberuntime/kuberuntime_container.go).
 */
export function peerWordsOf(error: unknown): string {
  return error instanceof AgentError && 'details' in error && typeof error.details === 'string' ? error.details : messageOf(error);
}

/** Ends an exhaustive switch: a value that the types rule out has arrived. */
export function unreachable(value: never): never {
  throw new AgentError('Internal', `unexpected value ${JSON.stringify(value)}`);
}
