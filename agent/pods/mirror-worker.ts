import type { Clock } from '../base/clock.ts';
import { AgentError, hasCode, unreachable } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { startLoop } from '../base/loop.ts';
import type { ReadonlyTable } from '../base/table.ts';
import { type AgentNode, type AgentPod, isStaticPod, podFullName } from '../model/pod.ts';
import { hashOf, type MirrorAction, mirroredHashOf, planMirrors } from './mirror.ts';
import type { PodSpecRow } from './worker.ts';

export interface MirrorsOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly nodeName: string;
  /** By UID. Static pods are those of other sources than the API. */
  readonly specs: ReadonlyTable<PodSpecRow>;
  /** Mirrors of this node that the API shows, by UID. */
  readonly mirrors: ReadonlyTable<AgentPod>;
  /** This node, by name. */
  readonly nodes: ReadonlyTable<AgentNode>;
  /** Whether this node still holds something of the pod of a UID. */
  readonly isHere: (uid: string) => boolean;
  readonly create: (pod: AgentPod, signal: AbortSignal) => Promise<unknown>;
  readonly get: (namespace: string, name: string, signal: AbortSignal) => Promise<AgentPod>;
  /** Without grace, bound to the UID. */
  readonly delete: (pod: AgentPod, signal: AbortSignal) => Promise<unknown>;
  /** Calls `listener` whenever the API server answers again after it did not. */
  readonly onReachable: (listener: () => void) => Disposable;
}

export interface Mirrors extends AsyncDisposable {
  /** Says that nothing of a pod is left here any more. */
  gone(uid: string): void;
}

const awayRetryMs = 10_000;
// How long the watch may take to tell of a deletion before it is tried again.
const deletionSettlesMs = 2_000;

/** Keeps one mirror on the API for each static pod. Local pods never wait for it: without an API server it simply has no success yet. */
export function startMirrors(options: MirrorsOptions): Mirrors {
  const { log, specs, mirrors } = options;
  // UIDs of mirrors that we deleted and the watch still shows → when (mono, ms). They count as gone for a moment only: an API server that has just started
  // answers a node's DELETE with NotFound while NodeRestriction's own cache of pods is empty (plugin/pkg/admission/noderestriction admitPod).
  const deleted = new Map<string, number>();
  // By UID: rows that are gone cannot be asked for their names.
  const names = new Map<string, string>();

  const loop = startLoop({
    name: 'mirrors',
    clock: options.clock,
    log,
    signal: options.signal,
    backoff: { initialMs: 200, maxMs: 60_000 },
    run: async (fullName, signal) => {
      if (!specs.synced || !mirrors.synced) return undefined;
      const now = options.clock.mono();
      for (const [uid, at] of deleted) if (now - at >= deletionSettlesMs) deleted.delete(uid);
      const node = options.nodes.get(options.nodeName);
      const named = (pod: AgentPod): boolean => podFullName(pod) === fullName;
      const plan = planMirrors({
        wanted: [...specs.values()].filter(({ pod, source }) => source !== 'api' && named(pod)).map(({ pod }) => pod),
        mirrors: [...mirrors.values()].filter((mirror) => named(mirror) && !deleted.has(mirror.metadata.uid)),
        isHere: options.isHere,
        node: node?.metadata.uid === undefined ? undefined : { name: options.nodeName, uid: node.metadata.uid },
      });
      try {
        for (const action of plan) await carryOut(action, signal);
      } catch (error) {
        // Away: its return brings us here again, and this is for what the return did not tell.
        if (hasCode(error, 'Unavailable')) return options.clock.mono() + awayRetryMs;
        throw error;
      }
      const unsettled = [...mirrors.values()].some((mirror) => named(mirror) && deleted.has(mirror.metadata.uid));
      return unsettled ? options.clock.mono() + deletionSettlesMs : undefined;
    },
  });

  async function carryOut(action: MirrorAction, signal: AbortSignal): Promise<void> {
    switch (action.kind) {
      case 'deleteMirror': {
        const { mirror, reason } = action;
        try {
          await options.delete(mirror, signal);
          log.info({ pod: podFullName(mirror), podUid: mirror.metadata.uid, reason }, 'mirror pod deleted');
        } catch (error) {
          // Gone already, or another pod has the name.
          if (!hasCode(error, 'NotFound', 'Conflict')) throw error;
        }
        if (mirrors.has(mirror.metadata.uid)) deleted.set(mirror.metadata.uid, options.clock.mono());
        return;
      }
      case 'createMirror':
        await create(action.pod, signal);
        return;
      default:
        unreachable(action);
    }
  }

  async function create(pod: AgentPod, signal: AbortSignal): Promise<void> {
    try {
      await options.create(pod, signal);
      log.info({ pod: podFullName(pod), podUid: hashOf(pod) }, 'mirror pod created');
    } catch (error) {
      if (!hasCode(error, 'AlreadyExists')) throw error;
      const present = await options.get(pod.metadata.namespace, pod.metadata.name, signal);
      // Ours, only the watch has not told of it yet.
      if (mirroredHashOf(present) === hashOf(pod)) return;
      // Not deleted after all: the retry does it.
      deleted.delete(present.metadata.uid);
      throw new AgentError('AlreadyExists', `static pod ${podFullName(pod)} cannot be shown: the API has another pod of that name`, {
        cause: error,
      });
    }
  }

  function enqueue(uid: string, pod: AgentPod | undefined): void {
    const name = pod === undefined ? names.get(uid) : podFullName(pod);
    if (name === undefined) return;
    if (pod === undefined) names.delete(uid);
    else names.set(uid, name);
    loop.enqueue(name);
  }
  const specChanged = (uid: string): void => {
    const pod = specs.get(uid)?.pod;
    if (pod === undefined || isStaticPod(pod)) enqueue(uid, pod);
  };
  const mirrorChanged = (uid: string): void => {
    const mirror = mirrors.get(uid);
    if (mirror === undefined) deleted.delete(uid);
    enqueue(uid, mirror);
  };
  const everyone = (): void => {
    for (const uid of specs.keys()) specChanged(uid);
    for (const uid of mirrors.keys()) mirrorChanged(uid);
  };
  using stack = new DisposableStack();
  stack.use(specs.subscribe(specChanged));
  stack.use(mirrors.subscribe(mirrorChanged));
  let nodeUid: string | undefined;
  stack.use(
    options.nodes.subscribe(() => {
      const uid = options.nodes.get(options.nodeName)?.metadata.uid;
      if (uid === nodeUid) return;
      nodeUid = uid;
      everyone();
    }),
  );
  stack.use(options.onReachable(everyone));
  stack.use(specs.onSynced(everyone));
  stack.use(mirrors.onSynced(everyone));
  const subscriptions = stack.move();
  return {
    gone(uid) {
      for (const mirror of mirrors.values()) if (mirroredHashOf(mirror) === uid) loop.enqueue(podFullName(mirror));
    },
    async [Symbol.asyncDispose]() {
      subscriptions.dispose();
      await loop[Symbol.asyncDispose]();
    },
  };
}
