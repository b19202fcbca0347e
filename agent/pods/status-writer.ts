import type { Clock } from '../base/clock.ts';
import { hasCode } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { startLoop } from '../base/loop.ts';
import type { ReadonlyTable } from '../base/table.ts';
import { type AgentPod, isStaticPod } from '../model/pod.ts';
import { isOlderVersion } from '../model/resource-version.ts';
import { mirroredHashOf, mirrorOf } from './mirror.ts';
import { alreadyShown, type StatusPatch, statusPatch } from './status-patch.ts';
import type { PodStatusRow } from './worker.ts';

export interface StatusWriterOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** By UID. */
  readonly statuses: ReadonlyTable<PodStatusRow>;
  /** What the API shows of static pods, by UID: their statuses go there. */
  readonly mirrors: ReadonlyTable<AgentPod>;
  /** PATCH …/status; the updated object. */
  readonly patchStatus: (pod: AgentPod, patch: StatusPatch, signal: AbortSignal) => Promise<AgentPod>;
  /** DELETE with no grace, bound to the UID. */
  readonly deletePod: (pod: AgentPod, signal: AbortSignal) => Promise<void>;
  /** Told when the API shows a pod's newest status: because it was patched, or because it did so already. */
  readonly shown?: (uid: string, patched: boolean) => void;
}

// An API server that has just started answers a node's DELETE with NotFound while NodeRestriction's own cache of pods is empty: until the watch shows that
// the object has gone, the deletion is repeated after this time.
const deletionSettlesMs = 2_000;

// An object that is older than the API's answer to our patch is the watch's lag for so long; after that the server has gone back to an older state.
const watchLagMs = 10_000;
// What the API shows is compared with what it should show so often, whatever was told meanwhile.
const auditMs = 60_000;

/** What the API said of an object that holds the newest status. */
interface Answer {
  readonly uid: string;
  readonly resourceVersion: string | undefined;
  readonly deletionTimestamp: string | undefined;
}

function answerOf({ metadata: { uid, resourceVersion, deletionTimestamp } }: AgentPod): Answer {
  return { uid, resourceVersion, deletionTimestamp };
}

/**
 * Brings statuses to the API, one pod's in order, many pods' at once; what changes while a request is under way folds into the next. Once a pod that is
 * being deleted is cleaned up and its last status is there, removes its API object.
 */
export function startStatusWriter(options: StatusWriterOptions): AsyncDisposable {
  const { statuses, mirrors } = options;
  // By UID: the text of the last patch that the API took, when (mono, ms), and what it then said of the object.
  const sent = new Map<string, { text: string; at: number } & Answer>();

  const loop = startLoop({
    name: 'status-writer',
    clock: options.clock,
    log: options.log,
    signal: options.signal,
    backoff: { initialMs: 200, maxMs: 10_000 },
    run: async (uid, signal) => {
      const row = statuses.get(uid);
      if (row === undefined) {
        sent.delete(uid);
        return undefined;
      }
      try {
        return await write(uid, row, signal);
      } catch (error) {
        // Gone, or the name belongs to a newer pod: nobody waits for this status any more. The watch tells the rest.
        if (!hasCode(error, 'NotFound', 'Conflict')) throw error;
        return undefined;
      }
    },
  });

  /** Whether the API has to be told. `at`: when to look again, on mono. */
  function compare(target: AgentPod, patch: StatusPatch, text: string, last: ({ text: string; at: number } & Answer) | undefined) {
    const now = options.clock.mono();
    const later = { patch: false, at: now + auditMs };
    const { resourceVersion } = target.metadata;
    if (last !== undefined && last.text === text) {
      // The very object that the API made of our patch, in its own spelling.
      if (last.resourceVersion === resourceVersion) return later;
      const isBehind = resourceVersion === undefined || isOlderVersion(resourceVersion, last.resourceVersion);
      if (isBehind && now < last.at + watchLagMs) return { patch: false, at: last.at + watchLagMs };
    } else if (last !== undefined && !isOlderVersion(last.resourceVersion, resourceVersion)) return { ...later, patch: true };
    // What the API holds by now may be somebody else's word: the node lifecycle controller marks the pods of a node that was cut off not ready, and only
    // its node agent takes that back.
    return { ...later, patch: !alreadyShown(target, patch) };
  }

  /** When to look again, on mono. */
  async function write(uid: string, row: PodStatusRow, signal: AbortSignal): Promise<number | undefined> {
    const isStatic = isStaticPod(row.pod);
    const target = isStatic ? mirrorOf(row.pod, mirrors.values()) : row.pod;
    // Not shown yet: its mirror's coming brings us here again.
    if (target === undefined) return undefined;
    const patch = statusPatch(target, row.status);
    const text = JSON.stringify(patch.status);
    const sentLast = sent.get(uid);
    const last = sentLast?.uid === target.metadata.uid ? sentLast : undefined;
    const compared = compare(target, patch, text, last);
    let shown = last !== undefined && isOlderVersion(target.metadata.resourceVersion, last.resourceVersion) ? last : answerOf(target);
    if (compared.patch) shown = answerOf(await options.patchStatus(target, patch, signal));
    // An object that shows the status already is as good as an answer.
    const isNews = last === undefined || isOlderVersion(last.resourceVersion, target.metadata.resourceVersion);
    if (compared.patch || isNews) sent.set(uid, { text, at: options.clock.mono(), ...shown });
    options.shown?.(uid, compared.patch);
    // A mirror's deletion ends nothing, and is no answer to the pod's end either.
    if (isStatic) return compared.at;
    const { deletionTimestamp, deletionGracePeriodSeconds, finalizers = [] } = row.pod.metadata;
    if (!row.cleanedUp || (deletionTimestamp ?? shown.deletionTimestamp) === undefined) return compared.at;
    // Deleted for good already: it goes when whoever has set the finalizers takes them off, and nothing we say hastens that.
    if (deletionGracePeriodSeconds === 0 && finalizers.length > 0) return compared.at;
    await options.deletePod(row.pod, signal);
    // The watch has yet to confirm it.
    return options.clock.mono() + deletionSettlesMs;
  }

  const subscription = statuses.subscribe((uid) => loop.enqueue(uid));
  const mirrorSubscription = mirrors.subscribe((uid) => {
    const mirror = mirrors.get(uid);
    const hash = mirror === undefined ? undefined : mirroredHashOf(mirror);
    if (hash !== undefined && statuses.has(hash)) loop.enqueue(hash);
  });
  for (const uid of statuses.keys()) loop.enqueue(uid);
  return {
    async [Symbol.asyncDispose]() {
      subscription[Symbol.dispose]();
      mirrorSubscription[Symbol.dispose]();
      await loop[Symbol.asyncDispose]();
    },
  };
}
