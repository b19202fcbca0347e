import { destination, pino } from 'pino';
import type { Log } from '../base/log.ts';

/** The log, to stderr, one JSON object a line. kubelet's -v: 4 and above show retries and single steps. */
export function createLog(verbosity: number): Log {
  const level = verbosity >= 4 ? 'debug' : 'info';
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination({ dest: 2, sync: false, minLength: 0 }));
}
