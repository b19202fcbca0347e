// Images, commands and how containers start, or do not.
import type { Case } from '../case.ts';
import { agnhost, busybox, idle, job, nonroot, podOf, privateImage, shell } from './parts.ts';

export const images: readonly Case[] = [
  { name: 'plain', spec: podOf(idle()) },
  { name: 'two-containers', spec: podOf([idle(), idle({ name: 'second' })]) },
  {
    name: 'image-missing',
    spec: podOf(idle({ image: 'registry.k8s.io/e2e-test-images/busybox:none' })),
    until: { waiting: 'ImagePullBackOff' },
  },
  { name: 'image-repo-missing', spec: podOf(idle({ image: 'registry.k8s.io/none/none:1' })), until: { waiting: 'ImagePullBackOff' } },
  { name: 'image-host-unknown', spec: podOf(idle({ image: 'no-such-host.invalid/x:1' })), until: { waiting: 'ErrImagePull' } },
  { name: 'image-name-invalid', spec: podOf(idle({ image: 'Busybox:1' })), until: { waiting: 'InvalidImageName' } },
  { name: 'image-name-colon', spec: podOf(idle({ image: 'busybox::1' })), until: { waiting: 'InvalidImageName' } },
  {
    name: 'image-never',
    spec: podOf(idle({ image: 'registry.k8s.io/none/none:2', imagePullPolicy: 'Never' })),
    until: { waiting: 'ErrImageNeverPull' },
  },
  { name: 'image-never-there', spec: podOf(idle({ imagePullPolicy: 'Never' })) },
  { name: 'image-always', spec: podOf(idle({ imagePullPolicy: 'Always' })) },
  { name: 'image-bad-digest', spec: podOf(idle({ image: `${busybox}@sha256:${'0'.repeat(64)}` })), until: { waiting: 'ImagePullBackOff' } },
  { name: 'image-private-no-login', spec: podOf(idle({ image: privateImage })), until: { waiting: 'ErrImagePull' } },
  {
    name: 'image-private-wrong-login',
    spec: podOf(idle({ image: privateImage }), { imagePullSecrets: [{ name: 'wrong-login' }] }),
    until: { waiting: 'ErrImagePull' },
  },
  {
    name: 'pull-secret-missing',
    spec: podOf(idle(), { imagePullSecrets: [{ name: 'nobody' }, { name: 'secret' }] }),
    until: { all: ['ready', { event: 'FailedToRetrieveImagePullSecret' }] },
  },
  { name: 'pull-secret-empty', spec: podOf(idle(), { imagePullSecrets: [{ name: 'no-login' }] }) },
  {
    name: 'image-missing-of-two',
    spec: podOf([idle(), idle({ name: 'second', image: 'registry.k8s.io/none/none:3' })]),
    until: { all: [{ running: 'main' }, { waiting: 'ImagePullBackOff' }] },
  },
  {
    name: 'image-missing-init',
    spec: podOf(idle(), { initContainers: [idle({ name: 'first', image: 'registry.k8s.io/none/none:4' })] }),
    until: { waiting: 'ImagePullBackOff' },
  },
  {
    name: 'command-missing',
    spec: podOf({ name: 'main', image: busybox, command: ['/no/such'] }),
    until: { waiting: 'RunContainerError' },
    loops: true,
  },
  {
    name: 'command-not-in-path',
    spec: podOf({ name: 'main', image: busybox, command: ['nosuch'] }),
    until: { waiting: 'RunContainerError' },
    loops: true,
  },
  {
    name: 'command-no-exec',
    spec: podOf({ name: 'main', image: busybox, command: ['/etc/passwd'] }),
    until: { waiting: 'RunContainerError' },
    loops: true,
  },
  { name: 'command-missing-once', spec: job({ name: 'main', image: busybox, command: ['/no/such'] }), until: 'ended' },
  {
    name: 'command-missing-init',
    spec: job(idle(), { initContainers: [{ name: 'first', image: busybox, command: ['/no/such'] }] }),
    until: 'ended',
  },
  { name: 'workdir-missing', spec: job(shell('pwd', { workingDir: '/made/here' })), until: 'ended' },
  { name: 'workdir-a-file', spec: podOf(idle({ workingDir: '/etc/passwd' })), until: { waiting: 'RunContainerError' }, loops: true },
  {
    name: 'args-expanded',
    spec: job({
      name: 'main',
      image: busybox,
      command: ['sh', '-c', 'echo $(A)-$(B)-$$(A) > /dev/termination-log'],
      env: [{ name: 'A', value: 'x' }],
    }),
    until: 'ended',
  },
  { name: 'tty-stdin', spec: podOf(idle({ tty: true, stdin: true, stdinOnce: true })) },
  { name: 'default-command', spec: podOf({ name: 'main', image: agnhost }) },
  { name: 'nonroot-image', spec: podOf({ name: 'main', image: nonroot, command: ['sleep', '1000000'] }) },
];
