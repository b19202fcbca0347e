import assert from 'node:assert/strict';
import { test } from 'node:test';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import type { RuntimePod } from '../../../agent/pods/observed.ts';
import { type OomWatchOptions, watchOom } from '../../../agent/pods/oom-watch.ts';
import { manualClock } from '../identity/manual-clock.ts';
import { instance, runtimePod } from './build.ts';

const wall = 1_700_000_000_000;
type Remembered = NonNullable<ReturnType<OomWatchOptions['journal']['get']>>;

/** A kernel whose counts the test sets, and agents that look at it one after the other. */
function kernel(remembered = new Map<string, Remembered>([['kernel', {}]])) {
  const clock = manualClock(wall);
  const counts = { pod: 0 as number | undefined, containers: {} as Record<string, number> };
  const system: { sequence: number; process: string; pid: number }[] = [];
  const events: string[] = [];
  let broken = false;
  const agent = (bootId = 'b1') => {
    const runtime = new Table<RuntimePod>('runtime');
    let read = 0;
    const watch = watchOom({
      clock,
      log: silentLog,
      runtime,
      counts: () => {
        if (broken) throw new Error('no cgroups today');
        return { pod: counts.pod, containers: new Map(Object.entries(counts.containers)) };
      },
      readLog: () => {
        const fresh = system.slice(read);
        read = system.length;
        return { containers: new Map(), system: fresh };
      },
      bootId,
      journal: {
        get: (key) => remembered.get(key),
        set: (key, value) => void remembered.set(key, value),
        delete: (key) => void remembered.delete(key),
        entries: () => remembered.entries(),
      },
      childKilled: (pod, container, message) => void events.push(`${pod.name}/${container.name} ${message}`),
      systemOom: (message) => void events.push(message),
    });
    return { runtime, watch, [Symbol.dispose]: () => watch[Symbol.dispose]() };
  };
  const breakDown = (now: boolean): void => {
    broken = now;
  };
  return { clock, counts, system, events, remembered, agent, breakDown };
}

const running = instance('main', { id: 'c1' });
const ended = (at: number, more: object = {}) =>
  instance('main', { id: 'c1', state: 'exited', exitCode: 137, reason: 'Error', finishedAt: at, ...more });
const podOf = (...containers: ReturnType<typeof instance>[]): RuntimePod => ({
  ...runtimePod(undefined, containers),
  uid: 'u1',
  name: 'web',
});

test('an end is looked into at once, and stays explained', () => {
  const k = kernel();
  using a = k.agent();
  a.runtime.set('u1', podOf(running));
  a.runtime.markSynced();
  k.counts.pod = 1;
  assert.equal(a.watch.judge('u1', ended(wall)).reason, 'OOMKilled');
  assert.equal(a.watch.judge('u1', ended(wall)).reason, 'OOMKilled');
  assert.equal(a.watch.judge('u1', ended(wall, { id: 'c2' })).reason, 'Error');
});

test("what the runtime has told uses up the kernel's count", () => {
  const k = kernel();
  using a = k.agent();
  a.runtime.markSynced();
  k.counts.pod = 1;
  assert.equal(a.watch.judge('u1', ended(wall, { reason: 'OOMKilled' })).reason, 'OOMKilled');
  assert.equal(a.watch.judge('u1', ended(wall, { id: 'c2' })).reason, 'Error');
});

test('a child that was killed makes one event, and none when the main process goes too', async () => {
  const k = kernel();
  using a = k.agent();
  a.runtime.set('u1', podOf(running));
  a.runtime.markSynced();
  k.counts.pod = 2;
  k.counts.containers.c1 = 2;
  await k.clock.advance(60_000);
  assert.deepEqual(k.events, ['web/main Memory limit reached: the kernel killed 2 processes of container main, its main process runs on']);
  k.counts.pod = 3;
  k.counts.containers.c1 = 3;
  await k.clock.advance(10_000);
  a.runtime.set('u1', podOf(ended(k.clock.wall())));
  await k.clock.advance(60_000);
  assert.equal(k.events.length, 1);
});

test('a restart between the kill and the look: judged by what is remembered', async () => {
  const k = kernel();
  {
    using a = k.agent();
    a.runtime.set('u1', podOf(running));
    a.runtime.markSynced();
    k.counts.pod = 4;
    await k.clock.advance(20_000);
  }
  k.counts.pod = 5;
  {
    using a = k.agent();
    // The first look at the runtime judges before it is synced.
    assert.equal(a.watch.judge('u1', ended(k.clock.wall() - 1000)).reason, 'OOMKilled');
  }
  using a = k.agent();
  assert.equal(a.watch.judge('u1', ended(k.clock.wall() - 1000)).reason, 'OOMKilled');
  assert.equal(a.watch.judge('u1', ended(k.clock.wall(), { id: 'c2' })).reason, 'Error');
});

test('after a boot the counts begin anew, and who was judged before stays judged', async () => {
  const k = kernel();
  {
    using a = k.agent();
    a.runtime.set('u1', podOf(running));
    a.runtime.markSynced();
    k.counts.pod = 1;
    assert.equal(a.watch.judge('u1', ended(k.clock.wall())).reason, 'OOMKilled');
  }
  await k.clock.advance(60_000);
  // Killed within the first moments, as the pod's new cgroup counts it.
  using a = k.agent('b2');
  assert.equal(a.watch.judge('u1', ended(wall)).reason, 'OOMKilled');
  assert.equal(a.watch.judge('u1', ended(k.clock.wall(), { id: 'c2' })).reason, 'OOMKilled');
  assert.equal(a.watch.judge('u1', ended(k.clock.wall(), { id: 'c3' })).reason, 'Error');
});

test('a node that was not ours before: old counts explain nothing, later ones do', () => {
  const k = kernel(new Map());
  k.counts.pod = 7;
  k.system.push({ sequence: 5, process: 'old', pid: 1 });
  using a = k.agent();
  assert.equal(a.watch.judge('u1', ended(wall - 1000)).reason, 'Error');
  a.runtime.set('u1', podOf(ended(wall - 1000)));
  a.runtime.markSynced();
  k.counts.pod = 8;
  assert.equal(a.watch.judge('u1', ended(wall, { id: 'c2' })).reason, 'OOMKilled');
  assert.deepEqual(k.events, []);
});

test('each SystemOOM is told once, by whichever agent comes after it', async () => {
  const k = kernel();
  k.system.push({ sequence: 5, process: 'hog', pid: 77 });
  {
    using a = k.agent();
    a.runtime.markSynced();
  }
  k.system.push({ sequence: 9, process: 'hog', pid: 78 });
  using a = k.agent();
  a.runtime.markSynced();
  assert.deepEqual(k.events, [
    'System OOM encountered, victim process: hog, pid: 77',
    'System OOM encountered, victim process: hog, pid: 78',
  ]);
});

test('what cannot be read leaves the word to the runtime, and is read again later', async () => {
  const k = kernel();
  using a = k.agent();
  a.runtime.markSynced();
  k.breakDown(true);
  k.counts.pod = 1;
  assert.equal(a.watch.judge('u1', ended(wall)).reason, 'Error');
  k.breakDown(false);
  assert.equal(a.watch.judge('u1', ended(wall)).reason, 'OOMKilled');
});

test('what is remembered goes with the pod', async () => {
  const k = kernel();
  using a = k.agent();
  a.runtime.set('u1', podOf(running));
  a.runtime.markSynced();
  k.counts.pod = 1;
  await k.clock.advance(10_000);
  assert.deepEqual([...k.remembered.keys()], ['kernel', 'u1']);
  a.runtime.delete('u1');
  await k.clock.advance(10_000);
  assert.deepEqual([...k.remembered.keys()], ['kernel']);
});
