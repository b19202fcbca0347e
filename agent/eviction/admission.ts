import type { AgentPod } from '../model/pod.ts';
import { isCriticalPod } from '../model/priority.ts';
import { qosClassOf } from '../model/qos.ts';
import { evictedReason } from './message.ts';
import type { Condition } from './thresholds.ts';

/**
 * Why a node under pressure does not take the pod; undefined when it does. Critical pods are always taken; under memory pressure those too that request
 * something, or tolerate its taint.
 */
export function pressureRejection(pod: AgentPod, conditions: readonly Condition[]): { reason: string; message: string } | undefined {
  if (conditions.length === 0 || isCriticalPod(pod)) return undefined;
  if (conditions.every((condition) => condition === 'MemoryPressure') && (qosClassOf(pod) !== 'BestEffort' || toleratesMemoryPressure(pod)))
    return undefined;
  return { reason: evictedReason, message: `The node had condition: [${conditions.join(' ')}]. ` };
}

function toleratesMemoryPressure(pod: AgentPod): boolean {
  const key = 'node.kubernetes.io/memory-pressure';
  return (pod.spec.tolerations ?? []).some(
    (t) =>
      (!t.effect || t.effect === 'NoSchedule') &&
      (t.key ? t.key === key : t.operator === 'Exists') &&
      (t.operator === 'Exists' || (t.value ?? '') === ''),
  );
}
