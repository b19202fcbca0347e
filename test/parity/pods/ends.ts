// How pods are refused, ended, deleted and resized; static pods.
import type { Case } from '../case.ts';
import { agnhost, idle, job, podOf, shell } from './parts.ts';

const stubborn = shell('trap "" TERM; while :; do sleep 0.2; done');
const size = (cpu: string, memory: string) => ({ requests: { cpu, memory }, limits: { cpu, memory } });

export const refusals: readonly Case[] = [
  { name: 'selector-not-met', spec: podOf(idle(), { nodeSelector: { nobody: 'has' } }), until: 'ended' },
  {
    name: 'affinity-not-met',
    spec: podOf(idle(), {
      affinity: {
        nodeAffinity: {
          requiredDuringSchedulingIgnoredDuringExecution: {
            nodeSelectorTerms: [{ matchExpressions: [{ key: 'nobody', operator: 'Exists' }] }],
          },
        },
      },
    }),
    until: 'ended',
  },
  { name: 'selector-met', spec: podOf(idle(), { nodeSelector: { 'kubernetes.io/os': 'linux' } }) },
  { name: 'other-os', spec: podOf(idle(), { os: { name: 'windows' } }), until: 'ended' },
  { name: 'other-os-selector', spec: podOf(idle(), { nodeSelector: { 'kubernetes.io/os': 'windows' } }), until: 'ended' },
  { name: 'out-of-cpu', spec: podOf(idle({ resources: { requests: { cpu: '1000' } } })), until: 'ended' },
  { name: 'out-of-memory-request', spec: podOf(idle({ resources: { requests: { memory: '100Ti' } } })), until: 'ended' },
  { name: 'out-of-storage', spec: podOf(idle({ resources: { requests: { 'ephemeral-storage': '100Pi' } } })), until: 'ended' },
  { name: 'out-of-extended', spec: podOf(idle({ resources: { limits: { 'example.com/lane': '1' } } })), until: 'ended' },
  {
    name: 'out-of-huge-pages',
    spec: podOf(idle({ resources: { limits: { 'hugepages-2Mi': '1Gi', memory: '16Mi', cpu: '10m' } } })),
    until: 'ended',
  },
  { name: 'host-port', spec: podOf(idle({ ports: [{ containerPort: 80, hostPort: 18080 }] })) },
  {
    name: 'priority-critical',
    spec: podOf(idle({ resources: { requests: { cpu: '1000' } } }), { priorityClassName: 'system-node-critical' }),
    until: 'ended',
  },
  {
    name: 'init-out-of-cpu',
    spec: podOf(idle(), { initContainers: [shell('true', { name: 'first', resources: { requests: { cpu: '1000' } } })] }),
    until: 'ended',
  },
  { name: 'pod-level-resources', spec: podOf(idle(), { resources: size('50m', '32Mi') }) },
  { name: 'pod-level-out-of-cpu', spec: podOf(idle(), { resources: { requests: { cpu: '1000' } } }), until: 'ended' },
];

export const ends: readonly Case[] = [
  { name: 'delete-grace-0', spec: podOf(idle()), steps: [{ act: 'delete', graceSeconds: 0, until: 'gone' }] },
  { name: 'delete-grace-1', spec: podOf(idle()), steps: [{ act: 'delete', graceSeconds: 1, until: 'gone' }] },
  { name: 'delete-grace-30', spec: podOf(idle()), steps: [{ act: 'delete', graceSeconds: 30, until: 'gone' }] },
  { name: 'delete-stubborn', spec: podOf(stubborn, { terminationGracePeriodSeconds: 2 }), steps: [{ act: 'delete', until: 'gone' }] },
  {
    name: 'delete-never-started',
    spec: podOf(idle({ image: 'registry.k8s.io/none/none:7' })),
    until: { waiting: 'ErrImagePull' },
    steps: [{ act: 'delete', until: 'gone' }],
  },
  {
    name: 'delete-mount-waits',
    spec: podOf(idle({ volumeMounts: [{ name: 'v', mountPath: '/v' }] }), { volumes: [{ name: 'v', secret: { secretName: 'nobody' } }] }),
    until: { event: 'FailedMount' },
    steps: [{ act: 'delete', until: 'gone' }],
  },
  {
    name: 'delete-crash-loop',
    spec: podOf(shell('exit 1')),
    until: { waiting: 'CrashLoopBackOff' },
    steps: [{ act: 'delete', until: 'gone' }],
  },
  { name: 'delete-ended', spec: job(shell('exit 3')), until: 'ended', steps: [{ act: 'delete', until: 'gone' }] },
  {
    name: 'delete-init-runs',
    spec: podOf(idle(), { initContainers: [idle({ name: 'first' })], terminationGracePeriodSeconds: 1 }),
    until: { running: 'first' },
    steps: [{ act: 'delete', until: 'gone' }],
  },
  {
    name: 'delete-held',
    spec: podOf(idle(), { terminationGracePeriodSeconds: 1 }),
    finalizers: ['example.com/hold'],
    steps: [{ act: 'delete', until: { condition: 'Ready', status: 'False' } }],
  },
  { name: 'deadline', spec: podOf(idle(), { activeDeadlineSeconds: 8, terminationGracePeriodSeconds: 1 }), until: 'ended' },
  {
    name: 'deadline-of-init',
    spec: podOf(idle(), { initContainers: [idle({ name: 'first' })], activeDeadlineSeconds: 8, terminationGracePeriodSeconds: 1 }),
    until: 'ended',
  },
  { name: 'deadline-waiting', spec: podOf(idle({ image: 'registry.k8s.io/none/none:8' }), { activeDeadlineSeconds: 8 }), until: 'ended' },
  {
    name: 'deadline-set-later',
    spec: podOf(idle(), { terminationGracePeriodSeconds: 1 }),
    steps: [{ act: 'patch', patch: { spec: { activeDeadlineSeconds: 2 } }, until: 'ended' }],
  },
  {
    name: 'storage-limit',
    spec: podOf(shell('dd if=/dev/zero of=/x bs=1M count=8; sleep 1000000', { resources: { limits: { 'ephemeral-storage': '1Mi' } } }), {
      terminationGracePeriodSeconds: 1,
    }),
    until: 'ended',
  },
  {
    name: 'stop-signal',
    spec: podOf({ name: 'main', image: agnhost, args: ['pause'] }),
    steps: [{ act: 'delete', graceSeconds: 2, until: 'gone' }],
  },
];

const resized = (containers: object[]) => ({ act: 'patch', subresource: 'resize', patch: { spec: { containers } } }) as const;
const guaranteed = () => podOf(idle({ resources: size('50m', '32Mi') }));

export const resizes: readonly Case[] = [
  {
    name: 'resize-cpu',
    spec: guaranteed(),
    steps: [{ ...resized([{ name: 'main', resources: size('60m', '32Mi') }]), until: { event: 'ResizeCompleted' } }],
  },
  {
    name: 'resize-memory',
    spec: guaranteed(),
    steps: [{ ...resized([{ name: 'main', resources: size('50m', '48Mi') }]), until: { event: 'ResizeCompleted' } }],
  },
  {
    name: 'resize-restarts',
    spec: podOf(idle({ resources: size('50m', '32Mi'), resizePolicy: [{ resourceName: 'cpu', restartPolicy: 'RestartContainer' }] }), {
      terminationGracePeriodSeconds: 1,
    }),
    steps: [
      {
        ...resized([{ name: 'main', resources: size('60m', '32Mi') }]),
        until: { all: [{ restarts: 1 }, 'ready', { event: 'ResizeCompleted' }] },
      },
    ],
  },
  {
    name: 'resize-below-use',
    spec: podOf(
      idle({
        command: ['sh', '-c', 'x=$(head -c 12000000 /dev/zero | tr "\\0" x); trap "exit 0" TERM; sleep 1000000 & wait'],
        resources: size('50m', '64Mi'),
      }),
    ),
    steps: [{ ...resized([{ name: 'main', resources: size('50m', '2Mi') }]), until: { event: 'ResizeStarted' } }],
  },
];

export const statics: readonly Case[] = [
  { name: 'static', spec: podOf(idle()), isStatic: true },
  { name: 'static-ends', spec: job(shell('exit 3')), isStatic: true, until: 'ended' },
  { name: 'static-host-network', spec: podOf(idle(), { hostNetwork: true, priorityClassName: 'system-node-critical' }), isStatic: true },
  { name: 'static-crash-loop', spec: podOf(shell('exit 1')), isStatic: true, until: { waiting: 'CrashLoopBackOff' }, loops: true },
  {
    name: 'static-image-missing',
    spec: podOf(idle({ image: 'registry.k8s.io/none/none:9' })),
    isStatic: true,
    until: { waiting: 'ImagePullBackOff' },
  },
];
