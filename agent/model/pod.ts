import type { Container, ContainerStatus, EphemeralContainer, Node, ObjectMeta, Pod, PodSpec } from './generated/api.ts';

/** A Pod that has passed the door of a source: metadata and spec are there, with name, namespace and UID. */
export type AgentPod = Pod & { metadata: ObjectMeta & { name: string; namespace: string; uid: string }; spec: PodSpec };

/** A Node with the metadata that the API always fills. */
export type AgentNode = Node & { metadata: ObjectMeta & { name: string } };

export type ContainerKind = 'init' | 'app' | 'ephemeral';

/** Where a pod's spec came from. `api` pods are bound to this node by a scheduler; `file` and `http` pods are static. */
export type PodSource = 'api' | 'file' | 'http';

// Annotations of static pods and their mirrors: the names are kubelet's (pkg/kubelet/types/pod_update.go).
export const configSourceAnnotation = 'kubernetes.io/config.source';
export const configHashAnnotation = 'kubernetes.io/config.hash';
export const configMirrorAnnotation = 'kubernetes.io/config.mirror';
export const configFirstSeenAnnotation = 'kubernetes.io/config.seen';

/** `namespace/name`: unique among the pods of one moment, not over time. */
export function podKey(pod: AgentPod): string {
  return `${pod.metadata.namespace}/${pod.metadata.name}`;
}

/** `name_namespace`, kubelet's full name of a pod. */
export function podFullName(pod: AgentPod): string {
  return `${pod.metadata.name}_${pod.metadata.namespace}`;
}

/** True for pods that came from a file or a URL rather than the API server. */
export function isStaticPod(pod: AgentPod): boolean {
  const source = pod.metadata.annotations?.[configSourceAnnotation];
  return source === 'file' || source === 'http';
}

/**
 * A pod as the API server has it, whatever it says of its own source: one that claims to be of a file would pass for critical and past the node's admission, and
 * nobody would tell of it (pkg/kubelet/config sets the annotation of every pod anew).
 */
export function fromApi(pod: AgentPod): AgentPod {
  const { annotations } = pod.metadata;
  if (annotations?.[configSourceAnnotation] === undefined) return pod;
  return { ...pod, metadata: { ...pod.metadata, annotations: { ...annotations, [configSourceAnnotation]: 'api' } } };
}

/** True for the API server's reflection of a static pod: shown there, never run. */
export function isMirrorPod(pod: AgentPod): boolean {
  return pod.metadata.annotations?.[configMirrorAnnotation] !== undefined;
}

/** An init container with `restartPolicy: Always`: it starts in order, then runs beside the app containers. */
export function isSidecar(container: Container): boolean {
  return container.restartPolicy === 'Always';
}

/** Every container of the spec with its kind, in order of start: init, app, ephemeral. */
export function containersOf(pod: AgentPod): { kind: ContainerKind; container: Container }[] {
  return [
    ...(pod.spec.initContainers ?? []).map((container) => ({ kind: 'init' as const, container })),
    ...pod.spec.containers.map((container) => ({ kind: 'app' as const, container })),
    ...(pod.spec.ephemeralContainers ?? []).map((e) => ({ kind: 'ephemeral' as const, container: asContainer(e) })),
  ];
}

/** An ephemeral container as a plain one: the fields that they share. */
export function asContainer(ephemeral: EphemeralContainer): Container {
  const { targetContainerName: _, ...container } = ephemeral;
  return container;
}

/** The status that the API shows for a container, whichever list holds it. */
export function containerStatusOf(pod: Pod, name: string): ContainerStatus | undefined {
  const status = pod.status;
  return [
    ...(status?.containerStatuses ?? []),
    ...(status?.initContainerStatuses ?? []),
    ...(status?.ephemeralContainerStatuses ?? []),
  ].find((s) => s.name === name);
}

/** True when the pod's phase says that it has ended for good. */
export function isTerminalPhase(phase: string | undefined): boolean {
  return phase === 'Succeeded' || phase === 'Failed';
}
