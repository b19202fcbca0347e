import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import type { Ending } from '../../../agent/pods/lifecycle.ts';
import type { RuntimePod } from '../../../agent/pods/observed.ts';
import { type PodSpecRow, type PodsOptions, startPods } from '../../../agent/pods/worker.ts';
import { instance, pod, runtimePod, sandbox } from './build.ts';

const folder = mkdtempSync(join(tmpdir(), 'preemption-'));
after(() => rmSync(folder, { recursive: true }));

/** A pods worker whose runtime does as it is told; `story` tells what happens. */
function world(story: string[], options: Pick<PodsOptions, 'specs' | 'admit'> & Partial<PodsOptions>, runtime: Table<RuntimePod>) {
  const prepared = Promise.withResolvers<void>();
  const never = (): never => {
    throw new AgentError('Internal', 'not in this story');
  };
  const nothing = { get: () => undefined, set: () => undefined, delete: () => undefined, prune: () => undefined };
  const apply: PodsOptions['apply'] = {
    cri: {
      runPodSandbox: never,
      createContainer: never,
      startContainer: never,
      execSync: never,
      stopPodSandbox: async () => undefined,
      removePodSandbox: async () => undefined,
      stopContainer: async ({ timeout }) => {
        story.push(`stop after ${timeout} s`);
        const one = runtime.get('u1');
        if (one !== undefined) runtime.set('u1', { ...one, containers: one.containers.map((c) => ({ ...c, state: 'exited' as const })) });
      },
      removeContainer: async () => undefined,
      updateContainerResources: never,
      updatePodSandboxResources: never,
      containerStats: never,
    },
    clock: systemClock,
    recordEvent: (_, type, reason, message) => void story.push(`${type} ${reason}: ${message}`),
    podLogsDir: join(folder, 'logs'),
    containerLogsDir: join(folder, 'links'),
    podDir: (uid) => join(folder, uid),
    ensureCgroup: async (p) => {
      if (p.metadata.uid !== 'u2') return;
      story.push('u2 prepared');
      prepared.resolve();
    },
    updateCgroup: never,
    memoryUsage: never,
    containerResources: never,
    podResources: never,
    removeCgroup: async () => undefined,
    mountVolumes: async () => undefined,
    unmountVolumes: async () => undefined,
    removePodDir: async () => undefined,
    runtimeHandler: never,
    sandboxConfig: never,
    ensureImage: never,
    containerConfig: never,
  };
  const controller = new AbortController();
  const pods = startPods({
    clock: systemClock,
    log: silentLog,
    signal: controller.signal,
    runtime,
    verdicts: new Table('verdicts'),
    endings: new Table<Ending>('endings'),
    observe: async () => undefined,
    admitted: new Table('admitted'),
    allocated: nothing,
    actuated: nothing,
    swaps: () => false,
    apply,
    preempt: () => undefined,
    networkProblem: () => 'none here',
    hostIps: () => [],
    runtimeName: 'containerd',
    crashPolicy: { initialMs: 1, maxMs: 1 },
    remembered: () => undefined,
    remember: () => undefined,
    forgotten: () => undefined,
    leftovers: async () => [],
    ...options,
  });
  return {
    statuses: pods.statuses,
    prepared: prepared.promise,
    async [Symbol.asyncDispose]() {
      controller.abort(new Error('test over'));
      await pods[Symbol.asyncDispose]();
    },
  };
}

test('a critical pod waits until what made room for it has ended, and is admitted then', { timeout: 5000 }, async () => {
  const story: string[] = [];
  const runtime = new Table<RuntimePod>('runtime');
  runtime.set('u1', runtimePod([sandbox()], [instance('a')]));
  runtime.markSynced();
  const specs = new Table<PodSpecRow>('specs');
  specs.set('u1', { pod: pod(), source: 'api' });
  specs.set('u2', { pod: pod({ priority: 2_000_000_000 }, { uid: 'u2', name: 'critical' }), source: 'api' });
  specs.markSynced();
  const endings = new Table<Ending>('endings');
  const admit: PodsOptions['admit'] = (_, active) => {
    const victims = active.filter((p) => p.metadata.uid === 'u1');
    return victims.length > 0 ? { victims } : undefined;
  };
  await using pods = world(story, { specs, admit, endings, preempt: (uid, ending) => endings.set(uid, ending) }, runtime);
  await pods.prepared;
  assert.deepEqual(
    story.filter((line) => !line.startsWith('Normal') && !line.includes('FailedCreatePodSandBox')),
    ['Warning Preempting: Preempted in order to admit critical pod', 'stop after 30 s', 'u2 prepared'],
  );
  const status = pods.statuses.get('u1')?.status;
  assert.equal(status?.reason, 'Preempting');
  assert.equal(status?.phase, 'Failed');
  const condition = status?.conditions?.find((c) => c.type === 'DisruptionTarget');
  assert.equal(condition?.reason, 'TerminationByKubelet');
  assert.equal(condition?.message, 'Pod was preempted by Kubelet to accommodate a critical pod.');
});

test('a pod that selects a label which the Node has had for a moment only is not refused', { timeout: 5000 }, async () => {
  const story: string[] = [];
  const runtime = new Table<RuntimePod>('runtime');
  runtime.markSynced();
  const specs = new Table<PodSpecRow>('specs');
  specs.set('u2', { pod: pod({ nodeSelector: { disk: 'fast' } }, { uid: 'u2' }), source: 'api' });
  specs.markSynced();
  let labelled = false;
  const refreshNode = async (): Promise<void> => {
    story.push('Node read anew');
    labelled = true;
  };
  const admit: PodsOptions['admit'] = () => (labelled ? undefined : { reason: 'NodeAffinity', message: 'no' });
  await using pods = world(story, { specs, admit, refreshNode }, runtime);
  await pods.prepared;
  assert.deepEqual(story.slice(0, 2), ['Node read anew', 'u2 prepared']);
});
