// A pods worker of which a test says only what its story needs.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../../agent/base/clock.ts';
import { AgentError } from '../../../agent/base/errors.ts';
import { silentLog } from '../../../agent/base/log.ts';
import { Table } from '../../../agent/base/table.ts';
import type { ApplyDeps, RuntimeControl } from '../../../agent/pods/apply.ts';
import type { Ending } from '../../../agent/pods/lifecycle.ts';
import type { RuntimePod } from '../../../agent/pods/observed.ts';
import { type PodSpecRow, type Pods, type PodsOptions, startPods } from '../../../agent/pods/worker.ts';

export interface World extends AsyncDisposable {
  readonly pods: Pods;
  readonly specs: Table<PodSpecRow>;
  readonly runtime: Table<RuntimePod>;
  readonly endings: Table<Ending>;
  readonly admitted: Table<PodSpecRow>;
}

export interface Story {
  /** What sources want and what the runtime holds when the worker starts: both are synced then. */
  readonly wants?: readonly PodSpecRow[];
  readonly holds?: readonly RuntimePod[];
  /** Runtime calls and other effects that the story has; any other fails. `world` is there as soon as one is called. */
  readonly cri?: (world: World) => Partial<RuntimeControl>;
  readonly apply?: (world: World) => Partial<Omit<ApplyDeps, 'cri'>>;
  /** Questions that have another answer than "nothing". */
  readonly options?: Partial<PodsOptions>;
}

const never = (): never => {
  throw new AgentError('Internal', 'not in this story');
};
const nothing = { get: () => undefined, set: () => undefined, delete: () => undefined, prune: () => undefined };

/** What the runtime's stop calls do to its table: the pod's containers have exited, its sandboxes are not ready. */
export const exitAll = ({ runtime }: World, uid: string): void => {
  const one = runtime.get(uid);
  if (one !== undefined) runtime.set(uid, { ...one, containers: one.containers.map((c) => ({ ...c, state: 'exited' as const })) });
};
export const stopSandboxes = ({ runtime }: World, uid: string): void => {
  const one = runtime.get(uid);
  if (one !== undefined) runtime.set(uid, { ...one, sandboxes: one.sandboxes.map((s) => ({ ...s, ready: false })) });
};

/** Disposing ends the worker and removes its folder. */
export function startWorld({ wants = [], holds = [], cri, apply, options }: Story): World {
  const folder = mkdtempSync(join(tmpdir(), 'pods-worker-'));
  const runtime = new Table<RuntimePod>('runtime');
  for (const pod of holds) runtime.set(pod.uid, pod);
  runtime.markSynced();
  const specs = new Table<PodSpecRow>('specs');
  for (const row of wants) specs.set(row.pod.metadata.uid, row);
  specs.markSynced();
  const endings = new Table<Ending>('endings');
  const admitted = new Table<PodSpecRow>('admitted');
  const controller = new AbortController();
  const world: Omit<World, 'pods'> & { pods: Pods } = {
    specs,
    runtime,
    endings,
    admitted,
    // Told below: what the story does comes after.
    pods: undefined as never,
    async [Symbol.asyncDispose]() {
      controller.abort(new Error('test over'));
      await world.pods[Symbol.asyncDispose]();
      rmSync(folder, { recursive: true });
    },
  };
  world.pods = startPods({
    clock: systemClock,
    log: silentLog,
    signal: controller.signal,
    specs,
    runtime,
    verdicts: new Table('verdicts'),
    endings,
    observe: async () => undefined,
    admitted,
    allocated: nothing,
    actuated: nothing,
    swaps: () => false,
    apply: {
      cri: {
        runPodSandbox: never,
        stopPodSandbox: never,
        removePodSandbox: never,
        createContainer: never,
        startContainer: never,
        stopContainer: never,
        removeContainer: never,
        updateContainerResources: never,
        updatePodSandboxResources: never,
        containerStats: never,
        execSync: never,
        ...cri?.(world),
      },
      clock: systemClock,
      log: silentLog,
      recordEvent: () => undefined,
      podLogsDir: join(folder, 'logs'),
      containerLogsDir: join(folder, 'links'),
      podDir: (uid) => join(folder, uid),
      ensureCgroup: never,
      removeCgroup: never,
      updateCgroup: never,
      memoryUsage: never,
      containerResources: never,
      podResources: never,
      expandHook: async (_pod, _container, _id, command) => [...command],
      httpGet: never,
      hostIp: () => undefined,
      mountVolumes: never,
      unmountVolumes: never,
      removePodDir: never,
      removeFolder: async () => undefined,
      runtimeHandler: never,
      sandboxConfig: never,
      ensureImage: never,
      containerConfig: never,
      ...apply?.(world),
    },
    admit: () => undefined,
    devices: { concerns: () => false, grant: async () => undefined, release: () => undefined, health: () => undefined },
    preempt: (uid, ending) => endings.set(uid, ending),
    networkProblem: () => undefined,
    hostIps: () => [],
    recursiveReadOnly: () => false,
    runtimeName: 'containerd',
    crashPolicy: { initialMs: 1, maxMs: 1 },
    remembered: () => undefined,
    remember: () => undefined,
    forgotten: () => undefined,
    leftovers: async () => [],
    nodeEvent: () => undefined,
    ...options,
  });
  return world;
}
