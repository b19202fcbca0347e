import type { Image, StatusResponse } from '../../cri-protos/generated/cri.ts';
import { backoffDelayMs, jittered } from '../base/backoff.ts';
import type { Clock } from '../base/clock.ts';
import { hasCode, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { type ReadonlyTable, Table } from '../base/table.ts';
import type { KubeClient } from '../drivers/kube/client.ts';
import type { MachineFacts, NetworkFacts } from '../drivers/proc/machine.ts';
import type { Lease, NodeStatus } from '../model/generated/api.ts';
import type { AgentNode } from '../model/pod.ts';
import { isOlderVersion } from '../model/resource-version.ts';
import { planAddresses } from './addresses.ts';
import type { ReservationConfig } from './capacity.ts';
import { leaseNamespace, renewedLease } from './lease.ts';
import { nodePatch, sameStatus } from './patch.ts';
import { initialNode, keepMetadata, type RegistrationConfig, reconcileNode } from './registration.ts';
import {
  type NodeEvent,
  type Pressure,
  planNodeStatus,
  type RuntimeView,
  runtimeProblems,
  type StatusInput,
  type StatusPlan,
} from './status.ts';

/** The settings of the node room. Times in ms. */
export interface NodeConfig extends RegistrationConfig, ReservationConfig {
  readonly registerNode: boolean;
  readonly nodeStatusUpdateFrequencyMs: number;
  readonly nodeStatusReportFrequencyMs: number;
  readonly nodeLeaseDurationSeconds: number;
  readonly nodeStatusMaxImages: number;
  /** The port that the node's own server listens on. */
  readonly port: number;
  /** The pods' range where no control plane assigns one; empty for none. */
  readonly podCidr: string;
  /** See StatusInput. */
  readonly declaredFeatures: readonly string[] | undefined;
  /** True when device plugins have yet to tell what there is (no checkpoint of theirs): their resources on an old Node count as nothing. */
  readonly resetExtendedResources: boolean;
}

/** What the runtime says about itself: Version and Status of the CRI. */
export interface RuntimeAnswer {
  readonly name: string;
  readonly version: string;
  readonly status: StatusResponse;
}

/** The parts of the agent that the node room asks. */
export interface NodeOptions {
  /** Absent: standalone; the Node is kept in memory only. */
  readonly client: Pick<KubeClient, 'get' | 'create' | 'replace' | 'patch' | 'onReachable' | 'noteRestored'> | undefined;
  /** The node's own object from a watch, keyed by name. Absent when standalone. */
  readonly watched: ReadonlyTable<AgentNode> | undefined;
  /** Read when deciding, so that a reload counts at once. */
  readonly config: () => NodeConfig;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly machine: () => Promise<MachineFacts>;
  readonly network: () => Promise<NetworkFacts>;
  /** Addresses of a host name; may take as long as the resolver does. */
  readonly resolve: (name: string) => Promise<string[]>;
  readonly runtime: (signal: AbortSignal) => Promise<RuntimeAnswer>;
  readonly listImages: (signal: AbortSignal) => Promise<readonly Image[]>;
  /** Tells the runtime the pods' range: comma-separated CIDRs. */
  readonly updatePodCidr: (cidrs: string, signal: AbortSignal) => Promise<void>;
  /** An Event about the Node. */
  readonly event: (event: NodeEvent) => void;
  readonly pressure?: (() => Pressure) | undefined;
  /** Resources that device plugins offer; see StatusInput. */
  readonly devices?: (() => StatusInput['devices']) | undefined;
  /** What else keeps the node from being ready; see StatusInput. */
  readonly problems?: (() => readonly string[]) | undefined;
  readonly volumesInUse?: (() => readonly string[] | undefined) | undefined;
  /** In [0, 1), for jitter. */
  readonly random?: (() => number) | undefined;
}

/** Where the node stands with the cluster. */
export type NodeStanding =
  | { readonly kind: 'standalone' }
  | { readonly kind: 'registering'; readonly failures: number; readonly error: string | undefined }
  | { readonly kind: 'registered' }
  /** Someone deleted the Node object: as with kubelet, only a restart of the agent registers it again. */
  | { readonly kind: 'deleted'; readonly message: string };

/** The running node room. */
export interface NodeRoom extends AsyncDisposable {
  /** The Node as the API server has it, or as this agent would register it; undefined only until the machine has been looked at. */
  node(): AgentNode | undefined;
  /** Reads the Node from the API server, so that `node()` is not older than this call. Nothing to do standalone. Throws AgentError. */
  read(signal: AbortSignal): Promise<void>;
  /** The watched Nodes; a table of this one where there is no watch. */
  readonly nodes: ReadonlyTable<AgentNode>;
  /** Resolves with the first Node that `node()` can give. */
  readonly known: Promise<AgentNode>;
  readonly standing: NodeStanding;
  /** What keeps the container runtime from being ready, in kubelet's words; none when it is. */
  runtimeProblems(): readonly string[];
  /** The node status is computed and, where it differs, sent at once: for a pressure that began or a problem that ended. */
  refresh(): void;
}

// kubelet's numbers: registration backs off 100 ms → 7 s; the runtime is asked every 5 s, and every 100 ms for at most 2 minutes until it is first ready.
const registrationBackoff = { initialMs: 100, maxMs: 7_000 };
const runtimePollMs = 5_000;
const startPollMs = 100;
const startPollForMs = 120_000;
const imagesEveryMs = 30_000;
const resolveEveryMs = 300_000;
const runtimeDeadlineMs = 10_000;
const leaseJitter = 0.04;
const statusRetryMs = 200;
const cidrBackoff = { initialMs: 200, maxMs: 10_000 };
const cidrAuditMs = 60_000;

const noPressure: Pressure = { memory: false, disk: false, pid: false };

/**
 * Starts the node room: it registers the Node, keeps its status true, renews its lease and tells the runtime the pods' range.
 * The loops do not wait for one another: a hanging runtime or status update never stops the lease.
 */
export function startNode(options: NodeOptions): NodeRoom {
  const { client, watched, clock, log } = options;
  const random = options.random ?? Math.random;
  const controller = new AbortController();
  const stop = (): void => controller.abort(options.signal.reason);
  if (options.signal.aborted) stop();
  else options.signal.addEventListener('abort', stop, { once: true });
  const signal = controller.signal;
  const name = options.config().nodeName;
  const nodePath = `/api/v1/nodes/${encodeURIComponent(name)}`;

  let runtime: RuntimeView = { name: undefined, version: undefined, status: undefined, readyAtMono: undefined };
  let images: { list: readonly Image[]; atMono: number } | undefined;
  let resolved: { list: readonly string[]; atMono: number } | undefined;
  /** The newest Node known: from an answer to our own call, or from the watch. */
  let latest: AgentNode | undefined;
  /** The object that the watch showed last. */
  let watchedUid: string | undefined;
  /** The Node as this agent would register it. */
  let initial: AgentNode | undefined;
  let standing: NodeStanding = client === undefined ? { kind: 'standalone' } : { kind: 'registering', failures: 0, error: undefined };
  let rebootTold = false;
  let toldProblem = '';
  let failedUpdates = 0;
  let unschedulable = false;
  let lastReportMono: number | undefined;
  let reportDelayMs = 0;
  const gate = wakeGate();
  const runtimeGate = wakeGate();
  const cidrGate = wakeGate();
  let tellKnown: (node: AgentNode) => void = () => undefined;
  const own = watched === undefined ? new Table<AgentNode>('nodes') : undefined;
  const known = new Promise<AgentNode>((resolve) => {
    tellKnown = resolve;
  });

  // ---- The Node object.

  function currentNode(): AgentNode | undefined {
    return latest ?? initial;
  }

  /** True for a state of the known Node that comes before the known one. */
  function isBehind({ metadata: { uid, resourceVersion } }: AgentNode): boolean {
    return latest?.metadata.uid === uid && isOlderVersion(resourceVersion, latest?.metadata.resourceVersion);
  }

  /** Takes what the watch shows, unless it lags behind the answers to our own calls. */
  function learn(node: AgentNode): void {
    if (!isBehind(node)) take(node);
  }

  /**
   * Makes a call that answers with the Node, and takes the answer. One that is older than what was known when the call was made is of a server with another
   * history (an etcd that was restored), and counts.
   */
  async function ask(call: Promise<AgentNode>): Promise<AgentNode> {
    const mark = latest?.metadata.resourceVersion;
    const node = await call;
    if (latest?.metadata.resourceVersion === mark) take(node);
    else learn(node);
    return node;
  }

  const readNode = (api: NonNullable<typeof client>, s: AbortSignal): Promise<AgentNode> =>
    ask(api.get<AgentNode>(nodePath, s, { urgent: true }));

  function take(node: AgentNode): void {
    if (cidrsOf(latest) !== cidrsOf(node)) cidrGate.wake();
    latest = node;
    const wanted = node.spec?.unschedulable ?? false;
    if (wanted !== unschedulable) {
      unschedulable = wanted;
      const reason = wanted ? 'NodeNotSchedulable' : 'NodeSchedulable';
      options.event({ type: 'Normal', reason, message: `Node ${name} status is now: ${reason}` });
    }
    tellKnown(node);
  }

  function onWatched(): void {
    if (watched === undefined) return;
    const node = watched.get(name);
    if (node !== undefined) {
      const before = latest;
      watchedUid = node.metadata.uid;
      learn(node);
      if (standing.kind === 'deleted') {
        standing = { kind: 'registered' };
        log.info({ node: name }, 'the Node object is there again');
        gate.wake();
      }
      if (before?.metadata.uid !== node.metadata.uid) gate.wake();
    } else if (standing.kind === 'registered' && watchedUid !== undefined && watchedUid === latest?.metadata.uid) {
      // A Node that was just made is missing from the watch too, until the watch has caught up.
      noteDeleted();
    }
  }

  function noteDeleted(): void {
    if (standing.kind === 'deleted') return;
    const message = `Node ${name} was deleted from the API server; it is registered again when the agent restarts`;
    standing = { kind: 'deleted', message };
    // The last known Node stays for those who decide by its labels and allocatable.
    log.warn({ node: name }, 'the Node object was deleted from the API server; it is registered again when the agent restarts');
  }

  // ---- What the status is made of.

  async function pollRuntime(): Promise<void> {
    const before = runtimeWords();
    try {
      using deadline = clock.deadline(signal, runtimeDeadlineMs);
      const answer = await options.runtime(deadline.signal);
      const ready = answer.status.status?.conditions?.some((c) => c.type === 'RuntimeReady' && c.status === true) ?? false;
      runtime = {
        name: answer.name,
        version: answer.version,
        status: answer.status,
        readyAtMono: ready ? clock.mono() : runtime.readyAtMono,
      };
    } catch (error) {
      if (signal.aborted) return;
      log.debug({ err: messageOf(error) }, 'container runtime did not tell its status');
    }
    const after = runtimeWords();
    if (after !== before) {
      log.info({ problems: runtimeProblems(runtime, clock.mono()), status: runtime.status?.status }, 'container runtime status changed');
      gate.wake();
    }
  }

  function runtimeWords(): string {
    return JSON.stringify([runtimeProblems(runtime, clock.mono()), runtime.status?.status, runtime.version]);
  }

  function isReady(): boolean {
    const networkReady = runtime.status?.status?.conditions?.some((c) => c.type === 'NetworkReady' && c.status === true) ?? false;
    return networkReady && runtimeProblems(runtime, clock.mono()).length === 0;
  }

  async function listImages(): Promise<void> {
    const first = images === undefined;
    try {
      using deadline = clock.deadline(signal, runtimeDeadlineMs);
      images = { list: await options.listImages(deadline.signal), atMono: clock.mono() };
      if (first) gate.wake();
    } catch (error) {
      if (signal.aborted) return;
      log.debug({ err: messageOf(error) }, 'images could not be listed for the node status');
    }
  }

  async function resolvedNow(config: NodeConfig): Promise<readonly string[]> {
    // Only a node that was not told its address asks the resolver, which may be slow.
    if (config.nodeIPs.some((ip) => ip !== '0.0.0.0' && ip !== '::')) return [];
    if (resolved === undefined || clock.mono() - resolved.atMono >= resolveEveryMs)
      resolved = { list: await options.resolve(name), atMono: clock.mono() };
    return resolved.list;
  }

  async function plan(before: NodeStatus): Promise<StatusPlan> {
    const config = options.config();
    const [machine, network, hostAddresses] = await Promise.all([options.machine(), options.network(), resolvedNow(config)]);
    const made = planNodeStatus({
      nodeName: name,
      before,
      machine,
      addresses: planAddresses({
        nodeIPs: config.nodeIPs,
        hostname: config.hostname,
        cloudProviderExternal: config.cloudProviderExternal,
        network,
        resolved: hostAddresses,
        before: before.addresses ?? [],
      }),
      runtime,
      images: images?.list,
      config,
      port: config.port,
      pressure: options.pressure?.() ?? noPressure,
      devices: options.devices?.() ?? { capacity: {}, allocatable: {} },
      problems: options.problems?.() ?? [],
      declaredFeatures: config.declaredFeatures,
      volumesInUse: options.volumesInUse?.(),
      wallMs: clock.wall(),
      monoMs: clock.mono(),
    });
    const problem = made.problems.join('; ');
    if (problem !== '' && problem !== toldProblem) log.warn({ node: name, problem }, 'node status is incomplete');
    toldProblem = problem;
    return made;
  }

  function tell(events: readonly NodeEvent[]): void {
    for (const event of events) {
      // Once a life: the event is queued before the new boot id is stored.
      if (event.reason === 'Rebooted') {
        if (rebootTold) continue;
        rebootTold = true;
      }
      options.event(event);
    }
  }

  // ---- Registration.

  async function makeInitial(): Promise<{ node: AgentNode; events: readonly NodeEvent[] }> {
    const made = await plan({});
    initial = initialNode(options.config(), made.status);
    if (client === undefined) own?.set(name, initial);
    own?.markSynced();
    tellKnown(initial);
    return { node: initial, events: made.events };
  }

  async function register(api: NonNullable<typeof client>): Promise<void> {
    for (let failures = 0; ; ) {
      let retryNow: Promise<void> | undefined;
      let unhook: Disposable | undefined;
      try {
        const { node, events } = await makeInitial();
        await tryRegister(api, node, events);
        return;
      } catch (error) {
        signal.throwIfAborted();
        failures++;
        standing = { kind: 'registering', failures, error: messageOf(error) };
        const retryInMs = backoffDelayMs(registrationBackoff, failures);
        log[failures === 1 ? 'warn' : 'debug']({ node: name, err: messageOf(error), retryInMs }, 'the Node could not be registered');
        retryNow = new Promise((resolve) => {
          unhook = api.onReachable(resolve);
        });
        await Promise.race([clock.sleep(retryInMs, signal), retryNow]);
      } finally {
        unhook?.[Symbol.dispose]();
      }
    }
  }

  async function tryRegister(api: NonNullable<typeof client>, wanted: AgentNode, events: readonly NodeEvent[]): Promise<void> {
    try {
      await ask(api.create<AgentNode>('/api/v1/nodes', wanted, signal, { urgent: true }));
      tell(events);
      // What was just made holds the status already.
      lastReportMono = clock.mono();
      reportDelayMs = options.config().nodeStatusReportFrequencyMs * (random() - 0.5);
      log.info({ node: name }, 'Node registered');
    } catch (error) {
      // Creating may be forbidden to a node whose object someone else made.
      if (!hasCode(error, 'AlreadyExists', 'Forbidden')) throw error;
      let existing: AgentNode;
      try {
        existing = await readNode(api, signal);
      } catch (reading) {
        throw hasCode(reading, 'NotFound') ? error : reading;
      }
      const config = options.config();
      const patch = nodePatch(existing, reconcileNode(wanted, existing, config.resetExtendedResources));
      if (patch !== undefined) await ask(patchStatus(api, patch));
      log.info({ node: name, changed: patch !== undefined }, 'Node was registered before');
    }
    standing = { kind: 'registered' };
  }

  function patchStatus(api: NonNullable<typeof client>, patch: unknown): Promise<AgentNode> {
    return api.patch<AgentNode>(`${nodePath}/status`, patch, 'application/strategic-merge-patch+json', signal, {
      urgent: true,
      timeoutMs: options.config().nodeStatusUpdateFrequencyMs,
    });
  }

  // ---- Status.

  /** Brings the Node's status up to date; true when it is. */
  async function updateStatus(): Promise<boolean> {
    const shown = watched?.get(name);
    // The watch lags, or the server has gone back to an older state.
    if (client !== undefined && shown !== undefined && isBehind(shown)) {
      try {
        await readNode(client, signal);
      } catch (error) {
        signal.throwIfAborted();
        log.debug({ node: name, err: messageOf(error) }, 'the Node could not be read again');
        return false;
      }
    }
    const base = client === undefined ? initial : latest;
    if (base === undefined || standing.kind === 'deleted') return true;
    const made = await plan(base.status ?? {});
    const after: AgentNode = { ...base, metadata: { ...keepMetadata(options.config(), base), name }, status: made.status };
    if (client === undefined) {
      initial = after;
      own?.set(name, after);
      tell(made.events);
      return true;
    }
    const changed =
      !sameStatus(base.status ?? {}, made.status) || nodePatch({ metadata: base.metadata }, { metadata: after.metadata }) !== undefined;
    const config = options.config();
    const due = lastReportMono === undefined || clock.mono() - lastReportMono >= config.nodeStatusReportFrequencyMs + reportDelayMs;
    if (!changed && !due) return true;
    const patch = nodePatch(base, after);
    if (patch === undefined) return true;
    try {
      const startedAt = clock.mono();
      await ask(patchStatus(client, patch));
      tell(made.events);
      if (failedUpdates > 0) log.info({ node: name, failures: failedUpdates }, 'node status sent again');
      failedUpdates = 0;
      // Reports that nothing called for are spread, so that a cluster's nodes don't all report at once (kubelet's calculateDelay).
      reportDelayMs = changed || lastReportMono === undefined ? config.nodeStatusReportFrequencyMs * (random() - 0.5) : 0;
      lastReportMono = clock.mono();
      log.debug({ node: name, changed, tookMs: Math.round(clock.mono() - startedAt) }, 'node status sent');
      return true;
    } catch (error) {
      signal.throwIfAborted();
      if (hasCode(error, 'NotFound')) {
        noteDeleted();
        return true;
      }
      failedUpdates++;
      log[failedUpdates === 1 ? 'warn' : 'debug']({ node: name, err: messageOf(error) }, 'node status could not be sent');
      return false;
    }
  }

  async function statusLoop(): Promise<void> {
    if (client === undefined) await untilDone(makeInitial);
    else {
      if (options.config().registerNode) await register(client);
      else {
        await untilDone(makeInitial);
        await untilDone(() => readNode(client, signal));
        standing = { kind: 'registered' };
      }
      onWatched();
    }
    for (let failures = 0; !signal.aborted; ) {
      gate.clear();
      let done = false;
      try {
        done = await updateStatus();
      } catch (error) {
        signal.throwIfAborted();
        log.error({ node: name, err: messageOf(error) }, 'node status could not be computed');
      }
      failures = done ? 0 : failures + 1;
      const everyMs = options.config().nodeStatusUpdateFrequencyMs;
      // kubelet tries five times in a row, then waits for the next round; a wake during an outage must not turn into a storm.
      const waitMs = done ? everyMs : Math.min(everyMs, backoffDelayMs({ initialMs: statusRetryMs, maxMs: everyMs }, failures));
      if (done) await gate.wait(clock, waitMs, signal);
      else await clock.sleep(waitMs, signal);
    }
  }

  async function untilDone(step: () => Promise<unknown>): Promise<void> {
    for (let failures = 1; ; failures++) {
      try {
        await step();
        return;
      } catch (error) {
        signal.throwIfAborted();
        const retryInMs = backoffDelayMs(registrationBackoff, failures);
        log.warn({ node: name, err: messageOf(error), retryInMs }, 'the Node is not known yet');
        await clock.sleep(retryInMs, signal);
      }
    }
  }

  async function runtimeLoop(): Promise<void> {
    const startedAt = clock.mono();
    for (;;) {
      runtimeGate.clear();
      await pollRuntime();
      // Whatever hangs in the runtime hangs here, and the status goes on with what is known.
      if (runtime.status !== undefined && (images === undefined || clock.mono() - images.atMono >= imagesEveryMs)) await listImages();
      const hurry = !isReady() && clock.mono() - startedAt < startPollForMs;
      await runtimeGate.wait(clock, hurry ? startPollMs : runtimePollMs, signal);
    }
  }

  /** Tells the runtime the pods' range whenever it is another. */
  async function podCidrLoop(): Promise<void> {
    let told = '';
    for (let failures = 0; ; ) {
      cidrGate.clear();
      const cidrs = cidrsOf(latest) ?? options.config().podCidr;
      if (cidrs !== '' && cidrs !== told) {
        try {
          using deadline = clock.deadline(signal, runtimeDeadlineMs);
          await options.updatePodCidr(cidrs, deadline.signal);
          log.info({ podCIDRs: cidrs, before: told }, "the runtime was told the pods' address range");
          told = cidrs;
          failures = 0;
          // Its network may have been waiting for this.
          runtimeGate.wake();
        } catch (error) {
          signal.throwIfAborted();
          failures++;
          log[failures === 1 ? 'warn' : 'debug'](
            { podCIDRs: cidrs, err: messageOf(error) },
            "the runtime did not take the pods' address range",
          );
        }
      }
      await cidrGate.wait(clock, failures === 0 ? cidrAuditMs : backoffDelayMs(cidrBackoff, failures), signal);
    }
  }

  // ---- Lease.

  async function leaseLoop(api: NonNullable<typeof client>): Promise<void> {
    let lease: Lease | undefined;
    // The version of the last renewal: nobody else writes it so often, so that an older one tells of another history.
    let renewed: string | undefined;
    let failures = 0;
    const collection = `/apis/coordination.k8s.io/v1/namespaces/${leaseNamespace}/leases`;
    const path = `${collection}/${encodeURIComponent(name)}`;
    for (;;) {
      const config = options.config();
      const everyMs = (config.nodeLeaseDurationSeconds * 1000) / 4;
      const uid = standing.kind === 'deleted' ? undefined : latest?.metadata.uid;
      let waitMs = jittered(everyMs, leaseJitter, random());
      // Without a Node there is nothing to keep alive, and a lease without an owner would outlive us.
      if (uid === undefined) waitMs = Math.min(waitMs, 100);
      else {
        const call = { urgent: true, timeoutMs: everyMs };
        const node = { name, uid };
        try {
          if (lease?.metadata?.ownerReferences?.some((o) => o.uid !== uid)) lease = undefined;
          lease ??= await readLease(api, path, call);
          if (isOlderVersion(lease?.metadata?.resourceVersion, renewed)) {
            renewed = undefined;
            api.noteRestored();
          }
          // A lease of a Node that was deleted meanwhile is about to be collected; it becomes this Node's.
          if (lease?.metadata?.ownerReferences?.some((o) => o.uid !== uid))
            lease = { ...lease, metadata: { ...lease.metadata, ownerReferences: [] } };
          const body = renewedLease(lease, node, config.nodeLeaseDurationSeconds, clock.wall());
          lease =
            lease === undefined
              ? await api.create<Lease>(collection, body, signal, call)
              : await api.replace<Lease>(path, body, signal, call);
          renewed = lease.metadata?.resourceVersion;
          if (failures > 0) log.info({ node: name, failures }, 'node lease renewed again');
          failures = 0;
        } catch (error) {
          signal.throwIfAborted();
          failures++;
          // Someone else wrote or removed it: read it again.
          if (hasCode(error, 'Conflict', 'NotFound', 'AlreadyExists')) lease = undefined;
          waitMs = Math.min(waitMs, backoffDelayMs({ initialMs: 200, maxMs: 7_000 }, failures));
          log[failures === 1 ? 'debug' : 'warn'](
            { node: name, failures, err: messageOf(error), retryInMs: waitMs },
            'node lease could not be renewed',
          );
        }
      }
      await clock.sleep(waitMs, signal);
    }
  }

  async function readLease(
    api: NonNullable<typeof client>,
    path: string,
    call: { urgent: boolean; timeoutMs: number },
  ): Promise<Lease | undefined> {
    try {
      return await api.get<Lease>(path, signal, call);
    } catch (error) {
      if (hasCode(error, 'NotFound')) return undefined;
      throw error;
    }
  }

  // ---- Start and end.

  const subscriptions: Disposable[] = [];
  if (watched !== undefined) {
    subscriptions.push(
      watched.subscribe((key) => void (key === name && onWatched())),
      watched.onSynced(onWatched),
    );
  }
  if (client !== undefined) subscriptions.push(client.onReachable(() => gate.wake()));
  options.event({ type: 'Normal', reason: 'Starting', message: 'Starting kubelet.' });
  const running = [runtimeLoop(), podCidrLoop(), statusLoop(), ...(client === undefined ? [] : [leaseLoop(client)])].map((loop) =>
    loop.catch((error: unknown) => {
      if (!signal.aborted) log.error({ node: name, err: messageOf(error) }, 'a loop of the node room ended');
    }),
  );

  return {
    node: currentNode,
    async read(s) {
      if (client !== undefined) await readNode(client, s);
    },
    nodes: watched ?? own ?? new Table<AgentNode>('nodes'),
    known,
    get standing() {
      return standing;
    },
    runtimeProblems: () => runtimeProblems(runtime, clock.mono()),
    refresh: () => gate.wake(),
    async [Symbol.asyncDispose]() {
      controller.abort(options.signal.reason ?? new Error('node room closed'));
      options.signal.removeEventListener('abort', stop);
      for (const subscription of subscriptions) subscription[Symbol.dispose]();
      await Promise.all(running);
    },
  };
}

function cidrsOf(node: AgentNode | undefined): string | undefined {
  const cidrs = node?.spec?.podCIDRs ?? [];
  return cidrs.length > 0 ? cidrs.join(',') : node?.spec?.podCIDR;
}

/** Lets a loop sleep until its next round or a wake, whichever comes first. A wake during the round counts. */
function wakeGate(): { wake(): void; clear(): void; wait(clock: Clock, ms: number, signal: AbortSignal): Promise<void> } {
  let woken = false;
  let waiting: (() => void) | undefined;
  return {
    wake() {
      woken = true;
      waiting?.();
    },
    clear() {
      woken = false;
    },
    async wait(clock, ms, signal) {
      if (woken) return;
      const child = new AbortController();
      const onAbort = (): void => child.abort(signal.reason);
      if (signal.aborted) onAbort();
      else signal.addEventListener('abort', onAbort, { once: true });
      const wake = new Promise<void>((resolve) => {
        waiting = resolve;
      });
      try {
        await Promise.race([clock.sleep(ms, child.signal), wake]);
      } finally {
        signal.removeEventListener('abort', onAbort);
        waiting = undefined;
        // Ends the timer of a sleep that lost the race; its rejection is spoken for by the race.
        child.abort();
      }
    },
  };
}
