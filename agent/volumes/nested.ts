import { posix } from 'node:path';
import { AgentError } from '../base/errors.ts';

/** A mount of a container, as far as mounts below each other go. */
export interface PlacedMount {
  /** Where it is in the container. */
  readonly containerPath: string;
  /** What it shows of the node; undefined for an image. */
  readonly hostPath: string | undefined;
  readonly readOnly: boolean;
  /** It shows a directory that the node has made for the pod: an emptyDir, or a volume of API data. */
  readonly isOwn: boolean;
}

/** A place in the directory of a read-only mount at which another one goes. */
export interface NestedMount {
  readonly outer: PlacedMount;
  /** Relative to the outer mount. */
  readonly path: string;
  readonly inner: PlacedMount;
}

/**
 * The mounts of a container that lie in a read-only one of the pod's own volumes: a runtime cannot make their mount points there, so the node does.
 * Kubelet does so in volumes of API data alone, and makes directories where files go (pkg/volume/util/nested_volumes.go).
 * Outer ones come before those inside of them. Throws AgentError CreateContainerConfigError.
 */
export function nestedMounts(mounts: readonly PlacedMount[]): NestedMount[] {
  const placed = mounts.map((mount) => ({ mount, at: clean(mount.containerPath) }));
  const found: NestedMount[] = [];
  for (const { mount: inner, at } of placed.toSorted((a, b) => a.at.length - b.at.length)) {
    if (at.startsWith('../')) throw new AgentError('CreateContainerConfigError', `invalid container mount point ${at}`);
    const around = placed.filter((each) => at.startsWith(`${each.at}/`));
    const outer = around.toSorted((a, b) => b.at.length - a.at.length)[0];
    if (outer?.mount.readOnly !== true || !outer.mount.isOwn) continue;
    found.push({ outer: outer.mount, path: at.slice(outer.at.length + 1), inner });
  }
  return found;
}

function clean(path: string): string {
  return posix.normalize(path).replace(/(.)\/+$/, '$1');
}
