import { access, constants, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { AgentError, messageOf } from '../../base/errors.ts';
import { decodeFileText } from '../../model/file-text.ts';
import { readBytes, readText } from '../files/look.ts';

/** A text file that was found, and where. */
export interface FoundFile {
  readonly path: string;
  readonly text: string;
}

/** Where kubelet looks for the node's own docker credentials, in this order: `config.json` everywhere first, then `.dockercfg`. */
export function dockerConfigPaths(rootDir: string, workingDir: string, homeDir: string): { json: string[]; cfg: string[] } {
  return {
    json: [rootDir, workingDir, join(homeDir, '.docker'), '/.docker'].map((folder) => join(folder, 'config.json')),
    cfg: [rootDir, workingDir, homeDir, '/'].map((folder) => join(folder, '.dockercfg')),
  };
}

/** The first of these files that is there and that `parse` takes; undefined when none is. */
export async function firstReadable<T>(paths: readonly string[], parse: (text: string) => T): Promise<T | undefined> {
  for (const path of paths) {
    try {
      return parse(await readText(path));
    } catch {
      // Kubelet goes on to the next file whatever is wrong with one: a config.json of another program in the working folder is no error.
    }
  }
  return undefined;
}

/** The CredentialProviderConfig at `path`: the file itself, or the .json, .yaml and .yml files of a folder by name. Throws InvalidArgument naming it. */
export async function readProviderConfigFiles(path: string): Promise<FoundFile[]> {
  try {
    const isFolder = (await stat(path)).isDirectory();
    const names = isFolder
      ? (await readdir(path, { withFileTypes: true })).filter((e) => !e.isDirectory() && /\.(json|yaml|yml)$/.test(e.name))
      : [];
    const paths = isFolder ? names.map((e) => join(path, e.name)).sort() : [path];
    if (paths.length === 0) throw new AgentError('InvalidArgument', `no configuration files found in directory ${path}`);
    return await Promise.all(paths.map(async (file) => ({ path: file, text: decodeFileText(await readBytes(file)) })));
  } catch (error) {
    if (error instanceof AgentError) throw error;
    throw new AgentError('InvalidArgument', `credential provider config ${path} cannot be read: ${messageOf(error)}`, { cause: error });
  }
}

/** Throws InvalidArgument unless each of these plugins is an executable file in `binDir`. */
export async function checkPlugins(binDir: string, names: readonly string[]): Promise<void> {
  for (const name of names) {
    const path = join(binDir, name);
    try {
      await access(path, constants.X_OK);
    } catch (error) {
      throw new AgentError('InvalidArgument', `credential provider plugin ${path} cannot be executed: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }
}
