import { spawn } from 'node:child_process';
import { AgentError } from '../../base/errors.ts';
import type { OperationName, Operations } from './operations.ts';

/** What a child writes, a line each: how far it is, then what came of it. */
type ChildLine = { readonly removed: number } | { readonly result?: unknown } | { readonly code: string; readonly message: string };

/**
 * Runs an operation in a process of its own (child.ts), which is killed when the signal aborts. Throws AgentError: what the operation throws, or Internal
 * when the child cannot be started or dies; then nothing is known to have been done, and it may be asked for again.
 */
export function runInChild<K extends OperationName>(
  command: readonly string[],
  name: K,
  args: Operations[K]['args'],
  signal: AbortSignal,
  progress?: (removed: number) => void,
): Promise<Operations[K]['result']> {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const [program, ...before] = command;
    const child = spawn(program ?? process.execPath, [...before, name, JSON.stringify(args), `${process.pid}`], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let out = '';
    let settled = false;
    const settle = (finish: () => void): void => {
      if (settled) return;
      settled = true;
      signal.removeEventListener('abort', onAbort);
      finish();
    };
    // Heard first, and nothing else without a process: where descriptors have run out it has no streams either.
    child.on('error', (error) =>
      settle(() => reject(new AgentError('Internal', `cannot start the mount helper: ${error.message}`, { cause: error }))),
    );
    if (child.pid === undefined) return;
    // A child in an uninterruptible wait dies only when the wait ends; the caller goes on now, and the child is left behind.
    function onAbort(): void {
      child.kill('SIGKILL');
      child.unref();
      child.stdout.destroy();
      settle(() => reject(signal.reason));
    }
    signal.addEventListener('abort', onAbort, { once: true });
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      const lines = (out + chunk).split('\n');
      // The answer ends with a line's end too: the last line that is whole stays until the next one comes.
      while (lines.length > 2) {
        const line = parseLine(lines.shift() ?? '');
        if (line !== undefined && 'removed' in line && !settled) progress?.(line.removed);
      }
      out = lines.join('\n');
    });
    child.on('close', (code, killedBy) => {
      settle(() => {
        const answer = parseLine(out);
        if (answer === undefined || 'removed' in answer)
          reject(new AgentError('Internal', `the mount helper ended with ${killedBy ?? code} during ${name}`));
        else if ('code' in answer) reject(new AgentError(answer.code, answer.message));
        else resolve(answer.result as Operations[K]['result']);
      });
    });
  });
}

function parseLine(text: string): ChildLine | undefined {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
