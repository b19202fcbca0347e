import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { AgentError } from '../../base/errors.ts';

// A root shell entered with plain `su` has no sbin folders in PATH.
export const toolPath = [
  ...new Set([...(process.env.PATH ?? '').split(':'), '/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/local/bin', '/usr/bin', '/bin']),
]
  .filter((folder) => folder !== '')
  .join(':');

/** Where a program is; undefined when it is not installed. */
export function findTool(name: string): string | undefined {
  return toolPath
    .split(':')
    .map((folder) => join(folder, name))
    .find((file) => existsSync(file));
}

export interface ToolOptions {
  readonly input?: string | undefined;
  readonly cwd?: string | undefined;
  readonly env?: Readonly<Record<string, string>> | undefined;
}

/** Runs a program and gives what it wrote to stdout. Throws AgentError ToolFailed with its command line and the end of what it wrote to stderr. */
export function runTool(argv: readonly string[], signal: AbortSignal, options: ToolOptions = {}): Promise<string> {
  const [command = '', ...args] = argv;
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const child = spawn(command, args, {
    cwd: options.cwd,
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, PATH: toolPath, ...options.env },
    signal,
  });
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
  // A program that ends without reading its input is no error by itself.
  child.stdin.on('error', () => undefined);
  child.stdin.end(options.input ?? '');
  child.on('error', (cause) => reject(new AgentError('ToolFailed', `cannot run ${command}: ${cause.message}`, { cause })));
  child.once('close', (code) => {
    if (code === 0) resolve(Buffer.concat(out).toString('utf8'));
    else {
      const text = (err.length > 0 ? Buffer.concat(err) : Buffer.concat(out)).toString('utf8').trim().split('\n').slice(-10).join('\n');
      reject(new AgentError('ToolFailed', `${argv.join(' ')} failed (exit code ${code ?? 'none'}): ${text}`));
    }
  });
  return promise;
}
