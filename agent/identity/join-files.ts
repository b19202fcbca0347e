import { AgentError, messageOf } from '../base/errors.ts';
import { readYaml, writeYaml } from '../model/yaml.ts';

/** What differs from node to node in the cluster's KubeletConfiguration. */
export interface LocalKubeletSettings {
  /** Where `/etc/kubernetes` is on this node. */
  readonly kubernetesDir: string;
  readonly criSocket: string;
  /** Used when the configuration names no resolvConf; kubeadm sets it where systemd-resolved runs. */
  readonly resolvConf?: string | undefined;
}

/**
 * The node's config.yaml from the data of kube-system/kubelet-config: with this node's runtime endpoint, and the paths below /etc/kubernetes
 * moved where this node has them. Throws AgentError `InvalidConfig` when it is no KubeletConfiguration.
 */
export function kubeletConfigText(data: Readonly<Record<string, string>> | undefined, local: LocalKubeletSettings): string {
  const text = data?.kubelet;
  if (text === undefined) throw new AgentError('InvalidConfig', 'ConfigMap kube-system/kubelet-config has no key "kubelet"');
  let config: Record<string, unknown> | null | undefined;
  try {
    config = readYaml(text)?.value as Record<string, unknown> | null | undefined;
  } catch (error) {
    throw new AgentError('InvalidConfig', `ConfigMap kube-system/kubelet-config: the key "kubelet" is not YAML: ${messageOf(error)}`, {
      cause: error,
    });
  }
  if (config === null || typeof config !== 'object' || config.kind !== 'KubeletConfiguration') {
    throw new AgentError('InvalidConfig', 'ConfigMap kube-system/kubelet-config: the key "kubelet" holds no KubeletConfiguration');
  }
  const merged = {
    ...(movePaths(config, local.kubernetesDir) as Record<string, unknown>),
    containerRuntimeEndpoint: local.criSocket,
    ...(local.resolvConf !== undefined && !config.resolvConf ? { resolvConf: local.resolvConf } : {}),
  };
  return writeYaml(merged, { sortKeys: true });
}

function movePaths(value: unknown, kubernetesDir: string): unknown {
  if (typeof value === 'string') {
    return value === '/etc/kubernetes' || value.startsWith('/etc/kubernetes/')
      ? kubernetesDir + value.slice('/etc/kubernetes'.length)
      : value;
  }
  if (Array.isArray(value)) return value.map((item) => movePaths(item, kubernetesDir));
  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, movePaths(item, kubernetesDir)]));
  }
  return value;
}

/** instance-config.yaml: what kubeadm keeps of this node alone, to lay over the cluster's configuration at upgrades. */
export function instanceConfigText(criSocket: string): string {
  return `containerRuntimeEndpoint: ${JSON.stringify(criSocket)}\n`;
}

/** kubeadm-flags.env: flags for the agent, `name=value` each, in one shell variable, sorted as kubeadm sorts them. */
export function kubeadmFlagsText(flags: readonly { name: string; value: string }[]): string {
  return `KUBELET_KUBEADM_ARGS=${JSON.stringify(flagArguments(flags).join(' '))}\n`;
}

/** `--name=value` for each flag, sorted by name. */
export function flagArguments(flags: readonly { name: string; value: string }[]): string[] {
  return [...flags].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0)).map(({ name, value }) => `--${name}=${value}`);
}

/** A taint as flags write it: `key=value:Effect`, without `=` when there is no value. */
export function taintText(taint: { key: string; value?: string | undefined; effect: string }): string {
  return `${taint.key}${taint.value ? `=${taint.value}` : ''}:${taint.effect}`;
}
