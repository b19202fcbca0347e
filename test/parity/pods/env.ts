// Environments: what is there, what is not, and what may be missing.
import type { Container } from '../../../agent/model/generated/api.ts';
import type { Case } from '../case.ts';
import { idle, job, podOf, shell } from './parts.ts';

const tell = 'env | sort | grep -E "^(V|a|b|x_|N|S|P)" > /dev/termination-log';
const of = (env: NonNullable<Container['env']>): Container => shell(tell, { env });
const from = (envFrom: NonNullable<Container['envFrom']>): Container => shell(tell, { envFrom });
const config = { waiting: 'CreateContainerConfigError' } as const;

const fields = ['metadata.name', "metadata.labels['app']", "metadata.annotations['note']", 'spec.serviceAccountName', 'metadata.namespace'];

export const env: readonly Case[] = [
  {
    name: 'env-config-map-missing',
    spec: podOf(of([{ name: 'V', valueFrom: { configMapKeyRef: { name: 'nobody', key: 'a' } } }])),
    until: config,
  },
  {
    name: 'env-config-map-key-missing',
    spec: podOf(of([{ name: 'V', valueFrom: { configMapKeyRef: { name: 'config', key: 'z' } } }])),
    until: config,
  },
  {
    name: 'env-secret-missing',
    spec: podOf(of([{ name: 'V', valueFrom: { secretKeyRef: { name: 'nobody', key: 'a' } } }])),
    until: config,
  },
  {
    name: 'env-secret-key-missing',
    spec: podOf(of([{ name: 'V', valueFrom: { secretKeyRef: { name: 'secret', key: 'z' } } }])),
    until: config,
  },
  {
    name: 'env-optional-missing',
    spec: job(
      of([
        { name: 'V1', valueFrom: { configMapKeyRef: { name: 'nobody', key: 'a', optional: true } } },
        { name: 'V2', valueFrom: { configMapKeyRef: { name: 'config', key: 'z', optional: true } } },
        { name: 'V3', valueFrom: { secretKeyRef: { name: 'nobody', key: 'a', optional: true } } },
        { name: 'V4', value: 'here' },
      ]),
    ),
    until: 'ended',
  },
  { name: 'env-from-config-map', spec: job(from([{ configMapRef: { name: 'config' } }])), until: 'ended' },
  {
    name: 'env-from-prefix',
    spec: job(
      from([
        { prefix: 'x_', configMapRef: { name: 'config' } },
        { prefix: 'x_', secretRef: { name: 'secret' } },
      ]),
    ),
    until: 'ended',
  },
  { name: 'env-from-empty', spec: job(from([{ configMapRef: { name: 'empty' } }])), until: 'ended' },
  { name: 'env-from-config-map-missing', spec: podOf(from([{ configMapRef: { name: 'nobody' } }])), until: config },
  { name: 'env-from-secret-missing', spec: podOf(from([{ secretRef: { name: 'nobody' } }])), until: config },
  {
    name: 'env-from-optional-missing',
    spec: job(from([{ configMapRef: { name: 'nobody', optional: true } }, { secretRef: { name: 'nobody', optional: true } }])),
    until: 'ended',
  },
  {
    name: 'env-made-later',
    spec: job(of([{ name: 'V', valueFrom: { configMapKeyRef: { name: 'later', key: 'a' } } }])),
    until: config,
    steps: [{ act: 'create', objects: [{ kind: 'ConfigMap', name: 'later', body: { data: { a: 'now' } } }], until: 'ended' }],
  },
  {
    name: 'env-init-missing',
    spec: podOf(idle(), { initContainers: [shell('true', { name: 'first', envFrom: [{ secretRef: { name: 'nobody' } }] })] }),
    until: config,
  },
  {
    name: 'env-of-one-of-two-missing',
    spec: podOf([idle(), shell('true', { name: 'second', envFrom: [{ secretRef: { name: 'nobody' } }] })]),
    until: { all: [{ running: 'main' }, config] },
  },
  {
    name: 'env-fields',
    labels: { app: 'x' },
    annotations: { note: 'say "hi"' },
    spec: job(of(fields.map((fieldPath, i) => ({ name: `V${i}`, valueFrom: { fieldRef: { fieldPath } } }))), {}),
    until: 'ended',
  },
  {
    name: 'env-resources',
    spec: job({
      ...of(
        ['limits.cpu', 'limits.memory', 'requests.cpu', 'requests.memory', 'limits.ephemeral-storage'].map((resource, i) => ({
          name: `V${i}`,
          valueFrom: { resourceFieldRef: { resource, ...(i === 1 ? { divisor: '1Mi' } : {}), ...(i === 2 ? { divisor: '1m' } : {}) } },
        })),
      ),
      resources: { limits: { cpu: '500m', memory: '64Mi', 'ephemeral-storage': '1Gi' }, requests: { cpu: '10m', memory: '32Mi' } },
    }),
    until: 'ended',
  },
  {
    name: 'env-order',
    spec: job(
      of([
        { name: 'V1', value: '$(V2)' },
        { name: 'V2', value: 'two' },
        { name: 'V3', value: '$(V2)$(V9)$$(V2)' },
      ]),
    ),
    until: 'ended',
  },
  {
    name: 'env-service-links-off',
    spec: job(shell('env | grep -c _SERVICE_ > /dev/termination-log'), { enableServiceLinks: false }),
    until: 'ended',
  },
  {
    name: 'env-odd-names',
    spec: job(
      of([
        { name: 'V.dot', value: '1' },
        { name: 'V-dash', value: '2' },
        { name: 'V', value: '' },
      ]),
    ),
    until: 'ended',
  },
  {
    name: 'env-file-missing',
    spec: podOf(
      { ...of([]), env: [{ name: 'V', valueFrom: { fileKeyRef: { volumeName: 'v', path: 'no.env', key: 'A' } } }] },
      { volumes: [{ name: 'v', emptyDir: {} }] },
    ),
    until: { event: 'Failed' },
  },
];
