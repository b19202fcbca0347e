import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import type { Container, PodStatus } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import type { RunningPod } from '../../../agent/probes/targets.ts';
import type { ProbeVerdicts } from '../../../agent/probes/verdict.ts';
import { type ProbesOptions, startProbes } from '../../../agent/probes/worker.ts';
import { manualClock } from '../identity/manual-clock.ts';

const exec = { command: ['check'] };

function podOf(container: Omit<Container, 'name'>, more: { status?: PodStatus; deleted?: boolean } = {}): AgentPod {
  return {
    metadata: { name: 'p', namespace: 'ns', uid: 'u', ...(more.deleted ? { deletionTimestamp: 'now' } : {}) },
    spec: { containers: [{ name: 'c', ...container }] },
    ...(more.status === undefined ? {} : { status: more.status }),
  } as AgentPod;
}

/** Probes whose commands answer as `answers` says by the time (s) and the container. */
function setup(more: { options?: Partial<ProbesOptions>; journal?: [string, ProbeVerdicts][] } = {}) {
  const clock = manualClock(1_000_000_000);
  const pods = new Table<{ pod: AgentPod }>('pods');
  const runtime = new Table<RunningPod>('runtime');
  const endings = new Table<object>('endings');
  const journal = new Map(more.journal);
  const events: string[] = [];
  const asked: string[] = [];
  let answer: (request: { container_id?: string | undefined }) => Promise<object> | object = () => ({ exit_code: 0 });
  const seconds = (): number => Math.round(clock.mono() / 10) / 100;
  const start = () =>
    startProbes({
      clock,
      log: silentLog,
      signal: new AbortController().signal,
      pods,
      runtime,
      endings,
      hostIp: () => undefined,
      expand: async (_target, command) => command,
      httpGet: () => Promise.reject(new Error('no HTTP in this story')),
      execSync: async (request) => {
        asked.push(`${seconds()} ${request.container_id}`);
        return await answer(request);
      },
      event: (_, type, reason, message, path) => void events.push(`${type} ${reason} ${path} ${message}`),
      journal: { entries: () => journal.entries(), set: (id, v) => void journal.set(id, v), delete: (id) => void journal.delete(id) },
      random: () => 0.5,
      ...more.options,
    });
  return {
    clock,
    pods,
    runtime,
    endings,
    journal,
    events,
    asked,
    start,
    answerWith(fn: typeof answer) {
      answer = fn;
    },
    run(id: string | undefined, startedAt = clock.wall()) {
      const containers = id === undefined ? [] : [{ id, name: 'c', state: 'running', startedAt }];
      runtime.set('u', { containers, sandboxes: [{ ready: true, ips: ['127.0.0.1'] }] });
    },
    synced() {
      pods.markSynced();
      runtime.markSynced();
    },
  };
}

test('a container is probed from its start on, and its verdict follows the thresholds', async () => {
  const s = setup();
  s.pods.set('u', { pod: podOf({ readinessProbe: { exec, initialDelaySeconds: 2, periodSeconds: 10, failureThreshold: 2 } }) });
  await using probes = s.start();
  s.synced();
  await s.clock.advance(5000);
  assert.deepEqual(s.asked, []);
  s.run('a');
  await s.clock.advance(1900);
  assert.deepEqual([s.asked, probes.verdicts.get('a')], [[], undefined]);
  await s.clock.advance(200);
  assert.deepEqual([s.asked, probes.verdicts.get('a')], [['7 a'], { ready: true }]);
  s.answerWith(() => ({ exit_code: 1, stdout: Buffer.from('no') }));
  await s.clock.advance(10_000);
  assert.deepEqual(probes.verdicts.get('a'), { ready: true });
  await s.clock.advance(10_000);
  assert.deepEqual(probes.verdicts.get('a'), { ready: false });
  assert.deepEqual(s.asked, ['7 a', '17 a', '27 a']);
  assert.deepEqual(s.events, Array(2).fill('Warning Unhealthy spec.containers{c} Readiness probe failed: no'));
  assert.deepEqual(s.journal.get('a'), { ready: false });
  s.run(undefined);
  await s.clock.advance(60_000);
  assert.deepEqual([s.asked.length, probes.verdicts.size, s.journal.size], [3, 0, 0]);
});

test('liveness and readiness wait for startup; a failed liveness is not asked again until there is a new instance', async () => {
  const s = setup();
  const probe = { exec, periodSeconds: 1, failureThreshold: 2 };
  s.pods.set('u', {
    pod: podOf({
      startupProbe: { exec, periodSeconds: 5, failureThreshold: 3 },
      livenessProbe: probe,
      readinessProbe: { exec, periodSeconds: 100 },
    }),
  });
  await using probes = s.start();
  s.synced();
  s.answerWith(() => ({ exit_code: 1 }));
  s.run('a');
  await s.clock.advance(6000);
  assert.deepEqual([s.asked, probes.verdicts.get('a')], [['0 a', '5 a'], undefined]);
  s.answerWith(() => ({ exit_code: 0 }));
  await s.clock.advance(4000);
  assert.deepEqual(probes.verdicts.get('a'), { startup: true, ready: true, liveness: true });
  assert.deepEqual(s.asked.slice(2), ['10 a', '10 a', '10 a'], 'the others at once');
  s.answerWith(() => ({ exit_code: 1 }));
  await s.clock.advance(30_000);
  assert.deepEqual(probes.verdicts.get('a'), { startup: true, ready: true, liveness: false });
  assert.equal(s.asked.length, 7);
  s.run('b');
  await s.clock.advance(0);
  assert.deepEqual([probes.verdicts.has('a'), s.asked.at(-1)], [false, '40 b']);
  await s.clock.advance(20_000);
  assert.deepEqual(probes.verdicts.get('b'), { startup: false });
  assert.equal(s.asked.length, 10);
});

test('a restart of the agent keeps what was known, and spreads the first attempts', async () => {
  const s = setup({
    journal: [
      ['a', { startup: true, ready: true }],
      ['gone', { ready: true }],
    ],
  });
  s.pods.set('u', { pod: podOf({ startupProbe: { exec }, readinessProbe: { exec, periodSeconds: 10 } }) });
  s.run('a', s.clock.wall() - 60_000);
  await using probes = s.start();
  assert.deepEqual(probes.verdicts.get('a'), { startup: true, ready: true });
  assert.ok(s.journal.has('gone'), 'absence is unknown until the sources have spoken');
  s.synced();
  assert.ok(!s.journal.has('gone'));
  await s.clock.advance(4900);
  assert.deepEqual(s.asked, []);
  await s.clock.advance(200);
  assert.deepEqual(s.asked, ['5 a']);
});

test('a node taken over from kubelet keeps what the status says of the same instance', async () => {
  const status = {
    containerStatuses: [{ name: 'c', image: '', imageID: '', restartCount: 0, ready: true, started: true, containerID: 'containerd://a' }],
  };
  const s = setup();
  s.pods.set('u', { pod: podOf({ startupProbe: { exec }, readinessProbe: { exec } }, { status }) });
  s.run('a', s.clock.wall() - 60_000);
  await using probes = s.start();
  assert.deepEqual(probes.verdicts.get('a'), { startup: true, ready: true });
  s.run('b');
  assert.deepEqual(probes.verdicts.get('b'), undefined);
});

test('a pod that goes is no longer asked whether it lives, but still whether it is ready', async () => {
  const s = setup();
  const container = {
    livenessProbe: { exec, periodSeconds: 1, failureThreshold: 1 },
    readinessProbe: { exec, periodSeconds: 1, failureThreshold: 1 },
  };
  s.pods.set('u', { pod: podOf(container) });
  await using probes = s.start();
  s.synced();
  s.run('a');
  await s.clock.advance(0);
  s.pods.set('u', { pod: podOf(container, { deleted: true }) });
  s.answerWith(() => ({ exit_code: 1 }));
  await s.clock.advance(5000);
  assert.deepEqual(probes.verdicts.get('a'), { ready: false, liveness: true });
  assert.deepEqual(new Set(s.events.map((e) => e.includes('Liveness'))), new Set([false]));
});

test('a probe that cannot be carried out is tried three times and changes nothing', async () => {
  const s = setup();
  s.pods.set('u', { pod: podOf({ livenessProbe: { exec, periodSeconds: 10, failureThreshold: 1 } }) });
  await using probes = s.start();
  s.synced();
  s.answerWith(() => {
    throw new AgentError('Unavailable', 'no runtime');
  });
  s.run('a');
  await s.clock.advance(1000);
  assert.equal(s.asked.length, 3);
  assert.deepEqual(s.events, ['Warning Unhealthy spec.containers{c} Liveness probe errored and resulted in unknown state: no runtime']);
  assert.equal(probes.verdicts.get('a'), undefined);
});

test('an answer about an instance that has ended meanwhile is dropped; commands in containers have a budget', async () => {
  const s = setup({ options: { execConcurrency: 2 } });
  const held: (() => void)[] = [];
  s.answerWith(() => new Promise((resolve) => held.push(() => resolve({ exit_code: 0 }))));
  for (const uid of ['u', 'v', 'w']) {
    const pod = podOf({ readinessProbe: { exec } });
    s.pods.set(uid, { pod: { ...pod, metadata: { ...pod.metadata, uid } } });
    s.runtime.set(uid, { containers: [{ id: `${uid}1`, name: 'c', state: 'running', startedAt: s.clock.wall() }], sandboxes: [] });
  }
  await using probes = s.start();
  s.synced();
  await s.clock.advance(10);
  assert.equal(s.asked.length, 2);
  s.pods.delete('u');
  for (const go of held.splice(0)) go();
  await s.clock.advance(10);
  assert.deepEqual([probes.verdicts.get('u1'), probes.verdicts.get('v1'), s.asked.length], [undefined, { ready: true }, 3]);
  for (const go of held.splice(0)) go();
});

test('commands that hang do not keep the others from being run', async () => {
  const s = setup({ options: { execConcurrency: 2 } });
  s.answerWith(({ container_id }) => (container_id?.startsWith('hangs') ? new Promise(() => undefined) : { exit_code: 0 }));
  for (const uid of ['hangs1', 'hangs2', 'w']) {
    const pod = podOf({ readinessProbe: { exec, timeoutSeconds: 100 } });
    s.pods.set(uid, { pod: { ...pod, metadata: { ...pod.metadata, uid } } });
    s.runtime.set(uid, { containers: [{ id: uid, name: 'c', state: 'running', startedAt: s.clock.wall() }], sandboxes: [] });
  }
  const probes = s.start();
  s.synced();
  await s.clock.advance(1100);
  assert.deepEqual([s.asked, probes.verdicts.get('w')], [['0 hangs1', '0 hangs2', '1 w'], { ready: true }]);
});

test('who is not listening yet is found soon after it does, with one event', async () => {
  const { createServer } = await import('node:net');
  const { once } = await import('node:events');
  const probe = createServer();
  await once(probe.listen(0, '127.0.0.1'), 'listening');
  const { port } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));

  const s = setup();
  s.pods.set('u', { pod: podOf({ readinessProbe: { tcpSocket: { port }, periodSeconds: 10 } }) });
  await using probes = s.start();
  s.synced();
  s.run('a');
  const until = async (done: () => boolean): Promise<void> => {
    for (let i = 0; i < 500 && !done(); i++) await s.clock.advance(1);
  };
  await until(() => s.events.length > 0);
  await s.clock.advance(100);
  const server = createServer((socket) => void socket.on('error', () => undefined).resume());
  await once(server.listen(port, '127.0.0.1'), 'listening');
  await until(() => probes.verdicts.get('a')?.ready === true);
  server.close();
  assert.deepEqual(probes.verdicts.get('a'), { ready: true });
  assert.ok(s.clock.mono() < 2000, `found after ${s.clock.mono()} ms`);
  assert.deepEqual(s.events, [
    `Warning Unhealthy spec.containers{c} Readiness probe failed: dial tcp 127.0.0.1:${port}: connect: connection refused`,
  ]);
});
