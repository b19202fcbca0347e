import { ownValue } from '../../base/own.ts';
import type { ContainerStatus } from '../../model/generated/api.ts';
import type { LocalPod, LocalStatus, LocalWhy } from '../../server/local.ts';
import type { InRules } from '../../server/local-services.ts';

/** `850 ms`, `3.2 s`, `2m10s`, `5h3m`, `4d2h`. */
export function formatTook(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.floor(ms / 1000);
  const parts = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'm'],
    [seconds % 60, 's'],
  ] as const;
  const first = parts.findIndex(([n]) => n > 0);
  return parts
    .slice(first, first + 2)
    .filter(([n]) => n > 0)
    .map(([n, unit]) => `${n}${unit}`)
    .join('');
}

/** The name that a person gave the pod: a static pod's own name ends with the node's. */
export function shortName(pod: LocalPod['pod'], node: string): string {
  const { name, namespace, annotations } = pod.metadata;
  const source = annotations?.['kubernetes.io/config.source'];
  const suffix = `-${node.toLowerCase()}`;
  const own = (source === 'file' || source === 'http') && name.endsWith(suffix) ? name.slice(0, -suffix.length) : name;
  return namespace === 'default' ? own : `${namespace}/${own}`;
}

/** The word for a pod's state, as `kubectl get pods` has it. */
export function stateOf({ pod }: LocalPod): string {
  const { status } = pod;
  if (pod.spec === undefined || pod.metadata.deletionTimestamp !== undefined) return 'Terminating';
  if (status?.reason !== undefined) return status.reason;
  const inits = status?.initContainerStatuses ?? [];
  for (const [i, init] of inits.entries()) {
    const { terminated, waiting, running } = init.state ?? {};
    if (terminated?.exitCode === 0 || (running !== undefined && init.started === true)) continue;
    if (terminated !== undefined) return `Init:${terminated.reason ?? `ExitCode:${terminated.exitCode}`}`;
    if (waiting?.reason !== undefined && waiting.reason !== 'PodInitializing') return `Init:${waiting.reason}`;
    return `Init:${i}/${inits.length}`;
  }
  const word = (container: ContainerStatus): string | undefined =>
    container.state?.waiting?.reason ?? container.state?.terminated?.reason ?? undefined;
  const phase = status?.phase ?? 'Pending';
  if (phase === 'Succeeded') return 'Completed';
  const words = (status?.containerStatuses ?? []).map(word).filter((w) => w !== undefined && w !== 'Completed');
  return words.at(-1) ?? phase;
}

export function isReady({ pod }: LocalPod): boolean {
  return pod.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True') === true;
}

/** True when the pod has nothing more to do before it counts as up: ready, or ended well. */
export function isSettled(local: LocalPod): boolean {
  return isReady(local) || local.pod.status?.phase === 'Succeeded';
}

/** True when waiting longer will hardly help: it has failed, or fails again and again. */
export function isStuck(local: LocalPod): boolean {
  return (
    local.pod.status?.phase === 'Failed' || /CrashLoopBackOff|ImagePullBackOff|InvalidImageName|ErrImageNeverPull/.test(stateOf(local))
  );
}

/** Rows as columns, two spaces apart. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows.reduce<number[]>((found, row) => row.map((cell, i) => Math.max(found[i] ?? 0, cell.length)), []);
  return rows
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** `keelson status`: the node in a line, its pods in a table, then whatever needs a person. */
export function describeStatus(status: LocalStatus, now: number): string {
  const kind = status.standalone ? 'standalone' : 'in a cluster';
  const lines = [`Node ${status.node}, ${kind}, ${status.runtime}, agent up for ${formatTook(now - status.startedAt)}`];
  if (status.manifests !== undefined) lines.push(`Manifests: ${status.manifests}`);
  if (status.pressure.length > 0) lines.push(pressureLine(status.pressure));
  lines.push('');
  if (status.pods.length === 0) lines.push('No pods.');
  else {
    const rows = status.pods.map((local) => {
      const { pod } = local;
      const containers = pod.status?.containerStatuses ?? [];
      const restarts = [...(pod.status?.initContainerStatuses ?? []), ...containers].reduce((sum, c) => sum + c.restartCount, 0);
      const started = pod.status?.startTime;
      return [
        shortName(pod, status.node),
        `${containers.filter((c) => c.ready).length}/${pod.spec?.containers.length ?? 0}`,
        stateOf(local),
        String(restarts),
        started === undefined ? '-' : formatTook(now - Date.parse(started)),
        pod.status?.podIP ?? '-',
      ];
    });
    lines.push(table([['POD', 'READY', 'STATUS', 'RESTARTS', 'AGE', 'IP'], ...rows]));
  }
  const waiting = status.pods.flatMap((local) => waitingLines(local).map((line) => `  ${shortName(local.pod, status.node)}: ${line}`));
  if (waiting.length > 0) lines.push('', 'Waiting:', ...waiting);
  if (status.problems.length > 0)
    lines.push(
      '',
      'Manifests that are not used, or not wholly:',
      ...status.problems.map(({ origin, message }) => `  ${told(origin, message)}`),
    );
  if (status.passedOver.length > 0)
    lines.push('', 'Passed over:', ...status.passedOver.map(({ origin, message }) => `  ${told(origin, message)}`));
  return `${lines.join('\n')}\n`;
}

/** An error about a manifest names it already, as a rule. */
export function told(origin: string, message: string): string {
  return message.includes(origin) ? message : `${origin}: ${message}`;
}

function waitingLines({ activity, pod }: LocalPod): string[] {
  if (pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed') return [];
  const told = (activity?.waiting ?? []).map(({ subject, message }) => (subject === '' ? message : `${subject}: ${message.trim()}`));
  return [...new Set([...told, ...probeLines(pod)])];
}

/** The containers that run and that a probe holds back. */
function probeLines(pod: LocalPod['pod']): string[] {
  if (pod.metadata.deletionTimestamp !== undefined) return [];
  const lines: string[] = [];
  for (const spec of [...(pod.spec?.initContainers ?? []), ...(pod.spec?.containers ?? [])]) {
    const found = [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])].find(
      (c) => c.name === spec.name,
    );
    if (found?.state?.running === undefined) continue;
    if (spec.startupProbe && found.started !== true) lines.push(`${spec.name}: its startup probe to succeed`);
    else if (spec.readinessProbe && !found.ready) lines.push(`${spec.name}: its readiness probe to succeed`);
  }
  return lines;
}

/** The last failure of the probe that a line is about, as its event tells it. */
function withProbeFailure(line: string, events: LocalWhy['events']): string {
  const probe = /: its (startup|readiness) probe to succeed$/.exec(line)?.[1];
  if (probe === undefined) return line;
  const failure = events.findLast((e) => e.reason === 'Unhealthy' && e.message.toLowerCase().startsWith(`${probe} probe`));
  return failure === undefined ? line : `${line}; ${failure.message.trim()}${failure.count > 1 ? ` (${failure.count} times)` : ''}`;
}

/** What is under way, in words: `stop:ID` → `stop app`. */
function underWay(key: string, pod: LocalPod['pod']): string {
  const [kind = '', subject = ''] = key.split(/:(.*)/s);
  const statuses = [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])];
  const container = statuses.find((c) => c.containerID?.endsWith(`//${subject}`))?.name ?? subject;
  return `${kind === 'pull' ? 'pull the image for' : kind}${container === '' ? '' : ` ${container}`}`;
}

/** What to look at next: the output of what ended badly. */
function hints(why: LocalWhy): string[] {
  const { pod } = why;
  const lines = [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])].flatMap((c) => {
    const failed = c.state?.terminated ?? c.lastState?.terminated;
    // What never started has written nothing.
    if (failed === undefined || failed.exitCode === 0 || failed.reason === 'StartError' || failed.reason === 'ContainerCannotRun')
      return [];
    const previous = c.state?.running === undefined ? '' : ' -p';
    return [`  what ${c.name} wrote before it ended: ./keelson logs${previous} ${commandName(pod)} -c ${c.name}`];
  });
  return lines.length === 0 ? [] : ['', 'See also:', ...lines];
}

const commandName = ({ metadata: { namespace, name } }: LocalPod['pod']): string =>
  namespace === 'default' ? name : `${namespace}/${name}`;

/** What a node under pressure does, for whoever wonders where their pods went. */
function pressureLine(pressure: readonly string[]): string {
  const refused = pressure.every((condition) => condition === 'MemoryPressure') ? 'pods that request nothing' : 'all but critical pods';
  return `Under pressure: ${pressure.join(', ')} (${refused} are refused; pods are evicted until enough is free)`;
}

const stepNames: Readonly<Record<string, string>> = {
  prepare: 'folders and cgroup',
  mountVolumes: 'volumes',
  createSandbox: 'sandbox and network',
  pullImage: 'image for',
  startContainer: 'start',
  preStop: 'preStop hook of',
  stopContainer: 'stop',
  removeContainer: 'remove old',
  stopSandbox: 'stop sandbox',
  unmountVolumes: 'unmount volumes',
  removeCgroup: 'remove cgroup',
  purge: 'clear away',
};

/** A step in words: `createSandbox` → `sandbox and network`, `startContainer app` → `start app`. */
export function stepWords(step: string): string {
  const [kind = '', ...rest] = step.split(' ');
  return [ownValue(stepNames, kind) ?? kind, ...rest].join(' ');
}

/** `keelson why POD`: what it is, what it waits for, what was done for it and how long that took, and its events. */
export function describeWhy(why: LocalWhy): string {
  const { pod, activity, events, now } = why;
  const { name, namespace, uid } = pod.metadata;
  const lines = [`Pod ${namespace}/${name} (UID ${uid}): ${stateOf(why)}${pod.status?.podIP ? `, IP ${pod.status.podIP}` : ''}`];
  if (pod.status?.message !== undefined) lines.push(`  ${pod.status.message}`);
  if (why.pressure.length > 0) lines.push(pressureLine(why.pressure));
  const containers = [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])];
  if (containers.length > 0) lines.push('', 'Containers:', ...containers.map((c) => `  ${describeContainer(c, now)}`));
  const waiting = waitingLines(why).map((line) => withProbeFailure(line, events));
  lines.push('', 'Waiting for:', ...(waiting.length === 0 ? [`  ${nothing(pod)}`] : waiting.map((line) => `  ${line}`)));
  if (activity !== undefined && activity.inFlight.length > 0)
    lines.push('', 'Under way:', ...activity.inFlight.map((key) => `  ${underWay(key, pod)}`));
  if (activity !== undefined && activity.steps.length > 0) {
    const rows = activity.steps.map(({ step, startedAt, tookMs, error }) => [
      `  ${clockTime(startedAt)}`,
      stepWords(step),
      formatTook(tookMs),
      error ?? '',
    ]);
    lines.push('', 'Steps:', table(rows));
  }
  if (why.inRules !== undefined && (why.inRules.length > 0 || isReady(why)))
    lines.push('', 'Services:', ...inRulesLines(why.inRules, now).map((line) => `  ${line}`));
  if (events.length > 0) {
    const rows = events.map((e) => [
      `  ${clockTime(e.at)}`,
      e.type,
      e.reason,
      `${e.message.trim()}${e.count > 1 ? ` (${e.count} times)` : ''}`,
    ]);
    lines.push('', 'Events:', table(rows));
  }
  lines.push(...hints(why));
  return `${lines.join('\n')}\n`;
}

/** When this node's rules began to send to a pod. */
function inRulesLines(inRules: readonly InRules[], now: number): string[] {
  if (inRules.length === 0) return ['in the rules of none'];
  return inRules.map(({ service, sinceMs, readyMs }) => {
    const words = `in the rules of ${service.replace(/^default\//, '')}`;
    if (readyMs === undefined) return `${words} for ${formatTook(now - sinceMs)} at least`;
    if (sinceMs < readyMs) return `${words} since before it was Ready`;
    return `${words} since ${formatTook(sinceMs - readyMs)} after Ready`;
  });
}

function nothing({ status }: LocalPod['pod']): string {
  if (status?.phase === 'Succeeded') return 'nothing: it has ended well';
  return status?.phase === 'Failed' ? 'nothing: it has failed for good; delete it, and make it anew when the cause is gone' : 'nothing';
}

const clockTime = (wall: number): string => new Date(wall).toISOString().slice(11, 23);

/** When a container that is held back starts again, from the length of the back-off that its state tells. */
function nextStart(container: ContainerStatus, now: number): string {
  const seconds = /^back-off (?:(\d+)m)?(\d+)s /.exec(container.state?.waiting?.message ?? '');
  const finishedAt = container.lastState?.terminated?.finishedAt;
  if (container.state?.waiting?.reason !== 'CrashLoopBackOff' || seconds === null || finishedAt === undefined) return '';
  const inMs = Date.parse(finishedAt) + (Number(seconds[1] ?? 0) * 60 + Number(seconds[2])) * 1000 - now;
  return inMs > 0 ? `; starts again in ${formatTook(inMs)}` : '';
}

function describeContainer(container: ContainerStatus, now: number): string {
  const { running, terminated, waiting } = container.state ?? {};
  const since = (time: string | undefined): string => (time === undefined ? '' : ` for ${formatTook(now - Date.parse(time))}`);
  const state =
    running !== undefined
      ? `running${since(running.startedAt)}${container.ready ? '' : ', not ready'}`
      : terminated !== undefined
        ? `ended with exit code ${terminated.exitCode} (${terminated.reason ?? ''})${terminated.message ? `: ${terminated.message.trim()}` : ''}`
        : `waiting: ${waiting?.reason ?? ''}${waiting?.message ? `: ${waiting.message}` : ''}`;
  const last = container.lastState?.terminated;
  const before =
    last === undefined
      ? ''
      : `; before that it ended with exit code ${last.exitCode} (${last.reason ?? ''})${last.message ? `: ${last.message.trim()}` : ''}`;
  const restarts = `${container.restartCount} ${container.restartCount === 1 ? 'restart' : 'restarts'}`;
  return `${container.name}: ${state}, ${restarts}${nextStart(container, now)}${before}`;
}
