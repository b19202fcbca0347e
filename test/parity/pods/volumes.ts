// Volumes and mounts.
import type { Volume, VolumeMount } from '../../../agent/model/generated/api.ts';
import type { Case } from '../case.ts';
import { busybox, idle, job, podOf, shell } from './parts.ts';

const at = (mountPath: string, more: Partial<VolumeMount> = {}): VolumeMount => ({ name: 'v', mountPath, ...more });
const volume = (source: Omit<Volume, 'name'>): Volume => ({ name: 'v', ...source });
const list = 'ls -ln /v | sed "1d; s/  */ /g" | cut -d" " -f1,3,4,9 > /dev/termination-log';
const shows = (source: Omit<Volume, 'name'>, more: object = {}): Case['spec'] =>
  job(shell(list, { volumeMounts: [at('/v')] }), { volumes: [volume(source)], ...more });
const mountFails = { event: 'FailedMount' } as const;
const failed = (name: string, source: Omit<Volume, 'name'>): Case => ({
  name,
  spec: podOf(idle({ volumeMounts: [at('/v')] }), { volumes: [volume(source)] }),
  until: mountFails,
});

export const volumes: readonly Case[] = [
  failed('volume-config-map-missing', { configMap: { name: 'nobody' } }),
  failed('volume-secret-missing', { secret: { secretName: 'nobody' } }),
  failed('volume-config-map-key-missing', { configMap: { name: 'config', items: [{ key: 'z', path: 'z' }] } }),
  failed('volume-secret-key-missing', { secret: { secretName: 'secret', items: [{ key: 'z', path: 'z' }] } }),
  failed('volume-projected-missing', { projected: { sources: [{ configMap: { name: 'config' } }, { secret: { name: 'nobody' } }] } }),
  failed('volume-host-path-missing', { hostPath: { path: '/no/such/folder', type: 'Directory' } }),
  failed('volume-host-path-not-a-folder', { hostPath: { path: '/etc/passwd', type: 'Directory' } }),
  failed('volume-host-path-not-a-file', { hostPath: { path: '/etc', type: 'File' } }),
  failed('volume-host-path-not-a-socket', { hostPath: { path: '/etc/passwd', type: 'Socket' } }),
  failed('volume-host-path-not-a-device', { hostPath: { path: '/etc/passwd', type: 'CharDevice' } }),
  {
    name: 'volume-optional-missing',
    spec: shows({ projected: { sources: [{ configMap: { name: 'nobody', optional: true } }, { secret: { name: 'secret' } }] } }),
    until: 'ended',
  },
  { name: 'volume-config-map-optional', spec: shows({ configMap: { name: 'nobody', optional: true } }), until: 'ended' },
  { name: 'volume-config-map', spec: shows({ configMap: { name: 'config', defaultMode: 0o400 } }), until: 'ended' },
  {
    name: 'volume-secret-items',
    spec: shows({ secret: { secretName: 'secret', items: [{ key: 'user', path: 'deep/er/name', mode: 0o440 }] } }),
    until: 'ended',
  },
  { name: 'volume-empty-dir', spec: shows({ emptyDir: {} }), until: 'ended' },
  {
    name: 'volume-memory',
    spec: job(shell('df -k /v | tail -1 | tr -s " " | cut -d" " -f1,2 > /dev/termination-log', { volumeMounts: [at('/v')] }), {
      volumes: [volume({ emptyDir: { medium: 'Memory', sizeLimit: '1Mi' } })],
    }),
    until: 'ended',
  },
  {
    name: 'volume-downward',
    labels: { app: 'x' },
    annotations: { note: 'a\nb' },
    spec: shows({
      downwardAPI: {
        items: [
          { path: 'labels', fieldRef: { fieldPath: 'metadata.labels' } },
          { path: 'cpu', resourceFieldRef: { containerName: 'main', resource: 'limits.cpu' } },
        ],
      },
    }),
    until: 'ended',
  },
  {
    name: 'volume-token',
    spec: job(shell('ls /var/run/secrets/kubernetes.io/serviceaccount > /dev/termination-log'), { automountServiceAccountToken: true }),
    until: 'ended',
  },
  { name: 'volume-host-path-made', spec: shows({ hostPath: { path: '/tmp/parity-made', type: 'DirectoryOrCreate' } }), until: 'ended' },
  { name: 'volume-fs-group', spec: shows({ secret: { secretName: 'secret' } }, { securityContext: { fsGroup: 2345 } }), until: 'ended' },
  {
    name: 'volume-empty-dir-fs-group',
    spec: job(shell('ls -lnd /v | cut -d" " -f1,3,4 > /dev/termination-log', { volumeMounts: [at('/v')] }), {
      volumes: [volume({ emptyDir: {} })],
      securityContext: { fsGroup: 2345 },
    }),
    until: 'ended',
  },
  {
    name: 'mount-read-only',
    spec: job(shell('touch /v/x', { volumeMounts: [at('/v', { readOnly: true })] }), { volumes: [volume({ emptyDir: {} })] }),
    until: 'ended',
  },
  {
    name: 'mount-over-file',
    spec: podOf(idle({ volumeMounts: [at('/etc/passwd')] }), { volumes: [volume({ emptyDir: {} })] }),
    until: { waiting: 'RunContainerError' },
    loops: true,
  },
  {
    name: 'mount-sub-path',
    spec: job(shell('cat /f > /dev/termination-log', { volumeMounts: [at('/f', { subPath: 'a' })] }), {
      volumes: [volume({ configMap: { name: 'config' } })],
    }),
    until: 'ended',
  },
  {
    name: 'mount-sub-path-made',
    spec: job(shell(list, { volumeMounts: [at('/v', { subPath: 'x/y' })] }), { volumes: [volume({ emptyDir: {} })] }),
    until: 'ended',
  },
  {
    name: 'mount-sub-path-expr',
    spec: job(
      shell('mount | grep -c " /v " > /dev/termination-log', {
        env: [{ name: 'N', value: 'x' }],
        volumeMounts: [at('/v', { subPathExpr: '$(N)-$(N)' })],
      }),
      { volumes: [volume({ emptyDir: {} })] },
    ),
    until: 'ended',
  },
  {
    name: 'mount-sub-path-expr-unset',
    spec: podOf(idle({ volumeMounts: [at('/v', { subPathExpr: '$(NOBODY)' })] }), { volumes: [volume({ emptyDir: {} })] }),
    until: { waiting: 'CreateContainerConfigError' },
  },
  {
    name: 'mount-sub-path-expr-absolute',
    spec: podOf(idle({ env: [{ name: 'N', value: '/etc' }], volumeMounts: [at('/v', { subPathExpr: '$(N)' })] }), {
      volumes: [volume({ emptyDir: {} })],
    }),
    until: { waiting: 'CreateContainerConfigError' },
  },
  {
    name: 'mount-sub-path-expr-up',
    spec: podOf(idle({ env: [{ name: 'N', value: '../up' }], volumeMounts: [at('/v', { subPathExpr: '$(N)' })] }), {
      volumes: [volume({ emptyDir: {} })],
    }),
    until: { waiting: 'CreateContainerConfigError' },
  },
  {
    name: 'mount-sub-path-link-out',
    spec: podOf(idle({ volumeMounts: [at('/v', { subPath: 'out' })] }), {
      volumes: [volume({ emptyDir: {} })],
      initContainers: [shell('ln -s /etc /v/out', { name: 'first', volumeMounts: [at('/v')] })],
    }),
    until: { waiting: 'CreateContainerConfigError' },
  },
  {
    name: 'mount-sub-path-under-file',
    spec: podOf(idle({ volumeMounts: [at('/v', { subPath: 'f/x' })] }), {
      volumes: [volume({ emptyDir: {} })],
      initContainers: [shell('touch /v/f', { name: 'first', volumeMounts: [at('/v')] })],
    }),
    until: { waiting: 'CreateContainerConfigError' },
  },
  {
    name: 'mount-recursive-read-only',
    spec: podOf(idle({ volumeMounts: [at('/v', { readOnly: true, recursiveReadOnly: 'IfPossible' })] }), {
      volumes: [volume({ emptyDir: {} })],
    }),
  },
  {
    name: 'volume-image',
    spec: job(shell('ls /v/bin/busybox > /dev/termination-log', { volumeMounts: [at('/v')] }), {
      volumes: [volume({ image: { reference: busybox } })],
    }),
    until: 'ended',
  },
  {
    name: 'volume-image-missing',
    spec: podOf(idle({ volumeMounts: [at('/v')] }), { volumes: [volume({ image: { reference: 'registry.k8s.io/none/none:5' } })] }),
    until: { waiting: 'ImagePullBackOff' },
  },
  { name: 'volume-unused-missing', spec: podOf(idle(), { volumes: [volume({ configMap: { name: 'nobody' } })] }) },
  {
    name: 'volume-made-later',
    spec: job(shell(list, { volumeMounts: [at('/v')] }), { volumes: [volume({ secret: { secretName: 'later' } })] }),
    until: mountFails,
    steps: [{ act: 'create', objects: [{ kind: 'Secret', name: 'later', body: { stringData: { a: 'now' } } }], until: 'ended' }],
  },
];
