import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hasCode } from '../../base/errors.ts';
import type { RecordFiles } from '../../images/pulled.ts';
import { temporaryPath, writeAtomically } from '../files/atomic.ts';
import { readText } from '../files/look.ts';

/** Kubelet's records of pulled images under `<rootDir>/image_manager`, whose two folders are made when missing (mode 0700). */
export async function openRecordFiles(rootDir: string): Promise<RecordFiles> {
  const folders = { pulling: join(rootDir, 'image_manager', 'pulling'), pulled: join(rootDir, 'image_manager', 'pulled') };
  for (const folder of Object.values(folders)) await mkdir(folder, { recursive: true, mode: 0o700 });
  return {
    async list(folder) {
      const entries = await readdir(folders[folder], { withFileTypes: true });
      return entries.filter((e) => e.isFile() && e.name.startsWith('sha256-') && !e.name.endsWith(temporaryPath(''))).map((e) => e.name);
    },
    async read(folder, name) {
      try {
        return await readText(join(folders[folder], name));
      } catch (error) {
        if (hasCode(error, 'NotFound')) return undefined;
        throw error;
      }
    },
    async write(folder, name, text) {
      await writeAtomically(join(folders[folder], name), text, { mode: 0o600, folderMode: 0o700 });
    },
    async remove(folder, name) {
      await rm(join(folders[folder], name), { force: true });
    },
  };
}
