// Processes of the nft binary: one that is kept and asked line by line, and one for one job.
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { AgentError } from '../../../agent/base/errors.ts';

export interface Interactive {
  readonly pid: number | undefined;
  /** Sends a line and resolves with all that is said until it has been carried out. */
  ask(line: string, signal: AbortSignal): Promise<string>;
  end(): Promise<void>;
}

// A command that changes nothing, and what the last line of its answer ends with.
const question = 'describe ip ttl';
const answer = '8 bits\n';

const pageBytes = 4096;

/** Errors and answers share one pipe, so that they come in order. */
export function startInteractive(command: readonly string[]): Promise<Interactive> {
  return new Promise((started, failed) => {
    const child: ChildProcessWithoutNullStreams = spawn('sh', ['-c', 'exec "$@" -i 2>&1', 'sh', ...command]);
    const ended = Promise.withResolvers<void>();
    let heard = '';
    let waiting: { resolve: (said: string) => void; reject: (error: Error) => void } | undefined;
    child.stdout.setEncoding('utf8');
    child.stdout.on('data', (chunk: string) => {
      heard += chunk;
      if (!heard.endsWith(answer)) return;
      const said = heard;
      heard = '';
      waiting?.resolve(said);
    });
    child.stderr.resume();
    // A process that died mid-sentence; `close` tells of it.
    child.stdin.on('error', () => undefined);
    child.on('error', failed);
    child.on('close', (code, signal) => {
      waiting?.reject(crash(code, signal, heard));
      ended.resolve();
    });
    child.on('spawn', () =>
      started({
        pid: child.pid,
        ask: (line, signal) =>
          new Promise<string>((resolve, reject) => {
            const stop = (): void => reject(signal.reason);
            const unhook = (): void => signal.removeEventListener('abort', stop);
            waiting = {
              resolve: (said) => {
                unhook();
                resolve(said);
              },
              reject: (error) => {
                unhook();
                reject(error);
              },
            };
            if (child.exitCode !== null || child.signalCode !== null) return waiting.reject(crash(child.exitCode, child.signalCode, heard));
            if (signal.aborted) return waiting.reject(signal.reason);
            signal.addEventListener('abort', stop, { once: true });
            child.stdin.write(`${line}\n${question}\n`);
          }),
        async end() {
          child.stdin.end();
          child.kill('SIGKILL');
          await ended.promise;
        },
      }),
    );
  });
}

interface Collected {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export function collect(command: readonly string[], args: readonly string[], input: string, signal: AbortSignal): Promise<Collected> {
  return new Promise((resolve, reject) => {
    const [file = 'nft', ...first] = command;
    const child = spawn(file, [...first, ...args], { signal, killSignal: 'SIGKILL' });
    const out: string[] = [];
    const err: string[] = [];
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => void out.push(chunk));
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => void err.push(chunk));
    child.stdin.on('error', () => undefined);
    child.stdin.end(input);
    child.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') reject(new AgentError('NftMissing', `${file} is not installed (package nftables)`, { cause: error }));
      else reject(signal.aborted ? signal.reason : error);
    });
    child.on('close', (code, killedBy) => {
      if (code === null || code > 128) reject(crash(code, killedBy, err.join('')));
      else resolve({ code, stdout: out.join(''), stderr: err.join('') });
    });
  });
}

function crash(code: number | null, signal: NodeJS.Signals | null, said: string): AgentError {
  // What a shell answers for a command that is not there.
  if (code === 127) return new AgentError('NftMissing', 'nft is not installed (package nftables)');
  const how = signal === null ? `exit code ${code}` : signal;
  return new AgentError('NftCrashed', `nft ended with ${how}${said === '' ? '' : `: ${firstLine(said)}`}`);
}

/** The first complaint; what follows repeats the command, however long it was. */
export function firstLine(said: string): string {
  const line = said.split('\n').find((each) => each.includes('Error: ')) ?? said.split('\n')[0] ?? '';
  return line.replace(/^.*?Error: /, '').slice(0, 300);
}

export async function residentBytes(pid: number | undefined): Promise<number> {
  try {
    const statm = await readFile(`/proc/${pid}/statm`, 'utf8');
    return Number(statm.split(' ')[1]) * pageBytes;
  } catch {
    // It is gone; the next question tells.
    return 0;
  }
}
