import { existsSync } from 'node:fs';

/** The socket on which an agent answers the commands of the person at the keyboard. */
export function localSocket(): string {
  return process.env.KEELSON_SOCKET ?? '/run/keelson/keelson.sock';
}

/** The socket on which a `keelson proxy` answers; a node's agent answers for its own proxy. */
export function localProxySocket(): string {
  return process.env.KEELSON_PROXY_SOCKET ?? '/run/keelson/proxy.sock';
}

/** The cluster of the test bed that `keelson up --cluster` starts: its places are the test bed's (test/testbed/record.ts). */
export const localCluster = {
  name: 'up',
  home: '/var/lib/keelson-lab/up',
  runRoot: '/run/keelson-lab',
  nodeSocket: '/run/keelson-lab/up/n1/keelson/keelson.sock',
  nodeNetwork: '/run/netns/kl-up-n1',
} as const;

/** The socket of the agent that a command is about: this machine's own, or else the one of the cluster's node. */
export function socketToAsk(): string {
  const own = localSocket();
  return process.env.KEELSON_SOCKET === undefined && !existsSync(own) && existsSync(localCluster.nodeSocket)
    ? localCluster.nodeSocket
    : own;
}

// What `keelson up` makes, all below two folders of its own, so that `keelson down` can take it away again.
const lib = '/var/lib/keelson/standalone';
const run = '/run/keelson/standalone';

export const standalone = {
  lib,
  run,
  /** Parents that go too, when nothing else is in them. */
  parents: ['/var/lib/keelson', '/run/keelson'],
  state: `${lib}/state.json`,
  lock: `${run}.lock`,
  agentLog: `${lib}/agent.log`,
  containerdLog: `${lib}/containerd.log`,
  kubeletConfig: `${lib}/kubelet.yaml`,
  containerdConfig: `${lib}/containerd.toml`,
  cniConfDir: `${lib}/cni/net.d`,
  cniDataDir: `${lib}/cni/data`,
  kubeletRoot: `${lib}/kubelet`,
  podLogs: `${lib}/pod-logs`,
  containerdRoot: `${lib}/containerd`,
  containerdState: `${run}/containerd`,
  containerdSocket: `${run}/containerd.sock`,
  bridge: 'keelson0',
  cgroup: '/keelson',
} as const;
