import { ownValue } from '../base/own.ts';
import type { AgentPod } from '../model/pod.ts';
import { isCriticalPod } from '../model/priority.ts';
import { computeQosClass } from '../model/qos.ts';
import { parseMilli, parseQuantity } from '../model/quantity.ts';
import { podRequests } from '../model/resources.ts';

// Making room for a critical pod that the node is too full for (the rules of pkg/kubelet/preemption): which pods have to go.

/** Event, status and condition of a pod that had to go; the words are kubelet's. */
export const preempted = {
  reason: 'Preempting',
  message: 'Preempted in order to admit critical pod',
  disruption: 'Pod was preempted by Kubelet to accommodate a critical pod.',
} as const;

/** How much of a resource is missing: millicores for cpu, bytes or pieces for the others. */
export interface Shortfall {
  readonly resource: string;
  readonly amount: number;
}

function mayPreempt(critical: AgentPod, other: AgentPod): boolean {
  if (isCriticalPod(critical) && !isCriticalPod(other)) return true;
  return critical.spec.priority !== undefined && other.spec.priority !== undefined && critical.spec.priority > other.spec.priority;
}

/**
 * The pods that have to end so that `shortfalls` are freed, few and small ones, best effort before burstable before guaranteed; or what stays short when
 * all that may go were gone.
 */
export function choosePreempted(
  critical: AgentPod,
  active: readonly AgentPod[],
  shortfalls: readonly Shortfall[],
): { victims: AgentPod[] } | { unmet: readonly Shortfall[] } {
  const candidates = active.filter((pod) => mayPreempt(critical, pod));
  const unmet = without(shortfalls, candidates);
  if (unmet.length > 0) return { unmet };
  const ofClass = (qos: string): AgentPod[] => candidates.filter((pod) => computeQosClass(pod) === qos);
  const bestEffort = ofClass('BestEffort');
  const burstable = ofClass('Burstable');
  // From the most protected class down: only what the classes below it cannot give is taken from it.
  const fromGuaranteed = nearest(ofClass('Guaranteed'), without(shortfalls, [...bestEffort, ...burstable]));
  const fromBurstable = nearest(burstable, without(shortfalls, [...bestEffort, ...fromGuaranteed]));
  const fromBestEffort = nearest(bestEffort, without(shortfalls, [...fromBurstable, ...fromGuaranteed]));
  return { victims: [...fromBestEffort, ...fromBurstable, ...fromGuaranteed] };
}

/** `[(res: cpu, q: 500), ]`: kubelet's way of telling shortfalls. */
export function shortfallText(shortfalls: readonly Shortfall[]): string {
  return `[${shortfalls.map(({ resource, amount }) => `(res: ${resource}, q: ${amount}), `).join('')}]`;
}

function requestAmount(pod: AgentPod, resource: string): number {
  if (resource === 'pods') return 1;
  const request = ownValue(podRequests(pod), resource);
  if (request === undefined) return 0;
  return resource === 'cpu' ? parseMilli(request) : parseQuantity(request);
}

/** What is still missing when these pods are gone. */
function without(shortfalls: readonly Shortfall[], pods: readonly AgentPod[]): Shortfall[] {
  return shortfalls
    .map(({ resource, amount }) => ({ resource, amount: amount - pods.reduce((sum, pod) => sum + requestAmount(pod, resource), 0) }))
    .filter(({ amount }) => amount > 0);
}

/** One pod after another, each time the one that comes nearest to what is missing; of two equally near the one that asks for less. */
function nearest(pods: readonly AgentPod[], shortfalls: readonly Shortfall[]): AgentPod[] {
  const chosen: AgentPod[] = [];
  let left = [...pods];
  let missing = [...shortfalls];
  while (missing.length > 0) {
    const [first, ...others] = left;
    if (first === undefined) break;
    let best = first;
    for (const pod of others) {
      const difference = distance(pod, missing) - distance(best, missing);
      if (difference < 0 || (difference === 0 && asksForLess(pod, best))) best = pod;
    }
    chosen.push(best);
    left = left.filter((pod) => pod !== best);
    missing = without(missing, [best]);
  }
  return chosen;
}

/** The share of each shortfall that would remain, squared and summed: resources weigh alike whatever their units. */
function distance(pod: AgentPod, shortfalls: readonly Shortfall[]): number {
  return shortfalls.reduce((sum, { resource, amount }) => {
    const remaining = Math.max(0, amount - requestAmount(pod, resource));
    return sum + (remaining / amount) ** 2;
  }, 0);
}

function asksForLess(a: AgentPod, b: AgentPod): boolean {
  for (const resource of ['memory', 'cpu']) {
    const difference = requestAmount(a, resource) - requestAmount(b, resource);
    if (difference !== 0) return difference < 0;
  }
  return true;
}
