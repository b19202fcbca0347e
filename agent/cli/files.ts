import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** The text of a file. Rejects with an errno `code`. */
export function readText(path: string): Promise<string> {
  return readFile(path, 'utf8');
}

/** The paths of all files below a folder, at any depth. Rejects with an errno `code`. */
export async function listFilesBelow(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true });
  return entries.filter((e) => !e.isDirectory()).map((e) => join(e.parentPath, e.name));
}
