import type { ReadonlyTable } from '../agent/base/table.ts';
import type { Family } from './model/address.ts';
import type { SliceRow } from './model/slice-row.ts';

/** Which slices a Service has. */
export interface SliceIndex {
  /** Takes note of a changed row; returns the Services (`namespace/name`) it is or was of. */
  changed(slice: string): readonly string[];
  of(service: string, family: Family): SliceRow[];
  /** Services that have slices. */
  services(): IterableIterator<string>;
}

export function createSliceIndex(slices: ReadonlyTable<SliceRow>): SliceIndex {
  const byService = new Map<string, Set<string>>();
  const serviceOf = new Map<string, string>();

  function changed(key: string): string[] {
    const before = serviceOf.get(key);
    const now = slices.get(key)?.service;
    if (before !== now) {
      if (before !== undefined) {
        const keys = byService.get(before);
        keys?.delete(key);
        if (keys?.size === 0) byService.delete(before);
        serviceOf.delete(key);
      }
      if (now !== undefined) {
        const keys = byService.get(now);
        if (keys === undefined) byService.set(now, new Set([key]));
        else keys.add(key);
        serviceOf.set(key, now);
      }
    }
    return [...new Set([before, now])].filter((service) => service !== undefined);
  }

  for (const key of slices.keys()) changed(key);
  return {
    changed,
    of: (service, family) =>
      [...(byService.get(service) ?? [])].flatMap((key) => slices.get(key) ?? []).filter((slice) => slice.family === family),
    services: () => byService.keys(),
  };
}
