import { inspect } from 'node:util';
import { workAtHand } from '../base/work.ts';

/**
 * Hands every error that nobody has handled to `end`, as the text to leave with: what was running, then the error with its stack and causes. After such an error
 * nothing is known of the state of the process, so `end` has to end it.
 */
export function onUnhandledError(end: (text: string) => void): void {
  process.on('uncaughtException', (error, origin) => {
    const [work, startedBy] = workAtHand();
    const cause = startedBy === undefined ? '' : `, started by ${startedBy}`;
    const where = work === undefined ? 'outside of every loop and request' : `in ${work}${cause}`;
    const what = origin === 'unhandledRejection' ? 'a rejection that nobody handled' : 'an error that nobody handled';
    end(`fatal: ${what}, ${where}:\n${inspect(error, { depth: 4, maxStringLength: 4096 })}\n`);
  });
}
