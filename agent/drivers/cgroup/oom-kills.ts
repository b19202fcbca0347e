import type { CgroupReader } from './readings.ts';

/** How many processes the kernel has killed for want of memory. */
export interface KillCounts {
  /** In the pod's cgroup and all below it, those that are gone included; undefined on v1, which has no such count, and without the cgroup. */
  readonly pod: number | undefined;
  /** By container ID, of those whose cgroup is there. */
  readonly containers: ReadonlyMap<string, number>;
}

/** `oom_kill 3` of memory.events (v2) or memory.oom_control (v1, from Linux 4.13 on); undefined when the text has no such line. */
export function parseOomKills(text: string): number | undefined {
  const count = /^oom_kill (\d+)$/m.exec(text)?.[1];
  return count === undefined ? undefined : Number(count);
}

// `<id>`, `cri-containerd-<id>.scope`, `crio-<id>.scope`; CRI-O's own monitor may lie beside them, as `crio-conmon-<id>.scope`.
function containerIdOf(directory: string): string | undefined {
  return directory.includes('conmon') ? undefined : /(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])/.exec(directory)?.[0];
}

/** Reads the counts of a pod. `podCgroups` are the places where its cgroup may lie. Throws AgentError. */
export function readOomKills(reader: CgroupReader, podCgroups: readonly string[]): KillCounts {
  // memory.events counts what happens below as well; memory.oom_control (v1) counts its own cgroup alone.
  const file = reader.version === 2 ? 'memory.events' : 'memory.oom_control';
  const count = (cgroup: string): number | undefined => {
    const text = reader.read(cgroup, [{ controller: 'memory', file }])[file];
    return text === undefined ? undefined : parseOomKills(text);
  };
  const containers = new Map<string, number>();
  for (const podCgroup of podCgroups) {
    const pod = count(podCgroup);
    if (pod === undefined) continue;
    // On v2 a pod in which nothing was killed has no container in which something was.
    for (const name of reader.version === 2 && pod === 0 ? [] : reader.children(podCgroup)) {
      const id = containerIdOf(name);
      const own = id === undefined ? undefined : count(`${podCgroup}/${name}`);
      if (id !== undefined && own !== undefined) containers.set(id, own);
    }
    return { pod: reader.version === 2 ? pod : undefined, containers };
  }
  return { pod: undefined, containers };
}
