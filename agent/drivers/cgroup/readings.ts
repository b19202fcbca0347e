import fs from 'node:fs';
import path from 'node:path';
import { AgentError } from '../../base/errors.ts';
import { setOwn } from '../../base/own.ts';
import { readMountinfo } from '../mounts/mounts.ts';
import { fromFsError, isErrno } from '../sys/errno.ts';
import { cgroupLayout } from './layout.ts';

/** Reads what cgroups count. Synchronous on purpose: these files are memory, a few microseconds each, and a scrape reads hundreds of them. */
export interface CgroupReader {
  readonly version: 1 | 2;
  /** The texts of those files that the cgroup has, by name. `controller` picks the hierarchy on v1. */
  read(cgroup: string, files: readonly { readonly controller: string; readonly file: string }[]): Record<string, string>;
  /** Names of the cgroups directly below; none when it is not there. */
  children(cgroup: string): string[];
  /** When it was made (wall, ms); undefined when it is not there. */
  createdAt(cgroup: string): number | undefined;
}

/** Looks at the machine's cgroup mounts once. Throws AgentError NotSupported when there are none. */
export async function openCgroupReader(root = '/sys/fs/cgroup'): Promise<CgroupReader> {
  const layout = cgroupLayout(await readMountinfo(), root);
  if (layout === undefined) throw new AgentError('NotSupported', `no cgroup file system is mounted below ${root}`);
  const directory = (controller: string, cgroup: string): string | undefined => {
    const mountPoint = layout.version === 2 ? layout.mountPoint : layout.mountPoints.get(controller);
    return mountPoint === undefined ? undefined : path.join(mountPoint, cgroup);
  };
  return {
    version: layout.version,
    read(cgroup, files) {
      const texts: Record<string, string> = {};
      for (const { controller, file } of files) {
        const at = directory(controller, cgroup);
        const text = at === undefined ? undefined : readIfAny(path.join(at, file));
        if (text !== undefined) setOwn(texts, file, text);
      }
      return texts;
    },
    children(cgroup) {
      const at = directory('memory', cgroup);
      if (at === undefined) return [];
      try {
        return fs
          .readdirSync(at, { withFileTypes: true })
          .filter((entry) => entry.isDirectory())
          .map((entry) => entry.name);
      } catch (error) {
        if (isErrno(error, 'ENOENT', 'ENOTDIR', 'ENODEV')) return [];
        throw fromFsError(error, `cannot list cgroup ${cgroup}`);
      }
    },
    createdAt(cgroup) {
      const at = directory('memory', cgroup);
      return at === undefined ? undefined : fs.statSync(at, { throwIfNoEntry: false })?.ctimeMs;
    },
  };
}

function readIfAny(at: string): string | undefined {
  try {
    return fs.readFileSync(at, 'utf8');
  } catch (error) {
    // ENODEV: it went away while it was open. EOPNOTSUPP: pressure files of a kernel that was started with psi=0.
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'ENODEV', 'EOPNOTSUPP')) return undefined;
    throw fromFsError(error, `cannot read ${at}`);
  }
}
