import { spawn } from 'node:child_process';
import { existsSync, globSync, readdirSync, rmdirSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { AgentError, messageOf } from '../../base/errors.ts';
import { isErrno } from '../../drivers/sys/errno.ts';
import { writeExampleArchive } from './example-images.ts';
import { localCluster } from './paths.ts';
import { runTool } from './tool.ts';

const repository = resolve(import.meta.dirname, '../../..');

function labProgram(): string {
  const lab = join(repository, 'test/lab');
  if (existsSync(lab)) return lab;
  throw new AgentError('NotSupported', 'a local cluster needs the source tree with its test bed: run this in a clone of the repository');
}

/** Runs a command of the test bed on our own terminal; resolves to its exit code. */
export function runLab(args: readonly string[], signal: AbortSignal): Promise<number> {
  const { promise, resolve: done, reject } = Promise.withResolvers<number>();
  const child = spawn(labProgram(), args, { stdio: 'inherit' });
  // A command at the keyboard gets Ctrl-C itself; asked again, it ends what it has begun.
  const onAbort = (): void => void child.kill('SIGTERM');
  signal.addEventListener('abort', onAbort, { once: true });
  child.on('error', reject);
  child.once('close', (code) => {
    signal.removeEventListener('abort', onAbort);
    done(code ?? 1);
  });
  return promise;
}

/** True when a cluster of `keelson up --cluster`, whole or not, is on this machine. */
export function hasCluster(): boolean {
  return existsSync(localCluster.home);
}

/** Starts the control plane and a node that joins it by token; one that runs is left as it is. Resolves to the exit code. */
export function startCluster(signal: AbortSignal): Promise<number> {
  return runLab(['up', '--name', localCluster.name, '--agent', 'keelson', '--join', '--reuse', '--no-registry', '--images', ''], signal);
}

/** Ends the cluster and removes everything of it; what all labs of the test bed share goes with the last one. */
export async function stopCluster(signal: AbortSignal): Promise<void> {
  await runTool([labProgram(), 'down', '--name', localCluster.name], signal);
  const [home, run] = [dirname(localCluster.home), localCluster.runRoot];
  const locks = [`.${localCluster.name}.lock`, `.${localCluster.name}.lock.restart`];
  const last = [home, run].every((folder) => !existsSync(folder) || readdirSync(folder).every((name) => name.startsWith('.')));
  if (last) locks.push('.mount-points.lock');
  // Whoever holds it needs it.
  for (const file of locks.map((name) => join(run, name)))
    if (existsSync(file)) await runTool(['sh', '-c', 'flock -n "$1" rm -f "$1" || :', 'sh', file], signal);
  for (const folder of [run, home, ...globSync('/sys/fs/cgroup/{,*/}keelson-lab')]) {
    try {
      rmdirSync(folder);
    } catch (error) {
      if (!isErrno(error, 'ENOENT', 'ENOTEMPTY', 'EEXIST', 'EBUSY')) throw error;
    }
  }
}

/** Gives the node the examples' image. */
export async function loadExampleImages(signal: AbortSignal): Promise<void> {
  const archive = await writeExampleArchive(localCluster.home, signal);
  await runTool([labProgram(), 'load', '--name', localCluster.name, archive], signal);
}

// The controller that makes the namespace's service account is a moment behind the API server.
const accountDeadlineMs = 30_000;
const pollMs = 500;

/** Applies the manifests of a folder; resolves to what there is now, as `pod/web`. */
export async function applyManifests(folder: string, clock: Clock, signal: AbortSignal): Promise<string[]> {
  const giveUpAt = clock.mono() + accountDeadlineMs;
  for (;;) {
    try {
      const text = await runTool([labProgram(), 'kubectl', '--name', localCluster.name, 'apply', '-o', 'name', '-f', folder], signal);
      return text.split('\n').filter((line) => line !== '');
    } catch (error) {
      const message = messageOf(error);
      if (message.includes('may not change fields other than') || message.includes('field is immutable'))
        throw new AgentError(
          'Conflict',
          `a pod in ${folder} differs from the one that runs in the cluster, and a Pod on an API server cannot be changed so: replace it with ./keelson kubectl replace --force -f ${folder}`,
          { cause: error },
        );
      if (!/serviceaccount "default" not found/.test(message) || clock.mono() > giveUpAt) throw error;
      await clock.sleep(pollMs, signal);
    }
  }
}
