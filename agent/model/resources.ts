import { ownValue, setOwn } from '../base/own.ts';
import type { Container, ResourceRequirements } from './generated/api.ts';
import { type AgentPod, isSidecar } from './pod.ts';
import { addQuantity, compareQuantity } from './quantity.ts';

/** Resource name → canonical quantity text. */
export type ResourceList = Record<string, string>;

/** Adds two lists name by name. */
function addResources(a: ResourceList, b: ResourceList): ResourceList {
  const sum: ResourceList = { ...a };
  for (const [name, value] of Object.entries(b)) {
    const before = ownValue(sum, name);
    setOwn(sum, name, before === undefined ? value : addQuantity(before, value));
  }
  return sum;
}

function maxResources(a: ResourceList, b: ResourceList): ResourceList {
  const max: ResourceList = { ...a };
  for (const [name, value] of Object.entries(b)) {
    const before = ownValue(max, name);
    if (before === undefined || compareQuantity(value, before) > 0) setOwn(max, name, value);
  }
  return max;
}

/**
 * What the pod asks of a node: sums over app containers and sidecars, no less than any init container with the sidecars started before it, pod-level
 * resources where given (k8s.io/component-helpers/resource PodRequests / PodLimits).
 */
function podTotal(pod: Pick<AgentPod, 'spec'>, of: (resources: ResourceRequirements | undefined) => ResourceList): ResourceList {
  let total: ResourceList = {};
  for (const c of pod.spec.containers) total = addResources(total, of(c.resources));
  let sidecars: ResourceList = {};
  let initPeak: ResourceList = {};
  for (const c of pod.spec.initContainers ?? []) {
    if (isSidecar(c)) {
      total = addResources(total, of(c.resources));
      sidecars = addResources(sidecars, of(c.resources));
      initPeak = maxResources(initPeak, sidecars);
    } else initPeak = maxResources(initPeak, addResources(sidecars, of(c.resources)));
  }
  total = maxResources(total, initPeak);
  for (const [name, value] of Object.entries(of(pod.spec.resources))) {
    if (name === 'cpu' || name === 'memory' || name.startsWith('hugepages-')) setOwn(total, name, value);
  }
  return total;
}

/** What the pod asks for, its RuntimeClass' overhead included. */
export function podRequests(pod: Pick<AgentPod, 'spec'>, options: { withOverhead?: boolean } = {}): ResourceList {
  const total = podTotal(pod, (r) => r?.requests ?? {});
  return options.withOverhead === false || pod.spec.overhead === undefined ? total : addResources(total, pod.spec.overhead);
}

/** What the pod may use at most; overhead raises the limits that there are and makes none. */
export function podLimits(pod: Pick<AgentPod, 'spec'>, options: { withOverhead?: boolean } = {}): ResourceList {
  const total = podTotal(pod, (r) => r?.limits ?? {});
  if (options.withOverhead === false) return total;
  for (const [name, overhead] of Object.entries(pod.spec.overhead ?? {})) {
    const limit = ownValue(total, name);
    if (limit !== undefined && compareQuantity(limit, '0') > 0) setOwn(total, name, addQuantity(limit, overhead));
  }
  return total;
}

/** True when the pod's use is bounded: it has a limit of its own, or every one of its containers has. */
export function podLimitDeclared(pod: AgentPod, resource: 'cpu' | 'memory'): boolean {
  const declared = (limits: ResourceList | undefined): boolean => compareQuantity(limits?.[resource] ?? '0', '0') > 0;
  return (
    declared(pod.spec.resources?.limits) ||
    [...pod.spec.containers, ...(pod.spec.initContainers ?? [])].every((c) => declared(c.resources?.limits))
  );
}

export function requestOf(container: Container, resource: string): string | undefined {
  return ownValue(container.resources?.requests, resource);
}

/** True for resources that someone else advertises on the node: named with a domain that is not Kubernetes' own. */
export function isExtendedResource(name: string): boolean {
  return name.includes('/') && !name.includes('kubernetes.io/') && !name.startsWith('requests.');
}
