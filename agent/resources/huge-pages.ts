import { AgentError } from '../base/errors.ts';
import { ownValue, setOwn } from '../base/own.ts';
import { parseQuantity } from '../model/quantity.ts';
import type { ResourceList } from '../model/resources.ts';

const prefix = 'hugepages-';

/** Bytes of a page for a resource name such as `hugepages-2Mi`; undefined for any other resource. */
export function hugePageSizeOf(resource: string): number | undefined {
  return resource.startsWith(prefix) ? parseQuantity(resource.slice(prefix.length)) : undefined;
}

/** How the kernel's cgroup files name a page size: 2097152 → `2MB`. Throws AgentError InvalidQuantity when no unit fits. */
export function hugePageSizeName(bytes: number): string {
  const units = ['B', 'KB', 'MB', 'GB', 'TB', 'PB'];
  let size = bytes;
  let unit = 0;
  while (size % 1024 === 0 && unit < units.length - 1) {
    size /= 1024;
    unit++;
  }
  if (size > 1024 && unit < units.length - 1) throw new AgentError('InvalidQuantity', `${bytes} bytes is not a huge page size`);
  return `${size}${units[unit]}`;
}

/** Bytes per page size that a list of resources allows, by the kernel's name; every size of the machine that is not listed gets 0. */
export function hugePageLimits(resources: ResourceList, machineSizes: readonly string[]): Record<string, bigint> {
  const limits: Record<string, bigint> = {};
  for (const size of machineSizes) setOwn(limits, size, 0n);
  for (const [resource, amount] of Object.entries(resources)) {
    const size = hugePageSizeOf(resource);
    if (size === undefined) continue;
    const name = hugePageSizeName(size);
    setOwn(limits, name, (ownValue(limits, name) ?? 0n) + BigInt(parseQuantity(amount)));
  }
  return limits;
}
