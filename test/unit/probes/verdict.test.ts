import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Container } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import { probeTargets } from '../../../agent/probes/targets.ts';
import { afterResult, eagerDelayMs, firstDueAt, nextDueAt, type ProbeKind, type ProbeRun } from '../../../agent/probes/verdict.ts';

const fresh: ProbeRun = { dueAt: 0, last: undefined, streak: 0, held: false, eager: 0 };

test('results become verdicts at their thresholds', () => {
  // Each letter is a result: s(uccess) or f(ailure); the expected string is the verdict after each, '-' for none, '!' behind it for held.
  const table: [string, ProbeKind, { successThreshold?: number; failureThreshold?: number }, string, string][] = [
    ['defaults', 'readiness', {}, 'ssfffs', 's s - - f s'],
    ['a success in between starts the count again', 'readiness', { failureThreshold: 2 }, 'fsff', '- s - f'],
    ['readiness wants several successes', 'readiness', { successThreshold: 3 }, 'sssf', '- - s -'],
    ['readiness goes on after failure', 'readiness', { failureThreshold: 1 }, 'ffs', 'f f s'],
    ['liveness is held after its failure', 'liveness', { failureThreshold: 2 }, 'sff', 's - f!'],
    ['startup is held after success', 'startup', { failureThreshold: 5 }, 'ffs', '- - s!'],
    ['startup is held after failure', 'startup', { failureThreshold: 2 }, 'ff', '- f!'],
  ];
  for (const [name, kind, probe, results, expected] of table) {
    let run = fresh;
    const seen: string[] = [];
    for (const letter of results) {
      const next = afterResult(kind, probe, run, letter === 's');
      run = next.run;
      seen.push((next.verdict === undefined ? '-' : next.verdict ? 's' : 'f') + (run.held ? '!' : ''));
    }
    assert.equal(seen.join(' '), expected, name);
  }
});

test('the first attempt is due when the initial delay is over, not at a tick', () => {
  const at = { startedAtWall: 1_000_000, nowWall: 1_000_000, nowMono: 500, adopted: false, random: 0.5 };
  const table: [string, object, Partial<typeof at>, number][] = [
    ['no delay', {}, {}, 500],
    ['delay', { initialDelaySeconds: 3 }, {}, 3500],
    ['some of the delay has passed', { initialDelaySeconds: 3 }, { nowWall: 1_001_000 }, 2500],
    ['all of it has', { initialDelaySeconds: 3 }, { nowWall: 1_900_000 }, 500],
    ['clock set back', { initialDelaySeconds: 3 }, { nowWall: 0 }, 3500],
    ['ran before the agent: within a period', { periodSeconds: 4 }, { nowWall: 1_900_000, adopted: true }, 2500],
    ['ran before the agent, but its delay is longer', { initialDelaySeconds: 9, periodSeconds: 4 }, { adopted: true }, 9500],
  ];
  for (const [name, probe, change, expected] of table) assert.equal(firstDueAt(probe, { ...at, ...change }), expected, name);
});

test('attempts keep their rhythm, a little spread', () => {
  assert.equal(nextDueAt({ periodSeconds: 10 }, 1000, 1500, 0.5), 11_000);
  assert.equal(nextDueAt({ periodSeconds: 10 }, 1000, 1500, 0), 10_500);
  assert.equal(nextDueAt({}, 1000, 1500, 0.5), 11_000);
  assert.equal(nextDueAt({ periodSeconds: 1 }, 1000, 5000, 0.5), 5000, 'one that took longer than its period is followed at once');
});

test('a refused connection is tried again soon, until the next period or the first success', () => {
  const run = { ...fresh, dueAt: 1000, last: false };
  assert.equal(eagerDelayMs('readiness', run, true, 0), 50);
  assert.equal(eagerDelayMs('startup', { ...run, eager: 3 }, true, 0), 400);
  assert.equal(eagerDelayMs('readiness', { ...run, eager: 4 }, true, 300), undefined, 'the period comes first');
  assert.equal(eagerDelayMs('liveness', run, true, 0), undefined);
  assert.equal(eagerDelayMs('readiness', run, false, 0), undefined);
  assert.equal(eagerDelayMs('readiness', { ...run, last: true }, true, 0), undefined);
});

const container: Container = { name: 'c', ports: [{ name: 'web', containerPort: 8080 }], readinessProbe: { tcpSocket: { port: 'web' } } };

test('which instances are probed', () => {
  const pod = {
    metadata: { name: 'p', namespace: 'ns', uid: 'u' },
    spec: {
      initContainers: [
        { name: 'sidecar', restartPolicy: 'Always', startupProbe: { exec: { command: ['x'] } } },
        { name: 'init', readinessProbe: {} },
      ],
      containers: [container, { name: 'plain' }],
    },
    status: {
      containerStatuses: [
        { name: 'c', image: '', imageID: '', restartCount: 0, ready: true, started: true, containerID: 'containerd://c2' },
      ],
    },
  } as AgentPod;
  const running = (id: string, name: string, state = 'running') => ({ id, name, state, startedAt: 1 });
  const runtime = {
    containers: [running('c2', 'c'), running('c1', 'c', 'exited'), running('s1', 'sidecar'), running('i1', 'init'), running('p1', 'plain')],
    sandboxes: [
      { ready: false, ips: ['10.0.0.9'] },
      { ready: true, ips: ['10.0.0.1'] },
    ],
  };
  const found = probeTargets(pod, runtime, '192.0.2.1', false);
  assert.deepEqual(
    found.map((t) => [t.id, t.fieldPath, t.podIp, t.terminating, t.published]),
    [
      ['s1', 'spec.initContainers{sidecar}', '10.0.0.1', false, {}],
      ['c2', 'spec.containers{c}', '10.0.0.1', false, { ready: true }],
    ],
  );
  const onHost = { ...pod, spec: { ...pod.spec, hostNetwork: true }, metadata: { ...pod.metadata, deletionTimestamp: 'now' } };
  assert.deepEqual(
    probeTargets(onHost, runtime, '192.0.2.1', false).map((t) => [t.podIp, t.terminating]),
    [
      ['192.0.2.1', true],
      ['192.0.2.1', true],
    ],
  );
  assert.deepEqual(
    probeTargets(pod, { ...runtime, containers: [running('c3', 'c', 'created'), ...runtime.containers] }, undefined, false).map(
      (t) => t.id,
    ),
    ['s1'],
  );
  assert.deepEqual(probeTargets(pod, undefined, undefined, false), []);
});
