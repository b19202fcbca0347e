// Probes of every kind, passing and failing, and lifecycle hooks.
import type { Container, LifecycleHandler, Probe } from '../../../agent/model/generated/api.ts';
import type { Case, Until } from '../case.ts';
import { agnhost, idle, job, podOf, quick, shell } from './parts.ts';

const unhealthy = { event: 'Unhealthy' } as const;
const web = (more: Partial<Container>): Container => ({
  name: 'main',
  image: agnhost,
  args: ['netexec', '--http-port=8080'],
  ports: [{ name: 'web', containerPort: 8080 }],
  ...more,
});
const readiness = (name: string, probe: Probe, until: Until = unhealthy, more: Partial<Container> = {}): Case => ({
  name: `readiness-${name}`,
  spec: podOf(web({ readinessProbe: quick(probe), ...more })),
  until,
});
const bare = (name: string, probe: Probe, until: Until = unhealthy): Case => ({
  name: `readiness-${name}`,
  spec: podOf(idle({ readinessProbe: quick(probe) })),
  until,
});
const live = (name: string, container: Container): Case => ({
  name,
  spec: job(container, { terminationGracePeriodSeconds: 1 }),
  until: 'ended',
});
const once = { failureThreshold: 1, initialDelaySeconds: 1 };

export const probes: readonly Case[] = [
  readiness('http', { httpGet: { path: '/', port: 8080 } }, 'ready'),
  readiness('http-named-port', { httpGet: { path: '/', port: 'web' } }, 'ready'),
  readiness('http-named-port-missing', { httpGet: { path: '/', port: 'nobody' } }),
  readiness('http-status', { httpGet: { path: '/echo?code=503', port: 8080 } }),
  readiness('http-redirect', { httpGet: { path: '/redirect?location=/&code=302', port: 8080 } }, 'ready'),
  readiness(
    'http-redirect-away',
    { httpGet: { path: '/redirect?location=http://example.invalid/&code=302', port: 8080 } },
    { event: 'ProbeWarning' },
  ),
  readiness('http-headers', { httpGet: { path: '/header?key=X-A', port: 8080, httpHeaders: [{ name: 'X-A', value: 'b' }] } }, 'ready'),
  readiness('https-of-http', { httpGet: { path: '/', port: 8080, scheme: 'HTTPS' } }),
  readiness('tcp', { tcpSocket: { port: 8080 } }, 'ready'),
  readiness('exec', { exec: { command: ['true'] } }, 'ready'),
  bare('http-refused', { httpGet: { path: '/', port: 8081 } }),
  bare('http-host', { httpGet: { path: '/', port: 8081, host: '127.0.0.1' } }),
  bare('http-host-unknown', { httpGet: { path: '/', port: 80, host: 'no-such-host.invalid' } }),
  bare('tcp-refused', { tcpSocket: { port: 8081 } }),
  bare('tcp-named-port-missing', { tcpSocket: { port: 'nobody' } }),
  bare('exec-fails', { exec: { command: ['sh', '-c', 'echo out; echo err >&2; exit 3'] } }),
  bare('exec-missing', { exec: { command: ['/no/such'] } }),
  bare('exec-slow', { exec: { command: ['sleep', '10'] } }),
  bare('grpc-refused', { grpc: { port: 5000 } }),
  {
    name: 'readiness-grpc',
    spec: podOf({ name: 'main', image: agnhost, args: ['grpc-health-checking'], readinessProbe: quick({ grpc: { port: 5000 } }) }),
  },
  {
    name: 'readiness-grpc-service-unknown',
    spec: podOf({
      name: 'main',
      image: agnhost,
      args: ['grpc-health-checking'],
      readinessProbe: { ...quick({ grpc: { port: 5000, service: 'nobody' } }), initialDelaySeconds: 3 },
    }),
    until: unhealthy,
  },
  live('liveness-exec', idle({ livenessProbe: quick({ exec: { command: ['false'] }, ...once }) })),
  live('liveness-http', web({ livenessProbe: quick({ httpGet: { path: '/echo?code=500', port: 8080 }, initialDelaySeconds: 2 }) })),
  live('liveness-tcp', idle({ livenessProbe: quick({ tcpSocket: { port: 8081 }, ...once }) })),
  live('startup-fails', idle({ startupProbe: quick({ exec: { command: ['false'] }, ...once }) })),
  live(
    'liveness-own-grace',
    shell('trap "" TERM; while :; do sleep 1; done', {
      livenessProbe: quick({ exec: { command: ['false'] }, terminationGracePeriodSeconds: 1, ...once }),
    }),
  ),
  {
    name: 'startup-then-ready',
    spec: podOf(idle({ startupProbe: quick({ exec: { command: ['true'] } }), readinessProbe: quick({ exec: { command: ['true'] } }) })),
  },
  {
    name: 'startup-holds-readiness',
    spec: podOf(
      idle({
        startupProbe: quick({ exec: { command: ['false'] }, failureThreshold: 100 }),
        readinessProbe: quick({ exec: { command: ['true'] } }),
      }),
    ),
    until: unhealthy,
  },
  {
    name: 'readiness-gate',
    spec: podOf(idle(), { readinessGates: [{ conditionType: 'example.com/open' }] }),
    until: { condition: 'ContainersReady', status: 'True' },
  },
  {
    name: 'readiness-gate-opened',
    spec: podOf(idle(), { readinessGates: [{ conditionType: 'example.com/open' }] }),
    until: { condition: 'ContainersReady', status: 'True' },
    steps: [
      {
        act: 'patch',
        subresource: 'status',
        patch: { status: { conditions: [{ type: 'example.com/open', status: 'True' }] } },
        until: 'ready',
      },
    ],
  },
];

const started = (name: string, postStart: LifecycleHandler, until: Until): Case => ({
  name,
  spec: podOf(idle({ lifecycle: { postStart } }), { terminationGracePeriodSeconds: 1 }),
  until,
  loops: until !== 'ready',
});
const hookError = { all: [{ event: 'FailedPostStartHook' }, { waiting: 'PostStartHookError' }] } as const;
const stopped = (name: string, preStop: LifecycleHandler, graceSeconds = 5): Case => ({
  name,
  spec: podOf(idle({ lifecycle: { preStop } }), { terminationGracePeriodSeconds: graceSeconds }),
  steps: [{ act: 'delete', until: 'gone' }],
});

export const hooks: readonly Case[] = [
  started('post-start', { exec: { command: ['true'] } }, 'ready'),
  started('post-start-fails', { exec: { command: ['sh', '-c', 'echo no; exit 7'] } }, hookError),
  started('post-start-missing', { exec: { command: ['/no/such'] } }, hookError),
  started('post-start-http-refused', { httpGet: { path: '/', port: 8081 } }, hookError),
  started('post-start-named-port-missing', { httpGet: { path: '/', port: 'nobody' } }, hookError),
  started('post-start-sleep', { sleep: { seconds: 1 } }, 'ready'),
  stopped('pre-stop', { exec: { command: ['true'] } }),
  stopped('pre-stop-fails', { exec: { command: ['false'] } }),
  stopped('pre-stop-missing', { exec: { command: ['/no/such'] } }),
  stopped('pre-stop-http-refused', { httpGet: { path: '/', port: 8081 } }),
  stopped('pre-stop-slow', { exec: { command: ['sleep', '30'] } }, 2),
  stopped('pre-stop-sleep', { sleep: { seconds: 1 } }),
  {
    name: 'post-start-of-once',
    spec: podOf(idle({ lifecycle: { postStart: { exec: { command: ['false'] } } } }), {
      restartPolicy: 'Never',
      terminationGracePeriodSeconds: 1,
    }),
    until: 'ended',
  },
];
