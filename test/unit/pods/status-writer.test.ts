import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import { startStatusWriter } from '../../../agent/pods/status-writer.ts';
import type { PodStatusRow } from '../../../agent/pods/worker.ts';
import { pod } from './build.ts';

function bed(now = { mono: 0 }) {
  const statuses = new Table<PodStatusRow>('statuses');
  const mirrors = new Table<AgentPod>('mirrors');
  const calls: string[] = [];
  const timers: (() => void)[] = [];
  const writer = startStatusWriter({
    clock: {
      ...systemClock,
      mono: () => now.mono,
      after: (_, fn) => {
        timers.push(fn);
        return { [Symbol.dispose]: () => void timers.splice(timers.indexOf(fn), timers.includes(fn) ? 1 : 0) };
      },
    },
    log: silentLog,
    signal: new AbortController().signal,
    statuses,
    mirrors,
    patchStatus: async (target, patch) => {
      calls.push(`patch ${patch.metadata.uid} ${String(patch.status.phase)}`);
      const resourceVersion = String(Number(target.metadata.resourceVersion ?? '0') + 1);
      return { ...target, metadata: { ...target.metadata, resourceVersion }, status: { phase: String(patch.status.phase) } };
    },
    deletePod: async ({ metadata }) => void calls.push(`delete ${metadata.uid}`),
  });
  const settle = async (): Promise<void> => {
    for (let i = 0; i < 30; i++) await Promise.resolve();
  };
  return { statuses, mirrors, calls, timers, writer, settle };
}

test('a deletion is repeated until the pod is gone from the watch', async () => {
  const b = bed();
  const ended = pod({}, { deletionTimestamp: '2026-11-21T00:00:00Z' });
  b.statuses.set('u1', { pod: ended, status: { phase: 'Succeeded' }, cleanedUp: true });
  await b.settle();
  assert.deepEqual(b.calls, ['patch u1 Succeeded', 'delete u1']);
  for (const fire of [...b.timers]) fire();
  await b.settle();
  assert.deepEqual(b.calls.slice(2), ['delete u1']);
  b.statuses.delete('u1');
  for (const fire of [...b.timers]) fire();
  await b.settle();
  assert.equal(b.calls.length, 3);
  assert.equal(b.timers.length, 0);
  await b.writer[Symbol.asyncDispose]();
});

test("a static pod's status goes to its mirror, to each new one again, and never deletes it", async () => {
  const b = bed();
  const annotations = { 'kubernetes.io/config.source': 'file', 'kubernetes.io/config.hash': 'h' };
  const manifest = pod({}, { uid: 'h', annotations });
  const mirror = (uid: string, more: Partial<AgentPod['metadata']> = {}): AgentPod =>
    pod({}, { uid, annotations: { ...annotations, 'kubernetes.io/config.mirror': 'h' }, ...more });
  b.statuses.set('h', { pod: manifest, status: { phase: 'Running' }, cleanedUp: true });
  await b.settle();
  assert.deepEqual(b.calls, []);
  b.mirrors.set('m1', mirror('m1'));
  await b.settle();
  assert.deepEqual(b.calls, ['patch m1 Running']);
  b.mirrors.set('m1', mirror('m1', { deletionTimestamp: '2026-11-21T00:00:00Z' }));
  await b.settle();
  b.mirrors.replace([['m2', mirror('m2')]]);
  await b.settle();
  assert.deepEqual(b.calls, ['patch m1 Running', 'patch m2 Running']);
  await b.writer[Symbol.asyncDispose]();
});

test('a status that somebody has written over is told again: a node that was cut off finds its pods marked not ready', async () => {
  const b = bed();
  const ready = (status: string) => [{ type: 'Ready', status }];
  const row = (resourceVersion: string, shows: string): PodStatusRow => ({
    pod: pod({}, { resourceVersion }, { phase: 'Running', conditions: ready(shows) }),
    status: { phase: 'Running', conditions: ready('True') },
    cleanedUp: false,
  });
  b.statuses.set('u1', row('10', 'False'));
  await b.settle();
  assert.deepEqual(b.calls, ['patch u1 Running']);
  // The watch tells of the state before our patch, then of the patch itself: nothing to say to that.
  b.statuses.set('u1', row('10', 'False'));
  await b.settle();
  b.statuses.set('u1', row('11', 'True'));
  await b.settle();
  assert.equal(b.calls.length, 1);
  // The node lifecycle controller has marked it.
  b.statuses.set('u1', row('12', 'False'));
  await b.settle();
  assert.equal(b.calls.length, 2);
  await b.writer[Symbol.asyncDispose]();
});

test('a pod that finalizers keep is not deleted over and over', async () => {
  const b = bed();
  const kept = { deletionTimestamp: '2026-11-21T00:00:00Z', finalizers: ['batch.kubernetes.io/job-tracking'] };
  b.statuses.set('u1', { pod: pod({}, { ...kept, deletionGracePeriodSeconds: 30 }), status: { phase: 'Failed' }, cleanedUp: true });
  await b.settle();
  assert.deepEqual(b.calls, ['patch u1 Failed', 'delete u1']);
  b.statuses.set('u1', { pod: pod({}, { ...kept, deletionGracePeriodSeconds: 0 }), status: { phase: 'Failed' }, cleanedUp: true });
  await b.settle();
  for (const fire of [...b.timers]) fire();
  await b.settle();
  assert.equal(b.calls.length, 2);
  await b.writer[Symbol.asyncDispose]();
});

// As the API shows it: version, phase; and what the watch then shows.
const restored: { name: string; shows: [version: string, phase: string]; afterMs: number; patches: number }[] = [
  { name: 'the watch lags behind our patch', shows: ['10', 'Pending'], afterMs: 1_000, patches: 0 },
  { name: 'the watch shows our patch', shows: ['11', 'Running'], afterMs: 1_000, patches: 0 },
  { name: 'the watch shows our patch as the API spells it', shows: ['11', 'As the API spells Running'], afterMs: 100_000, patches: 0 },
  { name: 'a server restored to an older state', shows: ['5', 'Pending'], afterMs: 11_000, patches: 1 },
  { name: 'a server restored to a state that says the same', shows: ['5', 'Running'], afterMs: 11_000, patches: 0 },
  { name: 'another has written over it', shows: ['12', 'Pending'], afterMs: 0, patches: 1 },
];
for (const { name, shows, afterMs, patches } of restored)
  test(`what the API shows is compared with what it should: ${name}`, async () => {
    const now = { mono: 0 };
    const b = bed(now);
    const row = (resourceVersion: string, phase: string): PodStatusRow => ({
      pod: pod({}, { resourceVersion }, { phase }),
      status: { phase: 'Running' },
      cleanedUp: false,
    });
    b.statuses.set('u1', row('10', 'Pending'));
    await b.settle();
    assert.equal(b.calls.length, 1);
    b.statuses.set('u1', row(...shows));
    await b.settle();
    now.mono = afterMs;
    for (const fire of [...b.timers]) fire();
    await b.settle();
    assert.equal(b.calls.length, 1 + patches);
    await b.writer[Symbol.asyncDispose]();
  });

test('after a restore a status that the API took at once is not told again', async () => {
  const now = { mono: 0 };
  const b = bed(now);
  const row = (resourceVersion: string, phase: string): PodStatusRow => ({
    pod: pod({}, { resourceVersion }, { phase }),
    status: { phase: 'Running' },
    cleanedUp: false,
  });
  b.statuses.set('u1', row('9000', 'Pending'));
  await b.settle();
  now.mono = 20_000;
  b.statuses.set('u1', row('5000', 'Pending'));
  await b.settle();
  b.statuses.set('u1', row('5001', 'Running'));
  await b.settle();
  // Somebody writes over it, still with a version from before the restore.
  b.statuses.set('u1', row('5002', 'Pending'));
  await b.settle();
  assert.equal(b.calls.length, 3);
  await b.writer[Symbol.asyncDispose]();
});
