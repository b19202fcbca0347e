import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { AgentError } from '../../base/errors.ts';
import { writeAtomically } from '../../drivers/files/atomic.ts';
import { standalone } from './paths.ts';
import { runTool } from './tool.ts';

/** An IPv4 range as its first and last address. */
function rangeOf(cidr: string): { first: number; last: number } | undefined {
  const match = /^(\d+)\.(\d+)\.(\d+)\.(\d+)(?:\/(\d+))?$/.exec(cidr);
  if (match === null) return undefined;
  const [a = 0, b = 0, c = 0, d = 0] = match.slice(1, 5).map(Number);
  const size = 2 ** (32 - Number(match[5] ?? 32));
  const address = ((a * 256 + b) * 256 + c) * 256 + d;
  const first = Math.floor(address / size) * size;
  return { first, last: first + size - 1 };
}

const candidates = ['10.199.77.0/24', '172.29.177.0/24', '192.168.177.0/24', '10.211.113.0/24'];

/** The first range for pods that no route of this machine touches. `routes` are destinations as `ip route` tells them. Throws AgentError Conflict. */
export function chooseSubnet(routes: readonly string[]): string {
  const taken = routes.map(rangeOf).filter((range) => range !== undefined);
  const free = candidates.find((candidate) => {
    const own = rangeOf(candidate);
    return own !== undefined && taken.every((range) => range.last < own.first || range.first > own.last);
  });
  if (free === undefined)
    throw new AgentError('Conflict', `this machine has routes into every range that pods could use: ${candidates.join(', ')}`);
  return free;
}

/** Makes the pods' bridge with its address, unless it is there; resolves to the pods' range. */
export async function ensureBridge(ip: string, known: string | undefined, signal: AbortSignal): Promise<string> {
  const { bridge } = standalone;
  const subnet = known ?? chooseSubnet(await routesOf(ip, signal));
  if (!existsSync(`/sys/class/net/${bridge}`)) await runTool([ip, 'link', 'add', bridge, 'type', 'bridge'], signal);
  const address = `${subnet.replace(/\.0\/24$/, '.1')}/24`;
  await runTool([ip, 'address', 'replace', address, 'dev', bridge], signal);
  await runTool([ip, 'link', 'set', bridge, 'up'], signal);
  return subnet;
}

async function routesOf(ip: string, signal: AbortSignal): Promise<string[]> {
  const routes = JSON.parse((await runTool([ip, '-json', '-4', 'route', 'show', 'table', 'all'], signal)) || '[]') as { dst?: string }[];
  return routes.map(({ dst }) => dst ?? '').filter((dst) => dst !== '' && dst !== 'default');
}

/**
 * The pods' network for containerd: addresses on our bridge, reachable from this machine and each other. No default route and no masquerading: nothing of
 * the machine's own network (forwarding, firewall) is changed, and nothing a pod sends leaves the machine.
 */
export async function writeCniConfig(subnet: string): Promise<void> {
  const config = {
    cniVersion: '0.4.0',
    name: 'keelson',
    plugins: [
      {
        type: 'bridge',
        bridge: standalone.bridge,
        hairpinMode: true,
        ipam: { type: 'host-local', dataDir: standalone.cniDataDir, ranges: [[{ subnet }]] },
      },
    ],
  };
  const path = join(standalone.cniConfDir, '10-keelson.conflist');
  await writeAtomically(path, `${JSON.stringify(config, undefined, 2)}\n`, { mode: 0o644 });
}

export async function removeBridge(ip: string, signal: AbortSignal): Promise<void> {
  if (existsSync(`/sys/class/net/${standalone.bridge}`)) await runTool([ip, 'link', 'delete', standalone.bridge], signal);
}
