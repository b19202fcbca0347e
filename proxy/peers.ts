// Who else programs Services on this node. Pure.
import type { Pod } from '../agent/model/generated/api.ts';

/**
 * Whether a pod is a kube-proxy: by kubeadm's and kind's label, or by the program that its containers run. Two proxies on one
 * node undo each other's work.
 */
export function isKubeProxy(pod: Pod): boolean {
  if (pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed') return false;
  if (pod.metadata?.labels?.['k8s-app'] === 'kube-proxy') return true;
  return (pod.spec?.containers ?? []).some(({ command }) => command?.[0] !== undefined && /(^|\/)kube-proxy$/.test(command[0]));
}
