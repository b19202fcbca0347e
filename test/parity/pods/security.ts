// Users, privileges, profiles and namespaces.
import type { Case } from '../case.ts';
import { busybox, idle, job, nonroot, podOf, shell } from './parts.ts';

const config = { waiting: 'CreateContainerConfigError' } as const;
const who = 'echo $(id -u) $(id -g) $(id -G) > /dev/termination-log';

export const security: readonly Case[] = [
  { name: 'non-root-of-root-image', spec: podOf(idle({ securityContext: { runAsNonRoot: true } })), until: config },
  { name: 'non-root-pod-of-root-image', spec: podOf(idle(), { securityContext: { runAsNonRoot: true } }), until: config },
  { name: 'non-root-as-user-0', spec: podOf(idle({ securityContext: { runAsNonRoot: true, runAsUser: 0 } })), until: config },
  {
    name: 'non-root-ok',
    spec: job({ name: 'main', image: nonroot, command: ['sh', '-c', who], securityContext: { runAsNonRoot: true } }),
    until: 'ended',
  },
  {
    name: 'non-root-init',
    spec: podOf(idle(), { initContainers: [shell('true', { name: 'first', securityContext: { runAsNonRoot: true } })] }),
    until: config,
  },
  {
    name: 'run-as',
    spec: job(shell(who, { securityContext: { runAsUser: 1000, runAsGroup: 3000 } }), {
      securityContext: { fsGroup: 2000, supplementalGroups: [4000] },
    }),
    until: 'ended',
  },
  { name: 'groups-strict', spec: podOf(idle(), { securityContext: { supplementalGroups: [4000], supplementalGroupsPolicy: 'Strict' } }) },
  {
    name: 'capability-unknown',
    spec: podOf(idle({ securityContext: { capabilities: { add: ['NO_SUCH'] } } })),
    until: { waiting: 'CreateContainerError' },
  },
  {
    name: 'capabilities',
    spec: job(
      shell('grep CapEff /proc/self/status > /dev/termination-log', {
        securityContext: { capabilities: { add: ['NET_ADMIN'], drop: ['ALL'] } },
      }),
    ),
    until: 'ended',
  },
  { name: 'privileged', spec: job(shell('test -e /dev/null && true', { securityContext: { privileged: true } })), until: 'ended' },
  {
    name: 'no-privilege-escalation',
    spec: job(shell('grep NoNewPrivs /proc/self/status > /dev/termination-log', { securityContext: { allowPrivilegeEscalation: false } })),
    until: 'ended',
  },
  { name: 'read-only-root', spec: job(shell('touch /x', { securityContext: { readOnlyRootFilesystem: true } })), until: 'ended' },
  {
    name: 'seccomp-default',
    spec: job(shell('grep "Seccomp:" /proc/self/status > /dev/termination-log'), {
      securityContext: { seccompProfile: { type: 'RuntimeDefault' } },
    }),
    until: 'ended',
  },
  {
    name: 'seccomp-missing',
    spec: podOf(idle({ securityContext: { seccompProfile: { type: 'Localhost', localhostProfile: 'no/such.json' } } })),
    until: { waiting: 'CreateContainerError' },
  },
  {
    name: 'seccomp-missing-pod',
    spec: podOf(idle(), { securityContext: { seccompProfile: { type: 'Localhost', localhostProfile: 'no/such.json' } } }),
    until: { event: 'Failed' },
  },
  {
    name: 'apparmor-missing',
    spec: podOf(idle({ securityContext: { appArmorProfile: { type: 'Localhost', localhostProfile: 'nobody' } } })),
    until: 'ended',
  },
  { name: 'apparmor-unconfined', spec: podOf(idle({ securityContext: { appArmorProfile: { type: 'Unconfined' } } })) },
  {
    name: 'proc-mount-unmasked',
    spec: podOf(idle({ securityContext: { procMount: 'Unmasked' } }), { hostUsers: false }),
    until: { event: 'Failed' },
  },
  {
    name: 'sysctl-forbidden',
    spec: podOf(idle(), { securityContext: { sysctls: [{ name: 'kernel.msgmax', value: '65536' }] } }),
    until: 'ended',
  },
  {
    name: 'sysctl-safe',
    spec: job(shell('sysctl -n net.ipv4.ip_unprivileged_port_start > /dev/termination-log'), {
      securityContext: { sysctls: [{ name: 'net.ipv4.ip_unprivileged_port_start', value: '80' }] },
    }),
    until: 'ended',
  },
  {
    name: 'sysctl-bad-value',
    spec: podOf(idle(), { securityContext: { sysctls: [{ name: 'net.ipv4.tcp_syncookies', value: 'many' }] } }),
    until: { event: 'FailedCreatePodSandBox' },
  },
  { name: 'host-pid', spec: podOf(idle(), { hostPID: true }) },
  { name: 'host-ipc', spec: podOf(idle(), { hostIPC: true }) },
  { name: 'host-network', spec: podOf(idle(), { hostNetwork: true }) },
  { name: 'share-process-namespace', spec: podOf([idle(), idle({ name: 'second' })], { shareProcessNamespace: true }) },
  { name: 'runtime-class-none', spec: podOf(idle(), { runtimeClassName: 'parity-handler' }), until: { event: 'FailedCreatePodSandBox' } },
  { name: 'own-users', spec: podOf(idle(), { hostUsers: false }) },
  {
    name: 'user-name-in-command',
    spec: job({ name: 'main', image: busybox, command: ['sh', '-c', who], securityContext: { runAsUser: 12345 } }),
    until: 'ended',
  },
  { name: 'se-linux-ignored', spec: podOf(idle({ securityContext: { seLinuxOptions: { level: 's0:c1,c2' } } })) },
];
