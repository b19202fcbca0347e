import { posix } from 'node:path';
import { AgentError } from '../base/errors.ts';
import { type AgentPod, containersOf } from '../model/pod.ts';

/**
 * The directories that must exist inside a volume because some container mounts another volume there: a runtime cannot make them in a volume that is
 * read-only. Relative to the volume; only the first level of nesting (pkg/volume/util/nested_volumes.go). Throws AgentError InvalidPath.
 */
export function nestedMountPoints(pod: AgentPod, volume: string): string[] {
  const found = new Set<string>();
  for (const { container } of containersOf(pod)) {
    const mounts = container.volumeMounts ?? [];
    const all = mounts.map((mount) => posix.normalize(mount.mountPath).replace(/(.)\/$/, '$1')).sort();
    for (const mount of mounts) {
      if (mount.name !== volume) continue;
      const own = posix.normalize(mount.mountPath).replace(/(.)\/$/, '$1');
      if (own.startsWith('../')) throw new AgentError('InvalidPath', `invalid container mount point ${own}`);
      const outer: string[] = [];
      for (const point of all) {
        if (!point.startsWith(`${own}/`) || outer.some((before) => point.startsWith(`${before}/`))) continue;
        outer.push(point);
        found.add(point.slice(own.length + 1));
      }
    }
  }
  return [...found];
}
