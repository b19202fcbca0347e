import type { Clock } from '../base/clock.ts';
import { AgentError, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { startLoop } from '../base/loop.ts';
import { type ReadonlyTable, Table } from '../base/table.ts';
import { resolveContainerPort } from '../model/container-port.ts';
import type { Container, Probe } from '../model/generated/api.ts';
import { kubeUserAgent } from '../model/kubernetes-version.ts';
import type { AgentPod } from '../model/pod.ts';
import { type Attempt, type ExecSync, execAttempt, grpcAttempt, tcpAttempt } from './attempt.ts';
import { createBudget } from './budget.ts';
import { type HttpGet, httpAttempt } from './http-attempt.ts';
import { type ProbeTarget, probeTargets, type RunningPod } from './targets.ts';
import {
  afterResult,
  eagerDelayMs,
  firstDueAt,
  nextDueAt,
  type ProbeKind,
  type ProbeRun,
  type ProbeVerdicts,
  probeKinds,
  probeOf,
  timeoutMsOf,
  verdictOf,
  withVerdict,
} from './verdict.ts';

/** What is kept of the verdicts over a restart of the agent, by container ID. Calls return at once; writing is the journal's business. */
export interface ProbeJournal {
  entries(): Iterable<[string, ProbeVerdicts]>;
  set(containerId: string, verdicts: ProbeVerdicts): void;
  delete(containerId: string): void;
}

export interface ProbesOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** The node's pods by UID. */
  readonly pods: ReadonlyTable<{ readonly pod: AgentPod }>;
  /** What the runtime runs, by pod UID. Verdicts of containers it lacks are dropped once it is synced. */
  readonly runtime: ReadonlyTable<RunningPod>;
  /** Pods that somebody wants ended, by UID. */
  readonly endings?: ReadonlyTable<unknown> | undefined;
  /** The node's own address, for pods on the host network. */
  readonly hostIp: () => string | undefined;
  /** The runtime's ExecSync. Its DeadlineExceeded is a probe that took too long. */
  readonly execSync: ExecSync;
  readonly httpGet: HttpGet;
  /** A probe's command with its `$(NAME)` replaced by what the container has in its environment. Throws when that cannot be told. */
  readonly expand: (target: ProbeTarget, command: readonly string[], signal: AbortSignal) => Promise<readonly string[]>;
  readonly event: (pod: AgentPod, type: 'Normal' | 'Warning', reason: string, message: string, fieldPath: string) => void;
  readonly journal?: ProbeJournal | undefined;
  /** Told of every counted attempt, for metrics. */
  readonly observe?:
    | ((target: ProbeTarget, kind: ProbeKind, result: 'successful' | 'failed' | 'unknown', seconds: number) => void)
    | undefined;
  /** How many commands in containers may be about to begin at once; default 10. */
  readonly execConcurrency?: number | undefined;
  /** In [0, 1); injected for tests. */
  readonly random?: (() => number) | undefined;
}

export interface Probes extends AsyncDisposable {
  /** By container ID; there only while the instance runs and a probe (or the journal) has spoken. */
  readonly verdicts: ReadonlyTable<ProbeVerdicts>;
}

// A probe that could not be carried out is tried so often before the attempt is given up (kubelet's maxProbeRetries).
const attemptsOnError = 3;
const defaultExecConcurrency = 10;
// To begin a command is what costs the runtime; most are over within this.
const execHoldMs = 1000;
const userAgent = kubeUserAgent('probe');
const titles: Readonly<Record<ProbeKind, string>> = { startup: 'Startup', readiness: 'Readiness', liveness: 'Liveness' };

interface Instance {
  target: ProbeTarget;
  /** It ran before this agent did. */
  readonly adopted: boolean;
  readonly gone: AbortController;
  readonly runs: Map<ProbeKind, ProbeRun>;
}

/** Starts probing whatever runs and has probes. A probe starts with its container, not at a tick, and its verdict belongs to that instance. */
export function startProbes(options: ProbesOptions): Probes {
  const { clock, log, pods, runtime } = options;
  const random = options.random ?? Math.random;
  const startedAtWall = clock.wall();
  const verdicts = new Table<ProbeVerdicts>('probe-verdicts');
  const remembered = new Map(options.journal?.entries() ?? []);
  const instances = new Map<string, Instance>();
  const byPod = new Map<string, Set<string>>();
  const execs = createBudget(options.execConcurrency ?? defaultExecConcurrency, execHoldMs, clock);

  const loop = startLoop({ name: 'probes', clock, log, signal: options.signal, run: runProbe });

  function keyOf(id: string, kind: ProbeKind): string {
    return `${id} ${kind}`;
  }

  function enqueue(id: string): void {
    for (const kind of probeKinds) loop.enqueue(keyOf(id, kind));
  }

  function publish(id: string, value: ProbeVerdicts): void {
    verdicts.set(id, value);
    options.journal?.set(id, value);
  }

  function drop(id: string): void {
    const instance = instances.get(id);
    instances.delete(id);
    for (const kind of probeKinds) loop.forget(keyOf(id, kind));
    instance?.gone.abort(new AgentError('Gone', `container ${id} runs no more`));
    verdicts.delete(id);
    remembered.delete(id);
    options.journal?.delete(id);
  }

  /** Brings the instances of one pod in line with what runs. */
  function follow(uid: string): void {
    const pod = pods.get(uid)?.pod;
    const ending = options.endings?.has(uid) === true;
    const targets = pod === undefined ? [] : probeTargets(pod, runtime.get(uid), options.hostIp(), ending);
    const known = byPod.get(uid) ?? new Set();
    const wanted = new Set(targets.map((t) => t.id));
    // Until both sources have spoken, a pod that is missing is only not known yet.
    if (pods.synced && runtime.synced) for (const id of known) if (!wanted.has(id)) drop(id);
    for (const target of targets) {
      const instance = instances.get(target.id);
      if (instance === undefined) adopt(target);
      else if (differs(instance.target, target)) {
        instance.target = target;
        enqueue(target.id);
      } else instance.target = target;
    }
    const now = new Set([...known, ...wanted].filter((id) => instances.has(id)));
    if (now.size === 0) byPod.delete(uid);
    else byPod.set(uid, now);
  }

  function adopt(target: ProbeTarget): void {
    const adopted = target.startedAt < startedAtWall;
    instances.set(target.id, { target, adopted, gone: new AbortController(), runs: new Map() });
    const before = remembered.get(target.id) ?? target.published;
    if (Object.values(before).some((v) => v !== undefined)) publish(target.id, before);
    enqueue(target.id);
  }

  function prune(): void {
    if (!pods.synced || !runtime.synced) return;
    for (const uid of [...byPod.keys()]) follow(uid);
    for (const id of [...remembered.keys()]) if (!instances.has(id)) drop(id);
  }

  async function runProbe(key: string, signal: AbortSignal): Promise<number | undefined> {
    const separator = key.lastIndexOf(' ');
    const id = key.slice(0, separator);
    const kind = key.slice(separator + 1) as ProbeKind;
    const instance = instances.get(id);
    if (instance === undefined) return undefined;
    const { target } = instance;
    const probe = probeOf(target.container, kind);
    if (probe === undefined) return undefined;
    const current = verdicts.get(id) ?? {};
    if (target.terminating && kind !== 'readiness') {
      // A pod that goes is not to be restarted: its last word is a good one, and nobody asks again.
      if (verdictOf(current, kind) !== true) publish(id, withVerdict(current, kind, true));
      return undefined;
    }
    if (kind === 'startup' ? current.startup !== undefined : target.container.startupProbe !== undefined && current.startup !== true) {
      return undefined;
    }
    if (kind === 'liveness' && current.liveness === false) return undefined;

    let run = instance.runs.get(kind);
    if (run === undefined) {
      const { adopted } = instance;
      const at = { startedAtWall: target.startedAt, nowWall: clock.wall(), nowMono: clock.mono(), adopted, random: random() };
      run = { dueAt: firstDueAt(probe, at), last: undefined, streak: 0, held: false, eager: 0 };
      // A first attempt that waits for an address is not due anew each time.
      instance.runs.set(kind, run);
    }
    if (run.held) return undefined;
    const now = clock.mono();
    const eager = run.eager > 0 && now < run.dueAt;
    if (now < run.dueAt && !eager) return run.dueAt;
    if (needsAddress(probe) && target.podIp === undefined) return undefined;

    const startedAt = clock.mono();
    const attempt = await attemptWithRetries(target, probe, signal, instance.gone.signal);
    // What was asked of an instance that has ended meanwhile says nothing.
    if (attempt === undefined || instances.get(id) !== instance) return undefined;
    const next = conclude(instance, kind, probe, run, attempt, eager, (clock.mono() - startedAt) / 1000);
    instance.runs.set(kind, next.run);
    return next.wakeAt;
  }

  function conclude(
    instance: Instance,
    kind: ProbeKind,
    probe: Probe,
    run: ProbeRun,
    attempt: Attempt,
    eager: boolean,
    seconds: number,
  ): { run: ProbeRun; wakeAt: number | undefined } {
    const { target } = instance;
    const now = clock.mono();
    const success = attempt.kind === 'success' || attempt.kind === 'warning';
    const counted = !eager || success;
    if (counted) tell(target, kind, attempt, seconds);
    // An attempt between two periods leaves the rhythm as it is, unless it succeeded: then the next is a period later.
    let next: ProbeRun = counted ? { ...run, dueAt: nextDueAt(probe, eager ? now : run.dueAt, now, random()), eager: 0 } : run;
    if (counted && attempt.kind !== 'error') {
      const result = afterResult(kind, probe, next, success);
      next = result.run;
      const current = verdicts.get(target.id) ?? {};
      if (result.verdict !== undefined && verdictOf(current, kind) !== result.verdict) {
        publish(target.id, withVerdict(current, kind, result.verdict));
        log.info(
          {
            pod: target.pod.metadata.name,
            podUid: target.pod.metadata.uid,
            container: target.container.name,
            kind,
            verdict: result.verdict,
          },
          'probe verdict',
        );
        // The other probes waited for this one.
        if (kind === 'startup') enqueue(target.id);
      }
    }
    if (next.held) return { run: next, wakeAt: undefined };
    const refused = attempt.kind === 'failure' && attempt.refused === true;
    const delay = eagerDelayMs(kind, next, refused, now);
    if (delay === undefined) return { run: { ...next, eager: 0 }, wakeAt: next.dueAt };
    return { run: { ...next, eager: next.eager + 1 }, wakeAt: now + delay };
  }

  /** Events in kubelet's words, and the numbers for metrics. */
  function tell(target: ProbeTarget, kind: ProbeKind, attempt: Attempt, seconds: number): void {
    const title = titles[kind];
    const event = (reason: string, message: string): void => options.event(target.pod, 'Warning', reason, message, target.fieldPath);
    switch (attempt.kind) {
      case 'success':
        options.observe?.(target, kind, 'successful', seconds);
        return;
      case 'warning':
        event('ProbeWarning', `${title} probe warning: ${attempt.message}`);
        options.observe?.(target, kind, 'successful', seconds);
        return;
      case 'failure':
        event('Unhealthy', `${title} probe failed: ${attempt.message}`);
        options.observe?.(target, kind, 'failed', seconds);
        return;
      case 'error':
        event('Unhealthy', `${title} probe errored and resulted in unknown state: ${attempt.message}`);
        options.observe?.(target, kind, 'unknown', seconds);
        return;
    }
  }

  /** Undefined when the instance has gone or the agent stops. */
  async function attemptWithRetries(
    target: ProbeTarget,
    probe: Probe,
    closing: AbortSignal,
    gone: AbortSignal,
  ): Promise<Attempt | undefined> {
    const controller = new AbortController();
    const stop = (): void => controller.abort(new AgentError('Gone', 'the probe is no longer wanted'));
    closing.addEventListener('abort', stop, { once: true });
    gone.addEventListener('abort', stop, { once: true });
    if (closing.aborted || gone.aborted) stop();
    const { signal } = controller;
    try {
      let attempt: Attempt | undefined;
      for (let i = 0; i < attemptsOnError && (attempt === undefined || attempt.kind === 'error'); i++) {
        attempt = await attemptOnce(target, probe, signal);
        if (signal.aborted) return undefined;
      }
      return attempt;
    } catch (error) {
      if (signal.aborted) return undefined;
      return { kind: 'error', message: messageOf(error) };
    } finally {
      closing.removeEventListener('abort', stop);
      gone.removeEventListener('abort', stop);
    }
  }

  async function attemptOnce(target: ProbeTarget, probe: Probe, signal: AbortSignal): Promise<Attempt> {
    const { container } = target;
    const timeoutMs = timeoutMsOf(probe);
    const podIp = target.podIp ?? '';
    if (probe.exec !== undefined) {
      const written = probe.exec.command ?? [];
      const command = await options.expand(target, written, signal);
      return await execs.run(signal, () => execAttempt(options.execSync, target.id, { command, written }, timeoutMs, signal));
    }
    if (probe.httpGet !== undefined) {
      const question = { action: probe.httpGet, container, podIp, userAgent };
      return await httpAttempt(options.httpGet, question, timeoutMs, clock, signal);
    }
    if (probe.tcpSocket !== undefined) {
      const port = resolveContainerPort(probe.tcpSocket.port, container);
      if ('problem' in port) return { kind: 'error', message: port.problem };
      return await tcpAttempt(probe.tcpSocket.host || podIp, port.port, timeoutMs, clock, signal);
    }
    if (probe.grpc !== undefined) {
      return await grpcAttempt(podIp, probe.grpc.port, probe.grpc.service ?? '', timeoutMs, userAgent, clock, signal);
    }
    return {
      kind: 'error',
      message: `missing probe handler for ${target.pod.metadata.namespace}/${target.pod.metadata.name}:${container.name}`,
    };
  }

  const subscriptions = [
    pods.subscribe(follow),
    runtime.subscribe(follow),
    ...(options.endings === undefined ? [] : [options.endings.subscribe(follow)]),
    pods.onSynced(prune),
    runtime.onSynced(prune),
  ];
  for (const uid of pods.keys()) follow(uid);
  prune();

  return {
    verdicts,
    async [Symbol.asyncDispose]() {
      for (const subscription of subscriptions) subscription[Symbol.dispose]();
      for (const { gone } of instances.values()) gone.abort(new AgentError('Closed', 'probing has ended'));
      await loop[Symbol.asyncDispose]();
    },
  };
}

function needsAddress(probe: Probe): boolean {
  if (probe.exec !== undefined) return false;
  return !(probe.httpGet?.host || probe.tcpSocket?.host);
}

/** Whether a change of the target is one that its probes wait for. */
function differs(a: ProbeTarget, b: ProbeTarget): boolean {
  return a.podIp !== b.podIp || a.terminating !== b.terminating || probesOf(a.container) !== probesOf(b.container);
}

function probesOf(container: Container): string {
  return JSON.stringify([container.startupProbe, container.readinessProbe, container.livenessProbe]);
}
