import type { BackoffPolicy } from '../base/backoff.ts';
import { backoffDelayMs } from '../base/backoff.ts';
import { type Clock, pause } from '../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { type Loop, startLoop } from '../base/loop.ts';
import { type ReadonlyTable, Table } from '../base/table.ts';
import type { Container, PodStatus, ResourceStatus } from '../model/generated/api.ts';
import {
  type AgentPod,
  configFirstSeenAnnotation,
  containersOf,
  isTerminalPhase,
  type PodSource,
  podFullName,
  podKey,
} from '../model/pod.ts';
import type { Preemption, Rejection } from './admission.ts';
import { createAdmitting, type DeviceGrants } from './admitting.ts';
import { heldPod, podSize, resizeOf } from './allocation.ts';
import { type ApplyDeps, applyAction, fieldPathOf } from './apply.ts';
import { type Ending, nextLifecycle, type PodLifecycle } from './lifecycle.ts';
import { latestContainer, type RuntimePod } from './observed.ts';
import { planPod } from './plan.ts';
import type { Plan, Verdicts } from './plan-draft.ts';
import { isCleanedUp } from './plan-termination.ts';
import { type ActionResult, actionKey, type PodAction } from './pod-action.ts';
import { endEvent, exceededGraceMessage, hostIpMismatch, killOverdueAt, killPodFailure, statusFailure } from './pod-events.ts';
import { type AllocationRecord, createResizing } from './resizing.ts';
import { advanceBackoff, backoffKey, backoffUntil, crashLoopMessage } from './restart.ts';
import { isRestartingAll } from './restart-all.ts';
import type { RuntimeWatch } from './runtime-watch.ts';
import { computeStatus, rememberedStatus } from './status.ts';
import { failureKey, forgetGone, freshWork, type MutableWork, noteFailure, noteSuccess, stepName, touchesRuntime } from './work.ts';

/** A pod that a source wants on this node. */
export interface PodSpecRow {
  readonly pod: AgentPod;
  readonly source: PodSource;
}

/** A pod's status as it shall be published. */
export interface PodStatusRow {
  readonly pod: AgentPod;
  readonly status: PodStatus;
  /** Nothing of the pod is left on the node: the API object may go, if its deletion was asked for. */
  readonly cleanedUp: boolean;
}

/** What one pod is doing, for `/why` and `keelson status`. */
export interface PodActivity {
  readonly lifecycle: PodLifecycle['kind'];
  readonly waiting: Plan['waiting'];
  readonly inFlight: readonly string[];
  /** Steps that ended, oldest first. */
  readonly steps: readonly {
    readonly step: string;
    readonly startedAt: number;
    readonly tookMs: number;
    readonly error?: string | undefined;
  }[];
}

export interface PodsOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** By UID. Until it is synced nothing unknown is ended. */
  readonly specs: ReadonlyTable<PodSpecRow>;
  /** By UID. */
  readonly runtime: ReadonlyTable<RuntimePod>;
  /** By container ID. */
  readonly verdicts: ReadonlyTable<Verdicts & { readonly ready?: boolean | undefined }>;
  /** By UID: whoever wants a pod ended says so here. */
  readonly endings: ReadonlyTable<Ending>;
  /** Looks at a pod; `afresh` also at the resources of its running containers. */
  readonly observe: RuntimeWatch['observe'];
  /** By UID: the pods that may run here, with what they were given. Written here alone. */
  readonly admitted: Table<PodSpecRow>;
  /** What was set aside for each pod, and what its cgroups were last told: both outlive the agent. */
  readonly allocated: AllocationRecord;
  readonly actuated: AllocationRecord;
  /** Whether a container may swap. */
  readonly swaps: (pod: AgentPod, container: Container) => boolean;
  readonly apply: Omit<ApplyDeps, 'containerActuated' | 'podActuated'>;
  /** Asked once for a pod that is new to the node; `active` are the pods that hold resources. */
  readonly admit: (pod: AgentPod, active: readonly AgentPod[]) => Rejection | Preemption | undefined;
  /** Wants a pod ended so that a critical one finds room: the writer of `endings` for preemption. */
  readonly preempt: (uid: string, ending: Ending) => void;
  readonly devices: DeviceGrants & {
    /** `allocatedResourcesStatus` of a container. */
    health(uid: string, container: string): ResourceStatus[] | undefined;
  };
  /** Has the Node read anew, so that `admit` sees it as it is: labels may have changed just before a pod that selects them came. Absent standalone. */
  readonly refreshNode?: ((signal: AbortSignal) => Promise<void>) | undefined;
  readonly networkProblem: () => string | undefined;
  readonly hostIps: () => readonly string[];
  /** Whether this runtime handler can make mounts below a read-only one read-only too. */
  readonly recursiveReadOnly: (handler: string) => boolean;
  readonly runtimeName: string;
  /** Crash-loop back-off: 10 s → 300 s unless configured. */
  readonly crashPolicy: BackoffPolicy;
  /** The status last published by an earlier run of the agent, for pods that no API server remembers. */
  readonly remembered: (uid: string) => PodStatus | undefined;
  /** Told each status that is worked out, so that `remembered` can give it after a restart. */
  readonly remember: (uid: string, status: PodStatus) => void;
  /** Called when everything of a pod is gone and it is forgotten. */
  readonly forgotten: (uid: string) => void;
  readonly nodeEvent: (type: 'Warning', reason: 'ContainerGCFailed', message: string) => void;
  /** Pods that have left something on this node (folders, logs, cgroups), known or not. Rejects while the runtime does not answer. */
  readonly leftovers: () => Promise<readonly { uid: string; namespace: string; name: string }[]>;
}

export interface Pods extends AsyncDisposable {
  /** By UID. */
  readonly statuses: ReadonlyTable<PodStatusRow>;
  activity(uid: string): PodActivity | undefined;
  /** What a pod that is not admitted yet waits for; `undefined` for others. */
  awaitsAdmission(uid: string): PodActivity | undefined;
  /** Plans the pod again although nothing was observed: something it waits for (a Secret, a RuntimeClass) has changed. */
  poke(uid: string): void;
  /** Removes the containers of pods that have ended, which are kept for their logs only: the node's disk is full. */
  removeDead(): Promise<void>;
}

interface Machine {
  /** With what it was given. */
  pod: AgentPod;
  source: PodSource;
  inSource: boolean;
  lifecycle: PodLifecycle;
  rejection: Rejection | undefined;
  work: MutableWork;
  /** By action key. */
  readonly controllers: Map<string, AbortController>;
  readonly steps: { step: string; startedAt: number; tookMs: number; error?: string | undefined }[];
  waiting: Plan['waiting'];
  /** Failures in a row, by step. */
  readonly failureCounts: Map<string, number>;
  /** By container: the attempt whose BackOff event has been recorded. */
  readonly backoffTold: Map<string, number | undefined>;
  /** When (mono, ms) a container begins to wait for another reason than it is told to; undefined: not by itself. */
  reasonChangesAt: number | undefined;
  /** What was told of it when its end began. */
  statusAtEnd: PodStatus | undefined;
  /** The event that its end takes too long has been recorded. */
  overdueTold: boolean;
  /** The problem of the node's network that its last event told of. */
  networkTold: string | undefined;
}

// Failed steps are tried again after this, doubling; what they wait for usually announces itself earlier (a watched object, an event of the runtime).
const retryPolicy: BackoffPolicy = { initialMs: 500, maxMs: 10_000 };
// How long a container that could not be started waits for that reason before it waits for its back-off: a kubelet tells the one until it next looks at the
// pod, which is after its backOffPeriod at the least (pkg/kubelet/pod_workers.go completeWork).
const failureShownMs = 10_000;
const keptSteps = 64;
const leftoverAuditMs = 120_000;

/** Runs every pod of the node: plans, carries out, and tells statuses. Disposing leaves all containers as they are. */
export function startPods(options: PodsOptions): Pods {
  const { clock, log, specs, runtime, admitted } = options;
  const machines = new Map<string, Machine>();
  const statuses = new Table<PodStatusRow>('statuses');
  const underWay = new Set<Promise<void>>();
  // Pods of which only folders, logs or cgroups are left: to be cleaned up like any other that has ended.
  const leftBehind = new Map<string, RuntimePod>();
  const track = (asking: Promise<void>): void => {
    underWay.add(asking);
    void asking.finally(() => underWay.delete(asking));
  };
  const admitting = createAdmitting({
    log,
    signal: options.signal,
    recordEvent: options.apply.recordEvent,
    count: options.apply.count,
    admit: options.admit,
    others: activePods,
    devices: options.devices,
    refreshNode: options.refreshNode,
    endings: options.endings,
    preempt: options.preempt,
    present(uid) {
      const machine = machines.get(uid);
      return machine === undefined || machine.lifecycle.kind === 'terminated' ? undefined : machine.pod;
    },
    again: (uid) => loop.enqueue(uid),
    track,
  });
  const resizing = createResizing({
    clock,
    recordEvent: options.apply.recordEvent,
    allocated: options.allocated,
    actuated: options.actuated,
    admit: options.admit,
    swaps: options.swaps,
    others: activePods,
    preempt: admitting.makeRoom,
    changed(uid) {
      const machine = machines.get(uid);
      if (machine === undefined) return;
      machine.work.resizeFailure = undefined;
      machine.failureCounts.delete('resizePod');
      loop.enqueue(uid);
    },
  });
  const apply: ApplyDeps = { ...options.apply, containerActuated: resizing.containerActuated, podActuated: resizing.podActuated };
  using stack = new DisposableStack();

  const loop: Loop = startLoop({
    name: 'pods',
    clock,
    log,
    signal: options.signal,
    run: (uid) => step(uid),
  });
  const containerOwner = (containerId: string): string | undefined => {
    for (const [uid, pod] of runtime.entries()) if (pod.containers.some((c) => c.id === containerId)) return uid;
    return undefined;
  };
  stack.use(specs.subscribe((uid) => loop.enqueue(uid)));
  stack.use(runtime.subscribe((uid) => loop.enqueue(uid)));
  stack.use(options.endings.subscribe((uid) => loop.enqueue(uid)));
  stack.use(
    options.verdicts.subscribe((containerId) => {
      const uid = containerOwner(containerId);
      if (uid !== undefined) loop.enqueue(uid);
    }),
  );
  const everyone = (): void => {
    if (specs.synced && runtime.synced) admitted.markSynced();
    for (const uid of new Set([...specs.keys(), ...runtime.keys(), ...machines.keys()])) loop.enqueue(uid);
  };
  stack.use(specs.onSynced(everyone));
  stack.use(runtime.onSynced(everyone));
  everyone();
  const audit = auditLoop();
  const subscriptions = stack.move();

  async function auditLoop(): Promise<void> {
    while (!options.signal.aborted) {
      if (specs.synced && runtime.synced) {
        // What the node has may have grown meanwhile.
        resizing.retry();
        resizing.prune((uid) => machines.has(uid) || specs.has(uid) || runtime.has(uid));
        try {
          for (const { uid, namespace, name } of await options.leftovers()) {
            if (machines.has(uid) || specs.has(uid) || runtime.has(uid)) continue;
            log.info({ podUid: uid, pod: `${namespace}/${name}` }, 'cleaning up what a pod left behind');
            leftBehind.set(uid, { uid, namespace, name, sandboxes: [], containers: [] });
            loop.enqueue(uid);
          }
        } catch (error) {
          log.warn({ err: messageOf(error) }, 'could not look for what pods left behind');
          if (!options.signal.aborted) options.nodeEvent('Warning', 'ContainerGCFailed', messageOf(error));
        }
      }
      await pause(clock, specs.synced && runtime.synced ? leftoverAuditMs : 1000, options.signal);
    }
  }

  /** What the runtime holds of a pod: nothing, once it has been looked at as a whole and the pod was not there. */
  function seen(uid: string): RuntimePod | undefined {
    const pod = runtime.get(uid);
    if (pod !== undefined) return pod;
    return runtime.synced ? { uid, name: '', namespace: '', sandboxes: [], containers: [] } : undefined;
  }

  function machineFor(uid: string): Machine | undefined {
    const known = machines.get(uid);
    const row = specs.get(uid);
    if (known !== undefined) {
      if (row === undefined || !hasReturned(known, row)) {
        if (row !== undefined) known.pod = resizing.allocatedPod(row.pod);
        known.inSource = row !== undefined || !specs.synced;
        return known;
      }
      if (known.lifecycle.kind !== 'terminated') {
        known.inSource = false;
        return known;
      }
      // Whatever is under way ends first, and has us called again.
      if (known.work.inFlight.size > 0) return undefined;
      // What is left of the old life in the runtime counts as in upstream: its containers' next instances are restarts.
      machines.delete(uid);
      options.apply.count?.({ kind: 'returned', isStatic: row.source !== 'api' });
    }
    if (row === undefined) {
      admitting.withdraw(uid);
      // Unknown is not unwanted: only complete lists make an orphan.
      if (!specs.synced || !runtime.synced) return undefined;
      const orphan = runtime.get(uid) ?? leftBehind.get(uid);
      leftBehind.delete(uid);
      return orphan === undefined ? undefined : enter(uid, orphanPod(orphan), 'api', false);
    }
    // Whether it already runs here decides about admission.
    if (!runtime.synced) return undefined;
    if (row.source !== 'api' && hasPredecessor(row.pod)) return undefined;
    const remembered = rememberedStatus(options.remembered(uid), row, runtime.get(uid));
    // A manifest's pod always comes as Pending; what the API tells is newer than what we remember.
    const untold = row.source !== 'api' || row.pod.status?.phase === undefined;
    const pod = untold && remembered !== undefined ? { ...row.pod, status: remembered } : row.pod;
    const isNew = runtime.get(uid) === undefined && !isTerminalPhase(pod.status?.phase) && row.pod.metadata.deletionTimestamp === undefined;
    // What it was given before a restart of the agent it keeps, whatever its spec has come to ask for.
    const admission = isNew ? admitting.answer(uid, resizing.allocatedPod(row.pod)) : undefined;
    if (admission === 'waiting') return undefined;
    admitting.settled(uid);
    if (admission === undefined && !isTerminalPhase(pod.status?.phase)) {
      resizing.admit(pod);
      resizing.adopt(uid, pod.status?.conditions);
    }
    const machine = enter(uid, resizing.allocatedPod(pod), row.source, true);
    machine.rejection = admission;
    return machine;
  }

  /**
   * True of a manifest's pod that was taken away and is wanted again while its end is not over, or was not even noticed. A UID is made of what the
   * manifest says: it is the same, and the one that begins a second life.
   */
  function hasReturned({ lifecycle, pod }: Machine, wanted: PodSpecRow): boolean {
    if (wanted.source === 'api') return false;
    if (lifecycle.kind !== 'syncing') return lifecycle.cause.kind === 'removed';
    const seenFirst = (p: AgentPod): string | undefined => p.metadata.annotations?.[configFirstSeenAnnotation];
    return seenFirst(pod) !== seenFirst(wanted.pod);
  }

  function enter(uid: string, pod: AgentPod, source: PodSource, inSource: boolean): Machine {
    const machine: Machine = {
      pod,
      source,
      inSource,
      lifecycle: { kind: 'syncing' },
      rejection: undefined,
      work: freshWork(),
      controllers: new Map(),
      steps: [],
      waiting: [],
      failureCounts: new Map(),
      backoffTold: new Map(),
      reasonChangesAt: undefined,
      statusAtEnd: undefined,
      overdueTold: false,
      networkTold: undefined,
    };
    machines.set(uid, machine);
    return machine;
  }

  /**
   * True while something of an older static pod of this full name is still here. After a restart of the agent the older one is an orphan, and at first
   * perhaps only in the runtime's table.
   */
  function hasPredecessor(pod: AgentPod): boolean {
    const { name, namespace, uid } = pod.metadata;
    const same = (other: { name: string; namespace: string; uid: string }): boolean =>
      other.uid !== uid && other.name === name && other.namespace === namespace && specs.get(other.uid)?.source !== 'api';
    return [...machines.values()].some((machine) => same(machine.pod.metadata)) || [...runtime.values()].some(same);
  }

  function activePods(except: string): AgentPod[] {
    const holding = [...machines]
      // One that its source has dropped holds nothing any more, although it may still be ending: the scheduler gives its room away at that moment.
      .filter(([uid, m]) => uid !== except && m.lifecycle.kind !== 'terminated' && m.rejection === undefined && specs.has(uid))
      // By the newest allocation, not by what was last planned: of several resizes decided in one go each counts for the next.
      .map(([uid, m]) => heldPod(resizing.allocatedPod(specs.get(uid)?.pod ?? m.pod), resizing.actuated(uid), seen(uid)));
    // After a restart: those that come in later, but were here before.
    const returning = [...specs.entries()]
      .filter(([uid, { pod }]) => uid !== except && !machines.has(uid) && resizing.knows(uid) && !isTerminalPhase(pod.status?.phase))
      .map(([, { pod }]) => resizing.allocatedPod(pod));
    // Those that room is being made for hold it already, or a pod that comes meanwhile would take it.
    const awaited = admitting
      .awaitingRoom()
      .filter((uid) => uid !== except)
      .flatMap((uid) => specs.get(uid)?.pod ?? []);
    return [...holding, ...returning, ...awaited];
  }

  function step(uid: string): number | undefined {
    const machine = machineFor(uid);
    if (machine === undefined) return undefined;
    const desired = specs.get(uid)?.pod;
    if (desired !== undefined && machine.lifecycle.kind === 'syncing' && machine.rejection === undefined && specs.synced) {
      const had = resizing.allocatedPod(desired);
      resizing.consider(desired);
      const given = resizing.allocatedPod(desired);
      if (given !== had) machine.pod = given;
    }
    const held = seen(uid);
    if (held !== undefined) forgetGone(machine.work, machine.failureCounts, held);
    const observed = withComebacks(held, machine.work.comeBack);
    const now = { wall: clock.wall(), mono: clock.mono() };
    const published = statuses.get(uid)?.status ?? machine.pod.status ?? {};
    // What we have told is newer than what the API shows; of a manifest's pod the API shows nothing. Only the phase is the API's to say as well.
    const told: AgentPod = { ...machine.pod, status: { ...published, phase: machine.pod.status?.phase } };
    const rejected: Ending | undefined = machine.rejection && { ...machine.rejection, graceSeconds: 0 };
    // Until it rests: a pod that has to end and of which nothing runs has ended, and nobody would ask again.
    for (;;) {
      const before = machine.lifecycle;
      machine.lifecycle = nextLifecycle({
        pod: told,
        inSource: machine.inSource,
        ending: rejected ?? options.endings.get(uid),
        lifecycle: before,
        runtime: observed,
        published: [...(published.containerStatuses ?? []), ...(published.initContainerStatuses ?? [])],
        busy: isBusy(machine),
        restartingAll:
          isRestartingAll(machine.pod, observed) ||
          published.conditions?.some((c) => c.type === 'AllContainersRestarting' && c.status === 'True') === true,
        now,
      });
      if (machine.lifecycle.kind === before.kind) break;
      onTransition(uid, machine, before);
    }
    if (machine.rejection !== undefined || machine.lifecycle.kind === 'terminated') admitted.delete(uid);
    else if (admitted.get(uid)?.pod !== machine.pod) admitted.set(uid, { pod: machine.pod, source: machine.source });
    if (machine.lifecycle.kind === 'syncing' && observed !== undefined) resizing.settle(machine.pod, isResizing(uid, machine, observed));
    const networkProblem = options.networkProblem();
    const plan = planPod({
      pod: told,
      actuated: resizing.actuated(uid),
      inSource: machine.inSource,
      lifecycle: machine.lifecycle,
      runtime: observed,
      work: machine.work,
      verdicts: (id) => options.verdicts.get(id) ?? {},
      networkProblem,
      now,
    });
    machine.waiting = plan.waiting;
    const waitsForNetwork = networkProblem !== undefined && plan.waiting.some(({ message }) => message === networkProblem);
    if (waitsForNetwork && machine.networkTold !== networkProblem)
      options.apply.recordEvent(machine.pod, 'Warning', 'NetworkNotReady', networkProblem);
    machine.networkTold = waitsForNetwork ? networkProblem : undefined;
    // Launched first: the status below is worked out while they run.
    // The sandbox first, since it takes the longest and the others are done before it.
    const order = plan.actions.toSorted((a, b) => Number(b.kind === 'createSandbox') - Number(a.kind === 'createSandbox'));
    if (observed !== undefined) for (const action of order) launch(uid, machine, observed, action);
    // Worked out anew with the status; where none is shown any more, nothing is waited for.
    machine.reasonChangesAt = undefined;
    if (observed !== undefined || published.phase !== undefined) publish(uid, machine, observed, published, now.wall);
    return earliest(earliest(plan.wakeAt, machine.reasonChangesAt), tellOverdue(machine, now.mono));
  }

  /** Records once that the runtime takes too long to end the pod; returns when to look again, on mono. */
  function tellOverdue(machine: Machine, now: number): number | undefined {
    const overdueAt = machine.overdueTold ? undefined : killOverdueAt(machine.lifecycle);
    if (overdueAt === undefined || overdueAt > now) return overdueAt;
    machine.overdueTold = true;
    options.apply.recordEvent(machine.pod, 'Warning', 'ExceededGracePeriod', exceededGraceMessage);
    return undefined;
  }

  function isResizing(uid: string, machine: Machine, observed: RuntimePod): boolean {
    return resizeOf(machine.pod, resizing.actuated(uid), machine.work.podSize, observed).due;
  }

  /** True while something is under way that may yet make or end a container. */
  function isBusy(machine: Machine): boolean {
    for (const key of machine.work.inFlight.keys()) if (/^(start:|stop:|createSandbox)/.test(key)) return true;
    return false;
  }

  function onTransition(uid: string, machine: Machine, before: PodLifecycle): void {
    const { lifecycle } = machine;
    const name = podKey(machine.pod);
    const event = endEvent(lifecycle);
    if (event !== undefined) options.apply.recordEvent(machine.pod, 'Normal', event.reason, event.message);
    if (before.kind === 'syncing') machine.statusAtEnd = statuses.get(uid)?.status ?? machine.pod.status;
    if (lifecycle.kind === 'terminating') {
      log.info({ pod: name, podUid: uid, cause: lifecycle.cause, graceSeconds: lifecycle.graceSeconds }, 'pod is ending');
      // What is only waited for is given up; stops go on.
      for (const [key, controller] of machine.controllers) {
        if (/^(pull:|start:|createSandbox|volumes|prepare|resizePod)/.test(key))
          controller.abort(new AgentError('Canceled', 'the pod is ending'));
      }
      machine.work.sandboxFailure = undefined;
      machine.work.mountFailure = undefined;
      machine.work.prepareFailure = undefined;
    } else if (lifecycle.kind === 'terminated') {
      log.info(
        { pod: name, podUid: uid, tookMs: before.kind === 'terminating' ? Math.round(lifecycle.at - before.since) : 0 },
        'pod has ended',
      );
      admitting.ended(uid);
      resizing.ended(uid);
      options.devices.release(uid);
    }
  }

  function launch(uid: string, machine: Machine, observed: RuntimePod, action: PodAction): void {
    const key = actionKey(action);
    const now = clock.mono();
    machine.controllers.get(key)?.abort(new AgentError('Canceled', 'a more urgent stop took its place'));
    const controller = new AbortController();
    const abort = (): void => controller.abort(options.signal.reason);
    options.signal.addEventListener('abort', abort, { once: true });
    machine.controllers.set(key, controller);
    machine.work.inFlight.set(key, action.kind === 'stopContainer' ? now + action.graceSeconds * 1000 : Number.POSITIVE_INFINITY);
    if (action.kind === 'stopContainer' && action.comesBack) machine.work.comeBack.add(action.id);
    if ((action.kind === 'stopContainer' || action.kind === 'preStop') && !machine.work.stopSince.has(action.id))
      machine.work.stopSince.set(action.id, now);
    if (action.kind === 'mountVolumes') machine.work.mountingSince ??= now;
    if (action.kind === 'startContainer' && action.previousEnd !== undefined) {
      machine.work.crashes.set(
        action.container,
        advanceBackoff(
          options.crashPolicy,
          machine.work.crashes.get(action.container),
          hashOf(machine.pod, action.container),
          action.previousEnd,
          clock.wall(),
        ),
      );
    }
    const run = carryOut(uid, machine, observed, action, key, now, controller).finally(() => {
      options.signal.removeEventListener('abort', abort);
      underWay.delete(run);
    });
    underWay.add(run);
  }

  async function carryOut(
    uid: string,
    machine: Machine,
    observed: RuntimePod,
    action: PodAction,
    key: string,
    startedAt: number,
    controller: AbortController,
  ): Promise<void> {
    const { pod } = machine;
    let result: ActionResult | undefined;
    let failure: unknown;
    try {
      result = await applyAction(apply, pod, observed, action, controller.signal);
    } catch (error) {
      failure = error;
    }
    // Superseded: whoever took the place does the book-keeping.
    if (machine.controllers.get(key) !== controller) return;
    // The action stays in flight until its outcome is in the table, so that no plan is made on what was.
    if (touchesRuntime(action)) {
      const what = result?.kind === 'made' ? result.made : action.kind === 'resizePod' ? 'afresh' : undefined;
      await options.observe(uid, options.signal, what).catch((error: unknown) => {
        if (options.signal.aborted) return;
        log.debug({ podUid: uid, err: messageOf(error) }, 'could not look at pod after an action');
        // Only a sandbox just made has a word of its own (pkg/kubelet/kuberuntime/kuberuntime_manager.go SyncPod).
        if (action.kind === 'createSandbox')
          options.apply.recordEvent(pod, 'Warning', 'FailedPodSandBoxStatus', `Unable to get pod sandbox status: ${messageOf(error)}`);
        else options.apply.recordEvent(pod, 'Warning', 'FailedSync', statusFailure(error));
      });
    }
    if (machine.controllers.get(key) !== controller) return;
    machine.controllers.delete(key);
    machine.work.inFlight.delete(key);
    const tookMs = Math.round(clock.mono() - startedAt);
    const subject = stepName(action);
    const canceled = controller.signal.aborted;
    if (failure !== undefined && canceled) log.debug({ podUid: uid, step: subject, tookMs }, 'step given up');
    else if (failure !== undefined) {
      log.warn({ pod: podKey(pod), podUid: uid, step: subject, tookMs, err: messageOf(failure) }, 'step failed');
    } else log.debug({ podUid: uid, step: subject, tookMs }, 'step done');
    machine.steps.push({
      step: subject,
      startedAt: clock.wall() - tookMs,
      tookMs,
      error: failure === undefined ? undefined : messageOf(failure),
    });
    if (machine.steps.length > keptSteps) machine.steps.shift();
    if (failure === undefined) {
      machine.failureCounts.delete(failureKey(action));
      noteSuccess(machine.work, action, result);
      if (action.kind === 'prepare' && resizing.actuated(uid) === undefined) {
        // Made just now, with these values; one that was there before is told them again, since a resize may have been cut short.
        machine.work.podSize = podSize(pod);
        resizing.podActuated(pod);
      }
    } else if (!canceled) failed(machine, action, failure);
    if (action.kind === 'purge' && failure === undefined) forget(uid);
    loop.enqueue(uid);
  }

  function failed(machine: Machine, action: PodAction, error: unknown): void {
    const key = failureKey(action);
    const count = (machine.failureCounts.get(key) ?? 0) + 1;
    machine.failureCounts.set(key, count);
    const message = messageOf(error);
    const reason = error instanceof AgentError ? error.code : 'Unknown';
    noteFailure(machine.work, action, { reason, message, retryAt: retryAt(error) ?? clock.mono() + backoffDelayMs(retryPolicy, count) });
    if (action.kind === 'resizePod') {
      const observed = seen(machine.pod.metadata.uid);
      if (observed !== undefined && isResizing(machine.pod.metadata.uid, machine, observed)) resizing.failed(machine.pod, message);
    }
    const unkilled = machine.lifecycle.kind === 'syncing' ? undefined : killPodFailure(action, machine.pod.metadata.uid, message);
    if (unkilled !== undefined) options.apply.recordEvent(machine.pod, 'Warning', 'FailedKillPod', unkilled);
  }

  function publish(uid: string, machine: Machine, observed: RuntimePod | undefined, published: PodStatus, wall: number): void {
    // One that comes back begins anew: its end is nobody's news.
    if (!machine.inSource && specs.get(uid)?.source !== 'api') {
      statuses.delete(uid);
      return;
    }
    const { pod, work } = machine;
    const waiting = waitingReasons(machine, observed, wall);
    const starting = new Set(
      [...pod.spec.containers, ...(pod.spec.initContainers ?? [])]
        .filter((c) => c.lifecycle?.postStart !== undefined && work.inFlight.has(`start:${c.name}`))
        .map((c) => c.name),
    );
    const status = computeStatus({
      pod,
      previous: published,
      runtime: observed,
      runtimeName: options.runtimeName,
      lifecycle: machine.lifecycle,
      rejected: machine.rejection !== undefined,
      // A container in the present sandbox is proof that the volumes are there: an agent that has just started has not mounted them itself.
      volumesMounted:
        (work.mounted && !work.unmounted) || observed?.containers.some((c) => c.sandboxId === observed.sandboxes[0]?.id) === true,
      waiting,
      starting,
      actuated: resizing.actuated(uid),
      podSize: work.podSize,
      resize: resizing.conditions(uid),
      verdicts: (id) => options.verdicts.get(id) ?? {},
      deviceHealth: (container) => options.devices.health(uid, container),
      recursiveReadOnly: options.recursiveReadOnly,
      atEnd: machine.statusAtEnd,
      hostIps: options.hostIps(),
      now: wall,
    });
    const mismatch = hostIpMismatch(published.hostIP, status.hostIP);
    if (mismatch !== undefined) options.apply.recordEvent(pod, 'Warning', 'HostIPsIPFamilyMismatch', mismatch);
    const cleanedUp = isCleanedUp({ lifecycle: machine.lifecycle, runtime: observed, work });
    const last = statuses.get(uid);
    if (last !== undefined && last.cleanedUp === cleanedUp && last.pod === pod && JSON.stringify(last.status) === JSON.stringify(status))
      return;
    statuses.set(uid, { pod, status, cleanedUp });
    options.remember(uid, status);
  }

  /** Why containers wait, in the words of status; a BackOff event goes out once per wait. */
  function waitingReasons(
    machine: Machine,
    observed: RuntimePod | undefined,
    wall: number,
  ): Map<string, { reason: string; message: string }> {
    const { work, pod } = machine;
    const reasons = new Map<string, { reason: string; message: string }>();
    for (const [name, { reason, message }] of work.failures) {
      // That the sandbox cannot be made is told by an event; a container waits to be created all the same.
      if (reason !== 'FailedCreatePodSandBox') reasons.set(name, { reason, message });
    }
    machine.reasonChangesAt = undefined;
    for (const [name, crash] of work.crashes) {
      const latest = latestContainer(observed, name);
      const endedAt = latest === undefined ? work.resets.get(name)?.endedAt : latest.state === 'exited' ? latest.finishedAt : undefined;
      if (endedAt === undefined || backoffUntil(crash, hashOf(pod, name), endedAt, wall) === undefined) continue;
      const attempt = latest?.restartCount ?? work.resets.get(name)?.attempt;
      // One that is being started again without having waited is in no back-off: that begins with its next end.
      if (work.inFlight.has(`start:${name}`) && machine.backoffTold.get(name) !== attempt) continue;
      const message = crashLoopMessage(pod, name, crash.delayMs);
      // What the last start failed with comes first, or nobody would read what to mend; then the back-off, by which alerts know a container that loops.
      const failureUntil = endedAt + failureShownMs;
      if (!reasons.has(name) || wall >= failureUntil) reasons.set(name, { reason: 'CrashLoopBackOff', message });
      else machine.reasonChangesAt = earliest(machine.reasonChangesAt, clock.mono() + failureUntil - wall);
      if (machine.lifecycle.kind === 'syncing' && machine.backoffTold.get(name) !== attempt) {
        machine.backoffTold.set(name, attempt);
        const where = `${pod.metadata.name}_${pod.metadata.namespace}(${pod.metadata.uid})`;
        options.apply.recordEvent(
          pod,
          'Warning',
          'BackOff',
          `Back-off restarting failed container ${name} in pod ${where}`,
          fieldPathOf(pod, name),
        );
      }
    }
    return reasons;
  }

  function forget(uid: string): void {
    const machine = machines.get(uid);
    machines.delete(uid);
    statuses.delete(uid);
    admitted.delete(uid);
    loop.forget(uid);
    resizing.forget(uid);
    options.devices.release(uid);
    options.forgotten(uid);
    if (machine === undefined) return;
    // A static pod that waited for this one's end may come in now.
    const name = podFullName(machine.pod);
    for (const [other, row] of specs.entries()) if (podFullName(row.pod) === name) loop.enqueue(other);
  }

  return {
    statuses,
    activity(uid) {
      const machine = machines.get(uid);
      if (machine === undefined) return undefined;
      return {
        lifecycle: machine.lifecycle.kind,
        waiting: machine.waiting,
        inFlight: [...machine.work.inFlight.keys()],
        steps: [...machine.steps],
      };
    },
    awaitsAdmission(uid) {
      const row = specs.get(uid);
      if (row === undefined || machines.has(uid)) return undefined;
      const message =
        admitting.waitsFor(uid) ??
        (row.source !== 'api' && hasPredecessor(row.pod) ? 'the end of the pod that had its name before' : 'its turn');
      return { lifecycle: 'syncing', waiting: [{ subject: 'admission', message }], inFlight: [], steps: [] };
    },
    poke(uid) {
      const machine = machines.get(uid);
      if (machine === undefined) return;
      const now = clock.mono();
      for (const [name, failure] of machine.work.failures) {
        if (failure.reason === 'CreateContainerConfigError') machine.work.failures.set(name, { ...failure, retryAt: now });
      }
      if (machine.work.mountFailure !== undefined) machine.work.mountFailure = { ...machine.work.mountFailure, retryAt: now };
      loop.enqueue(uid);
    },
    async removeDead() {
      const before = new Set(underWay);
      for (const [uid, machine] of machines) {
        const observed = seen(uid);
        if (machine.lifecycle.kind !== 'terminated' || observed === undefined) continue;
        for (const c of observed.containers) {
          const action: PodAction = { kind: 'removeContainer', id: c.id };
          if (c.state === 'exited' && !machine.work.inFlight.has(actionKey(action))) launch(uid, machine, observed, action);
        }
      }
      await Promise.allSettled([...underWay].filter((run) => !before.has(run)));
    },
    async [Symbol.asyncDispose]() {
      subscriptions.dispose();
      await loop[Symbol.asyncDispose]();
      await Promise.allSettled([...underWay, audit]);
    },
  };
}

/** What the runtime holds, with what we know besides: which of the ended containers were stopped to be started again. */
function withComebacks(observed: RuntimePod | undefined, comeBack: ReadonlySet<string>): RuntimePod | undefined {
  if (observed === undefined || comeBack.size === 0) return observed;
  const marked = (c: RuntimePod['containers'][number]) =>
    c.state === 'exited' && comeBack.has(c.id) && latestContainer(observed, c.name) === c ? { ...c, comesBack: true } : c;
  return { ...observed, containers: observed.containers.map(marked) };
}

/** A stand-in for the spec of a pod that only the runtime still knows: enough to end it decently. */
function orphanPod(runtime: RuntimePod): AgentPod {
  const graces = runtime.containers.map((c) => c.terminationGraceSeconds).filter((g) => g !== undefined);
  const names = new Set(runtime.containers.map((c) => c.name));
  return {
    metadata: { name: runtime.name, namespace: runtime.namespace, uid: runtime.uid },
    spec: {
      containers: [...names].map((name) => ({ name, image: '' })),
      terminationGracePeriodSeconds: graces.length > 0 ? Math.max(...graces) : 30,
    },
  };
}

function earliest(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? (a ?? b) : Math.min(a, b);
}

/** The hash of a container as the spec has it now; empty when it has none of that name. */
function hashOf(pod: AgentPod, name: string): string {
  const found = containersOf(pod).find(({ container }) => container.name === name);
  return found === undefined ? '' : backoffKey(found.container);
}

/** When (mono, ms) an error that backs off by itself says that trying again makes sense; other errors leave that to us. */
function retryAt(error: unknown): number | undefined {
  // A pull that has just failed is asked for once more at once: the answer is then the back-off, with its event and its time.
  if (!hasCode(error, 'ImagePullBackOff') || !('retryAt' in error)) return undefined;
  return typeof error.retryAt === 'number' ? error.retryAt : undefined;
}
