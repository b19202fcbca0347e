import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import { thresholdsOf } from '../../../agent/eviction/thresholds.ts';
import { type EvictionOptions, startEviction } from '../../../agent/eviction/worker.ts';
import type { PodSpec } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import type { Ending } from '../../../agent/pods/lifecycle.ts';
import type { PodStats } from '../../../agent/stats/summary.ts';
import type { NodeReading } from '../../../agent/stats/worker.ts';
import { manualClock } from '../identity/manual-clock.ts';
import { container, pod } from '../pods/build.ts';

const Mi = 1024 ** 2;

interface Usage {
  memory?: number;
  volume?: number;
}

/** A node of 1 GiB and a disk of 1000 MiB, whose pods use what `usage` says. */
function house(settings: { hard?: Record<string, string>; soft?: Record<string, string>; graceMs?: number; maxGrace?: number } = {}) {
  const clock = manualClock(1_800_000_000_000);
  const stop = new AbortController();
  const admitted = new Table<{ pod: AgentPod }>('admitted');
  const endings = new Table<Ending>('endings');
  const usage = new Map<string, Usage>();
  const told: string[] = [];
  const disk = { available: 900 * Mi };
  const measured: (readonly string[] | 'all')[] = [];
  const reading = (): NodeReading => {
    const used = [...usage.values()].reduce((sum, one) => sum + (one.memory ?? 0), 0);
    const fs = { time: clock.wall(), availableBytes: disk.available, capacityBytes: 1000 * Mi };
    return {
      memory: { time: clock.wall(), workingSetBytes: used, availableBytes: 1024 * Mi - used },
      podsMemory: undefined,
      fileSystems: { nodeFs: fs, imageFs: fs, containerFs: fs, dedicatedImageFs: false, splitContainerFs: false },
      rlimit: undefined,
    };
  };
  const options: EvictionOptions = {
    clock,
    log: silentLog,
    signal: stop.signal,
    settings: () => ({
      thresholds: thresholdsOf({
        hard: settings.hard ?? {},
        soft: settings.soft ?? {},
        softGraceMs: Object.fromEntries(Object.keys(settings.soft ?? {}).map((name) => [name, settings.graceMs ?? 0])),
        minimumReclaim: {},
        enforcePods: false,
      }),
      transitionMs: 60_000,
      maxGraceSeconds: settings.maxGrace ?? 0,
    }),
    watchMemory: false,
    localStorage: true,
    shown: [],
    stats: {
      node: async () => reading(),
      memory: reading,
      pods: async ({ uids }) => {
        measured.push(uids === undefined ? 'all' : [...uids]);
        return [...usage].map(
          ([uid, { memory = 0, volume = 0 }]): PodStats => ({
            podRef: { name: uid, namespace: 'default', uid },
            startTime: 0,
            containers: [],
            memory: { time: 0, workingSetBytes: memory },
            volume: [{ time: 0, name: 'data', usedBytes: volume }],
          }),
        );
      },
    },
    admitted,
    endings,
    end: (uid, ending) => endings.set(uid, ending),
    podEvent: (one, _, reason) => void told.push(`${reason} ${one.metadata.name}`),
    nodeEvent: (_, reason, message) => void told.push(`${reason}: ${message}`),
    removeDeadContainers: async () => void told.push('dead containers'),
    removeUnusedImages: async () => {
      told.push('unused images');
    },
    evicted: (signal) => void told.push(signal),
    changed: () => void told.push(`now ${eviction.conditions().join('+') || 'fine'}`),
  };
  const eviction = startEviction(options);
  return {
    clock,
    told,
    endings,
    disk,
    options,
    measured,
    eviction,
    use: (uid: string, used: Usage) => usage.set(uid, used),
    add(uid: string, used: Usage, spec: Partial<PodSpec> = {}) {
      usage.set(uid, used);
      admitted.set(uid, { pod: pod(spec, { name: uid, uid }) });
    },
    gone(uid: string) {
      usage.delete(uid);
      admitted.delete(uid);
    },
    take(): string[] {
      return told.splice(0);
    },
    async [Symbol.asyncDispose]() {
      stop.abort();
      await eviction[Symbol.asyncDispose]();
    },
  };
}

describe('eviction at work', () => {
  test('memory: one pod at a time, the next only when it is gone; critical ones never', async () => {
    await using it = house({ hard: { 'memory.available': '100Mi' } });
    await it.clock.advance(0);
    it.add('critical', { memory: 400 * Mi }, { priority: 2_000_001_000 });
    it.add('first', { memory: 350 * Mi });
    it.add('second', { memory: 250 * Mi });
    await it.clock.advance(10_000);
    assert.deepEqual(it.take(), [
      'now MemoryPressure',
      'EvictionThresholdMet: Attempting to reclaim memory',
      'Evicted first',
      'memory.available',
    ]);
    assert.equal(it.endings.get('first')?.graceSeconds, 1);
    assert.equal(it.endings.get('first')?.disruption, it.endings.get('first')?.message);
    await it.clock.advance(5000);
    assert.deepEqual(it.take(), []);
    it.gone('first');
    await it.clock.advance(1000);
    assert.deepEqual(it.take(), []);
    assert.deepEqual(it.eviction.conditions(), ['MemoryPressure']);
    await it.clock.advance(80_000);
    assert.deepEqual(it.take(), ['now fine']);
  });

  test('a pod that does not end is not followed by another', async () => {
    await using it = house({ hard: { 'memory.available': '100Mi' } });
    it.add('stuck', { memory: 900 * Mi });
    it.add('other', { memory: 100 * Mi });
    await it.clock.advance(50_000);
    assert.deepEqual([...it.endings.keys()], ['stuck']);
    assert.equal(it.told.filter((line) => line === 'Evicted stuck').length, 1);
  });

  test('a soft threshold: after its grace, and with the time that the configuration leaves', async () => {
    await using it = house({ soft: { 'memory.available': '500Mi' }, graceMs: 25_000, maxGrace: 12 });
    await it.clock.advance(0);
    it.add('hog', { memory: 700 * Mi });
    await it.clock.advance(30_000);
    assert.deepEqual(it.take(), ['now MemoryPressure']);
    await it.clock.advance(10_000);
    assert.equal(it.endings.get('hog')?.graceSeconds, 12);
  });

  test('disk: what nobody uses goes first, and suffices', async () => {
    await using it = house({ hard: { 'nodefs.available': '10%' } });
    await it.clock.advance(0);
    it.add('busy', { volume: 500 * Mi });
    it.disk.available = 50 * Mi;
    (it.options as { removeUnusedImages: unknown }).removeUnusedImages = async () => {
      it.disk.available = 300 * Mi;
      it.told.push('unused images');
    };
    await it.clock.advance(10_000);
    assert.deepEqual(it.take(), [
      'now DiskPressure',
      'EvictionThresholdMet: Attempting to reclaim ephemeral-storage',
      'dead containers',
      'unused images',
    ]);
    assert.equal(it.endings.size, 0);
  });

  test('limits of local storage: only pods that have one are measured', async () => {
    await using it = house();
    it.add('free', { volume: 900 * Mi });
    await it.clock.advance(20_000);
    assert.deepEqual(it.measured, []);
    it.add('bounded', { volume: 6 * Mi }, { volumes: [{ name: 'data', emptyDir: { sizeLimit: '5Mi' } }] });
    await it.clock.advance(10_000);
    assert.deepEqual(it.measured, [['bounded']]);
    assert.deepEqual(it.take(), ['Evicted bounded', 'emptydirfs.limit']);
    assert.equal(it.endings.get('bounded')?.disruption, undefined);
  });

  test('a disk that cannot be measured keeps nobody from being evicted for memory', async () => {
    await using it = house({ hard: { 'memory.available': '100Mi' } });
    await it.clock.advance(0);
    const { pods } = it.options.stats;
    it.options.stats.pods = async (which, signal) => {
      if (which.diskMaxAgeMs !== undefined) throw new AgentError('Unavailable', 'cannot run du');
      return await pods(which, signal);
    };
    it.add('hog', { memory: 1000 * Mi }, { volumes: [{ name: 'data', emptyDir: { sizeLimit: '5Mi' } }] });
    await it.clock.advance(10_000);
    assert.deepEqual([...it.endings.keys()], ['hog']);
  });

  test('one that is ending slowly is hurried', async () => {
    await using it = house({ hard: { 'memory.available': '100Mi' } });
    await it.clock.advance(0);
    it.add('slow', { memory: 1000 * Mi }, { containers: [container('a')] });
    it.endings.set('slow', { reason: 'Preempting', message: '', graceSeconds: undefined });
    await it.clock.advance(10_000);
    assert.equal(it.endings.get('slow')?.graceSeconds, 1);
  });
});
