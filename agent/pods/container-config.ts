import { join } from 'node:path';
import type {
  ContainerConfig,
  KeyValue,
  LinuxContainerResources,
  LinuxContainerSecurityContext,
  Mount,
  Signal,
} from '../../cri-protos/generated/cri.ts';
import type { Container } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';
import { containerAnnotations, containerLabels } from './labels.ts';

export interface ContainerInputs {
  readonly attempt: number;
  readonly imageRef: string;
  readonly command: string[];
  readonly args: string[];
  readonly envs: KeyValue[];
  readonly mounts: Mount[];
  /** Device nodes, devices by their CDI names, and annotations, as device plugins want them. */
  readonly devices: readonly { readonly hostPath: string; readonly containerPath: string; readonly permissions: string }[];
  readonly cdiDevices: readonly string[];
  readonly deviceAnnotations: Readonly<Record<string, string>>;
  readonly resources: LinuxContainerResources;
  readonly security: LinuxContainerSecurityContext;
  /** The container whose processes an ephemeral container joins. */
  readonly targetContainerId: string | undefined;
  /** Whether `lifecycle.stopSignal` counts (ContainerStopSignals gate). */
  readonly stopSignals: boolean;
}

/** `<container>/<attempt>.log`, relative to the pod's log folder. */
function containerLogPath(container: string, attempt: number): string {
  return join(container, `${attempt}.log`);
}

/** Where in a container its last words are: a path without a leading slash starts at its root. */
export function terminationPath(path: string): string {
  return path === '' || path.startsWith('/') ? path : `/${path}`;
}

/** What the runtime is asked for as a container. */
export function containerConfig(pod: AgentPod, container: Container, inputs: ContainerInputs): ContainerConfig {
  const namespaces = inputs.security.namespace_options ?? {};
  // A target matters only where each container has its processes to itself (kuberuntime_container_linux.go).
  const targeted =
    inputs.targetContainerId !== undefined && namespaces.pid === 'CONTAINER'
      ? { ...namespaces, pid: 'TARGET' as const, target_id: inputs.targetContainerId }
      : namespaces;
  return {
    metadata: { name: container.name, attempt: inputs.attempt },
    image: { image: inputs.imageRef, user_specified_image: container.image },
    command: inputs.command,
    args: inputs.args,
    working_dir: container.workingDir ?? '',
    envs: inputs.envs,
    // The runtime shows files with their owners moved into the pod's range.
    mounts:
      namespaces.userns_options?.mode !== 'POD'
        ? inputs.mounts
        : inputs.mounts.map((mount) => ({
            ...mount,
            uidMappings: namespaces.userns_options?.uids,
            gidMappings: namespaces.userns_options?.gids,
          })),
    devices: inputs.devices.map(({ hostPath, containerPath, permissions }) => ({
      host_path: hostPath,
      container_path: containerPath,
      permissions,
    })),
    CDI_devices: inputs.cdiDevices.map((name) => ({ name })),
    labels: containerLabels(pod, container),
    annotations: { ...inputs.deviceAnnotations, ...containerAnnotations(pod, container, inputs.attempt) },
    log_path: containerLogPath(container.name, inputs.attempt),
    stdin: container.stdin === true,
    stdin_once: container.stdinOnce === true,
    tty: container.tty === true,
    linux: { resources: inputs.resources, security_context: { ...inputs.security, namespace_options: targeted } },
    stop_signal: inputs.stopSignals ? stopSignal(container.lifecycle?.stopSignal) : undefined,
  };
}

/** A signal as the CRI names it, which has no room for signs: `SIGRTMIN+1` is SIGRTMINPLUS1. */
function stopSignal(name: string | undefined): Signal | undefined {
  return name?.replace('+', 'PLUS').replace('-', 'MINUS') as Signal | undefined;
}

/** The name of a container's link in /var/log/containers: `<pod>_<namespace>_<container>-<id>.log`, cut as kubelet does where it would be too long. */
export function legacyLogLink(pod: AgentPod, container: string, id: string): string {
  // pkg/kubelet/kuberuntime/legacy.go: ext4 allows 255 bytes a name.
  const stem = `${pod.metadata.name}_${pod.metadata.namespace}_${container}-${id}`;
  return `${stem.slice(0, 251)}.log`;
}
