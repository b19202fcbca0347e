import { spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { AgentError } from '../../base/errors.ts';
import { isErrno } from '../../drivers/sys/errno.ts';
import { toolPath } from './tool.ts';

/** A process that outlives the command that started it. With the start time (ticks since boot, field 22 of /proc/PID/stat) a PID names one process only. */
export interface Tracked {
  readonly pid: number;
  readonly startTicks: string;
  readonly bootId: string;
}

const bootId = (): string => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();

/** What identifies a running process; undefined when it has ended (a zombie has). */
function track(pid: number): Tracked | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ESRCH')) return undefined;
    throw error;
  }
  // The command's name may hold spaces and parentheses: fields are counted from behind the last one.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  if (fields[0] === 'Z' || fields[0] === 'X') return undefined;
  return { pid, startTicks: fields[19] ?? '', bootId: bootId() };
}

export function isAlive(tracked: Tracked | undefined): tracked is Tracked {
  if (tracked === undefined) return false;
  const now = track(tracked.pid);
  return now?.startTicks === tracked.startTicks && now.bootId === tracked.bootId;
}

export interface DaemonOptions {
  /** stdout and stderr are appended here. */
  readonly logFile: string;
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** cgroup.procs files that the process joins before it starts. */
  readonly cgroupProcs: readonly string[];
}

/** Starts a process in a session of its own. Throws AgentError with the end of its log when it ends at once. */
export function startDaemon(argv: readonly string[], options: DaemonOptions): Tracked {
  mkdirSync(dirname(options.logFile), { recursive: true });
  const log = openSync(options.logFile, 'a', 0o640);
  try {
    // "0" is whoever writes: sh moves itself, then becomes the command under the same PID.
    const script = 'for f in $KEELSON_CGROUP_PROCS; do echo 0 > "$f" || exit 1; done; unset KEELSON_CGROUP_PROCS; exec "$@"';
    const child = spawn('sh', ['-c', script, 'sh', ...argv], {
      detached: true,
      cwd: '/',
      stdio: ['ignore', log, log],
      env: { ...process.env, PATH: toolPath, ...options.env, KEELSON_CGROUP_PROCS: options.cgroupProcs.join(' ') },
    });
    // Told of below: a child that could not be started has no PID.
    child.on('error', () => undefined);
    child.unref();
    const tracked = child.pid === undefined ? undefined : track(child.pid);
    if (tracked === undefined)
      throw new AgentError('ToolFailed', `${argv[0]} did not start; see ${options.logFile}:\n${tailOf(options.logFile)}`);
    return tracked;
  } finally {
    closeSync(log);
  }
}

const pollMs = 25;

/** Asks a process to end, and kills it after `graceMs`. Resolves when it is gone; absence is success. */
export async function stopProcess(tracked: Tracked | undefined, graceMs: number, clock: Clock, signal: AbortSignal): Promise<void> {
  for (const [name, waitMs] of [
    ['SIGTERM', graceMs],
    ['SIGKILL', 20_000],
  ] as const) {
    if (!isAlive(tracked)) return;
    try {
      process.kill(tracked.pid, name);
    } catch (error) {
      if (isErrno(error, 'ESRCH')) return;
      throw error;
    }
    const until = clock.mono() + waitMs;
    // A process that is not our child tells nobody when it ends.
    while (isAlive(tracked) && clock.mono() < until) await clock.sleep(pollMs, signal);
  }
  if (isAlive(tracked)) throw new AgentError('Busy', `process ${tracked.pid} does not end, even when killed: it hangs in the kernel`);
}

/** The last lines of a log file. */
export function tailOf(file: string, lines = 15): string {
  if (!existsSync(file)) return '(no log)';
  return readFileSync(file, 'utf8').trim().split('\n').slice(-lines).join('\n');
}
