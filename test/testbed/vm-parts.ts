// What a virtual machine is started from: an emulator, a disk with Debian 13, and a drive with the programs under test. All from Debian's packages and the
// test bed's own builds, made once into the cache and keyed by recipe.
import { createHash } from 'node:crypto';
import { chmod, cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { ensureBinary } from './binaries.ts';
import { ensureImages } from './images.ts';
import { cacheRoot, ensureTools, makeOnce, openSuite, run, say } from './images-debian.ts';
import { ensureRuntime } from './runtimes.ts';

const repository = resolve(import.meta.dirname, '../..');
const home = (): string => join(cacheRoot(), 'lab', 'vm');
const keyOf = (recipe: unknown): string => createHash('sha256').update(JSON.stringify(recipe)).digest('hex').slice(0, 12);

const bootstrap = async (options: readonly string[], packages: readonly string[], folder: string): Promise<void> => {
  await ensureTools({ mmdebstrap: 'mmdebstrap', 'mkfs.ext4': 'e2fsprogs' });
  // Fresh, because a mirror drops the files of versions it no longer lists.
  const { sourcesFile } = await openSuite('trixie', { refresh: true });
  const all = ['--quiet', ...options, '--aptopt=Apt::Install-Recommends "0"', `--include=${packages.join(',')}`];
  // In a mount namespace of its own: what it mounts below the folder (/proc, /dev) is gone with it, also when it is killed.
  await run('unshare', ['--mount', 'mmdebstrap', ...all, 'trixie', folder, sourcesFile]);
};

/** An ext4 file system of this size in a sparse file, with the folder's content. */
const makeDisk = async (folder: string, file: string, megabytes: number): Promise<void> => {
  await run('truncate', ['-s', `${megabytes}M`, file]);
  await run('mkfs.ext4', ['-q', '-F', '-O', '^has_journal', '-E', 'lazy_itable_init=0', '-d', folder, file]);
};

// ------------------------------------------------------------------------------------------------------------------ the emulator

/** The start of QEMU's command line: Debian 13's QEMU 10 on its own libraries, not installed. Debian 12's QEMU 7.2 panics its guests now and then. */
export const ensureQemu = async (): Promise<string[]> => {
  const packages = ['qemu-system-x86', 'seabios'];
  const root = await makeOnce(join(home(), `qemu-${keyOf(packages)}`), async (folder) => {
    say('unpacking QEMU of Debian 13');
    await chmod(folder, 0o755);
    // Only unpacked: no maintainer script runs.
    await bootstrap(['--variant=extract'], packages, folder);
  });
  const libraries = `${root}/usr/lib/x86_64-linux-gnu`;
  return [
    `${root}/usr/lib64/ld-linux-x86-64.so.2`,
    ...['--library-path', libraries],
    `${root}/usr/bin/qemu-system-x86_64`,
    ...['-L', `${root}/usr/share/qemu`, '-L', `${root}/usr/share/seabios`],
  ];
};

// ------------------------------------------------------------------------------------------------------------------ the system disk

const packages = [
  ...['systemd', 'systemd-sysv', 'dbus', 'udev', 'kmod', 'linux-image-amd64', 'initramfs-tools'],
  ...['containerd', 'runc', 'containernetworking-plugins', 'nftables', 'iptables', 'conntrack', 'ipvsadm', 'iproute2'],
  ...['procps', 'util-linux', 'mount', 'busybox-static', 'curl', 'qemu-guest-agent', 'ca-certificates'],
];

// In the guest's initial RAM disk: what the root needs to be mounted, and nothing else, for emulated CPUs unpack it.
const initramfs = 'virtio_pci\\nvirtio_blk\\next4\\n';

const systemFiles: Record<string, string> = {
  'etc/hostname': 'machine\n',
  'etc/hosts': '127.0.0.1 localhost machine\n',
  'etc/resolv.conf': 'nameserver 127.0.0.1\n',
  // Not empty: systemd would take that for a first boot.
  'etc/machine-id': '6b65656c736f6e2d746573742d766d00\n',
  'etc/systemd/journald.conf.d/vm.conf': '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n',
  // It would log every question.
  'etc/systemd/system/qemu-guest-agent.service.d/quiet.conf': '[Service]\nLogLevelMax=warning\n',
  // What systemd looks at to see whether /etc and /var are older than /usr, and things have to be made anew.
  'etc/.updated': '',
  'var/.updated': '',
  // Pods find a default route; no packet of theirs gets anywhere.
  'etc/systemd/system/closed-network.service': `[Unit]
Before=containerd.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'ip link set lo up; ip link add closed0 type dummy && ip addr add 172.30.0.2/24 dev closed0 && ip link set closed0 up && ip route add default dev closed0'
ExecStart=/sbin/sysctl -q -w net.ipv4.ip_forward=1
[Install]
WantedBy=multi-user.target
`,
  'etc/systemd/system/opt-parts.mount':
    '[Mount]\nWhat=LABEL=parts\nWhere=/opt/parts\nType=ext4\nOptions=ro\n[Install]\nWantedBy=multi-user.target\n',
  'etc/systemd/system/opt-keelson.mount':
    '[Mount]\nWhat=LABEL=source\nWhere=/opt/keelson\nType=ext4\n[Install]\nWantedBy=multi-user.target\n',
};

const units = ['closed-network.service', 'opt-parts.mount', 'opt-keelson.mount'];
// They would cost time at each boot, or start what a test wants to start itself.
const masked = [
  'containerd.service',
  'nftables.service',
  'ipvsadm.service',
  'apt-daily.timer',
  'apt-daily-upgrade.timer',
  'dpkg-db-backup.timer',
  'getty@tty1.service',
  'serial-getty@ttyS0.service',
  'modprobe@drm.service',
  'ldconfig.service',
];
const excluded = ['/usr/share/doc/*', '/usr/share/man/*', '/usr/share/locale/*', '/usr/share/info/*'];

export interface SystemDisk {
  readonly disk: string;
  readonly kernel: string;
  readonly initrd: string;
}

/** Debian 13 with systemd, a kernel and container programs. */
export const ensureSystemDisk = async (): Promise<SystemDisk> => {
  const options = [
    '--variant=minbase',
    '--dpkgopt=force-unsafe-io',
    ...excluded.map((path) => `--dpkgopt=path-exclude=${path}`),
    // Before any package is configured: the kernel's makes the RAM disk.
    `--essential-hook=mkdir -p "$1/etc/initramfs-tools/conf.d" && echo MODULES=list > "$1/etc/initramfs-tools/conf.d/vm" && printf '${initramfs}' > "$1/etc/initramfs-tools/modules"`,
  ];
  const recipe = [options, packages, systemFiles, units, masked];
  const folder = await makeOnce(join(home(), `system-${keyOf(recipe)}`), async (into) => {
    say('making the disk of the virtual machine: Debian 13 with systemd, a kernel and containerd (a minute or two)');
    const root = join(into, 'root');
    await bootstrap(options, packages, root);
    for (const [path, text] of Object.entries(systemFiles)) {
      await mkdir(dirname(join(root, path)), { recursive: true });
      await rm(join(root, path), { force: true });
      await writeFile(join(root, path), text);
    }
    await mkdir(join(root, 'opt/parts'), { recursive: true });
    await mkdir(join(root, 'opt/keelson'), { recursive: true });
    await run('systemctl', ['--root', root, '--quiet', 'enable', ...units]).catch(() =>
      run('chroot', [root, 'systemctl', '--quiet', 'enable', ...units]),
    );
    await run('chroot', [root, 'systemctl', '--quiet', 'mask', ...masked]);
    for (const [from, to] of [
      ['vmlinuz-', 'kernel'],
      ['initrd.img-', 'initrd'],
    ] as const) {
      const name = (await readdir(join(root, 'boot'))).find((each) => each.startsWith(from));
      if (name === undefined) throw new Error(`Debian's kernel package left no boot/${from}*`);
      await cp(join(root, 'boot', name), join(into, to));
    }
    await makeDisk(root, join(into, 'disk.img'), 4096);
    await rm(root, { recursive: true, force: true });
  });
  return { disk: join(folder, 'disk.img'), kernel: join(folder, 'kernel'), initrd: join(folder, 'initrd') };
};

// ------------------------------------------------------------------------------------------------------------------ the programs under test

interface Lock {
  readonly packages: Record<string, { readonly dev?: boolean; readonly devOptional?: boolean; readonly integrity?: string }>;
}

/**
 * A drive with what tests run beside the agent, mounted at /opt/parts in the guest: `node/bin/node`, `node_modules` (those that a release has), `kubelet`,
 * `containerd-2/usr/bin` and `images` (tars for `ctr images import`).
 */
export const ensurePartsDisk = async (): Promise<string> => {
  const lock = JSON.parse(await readFile(join(repository, 'package-lock.json'), 'utf8')) as Lock;
  const modules = Object.entries(lock.packages).filter(
    ([path, { dev, devOptional }]) => path !== '' && dev !== true && devOptional !== true,
  );
  const kubelet = await ensureBinary('kubelet');
  const runtime = await ensureRuntime('containerd-2');
  const images = await ensureImages(['busybox', 'pause']);
  const key = keyOf([process.version, modules, kubelet, runtime, images]);
  const folder = await makeOnce(join(home(), `parts-${key}`), async (into) => {
    const root = join(into, 'root');
    const copy = async (from: string, to: string): Promise<void> => {
      await mkdir(dirname(join(root, to)), { recursive: true });
      await cp(from, join(root, to), { recursive: true, dereference: false });
    };
    await copy(process.execPath, 'node/bin/node');
    await copy(kubelet, 'kubelet');
    for (const program of ['containerd', 'containerd-shim-runc-v2', 'ctr'])
      await copy(join(dirname(runtime.containerd), program), `containerd-2/usr/bin/${program}`);
    for (const [path] of modules) {
      // Packages of other platforms are in the lock file and not here.
      const there = await readdir(join(repository, path)).catch(() => undefined);
      if (there !== undefined) await copy(join(repository, path), path);
    }
    for (const [i, image] of images.entries()) await copy(image, `images/${i}.tar`);
    await makeDisk(root, join(into, 'disk.img'), 1024);
    await run('e2label', [join(into, 'disk.img'), 'parts']);
    await rm(root, { recursive: true, force: true });
  });
  return join(folder, 'disk.img');
};

/** A drive with this checkout as it is now, mounted at /opt/keelson in the guest; its node_modules are those of /opt/parts. Made anew each time. */
export const makeSourceDisk = async (file: string): Promise<void> => {
  const folder = await mkdtemp(`${file}-`);
  try {
    const listed = await run('git', ['ls-files', '-co', '--exclude-standard', '-z'], { cwd: repository });
    for (const path of listed.split('\0').filter((each) => each !== '' && !each.startsWith('docs/'))) {
      await mkdir(dirname(join(folder, path)), { recursive: true });
      // A file that was deleted and not committed yet is still listed.
      await cp(join(repository, path), join(folder, path)).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error;
      });
    }
    await run('ln', ['-s', '/opt/parts/node_modules', join(folder, 'node_modules')]);
    await rm(file, { force: true });
    await makeDisk(folder, file, 64);
    await run('e2label', [file, 'source']);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};
