import { type Clock, pause } from '../../base/clock.ts';
import { AgentError, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { Notify } from '../../drivers/systemd/notify.ts';
import type { HealthCheck } from '../../server/healthz.ts';

export interface WatchdogOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** How long the service manager waits before it holds this process for dead. */
  readonly timeoutMs: number;
  readonly notify: Notify;
  /** The same that /healthz answers by. */
  readonly checks: readonly HealthCheck[];
}

// What kubelet refuses (pkg/kubelet/watchdog/watchdog_linux.go): a message a half second would be load, not safety.
const leastTimeoutMs = 1000;
const retryMs = 1000;

/** Refuses a watchdog that cannot be served. Throws AgentError InvalidConfig. */
export function checkWatchdog(timeoutMs: number | undefined): void {
  if (timeoutMs !== undefined && timeoutMs <= leastTimeoutMs)
    throw new AgentError(
      'InvalidConfig',
      `configure watchdog timeout too small: ${timeoutMs} ms; set WatchdogSec= of the unit to more than 1 s`,
    );
}

/**
 * Tells the service manager twice in each of its periods that the agent is well, as long as it is: a process that hangs tells nothing, and one whose checks
 * fail stays silent, so that it is started anew. Ends when the signal aborts.
 */
export async function runWatchdog({ clock, log, signal, timeoutMs, notify, checks }: WatchdogOptions): Promise<void> {
  log.info({ intervalMs: timeoutMs / 2 }, 'telling the service manager how we are');
  while (!signal.aborted) {
    const problem = checks.map(({ name, check }) => ({ name, error: check() })).find(({ error }) => error !== undefined);
    if (problem === undefined) await tell();
    else
      log.error(
        { check: problem.name, err: problem.error?.message },
        'the service manager is not told that we are well, because we are not',
      );
    await pause(clock, timeoutMs / 2, signal);
  }

  async function tell(): Promise<void> {
    try {
      notify('WATCHDOG=1');
    } catch (first) {
      log.debug({ err: messageOf(first) }, 'the service manager did not take our message; trying again');
      try {
        await clock.sleep(retryMs, signal);
        notify('WATCHDOG=1');
      } catch (error) {
        if (!signal.aborted) log.error({ err: messageOf(error) }, 'cannot tell the service manager that we are well');
      }
    }
  }
}
