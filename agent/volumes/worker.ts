import type { ImageSpec, Mount } from '../../cri-protos/generated/cri.ts';
import type { Clock } from '../base/clock.ts';
import { AgentError, hasCode, messageOf, unreachable } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { startLoop } from '../base/loop.ts';
import type { Mounts } from '../drivers/mounts/mounts.ts';
import type { ConfigMap, Container, Secret, TokenRequest, TokenRequestSpec } from '../model/generated/api.ts';
import { heldToken } from '../model/held-token.ts';
import type { AgentPod } from '../model/pod.ts';
import { plannedMounts } from './container-mounts.ts';
import { hugePageBytes, tmpfsBytes } from './empty-dir.ts';
import { ownPlugins, podDir, podsDir, readyDir, subPathTarget, type VolumePlugin, volumeDir } from './layout.ts';
import { type NestedMount, nestedMounts, type PlacedMount } from './nested.ts';
import { fsGroupOf } from './ownership.ts';
import type { DownwardValue, Known } from './payload.ts';
import {
  type ObservedVolumes,
  planVolumes,
  pluginOf,
  referencedObjects,
  type TokenState,
  usedVolumes,
  type VolumeAction,
  type VolumePlan,
  type VolumeState,
} from './plan.ts';

/** API objects of one kind, watched while somebody holds them. */
export interface WatchedObjects<T> {
  acquire(namespace: string, name: string): Disposable;
  /** The object; undefined when there is none. Waits for the server until the signal aborts. */
  get(namespace: string, name: string, signal: AbortSignal): Promise<T | undefined>;
  /** Calls with `namespace/name` of each held object that changed or went. */
  subscribe(listener: (key: string) => void): Disposable;
}

/** What lies on the disk below the root directory (drivers/mounts/volume-disk.ts). */
type VolumeDisk = Pick<
  typeof import('../drivers/mounts/volume-disk.ts'),
  | 'makeVolumeDirectory'
  | 'hasContent'
  | 'writeFiles'
  | 'giveToGroup'
  | 'isReady'
  | 'markReady'
  | 'exists'
  | 'listVolumes'
  | 'listPodDirectories'
>;

export interface VolumesOptions {
  readonly rootDir: string;
  readonly mounts: Mounts;
  readonly disk: VolumeDisk;
  /** Removes what a pod's volumes have left below its folder; with their content only those of `own` plugins. Nothing is mounted there any more. */
  readonly removeVolumes: (podDir: string, own: ReadonlySet<string>, signal: AbortSignal) => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** Undefined without an API server: then only volumes that need none work. */
  readonly objects:
    | {
        readonly configMaps: WatchedObjects<ConfigMap>;
        readonly secrets: WatchedObjects<Secret>;
        readonly requestToken: (
          namespace: string,
          serviceAccount: string,
          spec: TokenRequestSpec,
          signal: AbortSignal,
        ) => Promise<TokenRequest>;
      }
    | undefined;
  /** What a downwardAPI file shows; throws AgentError for what it cannot. */
  readonly downward: DownwardValue;
  /** Bytes of memory that pods can use on this node; undefined while not known. */
  readonly allocatableMemory: () => number | undefined;
  /** The pod's own memory limit in bytes; undefined or 0 when it has none. */
  readonly podMemoryLimit: (pod: AgentPod) => number | undefined;
  readonly recordEvent: (pod: AgentPod, type: 'Normal' | 'Warning', reason: string, message: string) => void;
  /** In [0, 1). */
  readonly random: () => number;
}

/** Where a pod's volumes are: volume name → path on the node (images have none). */
type PodVolumes = ReadonlyMap<string, string>;

interface MountsForOptions {
  /** Expands a subPathExpr with the container's environment. */
  readonly expandSubPath: (expression: string) => { readonly path: string; readonly missing: readonly string[] };
  /** The runtime handler can make mounts read-only all the way down. */
  readonly recursiveReadOnlySupported: boolean;
  /** Pulled images of volumes of type image, by volume name. */
  readonly images?: ReadonlyMap<string, ImageSpec> | undefined;
  /** What the container mounts besides its volumes: some of it may lie in one of them. */
  readonly others?: readonly Mount[] | undefined;
}

export interface Volumes extends AsyncDisposable {
  /**
   * Sets up what the pod's containers use; nothing to do is quick, so it may be called again before each container. Rejects with AgentError FailedMount
   * in kubelet's words (each failing volume has had its event by then); calling again is the caller's, after a pause or when `onChange` tells.
   */
  mount(pod: AgentPod, signal: AbortSignal): Promise<PodVolumes>;
  /** The pod's object has changed: labels and annotations reach downwardAPI files. Pods that are not mounted are ignored. */
  update(pod: AgentPod): void;
  /** Takes away everything the pod has mounted or stored in volumes; absence is success. Needs no spec: what lies on the disk says it. */
  unmount(podUid: string, signal: AbortSignal): Promise<void>;
  /** The runtime's mounts for a container of a mounted pod, its subPaths bound. Rejects with AgentError CreateContainerConfigError. */
  mountsFor(pod: AgentPod, container: Container, options: MountsForOptions, signal: AbortSignal): Promise<Mount[]>;
  /** The text of a file in a volume of a mounted pod; undefined when the pod has no such volume. Rejects with AgentError when it cannot be read. */
  readFile(pod: AgentPod, volume: string, path: string, signal: AbortSignal): Promise<string | undefined>;
  /** UIDs of the pods that have a directory, known or not. */
  listPodsOnDisk(): string[];
  /** Tells the UID of a pod whose last `mount` failed when something that it waited for has changed. */
  onChange(listener: (podUid: string) => void): Disposable;
}

interface Entry {
  readonly uid: string;
  pod: AgentPod;
  readonly claims: Disposable[];
  /** `configmap/name` and `secret/name` in the pod's namespace. */
  readonly known: Map<string, Known<unknown>>;
  /** Counts the changes of each object, so that an answer that a change has overtaken is asked for again. */
  readonly changes: Map<string, number>;
  readonly states: Map<string, VolumeState>;
  readonly tokens: Map<string, TokenState>;
  /** Aborts when the pod is unmounted. */
  readonly ended: AbortController;
  /** False until a mount has succeeded once. */
  mounted: boolean;
  /** Problems told as events already, by volume. */
  readonly told: Map<string, string>;
}

// How long a pod waits for the API server before it says so.
const fetchMs = 10_000;
const tokenMs = 30_000;
// How long a path that the pod's author chose may take to answer: it may lie on a server that is away, and nobody would know what the pod waits for.
const pathMs = 60_000;
// A token that could not be renewed has a fifth of its life left: that is time for many tries.
const tokenRetryMs = 10_000;
// Rounds of plan and act: an object, its token and its write are three. More is a plan that does not come to rest.
const maxRounds = 10;
// Wake-ups are on the clock that does not jump, tokens expire on the other: look again now and then.
const longestSleepMs = 300_000;
const maxEnvFileBytes = 1 << 20;

export function startVolumes(options: VolumesOptions): Volumes {
  const { rootDir, mounts, disk, clock, log } = options;
  const entries = new Map<string, Entry>();
  const chains = new Map<string, Promise<unknown>>();
  const listeners = new Set<(podUid: string) => void>();

  const loop = startLoop({
    name: 'volumes',
    clock,
    log,
    signal: options.signal,
    backoff: { initialMs: 500, maxMs: 122_000 },
    run: (uid, signal) => refresh(uid, signal),
  });
  const subscriptions = [
    options.objects?.configMaps.subscribe((key) => objectChanged('configmap', key)),
    options.objects?.secrets.subscribe((key) => objectChanged('secret', key)),
  ];

  /** Runs one thing at a time for a pod, in the order of asking. */
  async function serially<T>(uid: string, run: () => Promise<T>): Promise<T> {
    const before = chains.get(uid) ?? Promise.resolve();
    const own = before.then(run, run);
    const settled = own.then(
      () => undefined,
      () => undefined,
    );
    chains.set(uid, settled);
    try {
      return await own;
    } finally {
      if (chains.get(uid) === settled) chains.delete(uid);
    }
  }

  function objectChanged(kind: 'configmap' | 'secret', key: string): void {
    for (const entry of entries.values()) {
      const { namespace } = entry.pod.metadata;
      if (!key.startsWith(`${namespace}/`)) continue;
      const id = `${kind}/${key.slice(namespace.length + 1)}`;
      if (!entry.known.has(id)) continue;
      entry.changes.set(id, (entry.changes.get(id) ?? 0) + 1);
      entry.known.set(id, { kind: 'unknown' });
      if (entry.mounted) loop.enqueue(entry.uid);
      else for (const listener of listeners) listener(entry.uid);
    }
  }

  function enter(pod: AgentPod): Entry {
    const { uid } = pod.metadata;
    const entry: Entry = {
      uid,
      pod,
      claims: [],
      known: new Map(),
      changes: new Map(),
      states: new Map(),
      tokens: new Map(),
      ended: new AbortController(),
      mounted: false,
      told: new Map(),
    };
    entries.set(uid, entry);
    return entry;
  }

  /** Holds what the pod's volumes refer to; an ephemeral container that is added later may bring more. */
  function claim(entry: Entry): void {
    const { namespace } = entry.pod.metadata;
    const { configMaps, secrets } = referencedObjects(entry.pod);
    for (const name of configMaps) {
      if (entry.known.has(`configmap/${name}`)) continue;
      entry.known.set(`configmap/${name}`, { kind: 'unknown' });
      if (options.objects !== undefined) entry.claims.push(options.objects.configMaps.acquire(namespace, name));
    }
    for (const name of secrets) {
      if (entry.known.has(`secret/${name}`)) continue;
      entry.known.set(`secret/${name}`, { kind: 'unknown' });
      if (options.objects !== undefined) entry.claims.push(options.objects.secrets.acquire(namespace, name));
    }
    for (const volume of usedVolumes(entry.pod))
      if (!entry.states.has(volume.name)) entry.states.set(volume.name, adopt(entry.pod, volume));
  }

  /** What an earlier run of the agent, or a kubelet, has left of a volume with API data: it stays in use until something newer is known. */
  function adopt(pod: AgentPod, volume: Parameters<typeof pluginOf>[0]): VolumeState {
    if (volume.emptyDir !== undefined || volume.hostPath !== undefined) return { kind: 'none' };
    try {
      const plugin = pluginOf(volume);
      const whole = plugin !== undefined && disk.hasContent(volumeDir(rootDir, pod.metadata.uid, plugin, volume.name));
      return whole ? { kind: 'ready', written: undefined } : { kind: 'none' };
    } catch (error) {
      if (hasCode(error, 'NotSupported')) return { kind: 'none' };
      throw error;
    }
  }

  function observedOf(entry: Entry): ObservedVolumes {
    return {
      state: (volume) => entry.states.get(volume) ?? { kind: 'none' },
      configMap: (name) => (entry.known.get(`configmap/${name}`) ?? { kind: 'unknown' }) as Known<ConfigMap>,
      secret: (name) => (entry.known.get(`secret/${name}`) ?? { kind: 'unknown' }) as Known<Secret>,
      token: (volume, index) => entry.tokens.get(`${volume}/${index}`) ?? { kind: 'none' },
    };
  }

  /** Plans and acts until nothing is left to do now. */
  async function settle(entry: Entry, signal: AbortSignal): Promise<VolumePlan> {
    for (let round = 0; round < maxRounds; round++) {
      signal.throwIfAborted();
      const plan = planVolumes(entry.pod, observedOf(entry), options.downward, clock.wall());
      if (plan.actions.length === 0) return plan;
      await Promise.all(plan.actions.map((action) => act(entry, action, signal)));
    }
    throw new AgentError('Internal', `the volumes of pod ${entry.pod.metadata.namespace}/${entry.pod.metadata.name} do not come to rest`);
  }

  /** Carries out one action; what comes of it is observed, failures too. Throws only when the pod is being taken away or the caller gave up. */
  async function act(entry: Entry, action: VolumeAction, signal: AbortSignal): Promise<void> {
    const startedAt = clock.mono();
    switch (action.kind) {
      case 'fetch': {
        const id = `${action.object}/${action.name}`;
        const before = entry.changes.get(id);
        const known = await fetchObject(entry, action.object, action.name, signal);
        if (entry.changes.get(id) === before) entry.known.set(id, known);
        return;
      }
      case 'requestToken':
        entry.tokens.set(`${action.volume}/${action.sourceIndex}`, await fetchToken(entry, action, signal));
        return;
      case 'makeEmptyDir':
      case 'checkHostPath':
      case 'write': {
        const old = entry.states.get(action.volume);
        try {
          entry.states.set(action.volume, await bringUp(entry, action, signal));
          log.debug(
            { podUid: entry.uid, volume: action.volume, action: action.kind, reason: action.reason, tookMs: clock.mono() - startedAt },
            'volume set up',
          );
        } catch (error) {
          signal.throwIfAborted();
          entry.states.set(action.volume, { kind: 'failed', message: messageOf(error), whole: old?.kind === 'ready' });
        }
        return;
      }
      default:
        unreachable(action);
    }
  }

  async function fetchObject(entry: Entry, kind: 'configmap' | 'secret', name: string, signal: AbortSignal): Promise<Known<unknown>> {
    const { namespace } = entry.pod.metadata;
    if (options.objects === undefined) {
      const what = kind === 'configmap' ? 'configMap' : 'secret';
      return { kind: 'failed', message: `couldn't get ${what} ${namespace}/${name}, no kubeClient defined` };
    }
    using deadline = clock.deadline(signal, fetchMs);
    try {
      const objects = kind === 'configmap' ? options.objects.configMaps : options.objects.secrets;
      const value = await objects.get(namespace, name, deadline.signal);
      return value === undefined ? { kind: 'absent' } : { kind: 'found', value };
    } catch (error) {
      signal.throwIfAborted();
      const message = deadline.signal.aborted ? `failed to sync ${kind} cache: timed out waiting for the condition` : messageOf(error);
      return { kind: 'failed', message };
    }
  }

  async function fetchToken(
    entry: Entry,
    action: Extract<VolumeAction, { kind: 'requestToken' }>,
    signal: AbortSignal,
  ): Promise<TokenState> {
    const { namespace } = entry.pod.metadata;
    const old = entry.tokens.get(`${action.volume}/${action.sourceIndex}`);
    const retryAt = clock.wall() + tokenRetryMs;
    if (options.objects === undefined) {
      return { kind: 'failed', message: `cannot setup projected volume ${action.volume} because kube client is not configured`, retryAt };
    }
    using deadline = clock.deadline(signal, tokenMs);
    try {
      const account = entry.pod.spec.serviceAccountName ?? 'default';
      const answer = await options.objects.requestToken(namespace, account, action.spec, deadline.signal);
      const token = heldToken(answer, clock.wall(), options.random());
      if (token === undefined) throw new AgentError('Internal', 'the API server answered without a token');
      return { kind: 'held', token, retryAt: undefined };
    } catch (error) {
      signal.throwIfAborted();
      if (old?.kind === 'held') {
        log.warn({ podUid: entry.uid, volume: action.volume, err: messageOf(error) }, 'service account token not renewed');
        return { ...old, retryAt };
      }
      return { kind: 'failed', message: `failed to fetch token: ${messageOf(error)}`, retryAt };
    }
  }

  async function bringUp(
    entry: Entry,
    action: Extract<VolumeAction, { kind: 'makeEmptyDir' | 'checkHostPath' | 'write' }>,
    signal: AbortSignal,
  ): Promise<VolumeState> {
    switch (action.kind) {
      case 'checkHostPath':
        await answering(`hostPath ${action.path}`, (own) => checkHostPath(action.path, action.type, own), signal);
        return { kind: 'ready', written: undefined };
      case 'makeEmptyDir':
        await makeDirectory(entry, 'kubernetes.io~empty-dir', action.volume, action.medium, action.sizeLimit, signal);
        return { kind: 'ready', written: undefined };
      case 'write': {
        await makeDirectory(entry, action.plugin, action.volume, action.memory ? 'Memory' : '', undefined, signal);
        disk.writeFiles(volumeDir(rootDir, entry.uid, action.plugin, action.volume), action.files, fsGroupOf(entry.pod), clock.wall());
        return { kind: 'ready', written: action.fingerprint };
      }
    }
  }

  /** An emptyDir, or the one that holds API data: a directory open to the pod's users, on memory or huge pages if asked for. Idempotent. */
  async function makeDirectory(
    entry: Entry,
    plugin: VolumePlugin,
    volume: string,
    medium: string,
    sizeLimit: string | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const dir = volumeDir(rootDir, entry.uid, plugin, volume);
    const ready = readyDir(rootDir, entry.uid, plugin, volume);
    if (disk.isReady(ready) && disk.exists(dir) && (medium === '' || (await mounts.isMountPoint(dir)))) return;
    disk.makeVolumeDirectory(dir);
    if (medium === 'Memory') {
      const sizeBytes = tmpfsBytes(options.allocatableMemory(), options.podMemoryLimit(entry.pod), sizeLimit);
      await mounts.mountTmpfs(dir, { sizeBytes, noswap: true }, signal);
    } else if (medium.startsWith('HugePages')) {
      await mounts.mountHugetlbfs(dir, `${hugePageBytes(medium, entry.pod)}`, signal);
    } else if (medium !== '') {
      throw new AgentError('InvalidVolume', `unknown storage medium "${medium}"`);
    }
    const group = fsGroupOf(entry.pod);
    if (group !== undefined) disk.giveToGroup(dir, group, false);
    disk.markReady(ready);
  }

  /** Gives up on paths that hang: their child is killed, or left behind where it cannot be. */
  async function answering(what: string, run: (signal: AbortSignal) => Promise<void>, signal: AbortSignal): Promise<void> {
    using deadline = clock.deadline(signal, pathMs);
    try {
      await run(deadline.signal);
    } catch (error) {
      if (signal.aborted || !deadline.signal.aborted) throw error;
      throw new AgentError('DeadlineExceeded', `${what} has not answered for ${pathMs / 1000} s`, { cause: error });
    }
  }

  async function checkHostPath(path: string, type: string, signal: AbortSignal): Promise<void> {
    if (path.split('/').includes('..')) throw new AgentError('InvalidVolume', `invalid HostPath \`${path}\`: must not contain '..'`);
    if (type === '') return;
    const found = await mounts.fileType(path, signal);
    const failed = (what: string): AgentError => new AgentError('InvalidVolume', `hostPath type check failed: ${path} is not ${what}`);
    switch (type) {
      case 'DirectoryOrCreate':
        if (found === undefined) return mounts.makeDirectory(path, 0o755, signal);
        if (found !== 'Directory') throw failed('a directory');
        return;
      case 'Directory':
        if (found !== 'Directory') throw failed('a directory');
        return;
      case 'FileOrCreate':
        if (found === undefined) return mounts.makeFile(path, 0o644, signal);
        if (found !== 'File') throw failed('a file');
        return;
      case 'File':
        if (found !== 'File') throw failed('a file');
        return;
      case 'Socket':
        if (found !== 'Socket') throw failed('a socket file');
        return;
      case 'CharDevice':
        if (found !== 'CharDevice') throw failed('a character device');
        return;
      case 'BlockDevice':
        if (found !== 'BlockDevice') throw failed('a block device');
        return;
      default:
        throw new AgentError('InvalidVolume', `${type} is an invalid volume type`);
    }
  }

  /** What failed before is worth another try. */
  function forgetFailures(entry: Entry): void {
    for (const [volume, state] of entry.states) {
      if (state.kind === 'failed') entry.states.set(volume, state.whole ? { kind: 'ready', written: undefined } : { kind: 'none' });
    }
    for (const [id, known] of entry.known) if (known.kind === 'failed') entry.known.set(id, { kind: 'unknown' });
    for (const [id, token] of entry.tokens) if (token.kind === 'failed') entry.tokens.delete(id);
  }

  function tell(entry: Entry, plan: VolumePlan, again: boolean): string[] {
    const messages: string[] = [];
    for (const { volume, reason, blocking } of plan.waiting) {
      const message = `MountVolume.SetUp failed for volume "${volume}" : ${reason}`;
      if (blocking) messages.push(message);
      if (again || entry.told.get(volume) !== message) options.recordEvent(entry.pod, 'Warning', 'FailedMount', message);
      entry.told.set(volume, message);
    }
    for (const volume of [...entry.told.keys()]) if (!plan.waiting.some((one) => one.volume === volume)) entry.told.delete(volume);
    return messages;
  }

  function wake(entry: Entry, plan: VolumePlan): void {
    if (plan.wakeAt === undefined) return;
    const delay = Math.min(longestSleepMs, Math.max(0, plan.wakeAt - clock.wall()));
    loop.enqueueAt(entry.uid, clock.mono() + delay);
  }

  /** Brings a mounted pod's volumes up to date. Fails (and so is repeated) while something is wrong that no change of an object will tell of. */
  async function refresh(uid: string, signal: AbortSignal): Promise<number | undefined> {
    return serially(uid, async () => {
      const entry = entries.get(uid);
      if (entry === undefined || !entry.mounted || entry.ended.signal.aborted) return undefined;
      using both = either(entry.ended.signal, signal);
      forgetFailures(entry);
      let plan: VolumePlan;
      try {
        plan = await settle(entry, both.signal);
      } catch (error) {
        if (both.signal.aborted) return undefined;
        throw error;
      }
      tell(entry, plan, false);
      wake(entry, plan);
      // An object that is not there tells when it comes; the rest has to be tried again.
      const broken = plan.waiting.find(({ volume }) => entry.states.get(volume)?.kind === 'failed');
      if (broken !== undefined) throw new AgentError('FailedMount', broken.reason);
      const unread = [...entry.known.values()].find((known) => known.kind === 'failed');
      if (unread !== undefined) throw new AgentError('FailedMount', unread.message);
      return undefined;
    });
  }

  async function takeDown(uid: string, signal: AbortSignal): Promise<void> {
    const dir = podDir(rootDir, uid);
    for (const volume of disk.listVolumes(dir)) {
      if (ownPlugins.has(volume.plugin) || (await mounts.listUnder(volume.path)).length === 0) continue;
      throw new AgentError(
        'NotSupported',
        `volume ${volume.name} of pod ${uid} is still mounted by ${volume.plugin}, which this node cannot take away`,
      );
    }
    await mounts.unmountUnder(dir, signal);
    signal.throwIfAborted();
    // Only now that nothing is mounted below: what is removed is the pod's own.
    await options.removeVolumes(dir, ownPlugins, signal);
  }

  return {
    mount(pod, signal) {
      return serially(pod.metadata.uid, async () => {
        const entry = entries.get(pod.metadata.uid) ?? enter(pod);
        entry.pod = pod;
        claim(entry);
        using both = either(entry.ended.signal, signal);
        forgetFailures(entry);
        const plan = await settle(entry, both.signal);
        wake(entry, plan);
        const failed = tell(entry, plan, !entry.mounted);
        if (failed.length > 0) throw new AgentError('FailedMount', failed.join('; '));
        entry.mounted = true;
        return new Map(
          usedVolumes(pod).flatMap((volume) => {
            const plugin = pluginOf(volume);
            const path = plugin === undefined ? volume.hostPath?.path : volumeDir(rootDir, pod.metadata.uid, plugin, volume.name);
            return path === undefined ? [] : [[volume.name, path] as const];
          }),
        );
      });
    },

    update(pod) {
      const entry = entries.get(pod.metadata.uid);
      if (entry === undefined) return;
      entry.pod = pod;
      if (entry.mounted) loop.enqueue(entry.uid);
    },

    async unmount(podUid, signal) {
      const entry = entries.get(podUid);
      entry?.ended.abort(new AgentError('Canceled', 'the pod is being taken away'));
      await serially(podUid, async () => {
        await takeDown(podUid, signal);
        loop.forget(podUid);
        for (const claim of entry?.claims ?? []) claim[Symbol.dispose]();
        if (entries.get(podUid) === entry) entries.delete(podUid);
      });
    },

    async mountsFor(pod, container, how, signal) {
      const { uid } = pod.metadata;
      const result: Mount[] = [];
      const placed: PlacedMount[] = (how.others ?? []).map((mount) => ({
        containerPath: mount.container_path ?? '',
        hostPath: mount.host_path,
        readOnly: mount.readonly === true,
        isOwn: false,
      }));
      for (const mount of plannedMounts(pod, container, { rootDir, ...how })) {
        let hostPath = mount.base;
        if (hostPath !== undefined && mount.subPath !== '') {
          const target = subPathTarget(rootDir, uid, mount.volume, container.name, mount.index);
          await bindSubPath(hostPath, mount.subPath, target, mount.volume, container.name, signal);
          hostPath = target;
        }
        const image = hostPath === undefined ? how.images?.get(mount.volume) : undefined;
        if (hostPath === undefined && image === undefined) {
          throw new AgentError(
            'CreateContainerConfigError',
            `cannot find volume "${mount.volume}" to mount into container "${container.name}"`,
          );
        }
        result.push({
          container_path: mount.containerPath,
          host_path: hostPath ?? '',
          readonly: mount.readOnly,
          recursive_read_only: mount.recursiveReadOnly,
          selinux_relabel: mount.selinuxRelabel,
          propagation: mount.propagation,
          ...(image === undefined ? {} : { image, image_sub_path: mount.subPath }),
        });
        placed.push({ containerPath: mount.containerPath, hostPath, readOnly: mount.readOnly, isOwn: mount.isOwn });
      }
      for (const nested of nestedMounts(placed)) await makeMountPoint(nested, container.name, signal);
      return result;
    },

    async readFile(pod, volumeName, path, signal) {
      const volume = usedVolumes(pod).find((one) => one.name === volumeName);
      const plugin = volume === undefined ? undefined : pluginOf(volume);
      const base = plugin === undefined ? volume?.hostPath?.path : volumeDir(rootDir, pod.metadata.uid, plugin, volumeName);
      return base === undefined ? undefined : await mounts.readInside(base, path, maxEnvFileBytes, signal);
    },

    listPodsOnDisk: () => disk.listPodDirectories(podsDir(rootDir)),

    onChange(listener) {
      listeners.add(listener);
      return { [Symbol.dispose]: () => void listeners.delete(listener) };
    },

    async [Symbol.asyncDispose]() {
      for (const subscription of subscriptions) subscription?.[Symbol.dispose]();
      await loop[Symbol.asyncDispose]();
      for (const entry of entries.values()) for (const claim of entry.claims) claim[Symbol.dispose]();
      await Promise.allSettled(chains.values());
    },
  };

  async function makeMountPoint({ outer, path, inner }: NestedMount, container: string, signal: AbortSignal): Promise<void> {
    const { hostPath: base } = outer;
    if (base === undefined) return;
    const where = `mount point ${inner.containerPath} of container "${container}"`;
    try {
      // What the node has not got yet, the runtime makes as a directory; an image is one.
      await answering(
        where,
        async (own) => {
          const type = inner.hostPath === undefined ? undefined : await mounts.fileType(inner.hostPath, own);
          await mounts.makeMountPoint(base, path, type === undefined || type === 'Directory', own);
        },
        signal,
      );
    } catch (error) {
      signal.throwIfAborted();
      const message = `unable to create nested volume mountpoints: ${where}: ${messageOf(error)}`;
      throw new AgentError('CreateContainerConfigError', message, { cause: error });
    }
  }

  async function bindSubPath(
    base: string,
    subPath: string,
    target: string,
    volume: string,
    container: string,
    signal: AbortSignal,
  ): Promise<void> {
    // What the node's files are called is none of the user's business: the message says what failed, the log why.
    const failed = (what: string, error: unknown): AgentError => {
      signal.throwIfAborted();
      log.warn({ volume, container, err: messageOf(error) }, `failed to ${what}`);
      return new AgentError('CreateContainerConfigError', `failed to ${what} for volumeMount "${volume}" of container "${container}"`, {
        cause: error,
      });
    };
    try {
      await answering(`volume ${volume}`, (own) => mounts.makeSubPathDirectory(base, subPath, own), signal);
    } catch (error) {
      throw failed('create subPath directory', error);
    }
    try {
      await answering(`volume ${volume}`, (own) => mounts.bindSubPath(base, subPath, target, own), signal);
    } catch (error) {
      throw failed('prepare subPath', error);
    }
  }
}

/** A signal that aborts with either of two; disposing it leaves no listener on them. */
function either(a: AbortSignal, b: AbortSignal): Disposable & { readonly signal: AbortSignal } {
  const controller = new AbortController();
  const fromA = (): void => controller.abort(a.reason);
  const fromB = (): void => controller.abort(b.reason);
  if (a.aborted) fromA();
  else if (b.aborted) fromB();
  a.addEventListener('abort', fromA, { once: true });
  b.addEventListener('abort', fromB, { once: true });
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      a.removeEventListener('abort', fromA);
      b.removeEventListener('abort', fromB);
    },
  };
}
