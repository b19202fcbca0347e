import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { AgentError } from '../base/errors.ts';

/** `keelson test`: runs every check and test of the checkout this program belongs to. Resolves to the run's exit code. */
export async function test(args: readonly string[], signal: AbortSignal): Promise<number> {
  // By path, not by import: a release has no tests.
  const runner = fileURLToPath(new URL('../../test/run/main.ts', import.meta.url));
  if (!existsSync(runner))
    throw new AgentError('NotFound', `there are no tests beside this installation (${runner}): run ./keelson test in a checkout`);
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', runner, ...args], { stdio: 'inherit' });
  const onAbort = (): void => void child.kill('SIGTERM');
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await new Promise<number>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code) => resolve(code ?? 1));
    });
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
