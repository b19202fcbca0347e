import { isDeepStrictEqual } from 'node:util';
import type { Clock } from '../base/clock.ts';
import { messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { ReadonlyTable } from '../base/table.ts';
import type { RuntimeContainer, RuntimePod } from './observed.ts';
import { forgetContainers, forgetUnnamed, type KillMemory, memoryOf, noteKills, type PodKills, podKills, wasOomKilled } from './oom.ts';

/** What one read of the kernel's log names; see drivers/sys/kernel-log.ts. */
interface NamedKills {
  readonly containers: ReadonlyMap<string, { readonly count: number; readonly process: string; readonly pid: number }>;
  readonly system: readonly { readonly sequence: number; readonly process: string; readonly pid: number }[];
}

/** What outlives the agent: counts by pod UID, and how far the kernel's log was read. */
interface OomMemory {
  readonly kills?: KillMemory | undefined;
  /** The boot that `kills` were counted in. */
  readonly bootId?: string | undefined;
  readonly log?: { readonly bootId: string; readonly sequence: number } | undefined;
}

export interface OomWatchOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly runtime: ReadonlyTable<RuntimePod>;
  /** The kernel's counts for a pod, and for those of its containers whose cgroups are there. Throws AgentError. */
  readonly counts: (podUid: string) => Parameters<typeof noteKills>[1];
  /** The kernel's log since the last call; undefined where it cannot be read. Throws AgentError. */
  readonly readLog: (() => NamedKills) | undefined;
  readonly bootId: string;
  /** Keys: `kernel`, and UIDs of pods in which something was killed. */
  readonly journal: {
    get(key: string): OomMemory | undefined;
    set(key: string, value: OomMemory): void;
    delete(key: string): void;
    entries(): Iterable<[string, OomMemory]>;
  };
  /** Told when processes of a container were killed and its main process lives on. */
  readonly childKilled: (pod: RuntimePod, container: RuntimeContainer, message: string) => void;
  /** Told of each kill because the whole machine had no memory left, in kubelet's words. */
  readonly systemOom: (message: string) => void;
}

/** The judge of what was killed for want of memory. */
export interface OomWatch extends Disposable {
  /** The container as the runtime tells it, with the reason `OOMKilled` where the kernel says so and the runtime does not. Never waits. */
  judge(podUid: string, container: RuntimeContainer): RuntimeContainer;
}

// Between looks at the counts of all pods; an end is looked into at once.
const lookEveryMs = 10_000;
// A container whose main process was killed is told to have ended within this time.
const endsWithinMs = 3_000;
const kernelKey = 'kernel';

export function watchOom(options: OomWatchOptions): OomWatch {
  const { clock, log, runtime, journal } = options;
  const pods = new Map<string, PodKills>();
  // By container ID: what the kernel's log has told, and of which process last.
  const named = new Map<string, { readonly count: number; readonly process: string; readonly pid: number }>();
  // By container ID: killed processes of containers that may live on.
  const children = new Map<string, { readonly podUid: string; readonly since: number; readonly count: number }>();
  // Without a record nothing was ever looked at: what is counted when the runtime is first seen is history.
  let adopting = journal.get(kernelKey) === undefined;
  let problem: string | undefined;
  let timer: Disposable | undefined;

  function readKernelLog(): void {
    if (options.readLog === undefined) return;
    const { containers, system } = options.readLog();
    for (const [id, { count, process, pid }] of containers) named.set(id, { count: count + (named.get(id)?.count ?? 0), process, pid });
    const before = journal.get(kernelKey)?.log;
    const read = before?.bootId === options.bootId ? before.sequence : -1;
    const fresh = system.filter(({ sequence }) => sequence > read);
    const last = fresh.at(-1)?.sequence;
    if (last === undefined) return;
    if (!adopting)
      for (const { process, pid } of fresh) options.systemOom(`System OOM encountered, victim process: ${process}, pid: ${pid}`);
    journal.set(kernelKey, { log: { bootId: options.bootId, sequence: last } });
  }

  function remember(podUid: string, kills: PodKills): void {
    const memory = memoryOf(kills);
    if (memory === undefined) return;
    const next: OomMemory = { kills: memory, bootId: options.bootId };
    if (!isDeepStrictEqual(journal.get(podUid), next)) journal.set(podUid, next);
  }

  /** `more`: a container that the table may not have yet. */
  function look(podUid: string, more?: string): PodKills {
    let kills = pods.get(podUid);
    if (kills === undefined) {
      const before = journal.get(podUid);
      kills = podKills(before?.kills, before?.bootId !== undefined && before.bootId !== options.bootId);
      pods.set(podUid, kills);
    }
    const told = new Map<string, number>();
    for (const id of [...(runtime.get(podUid)?.containers.map((c) => c.id) ?? []), ...(more === undefined ? [] : [more])]) {
      const count = named.get(id)?.count;
      if (count !== undefined) told.set(id, count);
    }
    const inLiving = noteKills(kills, options.counts(podUid), told, clock.wall());
    remember(podUid, kills);
    if (adopting) forgetUnnamed(kills);
    else
      for (const { containerId, count } of inLiving)
        children.set(containerId, { podUid, since: clock.mono(), count: count + (children.get(containerId)?.count ?? 0) });
    return kills;
  }

  function tellOfChildren(): void {
    for (const [id, { podUid, since, count }] of children) {
      if (clock.mono() - since < endsWithinMs) continue;
      children.delete(id);
      const pod = runtime.get(podUid);
      const container = pod?.containers.find((c) => c.id === id);
      if (pod === undefined || container?.state !== 'running') continue;
      const last = named.get(id);
      const whom = last === undefined ? '' : `, victim process: ${last.process}, pid: ${last.pid}`;
      options.childKilled(
        pod,
        container,
        `Memory limit reached: the kernel killed ${count} process${count === 1 ? '' : 'es'} of container ${container.name}, its main process runs on${whom}`,
      );
    }
  }

  function lookAtAll(): void {
    try {
      readKernelLog();
      for (const uid of runtime.keys()) look(uid);
      tellOfChildren();
      forget();
      problem = undefined;
    } catch (error) {
      const text = messageOf(error);
      if (text !== problem) log.warn({ err: text }, 'the kernel does not tell what it killed for want of memory');
      problem = text;
    }
  }

  /** Containers that are gone are asked for no more, and their pods' counts went with the cgroups. */
  function forget(): void {
    const known = new Set<string>();
    for (const { containers, sandboxes } of runtime.values()) for (const { id } of [...containers, ...sandboxes]) known.add(id);
    for (const map of [named, children]) for (const id of map.keys()) if (!known.has(id)) map.delete(id);
    for (const [uid, kills] of pods) {
      if (runtime.has(uid)) forgetContainers(kills, known);
      else pods.delete(uid);
    }
    for (const [uid] of [...journal.entries()]) if (uid !== kernelKey && !runtime.has(uid)) journal.delete(uid);
  }

  function lookPeriodically(): void {
    lookAtAll();
    timer = clock.after(lookEveryMs, lookPeriodically);
  }

  const synced = runtime.onSynced(() => {
    lookAtAll();
    adopting = false;
    if (journal.get(kernelKey) === undefined) journal.set(kernelKey, {});
    timer = clock.after(lookEveryMs, lookPeriodically);
  });
  return {
    judge(podUid, container) {
      if (container.state !== 'exited' || container.exitCode !== 137) return container;
      try {
        readKernelLog();
        // Also where the runtime has said so: what explains this end explains no other.
        const kills = look(podUid, container.id);
        if (!wasOomKilled(kills, container)) return container;
        remember(podUid, kills);
        return { ...container, reason: 'OOMKilled' };
      } catch (error) {
        log.warn(
          { podUid, container: container.name, err: messageOf(error) },
          'cannot tell whether a container was killed for want of memory',
        );
        return container;
      }
    },
    [Symbol.dispose]() {
      synced[Symbol.dispose]();
      timer?.[Symbol.dispose]();
    },
  };
}
