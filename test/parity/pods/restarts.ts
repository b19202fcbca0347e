// Ends of containers, what follows them, init containers, sidecars and ephemeral containers.
import type { Container } from '../../../agent/model/generated/api.ts';
import type { Case, Until } from '../case.ts';
import { busybox, idle, job, podOf, shell, waits } from './parts.ts';

const looping = { all: [{ restarts: 1 }, { waiting: 'CrashLoopBackOff' }] } as const;
const ends = (name: string, container: Container): Case => ({ name, spec: job(container), until: 'ended' });
const loops = (name: string, container: Container, until: Until = looping): Case => ({ name, spec: podOf(container), until, loops: true });
const sidecar = (more: Partial<Container> = {}): Container => idle({ name: 'side', restartPolicy: 'Always', ...more });
const log = '/dev/termination-log';

export const restarts: readonly Case[] = [
  ends('exit-0', shell('true')),
  ends('exit-1', shell('exit 1')),
  ends('exit-255', shell('exit 255')),
  ends('exit-by-sigterm', { name: 'main', image: busybox, command: ['bash', '-c', 'kill -TERM $$'] }),
  ends('exit-by-sigkill', shell('sh -c "kill -9 \\$\\$"')),
  ends('exit-by-segv', shell('sh -c "kill -SEGV \\$\\$"')),
  ends('message', shell(`echo hello > ${log}; exit 3`)),
  ends('message-own-path', shell('echo hello > /tmp/last; exit 3', { terminationMessagePath: '/tmp/last' })),
  ends('message-long', shell(`head -c 9000 /dev/zero | tr "\\\\0" x > ${log}`)),
  ends('message-from-log', shell('echo from the log; exit 3', { terminationMessagePolicy: 'FallbackToLogsOnError' })),
  ends('message-from-log-of-success', shell('echo from the log', { terminationMessagePolicy: 'FallbackToLogsOnError' })),
  ends(
    'message-from-long-log',
    shell('i=0; while [ $i -lt 200 ]; do echo line $i of a long log; i=$((i+1)); done; exit 1', {
      terminationMessagePolicy: 'FallbackToLogsOnError',
    }),
  ),
  ends('message-no-text', shell(`printf "\\\\377\\\\376a" > ${log}`)),
  ends('out-of-memory', shell('tail /dev/zero', { resources: { limits: { memory: '16Mi' } } })),
  { name: 'one-of-two-fails', spec: job([shell('exit 1'), shell('true', { name: 'second' })]), until: 'ended' },
  {
    name: 'one-of-two-ended',
    spec: job([shell('exit 4'), idle({ name: 'second' })]),
    until: { all: [{ running: 'second' }, { condition: 'Ready', status: 'False', reason: 'ContainersNotReady' }] },
  },
  loops('crash-loop', shell('exit 1')),
  loops('crash-loop-of-success', shell('true')),
  loops('crash-loop-message', shell(`echo why > ${log}; exit 2`)),
  { name: 'crash-loop-of-one', spec: podOf([shell('exit 1'), idle({ name: 'second' })]), until: looping, loops: true },
  { name: 'on-failure-fails', spec: podOf(shell('exit 1'), { restartPolicy: 'OnFailure' }), until: looping, loops: true },
  { name: 'on-failure-succeeds', spec: podOf(shell('true'), { restartPolicy: 'OnFailure' }), until: 'ended' },
  { name: 'container-restarts-in-once-pod', spec: job(shell('exit 1', { restartPolicy: 'Always' })), until: looping, loops: true },
  {
    name: 'restart-rule',
    spec: job(
      shell('exit 42', {
        restartPolicy: 'Never',
        restartPolicyRules: [{ action: 'Restart', exitCodes: { operator: 'In', values: [42] } }],
      }),
    ),
    until: looping,
    loops: true,
  },
  {
    name: 'restart-rule-other-code',
    spec: job(
      shell('exit 41', {
        restartPolicy: 'Never',
        restartPolicyRules: [{ action: 'Restart', exitCodes: { operator: 'In', values: [42] } }],
      }),
    ),
    until: 'ended',
  },
  { name: 'init', spec: podOf(idle(), { initContainers: [shell('true', { name: 'first' }), shell('true', { name: 'next' })] }) },
  { name: 'init-fails', spec: podOf(idle(), { initContainers: [shell('exit 1', { name: 'first' })] }), until: looping, loops: true },
  {
    name: 'init-fails-once',
    spec: job(idle(), { initContainers: [shell('exit 5', { name: 'first' }), shell('true', { name: 'next' })] }),
    until: 'ended',
  },
  { name: 'init-runs', spec: podOf(idle(), { initContainers: [idle({ name: 'first' })] }), until: { running: 'first' } },
  { name: 'init-message', spec: podOf(idle(), { initContainers: [shell(`echo done > ${log}`, { name: 'first' })] }) },
  { name: 'sidecar', spec: podOf(idle(), { initContainers: [sidecar()] }) },
  { name: 'sidecar-of-job', spec: job(shell('true'), { initContainers: [sidecar()], terminationGracePeriodSeconds: 2 }), until: 'ended' },
  {
    name: 'sidecar-crashes',
    spec: podOf(idle(), { initContainers: [sidecar({ command: ['sh', '-c', 'exit 1'] })] }),
    until: looping,
    loops: true,
  },
  {
    name: 'sidecar-not-started',
    spec: podOf(idle(), {
      initContainers: [sidecar({ startupProbe: { exec: { command: ['false'] }, periodSeconds: 1, failureThreshold: 100 } })],
    }),
    until: { event: 'Unhealthy' },
  },
  {
    name: 'sidecar-not-ready',
    spec: podOf(idle(), {
      initContainers: [sidecar({ readinessProbe: { exec: { command: ['false'] }, periodSeconds: 1, failureThreshold: 1 } })],
    }),
    until: { event: 'Unhealthy' },
  },
  {
    name: 'sidecar-before-failing-init',
    spec: job(idle(), { initContainers: [sidecar(), shell('exit 1', { name: 'next' })], terminationGracePeriodSeconds: 2 }),
    until: 'ended',
  },
  {
    name: 'sidecars-in-order',
    spec: podOf(idle(), {
      initContainers: [sidecar(), shell('true', { name: 'between' }), sidecar({ name: 'side2' })],
      terminationGracePeriodSeconds: 3,
    }),
    steps: [{ act: 'delete', until: 'gone' }],
  },
  {
    name: 'ephemeral',
    spec: podOf(idle()),
    steps: [
      {
        act: 'patch',
        subresource: 'ephemeralcontainers',
        patch: { spec: { ephemeralContainers: [{ name: 'look', image: busybox, command: ['sh', '-c', waits] }] } },
        until: { running: 'look' },
      },
    ],
  },
  {
    name: 'ephemeral-ends',
    spec: podOf(idle()),
    steps: [
      {
        act: 'patch',
        subresource: 'ephemeralcontainers',
        patch: {
          spec: { ephemeralContainers: [{ name: 'look', image: busybox, command: ['sh', '-c', 'exit 6'], targetContainerName: 'main' }] },
        },
        until: { event: 'Started' },
      },
    ],
  },
  {
    name: 'ephemeral-image-missing',
    spec: podOf(idle()),
    steps: [
      {
        act: 'patch',
        subresource: 'ephemeralcontainers',
        patch: { spec: { ephemeralContainers: [{ name: 'look', image: 'registry.k8s.io/none/none:6' }] } },
        until: { waiting: 'ImagePullBackOff' },
      },
    ],
  },
  {
    name: 'image-changed',
    spec: podOf(idle({ terminationMessagePolicy: 'File' }), { terminationGracePeriodSeconds: 1 }),
    steps: [
      {
        act: 'patch',
        patch: { spec: { containers: [{ name: 'main', image: 'registry.k8s.io/e2e-test-images/agnhost:2.63.0' }] } },
        until: { all: [{ restarts: 1 }, 'ready'] },
      },
    ],
  },
];
