// What the pods of the comparison are made of.
import type { Container, PodSpec, Probe } from '../../../agent/model/generated/api.ts';
import type { NamespacedObject } from '../case.ts';

const e2e = 'registry.k8s.io/e2e-test-images';
export const busybox = `${e2e}/busybox:1.37.0-1`;
export const agnhost = `${e2e}/agnhost:2.63.0`;
export const nonroot = `${e2e}/nonroot:1.5`;
export const privateImage = 'gcr.io/k8s-authenticated-test/agnhost:2.6';

/** Ends at once when asked to, as a shell in the foreground would not. */
export const waits = 'trap "exit 0" TERM; sleep 1000000 & wait';

export const shell = (script: string, more: Partial<Container> = {}): Container => ({
  name: 'main',
  image: busybox,
  command: ['sh', '-c', script],
  ...more,
});

export const idle = (more: Partial<Container> = {}): Container => shell(waits, more);

/** A pod of one container, or of those given. */
export const podOf = (containers: Container | Container[], more: Partial<PodSpec> = {}): PodSpec => ({
  containers: Array.isArray(containers) ? containers : [containers],
  ...more,
});

/** One that runs to its end. */
export const job = (containers: Container | Container[], more: Partial<PodSpec> = {}): PodSpec =>
  podOf(containers, { restartPolicy: 'Never', ...more });

export const quick = (how: Probe): Probe => ({ periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 1, ...how });

/** What every pod finds in its namespace. */
export const fixtures: readonly NamespacedObject[] = [
  {
    kind: 'ConfigMap',
    name: 'config',
    body: { data: { a: '1', b: 'two', 'with.dot': 'dotted', '1st': 'first' }, binaryData: { bin: '/w==' } },
  },
  { kind: 'ConfigMap', name: 'empty', body: {} },
  { kind: 'Secret', name: 'secret', body: { stringData: { password: 'hush', user: 'me' } } },
  { kind: 'Secret', name: 'wrong-login', body: loginOf('e2e', 'wrong') },
  { kind: 'Secret', name: 'login', body: loginOf('e2e', 'for-tests-only') },
  { kind: 'Secret', name: 'no-login', body: { stringData: { '.dockerconfigjson': '{' + '}' }, type: 'kubernetes.io/dockerconfigjson' } },
  { kind: 'Service', name: 'peer', body: { spec: { ports: [{ port: 80 }], clusterIP: 'None', selector: { app: 'peer' } } } },
];

function loginOf(user: string, password: string): object {
  const auth = Buffer.from(`${user}:${password}`).toString('base64');
  return {
    type: 'kubernetes.io/dockerconfigjson',
    stringData: { '.dockerconfigjson': JSON.stringify({ auths: { 'gcr.io': { auth } } }) },
  };
}
