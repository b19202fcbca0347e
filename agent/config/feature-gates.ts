import { AgentError } from '../base/errors.ts';
import { ownValue } from '../base/own.ts';

/** Where a gate stands in Kubernetes 1.36. */
export interface FeatureGate {
  readonly default: boolean;
  readonly stage: 'alpha' | 'beta' | 'ga' | 'deprecated';
  /** The value can no longer be changed. */
  readonly locked: boolean;
  /** True when a node agent's own code asks for it; the others concern the control plane, and a kubelet accepts them without looking. */
  readonly node: boolean;
}

// Facts read from Kubernetes 1.36.1 (pkg/features and the gates of apiserver, component-base, client-go):
// stage, default at 1.36, locked to it or not, asked for by a kubelet or not.
const facts = {
  APIResponseCompression: 'beta on',
  APIServerIdentity: 'beta on',
  APIServerTracing: 'ga on locked',
  APIServingWithRoutine: 'alpha off',
  AggregatedDiscoveryRemoveBetaType: 'deprecated on locked',
  AllowDNSOnlyNodeCSR: 'deprecated off node',
  AllowInsecureKubeletCertificateSigningRequests: 'deprecated off',
  AllowOverwriteTerminationGracePeriodSeconds: 'deprecated off locked',
  AllowParsingUserUIDFromCertAuth: 'beta on',
  AllowServiceExternalIPs: 'ga on',
  AllowUnsafeMalformedObjectDeletion: 'alpha off',
  AnonymousAuthConfigurableEndpoints: 'ga on locked',
  AnyVolumeDataSource: 'ga on locked',
  AtomicFIFO: 'beta on',
  AuthorizeNodeWithSelectors: 'ga on locked',
  AuthorizePodWebsocketUpgradeCreatePermission: 'beta on',
  AuthorizeWithSelectors: 'ga on locked',
  BtreeWatchCache: 'ga on locked',
  CBORServingAndStorage: 'alpha off',
  CPUManagerPolicyAlphaOptions: 'alpha off node',
  CPUManagerPolicyBetaOptions: 'beta on node',
  CPUManagerPolicyOptions: 'ga on locked',
  CRDObservedGenerationTracking: 'beta on',
  CRDValidationRatcheting: 'ga on locked',
  CRIListStreaming: 'alpha off node',
  CSIServiceAccountTokenSecrets: 'ga on locked',
  CSIVolumeHealth: 'alpha off node',
  ChangeContainerStatusOnKubeletRestart: 'deprecated off node',
  ClearingNominatedNodeNameAfterBinding: 'beta on',
  ClientsAllowCARotation: 'beta on',
  ClientsAllowCBOR: 'alpha off',
  ClientsAllowTLSCacheGC: 'beta on',
  ClientsPreferCBOR: 'alpha off',
  CloudControllerManagerWatchBasedRoutesReconciliation: 'alpha off',
  CloudControllerManagerWebhook: 'alpha off',
  ClusterTrustBundle: 'beta off',
  ClusterTrustBundleProjection: 'beta off node',
  ComponentFlagz: 'beta on node',
  ComponentStatusz: 'beta on node',
  ConcurrentWatchObjectDecode: 'beta off',
  ConsistentListFromCache: 'ga on locked',
  ConstrainedImpersonation: 'beta on',
  ContainerCheckpoint: 'beta on node',
  ContainerRestartRules: 'beta on node',
  ContainerStopSignals: 'alpha off node',
  ContextualLogging: 'beta on node',
  ControllerManagerReleaseLeaderElectionLockOnExit: 'alpha off',
  CoordinatedLeaderElection: 'beta off',
  CrossNamespaceVolumeDataSource: 'alpha off',
  CustomCPUCFSQuotaPeriod: 'alpha off node',
  CustomResourceFieldSelectors: 'ga on locked',
  DRAAdminAccess: 'ga on locked',
  DRAConsumableCapacity: 'beta on',
  DRADeviceBindingConditions: 'beta on',
  DRADeviceTaintRules: 'beta off',
  DRADeviceTaints: 'beta on',
  DRAExtendedResource: 'beta on node',
  DRAListTypeAttributes: 'alpha off',
  DRANodeAllocatableResources: 'alpha off',
  DRAPartitionableDevices: 'beta on',
  DRAPrioritizedList: 'ga on',
  DRAResourceClaimDeviceStatus: 'beta on',
  DRAResourceClaimGranularStatusAuthorization: 'beta on',
  DRAResourcePoolStatus: 'alpha off',
  DRASchedulerFilterTimeout: 'beta on',
  DRAWorkloadResourceClaims: 'alpha off node',
  DeclarativeValidation: 'ga on locked',
  DeclarativeValidationBeta: 'beta on',
  DeclarativeValidationTakeover: 'deprecated off',
  DeploymentReplicaSetTerminatingReplicas: 'beta on',
  DetectCacheInconsistency: 'beta on',
  DisableAllocatorDualWrite: 'ga on locked',
  DisableCPUQuotaWithExclusiveCPUs: 'deprecated on node',
  DisableNodeKubeProxyVersion: 'deprecated on locked node',
  DynamicResourceAllocation: 'ga on locked node',
  EnvFiles: 'beta on node',
  EventedPLEG: 'alpha off node',
  ExecProbeTimeout: 'ga on locked',
  ExtendWebSocketsToKubelet: 'beta on node',
  ExternalServiceAccountTokenSigner: 'ga on locked',
  GangScheduling: 'alpha off',
  GenericWorkload: 'alpha off',
  GitRepoVolumeDriver: 'deprecated off locked node',
  GracefulNodeShutdown: 'beta on node',
  GracefulNodeShutdownBasedOnPodPriority: 'beta on node',
  HPAConfigurableTolerance: 'beta on',
  HPAScaleToZero: 'alpha off',
  HostnameOverride: 'beta on node',
  ImageMaximumGCAge: 'ga on locked node',
  ImageVolume: 'ga on locked node',
  ImageVolumeWithDigest: 'alpha off node',
  InOrderInformers: 'ga on locked',
  InOrderInformersBatchProcess: 'beta on',
  InPlacePodLevelResourcesVerticalScaling: 'beta on node',
  InPlacePodVerticalScaling: 'ga on locked node',
  InPlacePodVerticalScalingExclusiveCPUs: 'alpha off node',
  InPlacePodVerticalScalingExclusiveMemory: 'alpha off node',
  InPlacePodVerticalScalingInitContainers: 'beta on node',
  InformerResourceVersion: 'ga on',
  JobBackoffLimitPerIndex: 'ga on locked',
  JobManagedBy: 'ga on locked',
  JobPodReplacementPolicy: 'ga on locked',
  JobSuccessPolicy: 'ga on locked',
  KMSv1: 'deprecated off',
  KubeletCgroupDriverFromCRI: 'ga on locked',
  KubeletCrashLoopBackOffMax: 'beta on node',
  KubeletEnsureSecretPulledImages: 'beta on node',
  KubeletFineGrainedAuthz: 'ga on locked node',
  KubeletInUserNamespace: 'alpha off node',
  KubeletPSI: 'ga on locked node',
  KubeletPodResourcesDynamicResources: 'ga on locked',
  KubeletPodResourcesGet: 'ga on locked node',
  KubeletPodResourcesListUseActivePods: 'deprecated on node',
  KubeletRegistrationGetOnExistsOnly: 'deprecated off node',
  KubeletSeparateDiskGC: 'beta on node',
  KubeletServiceAccountTokenForCredentialProviders: 'beta on node',
  KubeletTracing: 'ga on locked',
  ListFromCacheSnapshot: 'beta on',
  LocalStorageCapacityIsolationFSQuotaMonitoring: 'beta off node',
  LogarithmicScaleDown: 'ga on locked',
  LoggingAlphaOptions: 'alpha off node',
  LoggingBetaOptions: 'beta on node',
  ManifestBasedAdmissionControlConfig: 'alpha off',
  MatchLabelKeysInPodAffinity: 'ga on locked',
  MatchLabelKeysInPodTopologySpread: 'beta on',
  MatchLabelKeysInPodTopologySpreadSelectorMerge: 'beta on',
  MaxUnavailableStatefulSet: 'beta off',
  MemoryQoS: 'alpha off node',
  MultiCIDRServiceAllocator: 'ga on locked',
  MutableCSINodeAllocatableCount: 'ga on locked node',
  MutablePVNodeAffinity: 'alpha off',
  MutablePodResourcesForSuspendedJobs: 'beta on',
  MutableSchedulingDirectivesForSuspendedJobs: 'beta on',
  MutatingAdmissionPolicy: 'ga on',
  NFTablesProxyMode: 'ga on locked',
  NativeHistograms: 'alpha off',
  NodeDeclaredFeatures: 'beta on node',
  NodeInclusionPolicyInPodTopologySpread: 'ga on locked',
  NodeLogQuery: 'ga on locked node',
  NodeSwap: 'ga on locked node',
  NominatedNodeNameForExpectation: 'beta on',
  OpenAPIEnums: 'beta on',
  OpportunisticBatching: 'beta on',
  OrderedNamespaceDeletion: 'ga on locked',
  PLEGOnDemandRelist: 'beta on node',
  PersistentVolumeClaimUnusedSinceTime: 'alpha off',
  PodAndContainerStatsFromCRI: 'alpha off node',
  PodCertificateRequest: 'beta off node',
  PodDeletionCost: 'beta on',
  PodLevelResourceManagers: 'alpha off node',
  PodLevelResources: 'beta on node',
  PodLifecycleSleepAction: 'ga on locked node',
  PodLifecycleSleepActionAllowZero: 'ga on locked',
  PodLogsQuerySplitStreams: 'alpha off node',
  PodObservedGenerationTracking: 'ga on locked',
  PodReadyToStartContainersCondition: 'beta on node',
  PodSchedulingReadiness: 'ga on locked',
  PodTopologyLabelsAdmission: 'beta on',
  PodsAPI: 'alpha off node',
  PortForwardWebsockets: 'beta on',
  PreferSameTrafficDistribution: 'ga on locked',
  PreventStaticPodAPIReferences: 'beta on node',
  ProcMountType: 'ga on locked',
  QOSReserved: 'alpha off node',
  RecoverVolumeExpansionFailure: 'ga on locked node',
  RecursiveReadOnlyMounts: 'ga on locked node',
  ReduceDefaultCrashLoopBackOffDecay: 'alpha off node',
  RelaxedDNSSearchValidation: 'ga on locked',
  RelaxedEnvironmentVariableValidation: 'ga on locked',
  RelaxedServiceNameValidation: 'beta on',
  ReloadKubeletClientCAFile: 'beta on node',
  ReloadKubeletServerCertificateFile: 'beta on node',
  RemoteRequestHeaderUID: 'beta on',
  ResilientWatchCacheInitialization: 'ga on locked',
  ResourceHealthStatus: 'beta on node',
  ResourceHealthStatusMessage: 'beta on node',
  RestartAllContainersOnContainerExits: 'beta on node',
  RetryGenerateName: 'ga on locked',
  RotateKubeletServerCertificate: 'beta on node',
  RuntimeClassInImageCriApi: 'alpha off node',
  SELinuxChangePolicy: 'ga on locked node',
  SELinuxMount: 'beta off node',
  SELinuxMountReadWriteOncePod: 'ga on locked node',
  SchedulerAsyncAPICalls: 'beta off',
  SchedulerAsyncPreemption: 'beta on',
  SchedulerPopFromBackoffQ: 'beta on',
  SchedulerQueueingHints: 'ga on locked',
  SeparateCacheWatchRPC: 'deprecated off locked',
  SeparateTaintEvictionController: 'ga on locked',
  ServiceAccountNodeAudienceRestriction: 'beta on',
  ServiceAccountTokenJTI: 'ga on locked',
  ServiceAccountTokenNodeBinding: 'ga on locked',
  ServiceAccountTokenNodeBindingValidation: 'ga on locked',
  ServiceAccountTokenPodNodeInfo: 'ga on locked',
  ServiceCIDRStatusFieldWiping: 'deprecated on',
  ShardedListAndWatch: 'alpha off',
  SidecarContainers: 'ga on locked',
  SizeBasedListCostEstimate: 'beta on',
  StaleControllerConsistencyDaemonSet: 'beta on',
  StaleControllerConsistencyJob: 'beta on',
  StaleControllerConsistencyReplicaSet: 'beta on',
  StaleControllerConsistencyStatefulSet: 'beta on',
  StorageCapacityScoring: 'alpha off',
  StorageNamespaceIndex: 'deprecated on',
  StorageVersionAPI: 'alpha off',
  StorageVersionHash: 'beta on',
  StorageVersionMigrator: 'beta off',
  StreamingCollectionEncodingToJSON: 'ga on locked',
  StreamingCollectionEncodingToProtobuf: 'ga on locked',
  StrictIPCIDRValidation: 'beta on',
  StructuredAuthenticationConfiguration: 'ga on locked',
  StructuredAuthenticationConfigurationEgressSelector: 'beta on',
  StructuredAuthenticationConfigurationJWKSMetrics: 'beta on',
  SupplementalGroupsPolicy: 'ga on locked node',
  SystemdWatchdog: 'ga on locked node',
  TaintTolerationComparisonOperators: 'alpha off node',
  TokenRequestServiceAccountUIDValidation: 'beta on',
  TopologyAwareWorkloadScheduling: 'alpha off',
  TopologyManagerPolicyAlphaOptions: 'alpha off node',
  TopologyManagerPolicyBetaOptions: 'beta on node',
  TopologyManagerPolicyOptions: 'ga on locked node',
  TranslateStreamCloseWebsocketRequests: 'beta on',
  UnauthenticatedHTTP2DOSMitigation: 'beta on',
  UnknownVersionInteroperabilityProxy: 'beta on',
  UnlockWhileProcessingFIFO: 'beta on',
  UserNamespacesHostNetworkSupport: 'alpha off',
  UserNamespacesSupport: 'ga on locked node',
  VolumeAttributesClass: 'ga on locked',
  VolumeLimitScaling: 'alpha off',
  WatchCacheInitializationPostStartHook: 'beta on',
  WatchList: 'beta on',
  WatchListClient: 'beta on',
  WinDSR: 'ga on locked',
  WinOverlay: 'ga on locked',
  WindowsCPUAndMemoryAffinity: 'alpha off node',
  WindowsGracefulNodeShutdown: 'beta on node',
  WindowsHostNetwork: 'deprecated off',
  WorkloadAwarePreemption: 'alpha off',
  WorkloadWithJob: 'alpha off',
} as const satisfies Record<string, string>;

export type FeatureGateName = keyof typeof facts;

// Gates that are read here as well, so that both values mean something; any other gate of a node agent is fixed to what keelson does.
const honoured: ReadonlySet<string> = new Set<FeatureGateName>([
  'ContainerStopSignals',
  'CustomCPUCFSQuotaPeriod',
  'KubeletCrashLoopBackOffMax',
  'KubeletEnsureSecretPulledImages',
  'NodeDeclaredFeatures',
  'ResourceHealthStatus',
  'RotateKubeletServerCertificate',
]);

/** What Kubernetes 1.36 says about a gate; undefined for a name it doesn't know. */
function featureGate(name: string): FeatureGate | undefined {
  const text = Object.hasOwn(facts, name) ? facts[name as FeatureGateName] : undefined;
  if (text === undefined) return undefined;
  const words = text.split(' ');
  return {
    default: words.includes('on'),
    stage: words[0] as FeatureGate['stage'],
    locked: words.includes('locked'),
    node: words.includes('node'),
  };
}

/** The gates that a node agent's own code asks for: those that docs/compatibility.md tells of. */
export function nodeFeatureGates(): string[] {
  return Object.keys(facts).filter((name) => featureGate(name)?.node === true);
}

/** True when the gate is on under these settings. */
export function gateEnabled(gates: Readonly<Record<string, boolean>>, name: FeatureGateName): boolean {
  const set = Object.hasOwn(gates, name) ? gates[name] : undefined;
  if (set !== undefined) return set;
  const gate = featureGate(name);
  if (gate === undefined) throw new AgentError('Internal', `no feature gate ${name}`);
  if (gate.stage === 'alpha' && !gate.locked && gates.AllAlpha !== undefined) return gates.AllAlpha;
  if (gate.stage === 'beta' && !gate.locked && gates.AllBeta !== undefined) return gates.AllBeta;
  return gate.default;
}

/** What is wrong with these settings, one message a gate: unknown, locked to the other value, or a value that keelson can't give yet. */
export function checkFeatureGates(gates: Readonly<Record<string, boolean>>): string[] {
  const problems: string[] = [];
  for (const [name, value] of Object.entries(gates)) {
    if (name === 'AllAlpha' || name === 'AllBeta') {
      const stage = name === 'AllAlpha' ? 'alpha' : 'beta';
      const fixed = Object.keys(facts).filter((key) => {
        const gate = featureGate(key);
        return (
          gate?.stage === stage &&
          gate.node &&
          !gate.locked &&
          gate.default !== value &&
          ownValue(gates, key) === undefined &&
          !honoured.has(key)
        );
      });
      if (fixed.length > 0) problems.push(`feature gate ${name}=${value} is not supported yet: it would change ${fixed.join(', ')}`);
      continue;
    }
    const gate = featureGate(name);
    if (gate === undefined) problems.push(`unrecognized feature gate: ${name}`);
    else if (gate.locked && gate.default !== value)
      problems.push(`cannot set feature gate ${name} to ${value}, feature is locked to ${gate.default}`);
    else if (gate.node && gate.default !== value && !honoured.has(name))
      problems.push(`feature gate ${name}=${value} is not supported yet: keelson behaves as with ${name}=${gate.default}`);
  }
  return problems;
}
