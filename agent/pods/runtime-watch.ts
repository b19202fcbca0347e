import { open } from 'node:fs/promises';
import type { Container, ContainerStatus, PodSandbox } from '../../cri-protos/generated/cri.ts';
import type { Clock } from '../base/clock.ts';
import { hasCode, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Table } from '../base/table.ts';
import { terminationMessagePathAnnotation, terminationMessagePolicyAnnotation } from './labels.ts';
import type { RuntimeContainer, RuntimePod, RuntimeSandbox } from './observed.ts';
import { assemblePod, lastLogText, ownerOf, parseContainer, parseSandbox, parseSandboxListing } from './runtime-parse.ts';

type Signalled<Req, Res> = (request: Req, signal: AbortSignal) => Promise<Res>;

/** The runtime calls that looking takes. */
export interface RuntimeView {
  listPodSandbox: Signalled<{ filter?: { label_selector?: Record<string, string> } }, { items?: PodSandbox[] | undefined }>;
  listContainers: Signalled<{ filter?: { label_selector?: Record<string, string> } }, { containers?: Container[] | undefined }>;
  podSandboxStatus: Signalled<{ pod_sandbox_id: string }, { status?: Parameters<typeof parseSandbox>[0] | undefined }>;
  containerStatus: Signalled<{ container_id: string }, { status?: ContainerStatus | undefined }>;
  containerEvents(
    signal: AbortSignal,
  ): AsyncIterable<{ pod_sandbox_status?: Parameters<typeof parseSandbox>[0] | undefined; container_id?: string | undefined }>;
}

export interface RuntimeWatchOptions {
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
  /** Told of each complete look: how long it took, ms, and when it ended, on mono. */
  readonly relisted?: ((tookMs: number, endedAt: number) => void) | undefined;
}

/** The observer of the runtime. */
export interface RuntimeWatch extends AsyncDisposable {
  /**
   * Looks at one pod now and resolves when the table shows what was seen; `afresh` also at what changes by our own doing alone, the resources of running
   * containers. Rejects when the runtime does not answer.
   */
  observe(uid: string, signal: AbortSignal, afresh?: boolean): Promise<void>;
  /** When the last complete look ended, on mono; undefined before the first. */
  readonly lastRelist: number | undefined;
  /** How long it took, ms. */
  readonly lastRelistTookMs: number | undefined;
  /** Why the last relist failed; undefined when it did not. */
  readonly problem: string | undefined;
  /** True while the runtime's event stream is open. */
  readonly streaming: boolean;
}

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
  // By pod UID: from which observation on what is known of running containers may be outdated, until one has been written that looked at them.
  const outdated = new Map<string, number>();
  let sequence = 0;
  let lastRelist: number | undefined;
  let lastRelistTookMs: number | undefined;
  let problem: string | undefined;
  let streaming = false;

  function write(uid: string, begun: number, pod: RuntimePod | undefined): void {
    if ((written.get(uid) ?? 0) > begun) return;
    written.set(uid, begun);
    if (pod === undefined || (pod.sandboxes.length === 0 && pod.containers.length === 0)) table.delete(uid);
    else if (!samePod(table.get(uid), pod)) table.set(uid, pod);
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
          write(owner.uid, begun, await inspect(owner, sandboxes, containers, controller.signal));
        } catch (error) {
          failures.push(error);
        }
      }),
    );
    for (const uid of [...table.keys()]) if (!pods.has(uid)) write(uid, begun, undefined);
    for (const uid of written.keys()) {
      if (pods.has(uid) || table.has(uid)) continue;
      written.delete(uid);
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
    if (known?.state === 'exited' && listed.state === 'CONTAINER_EXITED') return known;
    if (known?.state === 'running' && listed.state === 'CONTAINER_RUNNING') return known;
    try {
      const { status } = await cri.containerStatus({ container_id: listed.id ?? '' }, signal);
      if (status === undefined) return undefined;
      return parseContainer(status, listed.pod_sandbox_id ?? '', await terminationMessage(status));
    } catch (error) {
      if (hasCode(error, 'NotFound')) return undefined;
      throw error;
    }
  }

  async function observe(uid: string, signal: AbortSignal, afresh = false): Promise<void> {
    const begun = ++sequence;
    if (afresh) outdated.set(uid, begun);
    const filter = { label_selector: { 'io.kubernetes.pod.uid': uid } };
    const [{ items = [] }, { containers = [] }] = await Promise.all([
      cri.listPodSandbox({ filter }, signal),
      cri.listContainers({ filter }, signal),
    ]);
    const owner = ownerOf(items[0]?.labels ?? containers[0]?.labels);
    write(uid, begun, owner === undefined ? undefined : await inspect(owner, items, containers, signal));
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
      const pause = streaming && problem === undefined ? options.auditIntervalMs : options.relistIntervalMs;
      await clock.sleep(pause, controller.signal).catch(() => undefined);
    }
  }

  async function eventLoop(): Promise<void> {
    while (!controller.signal.aborted) {
      try {
        const events = cri.containerEvents(controller.signal)[Symbol.asyncIterator]();
        // Whatever happened while no stream was open is caught by one relist, begun after the stream.
        streaming = true;
        for (let next = await events.next(); next.done !== true; next = await events.next()) {
          const uid = next.value.pod_sandbox_status?.metadata?.uid;
          if (uid !== undefined && uid !== '') observeQuietly(uid);
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
      await clock.sleep(options.relistIntervalMs, controller.signal).catch(() => undefined);
    }
  }

  // Events of one pod come in bursts: while one look is under way the next ones fold into one more.
  const looking = new Map<string, boolean>();
  function observeQuietly(uid: string): void {
    if (looking.has(uid)) {
      looking.set(uid, true);
      return;
    }
    looking.set(uid, false);
    observe(uid, controller.signal)
      .catch((error: unknown) => {
        if (!controller.signal.aborted) log.debug({ podUid: uid, err: messageOf(error) }, 'could not look at pod after an event');
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
      await Promise.allSettled(loops);
    },
  };
}

function samePod(a: RuntimePod | undefined, b: RuntimePod): boolean {
  return a !== undefined && JSON.stringify(a) === JSON.stringify(b);
}

// The longest termination message that is read (pkg/kubelet/container MaxContainerTerminationMessageLength), bytes.
const maxTerminationMessageBytes = 4096;
const logTailBytes = 64 * 1024;

/** What an ended container left as its last words. An unreadable file gives none: the container's own mistake must not hide its end. */
async function terminationMessage(status: ContainerStatus): Promise<string> {
  if (status.state !== 'CONTAINER_EXITED') return '';
  const path = status.annotations?.[terminationMessagePathAnnotation] ?? '';
  const mount = path === '' ? undefined : status.mounts?.find((m) => m.container_path === path);
  const written = mount?.host_path === undefined ? '' : await tail(mount.host_path, maxTerminationMessageBytes);
  const fallsBack =
    status.annotations?.[terminationMessagePolicyAnnotation] === 'FallbackToLogsOnError' &&
    status.exit_code !== 0 &&
    status.reason !== 'ContainerCannotRun';
  if (written !== '' || !fallsBack) return written;
  return lastLogText(await tail(status.log_path ?? '', logTailBytes));
}

async function tail(path: string, bytes: number): Promise<string> {
  try {
    await using file = await open(path, 'r');
    const { size } = await file.stat();
    const length = Math.min(size, bytes);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, size - length);
    return buffer.subarray(0, bytesRead).toString('utf8');
  } catch (error) {
    return hasErrno(error, 'ENOENT') ? '' : `Error on reading termination message from ${path}: ${messageOf(error)}`;
  }
}

function hasErrno(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
