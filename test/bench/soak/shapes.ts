// The pods of the soak: every shape that a node meets, each made to change by itself as often as it can.
import type { Container, PodSpec, Probe } from '../../../agent/model/generated/api.ts';

const e2e = 'registry.k8s.io/e2e-test-images';
const busybox = `${e2e}/busybox:1.37.0-1`;
const agnhost = `${e2e}/agnhost:2.63.0`;

/** What the driver does to a pod of a shape while it lives. */
export type Doing = 'annotate' | 'add-ephemeral' | 'resize' | 'make-missing';

export type Shape = {
  readonly sort: string;
  /** How often it is dealt, among the others. */
  readonly weight: number;
  /** `n` tells pods of a shape apart. */
  readonly spec: (n: number) => PodSpec;
  readonly doings?: readonly Doing[];
  /** False when it may wait for ever, or is turned away: then nobody expects it to leave Pending. */
  readonly starts?: false;
};

/** Ends at once when asked to, as a shell in the foreground would not. */
const waits = 'trap "exit 0" TERM; sleep 1000000 & wait';

const shell = (name: string, script: string, more: Partial<Container> = {}): Container => ({
  name,
  image: busybox,
  command: ['sh', '-c', script],
  ...more,
});

/** A shell that does something every few seconds at random until it is told to end. */
const everySoOften = (script: string): string => `trap "exit 0" TERM; while :; do sleep $((RANDOM % 8 + 2)) & wait $!; ${script}; done`;

const probe = (how: Probe): Probe => ({ periodSeconds: 1, timeoutSeconds: 3, failureThreshold: 2, ...how });

export const configMapName = 'config';
export const secretName = 'secret';
/** Absent until the driver makes it, now and then, for a while. */
export const missingName = 'missing';

export const shapes: readonly Shape[] = [
  { sort: 'plain', weight: 2, spec: () => ({ containers: [shell('main', waits)] }), doings: ['annotate', 'add-ephemeral'] },
  {
    sort: 'stubborn',
    weight: 1,
    spec: () => ({ containers: [shell('main', 'trap "" TERM; while :; do sleep 1; done')], terminationGracePeriodSeconds: 3 }),
  },
  {
    sort: 'crash-loop',
    weight: 3,
    spec: () => ({ containers: [shell('main', 'sleep 0.$((RANDOM % 10)); exit $((RANDOM % 3))'), shell('steady', waits)] }),
  },
  {
    sort: 'http-probe',
    weight: 2,
    spec: () => ({
      containers: [
        shell(
          'main',
          `mkdir /www; cd /www; echo ok > live; echo ok > ready; httpd -p 8080 -h /www; ${everySoOften('if [ -e ready ]; then rm ready; else echo ok > ready; fi; [ $((RANDOM % 8)) = 0 ] && rm -f live')}`,
          {
            readinessProbe: probe({ httpGet: { path: '/ready', port: 8080 } }),
            livenessProbe: probe({ httpGet: { path: '/live', port: 8080 }, failureThreshold: 3 }),
          },
        ),
      ],
    }),
  },
  {
    sort: 'exec-probe',
    weight: 2,
    spec: () => ({
      containers: [
        shell('main', `sleep 2; touch /started /ready; ${everySoOften('if [ -e /ready ]; then rm /ready; else touch /ready; fi')}`, {
          startupProbe: probe({ exec: { command: ['test', '-e', '/started'] }, failureThreshold: 60 }),
          readinessProbe: probe({ exec: { command: ['test', '-e', '/ready'] } }),
          livenessProbe: probe({ exec: { command: ['sh', '-c', 'exit $((RANDOM % 20 == 0))'] }, failureThreshold: 2 }),
        }),
      ],
    }),
  },
  {
    sort: 'tcp-probe',
    weight: 1,
    spec: () => ({
      containers: [
        shell('main', `httpd -p 8080 -h /; ${everySoOften('pkill httpd || httpd -p 8080 -h /')}`, {
          readinessProbe: probe({ tcpSocket: { port: 8080 } }),
        }),
      ],
    }),
  },
  {
    sort: 'grpc-probe',
    weight: 1,
    spec: () => ({
      containers: [
        {
          name: 'main',
          image: agnhost,
          args: ['grpc-health-checking', '--port=5000', '--http-port=8080', '--delay-unhealthy-sec=20'],
          readinessProbe: probe({ grpc: { port: 5000 } }),
          livenessProbe: probe({ grpc: { port: 5000 }, failureThreshold: 5 }),
        },
      ],
    }),
  },
  {
    sort: 'job',
    weight: 2,
    spec: (n) => ({
      restartPolicy: n % 2 === 0 ? 'OnFailure' : 'Never',
      containers: [shell('main', 'sleep $((RANDOM % 6)); exit $((RANDOM % 2))')],
    }),
  },
  {
    sort: 'sidecar',
    weight: 2,
    spec: (n) => ({
      ...(n % 2 === 0 ? { restartPolicy: 'Never' } : {}),
      initContainers: [
        shell('sidecar', `touch /up; ${waits}`, {
          restartPolicy: 'Always',
          startupProbe: probe({ exec: { command: ['test', '-e', '/up'] }, failureThreshold: 60 }),
        }),
        shell('restless', 'sleep $((RANDOM % 5 + 1)); exit 1', { restartPolicy: 'Always' }),
      ],
      containers: [shell('main', n % 2 === 0 ? 'sleep $((RANDOM % 30 + 1))' : waits)],
    }),
  },
  {
    sort: 'init-chain',
    weight: 2,
    spec: () => ({
      initContainers: [
        shell('first', 'echo 1 > /shared/file', { volumeMounts: [{ name: 'shared', mountPath: '/shared' }] }),
        shell('second', 'sleep 1; exit $((RANDOM % 3 == 0))'),
        shell('third', 'test "$(cat /shared/file)" = 1', { volumeMounts: [{ name: 'shared', mountPath: '/shared' }] }),
      ],
      containers: [shell('main', waits), shell('other', waits)],
      volumes: [{ name: 'shared', emptyDir: {} }],
    }),
  },
  {
    sort: 'volumes',
    weight: 3,
    spec: (n) => ({
      containers: [
        shell('main', `test -e /config/key && test -e /secret/word && test -s /all/token && echo mine > /scratch/file && ${waits}`, {
          volumeMounts: ['config', 'secret', 'scratch', 'memory', 'about', 'all'].map((name) => ({ name, mountPath: `/${name}` })),
          env: [{ name: 'KEY', valueFrom: { configMapKeyRef: { name: configMapName, key: 'key' } } }],
        }),
      ],
      volumes: [
        { name: 'config', configMap: { name: configMapName } },
        { name: 'secret', secret: { secretName } },
        { name: 'scratch', emptyDir: n % 2 === 0 ? {} : { sizeLimit: '10Mi' } },
        { name: 'memory', emptyDir: { medium: 'Memory', sizeLimit: '1Mi' } },
        { name: 'about', downwardAPI: { items: [{ path: 'annotations', fieldRef: { fieldPath: 'metadata.annotations' } }] } },
        {
          name: 'all',
          projected: {
            sources: [
              { serviceAccountToken: { path: 'token', expirationSeconds: 600 } },
              { configMap: { name: configMapName } },
              { secret: { name: secretName } },
              { downwardAPI: { items: [{ path: 'name', fieldRef: { fieldPath: 'metadata.name' } }] } },
            ],
          },
        },
      ],
    }),
    doings: ['annotate'],
  },
  {
    sort: 'hooks',
    weight: 2,
    spec: () => ({
      containers: [
        shell('main', waits, {
          lifecycle: { postStart: { exec: { command: ['sh', '-c', 'sleep 0.5'] } }, preStop: { exec: { command: ['sleep', '3'] } } },
        }),
        shell('other', waits, { lifecycle: { preStop: { sleep: { seconds: 2 } } } }),
      ],
    }),
  },
  {
    sort: 'resize',
    weight: 2,
    spec: () => ({
      containers: [
        shell('main', waits, {
          resources: { requests: { cpu: '20m', memory: '32Mi' }, limits: { cpu: '200m', memory: '64Mi' } },
          resizePolicy: [
            { resourceName: 'cpu', restartPolicy: 'NotRequired' },
            { resourceName: 'memory', restartPolicy: 'NotRequired' },
          ],
        }),
      ],
    }),
    doings: ['resize'],
  },
  {
    sort: 'oom',
    weight: 1,
    spec: () => ({
      containers: [
        shell('main', 'sleep 2; tail /dev/zero', { resources: { requests: { memory: '16Mi' }, limits: { memory: '24Mi' } } }),
        shell('steady', waits),
      ],
    }),
  },
  {
    sort: 'big-logs',
    weight: 1,
    spec: () => ({
      containers: [
        shell(
          'main',
          'trap "exit 0" TERM; line=$(head -c 1500 /dev/zero | tr "\\0" x); while :; do i=0; while [ $i -lt 60 ]; do echo "$line"; i=$((i + 1)); done; sleep 0.3 & wait $!; done',
        ),
      ],
    }),
  },
  {
    sort: 'no-image',
    weight: 1,
    starts: false,
    spec: () => ({ containers: [{ name: 'main', image: `${e2e}/absent:1` }, shell('steady', waits)] }),
  },
  {
    sort: 'no-config',
    weight: 2,
    starts: false,
    spec: (n) => ({
      containers: [
        shell(
          'main',
          waits,
          n % 2 === 0 ? { env: [{ name: 'KEY', valueFrom: { configMapKeyRef: { name: missingName, key: 'key' } } }] } : {},
        ),
      ],
      ...(n % 2 === 0 ? {} : { volumes: [{ name: 'missing', configMap: { name: missingName } }] }),
    }),
    doings: ['make-missing'],
  },
  { sort: 'deadline', weight: 1, spec: () => ({ activeDeadlineSeconds: 12, containers: [shell('main', waits)] }) },
  {
    // Now and then two want the same port: the node turns the second away.
    sort: 'host-port',
    weight: 2,
    starts: false,
    spec: (n) => ({
      containers: [shell('main', `httpd -p 8080 -h /; ${waits}`, { ports: [{ containerPort: 8080, hostPort: 18_080 + (n % 4) }] })],
    }),
  },
  { sort: 'host-network', weight: 1, spec: () => ({ hostNetwork: true, hostPID: true, containers: [shell('main', waits)] }) },
  {
    sort: 'shared-pids',
    weight: 1,
    spec: () => ({ shareProcessNamespace: true, containers: [shell('main', waits), shell('short', 'sleep 3; exit 1')] }),
  },
  {
    sort: 'too-big',
    weight: 1,
    starts: false,
    spec: () => ({ containers: [shell('main', waits, { resources: { requests: { cpu: '1000' } } })] }),
  },
];

/** The spec of a static pod; `version` makes it another one. */
export const staticSpec = (version: number): PodSpec => ({
  terminationGracePeriodSeconds: 2,
  containers: [shell('main', `echo ${version}; ${waits}`), ...(version % 3 === 0 ? [shell('other', waits)] : [])],
});

/** What a debugger adds to a running pod. */
export const ephemeralContainer = (n: number) => ({ ...shell(`debug-${n}`, 'sleep $((RANDOM % 10))'), targetContainerName: 'main' });

/** Resources to resize to: a few steps up and down. */
export const resizedTo = (step: number): { requests: Record<string, string>; limits: Record<string, string> } => ({
  requests: { cpu: `${10 + 10 * (step % 4)}m`, memory: `${32 + 8 * (step % 3)}Mi` },
  limits: { cpu: `${150 + 50 * (step % 3)}m`, memory: `${64 + 16 * (step % 3)}Mi` },
});
