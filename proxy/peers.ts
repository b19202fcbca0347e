// Who else programs Services on this node. Pure.
import { ownValue } from '../agent/base/own.ts';
import type { Pod } from '../agent/model/generated/api.ts';

/** By what kubeadm, kind and EKS (`k8s-app`), and AKS, GKE and RKE2 (`component`) write. */
const labels = ['k8s-app', 'component'];

/**
 * Whether a pod is a kube-proxy of this node: in the node's network, and by its label or the program that its containers run.
 * Two proxies on one node undo each other's work. A pod with a network of its own programs nobody else's, whatever it is called:
 * whoever may create an ordinary pod must not be able to switch off a node's Services.
 */
export function isKubeProxy({ metadata, spec, status }: Pod): boolean {
  if (spec?.hostNetwork !== true) return false;
  if (status?.phase === 'Succeeded' || status?.phase === 'Failed') return false;
  if (labels.some((label) => ownValue(metadata?.labels, label) === 'kube-proxy')) return true;
  return (spec.containers ?? []).some(({ command }) => command?.[0] !== undefined && /(^|\/)kube-proxy$/.test(command[0]));
}
