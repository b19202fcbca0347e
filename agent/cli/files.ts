import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { decodeFileText } from '../model/file-text.ts';

/** The text of a file that a person wrote. Rejects with an errno `code`, or `InvalidText`. */
export async function readText(path: string): Promise<string> {
  return decodeFileText(await readFile(path));
}

/** The paths of all files below a folder, at any depth. Rejects with an errno `code`. */
export async function listFilesBelow(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true });
  return entries.filter((e) => !e.isDirectory()).map((e) => join(e.parentPath, e.name));
}
