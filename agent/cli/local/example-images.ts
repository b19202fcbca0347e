import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AgentError } from '../../base/errors.ts';
import { removeTreeHere } from '../../drivers/mounts/remove-tree.ts';
import { type TarEntry, writeTar } from './tar.ts';
import { runTool } from './tool.ts';

/** The images of the examples and of the sandboxes: made on this machine, so that no registry is needed. */
const exampleImage = 'keelson.local/example:1';
export const pauseImage = 'keelson.local/pause:1';

/** busybox as one static file, from Debian's package, which is unpacked and not installed. Cached; resolves to its path. */
async function ensureBusybox(signal: AbortSignal): Promise<string> {
  const cache = join(process.env.KEELSON_CACHE ?? '/var/cache/keelson', 'standalone');
  const file = join(cache, `busybox-${process.arch}`);
  if (existsSync(file)) return file;
  await mkdir(cache, { recursive: true });
  const folder = await mkdtemp(join(cache, '.busybox-'));
  try {
    // Root's own downloads: apt's sandbox user may not write here.
    const download = ['apt-get', '-qq', '-o', 'APT::Sandbox::User=root', 'download', 'busybox-static'];
    try {
      await runTool(download, signal, { cwd: folder });
    } catch (error) {
      if (signal.aborted) throw error;
      await runTool(['apt-get', '-qq', '-o', 'DPkg::Lock::Timeout=300', 'update'], signal);
      await runTool(download, signal, { cwd: folder });
    }
    const [archive] = (await readdir(folder)).filter((name) => name.endsWith('.deb'));
    if (archive === undefined)
      throw new AgentError('ToolFailed', 'apt-get download busybox-static left no package; is this a Debian with package sources?');
    await runTool(['dpkg-deb', '--extract', join(folder, archive), folder], signal);
    const found = ['usr/bin/busybox', 'bin/busybox'].map((path) => join(folder, path)).find((path) => existsSync(path));
    if (found === undefined) throw new AgentError('ToolFailed', `${archive} has no busybox in it`);
    await rename(found, file);
    return file;
  } finally {
    removeTreeHere(folder);
  }
}

const page = `<!doctype html>
<meta charset="utf-8">
<title>keelson</title>
<h1>It runs.</h1>
<p>This page comes out of a pod that keelson started from a manifest.</p>
`;

/** An archive for `ctr images import` with both images. `applets` are the commands that busybox brings. */
async function writeExampleImages(busybox: string, signal: AbortSignal): Promise<Buffer> {
  const binary = await readFile(busybox);
  const applets = (await runTool([busybox, '--list-full'], signal)).split('\n').filter((path) => /^[\w/[\].+-]+$/.test(path));
  const base: TarEntry[] = [
    ...['bin/', 'sbin/', 'usr/', 'usr/bin/', 'usr/sbin/', 'etc/', 'dev/', 'proc/', 'sys/', 'run/', 'root/', 'www/'].map((name) => ({
      name,
      mode: 0o755,
    })),
    { name: 'tmp/', mode: 0o1777 },
    { name: 'bin/busybox', mode: 0o755, content: binary },
    { name: 'etc/passwd', mode: 0o644, content: 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' },
    { name: 'etc/group', mode: 0o644, content: 'root:x:0:\nnogroup:x:65534:\n' },
    { name: 'www/index.html', mode: 0o644, content: page },
  ];
  const taken = new Set(base.map(({ name }) => name));
  const links = [...new Set(applets)].filter((path) => !taken.has(path)).map((name) => ({ name, mode: 0o777, linkTo: '/bin/busybox' }));
  const example = [...base, ...links];
  const pause: TarEntry[] = [
    { name: 'bin/', mode: 0o755 },
    { name: 'bin/busybox', mode: 0o755, content: binary },
  ];
  return dockerArchive([
    { name: exampleImage, layer: writeTar(example), config: { Cmd: ['/bin/sh'] } },
    // The first process of a pod: it reaps what others leave, and ends when told to.
    {
      name: pauseImage,
      layer: writeTar(pause),
      config: { Entrypoint: ['/bin/busybox', 'sh', '-c', "trap 'exit 0' TERM INT; while :; do busybox sleep 2147483 & wait $!; done"] },
    },
  ]);
}

interface ImageParts {
  readonly name: string;
  readonly layer: Buffer;
  readonly config: Readonly<Record<string, unknown>>;
}

/** What `docker save` writes: one manifest.json, and for each image a config and a layer named by their digests. */
function dockerArchive(images: readonly ImageParts[]): Buffer {
  const digest = (data: Buffer | string): string => createHash('sha256').update(data).digest('hex');
  const files = new Map<string, Buffer | string>();
  const manifest = images.map(({ name, layer, config }) => {
    const layerName = `${digest(layer)}.tar`;
    const text = JSON.stringify({
      architecture: process.arch === 'x64' ? 'amd64' : process.arch,
      os: 'linux',
      created: '2026-01-01T00:00:00Z',
      config: { Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'], ...config },
      rootfs: { type: 'layers', diff_ids: [`sha256:${digest(layer)}`] },
      history: [{ created: '2026-01-01T00:00:00Z', created_by: 'keelson up' }],
    });
    const configName = `${digest(text)}.json`;
    files.set(layerName, layer);
    files.set(configName, text);
    return { Config: configName, RepoTags: [name], Layers: [layerName] };
  });
  files.set('manifest.json', JSON.stringify(manifest));
  return writeTar([...files].map(([name, content]) => ({ name, mode: 0o644, content })));
}

/** Writes the archive with the images below `folder`, and resolves to its path. */
export async function writeExampleArchive(folder: string, signal: AbortSignal): Promise<string> {
  const archive = join(folder, 'example-images.tar');
  await mkdir(folder, { recursive: true });
  await writeFile(archive, await writeExampleImages(await ensureBusybox(signal), signal));
  return archive;
}

/** Puts the images into containerd, unless they are there. */
export async function importExampleImages(ctr: string, socket: string, folder: string, signal: AbortSignal): Promise<boolean> {
  const command = [ctr, '--address', socket, '--namespace', 'k8s.io', 'images'];
  const present = (await runTool([...command, 'ls', '-q'], signal)).split('\n');
  if ([exampleImage, pauseImage].every((name) => present.includes(name))) return false;
  const archive = await writeExampleArchive(folder, signal);
  await runTool([...command, 'import', archive], signal);
  await rm(archive, { force: true });
  return true;
}
