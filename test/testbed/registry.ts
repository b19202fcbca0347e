// A registry for real pulls: Debian's docker-registry over a store filled with the images, behind a front (registry-front.ts) that can ask for a
// password, be slow or fail. Containerd is sent to it by certs.d; each original host is a folder of the registry: /v2/registry.k8s.io/pause/….
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { get } from 'node:http';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { storedImages } from './images.ts';
import { linkOrCopy, type StoredImage } from './images-archive.ts';
import { cacheRoot, makeOnce, openSuite, say, withLock } from './images-debian.ts';
import type { RegistryRule } from './registry-front.ts';
import { upstreamVersion } from './runtimes.ts';

/** Path of docker-registry in the cache, fetched and unpacked when it is not there. */
export const ensureRegistry = async (): Promise<string> => {
  const home = join(cacheRoot(), 'lab', 'registry');
  await mkdir(home, { recursive: true });
  const cached = async (): Promise<string | undefined> => {
    const folder = (await readdir(home))
      .filter((name) => name.startsWith('docker-registry-') && !name.endsWith('.lock'))
      .sort()
      .at(-1);
    return folder === undefined ? undefined : join(home, folder, 'usr/bin/docker-registry');
  };
  return (
    (await cached()) ??
    withLock(join(home, 'lock'), async () => {
      const made = await cached();
      if (made !== undefined) return made;
      const suite = await openSuite('bookworm');
      const version = upstreamVersion(await suite.version('docker-registry'));
      say(`unpacking docker-registry ${version}`);
      const folder = await makeOnce(join(home, `docker-registry-${version}`), async (into) => {
        await suite.unpack('docker-registry', into);
      });
      return join(folder, 'usr/bin/docker-registry');
    })
  );
};

/** "gcr.io/a/b:1.2" → repository "gcr.io/a/b", tag "1.2". */
export const splitName = (name: string): { repository: string; tag: string } => {
  const colon = name.lastIndexOf(':');
  if (colon < name.lastIndexOf('/') || colon < 0) throw new Error(`image name ${name} has no tag`);
  return { repository: name.slice(0, colon), tag: name.slice(colon + 1) };
};

/**
 * The files of docker-registry's filesystem store (distribution, registry/storage/paths.go) that make an image known: path under the store →
 * text, or the layer file it is a copy of.
 */
export const storeFiles = (image: StoredImage): Record<string, { text: string } | { copyOf: string }> => {
  const { repository, tag } = splitName(image.name);
  const hex = (digest: string): string => digest.slice('sha256:'.length);
  const blob = (digest: string): string => `blobs/sha256/${hex(digest).slice(0, 2)}/${hex(digest)}/data`;
  const home = `repositories/${repository}`;
  const layerLink = (digest: string): [string, { text: string }] => [`${home}/_layers/sha256/${hex(digest)}/link`, { text: digest }];
  const manifest = hex(image.manifestDigest);
  return {
    [blob(image.manifestDigest)]: { text: image.manifest },
    [blob(image.configDigest)]: { text: image.config },
    ...Object.fromEntries(image.layers.map((layer) => [blob(layer.digest), { copyOf: layer.file }])),
    ...Object.fromEntries([image.configDigest, ...image.layers.map((layer) => layer.digest)].map(layerLink)),
    [`${home}/_manifests/revisions/sha256/${manifest}/link`]: { text: image.manifestDigest },
    [`${home}/_manifests/tags/${tag}/index/sha256/${manifest}/link`]: { text: image.manifestDigest },
    // Last: with it the tag can be pulled.
    [`${home}/_manifests/tags/${tag}/current/link`]: { text: image.manifestDigest },
  };
};

/** Adds images to a registry's store, which may be in use. Layers are hard links into the cache. */
export const fillRegistry = async (dataDir: string, images: readonly StoredImage[]): Promise<void> => {
  const store = join(dataDir, 'store/docker/registry/v2');
  for (const image of images) {
    for (const [path, content] of Object.entries(storeFiles(image))) {
      const target = join(store, path);
      await mkdir(dirname(target), { recursive: true });
      if ('copyOf' in content) await linkOrCopy(content.copyOf, target);
      else await writeWhole(target, content.text);
    }
  }
};

const writeWhole = async (file: string, text: string): Promise<void> => {
  await writeFile(`${file}.new`, text);
  await rename(`${file}.new`, file);
};

/** Credentials of gcr.io/k8s-authenticated-test, the registry that specs on pull secrets and credential providers name. */
export const privateRegistry = { repository: 'gcr.io/k8s-authenticated-test/', auth: { user: 'e2e', password: 'for-tests-only' } } as const;

export type RegistryOptions = {
  /** Address and port clients reach it at, e.g. "172.30.0.1:5000" or "[fd00::1]:5000". */
  listen: string;
  /** Name of the network namespace (under /run/netns) that has this address. */
  netns?: string | undefined;
  /** Its store, sockets, rules and logs. Keep it under 90 bytes: it holds unix sockets. */
  dataDir: string;
  /** Asked of every pull, not only of the private repository's. */
  auth?: { user: string; password: string } | undefined;
  /** Added to the store besides the suite's. */
  images?: readonly StoredImage[] | undefined;
  /** Starts a process that outlives the call. */
  spawn: (argv: string[], options: { logFile: string; env?: Record<string, string> }) => Promise<{ pid: number }>;
};

export type Registry = {
  /** For writeCertsDir: "http://ip:port". */
  url: string;
  /** The processes to end it by. */
  pids: number[];
  /** Replaces the rules that make it slow, fail or ask for passwords; the private repository keeps its password. Holds from the next request on. */
  setRules: (rules: readonly RegistryRule[]) => Promise<void>;
};

const startDeadlineMs = 15_000;

/** Starts the registry with every image of the suite, the private ones included; resolves when it answers. Makes the images that are not in the cache yet. */
export const startRegistry = async (options: RegistryOptions): Promise<Registry> => {
  const { listen, dataDir, spawn } = options;
  const [, address, port] = /^\[?([^\]]+)\]?:(\d+)$/.exec(listen) ?? [];
  if (address === undefined || port === undefined) throw new Error(`listen must be ADDRESS:PORT, not ${listen}`);
  const binary = await ensureRegistry();
  const suite = [...(await storedImages('small')), ...(await storedImages('debian')), ...(await storedImages('private'))];
  await fillRegistry(dataDir, [...suite, ...(options.images ?? [])]);

  const registrySocket = join(dataDir, 'registry.sock');
  const frontSocket = join(dataDir, 'front.sock');
  const rulesFile = join(dataDir, 'rules.json');
  const configFile = join(dataDir, 'config.json');
  // A socket that a killed registry left would be in the way of the next.
  await Promise.all([registrySocket, frontSocket].map((file) => rm(file, { force: true })));
  const setRules: Registry['setRules'] = (rules) => {
    const always: RegistryRule[] = [privateRegistry, ...(options.auth === undefined ? [] : [{ repository: '', auth: options.auth }])];
    return writeWhole(rulesFile, JSON.stringify({ rules: [...always, ...rules] }));
  };
  await setRules([]);
  // Its configuration is YAML, and JSON is YAML.
  const config = {
    version: '0.1',
    log: { accesslog: { disabled: true }, level: 'warn' },
    storage: { filesystem: { rootdirectory: join(dataDir, 'store') } },
    http: { net: 'unix', addr: registrySocket, relativeurls: true },
  };
  await writeFile(configFile, JSON.stringify(config));

  const registry = await spawn([binary, 'serve', configFile], { logFile: join(dataDir, 'registry.log') });
  const pids = [registry.pid];
  try {
    await answers(registrySocket, registry.pid, join(dataDir, 'registry.log'));
    const enter = options.netns === undefined ? [] : ['nsenter', `--net=/run/netns/${options.netns}`];
    const program = [
      process.execPath,
      join(import.meta.dirname, 'registry-front.ts'),
      address,
      port,
      registrySocket,
      frontSocket,
      rulesFile,
    ];
    const front = await spawn([...enter, ...program], { logFile: join(dataDir, 'front.log') });
    pids.push(front.pid);
    await answers(frontSocket, front.pid, join(dataDir, 'front.log'));
  } catch (error) {
    for (const pid of pids) if (existsSync(`/proc/${pid}`)) process.kill(pid);
    throw error;
  }
  return { url: `http://${listen}`, pids, setRules };
};

/** Resolves when GET /v2/ on a unix socket is answered 200. */
const answers = async (socketPath: string, pid: number, logFile: string): Promise<void> => {
  const ask = (): Promise<number | undefined> =>
    new Promise((resolve, reject) => {
      get({ socketPath, path: '/v2/', timeout: 5000 }, (response) => {
        response.resume();
        resolve(response.statusCode);
      }).on('error', reject);
    });
  const giveUpAt = performance.now() + startDeadlineMs;
  for (;;) {
    let trouble: string;
    try {
      const status = await ask();
      if (status === 200) return;
      trouble = `HTTP ${status}`;
    } catch (error) {
      trouble = String(error);
    }
    if (performance.now() > giveUpAt || !existsSync(`/proc/${pid}`)) {
      const log = existsSync(logFile) ? (await readFile(logFile, 'utf8')).trim().split('\n').slice(-10).join('\n') : '(no log)';
      throw new Error(`the registry did not come up on ${socketPath}: ${trouble}\n${log}`);
    }
    await sleep(25);
  }
};

/** Hosts whose images the registry stands in for. `localhost` is not among them: specs start a registry of their own there. */
export const mirroredHosts: readonly string[] = ['registry.k8s.io', 'gcr.io', 'docker.io', 'quay.io', 'invalid.registry.k8s.io'];

/** The hosts.toml that sends containerd's pulls from `host` to the registry, and nowhere else when that fails. */
export const hostsToml = (host: string, registry: string): string =>
  [
    `server = "${registry}/v2/${host}"`,
    'capabilities = ["pull", "resolve"]',
    '# The path above is whole: no /v2 is put before it.',
    'override_path = true',
    '# containerd 1.6 takes no file without this table.',
    '[host]',
    '',
  ].join('\n');

/** Writes containerd's certs.d, HOST/hosts.toml for each mirrored host. Containerd reads it at each pull: it can be changed while it runs. */
export const writeCertsDir = async (options: {
  certsDir: string;
  registry: string;
  hosts?: readonly string[] | undefined;
}): Promise<void> => {
  for (const host of options.hosts ?? mirroredHosts) {
    await mkdir(join(options.certsDir, host), { recursive: true });
    await writeWhole(join(options.certsDir, host, 'hosts.toml'), hostsToml(host, options.registry));
  }
};
