import type { NodeConfig } from '../node/worker.ts';
import type { Config } from './config.ts';
import { isEnabled } from './config.ts';
import { parseCpuSet } from './kubelet-configuration.ts';

/** What the node room needs besides the configuration. */
export interface NodeFacts {
  /** The machine's own host name, trimmed and in lower case. */
  readonly hostname: string;
  /** As Go names it. */
  readonly architecture: string;
  /** The port that the node's server really listens on. */
  readonly port: number;
  /** Declared features (KEP-5328) that this agent has. */
  readonly features: readonly string[];
  readonly resetExtendedResources: boolean;
}

/** The node's name: what --hostname-override says, else the host name, in lower case. */
export function nodeNameOf(config: Config, hostname: string): string {
  return (config.hostnameOverride ?? hostname).trim().toLowerCase();
}

/** The node room's view of the configuration. */
export function nodeSettings(config: Config, facts: NodeFacts): NodeConfig {
  const { kubelet } = config;
  const name = nodeNameOf(config, facts.hostname);
  return {
    nodeName: name,
    hostname: name,
    architecture: facts.architecture,
    nodeLabels: config.nodeLabels,
    registerWithTaints: [...kubelet.registerWithTaints],
    providerID: kubelet.providerID,
    nodeIPs: config.nodeIPs,
    cloudProviderExternal: config.cloudProviderExternal,
    enableControllerAttachDetach: kubelet.enableControllerAttachDetach,
    registerNode: kubelet.registerNode,
    nodeStatusUpdateFrequencyMs: kubelet.nodeStatusUpdateFrequency,
    nodeStatusReportFrequencyMs: kubelet.nodeStatusReportFrequency,
    nodeLeaseDurationSeconds: kubelet.nodeLeaseDurationSeconds,
    nodeStatusMaxImages: kubelet.nodeStatusMaxImages,
    port: facts.port,
    podCidr: kubelet.podCIDR,
    declaredFeatures: isEnabled(config, 'NodeDeclaredFeatures') ? facts.features : undefined,
    resetExtendedResources: facts.resetExtendedResources,
    maxPods: kubelet.maxPods,
    podsPerCore: kubelet.podsPerCore,
    systemReserved: kubelet.systemReserved,
    kubeReserved: kubelet.kubeReserved,
    reservedCpuCount: kubelet.reservedSystemCPUs === '' ? 0 : (parseCpuSet(kubelet.reservedSystemCPUs)?.size ?? 0),
    evictionHard: kubelet.evictionHard,
    allocatableIgnoresEviction: config.allocatableIgnoresEviction,
    localStorageCapacityIsolation: kubelet.localStorageCapacityIsolation,
  };
}
