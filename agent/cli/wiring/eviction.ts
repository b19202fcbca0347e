import type { Clock } from '../../base/clock.ts';
import { hasCode, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { ReadonlyTable, Table } from '../../base/table.ts';
import type { Config } from '../../config/config.ts';
import { parseDuration } from '../../config/duration.ts';
import type { CriClient } from '../../drivers/cri/client.ts';
import type { Condition } from '../../eviction/thresholds.ts';
import { thresholdsOf } from '../../eviction/thresholds.ts';
import { type Eviction, startEviction } from '../../eviction/worker.ts';
import { type ImageCollector, startImageCollector } from '../../images/collect.ts';
import type { ImageUsers } from '../../images/gc.ts';
import type { Images } from '../../images/worker.ts';
import { type AgentNode, type AgentPod, containersOf, isTerminalPhase } from '../../model/pod.ts';
import type { Pressure } from '../../node/status.ts';
import type { Ending } from '../../pods/lifecycle.ts';
import type { RuntimePod } from '../../pods/observed.ts';
import type { PodSpecRow, Pods } from '../../pods/worker.ts';
import type { MetricsRegistry } from '../../server/metrics.ts';
import type { Stats } from '../../stats/worker.ts';

export interface NodeEvictionOptions {
  readonly config: Config;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly cri: CriClient;
  readonly stats: Stats;
  readonly images: Images;
  readonly pods: Pods;
  readonly specs: ReadonlyTable<PodSpecRow>;
  readonly admitted: ReadonlyTable<PodSpecRow>;
  readonly runtime: ReadonlyTable<RuntimePod>;
  readonly endings: Table<Ending>;
  readonly registry: MetricsRegistry;
  readonly podEvent: (
    pod: AgentPod,
    type: 'Warning',
    reason: string,
    message: string,
    annotations: Readonly<Record<string, string>>,
  ) => void;
  readonly nodeEvent: (type: 'Normal' | 'Warning', reason: string, message: string) => void;
  /** The Node as it is shown now. */
  readonly node: AgentNode | undefined;
  /** The node's conditions have changed. */
  readonly changed: () => void;
}

const pressures = ['MemoryPressure', 'DiskPressure', 'PIDPressure'] as const;

/** The conditions that the Node shows. */
export function shownPressure(node: AgentNode | undefined): Condition[] {
  return pressures.filter((type) => node?.status?.conditions?.some((c) => c.type === type && c.status === 'True'));
}

export function pressureOf(conditions: readonly Condition[]): Pressure {
  return {
    memory: conditions.includes('MemoryPressure'),
    disk: conditions.includes('DiskPressure'),
    pid: conditions.includes('PIDPressure'),
  };
}

/** Eviction, and the collection of unused images that goes before it. */
export function startNodeEviction(options: NodeEvictionOptions): { eviction: Eviction; collector: ImageCollector } {
  const { config, clock, log, signal, cri, stats, registry, specs, runtime } = options;
  const kc = config.kubelet;
  const evictions = registry.counter({
    name: 'kubelet_evictions',
    help: 'Cumulative number of pod evictions by eviction signal',
    labels: ['eviction_signal'],
  });
  const statsAge = registry.histogram({
    name: 'kubelet_eviction_stats_age_seconds',
    help: 'Time between when stats are collected, and when pod is evicted based on those stats by eviction signal',
    labels: ['eviction_signal'],
  });
  const collected = registry.counter({
    name: 'kubelet_image_garbage_collected_total',
    help: 'Total number of images garbage collected by the kubelet, whether through disk usage or image age.',
    labels: ['reason'],
  });
  const collector = startImageCollector({
    clock,
    log,
    signal,
    policy: () => ({
      highPercent: kc.imageGCHighThresholdPercent,
      lowPercent: kc.imageGCLowThresholdPercent,
      minAgeMs: kc.imageMinimumGCAge,
      maxAgeMs: kc.imageMaximumGCAge,
    }),
    listImages: async (s) => (await cri.listImages({}, s)).images ?? [],
    removeImage: async (id, s) => {
      try {
        await cri.removeImage({ image: { image: id } }, s);
      } catch (error) {
        if (!hasCode(error, 'NotFound')) throw error;
      }
    },
    users: async (s) => {
      if (!specs.synced || !runtime.synced) return undefined;
      return imageUsers(specs, runtime, await sandboxImage(cri, log, s));
    },
    disk: async (s) => {
      const fs = (await stats.node(s)).fileSystems.imageFs;
      return fs && { capacityBytes: fs.capacityBytes ?? 0, availableBytes: fs.availableBytes ?? 0 };
    },
    event: options.nodeEvent,
    removed: (reason) => collected.inc([reason]),
    left: (ids, listedAt) => options.images.pruneRecords(ids, listedAt),
  });
  const eviction = startEviction({
    clock,
    log,
    signal,
    settings: () => ({
      thresholds: thresholdsOf({
        hard: kc.evictionHard,
        soft: kc.evictionSoft,
        softGraceMs: Object.fromEntries(Object.entries(kc.evictionSoftGracePeriod).map(([name, text]) => [name, parseDuration(text)])),
        minimumReclaim: kc.evictionMinimumReclaim,
        enforcePods: kc.enforceNodeAllocatable.includes('pods'),
      }),
      transitionMs: kc.evictionPressureTransitionPeriod,
      maxGraceSeconds: kc.evictionMaxPodGracePeriod,
    }),
    watchMemory: kc.kernelMemcgNotification,
    localStorage: kc.localStorageCapacityIsolation,
    shown: shownPressure(options.node),
    stats,
    admitted: options.admitted,
    endings: options.endings,
    end: (uid, ending) => options.endings.set(uid, ending),
    podEvent: options.podEvent,
    nodeEvent: options.nodeEvent,
    removeDeadContainers: () => options.pods.removeDead(),
    removeUnusedImages: (s) => collector.removeUnused(s),
    evicted: (what, ageSeconds) => {
      evictions.inc([what]);
      if (ageSeconds !== undefined) statsAge.observe(ageSeconds, [what]);
    },
    changed: options.changed,
  });
  return { eviction, collector };
}

/** Images that containers were made from, whatever their state, and those that pods which are to run name. */
function imageUsers(specs: ReadonlyTable<PodSpecRow>, runtime: ReadonlyTable<RuntimePod>, sandbox: string | undefined): ImageUsers {
  const ids = new Set<string>();
  const names = new Set<string>(sandbox === undefined ? [] : [sandbox]);
  for (const pod of runtime.values()) {
    for (const c of pod.containers) {
      ids.add(c.imageId);
      ids.add(c.imageRef);
    }
  }
  for (const { pod } of specs.values()) {
    if (isTerminalPhase(pod.status?.phase)) continue;
    for (const { container } of containersOf(pod)) if (container.image) names.add(container.image);
    for (const { image } of pod.spec.volumes ?? []) if (image?.reference) names.add(image.reference);
  }
  ids.delete('');
  return { ids, names };
}

/** The image of sandboxes, which older runtimes do not mark as pinned; undefined when the runtime does not tell. */
async function sandboxImage(cri: CriClient, log: Log, signal: AbortSignal): Promise<string | undefined> {
  try {
    const { info } = await cri.status({ verbose: true }, signal);
    const config: unknown = JSON.parse(info?.config ?? '{}');
    if (typeof config !== 'object' || config === null) return undefined;
    const image = 'sandboxImage' in config ? config.sandboxImage : undefined;
    return typeof image === 'string' ? image : undefined;
  } catch (error) {
    signal.throwIfAborted();
    log.debug({ err: messageOf(error) }, 'the runtime did not tell the image of its sandboxes');
    return undefined;
  }
}
