import { ownValue } from '../base/own.ts';
import { addQuantity, formatBinary, parseQuantity } from '../model/quantity.ts';

/** What eviction looks at; the names are those of the configuration. */
export type Signal =
  | 'memory.available'
  | 'allocatableMemory.available'
  | 'nodefs.available'
  | 'nodefs.inodesFree'
  | 'imagefs.available'
  | 'imagefs.inodesFree'
  | 'containerfs.available'
  | 'containerfs.inodesFree'
  | 'pid.available';

export type Condition = 'MemoryPressure' | 'DiskPressure' | 'PIDPressure';

/** What pods are asked to give back; the names are those of messages and annotations. */
export type Resource = 'memory' | 'ephemeral-storage' | 'inodes' | 'pids';

interface SignalFacts {
  readonly condition: Condition;
  readonly resource: Resource;
}

const facts: Readonly<Record<Signal, SignalFacts>> = {
  'memory.available': { condition: 'MemoryPressure', resource: 'memory' },
  'allocatableMemory.available': { condition: 'MemoryPressure', resource: 'memory' },
  'nodefs.available': { condition: 'DiskPressure', resource: 'ephemeral-storage' },
  'nodefs.inodesFree': { condition: 'DiskPressure', resource: 'inodes' },
  'imagefs.available': { condition: 'DiskPressure', resource: 'ephemeral-storage' },
  'imagefs.inodesFree': { condition: 'DiskPressure', resource: 'inodes' },
  'containerfs.available': { condition: 'DiskPressure', resource: 'ephemeral-storage' },
  'containerfs.inodesFree': { condition: 'DiskPressure', resource: 'inodes' },
  'pid.available': { condition: 'PIDPressure', resource: 'pids' },
};

export function conditionOf(signal: Signal): Condition {
  return facts[signal].condition;
}

export function resourceOf(signal: Signal): Resource {
  return facts[signal].resource;
}

/** An amount, or a share of what there is. */
export type Amount = { readonly quantity: string } | { readonly share: number };

/** Pressure begins where less than this is available. Without grace it is a hard one. */
export interface Threshold {
  readonly signal: Signal;
  readonly value: Amount;
  readonly graceMs: number;
  readonly minReclaim?: Amount | undefined;
}

/** The fields of KubeletConfiguration that make thresholds; grace periods in ms. */
export interface ThresholdSettings {
  readonly hard: Readonly<Record<string, string>>;
  readonly soft: Readonly<Record<string, string>>;
  readonly softGraceMs: Readonly<Record<string, number>>;
  readonly minimumReclaim: Readonly<Record<string, string>>;
  /** enforceNodeAllocatable has `pods`: memory.available counts for the pods' cgroup too. */
  readonly enforcePods: boolean;
}

/** The thresholds of a configuration that has been checked; those of 0 % and 100 % are switched off. */
export function thresholdsOf(settings: ThresholdSettings): Threshold[] {
  const parse = (signal: string, text: string, graceMs: number): Threshold[] => {
    // These words alone: 100.0% is a threshold that is always met (pkg/kubelet/eviction parseThresholdStatement).
    if (text === '0%' || text === '100%') return [];
    const value = parseAmount(text);
    const reclaim = ownValue(settings.minimumReclaim, signal);
    const minReclaim = reclaim === undefined ? undefined : parseAmount(reclaim);
    return [{ signal: signal as Signal, value, graceMs, minReclaim }];
  };
  const hard = Object.entries(settings.hard).flatMap(([signal, text]) => parse(signal, text, 0));
  const soft = Object.entries(settings.soft).flatMap(([signal, text]) => parse(signal, text, ownValue(settings.softGraceMs, signal) ?? 0));
  const ofPods = settings.enforcePods
    ? hard.filter((t) => t.signal === 'memory.available').map((t): Threshold => ({ ...t, signal: 'allocatableMemory.available' }))
    : [];
  return [...hard, ...soft, ...ofPods];
}

function parseAmount(text: string): Amount {
  // In single precision, as upstream computes shares (pkg/kubelet/eviction parsePercentage).
  return text.endsWith('%') ? { share: Math.fround(Math.fround(Number(text.slice(0, -1))) / 100) } : { quantity: text };
}

/**
 * Containers' layers are on the node's file system or on that of images: those of containerfs are the thresholds of the one that it is on, whatever the
 * configuration says (pkg/kubelet/eviction UpdateContainerFsThresholds).
 */
export function withContainerFs(thresholds: readonly Threshold[], onImageFs: boolean): Threshold[] {
  const own = thresholds.filter((t) => !t.signal.startsWith('containerfs.'));
  const from = onImageFs ? 'imagefs.' : 'nodefs.';
  const copies = own
    .filter((t) => t.signal.startsWith(from))
    .map((t): Threshold => ({ ...t, signal: t.signal.replace(from, 'containerfs.') as Signal }));
  return [...own, ...copies];
}

/** The amount in whole units, of `capacity` where it is a share. */
function amountOf(amount: Amount, capacity: number): number {
  return 'share' in amount ? Math.floor(capacity * amount.share) : parseQuantity(amount.quantity);
}

/** The amount as messages tell it. */
export function amountText(amount: Amount, capacity: number): string {
  return 'share' in amount ? formatBinary(amountOf(amount, capacity)) : addQuantity(amount.quantity, '0');
}

/** How much of a signal's resource there was. */
export interface Observation {
  readonly available: number;
  readonly capacity: number;
  /** Wall, ms; undefined when it is not known how old it is. */
  readonly at?: number | undefined;
}

export type Observations = ReadonlyMap<Signal, Observation>;

/** The thresholds that are met; with `minimumReclaim` those count too of which not enough more than the threshold has become free. */
export function metThresholds(thresholds: readonly Threshold[], observations: Observations, minimumReclaim: boolean): Threshold[] {
  return thresholds.filter((threshold) => {
    const observed = observations.get(threshold.signal);
    if (observed === undefined) return false;
    const more = minimumReclaim && threshold.minReclaim !== undefined ? amountOf(threshold.minReclaim, observed.capacity) : 0;
    return amountOf(threshold.value, observed.capacity) + more > observed.available;
  });
}

/** Names a threshold among those of one configuration. */
export function thresholdKey({ signal, graceMs, value }: Threshold): string {
  return `${signal} ${graceMs} ${JSON.stringify(value)}`;
}
