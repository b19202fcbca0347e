import { join } from 'node:path';
import { uidAsName } from '../model/pod-uid.ts';

// Where kubelet puts a pod's volumes, so that either can take over from the other (pkg/kubelet/kubelet_getters.go).

export type VolumePlugin =
  | 'kubernetes.io~empty-dir'
  | 'kubernetes.io~configmap'
  | 'kubernetes.io~secret'
  | 'kubernetes.io~projected'
  | 'kubernetes.io~downward-api';

/** The plugin directories whose volumes this agent sets up and can take away. */
export const ownPlugins: ReadonlySet<string> = new Set<VolumePlugin>([
  'kubernetes.io~empty-dir',
  'kubernetes.io~configmap',
  'kubernetes.io~secret',
  'kubernetes.io~projected',
  'kubernetes.io~downward-api',
]);

export function podsDir(rootDir: string): string {
  return join(rootDir, 'pods');
}

/** Throws AgentError InvalidArgument for a UID that is no folder's name. */
export function podDir(rootDir: string, uid: string): string {
  return join(podsDir(rootDir), uidAsName(uid));
}

export function volumeDir(rootDir: string, uid: string, plugin: VolumePlugin, volume: string): string {
  return join(podDir(rootDir, uid), 'volumes', plugin, volume);
}

/** Where the marker lies that a volume's directory is set up. Volumes of objects are emptyDirs inside, named `wrapped_…`. */
export function readyDir(rootDir: string, uid: string, plugin: VolumePlugin, volume: string): string {
  const name = plugin === 'kubernetes.io~empty-dir' ? volume : `wrapped_${volume}`;
  return join(podDir(rootDir, uid), 'plugins', 'kubernetes.io~empty-dir', name);
}

/** Where the bind mount of a container's subPath is; `index` is the place of the mount in the container's list. */
export function subPathTarget(rootDir: string, uid: string, volume: string, container: string, index: number): string {
  return join(podDir(rootDir, uid), 'volume-subpaths', volume, container, `${index}`);
}
