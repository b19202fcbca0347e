import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { flushCompileCache } from 'node:module';
import { join } from 'node:path';
import type { StatusResponse } from '../../../cri-protos/generated/cri.ts';
import { systemClock } from '../../base/clock.ts';
import { AgentError, messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { type ReadonlyTable, Table } from '../../base/table.ts';
import { type Config, isEnabled } from '../../config/config.ts';
import { encodeKubeletConfiguration } from '../../config/kubelet-configuration.ts';
import { nodeNameOf, nodeSettings } from '../../config/node-settings.ts';
import type { ProxySettings } from '../../config/proxy/load.ts';
import { openCgroups } from '../../drivers/cgroup/cgroups.ts';
import { systemdCgroups } from '../../drivers/cgroup/systemd.ts';
import { connectCri } from '../../drivers/cri/client.ts';
import { lookWithin } from '../../drivers/files/look.ts';
import { httpGet } from '../../drivers/http/get.ts';
import { openJournal } from '../../drivers/journal/journal.ts';
import { openPodResources } from '../../drivers/journal/pod-resources.ts';
import { pathOf } from '../../drivers/kube/client.ts';
import { createObjects } from '../../drivers/kube/objects.ts';
import { createReviews, noReviews } from '../../drivers/kube/reviews.ts';
import * as logFiles from '../../drivers/logs/files.ts';
import { podLogFolders } from '../../drivers/logs/folders.ts';
import { createRunJournalctl } from '../../drivers/logs/journalctl.ts';
import { readContainerLog } from '../../drivers/logs/read.ts';
import { openMounts } from '../../drivers/mounts/mounts.ts';
import { removeVolumes } from '../../drivers/mounts/pod-folder.ts';
import { makeRealFolder } from '../../drivers/mounts/real-path.ts';
import * as volumeDisk from '../../drivers/mounts/volume-disk.ts';
import { hasAppArmor, hostName, readMachine, readNetwork, resolveHost, thermalThrottles } from '../../drivers/proc/machine.ts';
import { setOpenFilesLimit } from '../../drivers/sys/libc.ts';
import { openNotify, watchdogMs } from '../../drivers/systemd/notify.ts';
import type { Condition } from '../../eviction/thresholds.ts';
import type { Eviction } from '../../eviction/worker.ts';
import { startLogRotation } from '../../logs/worker.ts';
import type { PodStatus, TokenRequest } from '../../model/generated/api.ts';
import { kubernetesVersion } from '../../model/kubernetes-version.ts';
import type { AgentPod } from '../../model/pod.ts';
import { parseQuantity } from '../../model/quantity.ts';
import { hostIPs } from '../../node/addresses.ts';
import { cgroupCapacity, effectiveReservations } from '../../node/capacity.ts';
import { startNode } from '../../node/worker.ts';
import { admitPod } from '../../pods/admission.ts';
import { fieldPathOf } from '../../pods/apply.ts';
import type { DnsSettings } from '../../pods/dns.ts';
import type { ManifestMemory } from '../../pods/file-source.ts';
import { leftovers } from '../../pods/leftovers.ts';
import { type Mirrors, startMirrors } from '../../pods/mirror-worker.ts';
import type { RuntimePod } from '../../pods/observed.ts';
import { statusFailure } from '../../pods/pod-events.ts';
import { watchRuntime } from '../../pods/runtime-watch.ts';
import { mergeSources } from '../../pods/sources.ts';
import { startStatusWriter } from '../../pods/status-writer.ts';
import { type PodSpecRow, type PodsOptions, startPods } from '../../pods/worker.ts';
import type { ProbeVerdicts } from '../../probes/verdict.ts';
import { startProbes } from '../../probes/worker.ts';
import { cgroupTree } from '../../resources/cgroup-names.ts';
import { type ContainerPolicy, maySwap } from '../../resources/container-resources.ts';
import { podCgroupValues } from '../../resources/pod-values.ts';
import { startResources } from '../../resources/worker.ts';
import { createEventTrail } from '../../server/event-trail.ts';
import type { HealthCheck } from '../../server/healthz.ts';
import { startLocalServer } from '../../server/local.ts';
import type { LocalProxy } from '../../server/local-services.ts';
import { metricsContentType } from '../../server/metrics.ts';
import { startServer } from '../../server/server.ts';
import { startVolumes } from '../../volumes/worker.ts';
import { localSocket } from '../local/paths.ts';
import { startServingCertificate } from '../node-identity.ts';
import { openCluster, userAgent } from './cluster.ts';
import { openNodeDevices } from './devices.ts';
import { downwardValue } from './downward.ts';
import { openEndings } from './endings.ts';
import { pressureOf, shownPressure, startNodeEviction } from './eviction.ts';
import { startGivingMemoryBack } from './idle-memory.ts';
import { createNodeImages } from './images.ts';
import { createLastWords } from './last-words.ts';
import { accountsSwap, cgroupDriverOf, cgroupV1Message, checkMachine, runtimeNameOf, tmpfsRefusesSwap } from './machine.ts';
import { createNodeMetrics } from './metrics.ts';
import { startNetworkRules } from './network-rules.ts';
import { noProxy, startNodeProxy } from './node-proxy.ts';
import { createNodeView } from './node-view.ts';
import { openNodeOom } from './oom.ts';
import { createPodApply } from './pod-apply.ts';
import { createPodObjects } from './pod-objects.ts';
import { watchReadyTimes } from './ready-times.ts';
import { openResolvConf } from './resolv-conf.ts';
import { createResourcePage } from './resource-metrics.ts';
import { serverSettings } from './settings.ts';
import { startStaticSources } from './static-sources.ts';
import { createSummaryPage, openNodeStats } from './stats.ts';
import { openUserNamespaces } from './user-namespaces.ts';
import { checkWatchdog, runWatchdog } from './watchdog.ts';

const clock = systemClock;
// Between complete looks at the runtime: the audit beside its event stream, and the only look without one (kubelet's relist periods are 300 s and 1 s;
// ours finds a lost event sooner).
const auditIntervalMs = 10_000;
const relistIntervalMs = 1_000;
// How long the word that the start has failed may hold up the end.
const setupEventMs = 5_000;

/**
 * Runs the node until the signal aborts: opens the neighbours, starts the rooms and hands each what it needs of the others. This function is the wiring
 * diagram. `proxy` undefined leaves Services to somebody else. Containers run on when it returns. Throws AgentError for what keeps the node from starting at all.
 */
export async function runNode(config: Config, proxy: ProxySettings | undefined, log: Log, outer: AbortSignal): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const setup: Setup = { clusterStack: stack, failed: undefined };
  try {
    await runParts(config, proxy, log, outer, setup);
  } catch (error) {
    await setup.failed?.(error);
    throw error;
  }
}

/** What outlives the parts of a node whose start has failed, so that the failure can be told. */
interface Setup {
  readonly clusterStack: AsyncDisposableStack;
  /** Set while the node starts. Never throws. */
  failed: ((error: unknown) => Promise<void>) | undefined;
}

async function runParts(given: Config, proxy: ProxySettings | undefined, log: Log, outer: AbortSignal, setup: Setup): Promise<void> {
  // Pods' mounts are found by their paths, and the kernel tells those without symbolic links. The folder of logs keeps its name: log collectors see it by that.
  const config: Config = { ...given, rootDir: await makeRealFolder(given.rootDir, 0o750) };
  const kc = config.kubelet;
  const nodeName = nodeNameOf(config, hostName());
  await using stack = new AsyncDisposableStack();
  const controller = new AbortController();
  const onOuter = (): void => controller.abort(outer.reason);
  outer.addEventListener('abort', onOuter, { once: true });
  stack.defer(() => {
    outer.removeEventListener('abort', onOuter);
    controller.abort(new AgentError('Closed', 'the agent is stopping'));
  });
  const { signal } = controller;

  await mkdir(kc.podLogsDir, { recursive: true, mode: 0o755 });
  const metrics = createNodeMetrics(nodeName, kubernetesVersion, clock);
  const plainCri = stack.use(
    connectCri({
      endpoint: kc.containerRuntimeEndpoint,
      imageEndpoint: kc.imageServiceEndpoint || undefined,
      clock,
      log,
      requestTimeoutMs: kc.runtimeRequestTimeout,
    }),
  );
  const cri = metrics.instrument(plainCri);
  const [plainCgroups, machine, appArmor, cgroupDriver, runtimeName] = await Promise.all([
    openCgroups(clock),
    readMachine(config.rootDir),
    hasAppArmor(),
    cgroupDriverOf(cri, kc.cgroupDriver, log, signal),
    runtimeNameOf(cri, log, signal),
  ]);
  // Where systemd owns the hierarchy it has to know the slices, or it sets their limits as it thinks fit.
  const cgroups = cgroupDriver === 'systemd' ? systemdCgroups(plainCgroups) : plainCgroups;
  const cgroupPolicy = {
    cpuCfsQuota: kc.cpuCFSQuota,
    cpuCfsQuotaPeriodUs: kc.cpuCFSQuotaPeriod * 1000,
    podPidsLimit: kc.podPidsLimit,
    hugePageSizes: cgroups.hugePageSizes,
  };
  const traits = { cgroupVersion: cgroups.version, swapBytes: machine.swapBytes, hasSystemBus: existsSync('/run/dbus/system_bus_socket') };
  for (const warning of checkMachine(config, traits)) log.warn({}, warning);
  const notify = openNotify(process.env);
  const watchdogTimeoutMs = watchdogMs(process.env, process.pid);
  checkWatchdog(watchdogTimeoutMs);
  // A cgroup of its own, so that what the agent takes is counted and bounded apart; cgroupfs with either driver, as upstream.
  if (kc.kubeletCgroups !== '') await plainCgroups.adopt(kc.kubeletCgroups, process.pid, signal);
  // To go below what it was given takes CAP_SYS_RESOURCE. Without it the agent runs on, as upstream's does.
  await writeFile('/proc/self/oom_score_adj', String(kc.oomScoreAdj)).catch((error: unknown) =>
    log.warn({ oomScoreAdj: kc.oomScoreAdj, err: messageOf(error) }, 'the agent stays as likely to be killed for want of memory as it was'),
  );
  try {
    setOpenFilesLimit(kc.maxOpenFiles);
  } catch (error) {
    log.warn({ maxOpenFiles: kc.maxOpenFiles, err: messageOf(error) }, 'the agent keeps the limit of open files that it was started with');
  }
  const mounts = openMounts();

  const cluster = config.kubeconfig === undefined ? undefined : await openCluster(config, nodeName, setup.clusterStack, log, signal);
  const nodeRef = { kind: 'Node', name: nodeName, uid: nodeName };
  const trail = createEventTrail(clock);
  const recordEvent = (
    pod: AgentPod,
    type: 'Normal' | 'Warning',
    reason: string,
    message: string,
    fieldPath?: string,
    annotations?: Readonly<Record<string, string>>,
  ): void => {
    log.info({ pod: `${pod.metadata.namespace}/${pod.metadata.name}`, type, reason, fieldPath, detail: message }, 'event');
    trail.record(pod.metadata.uid, type, reason, message);
    if (reason === 'Started') metrics.started(fieldPath);
    cluster?.recorder.event(pod, type, reason, message, fieldPath, annotations);
  };
  const nodeEvent = (type: 'Normal' | 'Warning', reason: string, message: string): void => {
    log.info({ node: nodeName, type, reason, detail: message }, 'event');
    cluster?.recorder.event(nodeRef, type, reason, message);
  };
  setup.failed = async (error) => {
    if (outer.aborted || cluster === undefined) return;
    nodeEvent('Warning', 'KubeletSetupFailed', messageOf(error));
    using deadline = clock.deadline(outer, setupEventMs);
    await cluster.recorder
      .flush(deadline.signal)
      .catch((cause: unknown) => log.debug({ err: messageOf(cause) }, 'nobody has heard that the start failed'));
  };

  if (cgroups.version === 1) nodeEvent('Warning', 'CgroupV1', cgroupV1Message);
  if (machine.swapBytes > 0 && !(await tmpfsRefusesSwap(mounts, config.rootDir, signal))) {
    nodeEvent(
      'Warning',
      'PossibleMemoryBackedVolumesOnDisk',
      'The tmpfs noswap option is not supported. Memory-backed volumes (e.g. secrets, emptyDirs, etc.) might be swapped to disk and should no longer be considered secure.',
    );
  }

  const manifests = stack.use(await openJournal<ManifestMemory>(join(config.rootDir, 'keelson', 'manifests'), clock, log));
  const staticSources = stack.use(startStaticSources(config, { nodeName, clock, log, manifests, recordEvent }, signal));
  const sources: ReadonlyTable<PodSpecRow>[] = [...(cluster === undefined ? [] : [cluster.pods]), ...staticSources.tables];
  const specs = stack.use(mergeSources(sources)).table;

  // The runtime: seen before anything is decided.
  const runtime = new Table<RuntimePod>('runtime');
  const tree = kc.cgroupsPerQOS ? cgroupTree(cgroupDriver, kc.cgroupRoot) : undefined;
  const oom = stack.use(
    await openNodeOom({
      rootDir: config.rootDir,
      bootId: machine.bootId,
      tree,
      log,
      runtime,
      childKilled: ({ uid }, container, message) => {
        const pod = specs.get(uid)?.pod;
        if (pod !== undefined) recordEvent(pod, 'Warning', 'OOMKilling', message, fieldPathOf(pod, container.name));
      },
      systemOom: (message) => nodeEvent('Warning', 'SystemOOM', message),
    }),
  );
  const { judge: judgeEnd } = oom;
  const runtimeWatch = stack.use(
    watchRuntime({
      cri,
      clock,
      log,
      table: runtime,
      signal,
      auditIntervalMs,
      relistIntervalMs,
      relisted: metrics.relisted,
      judgeEnd,
      lastWords: createLastWords(config.rootDir, mounts),
      unseen: (uid, error) => {
        const pod = specs.get(uid)?.pod;
        if (pod !== undefined) recordEvent(pod, 'Warning', 'FailedSync', statusFailure(error));
      },
    }),
  );

  // Plugins come as soon as their socket is there, before the first pod does, and before there is anybody to tell.
  let deviceNews: { amounts(): void; health(uid: string): void } | undefined;
  const { devices } = stack.use(
    await openNodeDevices({
      // By its given name: plugins know it by that, and a socket's path holds 107 bytes.
      rootDir: given.rootDir,
      clock,
      log,
      signal,
      amountsChanged: () => deviceNews?.amounts(),
      healthChanged: (uid) => deviceNews?.health(uid),
      observe: metrics.devices,
    }),
  );

  // Declared so that the scheduler places pods that need them here (KEP-5328): only what this agent really does.
  const nodeConfig = nodeSettings(config, {
    hostname: hostName(),
    architecture: machine.architecture,
    port: kc.port,
    features: [
      'InPlacePodLevelResourcesVerticalScaling',
      'InPlacePodVerticalScalingInitContainers',
      'RestartAllContainersOnContainerExits',
    ],
    resetExtendedResources: !devices.hadCheckpoint,
  });
  // What may run here, with what it was given: what every planner goes by.
  const admitted = new Table<PodSpecRow>('admitted');
  const reserved = effectiveReservations(nodeConfig);
  const resources = stack.use(
    startResources({
      cgroups,
      config: {
        cgroupDriver,
        cgroupRoot: kc.cgroupRoot,
        cgroupsPerQos: kc.cgroupsPerQOS,
        cpuCfsQuota: kc.cpuCFSQuota,
        cpuCfsQuotaPeriodUs: kc.cpuCFSQuotaPeriod * 1000,
        podPidsLimit: kc.podPidsLimit,
        enforceNodeAllocatable: kc.enforceNodeAllocatable,
        systemReserved: reserved.system,
        kubeReserved: reserved.kube,
        systemReservedCgroup: kc.systemReservedCgroup,
        kubeReservedCgroup: kc.kubeReservedCgroup,
        qosReservedMemoryPercent: Number.parseInt(kc.qosReserved.memory ?? '0', 10),
      },
      clock,
      log,
      signal,
      admitted,
      capacity: () => cgroupCapacity(machine, nodeConfig),
      event: nodeEvent,
    }),
  );
  await resources.ensureTree(signal);
  const stats = await openNodeStats({ config, nodeName, machine, clock, log, cri, tree, admitted, runtime });

  // The node itself.
  let runtimeStatus: StatusResponse | undefined;
  // Until eviction has started, the Node goes on showing the pressure that it shows.
  let eviction: Eviction | undefined;
  const pressure = (): readonly Condition[] => eviction?.conditions() ?? shownPressure(node.node());
  const node = stack.use(
    startNode({
      client: cluster?.client,
      watched: cluster?.nodes,
      config: () => nodeConfig,
      clock,
      log,
      signal,
      machine: () => readMachine(config.rootDir),
      network: readNetwork,
      resolve: resolveHost,
      runtime: async (s) => {
        const [version, status] = await Promise.all([cri.version({}, s), cri.status({ verbose: false }, s)]);
        runtimeStatus = status;
        return { name: version.runtime_name ?? '', version: version.runtime_version ?? '', status };
      },
      listImages: async (s) => (await cri.listImages({}, s)).images ?? [],
      updatePodCidr: async (cidrs, s) =>
        void (await cri.updateRuntimeConfig({ runtime_config: { network_config: { pod_cidr: cidrs } } }, s)),
      event: ({ type, reason, message }) => nodeEvent(type, reason, message),
      pressure: () => pressureOf(pressure()),
      devices: devices.amounts,
      problems: () => relistProblems(runtimeWatch.lastRelist),
    }),
  );
  await node.known;
  const hostIps = (): string[] => hostIPs(node.node()?.status?.addresses);
  const networkProblem = (): string | undefined => {
    if (runtimeStatus === undefined) return 'network is not ready: container runtime status check may not have completed yet';
    const condition = runtimeStatus.status?.conditions?.find((c) => c.type === 'NetworkReady');
    if (condition === undefined || condition.status === true) return undefined;
    return `network is not ready: container runtime network not ready: NetworkReady=false reason:${condition.reason ?? ''} message:${condition.message ?? ''}`;
  };

  // What pods refer to.
  const configMaps = cluster && stack.use(createObjects({ client: cluster.client, clock, log, signal, resource: 'configmaps' }));
  const secrets = cluster && stack.use(createObjects({ client: cluster.client, clock, log, signal, resource: 'secrets' }));
  const podObjects = configMaps && secrets && createPodObjects(configMaps, secrets);
  const requestToken = async (namespace: string, name: string, request: TokenRequest, s: AbortSignal): Promise<TokenRequest> => {
    if (cluster === undefined) throw new AgentError('Unavailable', 'service account tokens need an API server');
    return await cluster.client.create<TokenRequest>(pathOf('v1', 'serviceaccounts', namespace, name, 'token'), request, s);
  };
  const images = await createNodeImages({
    cri,
    clock,
    log,
    config,
    recordEvent,
    tookPull: metrics.pulled,
    client: cluster?.client,
    requestToken,
  });
  const volumes = stack.use(
    startVolumes({
      rootDir: config.rootDir,
      mounts,
      disk: volumeDisk,
      removeVolumes: (podDir, own, s) => removeVolumes(podDir, own, { mounts, clock }, s),
      clock,
      log,
      signal,
      objects: configMaps &&
        secrets && {
          configMaps,
          secrets,
          requestToken: (namespace, name, spec, s) => requestToken(namespace, name, { spec }, s),
        },
      downward: (pod, file) => downwardValue(pod, file, node.node()?.status?.allocatable ?? {}),
      allocatableMemory: () => {
        const memory = node.node()?.status?.allocatable?.memory;
        return memory === undefined ? undefined : parseQuantity(memory);
      },
      podMemoryLimit: (pod) => podCgroupValues(pod, cgroupPolicy).memoryLimitBytes,
      recordEvent,
      random: Math.random,
    }),
  );

  // Pods.
  const { table: endings } = stack.use(await openEndings(join(config.rootDir, 'keelson', 'endings'), clock, log, specs, runtime));
  const statusJournal = stack.use(await openJournal<PodStatus>(join(config.rootDir, 'keelson', 'statuses'), clock, log));
  const verdictJournal = stack.use(await openJournal<ProbeVerdicts>(join(config.rootDir, 'keelson', 'verdicts'), clock, log));
  const policy: ContainerPolicy = {
    ...cgroupPolicy,
    cgroupVersion: cgroups.version,
    memoryCapacityBytes: machine.memoryBytes,
    swapCapacityBytes: machine.swapBytes,
    swapController: await accountsSwap(cgroups),
    swapBehavior: kc.memorySwap.swapBehavior,
    singleProcessOomKill: kc.singleProcessOOMKill ?? cgroups.version === 1,
  };
  const resolvConf = await openResolvConf(kc.resolvConf, kc.clusterDomain, nodeEvent);
  const dns = async (): Promise<DnsSettings> => ({
    resolvConf: await resolvConf(),
    clusterDNS: kc.clusterDNS,
    clusterDomain: kc.clusterDomain,
    nodeIPs: hostIps(),
  });
  const featuresOf = (handler: string) => runtimeStatus?.runtime_handlers?.find((h) => (h.name ?? '') === handler)?.features;
  const recursiveReadOnly = (handler: string): boolean => featuresOf(handler)?.recursive_read_only_mounts === true;
  const userNamespaces = await openUserNamespaces({
    podsDir: join(config.rootDir, 'pods'),
    idsPerPod: kc.userNamespaces?.idsPerPod ?? 65_536,
    maxPods: kc.maxPods,
    supported: (handler) => featuresOf(handler)?.user_namespaces === true,
    log,
  });
  const apply = createPodApply({
    cri,
    runtime,
    clock,
    log,
    recordEvent,
    count: metrics.occurred,
    nodeEvent,
    rootDir: config.rootDir,
    podLogsDir: kc.podLogsDir,
    nodeName,
    hostIps,
    dns,
    clusterDomain: kc.clusterDomain,
    allocatable: () => node.node()?.status?.allocatable ?? {},
    cgroupTree: tree,
    policy: () => policy,
    security: {
      seccompRoot: join(config.rootDir, 'seccomp'),
      seccompDefault: kc.seccompDefault,
      thermalThrottles: await thermalThrottles(),
    },
    resources,
    volumes,
    images,
    mounts,
    objects: podObjects,
    recursiveReadOnly,
    userNamespaces,
    devices,
    stopSignals: isEnabled(config, 'ContainerStopSignals'),
    services: cluster?.services,
    runtimeClasses: cluster?.runtimeClasses,
  });
  const { verdicts } = stack.use(
    startProbes({
      clock,
      log,
      signal,
      pods: specs,
      runtime,
      endings,
      hostIp: () => hostIps()[0],
      execSync: (request, s) => cri.execSync(request, s),
      httpGet,
      expand: (target, command, s) => apply.expandProbe(target.pod, target.container, target.id, command, s),
      event: recordEvent,
      observe: metrics.probes.observe,
      journal: verdictJournal,
    }),
  );
  const podsOptions: PodsOptions = {
    clock,
    log,
    signal,
    specs,
    runtime,
    verdicts,
    endings,
    observe: (uid, s, what) => runtimeWatch.observe(uid, s, what),
    admitted,
    allocated: stack.use(await openPodResources(join(config.rootDir, 'allocated_pods_state'), clock, log)),
    actuated: stack.use(await openPodResources(join(config.rootDir, 'actuated_pods_state'), clock, log)),
    swaps: (pod, container) => maySwap(pod, container, policy),
    apply,
    devices: isEnabled(config, 'ResourceHealthStatus') ? devices : { ...devices, health: () => undefined },
    admit: (pod, active) => {
      const known = node.node();
      return (
        eviction?.rejects(pod) ??
        admitPod({
          pod,
          active,
          node: known && devices.withTaken(known),
          allowedUnsafeSysctls: kc.allowedUnsafeSysctls,
          kernelVersion: machine.kernelVersion,
          appArmor,
        })
      );
    },
    preempt: (uid, ending) => endings.set(uid, ending),
    refreshNode: cluster && ((s) => node.read(s)),
    networkProblem,
    hostIps,
    recursiveReadOnly,
    runtimeName,
    crashPolicy: {
      initialMs: Math.min(10_000, kc.crashLoopBackOff.maxContainerRestartPeriod ?? 10_000),
      maxMs: kc.crashLoopBackOff.maxContainerRestartPeriod ?? 300_000,
    },
    remembered: (uid) => statusJournal.get(uid),
    remember: (uid, status) => statusJournal.set(uid, status),
    forgotten: (uid) => {
      endings.delete(uid);
      images.forgetPod(uid);
      statusJournal.delete(uid);
      trail.forget(uid);
      mirrorWork?.gone(uid);
      metrics.forgetPod(uid);
    },
    nodeEvent,
    leftovers: async () => {
      // What runs is not known: what is left behind is not either.
      if (runtimeWatch.problem !== undefined) throw new AgentError('Unavailable', runtimeWatch.problem);
      // Of a pod that left while the agent was away nothing but its remembered status may be here.
      const remembered = [...statusJournal.entries()].map(([uid]) => uid);
      return leftovers([...volumes.listPodsOnDisk(), ...remembered], await resources.listPodCgroups(), await podLogFolders(kc.podLogsDir));
    },
  };
  let mirrorWork: Mirrors | undefined;
  const pods = stack.use(startPods(podsOptions));
  deviceNews = { amounts: node.refresh, health: pods.poke };
  node.refresh();
  const pruneDevices = (): void => {
    if (specs.synced && runtime.synced) devices.prune((uid) => specs.has(uid) || runtime.has(uid));
  };
  // Pulls that a crash has interrupted, as soon as the runtime answers.
  stack.use(
    runtime.onSynced(
      () =>
        void images.adoptInterruptedPulls(signal).catch((error: unknown) => {
          if (!signal.aborted) log.error({ err: messageOf(error) }, 'interrupted pulls could not be taken over');
        }),
    ),
  );
  stack.use(specs.onSynced(pruneDevices));
  stack.use(runtime.onSynced(pruneDevices));
  stack.use(metrics.watch({ specs, runtime, pods, mirrors: cluster?.mirrors }));
  const pressureWork = startNodeEviction({
    config,
    clock,
    log,
    signal,
    cri,
    stats,
    images,
    pods,
    specs,
    admitted,
    runtime,
    endings,
    registry: metrics.registry,
    podEvent: (pod, type, reason, message, annotations) => recordEvent(pod, type, reason, message, undefined, annotations),
    nodeEvent,
    node: node.node(),
    changed: () => node.refresh(),
  });
  eviction = stack.use(pressureWork.eviction);
  stack.use(pressureWork.collector);
  stack.use(
    startLogRotation({
      clock,
      log,
      signal,
      runtime,
      files: logFiles,
      reopen: (id, s) => cri.reopenContainerLog({ container_id: id }, s),
      maxSizeBytes: parseQuantity(kc.containerLogMaxSize),
      maxFiles: kc.containerLogMaxFiles,
      workers: kc.containerLogMaxWorkers,
      intervalMs: kc.containerLogMonitorInterval,
    }),
  );
  stack.use(volumes.onChange((uid) => pods.poke(uid)));
  stack.use(
    admitted.subscribe((uid) => {
      const row = admitted.get(uid);
      if (row === undefined) return;
      volumes.update(row.pod);
      if (pods.activity(uid) !== undefined) podObjects?.hold(row.pod);
    }),
  );
  if (podObjects !== undefined && configMaps !== undefined && secrets !== undefined) {
    const poke = (key: string): void => {
      for (const uid of podObjects.holders(key)) pods.poke(uid);
    };
    stack.use(configMaps.subscribe(poke));
    stack.use(secrets.subscribe(poke));
  }
  if (cluster !== undefined) {
    const { client, mirrors } = cluster;
    const deletePod = (pod: AgentPod, s: AbortSignal): Promise<unknown> =>
      client.delete(
        pathOf('v1', 'pods', pod.metadata.namespace, pod.metadata.name),
        { gracePeriodSeconds: 0, preconditions: { uid: pod.metadata.uid } },
        s,
      );
    mirrorWork = stack.use(
      startMirrors({
        clock,
        log,
        signal,
        nodeName,
        specs,
        mirrors,
        nodes: cluster.nodes,
        isHere: (uid) => pods.activity(uid) !== undefined,
        create: (pod, s) => client.create(pathOf('v1', 'pods', pod.metadata.namespace), pod, s),
        get: (namespace, name, s) => client.get<AgentPod>(pathOf('v1', 'pods', namespace, name), s),
        delete: deletePod,
        onReachable: client.onReachable,
      }),
    );
    stack.use(
      startStatusWriter({
        clock,
        log,
        signal,
        statuses: pods.statuses,
        mirrors,
        shown: metrics.statusShown,
        patchStatus: (pod, patch, s) =>
          client.patch<AgentPod>(
            pathOf('v1', 'pods', pod.metadata.namespace, pod.metadata.name, 'status'),
            patch,
            'application/strategic-merge-patch+json',
            s,
          ),
        deletePod: async (pod, s) => void (await deletePod(pod, s)),
      }),
    );
  }

  if (kc.makeIPTablesUtilChains) stack.use(startNetworkRules({ clock, log, signal }));
  const readyTimes = stack.use(watchReadyTimes(pods.statuses, clock.wall));
  let localProxy: LocalProxy = noProxy(cluster === undefined ? 'it runs without a cluster' : 'it was started with --no-proxy');
  if (cluster !== undefined && proxy !== undefined)
    localProxy = stack.use(
      await startNodeProxy({
        settings: proxy,
        kubeconfig: config.proxyKubeconfig,
        nodeName,
        client: cluster.client,
        nodes: cluster.nodes,
        specs,
        readyMs: readyTimes.of,
        statuses: pods.statuses,
        clock,
        log,
        signal,
      }),
    );

  const view = createNodeView(specs, pods.statuses, runtime);
  const local = await startLocalServer({
    socket: localSocket(),
    clock,
    log,
    nodeName,
    runtimeName,
    standalone: cluster === undefined,
    manifests: kc.staticPodPath || undefined,
    node: view,
    running: runtime,
    runtime: cri,
    readLog: (path, options, s) => readContainerLog(path, options, { clock, log }, s),
    activity: (uid) => pods.activity(uid) ?? pods.awaitsAdmission(uid),
    events: (uid) => trail.of(uid),
    problems: () => staticSources.problems(),
    passedOver: () => staticSources.passedOver(),
    pressure,
    proxy: localProxy,
    drain: () => staticSources.drain(),
  });
  if (local !== undefined) stack.use(local);

  const healthChecks: HealthCheck[] = [
    { name: 'ping', check: () => undefined },
    {
      name: 'syncloop',
      check: () => {
        const [problem] = relistProblems(runtimeWatch.lastRelist);
        return problem === undefined ? undefined : new Error(problem);
      },
    },
  ];
  // The server comes last: whoever asks finds the pods there.
  const serving = stack.use(
    await startServingCertificate(
      {
        clock,
        log,
        userAgent,
        certDir: config.certDir,
        nodeName,
        hostname: nodeName,
        addresses: () => node.node()?.status?.addresses ?? [],
        tlsCertFile: kc.tlsCertFile || undefined,
        tlsPrivateKeyFile: kc.tlsPrivateKeyFile || undefined,
        serverTLSBootstrap: kc.serverTLSBootstrap,
        allowDnsOnly: isEnabled(config, 'AllowDNSOnlyNodeCSR'),
        client: cluster?.client,
      },
      signal,
    ),
  );
  if (kc.enableServer) {
    stack.use(
      await startServer({
        clock,
        log,
        nodeName,
        settings: serverSettings(config),
        certificate: serving,
        node: view,
        runtime: cri,
        journalctl: kc.enableSystemLogQuery ? createRunJournalctl() : undefined,
        readLog: (path, options, s) => readContainerLog(path, options, { clock, log }, s),
        lookWithin,
        ...(cluster === undefined ? noReviews : createReviews(cluster.client)),
        configz: () => encodeKubeletConfiguration(kc),
        checks: healthChecks,
        metrics: metrics.registry,
        pages: {
          '/metrics/probes': async () => ({ contentType: metricsContentType, body: metrics.probePage.text() }),
          '/metrics/resource': createResourcePage({ log, summary: (s) => stats.summary(true, s) }),
          '/stats/summary': createSummaryPage(stats),
        },
      }),
    );
  }
  stack.use(startGivingMemoryBack(clock, log));
  setup.failed = undefined;
  log.info({ node: nodeName, runtime: runtimeName, standalone: cluster === undefined }, 'node agent started');
  const watchdog =
    notify === undefined || watchdogTimeoutMs === undefined
      ? undefined
      : runWatchdog({ clock, log, signal, timeoutMs: watchdogTimeoutMs, notify, checks: healthChecks });
  try {
    notify?.('READY=1');
  } catch (error) {
    // A socket that somebody's environment still names; a service manager that waits for us will say so itself.
    log.warn({ err: messageOf(error) }, 'cannot tell the service manager that we are ready');
  }
  // Node keeps compiled code at an orderly end only; a start after SIGKILL shall be a quick one too.
  flushCompileCache();
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
  await watchdog;
  log.info({}, 'node agent stops; containers run on');
}

/** What the relist's age says about the node, in kubelet's words. */
function relistProblems(lastRelist: number | undefined): string[] {
  // A relist older than this means that the runtime hangs (pkg/kubelet/pleg relistThreshold).
  const thresholdMs = 180_000;
  if (lastRelist === undefined) return ['PLEG is not healthy: pleg has yet to be successful'];
  const age = clock.mono() - lastRelist;
  if (age <= thresholdMs) return [];
  return [`PLEG is not healthy: pleg was last seen active ${Math.floor(age / 1000)}s ago; threshold is 3m0s`];
}
