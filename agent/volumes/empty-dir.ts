import { AgentError } from '../base/errors.ts';
import type { AgentPod } from '../model/pod.ts';
import { parseQuantity } from '../model/quantity.ts';

/**
 * Bytes of a memory-backed emptyDir: what the pod may use at most, less when its sizeLimit says so (calculateEmptyDirMemorySize). Undefined leaves the
 * kernel's default. `allocatableBytes` is undefined while the node does not know it.
 */
export function tmpfsBytes(
  allocatableBytes: number | undefined,
  podMemoryLimitBytes: number | undefined,
  sizeLimit: string | undefined,
): number | undefined {
  let size = allocatableBytes;
  for (const limit of [podMemoryLimitBytes, sizeLimit === undefined ? undefined : parseQuantity(sizeLimit)]) {
    if (limit !== undefined && limit > 0 && (size === undefined || limit <= size)) size = limit;
  }
  return size;
}

/** Bytes of a page for an emptyDir of medium HugePages or HugePages-<size>. Throws AgentError InvalidVolume in kubelet's words. */
export function hugePageBytes(medium: string, pod: AgentPod): number {
  const wanted = medium === 'HugePages' ? undefined : parseQuantity(medium.slice('HugePages-'.length));
  const lists = [
    pod.spec.resources?.requests,
    ...[...pod.spec.containers, ...(pod.spec.initContainers ?? [])].map((c) => c.resources?.requests),
  ];
  const sizes = new Set(
    lists.flatMap((requests) =>
      Object.keys(requests ?? {}).flatMap((name) => (name.startsWith('hugepages-') ? [parseQuantity(name.slice(10))] : [])),
    ),
  );
  if (wanted === undefined && sizes.size > 1) {
    throw new AgentError('InvalidVolume', `medium: ${medium} can't be used if container requests multiple huge page sizes`);
  }
  const [size] = wanted === undefined ? sizes : sizes.has(wanted) ? [wanted] : [];
  if (size === undefined)
    throw new AgentError('InvalidVolume', `medium ${medium}: hugePages storage requested, but there is no resource request for huge pages`);
  return size;
}
