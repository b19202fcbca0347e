import { mkdir, readdir, readlink, rm, symlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { ContainerConfig, LinuxContainerResources, PodSandboxConfig } from '../../cri-protos/generated/cri.ts';
import type { Clock } from '../base/clock.ts';
import { AgentError, hasCode, messageOf, peerWordsOf, unreachable } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Container, ResourceRequirements } from '../model/generated/api.ts';
import { type AgentPod, asContainer, containersOf, podKey } from '../model/pod.ts';
import { bound, type ContainerResize, resizeOrder, type Size, sizedContainer } from './allocation.ts';
import { legacyLogLink } from './container-config.ts';
import { type HookDeps, runHook } from './hooks.ts';
import type { RuntimePod } from './observed.ts';
import { latestContainer, usableSandbox } from './observed.ts';
import { minimumGraceSeconds } from './plan-stop.ts';
import type { ActionResult, PodAction } from './pod-action.ts';
import { podLogDirectory } from './sandbox-config.ts';
import { namespacesOf } from './security.ts';

type Signalled<Req, Res> = (request: Req, signal: AbortSignal) => Promise<Res>;

/** The runtime calls that change pods. */
export interface RuntimeControl {
  runPodSandbox: Signalled<{ config: PodSandboxConfig; runtime_handler: string }, { pod_sandbox_id?: string | undefined }>;
  stopPodSandbox: Signalled<{ pod_sandbox_id: string }, unknown>;
  removePodSandbox: Signalled<{ pod_sandbox_id: string }, unknown>;
  createContainer: Signalled<
    { pod_sandbox_id: string; config: ContainerConfig; sandbox_config: PodSandboxConfig },
    { container_id?: string | undefined }
  >;
  startContainer: Signalled<{ container_id: string }, unknown>;
  stopContainer: Signalled<{ container_id: string; timeout: number }, unknown>;
  removeContainer: Signalled<{ container_id: string }, unknown>;
  updateContainerResources: Signalled<{ container_id: string; linux: LinuxContainerResources }, unknown>;
  updatePodSandboxResources: Signalled<
    { pod_sandbox_id: string; overhead: LinuxContainerResources; resources: LinuxContainerResources },
    unknown
  >;
  containerStats: Signalled<
    { container_id: string },
    { stats?: { memory?: { usage_bytes?: { value?: number | undefined } | undefined } | undefined } | undefined }
  >;
  execSync: Signalled<
    { container_id: string; cmd: string[]; timeout: number },
    { stdout?: Buffer | Uint8Array | undefined; stderr?: Buffer | Uint8Array | undefined; exit_code?: number | undefined }
  >;
}

/** Events as users read them; `fieldPath` such as `spec.containers{web}`. */
export type RecordEvent = (pod: AgentPod, type: 'Normal' | 'Warning', reason: string, message: string, fieldPath?: string) => void;

/** What operators count and no event tells so that it can be counted. */
export type Occurrence =
  | { readonly kind: 'sandboxFailed' }
  /** `code` is the reason that the status shows. */
  | { readonly kind: 'containerFailed'; readonly fieldPath: string; readonly code: string }
  | { readonly kind: 'hookFellBack' }
  | { readonly kind: 'sleepCut' }
  | { readonly kind: 'refused'; readonly reason: string }
  /** `resource` is the first that was short. */
  | { readonly kind: 'preempted'; readonly resource: string }
  /** A pod has come back under a UID whose pod had ended. */
  | { readonly kind: 'returned'; readonly isStatic: boolean };

/** What carrying out a plan needs of the other rooms. All throw AgentErrors whose message is fit for status and events. */
export interface ApplyDeps {
  readonly cri: RuntimeControl;
  readonly clock: Clock;
  readonly log: Pick<Log, 'warn'>;
  readonly recordEvent: RecordEvent;
  readonly count?: (what: Occurrence) => void;
  readonly podLogsDir: string;
  /** /var/log/containers */
  readonly containerLogsDir: string;
  /** `<root-dir>/pods/<uid>` */
  readonly podDir: (uid: string) => string;
  readonly ensureCgroup: (pod: AgentPod, signal: AbortSignal) => Promise<void>;
  readonly removeCgroup: (uid: string, signal: AbortSignal) => Promise<void>;
  /** Tells the pod's cgroup its CPU or memory values anew. */
  readonly updateCgroup: (pod: AgentPod, resource: 'cpu' | 'memory', signal: AbortSignal) => Promise<void>;
  /** Bytes that the pod uses; undefined when that cannot be told. */
  readonly memoryUsage: (pod: AgentPod) => Promise<number | undefined>;
  readonly containerResources: (pod: AgentPod, container: Container) => LinuxContainerResources;
  /** What the runtime is told of the pod as a whole. */
  readonly podResources: (pod: AgentPod) => { overhead: LinuxContainerResources; resources: LinuxContainerResources };
  /** Told what a container's cgroup has been told. */
  readonly containerActuated: (pod: AgentPod, container: string, resources: ResourceRequirements | undefined) => void;
  /** Told that the pod's cgroup has been told all that the pod was given. */
  readonly podActuated: (pod: AgentPod) => void;
  /** A hook's command with its `$(NAME)` replaced by what the container has in its environment. */
  readonly expandHook: (
    pod: AgentPod,
    container: Container,
    id: string,
    command: readonly string[],
    signal: AbortSignal,
  ) => Promise<string[]>;
  readonly httpGet: HookDeps['httpGet'];
  /** The node's own address, for hooks of pods on its network. */
  readonly hostIp: () => string | undefined;
  readonly mountVolumes: (pod: AgentPod, signal: AbortSignal) => Promise<void>;
  readonly unmountVolumes: (uid: string, signal: AbortSignal) => Promise<void>;
  /** Removes the pod's folder; refuses while anything is mounted below it. */
  readonly removePodDir: (uid: string, signal: AbortSignal) => Promise<void>;
  /** Removes a folder and what is in it, and nothing that is mounted there; absence is success. */
  readonly removeFolder: (folder: string, signal: AbortSignal) => Promise<void>;
  readonly runtimeHandler: (pod: AgentPod, signal: AbortSignal) => Promise<string>;
  readonly sandboxConfig: (pod: AgentPod, attempt: number, signal: AbortSignal) => Promise<PodSandboxConfig>;
  readonly ensureImage: (pod: AgentPod, container: Container, sandboxConfig: PodSandboxConfig, signal: AbortSignal) => Promise<string>;
  readonly containerConfig: (
    pod: AgentPod,
    container: Container,
    start: { attempt: number; imageRef: string; runtime: RuntimePod },
    signal: AbortSignal,
  ) => Promise<ContainerConfig>;
}

const done: ActionResult = { kind: 'done' };

/** `spec.containers{name}`, as events name the container they are about. */
export function fieldPathOf(pod: AgentPod, name: string): string {
  const list = pod.spec.containers.some((c) => c.name === name)
    ? 'containers'
    : pod.spec.initContainers?.some((c) => c.name === name) === true
      ? 'initContainers'
      : 'ephemeralContainers';
  return `spec.${list}{${name}}`;
}

/** Carries out one action. Idempotent: what is done already is success. Throws an AgentError whose code is the reason to show. */
export async function applyAction(
  deps: ApplyDeps,
  pod: AgentPod,
  runtime: RuntimePod,
  action: PodAction,
  signal: AbortSignal,
): Promise<ActionResult> {
  try {
    return await carryOut(deps, pod, runtime, action, signal);
  } catch (error) {
    // A pod that ends meanwhile has not failed to start.
    if (!signal.aborted) countFailure(deps, pod, action, error);
    throw error;
  }
}

function countFailure(deps: ApplyDeps, pod: AgentPod, action: PodAction, error: unknown): void {
  if (action.kind === 'createSandbox') deps.count?.({ kind: 'sandboxFailed' });
  else if ((action.kind === 'pullImage' || action.kind === 'startContainer') && error instanceof AgentError)
    deps.count?.({ kind: 'containerFailed', fieldPath: fieldPathOf(pod, action.container), code: error.code });
}

async function carryOut(
  deps: ApplyDeps,
  pod: AgentPod,
  runtime: RuntimePod,
  action: PodAction,
  signal: AbortSignal,
): Promise<ActionResult> {
  const { cri, recordEvent } = deps;
  const { uid } = pod.metadata;
  switch (action.kind) {
    case 'prepare': {
      const parts = await Promise.allSettled([deps.ensureCgroup(pod, signal), makeFolders(deps, pod)]);
      // The words are kubelet's (pkg/kubelet/kubelet.go SyncPod).
      const [cgroup, folders] = parts;
      if (cgroup.status === 'rejected' && !signal.aborted)
        recordEvent(pod, 'Warning', 'FailedCreatePodContainer', `unable to ensure pod container exists: ${messageOf(cgroup.reason)}`);
      if (folders.status === 'rejected')
        recordEvent(pod, 'Warning', 'Failed', `error making pod data directories: ${messageOf(folders.reason)}`);
      for (const part of parts) if (part.status === 'rejected') throw part.reason;
      return done;
    }
    case 'mountVolumes':
      await deps.mountVolumes(pod, signal);
      return done;
    case 'unmountVolumes':
      await deps.unmountVolumes(uid, signal);
      return done;
    case 'pullImage': {
      const config = await deps.sandboxConfig(pod, 0, signal).catch((error: unknown) => {
        // Without a sandbox that is the sandbox's failure, and told as such; the container merely waits.
        throw named(usableSandbox(runtime) === undefined ? 'FailedCreatePodSandBox' : 'CreateContainerConfigError', error);
      });
      return { kind: 'image', imageRef: await deps.ensureImage(pod, containerNamed(pod, action.container), config, signal) };
    }
    case 'createSandbox': {
      if (action.attempt > 0) recordEvent(pod, 'Normal', 'SandboxChanged', 'Pod sandbox changed, it will be killed and re-created.');
      try {
        const [config, handler] = await Promise.all([deps.sandboxConfig(pod, action.attempt, signal), deps.runtimeHandler(pod, signal)]);
        signal.throwIfAborted();
        using patient = patience(deps.clock, signal);
        const { pod_sandbox_id } = await cri.runPodSandbox({ config, runtime_handler: handler }, patient.signal);
        return pod_sandbox_id === undefined ? done : { kind: 'made', made: { sandboxId: pod_sandbox_id } };
      } catch (error) {
        if (!signal.aborted) recordEvent(pod, 'Warning', 'FailedCreatePodSandBox', `Failed to create pod sandbox: ${messageOf(error)}`);
        throw error;
      }
    }
    case 'stopSandbox':
      await absent(cri.stopPodSandbox({ pod_sandbox_id: action.id }, signal));
      return done;
    case 'removeSandbox':
      await absent(cri.removePodSandbox({ pod_sandbox_id: action.id }, signal));
      return done;
    case 'startContainer':
      return { kind: 'made', made: { sandboxId: action.sandboxId, containerId: await startContainer(deps, pod, runtime, action, signal) } };
    case 'preStop':
      await preStop(deps, pod, runtime, action, signal);
      return done;
    case 'stopContainer':
      if (action.message !== undefined) recordEvent(pod, 'Normal', 'Killing', action.message, fieldPathOf(pod, action.container));
      await absent(cri.stopContainer({ container_id: action.id, timeout: action.graceSeconds }, signal));
      return done;
    case 'removeContainer': {
      await absent(cri.removeContainer({ container_id: action.id }, signal));
      const gone = runtime.containers.find((c) => c.id === action.id);
      if (gone !== undefined) await removeLogs(deps, pod, gone.name, gone.id, gone.logPath);
      return done;
    }
    case 'resetContainer':
      if (action.kill) {
        const message = `Stopping container ${action.container}: a restart rule asked for all containers to be restarted`;
        recordEvent(pod, 'Normal', 'Killing', message, fieldPathOf(pod, action.container));
        await absent(cri.stopContainer({ container_id: action.id, timeout: minimumGraceSeconds }, signal));
      }
      await absent(cri.removeContainer({ container_id: action.id }, signal));
      return done;
    case 'resizePod':
      await resizePod(deps, pod, runtime, action, signal);
      return done;
    case 'removeCgroup':
      await deps.removeCgroup(uid, signal);
      return done;
    case 'purge':
      await purge(deps, pod, runtime, signal);
      return done;
    default:
      return unreachable(action);
  }
}

// A start takes tens of milliseconds, a few seconds on a machine at its limit; one that hangs must not hold up the pod's end for long.
const patienceMs = 10_000;

/**
 * A signal that aborts some time after the given one. What the runtime has begun to make it had better finish: containerd forgets shims, tasks and mounts of
 * a container whose caller went away in the middle of its start, and nothing in the CRI can remove them. Dispose it to unhook timer and listener.
 */
function patience(clock: Clock, signal: AbortSignal): Disposable & { readonly signal: AbortSignal } {
  const controller = new AbortController();
  let timer: Disposable | undefined;
  const onAbort = (): void => {
    timer = clock.after(patienceMs, () => controller.abort(signal.reason));
  };
  if (signal.aborted) onAbort();
  else signal.addEventListener('abort', onAbort, { once: true });
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      timer?.[Symbol.dispose]();
      signal.removeEventListener('abort', onAbort);
    },
  };
}

async function makeFolders(deps: ApplyDeps, pod: AgentPod): Promise<void> {
  const dir = deps.podDir(pod.metadata.uid);
  await Promise.all([
    mkdir(join(dir, 'volumes'), { recursive: true, mode: 0o750 }),
    mkdir(join(dir, 'plugins'), { recursive: true, mode: 0o750 }),
    mkdir(podLogDirectory(deps.podLogsDir, pod.metadata), { recursive: true, mode: 0o755 }),
  ]);
}

function containerNamed(pod: AgentPod, name: string): Container {
  const found = containersOf(pod).find(({ container }) => container.name === name);
  if (found === undefined) throw new AgentError('Internal', `pod ${pod.metadata.namespace}/${pod.metadata.name} has no container ${name}`);
  return found.container;
}

async function absent(call: Promise<unknown>): Promise<void> {
  try {
    await call;
  } catch (error) {
    if (!hasCode(error, 'NotFound')) throw error;
  }
}

function named(code: string, error: unknown): AgentError {
  return hasCode(error, code) ? error : new AgentError(code, messageOf(error), { cause: error });
}

/** Makes a container and starts it; resolves to its ID when its postStart hook, if it has one, has ended. */
async function startContainer(
  deps: ApplyDeps,
  pod: AgentPod,
  runtime: RuntimePod,
  action: PodAction & { kind: 'startContainer' },
  signal: AbortSignal,
): Promise<string> {
  const { cri, recordEvent } = deps;
  const container = containerNamed(pod, action.container);
  const path = fieldPathOf(pod, action.container);
  const fail = (code: string, error: unknown, id = ''): AgentError => {
    const failure = hasCode(error, code) ? error : new AgentError(code, peerWordsOf(error), { cause: error });
    // The ID, which runtimes like to tell, would make each try an event of its own: the same failure is to be counted.
    const message = id === '' ? failure.message : failure.message.replaceAll(id, container.name);
    if (!signal.aborted) recordEvent(pod, 'Warning', 'Failed', `Error: ${message}`, path);
    return failure;
  };
  let config: ContainerConfig;
  let sandboxConfig: PodSandboxConfig;
  try {
    const sandbox = runtime.sandboxes.find((s) => s.id === action.sandboxId);
    [config, sandboxConfig] = await Promise.all([
      deps.containerConfig(pod, container, { attempt: action.attempt, imageRef: action.imageRef, runtime }, signal),
      deps.sandboxConfig(pod, sandbox?.attempt ?? 0, signal),
    ]);
    await mkdir(join(podLogDirectory(deps.podLogsDir, pod.metadata), container.name), { recursive: true, mode: 0o755 });
  } catch (error) {
    throw fail('CreateContainerConfigError', error);
  }
  let id: string;
  signal.throwIfAborted();
  using patient = patience(deps.clock, signal);
  try {
    const response = await cri.createContainer({ pod_sandbox_id: action.sandboxId, config, sandbox_config: sandboxConfig }, patient.signal);
    id = response.container_id ?? '';
  } catch (error) {
    throw fail('CreateContainerError', error);
  }
  deps.containerActuated(pod, container.name, container.resources);
  recordEvent(pod, 'Normal', 'Created', 'Container created', path);
  signal.throwIfAborted();
  try {
    // The link takes no time of its own meanwhile.
    const [started] = await Promise.allSettled([
      cri.startContainer({ container_id: id }, patient.signal),
      linkLog(deps, pod, container.name, id, config.log_path ?? ''),
    ]);
    if (started.status === 'rejected') throw started.reason;
  } catch (error) {
    throw fail('RunContainerError', error, id);
  }
  recordEvent(pod, 'Normal', 'Started', 'Container started', path);
  if (container.lifecycle?.postStart !== undefined) await postStart(deps, pod, runtime, container, id, signal);
  return id;
}

function hookDeps(deps: ApplyDeps, pod: AgentPod, container: Container, id: string): HookDeps {
  const { clock, cri, recordEvent, count } = deps;
  return {
    clock,
    execSync: cri.execSync,
    expand: (command, signal) => deps.expandHook(pod, container, id, command, signal),
    httpGet: deps.httpGet,
    fellBack(host) {
      count?.({ kind: 'hookFellBack' });
      // The words are kubelet's (pkg/kubelet/lifecycle/handlers.go).
      const message = `request to HTTPS lifecycle hook ${host} got HTTP response, retry with HTTP succeeded`;
      recordEvent(pod, 'Warning', 'LifecycleHTTPFallback', message);
    },
    sleepCut: () => count?.({ kind: 'sleepCut' }),
  };
}

/** Whom an HTTP hook asks. A runtime knows no address of a pod on the node's network: there kubelet's hooks fail, and its probes do not. */
function hookAddress(deps: ApplyDeps, pod: AgentPod, runtime: RuntimePod): string | undefined {
  return pod.spec.hostNetwork === true ? deps.hostIp() : runtime.sandboxes[0]?.ips[0];
}

async function postStart(
  deps: ApplyDeps,
  pod: AgentPod,
  runtime: RuntimePod,
  container: Container,
  id: string,
  signal: AbortSignal,
): Promise<void> {
  const handler = container.lifecycle?.postStart;
  if (handler === undefined) return;
  try {
    await runHook(hookDeps(deps, pod, container, id), pod, container, id, hookAddress(deps, pod, runtime), handler, signal);
  } catch (error) {
    if (signal.aborted) throw error;
    const path = fieldPathOf(pod, container.name);
    // What the hook printed may hold secrets: it goes to status, which fewer may read, not into the event.
    deps.recordEvent(pod, 'Warning', 'FailedPostStartHook', 'PostStartHook failed', path);
    // Ended as any other: with its preStop hook, on the same grace.
    const graceSeconds = pod.metadata.deletionGracePeriodSeconds ?? pod.spec.terminationGracePeriodSeconds ?? minimumGraceSeconds;
    const since = deps.clock.mono();
    if (container.lifecycle?.preStop !== undefined && graceSeconds > 0)
      await preStop(
        deps,
        pod,
        runtime,
        { kind: 'preStop', id, container: container.name, graceSeconds, message: 'FailedPostStartHook' },
        signal,
      );
    else deps.recordEvent(pod, 'Normal', 'Killing', 'FailedPostStartHook', path);
    const leftSeconds = Math.ceil(graceSeconds - (deps.clock.mono() - since) / 1000);
    await absent(deps.cri.stopContainer({ container_id: id, timeout: Math.max(minimumGraceSeconds, leftSeconds) }, signal));
    throw named('PostStartHookError', error);
  }
}

async function preStop(
  deps: ApplyDeps,
  pod: AgentPod,
  runtime: RuntimePod,
  action: PodAction & { kind: 'preStop' },
  signal: AbortSignal,
): Promise<void> {
  const container = containerNamed(pod, action.container);
  const handler = container.lifecycle?.preStop;
  if (handler === undefined) return;
  deps.recordEvent(pod, 'Normal', 'Killing', action.message, fieldPathOf(pod, action.container));
  const { clock } = deps;
  const hook = runHook(
    hookDeps(deps, pod, container, action.id),
    pod,
    container,
    action.id,
    hookAddress(deps, pod, runtime),
    handler,
    signal,
  ).catch((error: unknown) => {
    // A hook that fails does not keep the container alive; nor does one that goes on after its time, and fails with the container's end.
    if (signal.aborted) throw error;
    deps.recordEvent(pod, 'Warning', 'FailedPreStopHook', 'PreStopHook failed', fieldPathOf(pod, action.container));
  });
  const { promise: late, resolve } = Promise.withResolvers<void>();
  using _timer = clock.after(action.graceSeconds * 1000, () => {
    // Not called off: a kubelet waits for it no longer and lets it run (kuberuntime_container.go executePreStopHook).
    hook.catch(() => undefined);
    resolve();
  });
  await Promise.race([hook, late]);
}

type ResizeAction = PodAction & { kind: 'resizePod' };

/** Memory, then CPU; of each the pod's bounds widen before its containers change and narrow after. What fails half-way is taken up where it stands. */
async function resizePod(deps: ApplyDeps, pod: AgentPod, runtime: RuntimePod, action: ResizeAction, signal: AbortSignal): Promise<void> {
  await checkMemoryUse(deps, pod, action, signal);
  const { from, to } = action;
  const sizes = new Map<string, Size>(action.containers.map((c) => [c.id, c.from]));
  for (const resource of ['memory', 'cpu'] as const) {
    const limit = resource === 'memory' ? 'memoryLimit' : 'cpuLimit';
    const widens = bound(to[limit]) > bound(from[limit]);
    const tellPod = async (): Promise<void> => {
      await tellSandbox(deps, pod, runtime, signal);
      await deps.updateCgroup(pod, resource, signal);
    };
    if (widens) await tellPod();
    for (const change of resizeOrder(action.containers, resource)) {
      const now = sizes.get(change.id) ?? change.from;
      const next: Size =
        resource === 'memory' ? { ...now, memoryRequest: change.to.memoryRequest, memoryLimit: change.to.memoryLimit } : change.to;
      await resizeContainer(deps, pod, change, next, signal);
      sizes.set(change.id, next);
    }
    if (!widens) await tellPod();
  }
  deps.podActuated(pod);
}

async function resizeContainer(deps: ApplyDeps, pod: AgentPod, change: ContainerResize, size: Size, signal: AbortSignal): Promise<void> {
  const container = sizedContainer(containerNamed(pod, change.name), size);
  await deps.cri.updateContainerResources({ container_id: change.id, linux: deps.containerResources(pod, container) }, signal);
  deps.containerActuated(pod, change.name, container.resources);
}

/** Runtimes that size a machine by the pod, or have plugins that look at it, are told; the others need not know the call. */
async function tellSandbox(deps: ApplyDeps, pod: AgentPod, runtime: RuntimePod, signal: AbortSignal): Promise<void> {
  const id = runtime.sandboxes[0]?.id;
  if (id === undefined) return;
  try {
    await deps.cri.updatePodSandboxResources({ pod_sandbox_id: id, ...deps.podResources(pod) }, signal);
  } catch (error) {
    // containerd 2.2 says Unknown where it means Unimplemented.
    if (!hasCode(error, 'Unimplemented') && !messageOf(error).includes('not implemented')) throw error;
  }
}

/** Refuses limits below what is in use, before anything is changed: the kernel would kill for them. */
async function checkMemoryUse(deps: ApplyDeps, pod: AgentPod, action: ResizeAction, signal: AbortSignal): Promise<void> {
  const problems: string[] = [];
  const limit = action.to.memoryLimit;
  if (bound(limit) < bound(action.from.memoryLimit)) {
    const usage = await deps.memoryUsage(pod);
    if (usage === undefined) problems.push('missing pod memory usage');
    else if (usage >= limit) problems.push(`attempting to set pod memory limit (${limit}) below current usage (${usage})`);
  }
  for (const { id, name, from, to } of action.containers) {
    if (bound(to.memoryLimit) >= bound(from.memoryLimit)) continue;
    const usage = (await deps.cri.containerStats({ container_id: id }, signal)).stats?.memory?.usage_bytes?.value;
    if (usage === undefined) problems.push(`missing container "${name}" memory usage`);
    else if (usage >= to.memoryLimit)
      problems.push(`attempting to set container "${name}" memory limit (${to.memoryLimit}) below current usage (${usage})`);
  }
  if (problems.length === 0) return;
  const list = problems.length === 1 ? problems[0] : `[${problems.join(', ')}]`;
  throw new AgentError('ResizeError', `cannot decrease memory limits: ${list}`);
}

/** The link that log collectors follow: its name says what the runtime's own path does not. Never throws. */
async function linkLog(deps: ApplyDeps, pod: AgentPod, container: string, id: string, logPath: string): Promise<void> {
  const link = join(deps.containerLogsDir, legacyLogLink(pod, container, id));
  const target = join(podLogDirectory(deps.podLogsDir, pod.metadata), logPath);
  try {
    await mkdir(deps.containerLogsDir, { recursive: true });
    await symlink(target, link).catch((error: unknown) => {
      if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
    });
  } catch (error) {
    // The container runs all the same, and its hook is still to come.
    deps.log.warn({ pod: podKey(pod), podUid: pod.metadata.uid, container, link, err: messageOf(error) }, 'no link to a log');
  }
}

async function removeLogs(deps: ApplyDeps, pod: AgentPod, container: string, id: string, logPath: string): Promise<void> {
  await rm(join(deps.containerLogsDir, legacyLogLink(pod, container, id)), { force: true });
  if (logPath === '') return;
  await rm(logPath, { force: true });
  const rotated = `${basename(logPath)}.`;
  const names = await readdir(dirname(logPath)).catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  });
  await Promise.all(names.filter((n) => n.startsWith(rotated)).map((n) => rm(join(dirname(logPath), n), { force: true })));
}

/** Links to logs of containers that the runtime no longer knows: those of a pod whose containers were taken away to start anew. */
async function removeLogLinks(deps: ApplyDeps, pod: AgentPod): Promise<void> {
  const prefix = `${pod.metadata.name}_${pod.metadata.namespace}_`;
  const folder = `${podLogDirectory(deps.podLogsDir, pod.metadata)}/`;
  const names = await readdir(deps.containerLogsDir).catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  });
  for (const name of names) {
    if (!name.startsWith(prefix)) continue;
    const link = join(deps.containerLogsDir, name);
    // Another pod of the same name has a folder of its own.
    const target = await readlink(link).catch((error: unknown) => {
      if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'EINVAL')) return '';
      throw error;
    });
    if (target.startsWith(folder)) await rm(link, { force: true });
  }
}

/** Everything of a pod that is gone for good. What the runtime will not let go keeps none of the rest. */
async function purge(deps: ApplyDeps, pod: AgentPod, runtime: RuntimePod, signal: AbortSignal): Promise<void> {
  const containers = await Promise.allSettled(
    runtime.containers.map(async (c) => {
      await rm(join(deps.containerLogsDir, legacyLogLink(pod, c.name, c.id)), { force: true });
      await absent(deps.cri.removeContainer({ container_id: c.id }, signal));
    }),
  );
  if (pod.metadata.name !== '') await removeLogLinks(deps, pod);
  const sandboxes = await Promise.allSettled(
    runtime.sandboxes.map((s) => absent(deps.cri.removePodSandbox({ pod_sandbox_id: s.id }, signal))),
  );
  // A pod of which only a folder is left has no name to find its logs by; its logs, if any, are a leftover of their own.
  if (pod.metadata.name !== '') await deps.removeFolder(podLogDirectory(deps.podLogsDir, pod.metadata), signal);
  await deps.removePodDir(pod.metadata.uid, signal);
  for (const one of [...containers, ...sandboxes]) if (one.status === 'rejected') throw one.reason;
}

/** The ID of the container that an ephemeral one asks to join. Throws CreateContainerConfigError when there is none, or none that runs where it has to. */
export function targetOf(pod: AgentPod, container: string, runtime: RuntimePod): string | undefined {
  const target = pod.spec.ephemeralContainers?.find((e) => asContainer(e).name === container)?.targetContainerName;
  if (target === undefined || target === '') return undefined;
  const found = latestContainer(runtime, target);
  // Where all see all processes there is nothing to join, and a container that keeps crashing can be looked into.
  const joins = namespacesOf(pod, undefined).pid === 'CONTAINER';
  if (found === undefined || (joins && found.state !== 'running'))
    throw new AgentError('CreateContainerConfigError', `unable to find target container ${target}`);
  return found.id;
}
