import { join } from 'node:path';
import type { DNSConfig, LinuxContainerResources, PodSandboxConfig, PortMapping, UserNamespace } from '../../cri-protos/generated/cri.ts';
import { type AgentPod, containersOf } from '../model/pod.ts';
import { uidAsName } from '../model/pod-uid.ts';
import { sandboxLabels } from './labels.ts';
import { namespacesOf } from './security.ts';
import { sysctlName } from './sysctl-name.ts';

export interface SandboxInputs {
  readonly attempt: number;
  /** `podLogsDir`: /var/log/pods. */
  readonly podLogsDir: string;
  /** `''` for a pod on the node's network. */
  readonly hostname: string;
  readonly dns: DNSConfig;
  /** In the form of the runtime's cgroup driver. */
  readonly cgroupParent: string;
  readonly overhead: LinuxContainerResources | undefined;
  readonly resources: LinuxContainerResources | undefined;
  /** The range of user IDs of a pod that is not on the host's. */
  readonly users: UserNamespace | undefined;
}

/** `<podLogsDir>/<namespace>_<name>_<uid>`: where log collectors look. */
export function podLogDirectory(podLogsDir: string, pod: { namespace: string; name: string; uid: string }): string {
  return join(podLogsDir, `${pod.namespace}_${pod.name}_${uidAsName(pod.uid)}`);
}

/** What the runtime is asked for as a pod's sandbox. */
export function sandboxConfig(pod: AgentPod, inputs: SandboxInputs): PodSandboxConfig {
  const { name, namespace, uid } = pod.metadata;
  const sc = pod.spec.securityContext;
  return {
    metadata: { name, namespace, uid, attempt: inputs.attempt },
    labels: sandboxLabels(pod),
    annotations: pod.metadata.annotations ?? {},
    hostname: inputs.hostname,
    log_directory: podLogDirectory(inputs.podLogsDir, pod.metadata),
    dns_config: inputs.dns,
    port_mappings: portMappings(pod),
    linux: {
      cgroup_parent: inputs.cgroupParent,
      // With slashes between its parts, runc takes a name for one that is not a pod's own.
      sysctls: Object.fromEntries((sc?.sysctls ?? []).map((s) => [sysctlName(s.name), s.value])),
      overhead: inputs.overhead,
      resources: inputs.resources,
      security_context: {
        namespace_options: namespacesOf(pod, inputs.users),
        privileged: containersOf(pod).some(({ container }) => container.securityContext?.privileged === true),
        // The pause process needs next to nothing: it always gets the runtime's profile (kubernetes#84623).
        seccomp: { profile_type: 'RuntimeDefault' },
        run_as_user: sc?.runAsUser === undefined ? undefined : { value: sc.runAsUser },
        run_as_group: sc?.runAsGroup === undefined ? undefined : { value: sc.runAsGroup },
        supplemental_groups: [...(sc?.fsGroup === undefined ? [] : [sc.fsGroup]), ...(sc?.supplementalGroups ?? [])],
        supplemental_groups_policy: sc?.supplementalGroupsPolicy === 'Strict' ? 'Strict' : 'Merge',
        selinux_options: sc?.seLinuxOptions,
      },
    },
  };
}

function portMappings(pod: AgentPod): PortMapping[] {
  // A pod on the node's network has its ports there already.
  if (pod.spec.hostNetwork === true) return [];
  const sidecars = (pod.spec.initContainers ?? []).filter((c) => c.restartPolicy === 'Always');
  return [...pod.spec.containers, ...sidecars]
    .flatMap((c) => c.ports ?? [])
    .filter((p) => (p.hostPort ?? 0) > 0)
    .map((p) => ({
      protocol: p.protocol === 'UDP' || p.protocol === 'SCTP' ? p.protocol : 'TCP',
      container_port: p.containerPort,
      host_port: p.hostPort,
      host_ip: p.hostIP ?? '',
    }));
}
