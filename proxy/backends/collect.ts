// A tool that is run once and heard to its end.
import { spawn } from 'node:child_process';
import { AgentError } from '../../agent/base/errors.ts';

/** What errors call the tool: `name` and the package it is in; codes are `<code>Missing`, `<code>Crashed`. */
export interface Tool {
  readonly name: string;
  readonly package: string;
  readonly code: string;
}

export interface Collected {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command. Throws AgentError `<code>Missing` and `<code>Crashed`, or the signal's reason. */
export function collect(
  tool: Tool,
  command: readonly string[],
  { args, input = '' }: { readonly args: readonly string[]; readonly input?: string },
  signal: AbortSignal,
): Promise<Collected> {
  return new Promise((resolve, reject) => {
    const [file = tool.name, ...first] = command;
    const child = spawn(file, [...first, ...args], { signal, killSignal: 'SIGKILL' });
    // Heard first, and nothing else without a process: where descriptors have run out it has no streams either.
    child.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') reject(missing(tool, file, error));
      else reject(signal.aborted ? signal.reason : error);
    });
    if (child.pid === undefined) return;
    const out: string[] = [];
    const err: string[] = [];
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => void out.push(chunk));
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => void err.push(chunk));
    // A process that died as it read; `close` tells of it.
    child.stdin.on('error', () => undefined);
    child.stdin.end(input);
    child.on('close', (code, killedBy) => {
      if (code === null || code > 128) reject(crash(tool, code, killedBy, err.join('')));
      // What a shell or `ip netns exec` answers for a command that is not there.
      else if (code === 127) reject(missing(tool, file, undefined));
      else resolve({ code, stdout: out.join(''), stderr: err.join('') });
    });
  });
}

function missing(tool: Tool, file: string, cause: Error | undefined): AgentError {
  return new AgentError(`${tool.code}Missing`, `${file} is not installed (package ${tool.package})`, { cause });
}

export function crash(tool: Tool, code: number | null, signal: NodeJS.Signals | null, said: string): AgentError {
  if (code === 127) return missing(tool, tool.name, undefined);
  const how = signal === null ? `exit code ${code}` : signal;
  return new AgentError(`${tool.code}Crashed`, `${tool.name} ended with ${how}${said === '' ? '' : `: ${firstLine(said)}`}`);
}

/** The first complaint; what follows repeats the command, however long it was. */
export function firstLine(said: string): string {
  const line = said.split('\n').find((each) => each.includes('Error: ')) ?? said.split('\n')[0] ?? '';
  return line.replace(/^.*?Error: /, '').slice(0, 300);
}
