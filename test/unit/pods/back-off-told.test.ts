import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { instance, pod, runtimePod, sandbox } from './build.ts';
import { startWorld } from './worker-world.ts';

const nothing = async (): Promise<void> => undefined;

test('a container that is started again at once is not told to back off', { timeout: 5000 }, async () => {
  const events: string[] = [];
  const starting = Promise.withResolvers<void>();
  const letGo = Promise.withResolvers<void>();
  await using at = startWorld({
    wants: [{ pod: pod(), source: 'api' }],
    holds: [runtimePod([sandbox()], [instance('a', { state: 'exited', exitCode: 1, finishedAt: Date.now() })])],
    options: { crashPolicy: { initialMs: 60_000, maxMs: 60_000 } },
    cri: () => ({
      createContainer: async () => {
        starting.resolve();
        await letGo.promise;
        throw new Error('not in this story');
      },
    }),
    apply: () => ({
      ensureCgroup: nothing,
      mountVolumes: nothing,
      ensureImage: async () => 'r',
      sandboxConfig: async () => ({}),
      containerConfig: async () => ({}),
      recordEvent: (_pod, _type, reason) => void events.push(reason),
    }),
  });
  await starting.promise;
  at.pods.poke('u1');
  const states = at.pods.statuses.get('u1')?.status.containerStatuses?.map(({ state }) => Object.keys(state ?? {}).join());
  letGo.resolve();
  assert.deepEqual([states, events.includes('BackOff')], [['terminated'], false]);
});

test('a start that fails is told by its failure first, and after ten seconds by its back-off', { timeout: 5000 }, async () => {
  let aheadMs = 0;
  const failed = Promise.withResolvers<void>();
  await using at = startWorld({
    wants: [{ pod: pod(), source: 'api' }],
    holds: [runtimePod([sandbox()], [instance('a', { state: 'exited', exitCode: 128, finishedAt: Date.now() })])],
    options: {
      clock: { ...systemClock, wall: () => systemClock.wall() + aheadMs, mono: () => systemClock.mono() + aheadMs },
      crashPolicy: { initialMs: 60_000, maxMs: 60_000 },
    },
    cri: () => ({
      createContainer: async () => {
        throw new AgentError('RunContainerError', 'no such command');
      },
    }),
    apply: () => ({
      ensureCgroup: nothing,
      mountVolumes: nothing,
      ensureImage: async () => 'r',
      sandboxConfig: async () => ({}),
      containerConfig: async () => ({}),
      recordEvent: (_pod, _type, reason) => {
        if (reason === 'BackOff') failed.resolve();
      },
    }),
  });
  const waiting = (): string | undefined => at.pods.statuses.get('u1')?.status.containerStatuses?.[0]?.state?.waiting?.reason;
  await failed.promise;
  at.pods.poke('u1');
  await systemClock.sleep(20, new AbortController().signal);
  assert.equal(waiting(), 'CreateContainerError');
  aheadMs = 11_000;
  at.pods.poke('u1');
  await systemClock.sleep(20, new AbortController().signal);
  assert.equal(waiting(), 'CrashLoopBackOff');
});
