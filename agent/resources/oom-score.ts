import type { Container } from '../model/generated/api.ts';
import { type AgentPod, isSidecar } from '../model/pod.ts';
import { isCriticalPod } from '../model/priority.ts';
import { qosClassOf } from '../model/qos.ts';
import { parseQuantity } from '../model/quantity.ts';
import { podRequests, requestOf } from '../model/resources.ts';

const guaranteed = -997;
const bestEffort = 1000;

/** oom_score_adj of a container's processes (pkg/kubelet/qos/policy.go): the more memory it asks for, the less likely it is to be killed. */
export function oomScoreAdj(pod: AgentPod, container: Container, memoryCapacityBytes: number): number {
  if (isCriticalPod(pod) && pod.spec.priorityClassName === 'system-node-critical') return guaranteed;
  switch (qosClassOf(pod)) {
    case 'Guaranteed':
      return guaranteed;
    case 'BestEffort':
      return bestEffort;
    case 'Burstable':
      break;
  }
  const spare = spareMemoryPerContainer(pod);
  const score = (bytes: number): number => 1000 - Math.trunc((1000 * (bytes + spare)) / memoryCapacityBytes);
  let adjust = score(memoryRequest(container));
  // A sidecar must not be killed before the containers it serves.
  if (isSidecar(container) && (pod.spec.initContainers ?? []).some((init) => init.name === container.name)) {
    adjust = Math.min(adjust, score(Math.min(...pod.spec.containers.map(memoryRequest))));
  }
  // Above every Guaranteed container, below every BestEffort one.
  return Math.min(bestEffort - 1, Math.max(1000 + guaranteed, adjust));
}

function memoryRequest(container: Container): number {
  return parseQuantity(requestOf(container, 'memory') ?? '0');
}

/** What a pod-level memory request leaves over after its containers', shared out evenly. */
function spareMemoryPerContainer(pod: AgentPod): number {
  const podLevel = parseQuantity(pod.spec.resources?.requests?.memory ?? '0');
  if (podLevel === 0) return 0;
  const { resources: _, ...spec } = pod.spec;
  const ofContainers = parseQuantity(podRequests({ ...pod, spec }, { withOverhead: false }).memory ?? '0');
  return Math.trunc((podLevel - ofContainers) / (pod.spec.containers.length + (pod.spec.initContainers?.length ?? 0)));
}
