import { readdirSync } from 'node:fs';
import process from 'node:process';
import type {
  CreateContainerRequest,
  CreateContainerResponse,
  RemoveContainerRequest,
  RunPodSandboxRequest,
  StartContainerRequest,
} from '../../../cri-protos/generated/cri.ts';
import type { Clock } from '../../base/clock.ts';
import { unreachable } from '../../base/errors.ts';
import { ownValue } from '../../base/own.ts';
import type { ReadonlyTable } from '../../base/table.ts';
import type { CriClient } from '../../drivers/cri/client.ts';
import { type AgentPod, isStaticPod } from '../../model/pod.ts';
import type { Occurrence } from '../../pods/apply.ts';
import type { RuntimePod } from '../../pods/observed.ts';
import type { PodSpecRow, Pods } from '../../pods/worker.ts';
import { createMetrics, exponentialBuckets, type MetricsRegistry } from '../../server/metrics.ts';
import { type ProbeMetrics, registerProbeMetrics, registerProcessMetrics, registerRunningMetrics } from '../../server/own-metrics.ts';

/** Metrics under the kubelet's names (pkg/kubelet/metrics), and the ears that hear what they count. */
export interface NodeMetrics {
  /** `/metrics`. */
  readonly registry: MetricsRegistry;
  /** `/metrics/probes`. */
  readonly probePage: MetricsRegistry;
  readonly probes: ProbeMetrics;
  readonly devices: {
    /** A device plugin wants to register. */
    registered(resource: string): void;
    /** It has been asked to allocate. */
    allocated(resource: string, tookMs: number): void;
  };
  /** The same runtime, its calls counted and timed. */
  instrument(cri: CriClient): CriClient;
  /** A complete look at the runtime has ended, ms. */
  relisted(tookMs: number, endedAtMono: number): void;
  /** A container has started; `fieldPath` as in events. */
  started(fieldPath: string | undefined): void;
  occurred(what: Occurrence): void;
  /** An image has been pulled. */
  pulled(sizeBytes: number, tookMs: number): void;
  /** The API shows a pod's newest status. */
  statusShown(uid: string, patched: boolean): void;
  /** Follows these tables from now on. */
  watch(tables: WatchedTables): Disposable;
  forgetPod(uid: string): void;
}

export interface WatchedTables {
  readonly specs: ReadonlyTable<PodSpecRow>;
  readonly runtime: ReadonlyTable<RuntimePod>;
  readonly pods: Pods;
  readonly mirrors: ReadonlyTable<AgentPod> | undefined;
}

// Method → operation_type (pkg/kubelet/kuberuntime/instrumented_services.go).
const operations: Readonly<Record<string, string>> = {
  version: 'version',
  status: 'status',
  createContainer: 'create_container',
  startContainer: 'start_container',
  stopContainer: 'stop_container',
  removeContainer: 'remove_container',
  listContainers: 'list_containers',
  containerStatus: 'container_status',
  updateContainerResources: 'update_container',
  reopenContainerLog: 'reopen_container_log',
  execSync: 'exec_sync',
  exec: 'exec',
  attach: 'attach',
  runPodSandbox: 'run_podsandbox',
  stopPodSandbox: 'stop_podsandbox',
  removePodSandbox: 'remove_podsandbox',
  podSandboxStatus: 'podsandbox_status',
  listPodSandbox: 'list_podsandbox',
  containerStats: 'container_stats',
  listContainerStats: 'list_container_stats',
  podSandboxStats: 'podsandbox_stats',
  listPodSandboxStats: 'list_podsandbox_stats',
  portForward: 'port_forward',
  updatePodSandboxResources: 'update_podsandbox_resources',
  updateRuntimeConfig: 'update_runtime_config',
  listImages: 'list_images',
  imageStatus: 'image_status',
  pullImage: 'pull_image',
  removeImage: 'remove_image',
  imageFsInfo: 'image_fs_info',
  checkpointContainer: 'checkpoint_container',
  runtimeConfig: 'runtime_config',
};

// Reasons that are a label of their own; there is no end of those that name an extended resource (pkg/kubelet recordAdmissionRejection).
const refusalReasons: ReadonlySet<string> = new Set([
  'AppArmor',
  'PodOSSelectorNodeLabelDoesNotMatch',
  'PodOSNotSupported',
  'InvalidNodeInfo',
  'InitContainerRestartPolicyForbidden',
  'SupplementalGroupsPolicyNotSupported',
  'UnexpectedAdmissionError',
  'UnknownReason',
  'UnexpectedPredicateFailureType',
  'OutOfcpu',
  'OutOfmemory',
  'OutOfephemeral-storage',
  'OutOfpods',
  'PodLevelResourcesNotSupported',
  'PodFeatureUnsupported',
  "node(s) had taints that the pod didn't tolerate",
  'Evicted',
  'SysctlForbidden',
  'TopologyAffinityError',
  'NodeShutdown',
  'VolumeAttachmentLimitExceeded',
]);

const pullBuckets = [1, 5, 10, 20, 30, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600];
const GiB = 1024 ** 3;
// Largest first: the size from which on the label holds.
const imageSizes: readonly (readonly [number, string])[] = [
  [100 * GiB, 'GT100GB'],
  [60 * GiB, '60GB-100GB'],
  [40 * GiB, '40GB-60GB'],
  [30 * GiB, '30GB-40GB'],
  [20 * GiB, '20GB-30GB'],
  [10 * GiB, '10GB-20GB'],
  [5 * GiB, '5GB-10GB'],
  [GiB, '1GB-5GB'],
  [GiB / 2, '500MB-1GB'],
  [100 * 1024 ** 2, '100MB-500MB'],
  [10 * 1024 ** 2, '10MB-100MB'],
  [0, '0-10MB'],
];

const podStartBuckets = [0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600];
const statusSyncBuckets = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 30, 45, 60];

/** Registers everything; `version` is the Kubernetes release whose API is spoken, such as `v1.36.1`. */
export function createNodeMetrics(nodeName: string, version: string, clock: Clock): NodeMetrics {
  const registry = createMetrics();
  const probePage = createMetrics();
  const probes = registerProbeMetrics(probePage);
  const startedAt = clock.wall() - process.uptime() * 1000;
  registerProcessMetrics(registry, startedAt, () => {
    const { user, system } = process.cpuUsage();
    return { cpuSeconds: (user + system) / 1e6, residentBytes: process.memoryUsage.rss() };
  });
  registry.collect({ name: 'process_open_fds', help: 'Number of open file descriptors.', type: 'gauge' }, () => [
    // One of them is the folder that is being read.
    { value: readdirSync('/proc/self/fd').length - 1 },
  ]);
  const [, major = '', minor = ''] = /^v(\d+)\.(\d+)/.exec(version) ?? [];
  registry
    .gauge({
      name: 'kubernetes_build_info',
      help: "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
      labels: ['major', 'minor', 'git_version', 'git_commit', 'git_tree_state', 'build_date', 'go_version', 'compiler', 'platform'],
    })
    .set(1, [major, minor, version, '', '', '', '', '', `linux/${process.arch === 'x64' ? 'amd64' : process.arch}`]);
  registry.gauge({ name: 'kubelet_node_name', help: "The node's name. The count is always 1.", labels: ['node'] }).set(1, [nodeName]);

  const operationLabels = ['operation_type'];
  const calls = registry.counter({
    name: 'kubelet_runtime_operations_total',
    help: 'Cumulative number of runtime operations by operation type.',
    labels: operationLabels,
  });
  const callErrors = registry.counter({
    name: 'kubelet_runtime_operations_errors_total',
    help: 'Cumulative number of runtime operation errors by operation type.',
    labels: operationLabels,
  });
  const callSeconds = registry.histogram({
    name: 'kubelet_runtime_operations_duration_seconds',
    help: 'Duration in seconds of runtime operations. Broken down by operation type.',
    labels: operationLabels,
    buckets: exponentialBuckets(0.005, 2.5, 14),
  });
  const podsStarted = registry.counter({ name: 'kubelet_started_pods_total', help: 'Cumulative number of pods started' });
  podsStarted.inc([], 0);
  const ownUsersStarted = registry.counter({
    name: 'kubelet_started_user_namespaced_pods_total',
    help: 'Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.',
  });
  const ownUsersFailed = registry.counter({
    name: 'kubelet_started_user_namespaced_pods_errors_total',
    help: 'Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.',
  });
  for (const counter of [ownUsersStarted, ownUsersFailed]) counter.inc([], 0);
  const containersStarted = registry.counter({
    name: 'kubelet_started_containers_total',
    help: 'Cumulative number of containers started',
    labels: ['container_type'],
  });
  const containersTerminated = registry.counter({
    name: 'kubelet_terminated_containers_total',
    help: 'Cumulative number of container terminations.',
    labels: ['container_type', 'exit_code', 'reason'],
  });
  const noLabels = (name: string, help: string) => {
    const counter = registry.counter({ name, help });
    counter.inc([], 0);
    return counter;
  };
  const podsFailed = noLabels('kubelet_started_pods_errors_total', 'Cumulative number of errors when starting pods');
  const containersFailed = registry.counter({
    name: 'kubelet_started_containers_errors_total',
    help: 'Cumulative number of errors when starting containers',
    labels: ['container_type', 'code'],
  });
  const hookFallbacks = noLabels(
    'kubelet_lifecycle_handler_http_fallbacks_total',
    'The number of times lifecycle handlers successfully fell back to http from https.',
  );
  const sleepsCut = noLabels(
    'kubelet_sleep_action_terminated_early_total',
    'The number of times lifecycle sleep handler got terminated before it finishes',
  );
  const refusals = registry.counter({
    name: 'kubelet_admission_rejections_total',
    help: 'Cumulative number pod admission rejections by the Kubelet.',
    labels: ['reason'],
  });
  const preemptions = registry.counter({
    name: 'kubelet_preemptions',
    help: 'Cumulative number of pod preemptions by preemption resource',
    labels: ['preemption_signal'],
  });
  const podsReturned = registry.counter({
    name: 'kubelet_restarted_pods_total',
    help: 'Number of pods that have been restarted because they were deleted and recreated with the same UID while the kubelet was watching them (common for static pods, extremely uncommon for API pods)',
    labels: ['static'],
  });
  for (const fixed of ['', 'true']) podsReturned.inc([fixed], 0);
  const pullSeconds = registry.histogram({
    name: 'kubelet_image_pull_duration_seconds',
    help: 'Duration in seconds to pull an image.',
    labels: ['image_size_in_bytes'],
    buckets: pullBuckets,
  });
  const sandboxSeconds = registry.histogram({
    name: 'kubelet_run_podsandbox_duration_seconds',
    help: 'Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.',
    labels: ['runtime_handler'],
  });
  const sandboxErrors = registry.counter({
    name: 'kubelet_run_podsandbox_errors_total',
    help: 'Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.',
    labels: ['runtime_handler'],
  });
  const relistSeconds = registry.histogram({
    name: 'kubelet_pleg_relist_duration_seconds',
    help: 'Duration in seconds for relisting pods in PLEG.',
  });
  const relistInterval = registry.histogram({
    name: 'kubelet_pleg_relist_interval_seconds',
    help: 'Interval in seconds between relisting in PLEG.',
  });
  const relistSeen = registry.gauge({
    name: 'kubelet_pleg_last_seen_seconds',
    help: 'Timestamp in seconds when PLEG was last seen active.',
  });
  const statusSync = registry.histogram({
    name: 'kubelet_pod_status_sync_duration_seconds',
    help: 'Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.',
    buckets: statusSyncBuckets,
  });
  const podStart = registry.histogram({
    name: 'kubelet_pod_start_duration_seconds',
    help: 'Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run',
    buckets: podStartBuckets,
  });
  const podStartSli = registry.histogram({
    name: 'kubelet_pod_start_sli_duration_seconds',
    help: 'Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch',
    buckets: podStartBuckets,
  });
  const podStartTotal = registry.histogram({
    name: 'kubelet_pod_start_total_duration_seconds',
    help: 'Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch',
    buckets: podStartBuckets,
  });

  const pluginsRegistered = registry.counter({
    name: 'kubelet_device_plugin_registration_total',
    help: 'Cumulative number of device plugin registrations. Broken down by resource name.',
    labels: ['resource_name'],
  });
  const devicesAllocated = registry.histogram({
    name: 'kubelet_device_plugin_alloc_duration_seconds',
    help: 'Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.',
    labels: ['resource_name'],
  });

  // Containers made for pods with users of their own, until they are started: where such a pod fails is told by the call that fails.
  const startingWithOwnUsers = new Set<string>();
  const hasOwnUsers = (call: string, request: object): boolean => {
    if (call === 'startContainer') return startingWithOwnUsers.has((request as StartContainerRequest).container_id ?? '');
    const config =
      call === 'runPodSandbox'
        ? (request as RunPodSandboxRequest).config
        : call === 'createContainer'
          ? (request as CreateContainerRequest).sandbox_config
          : undefined;
    return config?.linux?.security_context?.namespace_options?.userns_options?.mode === 'POD';
  };

  let lastRelist: number | undefined;
  // By UID, mono: since when a status waits to be shown; when a pod that had not started was first seen.
  const unshown = new Map<string, number>();
  const starting = new Map<string, number>();
  // By UID: the containers whose end has been counted.
  const terminated = new Map<string, Set<string>>();
  // By UID: whether the pod is static, of those that somebody has asked for since the agent started.
  const asked = new Map<string, boolean>();

  return {
    registry,
    probePage,
    probes,
    devices: {
      registered: (resource) => pluginsRegistered.inc([resource]),
      allocated: (resource, tookMs) => devicesAllocated.observe(tookMs / 1000, [resource]),
    },
    instrument(cri) {
      const timed = Object.entries(cri).flatMap(([name, call]: [string, (request: object, signal: AbortSignal) => Promise<unknown>]) => {
        const operation = ownValue(operations, name);
        if (operation === undefined) return [];
        const labels = [operation];
        const counted = async (request: object, signal: AbortSignal): Promise<unknown> => {
          const from = clock.mono();
          const ownUsers = hasOwnUsers(name, request);
          calls.inc(labels);
          if (ownUsers && name === 'runPodSandbox') ownUsersStarted.inc();
          try {
            const response = await call(request, signal);
            if (name === 'runPodSandbox') podsStarted.inc();
            if (ownUsers && name === 'createContainer') {
              const { container_id: id } = response as CreateContainerResponse;
              if (id !== undefined) startingWithOwnUsers.add(id);
            }
            return response;
          } catch (error) {
            callErrors.inc(labels);
            if (name === 'runPodSandbox') sandboxErrors.inc([(request as RunPodSandboxRequest).runtime_handler ?? '']);
            if (ownUsers) ownUsersFailed.inc();
            throw error;
          } finally {
            if (name === 'startContainer' || name === 'removeContainer') {
              startingWithOwnUsers.delete((request as StartContainerRequest | RemoveContainerRequest).container_id ?? '');
            }
            const seconds = (clock.mono() - from) / 1000;
            callSeconds.observe(seconds, labels);
            if (name === 'runPodSandbox') sandboxSeconds.observe(seconds, [(request as RunPodSandboxRequest).runtime_handler ?? '']);
          }
        };
        return [[name, counted] as const];
      });
      return { ...cri, ...Object.fromEntries(timed) };
    },
    relisted(tookMs, endedAtMono) {
      const began = endedAtMono - tookMs;
      relistSeconds.observe(tookMs / 1000);
      if (lastRelist !== undefined) relistInterval.observe((began - lastRelist) / 1000);
      lastRelist = began;
      relistSeen.set((clock.wall() - tookMs) / 1000);
    },
    started(fieldPath) {
      containersStarted.inc([containerType(fieldPath)]);
    },
    occurred(what) {
      switch (what.kind) {
        case 'sandboxFailed':
          return podsFailed.inc();
        case 'containerFailed':
          return containersFailed.inc([containerType(what.fieldPath), what.code]);
        case 'hookFellBack':
          return hookFallbacks.inc();
        case 'sleepCut':
          return sleepsCut.inc();
        case 'refused':
          return refusals.inc([refusalLabel(what.reason)]);
        case 'preempted':
          return preemptions.inc([what.resource]);
        case 'returned':
          return podsReturned.inc([what.isStatic ? 'true' : '']);
        default:
          return unreachable(what);
      }
    },
    pulled(sizeBytes, tookMs) {
      pullSeconds.observe(tookMs / 1000, [imageSizeLabel(sizeBytes)]);
    },
    statusShown(uid, patched) {
      const since = unshown.get(uid);
      unshown.delete(uid);
      if (patched && since !== undefined) statusSync.observe((clock.mono() - since) / 1000);
    },
    watch({ specs, runtime, pods, mirrors }) {
      registerRunningMetrics(registry, () => runtime.values());
      const counted = (name: string, help: string, counts: (uid: string) => boolean): void =>
        registry.collect({ name, help, labels: ['static'], type: 'gauge' }, () => {
          let plain = 0;
          let fixed = 0;
          for (const [uid, { pod }] of specs.entries()) {
            if (!counts(uid)) continue;
            if (isStaticPod(pod)) fixed++;
            else plain++;
          }
          return [
            { labels: [''], value: plain },
            { labels: ['true'], value: fixed },
          ];
        });
      counted(
        'kubelet_desired_pods',
        'The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.',
        () => true,
      );
      counted(
        'kubelet_active_pods',
        'The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.',
        (uid) => {
          const lifecycle = pods.activity(uid)?.lifecycle;
          return lifecycle !== undefined && lifecycle !== 'terminated';
        },
      );
      if (mirrors !== undefined) {
        registry.collect(
          {
            name: 'kubelet_mirror_pods',
            help: 'The number of mirror pods the kubelet will try to create (one per admitted static pod)',
            type: 'gauge',
          },
          () => [{ value: mirrors.size }],
        );
      }
      registry.collect(
        {
          name: 'kubelet_managed_ephemeral_containers',
          help: 'Current number of ephemeral containers in pods managed by this kubelet.',
          type: 'gauge',
        },
        () => [{ value: [...specs.values()].reduce((sum, { pod }) => sum + (pod.spec.ephemeralContainers?.length ?? 0), 0) }],
      );
      registry.collect(
        {
          name: 'kubelet_working_pods',
          help: 'Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is desired, orphaned, or runtime only (also orphaned), and whether the pod is static. An orphaned pod has been removed from local configuration or force deleted in the API and consumes resources that are not otherwise visible.',
          labels: ['lifecycle', 'config', 'static'],
          type: 'gauge',
        },
        () => {
          const counts = new Map(workingLabels.map((labels) => [labels.join(' '), { labels, value: 0 }]));
          for (const uid of new Set([...specs.keys(), ...runtime.keys(), ...pods.statuses.keys()])) {
            const activity = pods.activity(uid);
            if (activity === undefined) continue;
            const wanted = specs.get(uid)?.pod;
            const fixed = wanted === undefined ? asked.get(uid) : isStaticPod(wanted);
            const config =
              fixed === undefined ? 'runtime_only unknown' : `${wanted === undefined ? 'orphan' : 'desired'} ${fixed ? 'true' : ''}`;
            const lifecycle = activity.lifecycle === 'syncing' ? 'sync' : activity.lifecycle;
            const count = counts.get(`${lifecycle} ${config}`);
            if (count !== undefined) count.value++;
          }
          return counts.values();
        },
      );
      const noteNew = (uid: string): void => {
        const pod = specs.get(uid)?.pod;
        if (pod !== undefined) asked.set(uid, isStaticPod(pod));
        if (pod !== undefined && pods.statuses.get(uid) === undefined && pod.status?.startTime === undefined && !starting.has(uid))
          starting.set(uid, clock.mono());
      };
      const noteRunning = (uid: string): void => {
        const seenAt = starting.get(uid);
        const row = pods.statuses.get(uid);
        if (seenAt === undefined || row === undefined) return;
        const { phase, containerStatuses = [] } = row.status;
        if (phase === 'Pending' || !containerStatuses.every((s) => s.state?.running !== undefined || s.state?.terminated !== undefined))
          return;
        starting.delete(uid);
        if (phase !== 'Running') return;
        podStart.observe((clock.mono() - seenAt) / 1000);
        const created = row.pod.metadata.creationTimestamp;
        if (created === undefined) return;
        const total = clock.wall() - Date.parse(created);
        podStartTotal.observe(total / 1000);
        podStartSli.observe(Math.max(0, total - excludedMs(row.pod, row.status, pods.activity(uid)?.steps ?? [])) / 1000);
      };
      const noteTerminated = (uid: string): void => {
        const row = pods.statuses.get(uid);
        if (row === undefined) return;
        // What the API showed before this agent looked at the pod has been counted by whoever showed it.
        const counted = terminated.get(uid) ?? new Set(endsIn(row.pod.status).map(({ id }) => id));
        const ends = endsIn(row.status);
        for (const { id, type, exitCode, reason } of ends) {
          if (!counted.has(id)) containersTerminated.inc([type, String(exitCode), reason]);
        }
        // What the status no longer tells of never comes back: a container that crashes for a year leaves two entries, not a hundred thousand.
        terminated.set(uid, new Set(ends.map(({ id }) => id)));
      };
      const stack = new DisposableStack();
      stack.use(specs.subscribe(noteNew));
      for (const uid of specs.keys()) noteNew(uid);
      stack.use(
        pods.statuses.subscribe((uid) => {
          noteRunning(uid);
          noteTerminated(uid);
          if (!pods.statuses.has(uid)) unshown.delete(uid);
          else if (!unshown.has(uid)) unshown.set(uid, clock.mono());
        }),
      );
      return stack;
    },
    forgetPod(uid) {
      probes.forgetPod(uid);
      unshown.delete(uid);
      starting.delete(uid);
      terminated.delete(uid);
      asked.delete(uid);
    },
  };
}

// Every series of kubelet_working_pods: those without pods are there with 0.
const workingLabels = ['sync', 'terminating', 'terminated'].flatMap((lifecycle) =>
  [
    ['desired', ''],
    ['desired', 'true'],
    ['orphan', ''],
    ['orphan', 'true'],
    ['runtime_only', 'unknown'],
  ].map((config) => [lifecycle, ...config]),
);

/** `container_type` of the container that a field path such as `spec.initContainers{a}` names. */
function containerType(fieldPath: string | undefined): string {
  const list = /^spec\.(\w+)\{/.exec(fieldPath ?? '')?.[1];
  return list === 'initContainers' ? 'init_container' : list === 'ephemeralContainers' ? 'ephemeral_container' : 'container';
}

function refusalLabel(reason: string): string {
  if (refusalReasons.has(reason)) return reason;
  return reason.startsWith('OutOf') ? 'OutOfExtendedResources' : 'Other';
}

function imageSizeLabel(sizeBytes: number): string {
  return imageSizes.find(([from]) => sizeBytes > from)?.[1] ?? 'N/A';
}

/** The ended containers that a status tells of, each once; one that never was is known by its name. */
function endsIn(status: AgentPod['status']): { id: string; type: string; exitCode: number; reason: string }[] {
  const lists = [
    ['init_container', status?.initContainerStatuses],
    ['container', status?.containerStatuses],
    ['ephemeral_container', status?.ephemeralContainerStatuses],
  ] as const;
  return lists.flatMap(([type, statuses = []]) =>
    statuses.flatMap(({ name, state, lastState }) =>
      [lastState?.terminated, state?.terminated].flatMap((end) =>
        end === undefined ? [] : [{ id: end.containerID ?? `${type} ${name}`, type, exitCode: end.exitCode, reason: end.reason ?? '' }],
      ),
    ),
  );
}

/** How long pulls and init containers took, overlaps counted once, ms. */
function excludedMs(
  pod: AgentPod,
  status: NonNullable<AgentPod['status']>,
  steps: readonly { step: string; startedAt: number; tookMs: number }[],
): number {
  const spans = steps.filter(({ step }) => step.startsWith('pullImage ')).map((s) => [s.startedAt, s.startedAt + s.tookMs] as const);
  const sidecars = new Set((pod.spec.initContainers ?? []).filter((c) => c.restartPolicy === 'Always').map((c) => c.name));
  for (const { name, state } of status.initContainerStatuses ?? []) {
    const { startedAt, finishedAt } = state?.terminated ?? {};
    if (!sidecars.has(name) && startedAt !== undefined && finishedAt !== undefined)
      spans.push([Date.parse(startedAt), Date.parse(finishedAt)]);
  }
  let sum = 0;
  let until = Number.NEGATIVE_INFINITY;
  for (const [from, to] of spans.sort((a, b) => a[0] - b[0])) {
    sum += Math.max(0, to - Math.max(from, until));
    until = Math.max(until, to);
  }
  return sum;
}
