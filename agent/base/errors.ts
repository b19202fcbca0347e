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

/** Ends an exhaustive switch: a value that the types rule out has arrived. */
export function unreachable(value: never): never {
  throw new AgentError('Internal', `unexpected value ${JSON.stringify(value)}`);
}
