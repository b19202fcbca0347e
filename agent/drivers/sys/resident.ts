import { readFileSync, readlinkSync } from 'node:fs';
import { AgentError } from '../../base/errors.ts';
import { dropMappedPages } from './libc.ts';

// What of its own program this process has resident, and how to let go of it. proc_pid_smaps(5), madvise(2).

/** How much of mapped files is resident, bytes. */
export function residentFileBytes(): number {
  const kib = /^RssFile:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  if (kib === undefined) throw new AgentError('Internal', '/proc/self/status has no RssFile');
  return Number(kib) * 1024;
}

/**
 * Unmaps the pages of Node's own file. They stay in the page cache, where the kernel may take them when it needs memory, and are mapped again when they are used.
 */
export function releaseProgramPages(): void {
  const program = readlinkSync('/proc/self/exe');
  for (const { start, bytes } of parseReleasable(readFileSync('/proc/self/smaps', 'utf8'), program)) dropMappedPages(start, bytes);
}

/**
 * The mappings of a program in /proc/PID/smaps whose pages can go without loss: not writable, and without a page that was ever changed. Addresses and bytes.
 * Of the program alone: what else is mapped may be gone, and something else in its place, by the time it is let go.
 */
export function parseReleasable(smaps: string, program: string): { start: number; bytes: number }[] {
  return smaps.split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/).flatMap((mapping) => {
    const [, from = '', to = '', file] = /^([0-9a-f]+)-([0-9a-f]+) r-[x-]p [0-9a-f]+ \S+ \d+ +(.+)$/m.exec(mapping) ?? [];
    const isZero = (field: string): boolean => new RegExp(`^${field}: +0 kB$`, 'm').test(mapping);
    if (file !== program || !['Anonymous', 'Private_Dirty', 'Shared_Dirty', 'Swap'].every(isZero)) return [];
    const [start, end] = [Number.parseInt(from, 16), Number.parseInt(to, 16)];
    return [{ start, bytes: end - start }];
  });
}
