import { AgentError } from '../base/errors.ts';
import type { AgentPod } from '../model/pod.ts';
import { type QosClass, qosClassOf } from '../model/qos.ts';

// Names of cgroups as kubelet makes them (pkg/kubelet/cm/cgroup_manager_linux.go): a list of plain parts, spelled differently by the two drivers.

export type CgroupDriver = 'cgroupfs' | 'systemd';

/** `['kubepods', 'burstable', 'pod1234-abcd']`; empty is the root. Parts have neither `/` nor `_` (systemd's spelling needs `_` for `-`). */
export type CgroupName = readonly string[];

/** Where the pods of one node live. */
export interface CgroupTree {
  readonly driver: CgroupDriver;
  /** The node-allocatable cgroup: what `--cgroup-root` says, plus `kubepods`. */
  readonly kubepods: CgroupName;
}

/** The tree for a driver and a `cgroupRoot` setting (`''`, `/` or `/a/b`). Throws AgentError InvalidConfig when the root cannot be spelled. */
export function cgroupTree(driver: CgroupDriver, cgroupRoot: string): CgroupTree {
  return { driver, kubepods: cgroupName(parseCgroupfs(cgroupRoot), 'kubepods') };
}

function cgroupName(base: CgroupName, ...parts: string[]): CgroupName {
  for (const part of parts) {
    if (/[/_]/.test(part)) throw new AgentError('InvalidConfig', `a cgroup name must have neither "/" nor "_": ${part}`);
  }
  return [...base, ...parts];
}

/** `/a/b` → `['a', 'b']`; `''` and `/` are the root. */
function parseCgroupfs(path: string): CgroupName {
  return path.split('/').filter((part) => part !== '');
}

/** The path in the cgroup file system under either driver: `/kubepods/burstable/podX`, or every slice on the way to `…-podX.slice`. */
export function cgroupPath(name: CgroupName, driver: CgroupDriver): string {
  if (driver === 'cgroupfs' || name.length === 0) return `/${name.join('/')}`;
  const escaped = name.map((part) => part.replaceAll('-', '_'));
  return escaped.map((_, i) => `/${escaped.slice(0, i + 1).join('-')}.slice`).join('');
}

/** What cgroupPath made, as a name again. */
export function parseCgroupPath(path: string, driver: CgroupDriver): CgroupName {
  if (driver === 'cgroupfs') return parseCgroupfs(path);
  const last = parseCgroupfs(path).at(-1) ?? '';
  const slice = last.endsWith('.slice') ? last.slice(0, -'.slice'.length) : last;
  return slice === '' ? [] : slice.split('-').map((part) => part.replaceAll('_', '-'));
}

/** The cgroup of a QoS class: Guaranteed pods live directly under kubepods. */
export function qosCgroup(tree: CgroupTree, qos: QosClass): CgroupName {
  switch (qos) {
    case 'Guaranteed':
      return tree.kubepods;
    case 'Burstable':
      return [...tree.kubepods, 'burstable'];
    case 'BestEffort':
      return [...tree.kubepods, 'besteffort'];
  }
}

/** The cgroup of a pod. */
export function podCgroup(tree: CgroupTree, pod: AgentPod): CgroupName {
  // A static pod's UID is a hash in hex, an API pod's a UUID: both spell in either driver.
  return cgroupName(qosCgroup(tree, qosClassOf(pod)), `pod${pod.metadata.uid}`);
}

/** The paths where the cgroup of the pod with this UID may lie: which one depends on its QoS class, which its spec tells. */
export function podCgroupPlaces(tree: CgroupTree, podUid: string): string[] {
  return (['Burstable', 'Guaranteed', 'BestEffort'] as const).map((qos) =>
    cgroupPath(cgroupName(qosCgroup(tree, qos), `pod${podUid}`), tree.driver),
  );
}

/** What the runtime gets as `cgroup_parent` of the pod's sandbox. */
export function podCgroupParent(tree: CgroupTree, pod: AgentPod): string {
  return cgroupPath(podCgroup(tree, pod), tree.driver);
}

/** The pod UID that a child directory of a QoS cgroup belongs to; undefined for any other directory. */
export function podUidOfDirectory(parent: CgroupName, directory: string, driver: CgroupDriver): string | undefined {
  const name = driver === 'cgroupfs' ? [directory] : parseCgroupPath(directory, driver).slice(parent.length);
  const last = name.length === 1 ? name[0] : undefined;
  return last?.startsWith('pod') && last.length > 'pod'.length ? last.slice('pod'.length) : undefined;
}
