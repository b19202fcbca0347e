import type { RuntimeContainer } from './observed.ts';

// Whose end was an OOM kill. The kernel counts killed processes: in the pod's cgroup for the whole pod (cgroup v2; the count outlives the containers), in a
// container's own while that lives, and its log names the cgroup of each. The runtime's word is another witness, which may come late or never.

/** How many processes of a pod were killed, as the kernel counts now; see drivers/cgroup/oom-kills.ts. */
interface Counts {
  readonly pod: number | undefined;
  readonly containers: ReadonlyMap<string, number>;
}

/** Kills that were noticed between two looks, wall time in ms; those of one container, or of one that is not known. */
interface Evidence {
  readonly containerId: string | undefined;
  readonly from: number;
  readonly to: number;
  /** How many ends it can still explain. */
  left: number;
}

/** What is remembered of a pod's counts, also across a restart of the agent. */
export interface KillMemory {
  readonly pod: number;
  readonly containers: Readonly<Record<string, number>>;
  /** IDs of containers whose end was judged to be an OOM kill. */
  readonly killed: readonly string[];
}

/** One pod's kills. */
export interface PodKills {
  pod: number;
  /** By container ID: what is known of it, from its own count or from the kernel's log. */
  readonly containers: Map<string, number>;
  /** Those whose cgroup was there at the last look. */
  living: ReadonlySet<string>;
  /** Below zero: what containers' counts told at the last look before the pod's did. */
  ahead: number;
  /** Wall time of the last look, ms; 0 before the first. */
  lookedAt: number;
  evidence: Evidence[];
  /** Containers whose end was judged to be an OOM kill. */
  readonly killed: Set<string>;
}

/** What is known of a pod at the start. After a boot of the machine its cgroup is a new one, which counts from 0. */
export function podKills(memory: KillMemory | undefined, booted = false): PodKills {
  const containers = new Map(Object.entries(memory?.containers ?? {}));
  return {
    pod: booted ? 0 : (memory?.pod ?? 0),
    containers,
    living: new Set(),
    ahead: 0,
    lookedAt: 0,
    evidence: [],
    killed: new Set(memory?.killed),
  };
}

/** What to remember; undefined while nothing was ever killed. */
export function memoryOf({ pod, containers, killed }: PodKills): KillMemory | undefined {
  return pod === 0 && containers.size === 0 ? undefined : { pod, containers: Object.fromEntries(containers), killed: [...killed] };
}

// An end counts as a kill's when it follows it so soon: the main process may be a parent that passes on what became of its child.
const followsWithinMs = 10_000;
// Runtimes and the agent stamp times of the same clock at different moments.
const stampSlackMs = 2_000;
const keptForMs = 600_000;

/**
 * Takes in new counts, and what the kernel's log has told of the pod's containers in all. Gives the containers whose cgroup is there and in which processes
 * were killed: their main process may live on.
 */
export function noteKills(
  kills: PodKills,
  counts: Counts,
  named: ReadonlyMap<string, number>,
  now: number,
): { readonly containerId: string; readonly count: number }[] {
  // The clock may have been set back since the last look.
  const [from, to] = [Math.min(kills.lookedAt, now), Math.max(kills.lookedAt, now)];
  const inLiving: { containerId: string; count: number }[] = [];
  let explained = 0;
  for (const containerId of new Set([...counts.containers.keys(), ...named.keys()])) {
    // Own counts of v1 lack cgroups that the container made below; the log lacks what it has forgotten, or was not to tell.
    const count = Math.max(counts.containers.get(containerId) ?? 0, named.get(containerId) ?? 0);
    const more = count - (kills.containers.get(containerId) ?? 0);
    if (more <= 0) continue;
    kills.containers.set(containerId, count);
    explained += more;
    if (counts.containers.has(containerId)) inLiving.push({ containerId, count: more });
    kills.evidence.push({ containerId, from, to, left: 1 });
  }
  if (counts.pod !== undefined) {
    // A count that has fallen is that of a new cgroup: the machine was started anew.
    const grown = counts.pod >= kills.pod ? counts.pod - kills.pod : counts.pod;
    const left = grown - explained + kills.ahead;
    kills.pod = counts.pod;
    kills.ahead = Math.min(left, 0);
    if (left > 0) kills.evidence.push({ containerId: undefined, from, to, left });
  }
  kills.living = new Set(counts.containers.keys());
  kills.lookedAt = now;
  kills.evidence = kills.evidence.filter(({ left, to }) => left > 0 && now - to < keptForMs);
  return inLiving;
}

/** What was killed before anybody looked belongs to no end that is seen now, unless the kernel's log names it. */
export function forgetUnnamed(kills: PodKills): void {
  kills.evidence = kills.evidence.filter(({ containerId }) => containerId !== undefined);
}

/** Lets go of containers that nobody knows any more. */
export function forgetContainers(kills: PodKills, known: ReadonlySet<string>): void {
  for (const id of kills.containers.keys()) if (!known.has(id) && !kills.living.has(id)) kills.containers.delete(id);
  for (const id of kills.killed) if (!known.has(id)) kills.killed.delete(id);
}

/** True when the container was killed by SIGKILL, and the kernel's counts say that it was for want of memory. Call it after `noteKills`. */
export function wasOomKilled(kills: PodKills, container: Pick<RuntimeContainer, 'id' | 'state' | 'exitCode' | 'finishedAt'>): boolean {
  const { id, state, exitCode } = container;
  // A runtime that does not know when it ended has it seen now.
  const finishedAt = container.finishedAt > 0 ? container.finishedAt : kills.lookedAt;
  // 128 + SIGKILL; a shell says the same of a child of its own.
  if (state !== 'exited' || exitCode !== 137) return false;
  if (kills.killed.has(id)) return true;
  const fits = ({ from, to, left }: Evidence): boolean =>
    left > 0 && finishedAt >= from - stampSlackMs && finishedAt <= to + followsWithinMs;
  const found =
    kills.evidence.find((one) => one.containerId === id && fits(one)) ??
    kills.evidence.find((one) => one.containerId === undefined && fits(one));
  if (found === undefined) return false;
  found.left--;
  kills.killed.add(id);
  return true;
}
