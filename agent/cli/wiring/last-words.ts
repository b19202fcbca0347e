import { relative } from 'node:path';
import { readTail } from '../../drivers/files/look.ts';
import { lookAtContainerLog } from '../../drivers/logs/open.ts';
import type { Mounts } from '../../drivers/mounts/mounts.ts';
import type { LastWords } from '../../pods/last-words.ts';

/**
 * Reads what ended containers left. The file for a termination message may be a volume's, on whatever the pod has made there or on a server that does not
 * answer. No link is followed to it but in the path of the root directory, which is the node's own.
 */
export function createLastWords(rootDir: string, mounts: Mounts): LastWords {
  return {
    async message(path, mostBytes, signal) {
      const below = relative(rootDir, path);
      const isOwn = below !== '' && below !== '..' && !below.startsWith('../');
      return await mounts.readTail(isOwn ? rootDir : '/', isOwn ? below : path, mostBytes, signal);
    },
    async log(path, mostBytes) {
      await using at = await lookAtContainerLog(path);
      await using file = await at.open();
      return await readTail(file, path, mostBytes);
    },
  };
}
