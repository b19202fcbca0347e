import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { silentLog } from '../../../agent/base/log.ts';
import { type CollectOptions, startImageCollector } from '../../../agent/images/collect.ts';
import { bytesToFree, forSpace, fullName, insufficientText, noteImages, tooOld } from '../../../agent/images/gc.ts';
import type { Image } from '../../../cri-protos/generated/cri.ts';
import { manualClock } from '../identity/manual-clock.ts';

const policy = { highPercent: 85, lowPercent: 80, minAgeMs: 120_000, maxAgeMs: 0 };
const image = (id: string, more: Partial<Image> = {}): Image => ({ id, size: 100, repo_tags: [`docker.io/library/${id}:1`], ...more });
const users = (ids: string[], names: string[] = []) => ({ ids: new Set(ids), names: new Set(names) });

describe('which images go', () => {
  test('in use by ID, by digest, or by the name in a spec: they stay; so do pinned ones', () => {
    const images = [
      image('by-id'),
      image('by-digest', { repo_digests: ['docker.io/library/x@sha256:aa'] }),
      image('by-name'),
      image('pinned', { pinned: true }),
      image('unused'),
    ];
    const records = noteImages(new Map(), images, users(['by-id', 'docker.io/library/x@sha256:aa'], ['by-name:1']), 0);
    assert.deepEqual(
      forSpace(records, policy, 200_000).map((i) => i.id),
      ['unused'],
    );
  });
  test('the longest unused first, then the oldest; young ones stay', () => {
    let records = noteImages(new Map(), [image('used-long-ago'), image('used-lately')], users(['used-long-ago', 'used-lately']), 1000);
    records = noteImages(
      records,
      [...records.keys(), 'never-used'].map((id) => image(id)),
      users(['used-lately']),
      2000,
    );
    records = noteImages(
      records,
      [...records.keys(), 'young'].map((id) => image(id)),
      users([]),
      200_000,
    );
    assert.deepEqual(
      forSpace(records, policy, 200_000).map((i) => i.id),
      ['never-used', 'used-long-ago', 'used-lately'],
    );
  });
  test('too old: unused for longer than allowed, but not before the agent has watched for that long', () => {
    const records = noteImages(new Map(), [image('a')], users([]), 0);
    const strict = { ...policy, maxAgeMs: 1000 };
    assert.deepEqual(tooOld(records, strict, 0, 1000), []);
    assert.deepEqual(
      tooOld(records, strict, 0, 1001).map((i) => i.id),
      ['a'],
    );
    assert.deepEqual(tooOld(records, policy, 0, 10 ** 9), []);
  });
  const full: [string, number, ReturnType<typeof bytesToFree>][] = [
    ['room enough', 160, undefined],
    ['exactly the high threshold', 150, { percent: 85, bytes: 50 }],
    ['nothing left', 0, { percent: 100, bytes: 200 }],
    ['more left than there is', 2000, undefined],
  ];
  for (const [name, availableBytes, expected] of full)
    test(name, () => assert.deepEqual(bytesToFree({ capacityBytes: 1000, availableBytes }, policy), expected));
  test('names in full', () => {
    assert.equal(fullName('busybox'), 'docker.io/library/busybox:latest');
    assert.equal(fullName('UPPER case'), undefined);
  });
  test('what a person is told', () =>
    assert.match(insufficientText(90, 270_553_174_016, 5), /\(90% of 252\.0 GiB used\).*\(freed 5 bytes\)/));
});

describe('the collector', () => {
  const start = (more: Partial<CollectOptions>) => {
    const clock = manualClock(0);
    const stop = new AbortController();
    const told: string[] = [];
    const collector = startImageCollector({
      clock,
      log: silentLog,
      signal: stop.signal,
      policy: () => policy,
      listImages: async () => [image('a'), image('b'), image('c')],
      removeImage: async (id) => void told.push(`remove ${id}`),
      users: async () => users(['c']),
      disk: async () => ({ capacityBytes: 1000, availableBytes: 100 }),
      event: (_, reason) => void told.push(reason),
      removed: (reason) => void told.push(reason),
      left: async (ids) => void told.push(`left ${[...ids].join()}`),
      ...more,
    });
    return { clock, stop, told, collector };
  };
  test('frees as much as is needed, as soon as images are old enough', async () => {
    const { clock, stop, told, collector } = start({});
    await clock.advance(0);
    assert.deepEqual(told, ['FreeDiskSpaceFailed']);
    told.length = 0;
    await clock.advance(300_000);
    assert.deepEqual(told, ['remove a', 'space', 'left b,c']);
    stop.abort();
    await collector[Symbol.asyncDispose]();
  });
  test('nothing goes while it is not known what is in use', async () => {
    let known = false;
    const { clock, stop, told, collector } = start({
      policy: () => ({ ...policy, minAgeMs: 0 }),
      users: async () => (known ? users(['c']) : undefined),
    });
    await clock.advance(0);
    assert.deepEqual(told, []);
    known = true;
    await clock.advance(1000);
    assert.deepEqual(told, ['remove a', 'space', 'left b,c']);
    stop.abort();
    await collector[Symbol.asyncDispose]();
  });
  test('what was pulled after the listing is not among the gone: the time told is that before it', async () => {
    const times: number[] = [];
    const bed = start({
      policy: () => ({ ...policy, minAgeMs: 0 }),
      // Asking for the disk takes its time, and pods pull meanwhile.
      disk: async (s) => {
        await bed.clock.sleep(500, s);
        return { capacityBytes: 1000, availableBytes: 100 };
      },
      left: async (_, listedAt) => void times.push(listedAt),
    });
    const before = bed.clock.wall();
    await bed.clock.advance(0);
    await bed.clock.advance(500);
    assert.deepEqual(times, [before]);
    bed.stop.abort();
    await bed.collector[Symbol.asyncDispose]();
  });
  test('an image that the runtime will not remove: the others go, and the second time an event tells', async () => {
    const { clock, stop, told, collector } = start({
      policy: () => ({ ...policy, minAgeMs: 0 }),
      removeImage: async (id) => {
        if (id === 'a') throw new Error('in use');
      },
    });
    await clock.advance(0);
    assert.deepEqual(told, ['space', 'left a,c']);
    told.length = 0;
    await clock.advance(300_000);
    assert.ok(told.includes('ImageGCFailed'));
    stop.abort();
    await collector[Symbol.asyncDispose]();
  });
});
