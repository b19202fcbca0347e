// The node agents a lab can run: each is a command line, inside the node's namespaces.
import { resolve } from 'node:path';
import { ensureBinary } from './binaries.ts';
import { cacheRoot, run, say } from './images-debian.ts';
import { credentialProviderFlags, ensureMachineTools } from './machine.ts';
import { nodeAddress } from './network.ts';
import { type AgentKind, enter, type LabRecord, labPaths, type NodeRecord } from './record.ts';

export type Command = { argv: string[]; env: Record<string, string> };

const repository = resolve(import.meta.dirname, '../..');

/** What is the node's own in this lab, and what a cluster's configuration can't say. */
const nodeFlags = (lab: LabRecord, node: NodeRecord): string[] => {
  const address = nodeAddress(node.index);
  const labels = [
    `keelson.dev/lab=${lab.name}`,
    ...(node.zone === undefined ? [] : [`topology.kubernetes.io/region=lab`, `topology.kubernetes.io/zone=${node.zone}`]),
  ];
  return [`--node-ip=${address.v4},${address.v6}`, `--node-labels=${labels.join(',')}`, '--v=2'];
};

/** Flags that both agents take: keelson has the kubelet's. */
const commonFlags = (lab: LabRecord, node: NodeRecord): string[] => [
  '--config=/etc/kubernetes/kubelet.yaml',
  '--kubeconfig=/etc/kubernetes/kubelet.conf',
  '--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf',
  `--hostname-override=${node.name}`,
  '--root-dir=/var/lib/kubelet',
  '--cert-dir=/var/lib/kubelet/pki',
  ...credentialProviderFlags,
  ...nodeFlags(lab, node),
];

const keelson = resolve(repository, 'keelson');

/** Has a node join by token, with the line that kubeadm prints for it; resolves to the command line of its agent, which join prints. */
export const joinCluster = async (lab: LabRecord, node: NodeRecord): Promise<Command> => {
  const env = { KEELSON_CACHE: cacheRoot() };
  const { kubeconfig, node: nodePaths } = labPaths(lab.name);
  const create = ['token', 'create', '--ttl=1h', '--print-join-command', `--kubeconfig=${kubeconfig}`];
  const [nsenter = '', ...cp] = enter(lab, { network: 'cp' });
  const [, ...line] = (await run(nsenter, [...cp, await ensureBinary('kubeadm'), ...create])).trim().split(/\s+/);
  say(`${node.id}: keelson ${line.join(' ')}`);
  const printed = await run(nsenter, [...enter(lab, { node: node.id }).slice(1), keelson, ...line], { env });
  const next = /^ *keelson (run .*)$/m.exec(printed)?.[1];
  if (next === undefined) throw new Error(`keelson join printed no command to start the node:\n${printed}`);
  for (const text of printed.slice(0, printed.indexOf('\nThis machine')).trim().split('\n')) say(`${node.id}:   ${text}`);
  const flags = [...nodeFlags(lab, node), `--cgroup-root=${nodePaths(node.id).cgroup}`];
  return { argv: [keelson, ...next.split(' '), ...flags], env };
};

/** What stands in the place of `kubelet` on a command line: the kubelet's flags follow. */
export const kubeletCommand = async (agent: AgentKind): Promise<Command> =>
  agent === 'upstream'
    ? { argv: [await ensureBinary('kubelet')], env: {} }
    : { argv: [resolve(import.meta.dirname, 'kubelet')], env: { KEELSON_CACHE: cacheRoot() } };

const proxyConfig = '/etc/kubernetes/kube-proxy.yaml';

/** Whether the node's agent programs Services itself, as keelson does by default. The line that join prints leaves them to others. */
const hasOwnProxy = (lab: LabRecord, node: NodeRecord): boolean =>
  lab.joins !== true && lab.proxy === 'keelson' && (node.agent ?? lab.agent) === 'keelson';

/** The command line of a node's agent. */
export const agentCommand = async (lab: LabRecord, node: NodeRecord): Promise<Command> => {
  const path = `${await ensureMachineTools()}:${process.env.PATH}`;
  const ownProxy = hasOwnProxy(lab, node);
  // By the name kubelet it leaves Services to others.
  const { argv, env } = ownProxy
    ? {
        argv: [keelson, 'run', `--proxy-config=${proxyConfig}`, '--proxy-kubeconfig=/etc/kubernetes/kube-proxy.conf'],
        env: { KEELSON_CACHE: cacheRoot() },
      }
    : await kubeletCommand(node.agent ?? lab.agent);
  return { argv: [...argv, ...commonFlags(lab, node)], env: { ...env, PATH: path } };
};

/** The command line of what programs Services beside an agent; both proxies take kube-proxy's. Undefined where the agent does it itself. */
export const proxyCommand = async (lab: LabRecord, node: NodeRecord): Promise<Command | undefined> => {
  if (hasOwnProxy(lab, node)) return undefined;
  const flags = [`--config=${proxyConfig}`];
  if (lab.proxy === 'keelson') return { argv: [keelson, 'proxy', ...flags], env: { KEELSON_CACHE: cacheRoot() } };
  return { argv: [await ensureBinary('kube-proxy'), ...flags], env: {} };
};
