import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { AgentError } from '../../base/errors.ts';
import type { RunPlugin } from '../../images/ask-providers.ts';

// More than any answer needs; a plugin that prints on and on must not fill our memory.
const longestOutput = 1024 * 1024;

/**
 * Runs credential provider plugins of `binDir`. Rejects with PluginFailed and the plugin's stderr when it cannot be run, exits other than 0, or prints
 * too much; with the signal's reason when that ends it (the plugin is killed then).
 */
export function createRunPlugin(binDir: string, environment: NodeJS.ProcessEnv): RunPlugin {
  return ({ name, args, env, stdin }, signal) =>
    new Promise((resolve, reject) => {
      const fail = (why: string, cause?: unknown): void =>
        reject(
          signal.aborted && signal.reason instanceof Error
            ? new AgentError('PluginFailed', `credential provider plugin ${name}: ${signal.reason.message}`, { cause: signal.reason })
            : new AgentError('PluginFailed', `error execing credential provider plugin ${name}: ${why}`, { cause }),
        );
      const child = spawn(join(binDir, name), args, {
        env: { ...environment, ...Object.fromEntries(env.map((variable) => [variable.name, variable.value])) },
        stdio: 'pipe',
        signal,
        killSignal: 'SIGKILL',
      });
      // Heard first, and nothing else without a process: where descriptors have run out it has no streams either.
      child.on('error', (error) => fail(error.message, error));
      if (child.pid === undefined) return;
      const output = { stdout: '', stderr: '' };
      for (const stream of ['stdout', 'stderr'] as const) {
        child[stream].setEncoding('utf8').on('data', (text: string) => {
          output[stream] += text;
          if (output[stream].length > longestOutput) child.kill('SIGKILL');
        });
      }
      child.on('close', (code, killedBy) => {
        if (code === 0) resolve(output.stdout);
        else fail(`${code === null ? `signal: ${killedBy}` : `exit status ${code}`}: ${output.stderr.slice(0, 4096).trim()}`);
      });
      // A plugin that does not read its request closes the pipe: its exit code says the rest.
      child.stdin.on('error', () => undefined);
      child.stdin.end(stdin);
    });
}
