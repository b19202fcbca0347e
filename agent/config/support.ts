import type { KubeletConfiguration, KubeletField } from './kubelet-configuration.ts';

interface Limit {
  readonly field: KubeletField;
  /** True when the configuration asks for what keelson can't do yet. */
  readonly asks: (kc: KubeletConfiguration) => boolean;
  readonly why: string;
}

const filled = (map: object): boolean => Object.keys(map).length > 0;

// Valid settings that would be silently ignored: each is an error instead, until what it asks for is there. Take a line out with the deed.
const notYet: readonly Limit[] = [
  { field: 'cpuManagerPolicy', asks: (kc) => kc.cpuManagerPolicy !== 'none', why: 'exclusive CPUs are not supported yet' },
  { field: 'cpuManagerPolicyOptions', asks: (kc) => filled(kc.cpuManagerPolicyOptions), why: 'exclusive CPUs are not supported yet' },
  { field: 'memoryManagerPolicy', asks: (kc) => kc.memoryManagerPolicy !== 'None', why: 'NUMA memory is not managed yet' },
  { field: 'reservedMemory', asks: (kc) => kc.reservedMemory.length > 0, why: 'NUMA memory is not managed yet' },
  { field: 'topologyManagerPolicy', asks: (kc) => kc.topologyManagerPolicy !== 'none', why: 'resources are not aligned by NUMA node yet' },
  {
    field: 'topologyManagerPolicyOptions',
    asks: (kc) => filled(kc.topologyManagerPolicyOptions),
    why: 'resources are not aligned by NUMA node yet',
  },
  { field: 'qosReserved', asks: (kc) => filled(kc.qosReserved), why: 'memory is not reserved by QoS class' },
  { field: 'tracing', asks: (kc) => kc.tracing !== undefined, why: 'no traces are exported yet' },
  { field: 'memoryReservationPolicy', asks: (kc) => kc.memoryReservationPolicy !== 'None', why: 'memory is not protected by request yet' },
  { field: 'protectKernelDefaults', asks: (kc) => kc.protectKernelDefaults, why: 'kernel tunables are set, not only checked' },
  { field: 'systemCgroups', asks: (kc) => kc.systemCgroups !== '', why: 'processes of the system are not moved' },
  {
    field: 'enableControllerAttachDetach',
    asks: (kc) => !kc.enableControllerAttachDetach,
    why: 'volumes are attached by the controller only',
  },
  { field: 'logging', asks: (kc) => kc.logging.vmodule.length > 0, why: 'vmodule: verbosity is the same for all parts' },
];

/** What a valid configuration asks for in vain, one message a field: each must stop the start. */
export function checkSupport(kc: KubeletConfiguration): string[] {
  return notYet
    .filter((limit) => limit.asks(kc))
    .map((limit) => `${limit.field} of KubeletConfiguration is not supported as set: ${limit.why}`);
}
