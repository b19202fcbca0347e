import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { RuntimePod } from '../../../agent/pods/observed.ts';
import type { PodSpecRow, PodsOptions } from '../../../agent/pods/worker.ts';
import { instance, pod, runtimePod, sandbox } from './build.ts';
import { exitAll, startWorld } from './worker-world.ts';

const nothing = async (): Promise<void> => undefined;

/** `story` tells what happens until u2 is prepared. */
function world(story: string[], wants: readonly PodSpecRow[], holds: readonly RuntimePod[], options: Partial<PodsOptions>) {
  const prepared = Promise.withResolvers<void>();
  const at = startWorld({
    wants,
    holds,
    cri: (w) => ({
      stopPodSandbox: nothing,
      removePodSandbox: nothing,
      stopContainer: async ({ timeout }) => {
        story.push(`stop after ${timeout} s`);
        exitAll(w, 'u1');
      },
      removeContainer: nothing,
    }),
    apply: () => ({
      recordEvent: (_, type, reason, message) => void story.push(`${type} ${reason}: ${message}`),
      count: (what) => {
        if (what.kind === 'preempted') story.push(`preempted for ${what.resource}`);
        if (what.kind === 'refused') story.push(`refused: ${what.reason}`);
      },
      ensureCgroup: async (p) => {
        if (p.metadata.uid !== 'u2') return;
        story.push('u2 prepared');
        prepared.resolve();
      },
      removeCgroup: nothing,
      mountVolumes: nothing,
      unmountVolumes: nothing,
      removePodDir: nothing,
    }),
    options: { networkProblem: () => 'none here', ...options },
  });
  return Object.assign(at, { prepared: prepared.promise });
}

test('a critical pod waits until what made room for it has ended, and is admitted then', { timeout: 5000 }, async () => {
  const story: string[] = [];
  const wants: PodSpecRow[] = [
    { pod: pod(), source: 'api' },
    { pod: pod({ priority: 2_000_000_000 }, { uid: 'u2', name: 'critical' }), source: 'api' },
  ];
  const admit: PodsOptions['admit'] = (_, active) => {
    const victims = active.filter((p) => p.metadata.uid === 'u1');
    return victims.length > 0 ? { victims, resource: 'cpu' } : undefined;
  };
  await using at = world(story, wants, [runtimePod([sandbox()], [instance('a')])], { admit });
  await at.prepared;
  assert.deepEqual(
    story.filter((line) => !line.startsWith('Normal') && !line.includes('FailedCreatePodSandBox')),
    ['Warning Preempting: Preempted in order to admit critical pod', 'preempted for cpu', 'stop after 30 s', 'u2 prepared'],
  );
  const status = at.pods.statuses.get('u1')?.status;
  // Its container came to a good end (exit code 0), as upstream's suite has it (e2e_node/critical_pod_test.go).
  assert.deepEqual([status?.phase, status?.reason], ['Succeeded', undefined]);
  const condition = status?.conditions?.find((c) => c.type === 'DisruptionTarget');
  assert.equal(condition?.reason, 'TerminationByKubelet');
  assert.equal(condition?.message, 'Pod was preempted by Kubelet to accommodate a critical pod.');
});

test('a pod that selects a label which the Node has had for a moment only is not refused', { timeout: 5000 }, async () => {
  const story: string[] = [];
  const wants: PodSpecRow[] = [{ pod: pod({ nodeSelector: { disk: 'fast' } }, { uid: 'u2' }), source: 'api' }];
  let labelled = false;
  const refreshNode = async (): Promise<void> => {
    story.push('Node read anew');
    labelled = true;
  };
  const admit: PodsOptions['admit'] = () => (labelled ? undefined : { reason: 'NodeAffinity', message: 'no' });
  await using at = world(story, wants, [], { admit, refreshNode });
  await at.prepared;
  assert.deepEqual(story.slice(0, 2), ['Node read anew', 'u2 prepared']);
});
