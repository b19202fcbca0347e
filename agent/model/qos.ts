import type { ResourceRequirements } from './generated/api.ts';
import type { AgentPod } from './pod.ts';
import { parseMilli, sameQuantity } from './quantity.ts';

export type QosClass = 'Guaranteed' | 'Burstable' | 'BestEffort';

const computeResources = ['cpu', 'memory'] as const;

function present(value: string | undefined): value is string {
  return value !== undefined && parseMilli(value) > 0;
}

/** The QoS class that a status already names, else what the spec's cpu and memory say (pkg/apis/core/v1/helper/qos). */
export function qosClassOf(pod: AgentPod): QosClass {
  const named = pod.status?.qosClass;
  if (named === 'Guaranteed' || named === 'Burstable' || named === 'BestEffort') return named;
  return computeQosClass(pod);
}

/** The QoS class from the spec alone: pod-level resources where given, else those of all init and app containers. */
export function computeQosClass(pod: AgentPod): QosClass {
  const podLevel = pod.spec.resources;
  const sets: ResourceRequirements[] =
    podLevel !== undefined && (podLevel.requests !== undefined || podLevel.limits !== undefined)
      ? [podLevel]
      : [...pod.spec.containers, ...(pod.spec.initContainers ?? [])].map((c) => c.resources ?? {});
  let any = false;
  let guaranteed = true;
  for (const set of sets) {
    for (const name of computeResources) {
      const request = set.requests?.[name];
      const limit = set.limits?.[name];
      if (present(request) || present(limit)) any = true;
      // A limit without a request is its own request (API defaulting, also applied to static pods).
      if (!present(limit) || (present(request) && !sameQuantity(request, limit))) guaranteed = false;
    }
  }
  if (!any) return 'BestEffort';
  return guaranteed ? 'Guaranteed' : 'Burstable';
}
