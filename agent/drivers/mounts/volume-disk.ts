import fs from 'node:fs';
import path from 'node:path';
import { AgentError } from '../../base/errors.ts';
import { fromFsError, isErrno } from '../sys/errno.ts';
import { removeTreeHere } from './remove-tree.ts';

// The files of pods' volumes below the agent's root directory. Synchronous on purpose: it is the local disk, each call is microseconds, and a volume of
// three files is some thirty of them. Nothing here may touch a path that a pod chose.

export interface VolumeFile {
  readonly data: Uint8Array;
  readonly mode: number;
  /** The owner; undefined leaves root. */
  readonly uid?: number | undefined;
}

export interface VolumeOnDisk {
  /** `kubernetes.io~secret` */
  readonly plugin: string;
  readonly name: string;
  readonly path: string;
}

const dataName = '..data';
const newDataName = '..data_tmp';

/** Makes the volume's directory, open to all users of the pod (0777 whatever the umask), and its parents (0750). Existence is success. */
export function makeVolumeDirectory(dir: string): void {
  attempt(`cannot create volume directory ${dir}`, () => {
    fs.mkdirSync(path.dirname(dir), { recursive: true, mode: 0o750 });
    fs.mkdirSync(dir, { recursive: true });
    if ((fs.lstatSync(dir).mode & 0o777) !== 0o777) fs.chmodSync(dir, 0o777);
  });
}

/** True when a write has completed in this directory: its content may be old, but it is whole. */
export function hasContent(dir: string): boolean {
  return attempt(`cannot look at volume ${dir}`, () => fs.existsSync(path.join(dir, dataName, '.')));
}

/**
 * Makes the directory hold exactly these files (path → file), in one step for whoever reads them: they are written to a new hidden directory, and the
 * link `..data` is turned to it (kubelet's AtomicWriter; the layout is the same). `fsGroup` owns all of it, readable. False when nothing had to change.
 */
export function writeFiles(dir: string, files: ReadonlyMap<string, VolumeFile>, fsGroup: number | undefined, wallMs: number): boolean {
  const clean = new Map([...files].map(([name, file]) => [cleanPath(name), file]));
  return attempt(`cannot write volume ${dir}`, () => {
    const link = path.join(dir, dataName);
    const current = readlinkIfAny(link);
    const old = current === undefined ? undefined : path.join(dir, current);
    const stale =
      old === undefined
        ? []
        : topLevelNames(old).filter((name) => ![...clean.keys()].some((file) => file === name || file.startsWith(`${name}/`)));
    // A link without its folder: the machine went down before the disk had it.
    const changed = old === undefined || stale.length > 0 || !fs.existsSync(old) || !sameFiles(old, clean);
    if (changed) {
      const stamp = new Date(wallMs).toISOString().slice(0, 19).replace(/[-T:]/g, '_');
      const fresh = fs.mkdtempSync(path.join(dir, `..${stamp}.`));
      try {
        fs.chmodSync(fresh, 0o755);
        for (const [name, file] of clean) writeOne(path.join(fresh, name), file);
        if (fsGroup !== undefined) giveToGroup(dir, fsGroup, true);
        const next = path.join(dir, newDataName);
        // A crash between the link and its renaming leaves one behind.
        fs.rmSync(next, { force: true });
        fs.symlinkSync(path.basename(fresh), next);
        fs.renameSync(next, link);
      } catch (error) {
        // Every other try would leave another copy, on what may be a full disk.
        removeTreeHere(fresh);
        throw error;
      }
    }
    for (const name of new Set([...clean.keys()].map((file) => file.split('/')[0] ?? ''))) linkVisible(dir, name, clean.get(name)?.uid);
    for (const name of stale) fs.rmSync(path.join(dir, name), { force: true });
    if (changed) removeOldContent(dir);
    return changed;
  });
}

function writeOne(at: string, file: VolumeFile): void {
  fs.mkdirSync(path.dirname(at), { recursive: true, mode: 0o777 });
  fs.writeFileSync(at, file.data, { mode: file.mode });
  // open(2) takes the umask off.
  fs.chmodSync(at, file.mode);
  if (file.uid !== undefined) fs.lchownSync(at, file.uid, 0);
}

function linkVisible(dir: string, name: string, uid: number | undefined): void {
  const at = path.join(dir, name);
  if (readlinkIfAny(at) !== undefined) return;
  fs.symlinkSync(path.join(dataName, name), at);
  if (uid !== undefined) fs.lchownSync(at, uid, 0);
}

function removeOldContent(dir: string): void {
  const current = readlinkIfAny(path.join(dir, dataName));
  for (const name of fs.readdirSync(dir)) {
    if (/^\.\.\d{4}_/.test(name) && name !== current) removeTreeHere(path.join(dir, name));
  }
}

function sameFiles(old: string, files: ReadonlyMap<string, VolumeFile>): boolean {
  const onDisk = filesBelow(old);
  if (onDisk.length !== files.size) return false;
  return onDisk.every((name) => {
    const file = files.get(name);
    return file !== undefined && fs.readFileSync(path.join(old, name)).equals(file.data);
  });
}

function filesBelow(dir: string, prefix = ''): string[] {
  return fs
    .readdirSync(dir, { withFileTypes: true })
    .flatMap((entry) =>
      entry.isDirectory() ? filesBelow(path.join(dir, entry.name), `${prefix}${entry.name}/`) : [`${prefix}${entry.name}`],
    );
}

function topLevelNames(dir: string): string[] {
  try {
    return fs.readdirSync(dir);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
}

function readlinkIfAny(at: string): string | undefined {
  try {
    return fs.readlinkSync(at);
  } catch (error) {
    // EINVAL: there, but no link. In a volume of ours that is a mount point made for another volume.
    if (isErrno(error, 'ENOENT')) return undefined;
    if (isErrno(error, 'EINVAL')) return '';
    throw error;
  }
}

/** A relative path that stays inside and hides nothing of the layout. Throws AgentError InvalidPath in kubelet's words. */
export function cleanPath(name: string): string {
  const invalid = (why: string): AgentError => new AgentError('InvalidPath', `invalid path: ${why}`);
  if (name === '') throw invalid('must not be empty: ""');
  if (name.startsWith('/')) throw invalid(`must be relative path: ${name}`);
  if (name.length > 4096) throw invalid('must be less than or equal to 4096 characters');
  const parts = name.split('/');
  if (parts.includes('..')) throw invalid(`must not contain '..': ${name}`);
  if (parts.some((part) => Buffer.byteLength(part) > 255)) throw invalid('filenames must be less than or equal to 255 characters');
  if (parts[0]?.startsWith('..') === true) throw invalid(`must not start with '..': ${name}`);
  return path.posix.normalize(name).replace(/\/$/, '');
}

/** Gives a tree to a group: readable, or writable too, and what is made in it later stays the group's (kubelet's SetVolumeOwnership). */
export function giveToGroup(dir: string, gid: number, readOnly: boolean): void {
  attempt(`cannot set the group of volume ${dir}`, () => walkDeep(dir, fs.lstatSync(dir), gid, readOnly));
}

function walkDeep(at: string, stat: fs.Stats, gid: number, readOnly: boolean): void {
  if (stat.isDirectory()) {
    for (const name of fs.readdirSync(at)) {
      const child = path.join(at, name);
      walkDeep(child, fs.lstatSync(child), gid, readOnly);
    }
  }
  fs.lchownSync(at, stat.uid, gid);
  // chmod(2) would follow a link and change what it points to.
  if (stat.isSymbolicLink()) return;
  const extra = (readOnly ? 0o440 : 0o660) | (stat.isDirectory() ? 0o2110 : 0);
  fs.chmodSync(at, (stat.mode & 0o7777) | extra);
}

/** The marker that an emptyDir has been set up, so that whoever takes the node over leaves it alone (pkg/volume/util IsReady, SetReady). */
export function isReady(metaDir: string): boolean {
  return fs.existsSync(path.join(metaDir, 'ready'));
}

export function markReady(metaDir: string): void {
  attempt(`cannot mark ${metaDir} as ready`, () => {
    fs.mkdirSync(metaDir, { recursive: true, mode: 0o750 });
    fs.closeSync(fs.openSync(path.join(metaDir, 'ready'), 'a', 0o644));
  });
}

export function exists(at: string): boolean {
  return fs.existsSync(at);
}

/** Every volume directory of a pod, by what lies on the disk. */
export function listVolumes(podDir: string): VolumeOnDisk[] {
  return attempt(`cannot list the volumes in ${podDir}`, () =>
    directories(path.join(podDir, 'volumes')).flatMap((plugin) =>
      directories(path.join(podDir, 'volumes', plugin)).map((name) => ({ plugin, name, path: path.join(podDir, 'volumes', plugin, name) })),
    ),
  );
}

/** The names of the pod directories: pod UIDs. */
export function listPodDirectories(podsDir: string): string[] {
  return attempt(`cannot list ${podsDir}`, () => directories(podsDir));
}

function directories(at: string): string[] {
  try {
    return fs
      .readdirSync(at, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return [];
    throw error;
  }
}

function attempt<T>(what: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    throw fromFsError(error, what);
  }
}
