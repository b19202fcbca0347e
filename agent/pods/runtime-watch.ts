import type { Container, ContainerEventResponse, ContainerStatus, PodSandbox } from '../../cri-protos/generated/cri.ts';
import { type Clock, pause } from '../base/clock.ts';
import { hasCode, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Table } from '../base/table.ts';
import { type LastWords, readTerminationMessage } from './last-words.ts';
import type { RuntimeContainer, RuntimePod, RuntimeSandbox } from './observed.ts';
import { assemblePod, ownerOf, parseContainer, parseSandbox, parseSandboxListing } from './runtime-parse.ts';

type Signalled<Req, Res> = (request: Req, signal: AbortSignal) => Promise<Res>;

/** The runtime calls that looking takes. */
export interface RuntimeView {
  listPodSandbox: Signalled<{ filter?: { label_selector?: Record<string, string> } }, { items?: PodSandbox[] | undefined }>;
  listContainers: Signalled<{ filter?: { label_selector?: Record<string, string> } }, { containers?: Container[] | undefined }>;
  podSandboxStatus: Signalled<{ pod_sandbox_id: string }, { status?: Parameters<typeof parseSandbox>[0] | undefined }>;
  containerStatus: Signalled<{ container_id: string }, { status?: ContainerStatus | undefined }>;
  containerEvents(
    signal: AbortSignal,
  ): AsyncIterable<Pick<ContainerEventResponse, 'pod_sandbox_status' | 'container_id' | 'container_event_type'>>;
}

/** What a call to the runtime has just made: a sandbox, or a container in it. */
export interface Made {
  readonly sandboxId: string;
  readonly containerId?: string | undefined;
}

export interface RuntimeWatchOptions {
  readonly lastWords: LastWords;
  readonly cri: RuntimeView;
  readonly clock: Clock;
  readonly log: Log;
  /** Rows by pod UID; written by this watch alone. */
  readonly table: Table<RuntimePod>;
  readonly signal: AbortSignal;
  /** Between relists while the event stream is open, ms: the audit. */
  readonly auditIntervalMs: number;
  /** Between relists while there is no event stream, ms. */
  readonly relistIntervalMs: number;
  /** Told of a pod that the runtime could not tell about, though it answered otherwise. */
  readonly unseen?: ((uid: string, error: unknown) => void) | undefined;
  /** Adds what the kernel tells of a container's end to what the runtime does. */
  readonly judgeEnd?: ((podUid: string, container: RuntimeContainer) => RuntimeContainer) | undefined;
  /** Told of each complete look: how long it took, ms, and when it ended, on mono. */
  readonly relisted?: ((tookMs: number, endedAt: number) => void) | undefined;
}

/** The observer of the runtime. */
export interface RuntimeWatch extends AsyncDisposable {
  /**
   * Looks at one pod now and resolves when the table shows what was seen: all of it, or only what has just been made, which is the quicker; `afresh` also at
   * what changes by our own doing alone, the resources of running containers. Rejects when the runtime does not answer.
   */
  observe(uid: string, signal: AbortSignal, what?: 'afresh' | Made): Promise<void>;
  /** When the last complete look ended, on mono; undefined before the first. */
  readonly lastRelist: number | undefined;
  /** How long it took, ms. */
  readonly lastRelistTookMs: number | undefined;
  /** Why the last relist failed; undefined when it did not. */
  readonly problem: string | undefined;
  /** True while the runtime's event stream is open. */
  readonly streaming: boolean;
}

const startNewsDelayMs = 20;
// A runtime may learn why a container was killed after it has told of its end (containerd's TaskOOM after its TaskExit): it is asked again for so long.
const whyDelayMs = 1_000;
const whyPatienceMs = 15_000;

/**
 * Keeps the table of what the runtime holds: by its event stream where it has one, with a relist as the audit, else by relists. An observation that was
 * begun before a newer one of the same pod is dropped, so the table never goes back in time.
 */
export function watchRuntime(options: RuntimeWatchOptions): RuntimeWatch {
  const { cri, clock, log, table } = options;
  const controller = new AbortController();
  const stop = (): void => controller.abort(options.signal.reason);
  if (options.signal.aborted) stop();
  else options.signal.addEventListener('abort', stop, { once: true });

  // By pod UID: the sequence number of the newest observation begun that has been written.
  const written = new Map<string, number>();
  // By pod UID: the sequence number of the newest look at a part of the pod. A look at the whole that was begun earlier may not know that part yet, and knows
  // others that the part does not tell of: neither is right, and it is done once more.
  const parts = new Map<string, number>();
  // By pod UID: from which observation on what is known of running containers may be outdated, until one has been written that looked at them.
  const outdated = new Map<string, number>();
  let sequence = 0;
  let lastRelist: number | undefined;
  let lastRelistTookMs: number | undefined;
  let problem: string | undefined;
  let streaming = false;

  /** Writes a look at the whole pod; false when a later look at a part of it makes another necessary. */
  function write(uid: string, begun: number, pod: RuntimePod | undefined): boolean {
    if ((written.get(uid) ?? 0) > begun) return true;
    if ((parts.get(uid) ?? 0) > begun) return false;
    written.set(uid, begun);
    if (pod === undefined || (pod.sandboxes.length === 0 && pod.containers.length === 0)) table.delete(uid);
    else if (!samePod(table.get(uid), pod)) table.set(uid, pod);
    return true;
  }

  async function relist(): Promise<void> {
    const startedAt = clock.mono();
    const begun = ++sequence;
    const [{ items = [] }, { containers = [] }] = await Promise.all([
      cri.listPodSandbox({}, controller.signal),
      cri.listContainers({}, controller.signal),
    ]);
    const pods = new Map<string, { owner: NonNullable<ReturnType<typeof ownerOf>>; sandboxes: PodSandbox[]; containers: Container[] }>();
    const rowOf = (labels: Record<string, string> | undefined) => {
      const owner = ownerOf(labels);
      if (owner === undefined) return undefined;
      let row = pods.get(owner.uid);
      if (row === undefined) {
        row = { owner, sandboxes: [], containers: [] };
        pods.set(owner.uid, row);
      }
      return row;
    };
    for (const s of items) rowOf(s.labels)?.sandboxes.push(s);
    for (const c of containers) rowOf(c.labels)?.containers.push(c);
    const failures: unknown[] = [];
    await Promise.all(
      [...pods.values()].map(async ({ owner, sandboxes, containers }) => {
        try {
          const pod = await inspect(owner, sandboxes, containers, controller.signal);
          if (!write(owner.uid, begun, pod)) observeQuietly(owner.uid);
        } catch (error) {
          failures.push(error);
          if (!controller.signal.aborted) options.unseen?.(owner.uid, error);
        }
      }),
    );
    for (const uid of [...table.keys()]) if (!pods.has(uid) && !write(uid, begun, undefined)) observeQuietly(uid);
    for (const uid of written.keys()) {
      if (pods.has(uid) || table.has(uid)) continue;
      written.delete(uid);
      parts.delete(uid);
      outdated.delete(uid);
    }
    if (failures.length > 0) throw failures[0];
    lastRelist = clock.mono();
    lastRelistTookMs = lastRelist - startedAt;
    options.relisted?.(lastRelistTookMs, lastRelist);
    table.markSynced();
  }

  /** Fills in what lists do not tell; asks only about what may have changed. */
  async function inspect(
    owner: { uid: string; name: string; namespace: string },
    sandboxes: readonly PodSandbox[],
    containers: readonly Container[],
    signal: AbortSignal,
  ): Promise<RuntimePod> {
    const known = table.get(owner.uid);
    const afresh = (written.get(owner.uid) ?? 0) < (outdated.get(owner.uid) ?? 0);
    const [seenSandboxes, seenContainers] = await Promise.all([
      Promise.all(
        sandboxes.map((s) =>
          inspectSandbox(
            s,
            known?.sandboxes.find((k) => k.id === s.id),
            signal,
          ),
        ),
      ),
      Promise.all(containers.map((c) => inspectContainer(c, afresh ? undefined : known?.containers.find((k) => k.id === c.id), signal))),
    ]);
    return assemblePod(
      owner,
      seenSandboxes.filter((s) => s !== undefined),
      seenContainers.filter((c) => c !== undefined),
    );
  }

  async function inspectSandbox(
    listed: PodSandbox,
    known: RuntimeSandbox | undefined,
    signal: AbortSignal,
  ): Promise<RuntimeSandbox | undefined> {
    const ready = listed.state === 'SANDBOX_READY';
    if (known !== undefined && known.ready === ready && (!ready || known.ips.length > 0 || known.hostNetwork)) return known;
    if (!ready)
      return { ...parseSandboxListing(listed), ...(known === undefined ? {} : { ips: known.ips, hostNetwork: known.hostNetwork }) };
    try {
      const { status } = await cri.podSandboxStatus({ pod_sandbox_id: listed.id ?? '' }, signal);
      return status === undefined ? undefined : parseSandbox(status);
    } catch (error) {
      if (hasCode(error, 'NotFound')) return undefined;
      throw error;
    }
  }

  async function inspectContainer(
    listed: Container,
    known: RuntimeContainer | undefined,
    signal: AbortSignal,
  ): Promise<RuntimeContainer | undefined> {
    // An ended container does not change any more; a running one only by ending (or by a resize, whose action observes by itself).
    if (known?.state === 'exited' && listed.state === 'CONTAINER_EXITED' && !mayLearnWhy(known)) return known;
    if (known?.state === 'running' && listed.state === 'CONTAINER_RUNNING') return known;
    try {
      const { status } = await cri.containerStatus({ container_id: listed.id ?? '' }, signal);
      if (status === undefined) return undefined;
      const uid = ownerOf(listed.labels)?.uid;
      const seen = await seenContainer(uid, status, listed.pod_sandbox_id ?? '');
      if (uid !== undefined && known?.state !== 'exited' && mayLearnWhy(seen)) later(whyDelayMs, () => observeQuietly(uid));
      return seen;
    } catch (error) {
      if (hasCode(error, 'NotFound')) return undefined;
      throw error;
    }
  }

  async function seenContainer(uid: string | undefined, status: ContainerStatus, sandboxId: string): Promise<RuntimeContainer> {
    const words = await readTerminationMessage(status, options.lastWords, clock, controller.signal);
    const container = parseContainer(status, sandboxId, words);
    return uid === undefined ? container : (options.judgeEnd?.(uid, container) ?? container);
  }

  function mayLearnWhy({ state, exitCode, reason, finishedAt }: RuntimeContainer): boolean {
    return state === 'exited' && exitCode === 137 && reason !== 'OOMKilled' && clock.wall() - finishedAt < whyPatienceMs;
  }

  async function observe(uid: string, signal: AbortSignal, what?: 'afresh' | Made): Promise<void> {
    if (typeof what === 'object' && (await observePart(uid, what, signal))) return;
    const filter = { label_selector: { 'io.kubernetes.pod.uid': uid } };
    for (let done = false; !done; ) {
      const begun = ++sequence;
      if (what === 'afresh') outdated.set(uid, begun);
      const [{ items = [] }, { containers = [] }] = await Promise.all([
        cri.listPodSandbox({ filter }, signal),
        cri.listContainers({ filter }, signal),
      ]);
      const owner = ownerOf(items[0]?.labels ?? containers[0]?.labels);
      done = write(uid, begun, owner === undefined ? undefined : await inspect(owner, items, containers, signal));
    }
  }

  /** Adds what has just been made to what is known of the pod; false when the runtime does not have it any more. */
  async function observePart(uid: string, made: Made, signal: AbortSignal): Promise<boolean> {
    const begun = ++sequence;
    let owner: ReturnType<typeof ownerOf>;
    let sandbox: RuntimeSandbox | undefined;
    let container: RuntimeContainer | undefined;
    try {
      if (made.containerId === undefined) {
        const { status } = await cri.podSandboxStatus({ pod_sandbox_id: made.sandboxId }, signal);
        owner = ownerOf(status?.labels);
        sandbox = status && parseSandbox(status);
      } else {
        const { status } = await cri.containerStatus({ container_id: made.containerId }, signal);
        owner = ownerOf(status?.labels);
        container = status && (await seenContainer(owner?.uid, status, made.sandboxId));
      }
    } catch (error) {
      if (hasCode(error, 'NotFound')) return false;
      throw error;
    }
    if (owner?.uid !== uid) return false;
    // A look at the whole that was begun later has seen it as well.
    if ((written.get(uid) ?? 0) > begun) return true;
    const known = table.get(uid);
    const sandboxes = (known?.sandboxes ?? []).filter((s) => s.id !== sandbox?.id);
    const containers = (known?.containers ?? []).filter((c) => c.id !== container?.id);
    const pod = assemblePod(owner, sandbox === undefined ? sandboxes : [sandbox, ...sandboxes], [
      ...(container ? [container] : []),
      ...containers,
    ]);
    parts.set(uid, Math.max(parts.get(uid) ?? 0, begun));
    if (!samePod(known, pod)) table.set(uid, pod);
    return true;
  }

  async function relistLoop(): Promise<void> {
    while (!controller.signal.aborted) {
      try {
        await relist();
        if (problem !== undefined) log.info({}, 'container runtime answers again');
        problem = undefined;
      } catch (error) {
        if (controller.signal.aborted) return;
        if (problem === undefined) log.warn({ err: messageOf(error) }, 'container runtime does not answer');
        problem = messageOf(error);
      }
      const interval = streaming && problem === undefined ? options.auditIntervalMs : options.relistIntervalMs;
      await pause(clock, interval, controller.signal);
    }
  }

  async function eventLoop(): Promise<void> {
    while (!controller.signal.aborted) {
      try {
        const events = cri.containerEvents(controller.signal)[Symbol.asyncIterator]();
        // Whatever happened while no stream was open is caught by one relist, begun after the stream.
        streaming = true;
        for (let next = await events.next(); next.done !== true; next = await events.next()) {
          const { pod_sandbox_status, container_id, container_event_type } = next.value;
          const uid = pod_sandbox_status?.metadata?.uid;
          if (uid === undefined || uid === '') continue;
          // What is only created is nothing to act on: its start will tell, or the end of the call that was to start it.
          if (container_event_type === 'CONTAINER_CREATED_EVENT') continue;
          if (container_event_type === 'CONTAINER_STARTED_EVENT') observeStart(uid, container_id ?? '');
          else observeQuietly(uid);
        }
      } catch (error) {
        if (controller.signal.aborted) return;
        if (hasCode(error, 'Unimplemented')) {
          streaming = false;
          log.info({}, 'the container runtime has no event stream; relisting instead');
          return;
        }
        log.debug({ err: messageOf(error) }, 'runtime event stream broke');
      }
      streaming = false;
      await pause(clock, options.relistIntervalMs, controller.signal);
    }
  }

  /** A start is told twice, by this event and by the answer to the call, which knows what to look at: it goes first, and mostly leaves nothing to see. */
  function observeStart(uid: string, id: string): void {
    later(startNewsDelayMs, () => {
      const pod = table.get(uid);
      if (pod?.sandboxes.some((s) => s.id === id && s.ready) === true) return;
      if (pod?.containers.some((c) => c.id === id && c.state !== 'created') === true) return;
      observeQuietly(uid);
    });
  }

  function later(ms: number, act: () => void): void {
    const timer = clock.after(ms, () => {
      timers.delete(timer);
      act();
    });
    timers.add(timer);
  }

  // Events of one pod come in bursts: while one look is under way the next ones fold into one more.
  const looking = new Map<string, boolean>();
  const timers = new Set<Disposable>();
  function observeQuietly(uid: string): void {
    if (looking.has(uid)) {
      looking.set(uid, true);
      return;
    }
    looking.set(uid, false);
    observe(uid, controller.signal)
      .catch((error: unknown) => {
        if (controller.signal.aborted) return;
        log.debug({ podUid: uid, err: messageOf(error) }, 'could not look at pod after an event');
        options.unseen?.(uid, error);
      })
      .finally(() => {
        const again = looking.get(uid);
        looking.delete(uid);
        if (again === true) observeQuietly(uid);
      });
  }

  const loops = [relistLoop(), eventLoop()];
  return {
    observe,
    get lastRelist() {
      return lastRelist;
    },
    get lastRelistTookMs() {
      return lastRelistTookMs;
    },
    get problem() {
      return problem;
    },
    get streaming() {
      return streaming;
    },
    async [Symbol.asyncDispose]() {
      options.signal.removeEventListener('abort', stop);
      controller.abort(new Error('runtime watch closed'));
      for (const timer of timers) timer[Symbol.dispose]();
      await Promise.allSettled(loops);
    },
  };
}

function samePod(a: RuntimePod | undefined, b: RuntimePod): boolean {
  return a !== undefined && JSON.stringify(a) === JSON.stringify(b);
}
