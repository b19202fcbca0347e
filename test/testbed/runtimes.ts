// The container runtimes nodes are tested on: containerd 1.6 (Debian 12's) and 2.x (sid's), unpacked beside each other in the cache, never installed.
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ensureBinary } from './binaries.ts';
import { cacheRoot, makeOnce, openSuite, run, say, withLock } from './images-debian.ts';

export type RuntimeKind = 'containerd-1.6' | 'containerd-2';

/** Paths of one unpacked runtime. `shimDir` holds `containerd-shim-runc-v2`; `version` is upstream's, e.g. "2.1.9". */
export type Runtime = {
  kind: RuntimeKind;
  containerd: string;
  ctr: string;
  runc: string;
  shimDir: string;
  cniBinDir: string;
  version: string;
};

/** Pods with users of their own need runc 1.2 on containerd 2; Debian 12's is 1.1, and sid's wants a newer glibc: that runtime gets one built here. */
const describe = async (kind: RuntimeKind, home: string, version: string): Promise<Runtime> => ({
  kind,
  containerd: join(home, 'usr/bin/containerd'),
  ctr: join(home, 'usr/bin/ctr'),
  runc: kind === 'containerd-2' ? await ensureBinary('runc') : join(home, 'usr/sbin/runc'),
  shimDir: join(home, 'usr/bin'),
  cniBinDir: join(home, 'usr/lib/cni'),
  version,
});

/** "1.6.20~ds1-1+deb12u3" → "1.6.20". */
export const upstreamVersion = (debianVersion: string): string => debianVersion.replace(/^\d+:/, '').replace(/[~+-].*$/, '');

/**
 * Makes sure that containerd, runc and the CNI plugins of `kind` lie in the cache and says where. Once there, nothing is downloaded or looked up.
 * Safe to call from several processes at once.
 */
export const ensureRuntime = async (kind: RuntimeKind): Promise<Runtime> => {
  const home = join(cacheRoot(), 'lab', 'runtimes');
  await mkdir(home, { recursive: true });
  const cached = async (): Promise<Runtime | undefined> => {
    const versions = (await readdir(home)).filter((name) => name.startsWith(`${kind}-`) && !name.endsWith('.lock')).sort();
    const folder = versions.at(-1);
    if (folder === undefined) return undefined;
    return await describe(kind, join(home, folder), (await readFile(join(home, folder, 'version'), 'utf8')).trim());
  };
  return (
    (await cached()) ??
    withLock(join(home, `${kind}.lock`), async () => {
      const made = await cached();
      if (made !== undefined) return made;
      const bookworm = await openSuite('bookworm');
      const suite = kind === 'containerd-2' ? await openSuite('sid') : bookworm;
      const version = upstreamVersion(await suite.version('containerd'));
      say(`unpacking containerd ${version} and the CNI plugins`);
      const folder = await makeOnce(join(home, `${kind}-${version}`), async (into) => {
        await suite.unpack('containerd', into);
        if (kind !== 'containerd-2') await bookworm.unpack('runc', into);
        await bookworm.unpack('containernetworking-plugins', into);
        await writeFile(join(into, 'version'), `${version}\n`);
      });
      return describe(kind, folder, version);
    })
  );
};

export type ContainerdOptions = {
  runtime: Runtime;
  /** Images and snapshots; on a file system that can be overlayfs' upper layer. */
  root: string;
  /** Runtime state; config.toml, the debug socket and the pods' network namespaces are here too. */
  state: string;
  /** The CRI and containerd API socket. Keep it under 108 bytes. */
  socket: string;
  cniConfDir: string;
  /** Holds HOST/hosts.toml, see writeCertsDir. */
  certsDir: string;
  /** Cgroup that containerd puts itself in, e.g. "/lab-a/containerd". */
  cgroupPath?: string | undefined;
  /** Name of the network namespace (under /run/netns) containerd runs in. */
  netns?: string | undefined;
  pauseImage: string;
  logFile: string;
  /** Default: config.toml in `state`. */
  configFile?: string | undefined;
  /** Where CDI specs are looked for; containerd 2.x only. Its default is /etc/cdi and /var/run/cdi, which all nodes of a machine share. */
  cdiSpecDirs?: readonly string[] | undefined;
  /** `native` where overlayfs does not work. */
  snapshotter?: 'overlayfs' | 'native' | undefined;
  /** Starts a process that outlives the call. */
  spawn: (argv: string[], options: { logFile: string; env?: Record<string, string> }) => Promise<{ pid: number }>;
};

// Basic strings of TOML take JSON's escapes.
const quote = (text: string): string => JSON.stringify(text);
const list = (texts: readonly string[]): string => `[${texts.map(quote).join(', ')}]`;

/** The name of the runtime handler that upstream's RuntimeClass specs expect a node to have besides the default one (test/e2e/framework/node/runtimeclass). */
export const extraRuntimeHandler = 'test-handler';

/** containerd's config.toml: version 2 for 1.6, version 3 for 2.x, which moved the CRI plugin's settings. */
export const containerdConfig = (options: Omit<ContainerdOptions, 'spawn' | 'logFile'>): string => {
  const { runtime, state } = options;
  const two = runtime.kind === 'containerd-2';
  const images = two ? 'io.containerd.cri.v1.images' : 'io.containerd.grpc.v1.cri';
  const cri = two ? 'io.containerd.cri.v1.runtime' : 'io.containerd.grpc.v1.cri';
  const snapshotter = options.snapshotter ?? 'overlayfs';
  const disabled = [
    'io.containerd.snapshotter.v1.btrfs',
    'io.containerd.snapshotter.v1.zfs',
    'io.containerd.snapshotter.v1.devmapper',
    ...(two
      ? [
          'io.containerd.snapshotter.v1.blockfile',
          'io.containerd.snapshotter.v1.erofs',
          'io.containerd.differ.v1.erofs',
          // Its socket is one fixed path, which two nodes of a machine would fight over.
          'io.containerd.nri.v1.nri',
          'io.containerd.internal.v1.tracing',
          'io.containerd.tracing.processor.v1.otlp',
        ]
      : ['io.containerd.snapshotter.v1.aufs', 'io.containerd.tracing.processor.v1.otlp', 'io.containerd.internal.v1.tracing']),
  ];
  const handler = (name: string): string[] => [
    `[plugins.${quote(cri)}.containerd.runtimes.${name}]`,
    'runtime_type = "io.containerd.runc.v2"',
    `[plugins.${quote(cri)}.containerd.runtimes.${name}.options]`,
    `BinaryName = ${quote(runtime.runc)}`,
    // Default: /run/containerd/runc, where what a killed node leaves would outlive its state folder.
    `Root = ${quote(join(state, 'runc'))}`,
    'SystemdCgroup = false',
  ];
  return [
    `version = ${two ? 3 : 2}`,
    `root = ${quote(options.root)}`,
    `state = ${quote(state)}`,
    `disabled_plugins = ${list(disabled)}`,
    '[grpc]',
    `address = ${quote(options.socket)}`,
    '[debug]',
    `address = ${quote(join(state, 'debug.sock'))}`,
    'level = "info"',
    ...(options.cgroupPath === undefined ? [] : ['[cgroup]', `path = ${quote(options.cgroupPath)}`]),
    '[plugins."io.containerd.internal.v1.opt"]',
    `path = ${quote(join(options.root, 'opt'))}`,
    ...(two
      ? [
          // The CRI plugin wants the verifier plugin to be there; without programs it lets every image pass.
          '[plugins."io.containerd.image-verifier.v1.bindir"]',
          `bin_dir = ${quote(join(options.root, 'verifiers'))}`,
          `[plugins.${quote(images)}]`,
          `snapshotter = ${quote(snapshotter)}`,
          `[plugins.${quote(images)}.pinned_images]`,
          `sandbox = ${quote(options.pauseImage)}`,
        ]
      : []),
    `[plugins.${quote(cri)}]`,
    ...(two
      ? ['enable_cdi = true', `cdi_spec_dirs = ${list(options.cdiSpecDirs ?? ['/etc/cdi', '/var/run/cdi'])}`]
      : [`sandbox_image = ${quote(options.pauseImage)}`]),
    // Without CAP_SYS_RESOURCE an oom_score_adj below our own is refused, and no sandbox (-998) would start.
    'restrict_oom_score_adj = true',
    // /run/netns is shared by every node of a machine.
    'netns_mounts_under_state_dir = true',
    `[plugins.${quote(cri)}.containerd]`,
    ...(two ? [] : [`snapshotter = ${quote(snapshotter)}`]),
    'default_runtime_name = "runc"',
    ...handler('runc'),
    ...handler(extraRuntimeHandler),
    `[plugins.${quote(cri)}.cni]`,
    two ? `bin_dirs = ${list([runtime.cniBinDir])}` : `bin_dir = ${quote(runtime.cniBinDir)}`,
    `conf_dir = ${quote(options.cniConfDir)}`,
    `[plugins.${quote(images)}.registry]`,
    `config_path = ${quote(options.certsDir)}`,
    '',
  ].join('\n');
};

const startDeadlineMs = 30_000;

/**
 * Writes config.toml and starts containerd; resolves when its socket answers and the CRI plugin is up. Restarting over the same root and state adopts
 * what runs. Rejects with the end of its log when it does not come up.
 */
export const startContainerd = async (options: ContainerdOptions): Promise<{ pid: number }> => {
  const { runtime, state, socket, logFile } = options;
  for (const folder of [options.root, state, dirname(socket), options.cniConfDir, options.certsDir, dirname(logFile)])
    await mkdir(folder, { recursive: true });
  const configFile = options.configFile ?? join(state, 'config.toml');
  await mkdir(dirname(configFile), { recursive: true });
  await writeFile(configFile, containerdConfig(options));
  // Not `ip netns exec`: that makes a private mount namespace, and the pods' volume mounts would not reach containerd.
  const enter = options.netns === undefined ? [] : ['nsenter', `--net=/run/netns/${options.netns}`];
  const env = { PATH: [runtime.shimDir, dirname(runtime.runc), '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'].join(':') };
  const started = await options.spawn([...enter, runtime.containerd, '--config', configFile], { logFile, env });
  const giveUpAt = performance.now() + startDeadlineMs;
  for (;;) {
    const trouble = await probe(runtime.ctr, socket);
    if (trouble === undefined) return started;
    if (performance.now() > giveUpAt || !existsSync(`/proc/${started.pid}`)) {
      const log = existsSync(logFile) ? (await readFile(logFile, 'utf8')).trim().split('\n').slice(-15).join('\n') : '(no log)';
      if (existsSync(`/proc/${started.pid}`)) process.kill(started.pid);
      throw new Error(`${runtime.kind} did not come up on ${socket}: ${trouble}\n${log}`);
    }
    await sleep(50);
  }
};

/** Why containerd cannot be used yet; undefined when it can. */
const probe = async (ctr: string, socket: string): Promise<string | undefined> => {
  if (!existsSync(socket)) return 'no socket yet';
  try {
    const plugins = await run(ctr, ['--address', socket, '--timeout', '5s', 'plugins', 'ls']);
    const broken = plugins
      .split('\n')
      .filter((line) => /^io\.containerd\.(grpc\.v1|cri\.v1)\s+(cri|images|runtime)\s.*\berror\s*$/.test(line));
    return broken.length === 0 ? undefined : `CRI plugin failed: ${broken.join('; ')}`;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
};
