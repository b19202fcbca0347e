/** The release of Kubernetes whose kubelet this agent is: its API, events, metrics and words. What the Node shows as kubeletVersion. */
export const kubernetesVersion = 'v1.36.1';

/** What probes and hooks call themselves, such as `kube-probe/1.36` (pkg/probe/http/request.go userAgent). */
export function kubeUserAgent(purpose: 'probe' | 'lifecycle'): string {
  return `kube-${purpose}/${kubernetesVersion.replace(/^v(\d+\.\d+)\..*$/, '$1')}`;
}
