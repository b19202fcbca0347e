// Asks upstream's reader of YAML what documents mean (test/go/yaml).
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { ensureGo } from '../../../testbed/binaries.ts';

/** What upstream made of a document. */
export interface Answer {
  readonly json?: unknown;
  readonly error?: string;
  /** Why the strict reader refuses it. */
  readonly strict?: string;
  /** Two keys became one, and which of them counts is chance. */
  readonly ambiguous?: boolean;
}

async function run(command: string, args: readonly string[], options: { cwd?: string; input?: string }): Promise<string> {
  const child = spawn(command, args, { cwd: options.cwd, env: { ...process.env, GOFLAGS: '-mod=readonly' } });
  child.stdin.end(options.input ?? '');
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  if (child.exitCode !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

/** One answer a document. */
export async function askUpstream(documents: readonly (string | Uint8Array)[]): Promise<Answer[]> {
  const go = await ensureGo();
  const folder = await mkdtemp(join(tmpdir(), 'keelson-yaml-'));
  try {
    const program = join(folder, 'yaml');
    await run(go, ['build', '-o', program, './yaml'], { cwd: resolve(import.meta.dirname, '../../../go') });
    const input = JSON.stringify(documents.map((document) => Buffer.from(document).toString('base64')));
    return JSON.parse(await run(program, [], { input })) as Answer[];
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
