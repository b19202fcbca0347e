// Processes of the nft binary: one that is kept and asked line by line, and one for one job.
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { crash, type Tool } from '../collect.ts';

export interface Interactive {
  readonly pid: number | undefined;
  /** Sends a line and resolves with all that is said until it has been carried out. */
  ask(line: string, signal: AbortSignal): Promise<string>;
  end(): Promise<void>;
}

export const nftTool: Tool = { name: 'nft', package: 'nftables', code: 'Nft' };

// A command that changes nothing, and what the last line of its answer ends with.
const question = 'describe ip ttl';
const answer = '8 bits\n';

const pageBytes = 4096;

/** Errors and answers share one pipe, so that they come in order. */
export function startInteractive(command: readonly string[]): Promise<Interactive> {
  return new Promise((started, failed) => {
    const child: ChildProcessWithoutNullStreams = spawn('sh', ['-c', 'exec "$@" -i 2>&1', 'sh', ...command]);
    // Heard first, and nothing else without a process: where descriptors have run out it has no streams either.
    child.on('error', failed);
    if (child.pid === undefined) return;
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
    child.on('close', (code, signal) => {
      waiting?.reject(crash(nftTool, code, signal, heard));
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
            if (child.exitCode !== null || child.signalCode !== null)
              return waiting.reject(crash(nftTool, child.exitCode, child.signalCode, heard));
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

export async function residentBytes(pid: number | undefined): Promise<number> {
  try {
    const statm = await readFile(`/proc/${pid}/statm`, 'utf8');
    return Number(statm.split(' ')[1]) * pageBytes;
  } catch {
    // It is gone; the next question tells.
    return 0;
  }
}
