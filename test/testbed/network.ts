// The lab's closed network: one namespace for the control plane, one a node, and one outside, joined by a bridge in the outside one. No device is in
// the machine's own namespace, and the outside's default route is a blackhole, so no packet can leave. Labs may use the same addresses: they share nothing.
import { existsSync } from 'node:fs';
import { run } from './images-debian.ts';

export const podSubnets = { v4: '10.244.0.0/16', v6: 'fd00:10:244::/56' };
/**
 * How much of it each node gets: 4094 addresses, more than a suite makes pods. With the usual /24 an address comes back within minutes, and while the
 * node's neighbour table still holds its last owner (the bridge plugin's announcement is lost when the port does not forward yet), the new one cannot be
 * reached for five seconds: a probe that times out after as much has its container killed.
 */
export const podMask = { v4: 20, v6: 64 };
export const serviceSubnets = { v4: '10.96.0.0/16', v6: 'fd00:10:96::/112' };
export const dnsAddress = '10.96.0.10';

const subnets = { v4: '172.30.0.0/24', v6: 'fd00:172:30::/64' };

export type Addresses = { v4: string; v6: string };

const addressOf = (last: number): Addresses => ({ v4: `172.30.0.${last}`, v6: `fd00:172:30::${last}` });

/** The client beyond the nodes, and their default gateway. */
export const outsideAddress = addressOf(1);
export const controlPlaneAddress = addressOf(2);
/** `index` counts from 1. */
export const nodeAddress = (index: number): Addresses => addressOf(10 + index);

/** Name (under /run/netns) of a lab's namespace; `part` is "out", "cp", "n1", … */
export const namespaceOf = (lab: string, part: string): string => `kl-${lab}-${part}`;

const ip = (namespace: string, lines: readonly string[]): Promise<string> =>
  run('ip', ['-netns', namespace, '-batch', '-'], { input: `${lines.join('\n')}\n` });

const sysctl = (namespace: string, values: Record<string, string>): Promise<string> => {
  const script = Object.entries(values)
    .map(([key, value]) => `if [ -e /proc/sys/${key} ]; then echo ${value} > /proc/sys/${key}; fi`)
    .join('\n');
  // /proc/sys/net shows the namespace of whoever opens it.
  return run('nsenter', [`--net=/run/netns/${namespace}`, 'sh', '-ec', script]);
};

/** Makes all namespaces of a lab; `nodes` counts them. */
export const makeNetwork = async (lab: string, nodes: number): Promise<void> => {
  const outside = namespaceOf(lab, 'out');
  const members = [
    { part: 'cp', address: controlPlaneAddress },
    ...Array.from({ length: nodes }, (_, i) => ({ part: `n${i + 1}`, address: nodeAddress(i + 1) })),
  ];
  await run('ip', ['netns', 'add', outside]);
  for (const { part } of members) await run('ip', ['netns', 'add', namespaceOf(lab, part)]);
  // The outside forwards, so that what is sent to nowhere ends in the blackhole as it would on the internet; bridged frames skip its firewall hooks.
  await sysctl(outside, {
    'net/ipv4/ip_forward': '1',
    'net/ipv6/conf/all/forwarding': '1',
    'net/bridge/bridge-nf-call-iptables': '0',
    'net/bridge/bridge-nf-call-ip6tables': '0',
  });
  await ip(outside, [
    'link set lo up',
    'link add nodes type bridge',
    'link set nodes up',
    `address add ${outsideAddress.v4}/24 dev nodes`,
    `address add ${outsideAddress.v6}/64 dev nodes nodad`,
    'route add blackhole default',
    'route add blackhole ::/0',
  ]);
  for (const { part, address } of members) {
    const namespace = namespaceOf(lab, part);
    await sysctl(namespace, { 'net/ipv4/ip_forward': '1', 'net/ipv6/conf/all/forwarding': '1' });
    await ip(outside, [
      `link add ${part} type veth peer name eth0 netns ${namespace}`,
      `link set ${part} master nodes`,
      `link set ${part} up`,
    ]);
    await ip(namespace, [
      'link set lo up',
      'link set eth0 up',
      `address add ${address.v4}/24 dev eth0`,
      `address add ${address.v6}/64 dev eth0 nodad`,
      `route add default via ${outsideAddress.v4}`,
      `route add ::/0 via ${outsideAddress.v6}`,
    ]);
    // The outside knows no pods: what they send there carries the node's address, as behind any CNI plugin that masquerades.
    const rules = [
      'table inet lab_outside {',
      'chain postrouting { type nat hook postrouting priority srcnat + 10;',
      `ip saddr ${podSubnets.v4} ip daddr ${outsideAddress.v4} masquerade`,
      `ip saddr ${podSubnets.v4} ip daddr != { ${podSubnets.v4}, ${subnets.v4} } oifname "eth0" masquerade`,
      `ip6 saddr ${podSubnets.v6} ip6 daddr ${outsideAddress.v6} masquerade`,
      `ip6 saddr ${podSubnets.v6} ip6 daddr != { ${podSubnets.v6}, ${subnets.v6} } oifname "eth0" masquerade`,
      '}',
      '}',
    ];
    await run('nsenter', [`--net=/run/netns/${namespace}`, 'nft', '-f', '-'], { input: rules.join('\n') });
  }
};

/** Tells the control plane and every other node the way to a node's pods. */
export const routePods = async (lab: string, nodes: number, index: number, podCidrs: readonly string[]): Promise<void> => {
  const others = [
    'cp',
    ...Array.from({ length: nodes }, (_, i) => i + 1)
      .filter((i) => i !== index)
      .map((i) => `n${i}`),
  ];
  const via = nodeAddress(index);
  for (const part of others)
    await ip(
      namespaceOf(lab, part),
      podCidrs.map((cidr) => (cidr.includes(':') ? `route replace ${cidr} via ${via.v6}` : `route replace ${cidr} via ${via.v4}`)),
    );
};

/** Removes every namespace of a lab: absence is success. Processes in them must have ended, or they keep a namespace alive. */
export const removeNetwork = async (lab: string): Promise<void> => {
  const list = await run('ip', ['netns', 'list']);
  const mine = list
    .split('\n')
    .map((line) => line.split(' ')[0] ?? '')
    // Names are cut at the last dash: lab "a" must not take "a-b"'s.
    .filter((name) => name.startsWith('kl-') && name.slice(3, name.lastIndexOf('-')) === lab);
  for (const name of mine) if (existsSync(`/run/netns/${name}`)) await run('ip', ['netns', 'delete', name]);
};
