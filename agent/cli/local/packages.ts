import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { AgentError } from '../../base/errors.ts';
import { findTool, runTool } from './tool.ts';

/** The programs that a standalone node needs, by path. */
export interface Programs {
  readonly containerd: string;
  readonly ctr: string;
  readonly runc: string;
  readonly ip: string;
  /** Folder of the CNI plugins. */
  readonly cniBinDir: string;
  /** containerd's major version. */
  readonly containerdMajor: number;
  readonly containerdVersion: string;
}

const cniFolders = ['/opt/cni/bin', '/usr/lib/cni', '/usr/libexec/cni'];
const cniPlugins = ['bridge', 'host-local', 'loopback'];

const findCni = (): string | undefined => cniFolders.find((folder) => cniPlugins.every((plugin) => existsSync(join(folder, plugin))));

/** Each Debian package with how to see that what it brings is there. */
const needs: readonly { readonly name: string; readonly package: string; readonly present: () => boolean }[] = [
  { name: 'containerd', package: 'containerd', present: () => findTool('containerd') !== undefined && findTool('ctr') !== undefined },
  { name: 'runc', package: 'runc', present: () => findTool('runc') !== undefined },
  { name: 'CNI plugins', package: 'containernetworking-plugins', present: () => findCni() !== undefined },
  { name: 'nftables', package: 'nftables', present: () => findTool('nft') !== undefined },
  { name: 'ip', package: 'iproute2', present: () => findTool('ip') !== undefined },
];

/** What of it all is not installed. */
export function missingPackages(): string[] {
  return needs.filter((need) => !need.present()).map((need) => need.package);
}

/** Installs Debian packages. Throws AgentError with what to do by hand. */
export async function installPackages(names: readonly string[], signal: AbortSignal): Promise<void> {
  if (findTool('apt-get') === undefined)
    throw new AgentError(
      'NotSupported',
      `not installed: ${names.join(', ')}, and there is no apt-get here: install them with this system's own tools, then run keelson up again`,
    );
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  // Another apt may be at work: wait for it.
  const apt = ['apt-get', '-qq', '-o', 'DPkg::Lock::Timeout=300'];
  const install = [...apt, 'install', '-y', '--no-install-recommends', ...names];
  try {
    await runTool(install, signal, { env });
  } catch (error) {
    if (signal.aborted) throw error;
    // Lists that are missing or old: a fresh image has none.
    await runTool([...apt, 'update'], signal, { env });
    await runTool(install, signal, { env });
  }
  const still = missingPackages().filter((name) => names.includes(name));
  if (still.length > 0)
    throw new AgentError('ToolFailed', `apt-get installed ${still.join(', ')}, but the programs are not in ${process.env.PATH}`);
}

/** Where everything is. Throws AgentError NotFound when something is missing. */
export async function findPrograms(signal: AbortSignal): Promise<Programs> {
  const need = (name: string): string => {
    const found = findTool(name);
    if (found === undefined) throw new AgentError('NotFound', `${name} is not installed`);
    return found;
  };
  const cniBinDir = findCni();
  if (cniBinDir === undefined) throw new AgentError('NotFound', `no CNI plugins (${cniPlugins.join(', ')}) in ${cniFolders.join(', ')}`);
  const containerd = need('containerd');
  const text = await runTool([containerd, '--version'], signal);
  const version = parseContainerdVersion(text);
  if (version === undefined) throw new AgentError('NotSupported', `cannot read the version of ${containerd}: ${text.trim()}`);
  const containerdMajor = Number(version.split('.')[0]);
  return { containerd, ctr: need('ctr'), runc: need('runc'), ip: need('ip'), cniBinDir, containerdMajor, containerdVersion: version };
}

/** "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1" → "1.6.20"; "v2.1.9" → "2.1.9". */
export function parseContainerdVersion(text: string): string | undefined {
  return /\bv?(\d+\.\d+\.\d+)/.exec(text)?.[1];
}
