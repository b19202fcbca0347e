import { spawn } from 'node:child_process';
import type { RunJournalctl } from '../../server/contracts.ts';

/** Runs the machine's journalctl, found on the PATH; `command` is another program in its place. */
export function createRunJournalctl(command = 'journalctl'): RunJournalctl {
  return (args, out, signal) =>
    new Promise((resolve) => {
      const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], signal, killSignal: 'SIGKILL' });
      // It is not there, or was killed: `close` follows in the second case only, and settles nothing more.
      child.on('error', () => resolve(undefined));
      // Where descriptors have run out it has no streams either.
      if (child.pid === undefined) return;
      for (const stream of [child.stdout, child.stderr]) stream.pipe(out, { end: false });
      child.on('close', (code) => resolve(code ?? undefined));
    });
}
