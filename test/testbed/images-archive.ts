// Images as files: layers are plain tars, config and manifest are documents named by their digest, an archive is an OCI layout that docker load takes too.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { chmod, chown, copyFile, link, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { run } from './images-debian.ts';

/** One layer: an uncompressed tar file. `digest` is "sha256:…" of the file, which for an uncompressed layer is its diff ID too. */
export type Layer = { file: string; digest: string; size: number };

/** What a container gets when its spec says nothing. Names as in the OCI image config; ports like "80/tcp". */
export type ImageConfig = {
  Env?: readonly string[] | undefined;
  Entrypoint?: readonly string[] | undefined;
  Cmd?: readonly string[] | undefined;
  User?: string | undefined;
  WorkingDir?: string | undefined;
  ExposedPorts?: readonly string[] | undefined;
  Volumes?: readonly string[] | undefined;
  StopSignal?: string | undefined;
};

/** A file of a layer; its path in the image is the key of the file map. Mode defaults to 0644 (0755 for `folder`), owner to root. */
export type FileEntry = { mode?: number; uid?: number; gid?: number } & (
  | { text: string }
  | { bytes: Uint8Array }
  | { copyOf: string }
  | { link: string }
  | { folder: true }
);

/** An image ready to be imported or served: documents as text, blobs as files. Serialises to JSON. */
export type StoredImage = {
  name: string;
  manifest: string;
  manifestDigest: string;
  config: string;
  configDigest: string;
  layers: readonly Layer[];
};

export const ociManifestType = 'application/vnd.oci.image.manifest.v1+json';
export const ociIndexType = 'application/vnd.oci.image.index.v1+json';
const ociConfigType = 'application/vnd.oci.image.config.v1+json';
const ociLayerType = 'application/vnd.oci.image.layer.v1.tar';

export const defaultPath = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** "amd64" or "arm64". */
export const imageArchitecture = (): string => (process.arch === 'x64' ? 'amd64' : process.arch);

export const sha256 = (data: string | Uint8Array): string => `sha256:${createHash('sha256').update(data).digest('hex')}`;

const keys = (names: readonly string[] | undefined): Record<string, object> | undefined =>
  names === undefined ? undefined : Object.fromEntries(names.map((name) => [name, {}]));

/**
 * Config and manifest of an image. Each name gets an image ID of its own (a label holds the name): the CRI reports a container's image by the first
 * name of its image ID, so two names of one image would be mistaken for each other in a pod's status.
 */
export const describeImage = (name: string, config: ImageConfig, layers: readonly Layer[]): StoredImage => {
  const { ExposedPorts, Volumes, Env, ...rest } = config;
  const configText = JSON.stringify({
    architecture: imageArchitecture(),
    os: 'linux',
    created: '2026-01-01T00:00:00Z',
    config: {
      ...rest,
      Env: Env?.some((each) => each.startsWith('PATH=')) === true ? Env : [defaultPath, ...(Env ?? [])],
      ExposedPorts: keys(ExposedPorts),
      Volumes: keys(Volumes),
      Labels: { 'keelson.test/name': name },
    },
    rootfs: { type: 'layers', diff_ids: layers.map((layer) => layer.digest) },
    history: layers.map(() => ({ created: '2026-01-01T00:00:00Z', created_by: 'keelson test bed' })),
  });
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: ociManifestType,
    config: { mediaType: ociConfigType, digest: sha256(configText), size: Buffer.byteLength(configText) },
    layers: layers.map((layer) => ({ mediaType: ociLayerType, digest: layer.digest, size: layer.size })),
  });
  return { name, manifest, manifestDigest: sha256(manifest), config: configText, configDigest: sha256(configText), layers };
};

/** The digest and size of a finished layer file. */
export const readLayer = async (file: string): Promise<Layer> => {
  const hash = createHash('sha256');
  let size = 0;
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) {
    hash.update(chunk as Buffer);
    size += (chunk as Buffer).length;
  }
  return { file, digest: `sha256:${hash.digest('hex')}`, size };
};

/** Packs a root folder into a layer file. Owners and modes are those of the folder's files; times are dropped, so that the same content has the same digest. */
export const packLayer = async (root: string, file: string): Promise<Layer> => {
  const plain = ['--format=posix', '--pax-option=delete=atime,delete=ctime', '--sort=name', '--mtime=@0', '--numeric-owner'];
  await run('tar', [...plain, '-C', root, '-cf', file, '.']);
  return readLayer(file);
};

/** Writes a file map under `root`, parent folders (0755, root) included. Must run as root to give files away. */
export const writeFiles = async (root: string, files: Readonly<Record<string, FileEntry>>): Promise<void> => {
  for (const [path, entry] of Object.entries(files)) {
    const target = join(root, path);
    await mkdir(dirname(target), { recursive: true, mode: 0o755 });
    if ('link' in entry) {
      await symlink(entry.link, target);
      continue;
    }
    if ('folder' in entry) await mkdir(target, { recursive: true });
    else if ('copyOf' in entry) await copyFile(entry.copyOf, target);
    else await writeFile(target, 'text' in entry ? entry.text : entry.bytes);
    await chown(target, entry.uid ?? 0, entry.gid ?? 0);
    // After chown, which takes setuid bits away.
    await chmod(target, entry.mode ?? ('folder' in entry ? 0o755 : 0o644));
  }
};

/** Hard-links, or copies where a link cannot be (another file system). */
export const linkOrCopy = async (from: string, to: string): Promise<void> => {
  try {
    await link(from, to);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'EEXIST') return;
    if (code !== 'EXDEV' && code !== 'EPERM') throw error;
    await copyFile(from, to);
  }
};

const hex = (digest: string): string => digest.slice('sha256:'.length);

/** Packs images into one tar: `ctr images import` reads its OCI index, an older `docker load` its manifest.json. Shared layers are there once. */
export const writeArchive = async (file: string, images: readonly StoredImage[]): Promise<void> => {
  const folder = await mkdtemp(join(dirname(file), '.archive-'));
  try {
    const blobs = join(folder, 'blobs/sha256');
    await mkdir(blobs, { recursive: true });
    for (const image of images) {
      await writeFile(join(blobs, hex(image.manifestDigest)), image.manifest);
      await writeFile(join(blobs, hex(image.configDigest)), image.config);
      for (const layer of image.layers) await linkOrCopy(layer.file, join(blobs, hex(layer.digest)));
    }
    const index = {
      schemaVersion: 2,
      mediaType: ociIndexType,
      manifests: images.map((image) => ({
        mediaType: ociManifestType,
        digest: image.manifestDigest,
        size: Buffer.byteLength(image.manifest),
        platform: { architecture: imageArchitecture(), os: 'linux' },
        annotations: { 'io.containerd.image.name': image.name },
      })),
    };
    const docker = images.map((image) => ({
      Config: `blobs/sha256/${hex(image.configDigest)}`,
      RepoTags: [image.name],
      Layers: image.layers.map((layer) => `blobs/sha256/${hex(layer.digest)}`),
    }));
    await writeFile(join(folder, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
    await writeFile(join(folder, 'index.json'), JSON.stringify(index));
    await writeFile(join(folder, 'manifest.json'), JSON.stringify(docker));
    // Documents first: a reader learns what is there before the big blobs come. Layers are hard links, which a tar must hold as files.
    await run('tar', [
      '--hard-dereference',
      '--sort=name',
      '--mtime=@0',
      '--numeric-owner',
      '--owner=0',
      '--group=0',
      '-C',
      folder,
      '-cf',
      file,
      'oci-layout',
      'index.json',
      'manifest.json',
      'blobs',
    ]);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};
