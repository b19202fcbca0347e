import type { MachineFacts, NetworkFacts } from '../../../agent/drivers/proc/machine.ts';
import type { NodeConfig } from '../../../agent/node/worker.ts';
import type { StatusResponse } from '../../../cri-protos/generated/cri.ts';

export const machine: MachineFacts = {
  cpus: 2,
  memoryBytes: 24684096 * 1024,
  swapBytes: 0,
  hugePages: [
    { pageBytes: 2 * 1024 * 1024, totalBytes: 0 },
    { pageBytes: 1024 * 1024 * 1024, totalBytes: 0 },
  ],
  maxPids: 32768,
  storageBytes: 102624184 * 1024,
  machineId: 'm1',
  systemUuid: 'u1',
  bootId: 'b1',
  kernelVersion: '6.1.0',
  osImage: 'Debian GNU/Linux 12 (bookworm)',
  architecture: 'amd64',
  bootTime: 0,
};

export const network: NetworkFacts = {
  addresses: [
    { interface: 'lo', address: '127.0.0.1', family: 4 },
    { interface: 'lo', address: '::1', family: 6 },
    { interface: 'eth0', address: '172.30.0.2', family: 4 },
    { interface: 'eth0', address: 'fd00:30::2', family: 6 },
    { interface: 'eth0', address: 'fe80::1', family: 6 },
    { interface: 'eth1', address: '10.9.0.1', family: 4 },
  ],
  defaultRoutes: [
    { family: 4, interface: 'eth0' },
    { family: 6, interface: 'eth0' },
  ],
};

export const config: NodeConfig = {
  nodeName: 'n1',
  hostname: 'n1',
  architecture: 'amd64',
  nodeLabels: {},
  registerWithTaints: [],
  providerID: '',
  nodeIPs: [],
  cloudProviderExternal: false,
  enableControllerAttachDetach: true,
  registerNode: true,
  nodeStatusUpdateFrequencyMs: 10_000,
  nodeStatusReportFrequencyMs: 300_000,
  nodeLeaseDurationSeconds: 40,
  nodeStatusMaxImages: 50,
  port: 10250,
  podCidr: '',
  declaredFeatures: [],
  resetExtendedResources: true,
  maxPods: 110,
  podsPerCore: 0,
  systemReserved: {},
  kubeReserved: {},
  reservedCpuCount: 0,
  evictionHard: { 'memory.available': '100Mi', 'nodefs.available': '10%', 'nodefs.inodesFree': '5%', 'imagefs.available': '15%' },
  allocatableIgnoresEviction: false,
  localStorageCapacityIsolation: true,
};

/** A runtime's answer about itself; a condition that is not true has a reason and message. */
export function runtimeStatus(runtimeReady = true, networkReady = true): StatusResponse {
  return {
    status: {
      conditions: [
        { type: 'RuntimeReady', status: runtimeReady, reason: runtimeReady ? '' : 'Busy', message: runtimeReady ? '' : 'starting' },
        {
          type: 'NetworkReady',
          status: networkReady,
          reason: networkReady ? '' : 'NetworkPluginNotReady',
          message: networkReady ? '' : 'Network plugin returns error: cni plugin not initialized',
        },
      ],
    },
    runtime_handlers: [
      { name: 'runc', features: { recursive_read_only_mounts: true, user_namespaces: true } },
      { name: '', features: { recursive_read_only_mounts: true, user_namespaces: true } },
    ],
    features: { supplemental_groups_policy: true },
  };
}
