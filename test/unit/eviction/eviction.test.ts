import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { pressureRejection } from '../../../agent/eviction/admission.ts';
import { hasStorageLimit, storageExcess } from '../../../agent/eviction/local-storage.ts';
import { evictionText } from '../../../agent/eviction/message.ts';
import { initialPressure, nextPressure } from '../../../agent/eviction/pressure.ts';
import { partsOn, rankForEviction } from '../../../agent/eviction/rank.ts';
import {
  type Condition,
  metThresholds,
  type Observation,
  type Signal,
  type Threshold,
  thresholdsOf,
  withContainerFs,
} from '../../../agent/eviction/thresholds.ts';
import type { PodSpec } from '../../../agent/model/generated/api.ts';
import type { AgentPod } from '../../../agent/model/pod.ts';
import type { PodStats } from '../../../agent/stats/summary.ts';
import { container, pod } from '../pods/build.ts';

const Mi = 1024 ** 2;
const none = { hard: {}, soft: {}, softGraceMs: {}, minimumReclaim: {}, enforcePods: false };
const seen = (entries: Partial<Record<Signal, Omit<Observation, 'at'> & { at?: number }>>): Map<Signal, Observation> =>
  new Map(Object.entries(entries) as [Signal, Observation][]);

describe('thresholds', () => {
  const table: [string, Parameters<typeof thresholdsOf>[0], string[]][] = [
    ['a quantity', { ...none, hard: { 'memory.available': '100Mi' } }, ['memory.available 0 {"quantity":"100Mi"}']],
    ['half, in single precision', { ...none, hard: { 'nodefs.available': '50%' } }, ['nodefs.available 0 {"share":0.5}']],
    ['0% and 100% switch off', { ...none, hard: { 'nodefs.available': '0%', 'imagefs.available': '100%' } }, []],
    ['100.0% does not: it is always met', { ...none, hard: { 'nodefs.available': '100.0%' } }, ['nodefs.available 0 {"share":1}']],
    [
      'a soft one has its grace',
      { ...none, soft: { 'memory.available': '1Gi' }, softGraceMs: { 'memory.available': 90_000 } },
      ['memory.available 90000 {"quantity":"1Gi"}'],
    ],
    [
      'memory of the pods: the hard one again',
      {
        ...none,
        hard: { 'memory.available': '100Mi' },
        soft: { 'memory.available': '1Gi' },
        softGraceMs: { 'memory.available': 1 },
        enforcePods: true,
      },
      [
        'memory.available 0 {"quantity":"100Mi"}',
        'memory.available 1 {"quantity":"1Gi"}',
        'allocatableMemory.available 0 {"quantity":"100Mi"}',
      ],
    ],
  ];
  for (const [name, settings, expected] of table)
    test(name, () => {
      assert.deepEqual(
        thresholdsOf(settings).map((t) => `${t.signal} ${t.graceMs} ${JSON.stringify(t.value)}`),
        expected,
      );
    });

  const disks = thresholdsOf({ ...none, hard: { 'nodefs.available': '10%', 'imagefs.available': '15%', 'containerfs.available': '99%' } });
  for (const [name, onImageFs, share] of [
    ['containers beside pods’ files: as nodefs', false, 0.1],
    ['containers beside images: as imagefs', true, 0.15],
  ] as const)
    test(name, () => {
      const own = withContainerFs(disks, onImageFs).filter((t) => t.signal === 'containerfs.available');
      assert.deepEqual(
        own.map((t) => t.value),
        [{ share: Math.fround(Math.fround(share * 100) / 100) }],
      );
    });

  const [memory] = thresholdsOf({ ...none, hard: { 'memory.available': '100Mi' }, minimumReclaim: { 'memory.available': '50Mi' } });
  const met: [string, number, boolean, boolean][] = [
    ['less than the threshold', 99 * Mi, false, true],
    ['exactly the threshold is enough', 100 * Mi, false, false],
    ['above it, but less than was to be reclaimed', 120 * Mi, true, true],
    ['all reclaimed', 150 * Mi, true, false],
  ];
  for (const [name, available, reclaim, expected] of met)
    test(name, () => {
      const found = metThresholds([memory as Threshold], seen({ 'memory.available': { available, capacity: 1024 * Mi } }), reclaim);
      assert.equal(found.length === 1, expected);
    });
});

describe('pressure over time', () => {
  const [hard] = thresholdsOf({ ...none, hard: { 'nodefs.available': '10%' } }) as [Threshold];
  const [soft] = thresholdsOf({ ...none, soft: { 'memory.available': '1Gi' }, softGraceMs: { 'memory.available': 30_000 } }) as [Threshold];
  const low = seen({
    'nodefs.available': { available: 5, capacity: 100 },
    'memory.available': { available: 512 * Mi, capacity: 4096 * Mi },
  });
  const fine = seen({
    'nodefs.available': { available: 50, capacity: 100 },
    'memory.available': { available: 2048 * Mi, capacity: 4096 * Mi },
  });
  const run = (steps: [atSeconds: number, what: typeof low][], shown: Condition[] = []) => {
    let state = initialPressure(shown, 0);
    return steps.map(([at, what]) => {
      const next = nextPressure(state, [hard, soft], what, 60_000, at * 1000);
      state = next.state;
      return `${at}: ${state.conditions.join('+')} ${next.act.map((t) => t.signal).join()}`.trimEnd();
    });
  };
  test('a hard one at once, a soft one after its grace and memory first; conditions stay for the transition period', () => {
    assert.deepEqual(
      run([
        [0, low],
        [10, low],
        [30, low],
        [40, fine],
        [89, fine],
        [91, fine],
      ]),
      [
        '0: MemoryPressure+DiskPressure nodefs.available',
        '10: MemoryPressure+DiskPressure nodefs.available',
        '30: MemoryPressure+DiskPressure memory.available,nodefs.available',
        '40: MemoryPressure+DiskPressure',
        '89: MemoryPressure+DiskPressure',
        '91:',
      ],
    );
  });
  test('the grace of a soft one begins anew when it was not met in between', () => {
    assert.deepEqual(
      run([
        [0, low],
        [20, fine],
        [31, low],
      ]).at(-1),
      '31: MemoryPressure+DiskPressure nodefs.available',
    );
  });
  test('what the Node showed before a restart of the agent goes on', () => {
    assert.deepEqual(
      run(
        [
          [1, fine],
          [61, fine],
        ],
        ['PIDPressure'],
      ),
      ['1: PIDPressure', '61:'],
    );
  });
  test('a reading as old as the last one calls for nothing', () => {
    const old = seen({ 'nodefs.available': { available: 5, capacity: 100, at: 7 } });
    assert.deepEqual(
      run([
        [0, old],
        [10, old],
      ]),
      ['0: DiskPressure nodefs.available', '10: DiskPressure'],
    );
  });
});

const requests = (memory: string, more: Record<string, string> = {}): Partial<PodSpec> => ({
  containers: [container('a', { resources: { requests: { memory, ...more } } })],
});
const named = (name: string, spec: Partial<PodSpec> = {}): AgentPod => pod(spec, { name, uid: name });
const stats = (name: string, more: Partial<PodStats> = {}): PodStats => ({
  podRef: { name, namespace: 'default', uid: name },
  startTime: 0,
  containers: [],
  ...more,
});

describe('who goes first', () => {
  const whole = { dedicatedImageFs: false, splitContainerFs: false };
  const memory = (workingSetBytes: number): Partial<PodStats> => ({ memory: { time: 0, workingSetBytes } });
  const rootfs = (usedBytes: number): Partial<PodStats> => ({ containers: [{ name: 'a', startTime: 0, rootfs: { time: 0, usedBytes } }] });
  const table: [string, Signal, [AgentPod, Partial<PodStats> | undefined][], string[]][] = [
    [
      'above requests, then priority, then by how much',
      'memory.available',
      [
        [named('within', requests('1Gi')), memory(500 * Mi)],
        [named('bit-above', requests('100Mi')), memory(150 * Mi)],
        [named('far-above'), memory(400 * Mi)],
        [named('important', { priority: 1000 }), memory(900 * Mi)],
      ],
      ['far-above', 'bit-above', 'important', 'within'],
    ],
    [
      'those of which nothing is known',
      'memory.available',
      [
        [named('known'), memory(1)],
        [named('unknown'), undefined],
      ],
      ['unknown', 'known'],
    ],
    [
      'processes: priority, then number',
      'pid.available',
      [
        [named('few'), { process_stats: { process_count: 2 } }],
        [named('many'), { process_stats: { process_count: 200 } }],
        [named('important', { priority: 5 }), { process_stats: { process_count: 500 } }],
      ],
      ['many', 'few', 'important'],
    ],
    [
      'disk, less what was requested of it',
      'nodefs.available',
      [
        [named('asked', requests('1Mi', { 'ephemeral-storage': '1Gi' })), rootfs(900 * Mi)],
        [named('did-not'), rootfs(10 * Mi)],
      ],
      ['did-not', 'asked'],
    ],
  ];
  for (const [name, signal, pods, expected] of table)
    test(name, () => {
      const byName = new Map(pods.map(([p, s]) => [p.metadata.name, s && stats(p.metadata.name, s)]));
      const ranked = rankForEviction(
        pods.map(([p]) => p),
        (p) => byName.get(p.metadata.name),
        signal,
        whole,
      );
      assert.deepEqual(
        ranked.map((p) => p.metadata.name),
        expected,
      );
    });

  for (const [signal, layout, expected] of [
    ['nodefs.available', whole, ['rootfs', 'logs', 'volumes']],
    ['nodefs.available', { dedicatedImageFs: true, splitContainerFs: false }, ['logs', 'volumes']],
    ['imagefs.available', { dedicatedImageFs: true, splitContainerFs: false }, ['rootfs']],
    ['containerfs.inodesFree', { dedicatedImageFs: true, splitContainerFs: false }, ['rootfs']],
    ['imagefs.available', { dedicatedImageFs: true, splitContainerFs: true }, []],
    ['containerfs.available', { dedicatedImageFs: true, splitContainerFs: true }, ['rootfs', 'logs', 'volumes']],
  ] as const)
    test(`${signal} with ${JSON.stringify(layout)}: ${expected.join(', ') || 'nothing of pods'}`, () => {
      assert.deepEqual(partsOn(signal, layout), expected);
    });
});

describe('what is told', () => {
  const thresholds = thresholdsOf({ ...none, hard: { 'memory.available': '100Mi', 'pid.available': '10%' } });
  const observed = seen({
    'memory.available': { available: 50 * Mi, capacity: 1024 * Mi },
    'pid.available': { available: 2999, capacity: 30_000 },
  });
  test('memory', () => {
    const hog = named('hog', requests('10Mi'));
    const used = stats('hog', { containers: [{ name: 'a', startTime: 0, memory: { time: 0, workingSetBytes: 300 * Mi } }] });
    assert.deepEqual(evictionText('memory', hog, used, thresholds, observed), {
      message:
        'The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container a was using 300Mi, request is 10Mi, has larger consumption of memory. ',
      annotations: { offending_containers: 'a', offending_containers_usage: '300Mi', starved_resource: 'memory' },
    });
  });
  test('processes, and nothing known of the pod', () => {
    assert.deepEqual(evictionText('pids', named('p'), undefined, thresholds, observed), {
      message: 'The node was low on resource: pids. Threshold quantity: 3000, available: 2999. ',
      annotations: {},
    });
  });
});

describe('limits of local storage', () => {
  const volumes = [{ name: 'data', emptyDir: { sizeLimit: '5Mi' } }];
  const limited = { containers: [container('a', { resources: { limits: { 'ephemeral-storage': '5Mi' } } })] };
  const fs = (usedBytes: number) => ({ time: 0, usedBytes });
  const table: [string, Partial<PodSpec>, Partial<PodStats>, boolean, string | undefined][] = [
    ['an emptyDir within its limit', { volumes }, { volume: [{ ...fs(5 * Mi), name: 'data' }] }, false, undefined],
    [
      'an emptyDir above it',
      { volumes },
      { volume: [{ ...fs(5 * Mi + 1), name: 'data' }] },
      false,
      'Usage of EmptyDir volume "data" exceeds the limit "5Mi". ',
    ],
    [
      'all of the pod above the sum of its limits',
      limited,
      { 'ephemeral-storage': fs(6 * Mi) },
      false,
      'Pod ephemeral local storage usage exceeds the total limit of containers 5Mi. ',
    ],
    [
      'one container above its own',
      { containers: [...limited.containers, container('b', { resources: { limits: { 'ephemeral-storage': '1Gi' } } })] },
      { 'ephemeral-storage': fs(6 * Mi), containers: [{ name: 'a', startTime: 0, rootfs: fs(4 * Mi), logs: fs(2 * Mi) }] },
      false,
      'Container a exceeded its local ephemeral storage limit "5Mi". ',
    ],
    [
      'its layer on a file system of images does not count',
      { containers: [...limited.containers, container('b', { resources: { limits: { 'ephemeral-storage': '1Gi' } } })] },
      { 'ephemeral-storage': fs(6 * Mi), containers: [{ name: 'a', startTime: 0, rootfs: fs(4 * Mi), logs: fs(2 * Mi) }] },
      true,
      undefined,
    ],
  ];
  for (const [name, spec, used, dedicated, message] of table)
    test(name, () => {
      const one = named('p', spec);
      assert.ok(hasStorageLimit(one));
      assert.equal(storageExcess(one, stats('p', used), dedicated)?.message, message);
    });
  test('without a limit nothing has to be measured', () => assert.equal(hasStorageLimit(named('p')), false));
});

describe('admission under pressure', () => {
  const tolerates = { tolerations: [{ key: 'node.kubernetes.io/memory-pressure', operator: 'Exists', effect: 'NoSchedule' }] };
  const table: [string, AgentPod, Condition[], string | undefined][] = [
    ['no pressure', named('p'), [], undefined],
    ['memory, best effort', named('p'), ['MemoryPressure'], 'The node had condition: [MemoryPressure]. '],
    ['memory, burstable', named('p', requests('1Mi')), ['MemoryPressure'], undefined],
    ['memory, best effort that tolerates it', named('p', tolerates), ['MemoryPressure'], undefined],
    ['disk, burstable', named('p', requests('1Mi')), ['DiskPressure'], 'The node had condition: [DiskPressure]. '],
    [
      'disk, best effort that tolerates memory pressure',
      named('p', tolerates),
      ['DiskPressure'],
      'The node had condition: [DiskPressure]. ',
    ],
    ['both', named('p'), ['MemoryPressure', 'PIDPressure'], 'The node had condition: [MemoryPressure PIDPressure]. '],
    ['critical', named('p', { priority: 2_000_001_000 }), ['DiskPressure'], undefined],
  ];
  for (const [name, one, conditions, message] of table)
    test(name, () => {
      const answer = pressureRejection(one, conditions);
      assert.deepEqual(answer, message === undefined ? undefined : { reason: 'Evicted', message });
    });
});
