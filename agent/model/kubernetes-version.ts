/** The release of Kubernetes whose kubelet this agent is: its API, events, metrics and words. What the Node shows as kubeletVersion. */
export const kubernetesVersion = 'v1.36.1';
