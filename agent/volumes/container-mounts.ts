import { posix } from 'node:path';
import type { MountPropagation } from '../../cri-protos/generated/cri.ts';
import { AgentError } from '../base/errors.ts';
import type { Container, VolumeMount } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';
import { type VolumePlugin, volumeDir } from './layout.ts';
import { pluginOf } from './plan.ts';

// How a container's volumeMounts become the runtime's mounts (kubelet's makeMounts). Throws AgentError CreateContainerConfigError in kubelet's words.

/** One mount before its subPath has been bound. */
export interface PlannedMount {
  readonly volume: string;
  /** The place in the container's list: part of the path of a subPath's bind mount. */
  readonly index: number;
  /** The volume's directory on the node; undefined for an image. */
  readonly base: string | undefined;
  /** `''` for all of the volume. */
  readonly subPath: string;
  readonly containerPath: string;
  readonly readOnly: boolean;
  readonly recursiveReadOnly: boolean;
  readonly propagation: MountPropagation;
  /** Kubelet's own volumes may be relabelled for SELinux; the node's own files may not. */
  readonly selinuxRelabel: boolean;
  /** It shows a directory that the node has made for the pod, in which it may make mount points. */
  readonly isOwn: boolean;
}

export interface MountSettings {
  readonly rootDir: string;
  /** The container's final environment, for subPathExpr: `$(NAME)` replaced, undefined where a name has no value. */
  readonly expandSubPath: (expression: string) => { readonly path: string; readonly missing: readonly string[] };
  readonly recursiveReadOnlySupported: boolean;
}

function fail(message: string): AgentError {
  return new AgentError('CreateContainerConfigError', message);
}

export function plannedMounts(pod: AgentPod, container: Container, settings: MountSettings): PlannedMount[] {
  return (container.volumeMounts ?? []).map((mount, index) => {
    const volume = pod.spec.volumes?.find((one) => one.name === mount.name);
    if (volume === undefined) throw fail(`cannot find volume "${mount.name}" to mount into container "${container.name}"`);
    const plugin = pluginOf(volume);
    const subPath = subPathOf(mount, settings);
    const base = plugin !== undefined ? volumeDir(settings.rootDir, pod.metadata.uid, plugin, volume.name) : volume.hostPath?.path;
    return {
      volume: volume.name,
      index,
      base,
      subPath,
      containerPath: mount.mountPath.startsWith('/') ? mount.mountPath : `/${mount.mountPath}`,
      // Images are mounted for reading only: runtimes refuse them otherwise.
      readOnly: mount.readOnly === true || holdsApiData(plugin) || volume.image !== undefined,
      recursiveReadOnly: recursiveReadOnly(mount, settings.recursiveReadOnlySupported),
      propagation: propagationOf(mount),
      selinuxRelabel: plugin !== undefined,
      // Below the top of a volume of API data lies what its next update replaces.
      isOwn: plugin !== undefined && (subPath === '' || !holdsApiData(plugin)),
    };
  });
}

/** ConfigMaps, Secrets, projected and downwardAPI volumes are written by the node alone. */
function holdsApiData(plugin: VolumePlugin | undefined): boolean {
  return plugin !== undefined && plugin !== 'kubernetes.io~empty-dir';
}

function subPathOf(mount: VolumeMount, settings: MountSettings): string {
  let subPath = mount.subPath ?? '';
  if (mount.subPathExpr !== undefined && mount.subPathExpr !== '') {
    const { path, missing } = settings.expandSubPath(mount.subPathExpr);
    if (missing.length > 0) throw fail(`missing value for ${[...new Set(missing)].sort().join(', ')}`);
    subPath = path;
  }
  if (subPath === '') return '';
  if (subPath.startsWith('/')) throw fail(`error SubPath \`${subPath}\` must not be an absolute path`);
  if (subPath.split('/').includes('..')) throw fail(`unable to provision SubPath \`${subPath}\`: must not contain '..'`);
  return posix.normalize(subPath);
}

function recursiveReadOnly(mount: VolumeMount, supported: boolean): boolean {
  const asked = mount.recursiveReadOnly;
  if (asked === undefined || asked === 'Disabled') return false;
  const problem = (what: string): AgentError =>
    fail(`failed to resolve recursive read-only mode: volume "${mount.name}" requested recursive read-only mode, but it ${what}`);
  if (mount.readOnly !== true) throw problem('is not read-only');
  if (mount.mountPropagation !== undefined && mount.mountPropagation !== 'None') {
    throw problem(`is not compatible with propagation "${mount.mountPropagation}"`);
  }
  if (asked === 'IfPossible') return supported;
  if (asked !== 'Enabled') throw fail(`failed to resolve recursive read-only mode: unknown recursive read-only mode "${asked}"`);
  if (!supported) throw problem('is not supported by the runtime');
  return true;
}

function propagationOf(mount: VolumeMount): MountPropagation {
  switch (mount.mountPropagation) {
    case undefined:
    case 'None':
      return 'PROPAGATION_PRIVATE';
    case 'HostToContainer':
      return 'PROPAGATION_HOST_TO_CONTAINER';
    case 'Bidirectional':
      return 'PROPAGATION_BIDIRECTIONAL';
    default:
      throw fail(`invalid MountPropagation mode: "${mount.mountPropagation}"`);
  }
}
