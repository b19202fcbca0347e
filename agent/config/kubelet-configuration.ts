import { isIP } from 'node:net';
import path from 'node:path';
import * as z from 'zod';
import { ownValue, setOwn } from '../base/own.ts';
import { parseQuantity } from '../model/quantity.ts';
import { checkLogging, duration, int32, int64, logging, quantityText, stringMap, strings } from './codecs.ts';
import { formatDuration, parseDuration } from './duration.ts';
import { checkFeatureGates, gateEnabled } from './feature-gates.ts';
import { checkLabelValue, checkQualifiedName } from './names.ts';

// The fields and defaults of KubeletConfiguration v1beta1 as k8s.io/kubelet 0.36.1 has them (config/v1beta1/types.go and
// Kubernetes' pkg/kubelet/apis/config/v1beta1/defaults.go). A duration is text in a file and milliseconds here.

const taint = z.strictObject({
  key: z.string(),
  value: z.string().optional(),
  effect: z.string(),
  timeAdded: z.string().optional(),
});

const shape = {
  enableServer: z.boolean(),
  staticPodPath: z.string(),
  podLogsDir: z.string(),
  syncFrequency: duration,
  fileCheckFrequency: duration,
  httpCheckFrequency: duration,
  staticPodURL: z.string(),
  staticPodURLHeader: z.record(z.string(), strings),
  address: z.string(),
  port: int32,
  readOnlyPort: int32,
  tlsCertFile: z.string(),
  tlsPrivateKeyFile: z.string(),
  tlsCipherSuites: strings,
  tlsCurvePreferences: z.array(int32),
  tlsMinVersion: z.string(),
  rotateCertificates: z.boolean(),
  serverTLSBootstrap: z.boolean(),
  authentication: z.strictObject({
    x509: z.strictObject({ clientCAFile: z.string().optional() }).optional(),
    webhook: z.strictObject({ enabled: z.boolean().optional(), cacheTTL: duration.optional() }).optional(),
    anonymous: z.strictObject({ enabled: z.boolean().optional() }).optional(),
  }),
  authorization: z.strictObject({
    mode: z.string().optional(),
    webhook: z.strictObject({ cacheAuthorizedTTL: duration.optional(), cacheUnauthorizedTTL: duration.optional() }).optional(),
  }),
  registryPullQPS: int32,
  registryBurst: int32,
  imagePullCredentialsVerificationPolicy: z.string(),
  preloadedImagesVerificationAllowlist: strings,
  eventRecordQPS: int32,
  eventBurst: int32,
  enableDebuggingHandlers: z.boolean(),
  enableContentionProfiling: z.boolean(),
  healthzPort: int32,
  healthzBindAddress: z.string(),
  oomScoreAdj: int32,
  clusterDomain: z.string(),
  clusterDNS: strings,
  streamingConnectionIdleTimeout: duration,
  nodeStatusUpdateFrequency: duration,
  nodeStatusReportFrequency: duration,
  nodeLeaseDurationSeconds: int32,
  imageMinimumGCAge: duration,
  imageMaximumGCAge: duration,
  imageGCHighThresholdPercent: int32,
  imageGCLowThresholdPercent: int32,
  volumeStatsAggPeriod: duration,
  kubeletCgroups: z.string(),
  systemCgroups: z.string(),
  cgroupRoot: z.string(),
  cgroupsPerQOS: z.boolean(),
  cgroupDriver: z.string(),
  cpuManagerPolicy: z.string(),
  singleProcessOOMKill: z.boolean(),
  cpuManagerPolicyOptions: stringMap,
  cpuManagerReconcilePeriod: duration,
  memoryManagerPolicy: z.string(),
  topologyManagerPolicy: z.string(),
  topologyManagerScope: z.string(),
  topologyManagerPolicyOptions: stringMap,
  qosReserved: stringMap,
  runtimeRequestTimeout: duration,
  hairpinMode: z.string(),
  maxPods: int32,
  podCIDR: z.string(),
  podPidsLimit: int64,
  resolvConf: z.string(),
  runOnce: z.boolean(),
  cpuCFSQuota: z.boolean(),
  cpuCFSQuotaPeriod: duration,
  nodeStatusMaxImages: int32,
  maxOpenFiles: int64,
  contentType: z.string(),
  kubeAPIQPS: int32,
  kubeAPIBurst: int32,
  serializeImagePulls: z.boolean(),
  maxParallelImagePulls: int32,
  evictionHard: stringMap,
  evictionSoft: stringMap,
  evictionSoftGracePeriod: stringMap,
  evictionPressureTransitionPeriod: duration,
  evictionMaxPodGracePeriod: int32,
  evictionMinimumReclaim: stringMap,
  mergeDefaultEvictionSettings: z.boolean(),
  podsPerCore: int32,
  enableControllerAttachDetach: z.boolean(),
  protectKernelDefaults: z.boolean(),
  makeIPTablesUtilChains: z.boolean(),
  iptablesMasqueradeBit: int32,
  iptablesDropBit: int32,
  featureGates: z.record(z.string(), z.boolean()),
  failSwapOn: z.boolean(),
  memorySwap: z.strictObject({ swapBehavior: z.string().optional() }),
  containerLogMaxSize: z.string(),
  containerLogMaxFiles: int32,
  containerLogMaxWorkers: int32,
  containerLogMonitorInterval: duration,
  configMapAndSecretChangeDetectionStrategy: z.string(),
  systemReserved: stringMap,
  kubeReserved: stringMap,
  reservedSystemCPUs: z.string(),
  showHiddenMetricsForVersion: z.string(),
  systemReservedCgroup: z.string(),
  kubeReservedCgroup: z.string(),
  enforceNodeAllocatable: strings,
  allowedUnsafeSysctls: strings,
  volumePluginDir: z.string(),
  providerID: z.string(),
  kernelMemcgNotification: z.boolean(),
  logging,
  enableSystemLogHandler: z.boolean(),
  enableSystemLogQuery: z.boolean(),
  shutdownGracePeriod: duration,
  shutdownGracePeriodCriticalPods: duration,
  shutdownGracePeriodByPodPriority: z.array(z.strictObject({ priority: int32, shutdownGracePeriodSeconds: int64 })),
  crashLoopBackOff: z.strictObject({ maxContainerRestartPeriod: duration.optional() }),
  reservedMemory: z.array(z.strictObject({ numaNode: int32, limits: z.record(z.string(), quantityText) })),
  enableProfilingHandler: z.boolean(),
  enableDebugFlagsHandler: z.boolean(),
  seccompDefault: z.boolean(),
  memoryThrottlingFactor: z.number(),
  memoryReservationPolicy: z.string(),
  registerWithTaints: z.array(taint),
  registerNode: z.boolean(),
  tracing: z.strictObject({ endpoint: z.string().optional(), samplingRatePerMillion: int32.optional() }),
  localStorageCapacityIsolation: z.boolean(),
  containerRuntimeEndpoint: z.string(),
  imageServiceEndpoint: z.string(),
  failCgroupV1: z.boolean(),
  userNamespaces: z.strictObject({ idsPerPod: int64.optional() }),
};

/** The names of KubeletConfiguration's top-level fields. */
export type KubeletField = keyof typeof shape;

/** A v1beta1 document with nothing but what this version knows. */
export const schema = z
  .strictObject({ apiVersion: z.literal('kubelet.config.k8s.io/v1beta1'), kind: z.literal('KubeletConfiguration'), ...shape })
  .partial()
  .required({ apiVersion: true, kind: true });

type Decoded = z.output<typeof schema>;

/** What a file, drop-in or flag says: everything optional, durations in milliseconds. */
export type PartialKubeletConfiguration = Omit<Decoded, 'apiVersion' | 'kind'>;

// Fields that stay absent when nobody sets them: upstream has a nil pointer there, and nil means something of its own.
type OptionalField = 'singleProcessOOMKill' | 'maxParallelImagePulls' | 'tracing' | 'userNamespaces';

type DeepRequired<T> = T extends readonly unknown[]
  ? T
  : T extends object
    ? string extends keyof T
      ? T
      : { [K in keyof T]-?: DeepRequired<Exclude<T[K], undefined>> }
    : T;

/**
 * KubeletConfiguration v1beta1 with upstream's names and every default filled in. Durations are milliseconds; quantities stay text.
 * Absent is only what upstream leaves nil.
 */
export type KubeletConfiguration = Readonly<
  Omit<DeepRequired<PartialKubeletConfiguration>, OptionalField | 'crashLoopBackOff'> &
    Pick<PartialKubeletConfiguration, OptionalField | 'crashLoopBackOff'> & {
      readonly crashLoopBackOff: { maxContainerRestartPeriod?: number | undefined };
    }
>;

/** Whether a change of the field is taken up while running, or needs a restart of the agent. */
export type Reload = 'live' | 'restart';

// Everything that is read when deciding is live; what sockets, cgroups, clients and on-disk layouts are made from is not.
const liveFields: ReadonlySet<string> = new Set<KubeletField>([
  'syncFrequency',
  'registryPullQPS',
  'registryBurst',
  'eventRecordQPS',
  'eventBurst',
  'clusterDomain',
  'clusterDNS',
  'streamingConnectionIdleTimeout',
  'nodeStatusUpdateFrequency',
  'nodeStatusReportFrequency',
  'imageMinimumGCAge',
  'imageMaximumGCAge',
  'imageGCHighThresholdPercent',
  'imageGCLowThresholdPercent',
  'volumeStatsAggPeriod',
  'runtimeRequestTimeout',
  'maxPods',
  'podsPerCore',
  'podPidsLimit',
  'resolvConf',
  'cpuCFSQuota',
  'cpuCFSQuotaPeriod',
  'nodeStatusMaxImages',
  'serializeImagePulls',
  'maxParallelImagePulls',
  'evictionHard',
  'evictionSoft',
  'evictionSoftGracePeriod',
  'evictionPressureTransitionPeriod',
  'evictionMaxPodGracePeriod',
  'evictionMinimumReclaim',
  'containerLogMaxSize',
  'containerLogMaxFiles',
  'containerLogMonitorInterval',
  'systemReserved',
  'kubeReserved',
  'allowedUnsafeSysctls',
  'logging',
  'shutdownGracePeriod',
  'shutdownGracePeriodCriticalPods',
  'crashLoopBackOff',
  'seccompDefault',
]);

/** Whether a change of this field is taken up while running. */
export function reloadOf(field: KubeletField): Reload {
  return liveFields.has(field) ? 'live' : 'restart';
}

/** Every top-level field, in upstream's order. */
export const kubeletFields = Object.keys(shape) as readonly KubeletField[];

/** The hard eviction thresholds of a kubelet on Linux that sets none (pkg/kubelet/eviction/defaults_linux.go). */
const defaultEvictionHard: Readonly<Record<string, string>> = {
  'memory.available': '100Mi',
  'nodefs.available': '10%',
  'nodefs.inodesFree': '5%',
  'imagefs.available': '15%',
  'imagefs.inodesFree': '5%',
};

const second = 1000;
const minute = 60 * second;

/**
 * Fills in upstream's defaults. As in Go, a zero duration, zero number or empty text counts as not set, except where upstream has a pointer.
 */
export function withDefaults(given: PartialKubeletConfiguration): KubeletConfiguration {
  const ms = (value: number | undefined, fallback: number): number => (value === undefined || value === 0 ? fallback : value);
  const number = ms;
  const text = (value: string | undefined, fallback: string): string => (value === undefined || value === '' ? fallback : value);
  const gates = given.featureGates ?? {};
  const updateMs = ms(given.nodeStatusUpdateFrequency, 10 * second);
  const maxParallel = given.maxParallelImagePulls;
  const hard = given.evictionHard;
  const logging = given.logging ?? {};
  return {
    enableServer: given.enableServer ?? true,
    staticPodPath: given.staticPodPath ?? '',
    podLogsDir: text(given.podLogsDir, '/var/log/pods'),
    syncFrequency: ms(given.syncFrequency, minute),
    fileCheckFrequency: ms(given.fileCheckFrequency, 20 * second),
    httpCheckFrequency: ms(given.httpCheckFrequency, 20 * second),
    staticPodURL: given.staticPodURL ?? '',
    staticPodURLHeader: given.staticPodURLHeader ?? {},
    address: text(given.address, '0.0.0.0'),
    port: number(given.port, 10250),
    readOnlyPort: given.readOnlyPort ?? 0,
    tlsCertFile: given.tlsCertFile ?? '',
    tlsPrivateKeyFile: given.tlsPrivateKeyFile ?? '',
    tlsCipherSuites: given.tlsCipherSuites ?? [],
    tlsCurvePreferences: given.tlsCurvePreferences ?? [],
    tlsMinVersion: given.tlsMinVersion ?? '',
    rotateCertificates: given.rotateCertificates ?? false,
    serverTLSBootstrap: given.serverTLSBootstrap ?? false,
    authentication: {
      x509: { clientCAFile: given.authentication?.x509?.clientCAFile ?? '' },
      webhook: {
        enabled: given.authentication?.webhook?.enabled ?? true,
        cacheTTL: ms(given.authentication?.webhook?.cacheTTL, 2 * minute),
      },
      anonymous: { enabled: given.authentication?.anonymous?.enabled ?? false },
    },
    authorization: {
      mode: text(given.authorization?.mode, 'Webhook'),
      webhook: {
        cacheAuthorizedTTL: ms(given.authorization?.webhook?.cacheAuthorizedTTL, 5 * minute),
        cacheUnauthorizedTTL: ms(given.authorization?.webhook?.cacheUnauthorizedTTL, 30 * second),
      },
    },
    registryPullQPS: given.registryPullQPS ?? 5,
    registryBurst: number(given.registryBurst, 10),
    imagePullCredentialsVerificationPolicy: gateEnabled(gates, 'KubeletEnsureSecretPulledImages')
      ? text(given.imagePullCredentialsVerificationPolicy, 'NeverVerifyPreloadedImages')
      : (given.imagePullCredentialsVerificationPolicy ?? ''),
    preloadedImagesVerificationAllowlist: given.preloadedImagesVerificationAllowlist ?? [],
    eventRecordQPS: given.eventRecordQPS ?? 50,
    eventBurst: number(given.eventBurst, 100),
    enableDebuggingHandlers: given.enableDebuggingHandlers ?? true,
    enableContentionProfiling: given.enableContentionProfiling ?? false,
    healthzPort: given.healthzPort ?? 10248,
    healthzBindAddress: text(given.healthzBindAddress, '127.0.0.1'),
    oomScoreAdj: given.oomScoreAdj ?? -999,
    clusterDomain: given.clusterDomain ?? '',
    clusterDNS: given.clusterDNS ?? [],
    streamingConnectionIdleTimeout: ms(given.streamingConnectionIdleTimeout, 240 * minute),
    nodeStatusUpdateFrequency: updateMs,
    // Unset, it follows an update frequency that was set (upstream keeps that for backward compatibility).
    nodeStatusReportFrequency: ms(given.nodeStatusReportFrequency, (given.nodeStatusUpdateFrequency ?? 0) === 0 ? 5 * minute : updateMs),
    nodeLeaseDurationSeconds: number(given.nodeLeaseDurationSeconds, 40),
    imageMinimumGCAge: ms(given.imageMinimumGCAge, 2 * minute),
    imageMaximumGCAge: given.imageMaximumGCAge ?? 0,
    imageGCHighThresholdPercent: given.imageGCHighThresholdPercent ?? 85,
    imageGCLowThresholdPercent: given.imageGCLowThresholdPercent ?? 80,
    volumeStatsAggPeriod: ms(given.volumeStatsAggPeriod, minute),
    kubeletCgroups: given.kubeletCgroups ?? '',
    systemCgroups: given.systemCgroups ?? '',
    cgroupRoot: given.cgroupRoot ?? '',
    cgroupsPerQOS: given.cgroupsPerQOS ?? true,
    cgroupDriver: text(given.cgroupDriver, 'cgroupfs'),
    cpuManagerPolicy: text(given.cpuManagerPolicy, 'none'),
    singleProcessOOMKill: given.singleProcessOOMKill,
    cpuManagerPolicyOptions: given.cpuManagerPolicyOptions ?? {},
    cpuManagerReconcilePeriod: ms(given.cpuManagerReconcilePeriod, 10 * second),
    memoryManagerPolicy: text(given.memoryManagerPolicy, 'None'),
    topologyManagerPolicy: text(given.topologyManagerPolicy, 'none'),
    topologyManagerScope: text(given.topologyManagerScope, 'container'),
    topologyManagerPolicyOptions: given.topologyManagerPolicyOptions ?? {},
    qosReserved: given.qosReserved ?? {},
    runtimeRequestTimeout: ms(given.runtimeRequestTimeout, 2 * minute),
    hairpinMode: text(given.hairpinMode, 'promiscuous-bridge'),
    maxPods: number(given.maxPods, 110),
    podCIDR: given.podCIDR ?? '',
    podPidsLimit: given.podPidsLimit === undefined || given.podPidsLimit < 0 ? -1 : given.podPidsLimit,
    resolvConf: given.resolvConf ?? '/etc/resolv.conf',
    runOnce: given.runOnce ?? false,
    cpuCFSQuota: given.cpuCFSQuota ?? true,
    cpuCFSQuotaPeriod: given.cpuCFSQuotaPeriod ?? 100,
    nodeStatusMaxImages: given.nodeStatusMaxImages ?? 50,
    maxOpenFiles: number(given.maxOpenFiles, 1_000_000),
    contentType: text(given.contentType, 'application/vnd.kubernetes.protobuf'),
    kubeAPIQPS: given.kubeAPIQPS ?? 50,
    kubeAPIBurst: number(given.kubeAPIBurst, 100),
    serializeImagePulls: given.serializeImagePulls ?? (maxParallel === undefined || maxParallel < 2),
    maxParallelImagePulls: maxParallel,
    // Upstream fills these outside its defaulting (cmd/kubelet/app loadConfigFile), because they differ by operating system.
    evictionHard:
      hard === undefined ? defaultEvictionHard : given.mergeDefaultEvictionSettings ? { ...defaultEvictionHard, ...hard } : hard,
    evictionSoft: given.evictionSoft ?? {},
    evictionSoftGracePeriod: given.evictionSoftGracePeriod ?? {},
    evictionPressureTransitionPeriod: ms(given.evictionPressureTransitionPeriod, 5 * minute),
    evictionMaxPodGracePeriod: given.evictionMaxPodGracePeriod ?? 0,
    evictionMinimumReclaim: given.evictionMinimumReclaim ?? {},
    mergeDefaultEvictionSettings: given.mergeDefaultEvictionSettings ?? false,
    podsPerCore: given.podsPerCore ?? 0,
    enableControllerAttachDetach: given.enableControllerAttachDetach ?? true,
    protectKernelDefaults: given.protectKernelDefaults ?? false,
    makeIPTablesUtilChains: given.makeIPTablesUtilChains ?? true,
    iptablesMasqueradeBit: given.iptablesMasqueradeBit ?? 14,
    iptablesDropBit: given.iptablesDropBit ?? 15,
    featureGates: gates,
    failSwapOn: given.failSwapOn ?? true,
    memorySwap: { swapBehavior: given.memorySwap?.swapBehavior ?? '' },
    containerLogMaxSize: text(given.containerLogMaxSize, '10Mi'),
    containerLogMaxFiles: given.containerLogMaxFiles ?? 5,
    containerLogMaxWorkers: given.containerLogMaxWorkers ?? 1,
    containerLogMonitorInterval: given.containerLogMonitorInterval ?? 10 * second,
    configMapAndSecretChangeDetectionStrategy: text(given.configMapAndSecretChangeDetectionStrategy, 'Watch'),
    systemReserved: given.systemReserved ?? {},
    kubeReserved: given.kubeReserved ?? {},
    reservedSystemCPUs: given.reservedSystemCPUs ?? '',
    showHiddenMetricsForVersion: given.showHiddenMetricsForVersion ?? '',
    systemReservedCgroup: given.systemReservedCgroup ?? '',
    kubeReservedCgroup: given.kubeReservedCgroup ?? '',
    enforceNodeAllocatable: given.enforceNodeAllocatable ?? ['pods'],
    allowedUnsafeSysctls: given.allowedUnsafeSysctls ?? [],
    volumePluginDir: text(given.volumePluginDir, '/usr/libexec/kubernetes/kubelet-plugins/volume/exec/'),
    providerID: given.providerID ?? '',
    kernelMemcgNotification: given.kernelMemcgNotification ?? false,
    logging: {
      format: text(logging.format, 'text'),
      flushFrequency: ms(logging.flushFrequency, 5 * second),
      verbosity: logging.verbosity ?? 0,
      vmodule: logging.vmodule ?? [],
      options: {
        text: { splitStream: logging.options?.text?.splitStream ?? false, infoBufferSize: logging.options?.text?.infoBufferSize ?? '0' },
        json: { splitStream: logging.options?.json?.splitStream ?? false, infoBufferSize: logging.options?.json?.infoBufferSize ?? '0' },
      },
    },
    enableSystemLogHandler: given.enableSystemLogHandler ?? true,
    enableSystemLogQuery: given.enableSystemLogQuery ?? false,
    shutdownGracePeriod: given.shutdownGracePeriod ?? 0,
    shutdownGracePeriodCriticalPods: given.shutdownGracePeriodCriticalPods ?? 0,
    shutdownGracePeriodByPodPriority: given.shutdownGracePeriodByPodPriority ?? [],
    crashLoopBackOff: {
      maxContainerRestartPeriod:
        given.crashLoopBackOff?.maxContainerRestartPeriod ?? (gateEnabled(gates, 'KubeletCrashLoopBackOffMax') ? 300 * second : undefined),
    },
    reservedMemory: given.reservedMemory ?? [],
    enableProfilingHandler: given.enableProfilingHandler ?? true,
    enableDebugFlagsHandler: given.enableDebugFlagsHandler ?? true,
    seccompDefault: given.seccompDefault ?? false,
    memoryThrottlingFactor: given.memoryThrottlingFactor ?? 0.9,
    memoryReservationPolicy: text(given.memoryReservationPolicy, 'None'),
    registerWithTaints: given.registerWithTaints ?? [],
    registerNode: given.registerNode ?? true,
    tracing: given.tracing,
    localStorageCapacityIsolation: given.localStorageCapacityIsolation ?? true,
    containerRuntimeEndpoint: text(given.containerRuntimeEndpoint, 'unix:///run/containerd/containerd.sock'),
    imageServiceEndpoint: given.imageServiceEndpoint ?? '',
    failCgroupV1: given.failCgroupV1 ?? true,
    userNamespaces: given.userNamespaces,
  };
}

/** The whole v1beta1 document of a configuration, empty fields included: durations as text. */
export function fullDocument(config: KubeletConfiguration): Record<string, unknown> {
  const given = Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined)) as PartialKubeletConfiguration;
  return withoutNulls(z.encode(schema, { apiVersion: 'kubelet.config.k8s.io/v1beta1', kind: 'KubeletConfiguration', ...given })) as Record<
    string,
    unknown
  >;
}

// Upstream has pointers here, which it prints whatever they point to; its other fields are left out when they are empty.
const printedWhenEmpty: ReadonlySet<string> = new Set<KubeletField>([
  'authentication',
  'authorization',
  'logging',
  'memorySwap',
  'crashLoopBackOff',
  'enableServer',
  'registryPullQPS',
  'eventRecordQPS',
  'enableDebuggingHandlers',
  'healthzPort',
  'oomScoreAdj',
  'imageGCHighThresholdPercent',
  'imageGCLowThresholdPercent',
  'cgroupsPerQOS',
  'singleProcessOOMKill',
  'podPidsLimit',
  'resolvConf',
  'cpuCFSQuota',
  'nodeStatusMaxImages',
  'kubeAPIQPS',
  'serializeImagePulls',
  'maxParallelImagePulls',
  'mergeDefaultEvictionSettings',
  'enableControllerAttachDetach',
  'makeIPTablesUtilChains',
  'iptablesMasqueradeBit',
  'iptablesDropBit',
  'failSwapOn',
  'containerLogMaxFiles',
  'containerLogMaxWorkers',
  'enableSystemLogHandler',
  'enableSystemLogQuery',
  'enableProfilingHandler',
  'enableDebugFlagsHandler',
  'seccompDefault',
  'memoryThrottlingFactor',
  'registerNode',
  'localStorageCapacityIsolation',
  'containerRuntimeEndpoint',
  'failCgroupV1',
  'tracing',
  'userNamespaces',
]);

/** The v1beta1 document of an effective configuration as /configz shows it: durations as text, what is empty left out as upstream does. */
export function encodeKubeletConfiguration(config: KubeletConfiguration): Record<string, unknown> {
  const empty = (value: unknown): boolean =>
    value === '' || value === 0 || value === false || (Array.isArray(value) ? value.length === 0 : isObject(value) && !hasKeys(value));
  return Object.fromEntries(
    Object.entries(fullDocument(config))
      .filter(([field, value]) => printedWhenEmpty.has(field) || !empty(value))
      .map(([field, value]) => [field, isObject(value) && printedWhenEmpty.has(field) ? withoutEmptyInside(value) : value]),
  );
}

function hasKeys(value: object): boolean {
  return Object.keys(value).length > 0;
}

// Inside, text and lists are plain fields, and so is splitStream; the other booleans and numbers are pointers or always printed.
function withoutEmptyInside(value: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(value)
      .filter(
        ([key, inner]) => inner !== '' && !(Array.isArray(inner) && inner.length === 0) && !(key === 'splitStream' && inner === false),
      )
      .map(([key, inner]) => [key, isObject(inner) ? withoutEmptyInside(inner) : inner]),
  );
}

/** RFC 7386: objects merge key by key, null deletes, everything else replaces. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const merged: Record<string, unknown> = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete merged[key];
    else setOwn(merged, key, mergePatch(ownValue(merged, key), value));
  }
  return merged;
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (!isObject(value)) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, v]) => v !== null && v !== undefined)
      .map(([k, v]) => [k, withoutNulls(v)]),
  );
}

/** Makes the paths of a config file absolute against its folder, as upstream does for these fields and no other. */
export function resolvePaths(config: PartialKubeletConfiguration, folder: string): PartialKubeletConfiguration {
  const resolved = { ...config };
  const absolute = (value: string): string => (value === '' || path.isAbsolute(value) ? value : path.join(folder, value));
  for (const field of ['staticPodPath', 'tlsCertFile', 'tlsPrivateKeyFile', 'resolvConf', 'volumePluginDir', 'podLogsDir'] as const) {
    const value = config[field];
    if (value !== undefined) resolved[field] = absolute(value);
  }
  const clientCAFile = config.authentication?.x509?.clientCAFile;
  if (clientCAFile !== undefined) resolved.authentication = { ...config.authentication, x509: { clientCAFile: absolute(clientCAFile) } };
  return resolved;
}

/** Every problem of an effective configuration, in upstream's words (pkg/kubelet/apis/config/validation). Empty when it is valid. */
export function validateKubeletConfiguration(kc: KubeletConfiguration): string[] {
  const problems: string[] = [];
  const bad = (when: boolean, message: string): void => {
    if (when) problems.push(`invalid configuration: ${message}`);
  };
  const range = (value: number, low: number, high: number): boolean => Number.isInteger(value) && value >= low && value <= high;
  const oneOf = (value: string, allowed: readonly string[], message: (list: string) => string): void =>
    bad(!allowed.includes(value), message(allowed.map((a) => `"${a}"`).join(', ')));
  const gate = (name: Parameters<typeof gateEnabled>[1]): boolean => gateEnabled(kc.featureGates, name);
  problems.push(...checkFeatureGates(kc.featureGates));

  bad(kc.nodeLeaseDurationSeconds <= 0, 'nodeLeaseDurationSeconds must be greater than 0');
  bad(
    kc.systemCgroups !== '' && kc.cgroupRoot === '',
    'systemCgroups (--system-cgroups) was specified and cgroupRoot (--cgroup-root) was not specified',
  );
  const notNegative = [
    ['eventBurst', '--event-burst', kc.eventBurst],
    ['eventRecordQPS', '--event-qps', kc.eventRecordQPS],
    ['kubeAPIBurst', '--kube-api-burst', kc.kubeAPIBurst],
    ['kubeAPIQPS', '--kube-api-qps', kc.kubeAPIQPS],
    ['maxOpenFiles', '--max-open-files', kc.maxOpenFiles],
    ['maxPods', '--max-pods', kc.maxPods],
    ['podsPerCore', '--pods-per-core', kc.podsPerCore],
    ['registryBurst', '--registry-burst', kc.registryBurst],
    ['registryPullQPS', '--registry-qps', kc.registryPullQPS],
  ] as const;
  for (const [field, flag, value] of notNegative) bad(value < 0, `${field} (${flag}) ${value} must not be a negative number`);
  const ranged = [
    ['imageGCHighThresholdPercent', '--image-gc-high-threshold', kc.imageGCHighThresholdPercent, 0, 100],
    ['imageGCLowThresholdPercent', '--image-gc-low-threshold', kc.imageGCLowThresholdPercent, 0, 100],
    ['iptablesDropBit', '--iptables-drop-bit', kc.iptablesDropBit, 0, 31],
    ['iptablesMasqueradeBit', '--iptables-masquerade-bit', kc.iptablesMasqueradeBit, 0, 31],
    ['oomScoreAdj', '--oom-score-adj', kc.oomScoreAdj, -1000, 1000],
    ['port', '--port', kc.port, 1, 65535],
  ] as const;
  for (const [field, flag, value, low, high] of ranged)
    bad(!range(value, low, high), `${field} (${flag}) ${value} must be between ${low} and ${high}, inclusive`);
  bad(
    kc.healthzPort !== 0 && !range(kc.healthzPort, 1, 65535),
    `healthzPort (--healthz-port) ${kc.healthzPort} must be between 1 and 65535, inclusive`,
  );
  bad(
    kc.readOnlyPort !== 0 && !range(kc.readOnlyPort, 1, 65535),
    `readOnlyPort (--read-only-port) ${kc.readOnlyPort} must be between 0 and 65535, inclusive`,
  );
  const period = formatDuration(kc.cpuCFSQuotaPeriod);
  if (gate('CustomCPUCFSQuotaPeriod'))
    bad(
      kc.cpuCFSQuotaPeriod < 1 || kc.cpuCFSQuotaPeriod > second,
      `cpuCFSQuotaPeriod (--cpu-cfs-quota-period) ${period} must be between 1ms and 1sec, inclusive`,
    );
  else
    bad(kc.cpuCFSQuotaPeriod !== 100, `cpuCFSQuotaPeriod (--cpu-cfs-quota-period) ${period} requires feature gate CustomCPUCFSQuotaPeriod`);
  bad(
    kc.imageGCLowThresholdPercent >= kc.imageGCHighThresholdPercent,
    `imageGCLowThresholdPercent (--image-gc-low-threshold) ${kc.imageGCLowThresholdPercent} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) ${kc.imageGCHighThresholdPercent}`,
  );
  bad(kc.imageMinimumGCAge < 0, `imageMinimumGCAge ${formatDuration(kc.imageMinimumGCAge)} must not be negative`);
  bad(kc.imageMaximumGCAge < 0, `imageMaximumGCAge ${formatDuration(kc.imageMaximumGCAge)} must not be negative`);
  bad(
    kc.imageMaximumGCAge > 0 && kc.imageMaximumGCAge <= kc.imageMinimumGCAge,
    `imageMaximumGCAge ${formatDuration(kc.imageMaximumGCAge)} must be greater than imageMinimumGCAge ${formatDuration(kc.imageMinimumGCAge)}`,
  );
  bad(kc.nodeStatusMaxImages < -1, `nodeStatusMaxImages (--node-status-max-images) ${kc.nodeStatusMaxImages} must be -1 or greater`);
  if (kc.maxParallelImagePulls !== undefined) {
    bad(kc.maxParallelImagePulls < 1, `maxParallelImagePulls ${kc.maxParallelImagePulls} must be a positive number`);
    bad(
      kc.serializeImagePulls && kc.maxParallelImagePulls > 1,
      'maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set to false',
    );
  }
  bad(
    kc.serverTLSBootstrap && !gate('RotateKubeletServerCertificate'),
    'serverTLSBootstrap true requires feature gate RotateKubeletServerCertificate',
  );
  bad(kc.runOnce, 'runOnce (--runOnce) true, Runonce mode has been deprecated and should not be set');
  for (const t of kc.registerWithTaints) {
    for (const problem of checkTaint(t)) bad(true, `registerWithTaints: invalid taint "${t.key}": ${problem}`);
    bad(t.timeAdded !== undefined, 'taint.TimeAdded is not nil');
  }
  oneOf(
    kc.topologyManagerPolicy,
    ['none', 'best-effort', 'restricted', 'single-numa-node'],
    (list) => `topologyManagerPolicy (--topology-manager-policy) "${kc.topologyManagerPolicy}" must be one of: ${list}`,
  );
  oneOf(
    kc.topologyManagerScope,
    ['container', 'pod'],
    (list) => `topologyManagerScope (--topology-manager-scope) "${kc.topologyManagerScope}" must be one of: ${list}`,
  );
  // Upstream says these two when the container manager starts; here they are part of the same check.
  oneOf(
    kc.cpuManagerPolicy,
    ['none', 'static'],
    (list) => `cpuManagerPolicy (--cpu-manager-policy) "${kc.cpuManagerPolicy}" must be one of: ${list}`,
  );
  oneOf(
    kc.memoryManagerPolicy,
    ['None', 'Static'],
    (list) => `memoryManagerPolicy (--memory-manager-policy) "${kc.memoryManagerPolicy}" must be one of: ${list}`,
  );
  oneOf(kc.cgroupDriver, ['cgroupfs', 'systemd'], (list) => `cgroupDriver (--cgroup-driver) "${kc.cgroupDriver}" must be one of: ${list}`);
  oneOf(
    kc.authorization.mode,
    ['AlwaysAllow', 'Webhook'],
    (list) => `authorization.mode (--authorization-mode) "${kc.authorization.mode}" must be one of: ${list}`,
  );
  oneOf(
    kc.configMapAndSecretChangeDetectionStrategy,
    ['Get', 'Cache', 'Watch'],
    (list) => `configMapAndSecretChangeDetectionStrategy "${kc.configMapAndSecretChangeDetectionStrategy}" must be one of: ${list}`,
  );
  oneOf(
    kc.hairpinMode,
    ['none', 'hairpin-veth', 'promiscuous-bridge'],
    (list) => `option "${kc.hairpinMode}" specified for hairpinMode (--hairpin-mode). Valid options are ${list}`,
  );
  oneOf(
    kc.memorySwap.swapBehavior,
    ['', 'LimitedSwap', 'NoSwap'],
    (list) => `memorySwap.swapBehavior "${kc.memorySwap.swapBehavior}" must be one of: ${list}`,
  );
  oneOf(
    kc.memoryReservationPolicy,
    ['None', 'TieredReservation'],
    (list) => `option "${kc.memoryReservationPolicy}" specified for memoryReservationPolicy. Valid options are ${list}`,
  );
  const [grace, critical] = [kc.shutdownGracePeriod, kc.shutdownGracePeriodCriticalPods];
  bad(
    critical > grace,
    `shutdownGracePeriodCriticalPods ${formatDuration(critical)} must be <= shutdownGracePeriod ${formatDuration(grace)}`,
  );
  for (const [field, value] of [
    ['shutdownGracePeriod', grace],
    ['shutdownGracePeriodCriticalPods', critical],
  ] as const)
    bad(value < 0 || (value > 0 && value < second), `${field} ${formatDuration(value)} must be either zero or otherwise >= 1 sec`);
  bad(
    kc.shutdownGracePeriodByPodPriority.length > 0 && (grace > 0 || critical > 0),
    'Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time',
  );
  const restart = kc.crashLoopBackOff.maxContainerRestartPeriod;
  if (gate('KubeletCrashLoopBackOffMax'))
    bad(
      restart === undefined || restart < 1000 || restart > 300_000,
      `CrashLoopBackOff.MaxContainerRestartPeriod (got: ${(restart ?? 0) / 1000} seconds) must be set between 1s and 300s`,
    );
  else
    bad(
      restart !== undefined,
      'FeatureGate KubeletCrashLoopBackOffMax not enabled, CrashLoopBackOff.MaxContainerRestartPeriod must not be set',
    );
  problems.push(
    ...checkEnforcement(kc),
    ...checkImageVerification(kc),
    ...checkReserved(kc),
    ...checkPaths(kc),
    ...checkLogging(kc.logging, kc.featureGates),
  );
  bad(
    kc.memoryThrottlingFactor <= 0 || kc.memoryThrottlingFactor > 1,
    `memoryThrottlingFactor ${kc.memoryThrottlingFactor} must be greater than 0 and less than or equal to 1.0`,
  );
  bad(
    kc.memoryReservationPolicy === 'TieredReservation' && !gate('MemoryQoS'),
    'memoryReservationPolicy "TieredReservation" requires MemoryQoS feature gate to be enabled',
  );
  bad(kc.enableSystemLogQuery && !kc.enableSystemLogHandler, 'enableSystemLogHandler is required for enableSystemLogQuery');
  bad(kc.containerLogMaxWorkers < 1, 'containerLogMaxWorkers must be greater than or equal to 1');
  bad(
    kc.containerLogMonitorInterval < 3 * second,
    'containerLogMonitorInterval must be a positive time duration greater than or equal to 3s',
  );
  bad(kc.containerLogMaxFiles <= 1, 'containerLogMaxFiles must be greater than 1');
  bad(!isQuantity(kc.containerLogMaxSize), `containerLogMaxSize (--container-log-max-size) "${kc.containerLogMaxSize}" is not a quantity`);
  for (const pattern of kc.allowedUnsafeSysctls) {
    bad(
      !/^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]$/.test(pattern),
      `allowedUnsafeSysctls: "${pattern}" is no sysctl pattern`,
    );
    // What the kernel has but once a container would set for the whole machine (k8s.io/component-helpers/node/util/sysctl).
    bad(
      !/^(kernel[./](sem|shm(all|max|mni|_rmid_forced)?|msg(max|mnb|mni)?)\*?$|fs[./]mqueue[./]|net[./])/.test(pattern),
      `allowedUnsafeSysctls: the sysctls "${pattern}" are not known to be namespaced`,
    );
  }
  const ids = kc.userNamespaces?.idsPerPod;
  if (ids !== undefined) {
    bad(ids < 65536, 'userNamespaces.idsPerPod must not be less than 65536');
    bad(ids % 65536 !== 0, 'userNamespaces.idsPerPod must be a multiple of 65536');
    bad(ids > 0xffffffff, 'userNamespaces.idsPerPod must not be more than 4294967295');
  }
  for (const address of kc.clusterDNS) bad(isIP(address) === 0, `clusterDNS (--cluster-dns) "${address}" is not a valid IP address`);
  for (const [field, value] of [
    ['address', kc.address],
    ['healthzBindAddress', kc.healthzBindAddress],
  ] as const)
    bad(isIP(value) === 0, `${field} "${value}" is not a valid IP address`);
  const sampling = kc.tracing?.samplingRatePerMillion;
  bad(sampling !== undefined && !range(sampling, 0, 1_000_000), 'tracing.samplingRatePerMillion must be between 0 and 1000000');
  return problems;
}

function checkEnforcement(kc: KubeletConfiguration): string[] {
  const problems: string[] = [];
  const bad = (message: string): void => void problems.push(`invalid configuration: ${message}`);
  const where = 'enforceNodeAllocatable (--enforce-node-allocatable)';
  const valid = ['pods', 'system-reserved', 'system-reserved-compressible', 'kube-reserved', 'kube-reserved-compressible', 'none'];
  const wanted = kc.enforceNodeAllocatable;
  for (const kind of ['system-reserved', 'kube-reserved'])
    if (wanted.includes(kind) && wanted.includes(`${kind}-compressible`))
      bad(`both "${kind}" and "${kind}-compressible" cannot be specified together in ${where}`);
  for (const [i, value] of wanted.entries()) {
    if (wanted.indexOf(value) < i) bad(`duplicated enforcements "${value}" in ${where}`);
    else if (!valid.includes(value))
      bad(`option "${value}" specified for ${where}. Valid options are ${valid.map((v) => `"${v}"`).join(', ')}`);
    else if (value === 'none') {
      if (wanted.length > 1) bad(`${where} may not contain additional enforcements when "none" is specified`);
    } else {
      if (value.startsWith('system-reserved') && kc.systemReservedCgroup === '')
        bad(`systemReservedCgroup (--system-reserved-cgroup) must be specified when "${value}" included in ${where}`);
      if (value.startsWith('kube-reserved') && kc.kubeReservedCgroup === '')
        bad(`kubeReservedCgroup (--kube-reserved-cgroup) must be specified when "${value}" included in ${where}`);
      if (!kc.cgroupsPerQOS) bad(`cgroupsPerQOS (--cgroups-per-qos) must be set to true when "${value}" contained in ${where}`);
    }
  }
  return problems;
}

function checkImageVerification(kc: KubeletConfiguration): string[] {
  const policy = kc.imagePullCredentialsVerificationPolicy;
  const allowlist = kc.preloadedImagesVerificationAllowlist;
  const policies = ['NeverVerify', 'NeverVerifyPreloadedImages', 'NeverVerifyAllowlistedImages', 'AlwaysVerify'];
  const problems: string[] = [];
  if (gateEnabled(kc.featureGates, 'KubeletEnsureSecretPulledImages')) {
    if (!policies.includes(policy))
      problems.push(`option "${policy}" specified for imagePullCredentialsVerificationPolicy. Valid options are ${policies.join(', ')}`);
    if (allowlist.length > 0 && policy !== 'NeverVerifyAllowlistedImages')
      problems.push(
        'can\'t set `preloadedImagesVerificationAllowlist` if `imagePullCredentialsVertificationPolicy` is not "NeverVerifyAllowlistedImages"',
      );
  } else {
    const needs = 'must not be set if KubeletEnsureSecretPulledImages feature gate is not enabled';
    if (policy !== '') problems.push(`\`imagePullCredentialsVerificationPolicy\` ${needs}`);
    if (allowlist.length > 0) problems.push(`\`preloadedImagesVerificationAllowlist\` ${needs}`);
  }
  return problems.map((p) => `invalid configuration: ${p}`);
}

function checkReserved(kc: KubeletConfiguration): string[] {
  const problems: string[] = [];
  if (kc.reservedSystemCPUs !== '') {
    if (kc.systemReservedCgroup !== '' || kc.kubeReservedCgroup !== '')
      problems.push(
        "can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup) or kubeReservedCgroup (--kube-reserved-cgroup)",
      );
    if (parseCpuSet(kc.reservedSystemCPUs) === undefined)
      problems.push(`unable to parse reservedSystemCPUs (--reserved-cpus) ${kc.reservedSystemCPUs}`);
  }
  for (const [field, map] of [
    ['systemReserved', kc.systemReserved],
    ['kubeReserved', kc.kubeReserved],
  ] as const)
    for (const [name, value] of Object.entries(map)) {
      // pkg/kubelet/cm parseResourceList (cmd/kubelet/app/server.go)
      if (!['cpu', 'memory', 'ephemeral-storage', 'pid'].includes(name))
        problems.push(`${field}: cannot reserve "${name}" resource (only cpu, memory, ephemeral-storage and pid)`);
      else if (!isQuantity(value)) problems.push(`${field}.${name}: "${value}" is not a resource quantity`);
      else if (parseQuantity(value) < 0) problems.push(`${field}.${name}: resource quantity "${value}" is negative`);
    }
  for (const [field, map] of [
    ['evictionHard', kc.evictionHard],
    ['evictionSoft', kc.evictionSoft],
  ] as const)
    for (const [signal, value] of Object.entries(map)) {
      if (!evictionSignals.has(signal)) problems.push(`${field}: unsupported eviction signal ${signal}`);
      else if (!isThreshold(value))
        problems.push(`${field}.${signal}: "${value}" is neither a positive quantity nor a percentage of 0% to 100%`);
    }
  for (const [signal, value] of Object.entries(kc.evictionMinimumReclaim)) {
    if (!evictionSignals.has(signal)) problems.push(`evictionMinimumReclaim: unsupported eviction signal ${signal}`);
    else if (!isMinimumReclaim(value))
      problems.push(`evictionMinimumReclaim.${signal}: "${value}" is neither a quantity that is not negative nor a positive percentage`);
  }
  for (const [signal, value] of Object.entries(kc.evictionSoftGracePeriod)) {
    if (!evictionSignals.has(signal)) problems.push(`evictionSoftGracePeriod: unsupported eviction signal ${signal}`);
    else if (!isPositiveDuration(value)) problems.push(`evictionSoftGracePeriod.${signal}: "${value}" is no duration that is not negative`);
  }
  for (const signal of Object.keys(kc.evictionSoft)) {
    if (ownValue(kc.evictionSoftGracePeriod, signal) === undefined)
      problems.push(`grace period must be specified for the soft eviction threshold ${signal}`);
  }
  const seen = new Set<string>();
  for (const { numaNode, limits } of kc.reservedMemory)
    for (const [name, value] of Object.entries(limits)) {
      if (name !== 'memory' && !name.startsWith('hugepages-'))
        problems.push(
          `the limit type "${name}" for NUMA node ${numaNode} is not supported, only [memory hugepages-<HugePageSize>] is accepted`,
        );
      if (parseQuantity(value) === 0) problems.push(`reserved memory may not be zero for NUMA node ${numaNode} and resource "${name}"`);
      if (seen.has(`${numaNode} ${name}`))
        problems.push(`the reserved memory has a duplicate value for NUMA node ${numaNode} and resource "${name}"`);
      seen.add(`${numaNode} ${name}`);
    }
  return problems.map((p) => `invalid configuration: ${p}`);
}

// pkg/kubelet/eviction/api/types.go
const evictionSignals: ReadonlySet<string> = new Set([
  'memory.available',
  'nodefs.available',
  'nodefs.inodesFree',
  'imagefs.available',
  'imagefs.inodesFree',
  'containerfs.available',
  'containerfs.inodesFree',
  'allocatableMemory.available',
  'pid.available',
]);

function checkPaths(kc: KubeletConfiguration): string[] {
  const problems: string[] = [];
  const dir = kc.podLogsDir;
  if (!path.isAbsolute(dir)) problems.push(`pod logs path "${dir}" must be absolute path`);
  if (path.normalize(dir) !== dir) problems.push(`pod logs path "${dir}" must be normalized`);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the question is whether every character is ASCII
  if (!/^[\x00-\x7f]*$/.test(dir)) problems.push(`pod logs path "${dir}" must contain ASCII characters only`);
  if ((kc.tlsCertFile === '') !== (kc.tlsPrivateKeyFile === ''))
    problems.push('tlsCertFile (--tls-cert-file) and tlsPrivateKeyFile (--tls-private-key-file) must be set together');
  return problems.map((p) => `invalid configuration: ${p}`);
}

function checkTaint(t: { key: string; value?: string | undefined; effect: string }): string[] {
  const problems = checkQualifiedName(t.key);
  if (t.value !== undefined && t.value !== '') problems.push(...checkLabelValue(t.value));
  if (!['NoSchedule', 'PreferNoSchedule', 'NoExecute'].includes(t.effect)) problems.push(`unsupported taint effect "${t.effect}"`);
  return problems;
}

/** The CPUs of a list such as "0-2,7"; undefined when the text is none. */
export function parseCpuSet(text: string): ReadonlySet<number> | undefined {
  const cpus = new Set<number>();
  for (const range of text.split(',')) {
    const match = /^(\d+)(?:-(\d+))?$/.exec(range.trim());
    if (match === null) return undefined;
    const first = Number(match[1]);
    const last = match[2] === undefined ? first : Number(match[2]);
    if (last < first) return undefined;
    for (let cpu = first; cpu <= last; cpu++) cpus.add(cpu);
  }
  return cpus;
}

function isQuantity(text: string): boolean {
  try {
    parseQuantity(text);
    return true;
  } catch {
    return false;
  }
}

/** The number before the sign of a percentage; undefined for what is none. */
function percentOf(text: string): number | undefined {
  const percent = /^(\d+(?:\.\d+)?)%$/.exec(text);
  return percent === null ? undefined : Number(percent[1]);
}

/** A quantity of nothing is no way to switch a threshold off: 0% and 100% are (pkg/kubelet/eviction parseThresholdStatement). */
function isThreshold(text: string): boolean {
  const percent = percentOf(text);
  return percent === undefined ? isQuantity(text) && parseQuantity(text) > 0 : percent <= 100;
}

/** Nothing more than the threshold may be asked for as an amount, not as a share (pkg/kubelet/eviction parseMinimumReclaims). */
function isMinimumReclaim(text: string): boolean {
  const percent = percentOf(text);
  return percent === undefined ? isQuantity(text) && parseQuantity(text) >= 0 : percent > 0;
}

function isPositiveDuration(text: string): boolean {
  try {
    return parseDuration(text) >= 0;
  } catch {
    return false;
  }
}
