import { messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { ReadonlyTable } from '../base/table.ts';
import { type AgentPod, podKey } from '../model/pod.ts';
import type { Preemption, Rejection } from './admission.ts';
import type { Occurrence, RecordEvent } from './apply.ts';
import type { Ending } from './lifecycle.ts';
import { preempted } from './preemption.ts';
import { createQuestion } from './question.ts';

/** The devices of plugins, which a pod that is new to the node has to have before it is admitted. */
export interface DeviceGrants {
  /** Whether the pod asks for some. */
  concerns(pod: AgentPod): boolean;
  /** Resolves to why it cannot have them; never rejects. */
  grant(pod: AgentPod, signal: AbortSignal): Promise<Rejection | undefined>;
  /** The pod is not here, or not any more: what it was given is free. */
  release(uid: string): void;
}

export interface AdmittingOptions {
  readonly log: Pick<Log, 'info' | 'warn'>;
  readonly signal: AbortSignal;
  readonly recordEvent: RecordEvent;
  readonly count?: ((occurrence: Occurrence) => void) | undefined;
  /** Whether the pod fits beside the `active` ones, which hold resources. */
  readonly admit: (pod: AgentPod, active: readonly AgentPod[]) => Rejection | Preemption | undefined;
  /** The pods that hold resources, but this one. */
  readonly others: (uid: string) => readonly AgentPod[];
  readonly devices: DeviceGrants;
  /** Has the Node read anew, so that `admit` sees it as it is. Absent standalone. */
  readonly refreshNode?: ((signal: AbortSignal) => Promise<void>) | undefined;
  /** By UID. */
  readonly endings: ReadonlyTable<Ending>;
  /** Wants a pod ended so that a critical one finds room. */
  readonly preempt: (uid: string, ending: Ending) => void;
  /** The pod while it is here and its end is not over. */
  readonly present: (uid: string) => AgentPod | undefined;
  /** What the pod waited for has come about: it is to be asked for again. */
  readonly again: (uid: string) => void;
  /** Told of each question that is awaited, so that nobody leaves before. */
  readonly track: (asking: Promise<void>) => void;
}

/** The taking in of pods that are new to the node: the book-keeping beside admission.ts, which decides. */
export interface Admitting {
  /** Whether a pod that is new to the node may run; it waits while pods that are less important make room for it. */
  answer(uid: string, pod: AgentPod): Rejection | 'waiting' | undefined;
  /** The pod has been taken in or refused: nothing is awaited for it any more. */
  settled(uid: string): void;
  /** A pod that is not admitted asks nothing any more, and has nothing. */
  withdraw(uid: string): void;
  /** Ends less important pods so that a critical one finds room. */
  makeRoom(preemption: Preemption): void;
  /** UIDs of the pods that room is being made for. */
  awaitingRoom(): string[];
  /** The pod has ended: one that it made room for may come in. */
  ended(uid: string): void;
  /** What the pod waits for here, in words for a person; undefined when nothing. */
  waitsFor(uid: string): string | undefined;
}

export function createAdmitting(options: AdmittingOptions): Admitting {
  const { log, devices, again, track } = options;
  // By critical pod: those that are ending so that it finds room.
  const preempting = new Map<string, ReadonlySet<string>>();
  // Of pods that the Node's labels would keep away: their refusal is for ever, and must not rest on labels that have just changed.
  const nodeRead = createQuestion<void>(again, track);
  const devicesGranted = createQuestion<Rejection | undefined>(again, track);

  function settled(uid: string): void {
    preempting.delete(uid);
    nodeRead.forget(uid);
    devicesGranted.forget(uid);
  }

  function withdraw(uid: string): void {
    if (devicesGranted.has(uid)) devices.release(uid);
    settled(uid);
  }

  async function readNode(uid: string): Promise<void> {
    try {
      await options.refreshNode?.(options.signal);
    } catch (error) {
      log.warn({ podUid: uid, err: messageOf(error) }, 'could not read the Node anew');
    }
  }

  function refuse(pod: AgentPod, rejection: Rejection): Rejection {
    const { uid } = pod.metadata;
    withdraw(uid);
    options.recordEvent(pod, 'Warning', rejection.reason, rejection.message);
    options.count?.({ kind: 'refused', reason: rejection.reason });
    log.info({ pod: podKey(pod), podUid: uid, ...rejection }, 'pod refused');
    // The event tells the reason alone; the status says besides what became of the pod (pkg/kubelet rejectPod).
    return { reason: rejection.reason, message: `Pod was rejected: ${rejection.message}` };
  }

  function makeRoom({ victims, resource }: Preemption): void {
    for (const victim of victims) {
      const { uid } = victim.metadata;
      if (options.endings.has(uid)) continue;
      options.recordEvent(victim, 'Warning', preempted.reason, preempted.message);
      options.count?.({ kind: 'preempted', resource });
      options.preempt(uid, { ...preempted, graceSeconds: undefined });
    }
  }

  /** The pods whose end this one waits for. */
  function leaving(uid: string): AgentPod[] {
    return [...(preempting.get(uid) ?? [])].flatMap((victim) => options.present(victim) ?? []);
  }

  return {
    answer(uid, pod) {
      if (leaving(uid).length > 0) return 'waiting';
      // Before anything else, as in upstream: what the pod was given counts as allocatable then, whatever its plugin says by now.
      if (devicesGranted.has(uid) || devices.concerns(pod)) {
        const granted = devicesGranted.answer(uid, () => devices.grant(pod, options.signal));
        if (granted === undefined) return 'waiting';
        if (granted.is !== undefined) return refuse(pod, granted.is);
      }
      const answer = options.admit(pod, options.others(uid));
      if (answer !== undefined && 'reason' in answer && answer.reason === 'NodeAffinity' && options.refreshNode !== undefined) {
        if (nodeRead.answer(uid, () => readNode(uid)) === undefined) return 'waiting';
      }
      if (answer === undefined) return undefined;
      if ('victims' in answer) {
        makeRoom(answer);
        const victims = answer.victims.map((victim) => victim.metadata.uid);
        log.info({ pod: podKey(pod), podUid: uid, victims }, 'pods make room for a critical one');
        preempting.set(uid, new Set(victims));
        return 'waiting';
      }
      return refuse(pod, answer);
    },
    settled,
    withdraw,
    makeRoom,
    awaitingRoom: () => [...preempting.keys()],
    ended(uid) {
      for (const [critical, victims] of preempting) if (victims.has(uid)) again(critical);
    },
    waitsFor(uid) {
      const making = leaving(uid);
      const names = making.map(podKey).join(', ');
      if (names !== '') return `room on this node: ${names} ${making.length === 1 ? 'is' : 'are'} being ended for it, being less important`;
      if (devicesGranted.has(uid)) return 'its devices, which their plugin is asked for';
      if (nodeRead.has(uid)) return 'the labels of this Node, read anew before the pod is refused for them';
      return undefined;
    },
  };
}
