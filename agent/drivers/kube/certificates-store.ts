import { lstat, rename, rm, symlink } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { AgentError, hasCode } from '../../base/errors.ts';
import { syncFolder, writeAtomically } from '../files/atomic.ts';
import { readText } from '../files/look.ts';

/** The texts of a certificate file and a key file; for a pair in one file both are the same text. */
export interface PairTexts {
  readonly certText: string;
  readonly keyText: string;
  /** The files that they came from, for messages. */
  readonly where: string;
}

/** Where one certificate of the node lives on disk. */
export interface CertificateStore {
  /** `<dir>/<prefix>-current.pem`: a link to the pair in use. */
  readonly currentPath: string;
  /** The pair in use, unparsed; `undefined` when there is none. */
  load(): Promise<PairTexts | undefined>;
  /** Makes this pair (PEM, certificates leaf first) the one in use: a new dated file, mode 0600, synced, then the link is switched in one step. */
  save(certPem: string, keyPem: string): Promise<void>;
}

export interface CertificateStoreOptions {
  /** `kubelet-client` or `kubelet-server`. */
  readonly prefix: string;
  readonly dir: string;
  /** Read when there is no current pair yet (a kubeconfig's client-certificate and client-key). */
  readonly certFile?: string | undefined;
  readonly keyFile?: string | undefined;
  /** Wall clock, milliseconds. */
  readonly now: () => number;
}

/**
 * Opens a store with kubelet's layout and its way to recover (client-go util/certificate, FileStore): `<prefix>-<date>.pem` holds
 * certificates and key, `<prefix>-current.pem` links to it, `<prefix>-updated.pem` is a switch that was interrupted.
 */
export async function openCertificateStore(options: CertificateStoreOptions): Promise<CertificateStore> {
  const { prefix, dir } = options;
  const currentPath = join(dir, `${prefix}-current.pem`);
  const updatedPath = join(dir, `${prefix}-updated.pem`);
  if ((await linkAt(currentPath)) === undefined && (await linkAt(updatedPath)) !== undefined) await rename(updatedPath, currentPath);

  const sources: readonly (readonly [string, string])[] = [
    [currentPath, currentPath],
    ...(options.certFile && options.keyFile ? [[options.certFile, options.keyFile] as const] : []),
    [join(dir, `${prefix}.crt`), join(dir, `${prefix}.key`)],
  ];

  return {
    currentPath,
    async load() {
      for (const [certFile, keyFile] of sources) {
        const pair = await readPairFiles(certFile, keyFile);
        if (pair !== undefined) return pair;
      }
      return undefined;
    },
    async save(certPem, keyPem) {
      const path = resolve(dir, `${prefix}-${fileDate(options.now())}.pem`);
      await writeAtomically(path, certPem + keyPem, { mode: 0o600 });
      await linkAt(currentPath);
      await rm(updatedPath, { force: true });
      await symlink(path, updatedPath);
      // One step: a reader finds the old pair or the new one, never none.
      await rename(updatedPath, currentPath);
      await syncFolder(dir);
    },
  };
}

/** Reads a pair of files; `undefined` when either is missing. Other failures are thrown as AgentError `Io`. */
export async function readPairFiles(certFile: string, keyFile: string): Promise<PairTexts | undefined> {
  const certText = await readIfThere(certFile);
  const keyText = certFile === keyFile ? certText : await readIfThere(keyFile);
  if (certText === undefined || keyText === undefined) return undefined;
  return { certText, keyText, where: certFile === keyFile ? certFile : `${certFile} and ${keyFile}` };
}

/** The text of a file, `undefined` when there is none. */
export async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readText(path);
  } catch (error) {
    if (hasCode(error, 'NotFound')) return undefined;
    throw new AgentError('Io', `cannot read ${path}: ${(error as Error).message}`, { cause: error });
  }
}

/** The path when a symbolic link is there, `undefined` when nothing is; a real file is an error, since replacing it would lose a key. */
async function linkAt(path: string): Promise<string | undefined> {
  const stat = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw new AgentError('Io', `cannot look at ${path}: ${error.message}`, { cause: error });
  });
  if (stat === undefined) return undefined;
  if (!stat.isSymbolicLink()) throw new AgentError('Io', `${path} should be a symbolic link, but is a file: move it away`);
  return path;
}

/** `2006-01-02-15-04-05`, as kubelet dates its files. */
function fileDate(epochMs: number): string {
  return new Date(epochMs).toISOString().slice(0, 19).replace(/[T:]/g, '-');
}
