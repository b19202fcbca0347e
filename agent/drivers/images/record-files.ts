import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { RecordFiles } from '../../images/pulled.ts';

/** Kubelet's records of pulled images under `<rootDir>/image_manager`, whose two folders are made when missing (mode 0700). */
export async function openRecordFiles(rootDir: string): Promise<RecordFiles> {
  const folders = { pulling: join(rootDir, 'image_manager', 'pulling'), pulled: join(rootDir, 'image_manager', 'pulled') };
  for (const folder of Object.values(folders)) await mkdir(folder, { recursive: true, mode: 0o700 });
  return {
    async list(folder) {
      const entries = await readdir(folders[folder], { withFileTypes: true });
      return entries.filter((e) => e.isFile() && e.name.startsWith('sha256-') && !e.name.endsWith('.tmp')).map((e) => e.name);
    },
    async read(folder, name) {
      try {
        return await readFile(join(folders[folder], name), 'utf8');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
        throw error;
      }
    },
    async write(folder, name, text) {
      const target = join(folders[folder], name);
      const temporary = `${target}.tmp`;
      try {
        await writeFile(temporary, text, { mode: 0o600 });
        await rename(temporary, target);
      } catch (error) {
        await rm(temporary, { force: true });
        throw error;
      }
    },
    async remove(folder, name) {
      await rm(join(folders[folder], name), { force: true });
    },
  };
}
