// What must hold at every moment of the soak: what the API server is told of a pod, against what it was told before and what the runtime holds.

import type { ContainerStatus, Pod } from '../../../agent/model/generated/api.ts';
import type { Container, PodSandbox } from '../../../cri-protos/generated/cri.ts';

/** One look at both sides, taken at almost the same time. */
export type Look = {
  /** performance.now(). */
  readonly at: number;
  /** How long it took to ask both sides. */
  readonly tookMs: number;
  /** True when no fault is or was just being injected, so that whatever contradicts counts. */
  readonly quiet: boolean;
  readonly pods: readonly Pod[];
  readonly containers: readonly Container[];
  readonly sandboxes: readonly PodSandbox[];
  /** By runtime UID: the addresses its newest sandbox has; of some pods only. */
  readonly addresses: ReadonlyMap<string, readonly string[]>;
  /** What else does not fit, by a key that names the case: it counts like any other contradiction. */
  readonly further: ReadonlyMap<string, string>;
};

type Contradiction = { readonly text: string; readonly allowedMs: number };

/** Kept by pod UID as the API server has it. */
type Known = { phase: string; restarts: Map<string, number>; terminalAt: number | undefined; graceMs: number };

export type Checker = {
  /** Told of every state of a pod that a watch sees; `mayStart` is false for pods that may wait for ever. */
  event(pod: Pod, deleted: boolean, at: number): void;
  look(look: Look): void;
  readonly violations: readonly string[];
  /** The longest that something contradicted before it was set right, ms, and what it was. */
  readonly longest: { ms: number; text: string };
  readonly looks: number;
};

const settleMs = 10_000;
/** A pod that somebody removed from the API server by force still gets the grace of its spec; hooks and the load of the machine come on top. */
const orphanMs = 25_000;
/** The mirror of a static pod that was taken away shows it as it was until all of it is gone, as upstream's does: its end is nobody's news. */
const mirrorMs = 45_000;
const stuckMs = 45_000;
/** A look takes so long at most on a machine that keeps up; when it takes three times as long, a second counts for a third: what the agent does takes longer too. */
const lookMs = 400;

const rank: Record<string, number> = { Pending: 0, Running: 1, Succeeded: 2, Failed: 2 };

const podLabel = 'io.kubernetes.pod.uid';
const namespaceLabel = 'io.kubernetes.pod.namespace';
const containerLabel = 'io.kubernetes.container.name';

/** The UID that sandboxes and containers carry: a static pod's is that of its manifest, not its mirror's. */
export const runtimeUid = (pod: Pod): string => pod.metadata?.annotations?.['kubernetes.io/config.mirror'] ?? pod.metadata?.uid ?? '';

const allStatuses = (pod: Pod): ContainerStatus[] => [
  ...(pod.status?.initContainerStatuses ?? []),
  ...(pod.status?.containerStatuses ?? []),
  ...(pod.status?.ephemeralContainerStatuses ?? []),
];

const isTrue = (pod: Pod, type: string): boolean => pod.status?.conditions?.some((c) => c.type === type && c.status === 'True') === true;
const shortId = (id: string | undefined): string => (id ?? '').replace(/^containerd:\/\//, '').slice(0, 12);
const bareId = (id: string | undefined): string => (id ?? '').replace(/^[a-z]+:\/\//, '');

/** True while a pod has init containers to run, the first time or, in a new sandbox, again: it is Pending then, as upstream wants it (e2e_node/pod_status_test.go). */
const initialises = (pod: Pod): boolean =>
  (pod.spec?.initContainers ?? []).some(({ name, restartPolicy }) => {
    const state = pod.status?.initContainerStatuses?.find((status) => status.name === name)?.state;
    return restartPolicy === 'Always' ? state?.running === undefined : state?.terminated?.exitCode !== 0;
  });

/** What one state of a pod says that cannot be, whatever the runtime holds. */
const inconsistencies = (pod: Pod): string[] => {
  const words: string[] = [];
  const statuses = pod.status?.containerStatuses ?? [];
  if (isTrue(pod, 'Ready')) {
    for (const status of statuses)
      if (!status.ready || status.state?.running === undefined)
        words.push(`is Ready, and ${status.name} is ${JSON.stringify(status.state)}, ready ${status.ready}`);
    if (statuses.length !== pod.spec?.containers.length)
      words.push(`is Ready, and has ${statuses.length} of ${pod.spec?.containers.length} container statuses`);
    if (!isTrue(pod, 'ContainersReady')) words.push('is Ready, and ContainersReady is not True');
  }
  const inits = pod.spec?.initContainers ?? [];
  if (statuses.some((status) => status.state?.running !== undefined))
    for (const { name, restartPolicy } of inits) {
      if (restartPolicy === 'Always') continue;
      const status = pod.status?.initContainerStatuses?.find((each) => each.name === name);
      if (status?.state?.terminated?.exitCode !== 0)
        words.push(`has running containers, and init container ${name} is ${JSON.stringify(status?.state)}`);
    }
  const terminal = pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed';
  if (terminal && allStatuses(pod).some((status) => status.state?.running !== undefined))
    words.push(`is ${pod.status?.phase}, and shows a running container`);
  return words;
};

/** Where a pod's status and the runtime do not agree, by a key that names the case. */
const contradictions = (look: Look, known: ReadonlyMap<string, Known>, mayStart: (pod: Pod) => boolean): Map<string, Contradiction> => {
  const found = new Map<string, Contradiction>();
  const note = (key: string, text: string, allowedMs = settleMs): void => void found.set(key, { text, allowedMs });
  const byId = new Map(look.containers.map((each) => [each.id ?? '', each]));
  const running = look.containers.filter(({ state }) => state === 'CONTAINER_RUNNING');
  const uids = new Map(look.pods.map((pod) => [runtimeUid(pod), pod]));

  for (const pod of look.pods) {
    const name = pod.metadata?.name ?? '';
    const uid = runtimeUid(pod);
    const shown = new Map(allStatuses(pod).map((status) => [status.name, status]));
    const isEndingStatic = uid !== pod.metadata?.uid && !running.some(({ labels }) => labels?.[podLabel] === uid);
    for (const { id, labels } of running) {
      if (labels?.[podLabel] !== uid) continue;
      const container = labels[containerLabel] ?? '';
      const status = shown.get(container);
      if (status?.state?.running === undefined || bareId(status.containerID) !== id)
        note(
          `${id} unseen`,
          `${name}: ${container} runs as ${shortId(id)}, and the status shows ${JSON.stringify(status?.state)} of ${shortId(status?.containerID)}`,
        );
    }
    for (const status of shown.values()) {
      const id = bareId(status.containerID);
      const state = byId.get(id)?.state;
      if (status.state?.running !== undefined && state !== 'CONTAINER_RUNNING')
        note(
          `${id} gone`,
          `${name}: the status shows ${status.name} running as ${shortId(id)}, which the runtime ${state === undefined ? 'does not know' : `has as ${state}`}`,
          isEndingStatic ? mirrorMs : settleMs,
        );
    }
    for (const sandbox of look.sandboxes) {
      if (sandbox.labels?.[podLabel] !== uid || sandbox.state !== 'SANDBOX_READY') continue;
      const others = look.sandboxes.filter((each) => each.labels?.[podLabel] === uid && each.state === 'SANDBOX_READY');
      if (others.length > 1) note(`${uid} sandboxes`, `${name}: has ${others.length} sandboxes that are ready`);
    }
    const addresses = look.addresses.get(uid);
    const shownIps = (pod.status?.podIPs ?? []).map(({ ip }) => ip).join();
    if (addresses !== undefined && shownIps !== '' && pod.spec?.hostNetwork !== true && shownIps !== addresses.join())
      note(`${uid} ${shownIps}`, `${name}: the status shows ${shownIps}, its sandbox has ${addresses.join() || 'no address'}`);
    const facts = known.get(pod.metadata?.uid ?? '');
    if (pod.metadata?.deletionTimestamp !== undefined)
      note(`${pod.metadata.uid} stuck`, `${name}: is being deleted and stays`, stuckMs + (facts?.graceMs ?? 0));
    else if (
      pod.status?.phase === 'Pending' &&
      mayStart(pod) &&
      (pod.status.containerStatuses ?? []).every(({ restartCount }) => restartCount === 0) &&
      (pod.status.initContainerStatuses ?? []).every(({ restartCount }) => restartCount === 0)
    )
      note(
        `${pod.metadata?.uid} pending`,
        `${name}: does not start: ${JSON.stringify(allStatuses(pod).map(({ name, state }) => ({ name, ...state })))}`,
        stuckMs,
      );
    const exited = new Map<string, number>();
    for (const { labels, state } of look.containers)
      if (labels?.[podLabel] === uid && state === 'CONTAINER_EXITED')
        exited.set(labels[containerLabel] ?? '', (exited.get(labels[containerLabel] ?? '') ?? 0) + 1);
    for (const [container, count] of exited)
      if (count > 2) note(`${uid} ${container} dead`, `${name}: ${count} dead containers of ${container} are kept`, stuckMs);
  }
  for (const { id, labels } of running)
    if (!uids.has(labels?.[podLabel] ?? ''))
      note(`${id} orphan`, `container ${shortId(id)} of ${labels?.['io.kubernetes.pod.name']} runs, and its pod is gone`, orphanMs);
  for (const { id, labels } of look.sandboxes)
    if (!uids.has(labels?.[podLabel] ?? ''))
      note(`${id} orphan`, `sandbox ${shortId(id)} of ${labels?.['io.kubernetes.pod.name']} is there, and its pod is gone`, stuckMs);
  for (const [key, text] of look.further) note(key, text, orphanMs);
  return found;
};

/** Judges what happens in `namespace`; `tell` hears of every violation at once. */
export const createChecker = (namespace: string, mayStart: (pod: Pod) => boolean, tell: (text: string) => void): Checker => {
  const known = new Map<string, Known>();
  const open = new Map<string, { quietMs: number; told: boolean }>();
  const violations: string[] = [];
  const longest = { ms: 0, text: '' };
  let lastLook: Look | undefined;
  let looks = 0;

  const violate = (text: string): void => {
    if (violations.includes(text)) return;
    violations.push(text);
    tell(`VIOLATION ${text}`);
  };

  return {
    violations,
    longest,
    get looks() {
      return looks;
    },
    event(pod, deleted, at) {
      const uid = pod.metadata?.uid ?? '';
      const name = pod.metadata?.name ?? '';
      if (deleted) {
        known.delete(uid);
        return;
      }
      const phase = pod.status?.phase ?? 'Pending';
      const facts = known.get(uid) ?? { phase, restarts: new Map<string, number>(), terminalAt: undefined, graceMs: 0 };
      known.set(uid, facts);
      facts.graceMs = (pod.metadata?.deletionGracePeriodSeconds ?? 0) * 1000;
      const beginsAnew = facts.phase === 'Running' && phase === 'Pending' && initialises(pod);
      if (((rank[phase] ?? 0) < (rank[facts.phase] ?? 0) && !beginsAnew) || (rank[facts.phase] === 2 && phase !== facts.phase))
        violate(`${name}: phase went from ${facts.phase} to ${phase}`);
      facts.phase = phase;
      if (rank[phase] === 2) facts.terminalAt ??= at;
      for (const { name: container, restartCount } of allStatuses(pod)) {
        const before = facts.restarts.get(container) ?? 0;
        if (restartCount < before) violate(`${name}: restartCount of ${container} went from ${before} to ${restartCount}`);
        facts.restarts.set(container, restartCount);
      }
      for (const text of inconsistencies(pod)) violate(`${name}: ${text}`);
    },
    look(given) {
      looks += 1;
      const ours = (labels: Record<string, string> | undefined): boolean => labels?.[namespaceLabel] === namespace;
      const look = {
        ...given,
        containers: given.containers.filter(({ labels }) => ours(labels)),
        sandboxes: given.sandboxes.filter(({ labels }) => ours(labels)),
      };
      const passed =
        lastLook === undefined || !look.quiet || !lastLook.quiet ? 0 : (look.at - lastLook.at) * Math.min(1, lookMs / lastLook.tookMs);
      lastLook = look;
      const found = contradictions(look, known, mayStart);
      for (const key of open.keys()) if (!found.has(key)) open.delete(key);
      for (const [key, { text, allowedMs }] of found) {
        const entry = open.get(key);
        if (entry === undefined) {
          open.set(key, { quietMs: 0, told: false });
          continue;
        }
        entry.quietMs += passed;
        if (allowedMs === settleMs && entry.quietMs > longest.ms) Object.assign(longest, { ms: entry.quietMs, text });
        if (entry.quietMs > allowedMs && !entry.told) {
          entry.told = true;
          violate(`${text} (for more than ${allowedMs / 1000} s)`);
        }
      }
      // A UID that has ended never runs again, not even for a moment.
      for (const pod of look.pods) {
        const terminalAt = known.get(pod.metadata?.uid ?? '')?.terminalAt;
        if (terminalAt === undefined) continue;
        const since = performance.timeOrigin + terminalAt + 1000;
        for (const { labels, created_at, id } of look.containers)
          if (labels?.[podLabel] === runtimeUid(pod) && (created_at ?? 0) / 1e6 > since)
            violate(`${pod.metadata?.name}: has ended, and ${labels[containerLabel]} was made again (${shortId(id)})`);
      }
    },
  };
};
