// Makes the layers the images are stacked of, each once: a folder in the cache keyed by its recipe, its source files and the binaries it holds.
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureBinary } from './binaries.ts';
import {
  describeImage,
  type FileEntry,
  imageArchitecture,
  type Layer,
  ociIndexType,
  ociManifestType,
  packLayer,
  readLayer,
  sha256,
  writeFiles,
} from './images-archive.ts';
import { cacheRoot, ensureTools, makeOnce, openSuite, run, say } from './images-debian.ts';
import { imageGroups, type LayerName } from './images-recipes.ts';

const sources = join(import.meta.dirname, 'image-src');

// A change in how layers are made that no key below sees.
const recipeVersion = 1;

type LayerRecipe = {
  /** Everything the content depends on, as text. */
  key: string;
  /** Fills `root` (packed afterwards), or writes `tar` itself. */
  build: (root: string, tar: string) => Promise<void>;
};

const source = (name: string): Promise<string> => readFile(join(sources, name), 'utf8');

/** Compiles one of our C sources into a static binary, on its own in any image. */
const compile = async (name: string, target: string): Promise<void> => {
  await ensureTools({ gcc: 'gcc', [`/usr/lib/${process.arch === 'x64' ? 'x86_64' : 'aarch64'}-linux-gnu/libc.a`]: 'libc6-dev' });
  await run('gcc', ['-static', '-Os', '-s', '-Wall', '-Werror', '-o', target, join(sources, name)]);
};

const cProgram =
  (sourceName: string, path: string, mode: number): (() => Promise<LayerRecipe>) =>
  async () => ({
    key: `${await source(sourceName)} ${path} ${mode}`,
    build: async (root) => {
      const folder = await mkdtemp(join(cacheRoot(), 'lab', '.compile-'));
      try {
        await compile(sourceName, join(folder, 'program'));
        await writeFiles(root, { [path]: { copyOf: join(folder, 'program'), mode } });
      } finally {
        await rm(folder, { recursive: true, force: true });
      }
    },
  });

const busyboxFiles: Record<string, FileEntry> = {
  'etc/passwd': {
    text: [
      'root:x:0:0:root:/root:/bin/sh',
      'daemon:x:1:1:daemon:/usr/sbin:/bin/false',
      'bin:x:2:2:bin:/bin:/bin/false',
      'sys:x:3:3:sys:/dev:/bin/false',
      'mail:x:8:8:mail:/var/spool/mail:/bin/false',
      'www-data:x:33:33:www-data:/var/www:/bin/false',
      'nobody:x:65534:65534:nobody:/home:/bin/false',
      '',
    ].join('\n'),
  },
  'etc/group': {
    text: 'root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\nmail:x:8:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n',
  },
  'etc/nsswitch.conf': { text: 'passwd: files\ngroup: files\nhosts: files dns\n' },
  'etc/network': { folder: true },
  'var/spool/mail': { folder: true },
  'var/www': { folder: true, uid: 33, gid: 33 },
  'usr/sbin': { folder: true },
  dev: { folder: true },
  home: { folder: true, uid: 65534, gid: 65534 },
  root: { folder: true, mode: 0o700 },
  tmp: { folder: true, mode: 0o1777 },
};

const busybox = async (): Promise<LayerRecipe> => ({
  key: JSON.stringify(busyboxFiles) + (await source('busybox-sh.c')) + (await source('nmeter.c')),
  build: async (root) => {
    const suite = await openSuite('bookworm');
    const folder = await mkdtemp(join(cacheRoot(), 'lab', '.busybox-'));
    try {
      await suite.unpack('busybox-static', folder);
      await suite.unpack('bash-static', folder);
      await compile('busybox-sh.c', join(folder, 'sh'));
      await compile('nmeter.c', join(folder, 'nmeter'));
      const applets = (await run(join(folder, 'bin/busybox'), ['--list'])).trim().split('\n');
      await writeFiles(root, {
        'bin/busybox': { copyOf: join(folder, 'bin/busybox'), mode: 0o755 },
        'bin/sh': { copyOf: join(folder, 'sh'), mode: 0o755 },
        'bin/nmeter': { copyOf: join(folder, 'nmeter'), mode: 0o755 },
        'usr/libexec/bash': { copyOf: join(folder, 'bin/bash-static'), mode: 0o755 },
        // A link named busybox, which the list has too, would overwrite the program by a link to itself.
        ...Object.fromEntries(
          applets.filter((name) => name !== 'busybox' && name !== 'sh').map((name) => [`bin/${name}`, { link: 'busybox' }]),
        ),
        'usr/bin/env': { link: '../../bin/env' },
        ...busyboxFiles,
      });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
});

const debianPackages = [
  'bash',
  'bind9-dnsutils',
  'ca-certificates',
  'conntrack',
  'curl',
  'hostname',
  'iperf',
  'iproute2',
  'iptables',
  'iputils-ping',
  'net-tools',
  'netcat-openbsd',
  'nftables',
  'nginx-light',
  'procps',
  'stress',
  'usr-is-merged',
  'util-linux',
  // Host-network specs call it besides curl.
  'wget',
];

// Each node unpacks this layer. Besides documentation: modules that perl-base's perl does without, and character sets.
const excludedPaths = [
  ...['doc', 'man', 'locale', 'info', 'perl'].map((folder) => `/usr/share/${folder}`),
  ...['perl', 'gconv'].map((folder) => `/usr/lib/*/${folder}`),
];

// A spec on supplemental groups asks for this user and group by these names and numbers (agnhost's Dockerfile). The base has no useradd.
const users = [
  ['etc/passwd', 'user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh'],
  ['etc/group', 'user-defined-in-image:x:1000:'],
  ['etc/group', 'group-defined-in-image:x:50000:user-defined-in-image'],
];

const debian = async (): Promise<LayerRecipe> => {
  const args = [
    '--variant=essential',
    '--format=tar',
    // Device nodes: a container gets its own /dev.
    '--skip=output/dev',
    '--dpkgopt=force-unsafe-io',
    // Merges /bin into /usr/bin beforehand: the usrmerge package would need all of Perl's modules.
    '--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr',
    ...excludedPaths.map((path) => `--dpkgopt=path-exclude=${path}/*`),
    `--include=${debianPackages.join(',')}`,
    ...users.map(([file, line]) => `--customize-hook=echo '${line}' >> "$1/${file}"`),
    // Left from building: the builder's own host name and resolver.
    '--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"',
  ];
  return {
    key: JSON.stringify(args),
    build: async (_root, tar) => {
      await ensureTools({ mmdebstrap: 'mmdebstrap' });
      // Fresh, because a mirror drops the files of versions it no longer lists.
      const { sourcesFile } = await openSuite('bookworm', { refresh: true });
      await run('mmdebstrap', ['--quiet', ...args, 'bookworm', tar, sourcesFile], { env: { SOURCE_DATE_EPOCH: '0' } });
    },
  };
};

/** A layer that is one program at the root of the image. */
const goProgram = (name: 'coredns' | 'regression-issue-74839') => async (): Promise<LayerRecipe> => {
  const binary = await ensureBinary(name);
  return { key: binary, build: (root) => writeFiles(root, { [name]: { copyOf: binary, mode: 0o755 } }) };
};

/** What agnhost's fake-registry-server serves from /var/registry: our pause image as `pause:testing`, in the layout its handlers read. */
export const fakeRegistryFiles = (pause: Layer): Record<string, FileEntry> => {
  const image = describeImage('pause:testing', imageGroups.small['registry.k8s.io/pause:3.10.2'].config, [pause]);
  const index = JSON.stringify({
    schemaVersion: 2,
    mediaType: ociIndexType,
    manifests: [
      {
        mediaType: ociManifestType,
        digest: image.manifestDigest,
        size: Buffer.byteLength(image.manifest),
        platform: { architecture: imageArchitecture(), os: 'linux' },
      },
    ],
  });
  const at = (kind: 'manifests' | 'blobs', digest: string): string => {
    const hex = digest.slice('sha256:'.length);
    return `var/registry/pause/${kind}/sha256/${hex.slice(0, 2)}/${hex}/data`;
  };
  return {
    'var/registry/pause/manifests/testing': { text: `${sha256(index)}\n` },
    [at('manifests', sha256(index))]: { text: index },
    [at('manifests', image.manifestDigest)]: { text: image.manifest },
    [at('blobs', image.configDigest)]: { text: image.config },
    [at('blobs', pause.digest)]: { copyOf: pause.file },
  };
};

// A spec reads this file of the kitten image through an image volume, to see the image it knows (test/e2e/common/node/image_volume.go).
const osRelease = 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.21.0\nPRETTY_NAME="Alpine Linux (in name: a Debian base made for tests)"\n';

const agnhost = async (): Promise<LayerRecipe> => {
  const binary = await ensureBinary('agnhost');
  const pause = await ensureLayer('pause');
  return {
    key: `${binary} ${pause.digest} ${osRelease} ${await source('nmeter.c')}`,
    build: async (root) => {
      await ensureTools({ openssl: 'openssl' });
      // Upstream's image is of Alpine, whose busybox has it.
      const nmeter = join(root, '.nmeter');
      await compile('nmeter.c', nmeter);
      // Shapes of upstream's porter/localhost.crt: its names are what proxy and https hook specs connect to.
      const names = 'subjectAltName=DNS:example.com,DNS:localhost,IP:127.0.0.1,IP:::1';
      const keyAndCert = ['-keyout', join(root, 'localhost.key'), '-out', join(root, 'localhost.crt')];
      await run('openssl', [
        'req',
        '-x509',
        '-newkey',
        'rsa:2048',
        '-nodes',
        '-days',
        '20000',
        '-subj',
        '/O=Acme Co',
        '-addext',
        names,
        ...keyAndCert,
      ]);
      await run('chmod', ['0644', join(root, 'localhost.key'), join(root, 'localhost.crt')]);
      await writeFiles(root, {
        agnhost: { copyOf: binary, mode: 0o755 },
        'agnhost-2': { link: 'agnhost' },
        uploads: { folder: true },
        'usr/local/bin/iperf': { link: '/usr/bin/iperf' },
        'usr/local/bin/nmeter': { copyOf: nmeter, mode: 0o755 },
        'etc/os-release': { text: osRelease },
        ...fakeRegistryFiles(pause),
      });
      await rm(nmeter);
    },
  };
};

const picture = (name: 'kitten' | 'nautilus') => async (): Promise<LayerRecipe> => {
  const files: Record<string, FileEntry> = {
    'data.json': { text: `{\n  "image": "${name}.jpg"\n}\n` },
    [`${name}.jpg`]: { text: `a picture of a ${name}\n` },
  };
  return { key: JSON.stringify(files), build: (root) => writeFiles(root, files) };
};

const nginxFiles: Record<string, FileEntry> = {
  'docker-entrypoint.sh': {
    mode: 0o755,
    text: [
      '#!/bin/sh',
      'set -e',
      '# Without IPv6 in the kernel the second listener would keep nginx from starting.',
      '[ -e /proc/net/if_inet6 ] || sed -i "/listen \\[::\\]/d" /etc/nginx/nginx.conf',
      'exec "$@"',
      '',
    ].join('\n'),
  },
  'etc/nginx/nginx.conf': {
    text: [
      'user www-data;',
      'worker_processes 1;',
      'error_log /var/log/nginx/error.log notice;',
      'pid /run/nginx.pid;',
      'events { worker_connections 1024; }',
      'http {',
      '  include /etc/nginx/mime.types;',
      '  default_type application/octet-stream;',
      '  access_log /var/log/nginx/access.log;',
      '  server {',
      '    listen 80;',
      '    listen [::]:80;',
      '    root /usr/share/nginx/html;',
      '    index index.html;',
      '  }',
      '}',
      '',
    ].join('\n'),
  },
  'usr/share/nginx/html/index.html': {
    text: '<!DOCTYPE html>\n<html>\n<head><title>Welcome to nginx!</title></head>\n<body><h1>Welcome to nginx!</h1></body>\n</html>\n',
  },
  'var/log/nginx/access.log': { link: '/dev/stdout' },
  'var/log/nginx/error.log': { link: '/dev/stderr' },
};

const recipes: Record<LayerName, () => Promise<LayerRecipe>> = {
  pause: cProgram('pause.c', 'pause', 0o755),
  'effective-uid': cProgram('effective-uid.c', 'usr/local/bin/nnp', 0o4755),
  busybox,
  debian,
  coredns: goProgram('coredns'),
  'regression-issue-74839': goProgram('regression-issue-74839'),
  agnhost,
  kitten: picture('kitten'),
  nautilus: picture('nautilus'),
  nginx: async () => ({ key: JSON.stringify(nginxFiles), build: (root) => writeFiles(root, nginxFiles) }),
};

/** The layer, made when the cache has none of this recipe. Needs root: layers hold files of several owners. */
export const ensureLayer = async (name: LayerName): Promise<Layer> => {
  const recipe = await recipes[name]();
  const key = createHash('sha256')
    .update(JSON.stringify([recipeVersion, process.arch, name, recipe.key]))
    .digest('hex')
    .slice(0, 12);
  const home = join(cacheRoot(), 'lab', 'images', 'layers', `${name}-${key}`);
  await makeOnce(home, async (folder) => {
    const startedAt = performance.now();
    say(`making image layer ${name}`);
    const root = join(folder, 'root');
    const tar = join(folder, 'layer.tar');
    await mkdir(root, { mode: 0o755 });
    await recipe.build(root, tar);
    const { digest, size } = await packOrRead(root, tar);
    await rm(root, { recursive: true, force: true });
    await writeFile(join(folder, 'layer.json'), JSON.stringify({ digest, size }));
    say(`made image layer ${name} (${(size / 1e6).toFixed(1)} MB) in ${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
  });
  const { digest, size } = JSON.parse(await readFile(join(home, 'layer.json'), 'utf8')) as { digest: string; size: number };
  return { file: join(home, 'layer.tar'), digest, size };
};

const packOrRead = (root: string, tar: string): Promise<Layer> => (existsSync(tar) ? readLayer(tar) : packLayer(root, tar));
