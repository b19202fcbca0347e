import { type Clock, pause } from '../base/clock.ts';
import { messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { ReadonlyTable } from '../base/table.ts';
import type { AgentPod } from '../model/pod.ts';
import { isCriticalPod } from '../model/priority.ts';
import type { Ending } from '../pods/lifecycle.ts';
import type { PodStats } from '../stats/summary.ts';
import type { Stats } from '../stats/worker.ts';
import { pressureRejection } from './admission.ts';
import { hasStorageLimit, storageExcess } from './local-storage.ts';
import { evictedReason, evictionText } from './message.ts';
import { observationsOf } from './observe.ts';
import { initialPressure, nextPressure } from './pressure.ts';
import { type DiskLayout, rankForEviction } from './rank.ts';
import { type Condition, conditionOf, metThresholds, resourceOf, type Threshold, withContainerFs } from './thresholds.ts';

/** What KubeletConfiguration says of eviction; read at each look. */
export interface EvictionSettings {
  readonly thresholds: readonly Threshold[];
  /** `evictionPressureTransitionPeriod`. */
  readonly transitionMs: number;
  /** `evictionMaxPodGracePeriod`: for soft thresholds. */
  readonly maxGraceSeconds: number;
}

export interface EvictionOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly settings: () => EvictionSettings;
  /** `kernelMemcgNotification`: memory is looked at every second. */
  readonly watchMemory: boolean;
  /** `localStorageCapacityIsolation`: limits of what pods have on the disk are kept. */
  readonly localStorage: boolean;
  /** Conditions that the Node shows from before a restart of the agent. */
  readonly shown: readonly Condition[];
  readonly stats: Pick<Stats, 'node' | 'memory' | 'pods'>;
  /** By UID: the pods that may run here; one that has ended is no longer there. */
  readonly admitted: ReadonlyTable<{ readonly pod: AgentPod }>;
  /** By UID: those that end already. */
  readonly endings: ReadonlyTable<Ending>;
  /** Wants a pod ended. */
  readonly end: (uid: string, ending: Ending) => void;
  readonly podEvent: (
    pod: AgentPod,
    type: 'Warning',
    reason: string,
    message: string,
    annotations: Readonly<Record<string, string>>,
  ) => void;
  readonly nodeEvent: (type: 'Warning', reason: string, message: string) => void;
  /** Frees what dead containers and unused images take. */
  readonly removeDeadContainers: (signal: AbortSignal) => Promise<void>;
  readonly removeUnusedImages: (signal: AbortSignal) => Promise<void>;
  /** Counted by the signal; `statsAgeSeconds` for evictions because of pressure. */
  readonly evicted: (signal: string, statsAgeSeconds?: number) => void;
  /** The node's conditions have changed. */
  readonly changed: () => void;
}

export interface Eviction extends AsyncDisposable {
  /** The node's conditions now. */
  conditions(): readonly Condition[];
  /** Why the node does not take this pod now. */
  rejects(pod: AgentPod): { reason: string; message: string } | undefined;
}

// pkg/kubelet: evictionMonitoringPeriod, immediateEvictionGracePeriodSeconds, podCleanupTimeout.
const monitorMs = 10_000;
const hurriedGraceSeconds = 1;
const cleanupTimeoutMs = 30_000;
const cleanupPollMs = 250;
const memoryWatchMs = 1000;
// What limited pods have on the disk is walked no more often than this, and less often where walking takes long.
const walkEveryMs = 9_000;
const walkShare = 20;

/** Watches what the node has left, and ends pods before the kernel or a full disk ends others. */
export function startEviction(options: EvictionOptions): Eviction {
  const { clock, log, signal, admitted } = options;
  let state = initialPressure(options.shown, clock.mono());
  let layout: DiskLayout = { dedicatedImageFs: false, splitContainerFs: false };
  let lastWalkMs = 0;

  async function run(): Promise<void> {
    while (!signal.aborted) {
      let evicted: readonly string[] = [];
      try {
        evicted = await look();
      } catch (error) {
        if (signal.aborted) return;
        log.error({ err: messageOf(error) }, 'what the node has left could not be looked at');
      }
      // After an eviction it is looked at again as soon as the pods are gone: until then nothing has been freed.
      if (evicted.length > 0) await untilGone(evicted);
      else await untilNextLook();
    }
  }

  async function untilNextLook(): Promise<void> {
    if (!options.watchMemory) {
      await pause(clock, monitorMs, signal);
      return;
    }
    const thresholds = options.settings().thresholds.filter((t) => conditionOf(t.signal) === 'MemoryPressure');
    const until = clock.mono() + monitorMs;
    while (clock.mono() < until && !signal.aborted) {
      await pause(clock, memoryWatchMs, signal);
      const reading = {
        ...options.stats.memory(),
        fileSystems: { ...layout, nodeFs: { time: 0 }, imageFs: undefined, containerFs: undefined },
      };
      const met = metThresholds(thresholds, observationsOf({ ...reading, rlimit: undefined }), false);
      if (met.length > 0) return;
    }
  }

  async function untilGone(uids: readonly string[]): Promise<void> {
    const deadline = clock.mono() + cleanupTimeoutMs;
    while (uids.some((uid) => admitted.has(uid)) && !signal.aborted) {
      if (clock.mono() >= deadline) {
        log.warn({ podUids: uids }, 'evicted pods are not gone yet');
        return;
      }
      await pause(clock, cleanupPollMs, signal);
    }
  }

  /** One look; the UIDs of the pods that it evicted. */
  async function look(): Promise<string[]> {
    const settings = options.settings();
    if (settings.thresholds.length === 0 && !options.localStorage) return [];
    const reading = await options.stats.node(signal);
    const { dedicatedImageFs, splitContainerFs } = reading.fileSystems;
    layout = { dedicatedImageFs, splitContainerFs };
    const thresholds = withContainerFs(settings.thresholds, dedicatedImageFs && !splitContainerFs);
    const observations = observationsOf(reading);
    const before = state.conditions.join();
    const next = nextPressure(state, thresholds, observations, settings.transitionMs, clock.mono());
    state = next.state;
    if (state.conditions.join() !== before) {
      log.info({ conditions: state.conditions }, "the node's pressure has changed");
      options.changed();
    }
    const pods = [...admitted.values()].map(({ pod }) => pod);
    if (options.localStorage) {
      try {
        const evicted = await evictOverLimit(pods);
        if (evicted.length > 0) return evicted;
      } catch (error) {
        signal.throwIfAborted();
        // A disk that cannot be measured is no reason to let the kernel kill for memory.
        log.error({ err: messageOf(error) }, 'limits of local storage could not be looked at');
      }
    }
    const [threshold] = next.act;
    if (threshold === undefined) return [];
    const resource = resourceOf(threshold.signal);
    log.warn({ signal: threshold.signal, resource, ...observations.get(threshold.signal) }, 'the node runs short');
    options.nodeEvent('Warning', 'EvictionThresholdMet', `Attempting to reclaim ${resource}`);
    if (await reclaim(threshold, thresholds)) return [];

    const all = await options.stats.pods(
      { diskMaxAgeMs: conditionOf(threshold.signal) === 'MemoryPressure' ? undefined : walkEveryMs },
      signal,
    );
    const byUid = new Map(all.map((stats) => [stats.podRef.uid, stats]));
    const statsOf = (pod: AgentPod): PodStats | undefined => byUid.get(pod.metadata.uid);
    const ranked = rankForEviction(pods, statsOf, threshold.signal, layout);
    log.info(
      { pods: ranked.slice(0, 10).map(({ metadata }) => `${metadata.namespace}/${metadata.name}`) },
      'pods in the order of eviction',
    );
    for (const pod of ranked) {
      const { message, annotations } = evictionText(resource, pod, statsOf(pod), next.act, observations);
      const own = pod.spec.terminationGracePeriodSeconds ?? 30;
      const grace = threshold.graceMs === 0 ? hurriedGraceSeconds : Math.min(settings.maxGraceSeconds, own);
      const outcome = evict(pod, grace, message, annotations, message);
      if (outcome === 'spared') continue;
      // One that was to go before and still is not gone: another's end would not free more than its own.
      if (outcome === 'under way') return [pod.metadata.uid];
      const at = observations.get(threshold.signal)?.at;
      options.evicted(threshold.signal, at === undefined ? undefined : (clock.wall() - at) / 1000);
      return [pod.metadata.uid];
    }
    log.error({ signal: threshold.signal }, 'no pod can be evicted');
    return [];
  }

  /** Frees what is nobody's; true when nothing more has to be done. */
  async function reclaim(threshold: Threshold, thresholds: readonly Threshold[]): Promise<boolean> {
    const steps = reclaimersOf(threshold);
    for (const step of steps) {
      try {
        await step(signal);
      } catch (error) {
        signal.throwIfAborted();
        log.warn({ signal: threshold.signal, err: messageOf(error) }, 'not all that is unused could be removed');
      }
    }
    if (steps.length === 0) return false;
    return metThresholds(thresholds, observationsOf(await options.stats.node(signal)), true).length === 0;
  }

  function reclaimersOf({ signal: what }: Threshold): ((signal: AbortSignal) => Promise<void>)[] {
    if (conditionOf(what) !== 'DiskPressure') return [];
    const { removeDeadContainers, removeUnusedImages } = options;
    if (!layout.dedicatedImageFs) return [removeDeadContainers, removeUnusedImages];
    const images = what.startsWith('imagefs.');
    if (layout.splitContainerFs) return images ? [removeUnusedImages] : [removeDeadContainers];
    // On the node's own file system there are only logs and volumes then.
    return what.startsWith('nodefs.') ? [] : [removeDeadContainers, removeUnusedImages];
  }

  async function evictOverLimit(pods: readonly AgentPod[]): Promise<string[]> {
    const limited = pods.filter((pod) => hasStorageLimit(pod) && !isCriticalPod(pod));
    if (limited.length === 0) return [];
    const startedAt = clock.mono();
    const maxAge = Math.max(walkEveryMs, lastWalkMs * walkShare);
    const uids = new Set(limited.map((pod) => pod.metadata.uid));
    const all = await options.stats.pods({ uids, diskMaxAgeMs: maxAge }, signal);
    lastWalkMs = clock.mono() - startedAt;
    const byUid = new Map(all.map((stats) => [stats.podRef.uid, stats]));
    const evicted: string[] = [];
    for (const pod of limited) {
      const stats = byUid.get(pod.metadata.uid);
      const excess = stats === undefined ? undefined : storageExcess(pod, stats, layout.dedicatedImageFs);
      if (excess === undefined || evict(pod, hurriedGraceSeconds, excess.message, {}, undefined) !== 'evicted') continue;
      options.evicted(excess.signal);
      evicted.push(pod.metadata.uid);
    }
    return evicted;
  }

  /** Spares critical pods. One that is going already, with more time, goes in this one. */
  function evict(
    pod: AgentPod,
    graceSeconds: number,
    message: string,
    annotations: Readonly<Record<string, string>>,
    disruption: string | undefined,
  ): 'evicted' | 'under way' | 'spared' {
    const { uid, name, namespace } = pod.metadata;
    if (isCriticalPod(pod)) {
      log.warn({ pod: `${namespace}/${name}` }, 'a critical pod is not evicted');
      return 'spared';
    }
    const earlier = options.endings.get(uid);
    if (earlier !== undefined && earlier.graceSeconds !== undefined && earlier.graceSeconds <= graceSeconds) return 'under way';
    options.podEvent(pod, 'Warning', evictedReason, message, annotations);
    log.warn({ pod: `${namespace}/${name}`, podUid: uid, graceSeconds, detail: message }, 'pod evicted');
    options.end(uid, { reason: evictedReason, message, graceSeconds, disruption });
    return 'evicted';
  }

  const running = run();
  return {
    conditions: () => state.conditions,
    rejects: (pod) => pressureRejection(pod, state.conditions),
    async [Symbol.asyncDispose]() {
      await running;
    },
  };
}
