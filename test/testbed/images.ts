// The images nodes run, made here because nothing can be pulled from outside: built into the cache once, imported into each node's containerd.
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  describeImage,
  type FileEntry,
  type ImageConfig,
  type Layer,
  packLayer,
  type StoredImage,
  writeArchive,
  writeFiles,
} from './images-archive.ts';
import { cacheRoot, makeOnce, run, say } from './images-debian.ts';
import { ensureLayer } from './images-layers.ts';
import { type ImageGroup, type ImageRecipe, imageGroups } from './images-recipes.ts';

export type ImageSpec = {
  /** Full names with tag, e.g. "registry.k8s.io/e2e-test-images/busybox:1.37.0-1". */
  names: readonly string[];
  /** Content: a root folder packed as it is, or files by path; both make a layer each, above `base`. */
  rootfs?: string | undefined;
  files?: Readonly<Record<string, FileEntry>> | undefined;
  /** Layers below, see ensureLayer. */
  base?: readonly Layer[] | undefined;
  config: ImageConfig;
};

/** Writes an image as a tar for `ctr images import` (and `docker load`) to `file`, with `file`.json beside it, which importImages reads. Replaces both atomically. */
export const makeImage = async (spec: ImageSpec, file: string): Promise<string> => {
  await mkdir(dirname(file), { recursive: true });
  const folder = await mkdtemp(join(dirname(file), '.image-'));
  try {
    const layers: Layer[] = [...(spec.base ?? [])];
    if (spec.rootfs !== undefined) layers.push(await packLayer(spec.rootfs, join(folder, 'rootfs.tar')));
    if (spec.files !== undefined) {
      const root = join(folder, 'root');
      await mkdir(root, { mode: 0o755 });
      await writeFiles(root, spec.files);
      layers.push(await packLayer(root, join(folder, 'files.tar')));
    }
    const images = spec.names.map((name) => describeImage(name, spec.config, layers));
    await writeArchive(join(folder, 'images.tar'), images);
    await writeFile(join(folder, 'images.json'), JSON.stringify(contentsOf(images)));
    await rename(join(folder, 'images.tar'), file);
    await rename(join(folder, 'images.json'), `${file}.json`);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return file;
};

/** Name → manifest digest of what an archive holds. */
type Contents = Record<string, string>;

const contentsOf = (images: readonly StoredImage[]): Contents =>
  Object.fromEntries(images.map((image) => [image.name, image.manifestDigest]));

const groupNames = (group: ImageGroup): string[] => Object.keys(imageGroups[group]);

/** Full names of every image nodes get. Images behind a password, which only a registry serves, are not among them. */
export const imageNames: readonly string[] = [...groupNames('small'), ...groupNames('debian')];

/** Groups that hold the named images. A name is full, or its last part without the tag ("busybox" is every busybox). Throws on an unknown one. */
export const groupsFor = (names: readonly string[]): ImageGroup[] => {
  const groups = (Object.keys(imageGroups) as ImageGroup[]).filter((group) => group !== 'private');
  const matches = (name: string, full: string): boolean => full === name || full.slice(full.lastIndexOf('/') + 1).split(':')[0] === name;
  for (const name of names) {
    if (!imageNames.some((full) => matches(name, full))) throw new Error(`no image is called ${name}; there are: ${imageNames.join(', ')}`);
  }
  return groups.filter((group) => groupNames(group).some((full) => names.some((name) => matches(name, full))));
};

/** The images of a group, layers made. */
export const storedImages = async (group: ImageGroup): Promise<StoredImage[]> => {
  const images: StoredImage[] = [];
  for (const [name, recipe] of Object.entries<ImageRecipe>(imageGroups[group])) {
    const layers: Layer[] = [];
    for (const layer of recipe.layers) layers.push(await ensureLayer(layer));
    images.push(describeImage(name, recipe.config, layers));
  }
  return images;
};

/**
 * Makes sure that the named images (all, when no names are given) are in the cache; resolves to tar files that hold them, images that share layers in one.
 * A cold start takes a minute or two besides the Go builds; after that it is milliseconds. Needs root.
 */
export const ensureImages = async (names: readonly string[] = imageNames): Promise<string[]> => {
  const tars: string[] = [];
  for (const group of groupsFor(names)) {
    const images = await storedImages(group);
    const key = createHash('sha256')
      .update(JSON.stringify(contentsOf(images)))
      .digest('hex')
      .slice(0, 12);
    const home = await makeOnce(join(cacheRoot(), 'lab', 'images', `${group}-${key}`), async (folder) => {
      say(`packing ${images.length} images (${group})`);
      await writeArchive(join(folder, 'images.tar'), images);
      await writeFile(join(folder, 'images.tar.json'), JSON.stringify(contentsOf(images)));
    });
    tars.push(join(home, 'images.tar'));
  }
  return tars;
};

export type ImportOptions = { ctr: string; socket: string; tars: readonly string[]; snapshotter?: string | undefined };

const managedDeadlineMs = 30_000;

/**
 * Imports archives into a containerd for the CRI to use; what it has under the same name and digest already is skipped. Resolves when the CRI plugin has
 * taken note of every image, to the number of archives that were imported.
 */
export const importImages = async ({ ctr, socket, tars, snapshotter }: ImportOptions): Promise<number> => {
  const inNamespace = ['--address', socket, '--namespace', 'k8s.io', 'images'];
  const wanted: Contents = {};
  let imported = 0;
  const before = parseImageList(await run(ctr, [...inNamespace, 'ls']));
  for (const tar of tars) {
    const contents = JSON.parse(await readFile(`${tar}.json`, 'utf8')) as Contents;
    Object.assign(wanted, contents);
    if (Object.entries(contents).every(([name, digest]) => before.get(name)?.digest === digest)) continue;
    await run(ctr, [...inNamespace, 'import', ...(snapshotter === undefined ? [] : ['--snapshotter', snapshotter]), tar]);
    imported += 1;
  }
  const giveUpAt = performance.now() + managedDeadlineMs;
  for (;;) {
    const have = parseImageList(await run(ctr, [...inNamespace, 'ls']));
    // The CRI plugin learns of an import by an event, and marks the image when it knows it.
    const missing = Object.entries(wanted).filter(
      ([name, digest]) => have.get(name)?.digest !== digest || have.get(name)?.managed !== true,
    );
    if (missing.length === 0) return imported;
    if (performance.now() > giveUpAt)
      throw new Error(`containerd at ${socket} did not take over these images: ${missing.map(([name]) => name).join(', ')}`);
    await sleep(50);
  }
};

/** What `ctr images ls` prints: name → digest, and whether the CRI plugin manages the image. */
export const parseImageList = (text: string): Map<string, { digest: string; managed: boolean }> => {
  const images = new Map<string, { digest: string; managed: boolean }>();
  for (const line of text.split('\n').slice(1)) {
    const [name, , digest] = line.split(/\s+/);
    if (name === undefined || digest === undefined || name === '') continue;
    images.set(name, { digest, managed: line.includes('io.cri-containerd.image=managed') });
  }
  return images;
};
