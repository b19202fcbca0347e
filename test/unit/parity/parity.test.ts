import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Event, Pod } from '../../../agent/model/generated/api.ts';
import { isReached, type Until } from '../../parity/case.ts';
import { type Accepted, createAcceptance, differences, printed } from '../../parity/difference.ts';
import { linesOf, plain } from '../../parity/normalise.ts';
import { cases } from '../../parity/pods/all.ts';

const ours = { nodeName: 'parity-n1', namespace: 'parity-ours' };
const theirs = { nodeName: 'parity-n2', namespace: 'parity-them' };

const texts: [string, string][] = [
  [
    'Back-off pulling image "x" in web_parity-ours(0a1b2c3d-0000-4000-8000-0123456789ab)',
    'Back-off pulling image "x" in web_NAMESPACE(UID)',
  ],
  [
    'Get "http://10.244.0.7:8080/": dial tcp 10.244.0.7:8080: connect: connection refused',
    'Get "http://POD-IP:8080/": dial tcp POD-IP:8080: connect: connection refused',
  ],
  [
    'read tcp 172.30.0.11:43210->10.244.0.7:80: read: connection reset by peer',
    'read tcp NODE-IP:PORT->POD-IP:80: read: connection reset by peer',
  ],
  ['containerd://6c1f0e4f6c1f0e4f6c1f0e4f6c1f0e4f6c1f0e4f6c1f0e4f6c1f0e4f6c1f0e4f', 'containerd://ID'],
  [
    'Successfully pulled image "x" in 1m2.5s (20ms including waiting). Image size: 700 bytes.',
    'Successfully pulled image "x" in TIME (TIME including waiting). Image size: 700 bytes.',
  ],
  ['back-off 10s restarting failed container=main', 'back-off 10s restarting failed container=main'],
  ['node parity-n1', 'node NODE'],
];
for (const [text, expected] of texts)
  test(`told without what one side alone can say: ${expected}`, () => assert.equal(plain(text, ours), expected));

const podOn = (side: typeof ours, ip: string): Pod => ({
  metadata: { name: 'web', namespace: side.namespace },
  status: {
    phase: 'Running',
    podIP: ip,
    startTime: '2026-11-28T18:00:00Z',
    conditions: [{ type: 'Ready', status: 'True', lastTransitionTime: '2026-11-28T18:00:01Z' }],
    containerStatuses: [],
  },
});
const event = (side: typeof ours, reason: string, component = 'kubelet'): Event => ({
  metadata: {},
  involvedObject: { fieldPath: 'spec.containers{main}' },
  type: 'Normal',
  reason,
  message: `on ${side.nodeName}`,
  source: { component },
});

test('two nodes that tell the same have the same lines', () => {
  const a = linesOf({ pod: podOn(ours, '10.244.0.7'), events: [event(ours, 'Pulled'), event(ours, 'Pulled')] }, ours);
  const b = linesOf(
    { pod: podOn(theirs, '10.244.16.9'), events: [event(theirs, 'Pulled'), event(theirs, 'Scheduled', 'default-scheduler')] },
    theirs,
  );
  assert.deepEqual(a, b);
  assert.deepEqual(a, [
    'event Normal Pulled spec.containers{main}: on NODE',
    'status.conditions order = Ready',
    'status.conditions{Ready}.status = True',
    'status.conditions{Ready}.type = Ready',
    'status.phase = Running',
    'status.podIP = POD-IP',
  ]);
});

test('a difference is upstream’s line or ours, and what is accepted is none', () => {
  const found = differences('web', ['a', 'b'], ['b', 'c']);
  assert.deepEqual(found.map(printed), ['  - c', '  + a']);
  const rule = (more: Partial<Accepted>): Accepted => ({ pod: 'web', only: 'keelson', line: 'a', why: 'because', ...more });
  const unaccepted = (...rules: Accepted[]): string[] => {
    const acceptance = createAcceptance(rules);
    return found.filter((each) => !acceptance.accepts(each)).map(printed);
  };
  assert.deepEqual(unaccepted(rule({})), ['  - c']);
  assert.deepEqual(unaccepted(rule({ only: 'upstream' })), ['  - c', '  + a']);
  assert.deepEqual(unaccepted(rule({ pod: 'we' })), ['  - c', '  + a']);
  assert.deepEqual(unaccepted(rule({ pod: '.*', only: 'either', line: '[ac]' })), []);
});

test('an accepted line that nothing needed is stale, unless it says that it comes and goes', () => {
  const rule = { pod: 'web', only: 'keelson', line: 'a', why: 'because' } as const;
  assert.deepEqual(createAcceptance([rule]).stale(), [rule]);
  assert.deepEqual(createAcceptance([{ ...rule, sometimes: true }]).stale(), []);
  const used = createAcceptance([rule]);
  used.accepts({ pod: 'web', only: 'keelson', line: 'a' });
  assert.deepEqual(used.stale(), []);
});

const waitingPod: Pod = {
  status: {
    phase: 'Pending',
    initContainerStatuses: [
      { name: 'i', image: '', imageID: '', ready: false, restartCount: 2, state: { waiting: { reason: 'CrashLoopBackOff' } } },
    ],
  },
};
const reached: [Until, Pod | undefined, boolean][] = [
  ['gone', undefined, true],
  ['gone', waitingPod, false],
  ['ready', podOn(ours, ''), true],
  ['ended', waitingPod, false],
  [{ waiting: 'CrashLoopBackOff' }, waitingPod, true],
  [{ restarts: 3 }, waitingPod, false],
  [{ all: [{ restarts: 2 }, { event: 'Pulled' }] }, waitingPod, true],
  [{ condition: 'Ready', status: 'False' }, podOn(ours, ''), false],
];
for (const [until, pod, expected] of reached)
  test(`${JSON.stringify(until)} is ${expected ? 'reached' : 'not reached'}`, () =>
    assert.equal(isReached(until, pod, [event(ours, 'Pulled')]), expected));

test('the table has a hundred and fifty pods, each with a name of its own that Kubernetes takes', () => {
  const names = cases.map(({ name }) => name);
  assert.ok(names.length >= 150, `${names.length} pods`);
  assert.equal(new Set(names).size, names.length);
  for (const name of names) assert.match(name, /^[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?$/);
});

test('each accepted line has a why and fits a pod of the table', () => {
  const accepted = JSON.parse(readFileSync(join(import.meta.dirname, '../../parity/accepted.json'), 'utf8')) as Accepted[];
  for (const { pod, line, why } of accepted) {
    assert.match(why, /^[A-Z].{20,}\.$/s, `${pod}: ${line}`);
    assert.ok(
      ['node', ...cases.map(({ name }) => name)].some((name) => new RegExp(`^(?:${pod})$`).test(name)),
      `no pod is called ${pod}`,
    );
    new RegExp(line);
  }
});
