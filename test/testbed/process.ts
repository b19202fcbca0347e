// Processes that outlive the command that started them, known by pid and start time, so that nobody else's process is ever signalled.
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { GiveUp, waitFor } from './wait.ts';

/** `startTicks` is field 22 of /proc/PID/stat: with it a pid names one process only, until the next boot. */
export type Tracked = { pid: number; startTicks: string };

type Stat = { state: string; parent: number; threads: number; startTicks: string };

const statOf = (pid: number): Stat | undefined => {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined; // no such process
  }
  // The command name may hold spaces and parentheses: fields are counted from behind the last one.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return { state: fields[0] ?? '', parent: Number(fields[1]), threads: Number(fields[17]), startTicks: fields[19] ?? '' };
};

/**
 * What identifies a running process; undefined when it is gone. A zombie is gone, unless it is only the first thread of one that was killed: while others
 * are still ending the process listens on its ports.
 */
export const track = (pid: number): Tracked | undefined => {
  const stat = statOf(pid);
  if (stat === undefined || stat.state === 'X' || (stat.state === 'Z' && stat.threads <= 1)) return undefined;
  return { pid, startTicks: stat.startTicks };
};

export const isAlive = (tracked: Tracked): boolean => track(tracked.pid)?.startTicks === tracked.startTicks;

/** Signals the process if it is still the one that was tracked; says whether it was. */
export const signalTracked = (tracked: Tracked, signal: NodeJS.Signals): boolean => {
  if (!isAlive(tracked)) return false;
  try {
    process.kill(tracked.pid, signal);
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ESRCH') return false;
    throw error;
  }
};

/** Asks the process to end with `signal`, and kills it after `graceMs`. Resolves when it is gone. */
export const endProcess = async (tracked: Tracked, signal: NodeJS.Signals = 'SIGTERM', graceMs = 10_000): Promise<void> => {
  if (!signalTracked(tracked, signal)) return;
  const gone = (): true | undefined => (isAlive(tracked) ? undefined : true);
  if (signal !== 'SIGKILL') {
    const ended = await waitFor('the end', graceMs, gone, 20).catch(() => false);
    if (ended) return;
    signalTracked(tracked, 'SIGKILL');
  }
  await waitFor(`process ${tracked.pid} to end after SIGKILL`, 20_000, gone, 20);
};

const childrenOf = (pid: number): number[] => {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
      .trim()
      .split(' ')
      .filter((text) => text !== '')
      .map(Number);
  } catch {
    return []; // no such process
  }
};

export type SpawnOptions = {
  /** stdout and stderr are appended here. */
  logFile: string;
  env?: Record<string, string> | undefined;
  /** `cgroup.procs` files the process joins before it starts. */
  cgroupProcs?: readonly string[] | undefined;
  /** The command is one that forks the real process and waits (nsenter into a pid namespace, unshare --fork): track that child. */
  forks?: boolean | undefined;
};

/** Starts a process that outlives us, and resolves when it runs. */
export const spawnTracked = async (argv: readonly string[], options: SpawnOptions): Promise<Tracked> => {
  mkdirSync(dirname(options.logFile), { recursive: true });
  const log = openSync(options.logFile, 'a');
  // "0" is whoever writes: sh moves itself, then becomes the command under the same pid.
  const script = 'for f in $LAB_CGROUP_PROCS; do echo 0 > "$f" || exit 1; done; unset LAB_CGROUP_PROCS; exec "$@"';
  const child = spawn('sh', ['-c', script, 'sh', ...argv], {
    detached: true,
    stdio: ['ignore', log, log],
    // Nothing in a lab reaches the machine's network, where a proxy of its environment would be.
    env: { ...process.env, NO_PROXY: '*', ...options.env, LAB_CGROUP_PROCS: (options.cgroupProcs ?? []).join(' ') },
  });
  closeSync(log);
  const failed = new Promise<never>((_, reject) =>
    child.once('error', (cause) => reject(new Error(`cannot run sh: ${cause.message}`, { cause }))),
  );
  child.unref();
  const { pid } = child;
  if (pid === undefined) return failed;
  const why = (): Error => new GiveUp(`${argv.join(' ')} ended at once; the end of ${options.logFile}:\n${tailOf(options.logFile)}`);
  if (options.forks !== true) {
    const tracked = track(pid);
    if (tracked === undefined) throw why();
    return tracked;
  }
  return waitFor(
    `${argv.join(' ')} to start`,
    10_000,
    () => {
      if (track(pid) === undefined) throw why();
      const inner = childrenOf(pid)[0];
      return inner === undefined ? undefined : track(inner);
    },
    5,
  );
};

/** The last lines of a log file, or a word that there is none. */
export const tailOf = (file: string, lines = 15): string => {
  try {
    return readFileSync(file, 'utf8').trim().split('\n').slice(-lines).join('\n');
  } catch {
    return '(no log)';
  }
};
