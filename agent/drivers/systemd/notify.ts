import { AgentError } from '../../base/errors.ts';
import { sendDatagram } from '../sys/libc.ts';

/** Tells the service manager something: `READY=1`, `WATCHDOG=1` (sd_notify(3)). Throws AgentError when it cannot be told. */
export type Notify = (state: string) => void;

/** The way to the service manager that has started this process, by its environment; undefined when there is none. */
export function openNotify(environment: Readonly<Record<string, string | undefined>>): Notify | undefined {
  const socket = environment.NOTIFY_SOCKET;
  if (socket === undefined || socket === '') return undefined;
  return (state) => sendDatagram(socket, state);
}

/**
 * Milliseconds within which the service manager wants to hear from the process `pid` again and again; undefined when it does not. Throws AgentError
 * InvalidConfig for a time that is none.
 */
export function watchdogMs(environment: Readonly<Record<string, string | undefined>>, pid: number): number | undefined {
  const text = environment.WATCHDOG_USEC;
  if (text === undefined || text === '') return undefined;
  const microseconds = Number(text);
  if (!/^\d+$/.test(text) || microseconds <= 0)
    throw new AgentError('InvalidConfig', `configure watchdog: WATCHDOG_USEC must be a positive number: ${text}`);
  // A child inherits the environment of the process that is meant (sd_watchdog_enabled(3)).
  const meant = environment.WATCHDOG_PID;
  return meant === undefined || meant === '' || Number(meant) === pid ? microseconds / 1000 : undefined;
}
