// The node agents a lab can run: each is a command line, inside the node's namespaces.
import { resolve } from 'node:path';
import { ensureBinary } from './binaries.ts';
import { cacheRoot } from './images-debian.ts';
import { nodeAddress } from './network.ts';
import type { AgentKind, LabRecord, NodeRecord } from './record.ts';

export type Command = { argv: string[]; env: Record<string, string> };

const repository = resolve(import.meta.dirname, '../..');

/** Flags that both agents take: keelson has the kubelet's. */
const commonFlags = (lab: LabRecord, node: NodeRecord): string[] => {
  const address = nodeAddress(node.index);
  const labels = [
    `keelson.dev/lab=${lab.name}`,
    ...(node.zone === undefined ? [] : [`topology.kubernetes.io/region=lab`, `topology.kubernetes.io/zone=${node.zone}`]),
  ];
  return [
    '--config=/etc/kubernetes/kubelet.yaml',
    '--kubeconfig=/etc/kubernetes/kubelet.conf',
    '--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf',
    `--hostname-override=${node.name}`,
    `--node-ip=${address.v4},${address.v6}`,
    `--node-labels=${labels.join(',')}`,
    '--root-dir=/var/lib/kubelet',
    '--cert-dir=/var/lib/kubelet/pki',
    '--v=2',
  ];
};

const agents: Record<AgentKind, (lab: LabRecord, node: NodeRecord) => Promise<Command>> = {
  upstream: async (lab, node) => ({ argv: [await ensureBinary('kubelet'), ...commonFlags(lab, node)], env: {} }),
  keelson: async (lab, node) => ({
    argv: [resolve(repository, 'keelson'), 'run', ...commonFlags(lab, node), '--no-proxy'],
    env: { KEELSON_CACHE: cacheRoot() },
  }),
};

/** The command line of a node's agent. */
export const agentCommand = (lab: LabRecord, node: NodeRecord): Promise<Command> => agents[lab.agent](lab, node);

/** The command line of upstream's kube-proxy, which runs beside either agent. */
export const proxyCommand = async (): Promise<Command> => ({
  argv: [await ensureBinary('kube-proxy'), '--config=/etc/kubernetes/kube-proxy.yaml'],
  env: {},
});
