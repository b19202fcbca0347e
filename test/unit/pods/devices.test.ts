import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Rejection } from '../../../agent/pods/admission.ts';
import type { PodSpecRow, PodsOptions } from '../../../agent/pods/worker.ts';
import { instance, pod, runtimePod, sandbox } from './build.ts';
import { startWorld } from './worker-world.ts';

const nothing = async (): Promise<void> => undefined;
const limit = { timeout: 5000 };

/** A node whose pods all ask for devices; `story` tells what becomes of them. */
function node(wants: readonly PodSpecRow[], grant: PodsOptions['devices']['grant'], holds: Parameters<typeof startWorld>[0]['holds'] = []) {
  const story: string[] = [];
  const listeners = new Set<() => void>();
  const tell = (line: string): void => {
    story.push(line);
    for (const listener of listeners) listener();
  };
  const at = startWorld({
    wants,
    holds,
    apply: () => ({
      recordEvent: (_, type, reason, message) => tell(`${type} ${reason}: ${message}`),
      ensureCgroup: async (p) => tell(`${p.metadata.uid} prepared`),
      removeCgroup: nothing,
      mountVolumes: nothing,
      unmountVolumes: nothing,
      removePodDir: nothing,
    }),
    options: {
      networkProblem: () => 'none here',
      devices: {
        concerns: () => true,
        grant: async (p, signal) => {
          tell(`${p.metadata.uid} asks`);
          return grant(p, signal);
        },
        release: (uid) => tell(`${uid} released`),
        health: () => [{ name: 'v.example/gpu', resources: [{ resourceID: 'a', health: 'Healthy' }] }],
      },
      admit: (p) => {
        tell(`${p.metadata.uid} fits?`);
        return p.metadata.name === 'large' ? { reason: 'OutOfcpu', message: 'too large' } : undefined;
      },
    },
  });
  return Object.assign(at, {
    story,
    heard: (line: string): Promise<void> =>
      new Promise((resolve) => {
        const check = (): void => {
          if (!story.includes(line)) return;
          listeners.delete(check);
          resolve();
        };
        listeners.add(check);
        check();
      }),
  });
}

const lines = (story: readonly string[]): string[] => story.filter((line) => !/FailedCreatePodSandBox|NetworkNotReady/.test(line));

test('a pod gets its devices before all else is looked at, and is told with their health', limit, async () => {
  const granted = Promise.withResolvers<Rejection | undefined>();
  await using at = node([{ pod: pod(), source: 'api' }], () => granted.promise);
  await at.heard('u1 asks');
  assert.deepEqual(at.pods.awaitsAdmission('u1')?.waiting, [
    { subject: 'admission', message: 'its devices, which their plugin is asked for' },
  ]);
  granted.resolve(undefined);
  await at.heard('u1 prepared');
  assert.deepEqual(lines(at.story).slice(0, 3), ['u1 asks', 'u1 fits?', 'u1 prepared']);
  assert.deepEqual(at.pods.statuses.get('u1')?.status.containerStatuses?.[0]?.allocatedResourcesStatus?.[0]?.name, 'v.example/gpu');
});

test('one that cannot have them is refused in the words of who knows why', limit, async () => {
  const refusal = { reason: 'UnexpectedAdmissionError', message: 'Allocate failed due to smoke, which is unexpected' };
  await using at = node([{ pod: pod(), source: 'api' }], async () => refusal);
  await at.heard(`Warning ${refusal.reason}: ${refusal.message}`);
  assert.ok(!at.story.includes('u1 fits?'));
  assert.ok(at.story.includes('u1 released'));
});

test('one that has them and is refused for something else gives them back', limit, async () => {
  await using at = node([{ pod: pod({}, { name: 'large' }), source: 'api' }], async () => undefined);
  await at.heard('Warning OutOfcpu: too large');
  assert.deepEqual(lines(at.story).slice(0, 4), ['u1 asks', 'u1 fits?', 'u1 released', 'Warning OutOfcpu: too large']);
});

test('one that is deleted while its plugin is asked gives them back, and an answer that comes later is no one’s', limit, async () => {
  const granted = Promise.withResolvers<Rejection | undefined>();
  await using at = node([{ pod: pod(), source: 'api' }], () => granted.promise);
  await at.heard('u1 asks');
  at.specs.delete('u1');
  await at.heard('u1 released');
  granted.resolve(undefined);
  await granted.promise;
  assert.deepEqual(lines(at.story), ['u1 asks', 'u1 released']);
});

test('one that runs already is not asked about again', limit, async () => {
  await using at = node([{ pod: pod(), source: 'api' }], async () => undefined, [runtimePod([sandbox()], [instance('a')])]);
  await new Promise<void>((resolve) => {
    if (at.pods.statuses.has('u1')) resolve();
    else at.pods.statuses.subscribe(() => resolve());
  });
  assert.ok(!at.story.includes('u1 asks'));
});
