// Labels and annotations on sandboxes and containers: kubelet's own (pkg/kubelet/kuberuntime/labels.go, k8s.io/kubelet/pkg/types/labels.go), so that
// log collectors find them, we adopt what a kubelet started, and a kubelet can adopt what we started.
import type { Container } from '../model/generated/api.ts';
import { fnv1a32 } from '../model/go-hash.ts';
import type { AgentPod } from '../model/pod.ts';

export const podNameLabel = 'io.kubernetes.pod.name';
export const podNamespaceLabel = 'io.kubernetes.pod.namespace';
export const podUidLabel = 'io.kubernetes.pod.uid';
export const containerNameLabel = 'io.kubernetes.container.name';

export const containerHashAnnotation = 'io.kubernetes.container.hash';
export const restartCountAnnotation = 'io.kubernetes.container.restartCount';
export const terminationMessagePathAnnotation = 'io.kubernetes.container.terminationMessagePath';
export const terminationMessagePolicyAnnotation = 'io.kubernetes.container.terminationMessagePolicy';
export const terminationGracePeriodAnnotation = 'io.kubernetes.pod.terminationGracePeriod';
const deletionGracePeriodAnnotation = 'io.kubernetes.pod.deletionGracePeriod';
const preStopHandlerAnnotation = 'io.kubernetes.container.preStopHandler';
const portsAnnotation = 'io.kubernetes.container.ports';

/** Labels of a pod's sandbox: the pod's own and its identity. */
export function sandboxLabels(pod: AgentPod): Record<string, string> {
  return { ...pod.metadata.labels, ...identity(pod) };
}

/** Labels of a container: the pod's identity and the container's name. */
export function containerLabels(pod: AgentPod, container: Container): Record<string, string> {
  return { ...identity(pod), [containerNameLabel]: container.name };
}

function identity(pod: AgentPod): Record<string, string> {
  return {
    [podNameLabel]: pod.metadata.name,
    [podNamespaceLabel]: pod.metadata.namespace,
    [podUidLabel]: pod.metadata.uid,
  };
}

/** Annotations of a container: what is needed to adopt and to stop it when its spec is gone. */
export function containerAnnotations(pod: AgentPod, container: Container, restartCount: number): Record<string, string> {
  const annotations: Record<string, string> = {
    [containerHashAnnotation]: containerHash(container),
    [restartCountAnnotation]: String(restartCount),
    [terminationMessagePathAnnotation]: container.terminationMessagePath ?? '',
    [terminationMessagePolicyAnnotation]: container.terminationMessagePolicy ?? '',
  };
  const { deletionGracePeriodSeconds } = pod.metadata;
  if (deletionGracePeriodSeconds !== undefined) annotations[deletionGracePeriodAnnotation] = String(deletionGracePeriodSeconds);
  const { terminationGracePeriodSeconds } = pod.spec;
  if (terminationGracePeriodSeconds !== undefined) annotations[terminationGracePeriodAnnotation] = String(terminationGracePeriodSeconds);
  if (container.lifecycle?.preStop !== undefined) annotations[preStopHandlerAnnotation] = JSON.stringify(container.lifecycle.preStop);
  if (container.ports !== undefined && container.ports.length > 0) annotations[portsAnnotation] = JSON.stringify(container.ports);
  return annotations;
}

/**
 * The hash that says whether a running container still is what the spec asks for: name and image only, in lower-case hex.
 * Bit for bit kubelet's (pkg/kubelet/container/helpers.go HashContainer): FNV-1a 32 over what spew's `%#v` prints of the bytes of a sorted-key JSON map.
 */
export function containerHash(container: Pick<Container, 'name' | 'image'>): string {
  const json = goJson({ image: container.image ?? '', name: container.name });
  return fnv1a32(`([]uint8)[${Buffer.from(json, 'utf8').join(' ')}]`).toString(16);
}

// encoding/json escapes these for HTML; JSON.stringify does not.
function goJson(value: object): string {
  return JSON.stringify(value).replace(/[<>&\u2028\u2029]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
