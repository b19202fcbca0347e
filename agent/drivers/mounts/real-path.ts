import fs from 'node:fs';
import path from 'node:path';
import { AgentError, messageOf } from '../../base/errors.ts';
import { fromFsError, isErrno } from '../sys/errno.ts';
import type { RealPath } from './mountinfo.ts';

/** Makes the folder when it is missing, and tells where it really is: without symbolic links, as the kernel names it. Throws AgentError. */
export async function makeRealFolder(folder: string, mode: number): Promise<string> {
  try {
    await fs.promises.mkdir(folder, { recursive: true, mode });
    return await fs.promises.realpath(folder);
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'EEXIST', 'ENOTDIR') && (await isDangling(folder)))
      throw new AgentError('NotFound', `${folder} is, or lies below, a symbolic link that leads to nothing`, { cause: error });
    throw fromFsError(error, `cannot make ${folder}`);
  }
}

/**
 * The place of `target`: its folder without symbolic links, as far as it exists, and its name. A link at `target` itself is not followed, as the kernel does
 * not when it unmounts or removes it. Not for paths that may hang. Throws AgentError.
 */
export async function placeOf(target: string): Promise<RealPath> {
  const clean = path.resolve(target);
  return path.join(await realAsFarAsThere(path.dirname(clean)), path.basename(clean)) as RealPath;
}

async function realAsFarAsThere(folder: string): Promise<string> {
  try {
    return await fs.promises.realpath(folder);
  } catch (error) {
    if (folder === '/' || !isErrno(error, 'ENOENT', 'ENOTDIR'))
      throw fromFsError(error, `cannot tell where ${folder} is: ${messageOf(error)}`);
    return path.join(await realAsFarAsThere(path.dirname(folder)), path.basename(folder));
  }
}

async function isDangling(folder: string): Promise<boolean> {
  for (let at = path.resolve(folder); at !== '/'; at = path.dirname(at)) {
    const found = fs.lstatSync(at, { throwIfNoEntry: false });
    if (found?.isSymbolicLink() === true) return !fs.existsSync(at);
  }
  return false;
}
