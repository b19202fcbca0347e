import { AgentError } from '../../base/errors.ts';
import type { DownwardAPIVolumeFile } from '../../model/generated/api.ts';
import type { AgentPod } from '../../model/pod.ts';
import type { ResourceList } from '../../model/resources.ts';
import { objectFieldValue, resourceFieldValue } from '../../pods/env-field-ref.ts';

/** What a downwardAPI file shows of a pod. Throws AgentError for fields that there are none of. */
export function downwardValue(pod: AgentPod, file: DownwardAPIVolumeFile, allocatable: ResourceList): string {
  if (file.fieldRef !== undefined) return objectFieldValue(pod, file.fieldRef.fieldPath);
  if (file.resourceFieldRef !== undefined) return resourceFieldValue(pod, undefined, file.resourceFieldRef, allocatable);
  throw new AgentError('InvalidField', `downwardAPI file ${file.path} names neither a field nor a resource`);
}
