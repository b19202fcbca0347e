import { lookup } from 'node:dns/promises';
import { access, readdir, readFile, statfs } from 'node:fs/promises';
import os from 'node:os';
import { AgentError, messageOf } from '../../base/errors.ts';
import { countCpuList, countProcessors, type DefaultRoute, parseDefaultRoutes, parseMeminfo, parseOsName } from './parse.ts';

/** What a machine is and has, at one moment. Sizes are bytes. */
export interface MachineFacts {
  /** CPUs that are online. */
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly swapBytes: number;
  readonly hugePages: readonly { readonly pageBytes: number; readonly totalBytes: number }[];
  /** How many processes and threads the kernel allows. */
  readonly maxPids: number;
  /** Size of the filesystem that pods' files are on; undefined when it can't be told. */
  readonly storageBytes: number | undefined;
  /** Empty where the machine has none. */
  readonly machineId: string;
  readonly systemUuid: string;
  readonly bootId: string;
  readonly kernelVersion: string;
  readonly osImage: string;
  /** As Go names it: amd64, arm64, … */
  readonly architecture: string;
  /** When the machine started, in ms since the Unix epoch. */
  readonly bootTime: number;
}

/** The addresses of an interface that is up. */
export interface InterfaceAddress {
  readonly interface: string;
  readonly address: string;
  readonly family: 4 | 6;
}

/** What the choice of a node's address needs. */
export interface NetworkFacts {
  readonly addresses: readonly InterfaceAddress[];
  readonly defaultRoutes: readonly DefaultRoute[];
}

// Node's names of processors → Go's, which Kubernetes uses.
const architectures: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386', ppc64: 'ppc64le' };

/** The first of these files that can be read, trimmed of white space and NULs; undefined when none can. */
async function firstOf(paths: readonly string[]): Promise<string | undefined> {
  for (const path of paths) {
    try {
      return (await readFile(path, 'utf8')).replaceAll('\0', '').trim();
    } catch {
      // Absence is ordinary: each machine has but some of them.
    }
  }
  return undefined;
}

async function required(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new AgentError('MachineFacts', `cannot read ${path}: ${messageOf(error)}`, { cause: error });
  }
}

/** The folders of the heat counters of this machine's CPUs, those that are offline included; most virtual machines have none. */
export async function thermalThrottles(cpus = '/sys/devices/system/cpu'): Promise<string[]> {
  const names = (await readdir(cpus).catch(() => [])).filter((name) => /^cpu\d+$/.test(name));
  const folders = names.sort((a, b) => Number(a.slice(3)) - Number(b.slice(3))).map((name) => `${cpus}/${name}/thermal_throttle`);
  const there = await Promise.all(
    folders.map((folder) =>
      access(folder).then(
        () => true,
        () => false,
      ),
    ),
  );
  return folders.filter((_, i) => there[i]);
}

/** True when the kernel enforces AppArmor profiles. */
export async function hasAppArmor(): Promise<boolean> {
  // The folder is there when securityfs is mounted and the module is built in; the parameter says whether it is on.
  const [enabled, folder] = await Promise.all([
    firstOf(['/sys/module/apparmor/parameters/enabled']),
    readdir('/sys/kernel/security/apparmor').catch(() => undefined),
  ]);
  return folder !== undefined && enabled === 'Y';
}

/**
 * Reads the machine's facts; pods' files are on the filesystem of `rootDir`, which exists. Throws AgentError MachineFacts naming what /proc lacks.
 */
export async function readMachine(rootDir: string): Promise<MachineFacts> {
  const [meminfo, online, cpuinfo, osRelease, machineId, systemUuid, bootId, hugePages, pidMax, threadsMax, storageBytes, uptime] =
    await Promise.all([
      required('/proc/meminfo'),
      firstOf(['/sys/devices/system/cpu/online']),
      required('/proc/cpuinfo'),
      firstOf(['/etc/os-release', '/usr/lib/os-release']),
      firstOf(['/etc/machine-id', '/var/lib/dbus/machine-id']),
      // As cAdvisor looks for it: x86 and arm servers, POWER, IBM Z, and the machine-id where there is nothing else.
      firstOf(['/sys/class/dmi/id/product_uuid', '/proc/device-tree/system-id', '/proc/device-tree/vm,uuid', '/etc/machine-id']),
      firstOf(['/proc/sys/kernel/random/boot_id']),
      readHugePages(),
      firstOf(['/proc/sys/kernel/pid_max']),
      firstOf(['/proc/sys/kernel/threads-max']),
      readStorageBytes(rootDir),
      required('/proc/stat'),
    ]);
  const { totalBytes, swapTotalBytes } = parseMeminfo(meminfo);
  if (totalBytes === undefined) throw new AgentError('MachineFacts', '/proc/meminfo has no MemTotal');
  const cpus = countCpuList(online ?? '') || countProcessors(cpuinfo);
  const limits = [Number(pidMax), Number(threadsMax)].filter((limit) => limit > 0);
  return {
    cpus,
    memoryBytes: totalBytes,
    swapBytes: swapTotalBytes,
    hugePages,
    maxPids: limits.length === 0 ? 32768 : Math.min(...limits),
    storageBytes,
    machineId: machineId ?? '',
    systemUuid: systemUuid ?? '',
    bootId: bootId ?? '',
    kernelVersion: os.release(),
    osImage: parseOsName(osRelease ?? ''),
    architecture: architectures[os.arch()] ?? os.arch(),
    bootTime: Number(/^btime (\d+)$/m.exec(uptime)?.[1] ?? 0) * 1000,
  };
}

async function readHugePages(): Promise<MachineFacts['hugePages']> {
  const folder = '/sys/kernel/mm/hugepages';
  let names: string[];
  try {
    names = await readdir(folder);
  } catch {
    // A kernel without huge pages has no such folder.
    return [];
  }
  const pages = await Promise.all(
    names.sort().map(async (name) => {
      const kib = Number(/^hugepages-(\d+)kB$/.exec(name)?.[1]);
      const count = Number((await firstOf([`${folder}/${name}/nr_hugepages`])) ?? 0);
      return { pageBytes: kib * 1024, totalBytes: kib * 1024 * count };
    }),
  );
  return pages.filter((page) => page.pageBytes > 0);
}

async function readStorageBytes(rootDir: string): Promise<number | undefined> {
  try {
    const { blocks, bsize } = await statfs(rootDir);
    return blocks * bsize;
  } catch {
    // The node says so by its Ready condition: "missing node capacity for resources".
    return undefined;
  }
}

/** Addresses of the interfaces that are up, and the default routes of this network namespace. */
export async function readNetwork(): Promise<NetworkFacts> {
  const addresses = Object.entries(os.networkInterfaces()).flatMap(([name, entries]) =>
    (entries ?? []).map(
      (entry): InterfaceAddress => ({ interface: name, address: entry.address, family: entry.family === 'IPv6' ? 6 : 4 }),
    ),
  );
  const [ipv4, ipv6] = await Promise.all([firstOf(['/proc/net/route']), firstOf(['/proc/net/ipv6_route'])]);
  return { addresses, defaultRoutes: parseDefaultRoutes(ipv4 ?? '', ipv6 ?? '') };
}

/** The addresses that a host name resolves to, in the resolver's order; none when it doesn't. Can take as long as the resolver's timeouts. */
export async function resolveHost(name: string): Promise<string[]> {
  try {
    return (await lookup(name, { all: true, order: 'verbatim' })).map((entry) => entry.address);
  } catch {
    // A host name that only its own machine knows is common; the address then comes from the default route.
    return [];
  }
}

/** The machine's host name as kubelet takes it: trimmed, lower case. */
export function hostName(): string {
  return os.hostname().trim().toLowerCase();
}
