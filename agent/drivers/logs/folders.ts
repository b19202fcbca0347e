import { readdir } from 'node:fs/promises';
import { fromFsError, isErrno } from '../sys/errno.ts';

/** The names of the pods' log folders (`<namespace>_<name>_<uid>`). Throws AgentError. */
export async function podLogFolders(podLogsDir: string): Promise<string[]> {
  try {
    return (await readdir(podLogsDir, { withFileTypes: true })).filter((e) => e.isDirectory()).map((e) => e.name);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw fromFsError(error, `cannot list the pods' log folders in ${podLogsDir}`);
  }
}
