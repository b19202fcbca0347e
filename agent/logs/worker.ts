import { basename, dirname, join } from 'node:path';
import { type Clock, pause } from '../base/clock.ts';
import { AgentError, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { startLoop } from '../base/loop.ts';
import type { ReadonlyTable } from '../base/table.ts';
import { planRotation } from './rotate.ts';

/** Log files on disk. Paths are absolute; each throws AgentError for what it cannot do. */
export interface LogFiles {
  /** In bytes; undefined when there is no such file. */
  size(path: string): Promise<number | undefined>;
  names(folder: string): Promise<string[]>;
  /** Absence is success. */
  remove(path: string): Promise<void>;
  /** Writes `path` as gzip to `path.gz` by way of `path.tmp`, then removes it. */
  compress(path: string, signal: AbortSignal): Promise<void>;
  move(from: string, to: string): Promise<void>;
  /** Puts a file back under its old name unless there is a file of that name again; says whether it did. */
  restore(from: string, to: string): Promise<boolean>;
}

export interface LogRotationOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly runtime: ReadonlyTable<{
    readonly namespace: string;
    readonly name: string;
    readonly containers: readonly { readonly id: string; readonly name: string; readonly state: string; readonly logPath: string }[];
  }>;
  readonly files: LogFiles;
  /** Makes the runtime open the log's path anew. */
  readonly reopen: (containerId: string, signal: AbortSignal) => Promise<unknown>;
  /** A log of this size is rotated, bytes; negative turns rotation off. */
  readonly maxSizeBytes: number;
  readonly maxFiles: number;
  /** Rotations at once. */
  readonly workers: number;
  /** Between looks at the sizes, ms. */
  readonly intervalMs: number;
}

/**
 * Rotates the logs of running containers (those that have ended write nothing any more). Who is due is told by the sizes of the files alone: the runtime
 * is asked only when a log is to be opened anew.
 */
export function startLogRotation(options: LogRotationOptions): AsyncDisposable {
  const { clock, log, runtime, files } = options;
  if (options.maxSizeBytes < 0) return { [Symbol.asyncDispose]: async () => undefined };
  const controller = new AbortController();
  const stop = (): void => controller.abort(options.signal.reason);
  if (options.signal.aborted) stop();
  else options.signal.addEventListener('abort', stop, { once: true });
  const loop = startLoop({
    name: 'log-rotation',
    clock,
    log,
    concurrency: options.workers,
    // The next look would come in any case: no retry is more hurried than that.
    backoff: { initialMs: options.intervalMs, maxMs: options.intervalMs },
    signal: controller.signal,
    run: async (id, signal) => {
      const path = runningLogs().get(id);
      if (path !== undefined) await look(id, path, signal);
      return undefined;
    },
  });

  /** Paths by container ID. */
  function runningLogs(): Map<string, string> {
    const found = new Map<string, string>();
    for (const pod of runtime.values())
      for (const { id, state, logPath } of pod.containers) if (state === 'running' && logPath !== '') found.set(id, logPath);
    return found;
  }

  async function look(id: string, path: string, signal: AbortSignal): Promise<void> {
    const size = await files.size(path);
    // An agent that ended between the two halves of a rotation, or somebody's `rm`: the runtime still writes to a file without this name.
    if (size === undefined) await options.reopen(id, signal);
    else if (size >= options.maxSizeBytes) await rotate(id, path, size, signal);
  }

  async function rotate(id: string, path: string, sizeBytes: number, signal: AbortSignal): Promise<void> {
    const startedAt = clock.mono();
    const folder = dirname(path);
    const plan = planRotation(basename(path), await files.names(folder), options.maxFiles, clock.wall());
    if (plan === undefined) return;
    for (const name of plan.remove) await files.remove(join(folder, name));
    for (const name of plan.compress) await files.compress(join(folder, name), signal);
    signal.throwIfAborted();
    const rotated = join(folder, plan.rotateTo);
    await files.move(path, rotated);
    try {
      await options.reopen(id, signal);
    } catch (error) {
      // Unless the runtime has made the new file after all, everything is as before, and the next look tries again.
      const undone = await files.restore(rotated, path);
      throw new AgentError('LogRotation', `cannot rotate ${path}${undone ? '' : ' for certain'}: ${messageOf(error)}`, { cause: error });
    }
    log.info({ path, containerId: id, sizeBytes, tookMs: Math.round(clock.mono() - startedAt) }, 'container log rotated');
  }

  async function watchSizes(): Promise<void> {
    while (!controller.signal.aborted) {
      for (const [id, path] of runningLogs()) {
        if (controller.signal.aborted) return;
        // A file that cannot be looked at is the loop's trouble, which says so.
        const size = await files.size(path).catch(() => undefined);
        if (size === undefined || size >= options.maxSizeBytes) loop.enqueue(id);
      }
      await pause(clock, options.intervalMs, controller.signal);
    }
  }

  const watching = watchSizes();
  return {
    async [Symbol.asyncDispose]() {
      controller.abort(new AgentError('Closed', 'log rotation ends'));
      options.signal.removeEventListener('abort', stop);
      await Promise.all([watching, loop[Symbol.asyncDispose]()]);
    },
  };
}
