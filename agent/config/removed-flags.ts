import type { Flag, FlagKind } from './pflag.ts';

// Flags that kubelets had in 1.19 and that are gone since, by the release without them (cmd/kubelet/app/options, pkg/kubelet/config/flags.go and the logging
// flags of component-base, compared release by release). kubeadm, distributions and people's own units go on writing them, and upstream does not start with
// one: a node that is upgraded is gone. Here it starts, and says what to delete.

const network = "the container runtime sets up the pods' network, by its own CNI configuration";
const dockershim = 'there is no dockershim: containers run through --container-runtime-endpoint';
const cadvisor = 'it was for the cAdvisor of a Docker daemon';
const stream = 'the log goes to standard output and error, and the service manager or a redirection puts it elsewhere';

/** Flag, kind, the release that removed it, and what there is instead. What is text here may be anything: nobody reads it. */
const removed: readonly (readonly [name: string, kind: 'bool' | 'string', since: string, instead: string])[] = [
  ['enable-cadvisor-json-endpoints', 'bool', '1.21', 'ask /stats/summary or /metrics/cadvisor'],
  ['chaos-chance', 'string', '1.22', 'it was for tests'],
  ['redirect-container-streaming', 'bool', '1.22', 'streams always go through the agent'],
  ['experimental-bootstrap-kubeconfig', 'string', '1.23', 'use --bootstrap-kubeconfig'],
  ['seccomp-profile-root', 'string', '1.23', 'profiles of type Localhost are read from the folder seccomp below --root-dir'],
  ['cni-bin-dir', 'string', '1.24', network],
  ['cni-cache-dir', 'string', '1.24', network],
  ['cni-conf-dir', 'string', '1.24', network],
  ['network-plugin', 'string', '1.24', network],
  ['network-plugin-mtu', 'string', '1.24', network],
  ['non-masquerade-cidr', 'string', '1.24', network],
  ['docker-endpoint', 'string', '1.24', dockershim],
  ['experimental-dockershim-root-directory', 'string', '1.24', dockershim],
  ['image-pull-progress-deadline', 'string', '1.24', 'the container runtime has a limit of its own for pulls that stand still'],
  ['docker', 'string', '1.24', cadvisor],
  ['docker-env-metadata-whitelist', 'string', '1.24', cadvisor],
  ['docker-only', 'bool', '1.24', cadvisor],
  ['docker-root', 'string', '1.24', cadvisor],
  ['docker-tls', 'bool', '1.24', cadvisor],
  ['docker-tls-ca', 'string', '1.24', cadvisor],
  ['docker-tls-cert', 'string', '1.24', cadvisor],
  ['docker-tls-key', 'string', '1.24', cadvisor],
  ['dynamic-config-dir', 'string', '1.24', 'use --config and --config-dir'],
  ['experimental-check-node-capabilities-before-mount', 'bool', '1.24', 'a mount that fails says what is missing'],
  ['experimental-logging-sanitization', 'bool', '1.24', 'secrets are never logged'],
  ['really-crash-for-testing', 'bool', '1.24', 'it was for tests'],
  ['experimental-kernel-memcg-notification', 'bool', '1.25', 'use kernelMemcgNotification of the configuration file'],
  ['add-dir-header', 'bool', '1.26', stream],
  ['alsologtostderr', 'bool', '1.26', stream],
  ['log-backtrace-at', 'string', '1.26', stream],
  ['log-dir', 'string', '1.26', stream],
  ['log-file', 'string', '1.26', stream],
  ['log-file-max-size', 'string', '1.26', stream],
  ['logtostderr', 'bool', '1.26', stream],
  ['one-output', 'bool', '1.26', stream],
  ['skip-headers', 'bool', '1.26', stream],
  ['skip-log-headers', 'bool', '1.26', stream],
  ['stderrthreshold', 'string', '1.26', stream],
  ['container-runtime', 'string', '1.27', 'containers run through --container-runtime-endpoint'],
  ['master-service-namespace', 'string', '1.27', 'the Service kubernetes is looked for in the namespace default'],
  ['azure-container-registry-config', 'string', '1.30', 'use --image-credential-provider-config with a plugin for the registry'],
  ['iptables-drop-bit', 'string', '1.31', 'it had no effect since 1.28'],
  ['iptables-masquerade-bit', 'string', '1.31', 'it had no effect since 1.28'],
  ['keep-terminated-pod-volumes', 'bool', '1.31', 'volumes of ended pods are unmounted'],
  ['cloud-config', 'string', '1.34', 'a cloud controller manager has it: use --cloud-provider=external here'],
  ['register-schedulable', 'bool', '1.34', 'use --register-with-taints=node.kubernetes.io/unschedulable=:NoSchedule to keep pods away'],
  [
    'pod-infra-container-image',
    'string',
    '1.35',
    "the container runtime's configuration names the sandbox's image; kubeadm keeps the flag in /var/lib/kubelet/kubeadm-flags.env",
  ],
];

/** The flags of older kubelets: taken with a warning, and without effect. */
export const removedFlags: readonly Flag[] = removed.map(([name, kind, since, instead]) => {
  const why = `Kubernetes ${since} removed it, so delete it; ${instead}`;
  return { name, kind: kind satisfies FlagKind, support: { kind: 'noEffect', why }, help: `accepted and without effect: ${why}` };
});
