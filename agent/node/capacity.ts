import { ownValue, setOwn } from '../base/own.ts';
import type { MachineFacts } from '../drivers/proc/machine.ts';
import { addQuantity, compareQuantity, formatBinary, formatMilli, parseQuantity, subtractQuantity } from '../model/quantity.ts';

/** Amounts by resource name, as the API writes them. */
export type Amounts = Readonly<Record<string, string>>;

/** The settings that decide what a node has for pods: fields of KubeletConfiguration and one flag. */
export interface ReservationConfig {
  readonly maxPods: number;
  readonly podsPerCore: number;
  readonly systemReserved: Amounts;
  readonly kubeReserved: Amounts;
  /** How many CPUs `reservedSystemCPUs` lists; they take the place of both reservations of cpu. */
  readonly reservedCpuCount: number;
  readonly evictionHard: Amounts;
  /** True leaves evictionHard out of allocatable. */
  readonly allocatableIgnoresEviction: boolean;
  /** False leaves ephemeral storage out altogether. */
  readonly localStorageCapacityIsolation: boolean;
}

/** The resource name of huge pages of a size: 2 MiB → hugepages-2Mi. */
function hugePagesName(pageBytes: number): string {
  return `hugepages-${formatBinary(pageBytes)}`;
}

/** What the machine has, pods included. */
export function machineCapacity(machine: MachineFacts, config: ReservationConfig): Record<string, string> {
  const pods = config.podsPerCore > 0 ? Math.min(machine.cpus * config.podsPerCore, config.maxPods) : config.maxPods;
  return {
    cpu: formatMilli(machine.cpus * 1000),
    memory: formatBinary(machine.memoryBytes),
    ...Object.fromEntries(machine.hugePages.map((pages) => [hugePagesName(pages.pageBytes), formatBinary(pages.totalBytes)])),
    ...(config.localStorageCapacityIsolation && machine.storageBytes !== undefined
      ? { 'ephemeral-storage': formatBinary(machine.storageBytes) }
      : {}),
    pods: String(pods),
  };
}

/** What the machine has, the way cgroups are sized from it: without pods, with process ids. */
export function cgroupCapacity(machine: MachineFacts, config: ReservationConfig): Record<string, string> {
  const { pods: _, ...rest } = machineCapacity(machine, config);
  return { ...rest, pid: String(machine.maxPids) };
}

/** The reservations after `reservedSystemCPUs` has taken the place of their cpu. */
export function effectiveReservations(config: Pick<ReservationConfig, 'systemReserved' | 'kubeReserved' | 'reservedCpuCount'>): {
  system: Amounts;
  kube: Amounts;
} {
  if (config.reservedCpuCount === 0) return { system: config.systemReserved, kube: config.kubeReserved };
  const { cpu: _, ...kube } = config.kubeReserved;
  return { system: { ...config.systemReserved, cpu: String(config.reservedCpuCount) }, kube };
}

/** What is kept from pods of each resource: reservations, and the hard eviction thresholds of memory and the node's filesystem. */
export function reservationOf(capacity: Amounts, config: ReservationConfig): Record<string, string> {
  const { system, kube } = effectiveReservations(config);
  const thresholds = config.allocatableIgnoresEviction ? {} : config.evictionHard;
  const eviction: Record<string, string | undefined> = {
    memory: thresholdAmount(thresholds['memory.available'], capacity.memory),
    'ephemeral-storage': thresholdAmount(thresholds['nodefs.available'], capacity['ephemeral-storage']),
  };
  const reserved: Record<string, string> = {};
  for (const name of Object.keys(capacity)) {
    const parts = [ownValue(system, name), ownValue(kube, name), ownValue(eviction, name)].filter((part) => part !== undefined);
    if (parts.length > 0) setOwn(reserved, name, parts.reduce(addQuantity, '0'));
  }
  return reserved;
}

/** A threshold as an amount; a percentage is of the capacity, in single precision as upstream computes it (eviction/api ThresholdValue). */
function thresholdAmount(threshold: string | undefined, capacity: string | undefined): string | undefined {
  if (threshold === undefined || capacity === undefined) return undefined;
  const percent = /^([\d.]+)%$/.exec(threshold);
  if (percent === null) return threshold;
  // How one is switched off, in these words alone: 100.0% keeps everything from pods.
  if (threshold === '0%' || threshold === '100%') return undefined;
  const share = Math.fround(Math.fround(Number(percent[1])) / 100);
  return formatBinary(Math.floor(parseQuantity(capacity) * share));
}

/** What pods may have: capacity less reservations, never below nothing; huge pages are taken out of memory. */
export function allocatableOf(capacity: Amounts, reserved: Amounts): Record<string, string> {
  const allocatable: Record<string, string> = {};
  for (const [name, amount] of Object.entries(capacity)) {
    const take = ownValue(reserved, name);
    setOwn(allocatable, name, take === undefined ? amount : less(amount, take));
  }
  for (const [name, amount] of Object.entries(capacity))
    if (name.startsWith('hugepages-') && allocatable.memory !== undefined) allocatable.memory = less(allocatable.memory, amount);
  return allocatable;
}

function less(amount: string, take: string): string {
  const left = subtractQuantity(amount, take);
  return compareQuantity(left, '0') < 0 ? '0' : left;
}
