import { AgentError } from '../base/errors.ts';

// What execve(2) takes, so that `$(A)$(A)` in a few variables fails with its reason and costs no memory. Lengths in bytes of UTF-8.

/** One string with its NUL: an argument, or `NAME=value` (MAX_ARG_STRLEN, include/uapi/linux/binfmts.h, with pages of 4 KiB). */
const longestStringBytes = 131_072;

/** All strings with a pointer each: the most that the kernel takes, whatever the limit of the stack is (fs/exec.c bprm_stack_limits: 3/4 of _STK_LIM). */
const mostBytes = 6 * 1024 * 1024;

/** The most that an argument may hold. */
export const longestArgumentBytes = longestStringBytes - 1;

/** The most that the value of this variable may hold. */
export function longestValueBytes(name: string): number {
  return longestStringBytes - Buffer.byteLength(name) - '=\0'.length;
}

export function tooLong(what: string): AgentError {
  return new AgentError('CreateContainerConfigError', `${what} is longer than ${longestStringBytes} bytes, the most that the kernel takes`);
}

/** Counts the strings of one process as they come. Each call throws AgentError CreateContainerConfigError when it is more than the kernel takes. */
export interface ProcessSize {
  /** A name that comes again replaces what it had. */
  setVariable(name: string, value: string): void;
  addArgument(argument: string): void;
}

export function countProcessSize(): ProcessSize {
  const pointerBytes = 8;
  const variables = new Map<string, number>();
  let total = 0;
  const add = (bytes: number): void => {
    total += bytes;
    if (total > mostBytes)
      throw new AgentError(
        'CreateContainerConfigError',
        `command, arguments and environment are longer than ${mostBytes} bytes together, the most that the kernel takes`,
      );
  };
  return {
    setVariable(name, value) {
      const bytes = Buffer.byteLength(name) + Buffer.byteLength(value) + '=\0'.length + pointerBytes;
      const before = variables.get(name) ?? 0;
      variables.set(name, bytes);
      add(bytes - before);
    },
    addArgument(argument) {
      add(Buffer.byteLength(argument) + '\0'.length + pointerBytes);
    },
  };
}

/** Throws AgentError CreateContainerConfigError when a process could not be started with these. */
export function checkProcess(
  argumentLists: readonly (readonly string[])[],
  envs: readonly { readonly name: string; readonly value: string }[],
): void {
  const size = countProcessSize();
  for (const { name, value } of envs) {
    if (Buffer.byteLength(value) > longestValueBytes(name)) throw tooLong(variableName(name));
    size.setVariable(name, value);
  }
  for (const list of argumentLists) for (const argument of list) size.addArgument(argument);
}

/** How a message names a variable: a name may be as long as an object. */
export function variableName(name: string): string {
  return `environment variable ${name.length > 256 ? `${name.slice(0, 256)}…` : name}`;
}
