import assert from 'node:assert/strict';
import { test } from 'node:test';
import { forgetUnnamed, memoryOf, noteKills, podKills, wasOomKilled } from '../../../agent/pods/oom.ts';

const t = 1_700_000_000_000;
const none = new Map<string, number>();
const counts = (pod: number | undefined, containers: Record<string, number> = {}) => ({
  pod,
  containers: new Map(Object.entries(containers)),
});
const ended = (id: string, finishedAt: number, exitCode = 137) => ({ id, state: 'exited' as const, exitCode, finishedAt });

type Look = { at?: number; pod?: number; own?: Record<string, number>; log?: Record<string, number> };
const cases: { name: string; looks: Look[]; ends: { id: string; at?: number; code?: number; oom: boolean }[] }[] = [
  {
    name: 'v2: the pod counted, and the cgroup of the container has gone',
    looks: [{ pod: 0 }, { at: 5000, pod: 1 }],
    ends: [{ id: 'a', oom: true }],
  },
  { name: 'v2: nothing was counted: killed by somebody', looks: [{ pod: 0 }, { at: 5000, pod: 0 }], ends: [{ id: 'a', oom: false }] },
  { name: 'another exit code', looks: [{ pod: 0 }, { at: 5000, pod: 1 }], ends: [{ id: 'a', code: 1, oom: false }] },
  {
    name: "v2: another container's child was killed, and this one by somebody else",
    looks: [
      { pod: 0, own: { b: 0 } },
      { at: 5000, pod: 1, own: { b: 1 } },
    ],
    ends: [{ id: 'a', oom: false }],
  },
  {
    name: 'v2: both: the rest of the count is of the one that has gone',
    looks: [
      { pod: 0, own: { b: 0 } },
      { at: 5000, pod: 3, own: { b: 1 } },
    ],
    ends: [{ id: 'a', oom: true }],
  },
  {
    name: 'v2: two ended near each other, the log names one',
    looks: [{ pod: 0 }, { at: 5000, pod: 1, log: { b: 1 } }],
    ends: [
      { id: 'a', oom: false },
      { id: 'b', oom: true },
    ],
  },
  {
    name: 'v2: two killed near each other, the log names one and was not to tell more',
    looks: [{ pod: 0 }, { at: 5000, pod: 2, log: { b: 1 } }],
    ends: [
      { id: 'b', oom: true },
      { id: 'a', oom: true },
    ],
  },
  {
    name: 'v2: one kill, two ended near each other, no log: one of them',
    looks: [{ pod: 0 }, { at: 5000, pod: 1 }],
    ends: [
      { id: 'a', oom: true },
      { id: 'b', oom: false },
    ],
  },
  {
    name: 'v2: all of a group',
    looks: [
      { pod: 0, own: { a: 0 } },
      { at: 5000, pod: 7, own: { a: 7 } },
    ],
    ends: [{ id: 'a', oom: true }],
  },
  {
    name: 'v1: its own count while the cgroup is there',
    looks: [{ own: { a: 0 } }, { at: 5000, own: { a: 1 } }],
    ends: [{ id: 'a', oom: true }],
  },
  { name: 'v1: the log names it', looks: [{ own: { a: 0 } }, { at: 5000, log: { a: 1 } }], ends: [{ id: 'a', oom: true }] },
  { name: 'v1: nothing tells', looks: [{ own: { a: 0 } }, { at: 5000 }], ends: [{ id: 'a', oom: false }] },
  {
    name: 'a child was killed long before the end',
    looks: [
      { pod: 0, own: { a: 0 } },
      { at: 5000, pod: 1, own: { a: 1 } },
      { at: 100_000, pod: 1, own: { a: 1 } },
      { at: 200_000, pod: 1 },
    ],
    ends: [{ id: 'a', at: 195_000, oom: false }],
  },
  {
    name: 'a child was killed, and the main process ended of it',
    looks: [
      { pod: 0, own: { a: 0 } },
      { at: 5000, pod: 1, own: { a: 1 } },
      { at: 9000, pod: 1 },
    ],
    ends: [{ id: 'a', at: 8000, oom: true }],
  },
  {
    name: 'several in a row: each instance has its own kill',
    looks: [{ pod: 0 }, { at: 5000, pod: 1 }],
    ends: [
      { id: 'a1', oom: true },
      { id: 'a2', at: 60_000, oom: false },
    ],
  },
  {
    name: 'the container was counted a moment before the pod: no kill is counted twice',
    looks: [
      { pod: 0, own: { b: 0 } },
      { at: 5000, pod: 0, own: { b: 1 } },
      { at: 6000, pod: 1, own: { b: 1 } },
    ],
    ends: [{ id: 'a', at: 6000, oom: false }],
  },
  {
    name: 'the log tells of what was counted already',
    looks: [
      { pod: 0, own: { b: 0 } },
      { at: 5000, pod: 1, own: { b: 1 } },
      { at: 6000, pod: 2, log: { b: 1 } },
    ],
    ends: [{ id: 'a', at: 6000, oom: true }],
  },
  {
    name: 'the machine was started anew: counts begin again',
    looks: [{ pod: 5 }, { at: 5000, pod: 0 }, { at: 9000, pod: 1 }],
    ends: [{ id: 'a', at: 8500, oom: true }],
  },
];

for (const { name, looks, ends } of cases)
  test(`OOM kills: ${name}`, () => {
    const kills = podKills(undefined);
    const told = new Map<string, number>();
    for (const { at = 0, pod, own, log = {} } of looks) {
      for (const [id, count] of Object.entries(log)) told.set(id, count);
      noteKills(kills, counts(pod, own), told, t + at);
    }
    for (const { id, at = 4000, code, oom } of ends) {
      assert.equal(wasOomKilled(kills, ended(id, t + at, code)), oom, id);
      // Asked again, it says the same.
      assert.equal(wasOomKilled(kills, ended(id, t + at, code)), oom, id);
    }
  });

test('the agent was away: what it remembers is subtracted', () => {
  const before = podKills(undefined);
  noteKills(before, counts(4, { b: 1 }), none, t);
  const memory = JSON.parse(JSON.stringify(memoryOf(before)));
  const quiet = podKills(memory);
  assert.deepEqual(noteKills(quiet, counts(4, { b: 1 }), none, t + 60_000), []);
  assert.equal(wasOomKilled(quiet, ended('a', t + 30_000)), false);
  const killed = podKills(memory);
  assert.deepEqual(noteKills(killed, counts(6, { b: 2 }), none, t + 60_000), [{ containerId: 'b', count: 1 }]);
  assert.equal(wasOomKilled(killed, ended('a', t + 30_000)), true);
});

test('nothing is remembered of a pod in which nothing was killed', () => {
  const kills = podKills(undefined);
  noteKills(kills, counts(0, { a: 0 }), none, t);
  assert.equal(memoryOf(kills), undefined);
});

test('a node that is taken over: old counts explain no end, but the log does', () => {
  const kills = podKills(undefined);
  noteKills(kills, counts(9), new Map([['b', 1]]), t);
  forgetUnnamed(kills);
  assert.equal(wasOomKilled(kills, ended('a', t - 1000)), false);
  assert.equal(wasOomKilled(kills, ended('b', t - 1000)), true);
});

test('an end without a time is one that is seen now', () => {
  const kills = podKills(undefined);
  noteKills(kills, counts(0), none, t);
  noteKills(kills, counts(1), none, t + 5000);
  assert.equal(wasOomKilled(kills, ended('a', 0)), true);
});

test('a clock that is set back between two looks explains ends by either time', () => {
  for (const finishedAt of [t + 1_000, t - 3_600_000]) {
    const kills = podKills(undefined);
    noteKills(kills, counts(0), none, t);
    noteKills(kills, counts(1), none, t - 3_600_000);
    assert.equal(wasOomKilled(kills, ended('a', finishedAt)), true);
    assert.equal(wasOomKilled(kills, ended('b', finishedAt)), false);
  }
});
