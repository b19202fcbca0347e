// Network namespaces for packet tests of the proxy: a node with two pods, another node with a pod on it,
// and somebody outside, on one wire. Needs root; nothing of it touches the machine's own network.
import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { NetworkFiles } from '../../proxy/backends/localnet.ts';
import type { PeerAnswer, PeerRequest } from './peer.ts';

export type Place = 'node' | 'pod-a' | 'pod-b' | 'far' | 'outside';

export const addresses = {
  node: '172.30.0.2',
  'pod-a': '10.244.1.10',
  'pod-b': '10.244.1.11',
  far: '172.30.0.3',
  'far-pod': '10.244.2.10',
  outside: '198.51.100.5',
  guest: '203.0.113.9',
} as const;

export const addresses6 = {
  node: 'fd30::2',
  'pod-a': 'fd44:1::10',
  'pod-b': 'fd44:1::11',
  far: 'fd30::3',
  'far-pod': 'fd44:2::10',
  outside: 'fd98::5',
} as const;

export interface Network extends AsyncDisposable {
  /** The command that runs what follows in a namespace. */
  inside(place: Place): string[];
  /** The file of a namespace. */
  namespace(place: Place): string;
  run(place: Place, ...argv: string[]): string;
  ask(place: Place, request: PeerRequest): Promise<readonly PeerAnswer[]>;
}

/** Files of the node's namespace. */
export function networkFiles(network: Network): NetworkFiles {
  return {
    read: async (path) => network.run('node', 'cat', path),
    write: async (path, text) => void network.run('node', 'sh', '-c', `echo ${text} > ${path}`),
  };
}

const places: readonly Place[] = ['node', 'pod-a', 'pod-b', 'far', 'outside'];

export async function createNetwork(): Promise<Network> {
  const name = (place: string): string => `kx${process.pid}-${place}`;
  const sh = (script: string): void => void execFileSync('sh', ['-ec', script], { stdio: ['ignore', 'ignore', 'inherit'] });
  const all = [...places, 'wire'].map(name);
  const peers = new Map<Place, Peer>();
  const end = (): void => {
    for (const peer of peers.values()) peer.child.kill('SIGKILL');
    for (const each of all) sh(`ip netns del ${each} 2>/dev/null || true`);
  };
  try {
    sh(
      all
        .map(
          (each) =>
            `ip netns add ${each}; ip -n ${each} link set lo up; ip netns exec ${each} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0`,
        )
        .join('\n'),
    );
    sh(wireScript(name));
    for (const place of places) peers.set(place, startPeer(name(place)));
  } catch (error) {
    end();
    throw error;
  }
  return {
    inside: (place) => ['ip', 'netns', 'exec', name(place)],
    namespace: (place) => `/run/netns/${name(place)}`,
    run: (place, ...argv) => execFileSync('ip', ['netns', 'exec', name(place), ...argv], { encoding: 'utf8' }),
    ask: async (place, request) => await (peers.get(place) as Peer).ask(request),
    [Symbol.asyncDispose]: async () => end(),
  };
}

/** A veth pair from a namespace to another one, `e0` in the second. */
const link = (from: string, device: string, to: string): string =>
  `ip -n ${from} link add ${device} type veth peer name e0 netns ${to}; ip -n ${from} link set ${device} up; ip -n ${to} link set e0 up`;

function wireScript(name: (place: string) => string): string {
  const [node, a, b, far, outside, wire] = [...places, 'wire'].map(name);
  const add = (place: string | undefined, ...given: string[]): string[] =>
    given.map((each) => `ip -n ${place} addr add ${each} dev e0${each.includes(':') ? ' nodad' : ''}`);
  const route = (place: string | undefined, ...given: string[]): string[] => given.map((each) => `ip -n ${place} route add ${each}`);
  return [
    `ip -n ${wire} link add br0 type bridge; ip -n ${wire} addr add 172.30.0.1/24 dev br0; ip -n ${wire} link set br0 up`,
    ...[node, far, outside].map(
      (place, index) => `${link(wire ?? '', `port${index}`, place ?? '')}; ip -n ${wire} link set port${index} master br0`,
    ),
    // A link a pod, routed: on a common bridge answers would go past the node's translation.
    ...[a, b].flatMap((place, index) => [
      link(node ?? '', `veth${index}`, place ?? ''),
      `ip -n ${node} addr add 10.244.1.1/32 dev veth${index}; ip -n ${node} addr add fe80::1/64 dev veth${index} nodad`,
      `ip -n ${node} route add 10.244.1.1${index}/32 dev veth${index}; ip -n ${node} route add fd44:1::1${index}/128 dev veth${index}`,
    ]),
    ...add(node, '172.30.0.2/24', 'fd30::2/64'),
    ...add(far, '172.30.0.3/24', 'fd30::3/64', '10.244.2.10/32', 'fd44:2::10/128'),
    ...add(outside, '198.51.100.5/32', '203.0.113.9/32', 'fd98::5/128'),
    ...add(a, '10.244.1.10/32', 'fd44:1::10/128'),
    ...add(b, '10.244.1.11/32', 'fd44:1::11/128'),
    ...[a, b].flatMap((place) => route(place, '10.244.1.1/32 dev e0', 'default via 10.244.1.1', 'default via fe80::1 dev e0')),
    ...route(
      node,
      'default via 172.30.0.1',
      '198.51.100.0/24 dev e0',
      '203.0.113.0/24 dev e0',
      '10.244.2.0/24 via 172.30.0.3',
      'fd98::/64 dev e0',
      'fd44:2::/64 via fd30::3',
      'default via fd30::1',
    ),
    ...route(
      far,
      '198.51.100.0/24 dev e0',
      '203.0.113.0/24 dev e0',
      '10.244.1.0/24 via 172.30.0.2',
      'fd98::/64 dev e0',
      'fd44:1::/64 via fd30::2',
    ),
    ...route(outside, '172.30.0.0/24 dev e0', 'default via 172.30.0.2', 'fd30::/64 dev e0', 'default via fd30::2'),
    `ip netns exec ${node} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.e0.rp_filter=0 net.ipv4.conf.veth0.rp_filter=0 net.ipv4.conf.veth1.rp_filter=0`,
  ].join('\n');
}

interface Peer {
  readonly child: ChildProcessWithoutNullStreams;
  ask(request: PeerRequest): Promise<readonly PeerAnswer[]>;
}

function startPeer(namespace: string): Peer {
  const script = `${import.meta.dirname}/peer.ts`;
  const child = spawn('ip', ['netns', 'exec', namespace, process.execPath, script]);
  child.stderr.pipe(process.stderr);
  const waiting = new Map<number, { resolve: (answers: readonly PeerAnswer[]) => void; reject: (error: Error) => void }>();
  let last = 0;
  createInterface({ input: child.stdout }).on('line', (line) => {
    const { id, answers, error } = JSON.parse(line) as { id: number; answers: PeerAnswer[]; error?: string };
    if (error === undefined) waiting.get(id)?.resolve(answers);
    else waiting.get(id)?.reject(new Error(error));
    waiting.delete(id);
  });
  return {
    child,
    ask: (request) =>
      new Promise((resolve, reject) => {
        const id = ++last;
        waiting.set(id, { resolve, reject });
        child.stdin.write(`${JSON.stringify({ id, request })}\n`);
      }),
  };
}
