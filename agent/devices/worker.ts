import type { ContainerAllocateResponse, DevicePluginOptions, Device as ToldDevice } from '../../cri-protos/generated/device-plugin.ts';
import type { Clock } from '../base/clock.ts';
import { AgentError, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { ownValue, setOwn } from '../base/own.ts';
import type { Container, ResourceStatus } from '../model/generated/api.ts';
import type { AgentNode, AgentPod } from '../model/pod.ts';
import { parseQuantity } from '../model/quantity.ts';
import {
  askedDevices,
  byNumaNode,
  chooseDevices,
  type DeviceParts,
  devicedContainers,
  fillChoice,
  type Grant,
  type Grants,
  healthOf,
  idsOf,
  partsOf,
  reusableDevices,
  takenDevices,
} from './grants.ts';
import {
  amountsOf,
  changedHealth,
  type Device,
  type DeviceAmounts,
  devicesOf,
  isExpired,
  type Offer,
  stopGraceMs,
  stoppedOffer,
} from './offers.ts';

/** A plugin that has been reached. Its calls throw AgentErrors that end in the plugin's own words. */
export interface DevicePlugin extends Disposable {
  options(signal: AbortSignal): Promise<DevicePluginOptions>;
  /** All devices, again and again; ends or throws when the plugin goes away. */
  watch(signal: AbortSignal): AsyncIterable<readonly ToldDevice[]>;
  allocate(ids: readonly string[], signal: AbortSignal): Promise<ContainerAllocateResponse | undefined>;
  preStart(ids: readonly string[], signal: AbortSignal): Promise<void>;
  preferred(available: readonly string[], mustInclude: readonly string[], size: number, signal: AbortSignal): Promise<readonly string[]>;
}

/** What outlives the agent: the grants, and the resources that plugins offered. */
export interface DeviceCheckpoint {
  /** What an earlier agent, or a kubelet, has left; undefined when there was no file, as on a fresh node. */
  readonly found: { readonly grants: Grants; readonly resources: readonly string[] } | undefined;
  /** Has the file written anew in a moment, with what it is then. */
  touch(): void;
  /** Resolves when what is true now is on the disk. */
  written(): Promise<void>;
}

export interface DevicesOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** Reaches the plugin that serves this socket. */
  readonly connect: (socket: string, signal: AbortSignal) => Promise<DevicePlugin>;
  /** `current` is what the file is to say: grants, and by resource the devices that are healthy. */
  readonly openCheckpoint: (current: () => { grants: Grants; resources: Record<string, string[]> }) => Promise<DeviceCheckpoint>;
  /** What the Node has of devices is another. */
  readonly amountsChanged: () => void;
  /** Devices of this pod have become healthy or not. */
  readonly healthChanged: (podUid: string) => void;
  readonly observe: { registered(resource: string): void; allocated(resource: string, tookMs: number): void };
}

/** Why a pod cannot have its devices, as admission tells it. */
export interface DeviceRefusal {
  readonly reason: 'UnexpectedAdmissionError';
  readonly message: string;
}

export interface Devices extends AsyncDisposable {
  /** False on a node that was made anew: devices that its Node shows are those of the one before. */
  readonly hadCheckpoint: boolean;
  /** Takes the plugin that serves `socket` for the resource, in place of an earlier one. Rejects, with what to tell the plugin, when it cannot be used. */
  register(resource: string, socket: string): Promise<void>;
  /** The plugin says goodbye. */
  deregister(resource: string): void;
  amounts(): DeviceAmounts;
  /** The Node with at least as many devices allocatable as pods have: those that are in use stay so, however their plugins are. */
  withTaken(node: AgentNode): AgentNode;
  /** Whether the pod asks for what plugins offer. */
  concerns(pod: AgentPod): boolean;
  /** Gives the pod's containers what they ask for; resolves to why not, in which case it has nothing. Safe to repeat. */
  grant(pod: AgentPod, signal: AbortSignal): Promise<DeviceRefusal | undefined>;
  /** What a container that is about to start gets for its devices. Tells plugins that want to know; throws AgentError CreateContainerConfigError. */
  prepare(pod: AgentPod, container: Container, signal: AbortSignal): Promise<DeviceParts>;
  health(podUid: string, container: string): ResourceStatus[] | undefined;
  /** The pod has ended, or is not taken: its devices are free. */
  release(podUid: string): void;
  /** Releases what pods that nobody knows any more were given. */
  prune(known: (podUid: string) => boolean): void;
}

// kubelet's limits where it has some (10 s to connect, 30 s for PreStartContainer); a plugin may reset a device at Allocate, which takes its time.
const connectLimitMs = 10_000;
const askLimitMs = 10_000;
const preStartLimitMs = 30_000;
const allocateLimitMs = 120_000;

interface Connected {
  readonly plugin: DevicePlugin;
  readonly options: DevicePluginOptions;
  readonly controller: AbortController;
  readonly ended: Promise<void>;
}

export async function startDevices(options: DevicesOptions): Promise<Devices> {
  const { clock, log } = options;
  const offers = new Map<string, Offer>();
  const plugins = new Map<string, Connected>();
  const grants = new Map<string, readonly Grant[]>();
  // Chosen and not granted yet: nobody else may choose them meanwhile. By a grant under way.
  const reserved = new Map<symbol, { readonly resource: string; readonly ids: readonly string[] }>();
  const granting = new Map<string, AbortController>();
  const expiries = new Map<string, Disposable>();
  const ending = new Set<Promise<void>>();
  let closed = false;

  const checkpoint = await options.openCheckpoint(() => ({
    grants,
    resources: Object.fromEntries(
      [...offers]
        .filter(([, offer]) => offer.devices !== undefined && !isExpired(offer, clock.mono()))
        .map(([resource, { devices }]) => [resource, [...(devices?.values() ?? [])].filter((d) => d.healthy).map(({ id }) => id)]),
    ),
  }));
  for (const [uid, own] of checkpoint.found?.grants ?? []) grants.set(uid, own);
  // Until their plugins are back, these count as nothing: whoever asks for them now cannot have them.
  for (const resource of checkpoint.found?.resources ?? []) {
    offers.set(resource, { devices: new Map(), stoppedAt: clock.mono() });
    expireLater(resource);
  }

  function expireLater(resource: string): void {
    expiries.get(resource)?.[Symbol.dispose]();
    expiries.set(
      resource,
      clock.after(stopGraceMs, () => {
        expiries.delete(resource);
        log.info({ resource }, 'device plugin has not come back: its devices count as gone');
        changed();
      }),
    );
  }

  function changed(): void {
    checkpoint.touch();
    options.amountsChanged();
  }

  async function register(resource: string, socket: string): Promise<void> {
    options.observe.registered(resource);
    if (closed) throw new AgentError('Unavailable', 'the agent is stopping');
    const controller = new AbortController();
    const plugin = await within(options.signal, connectLimitMs, (signal) => options.connect(socket, signal));
    let told: DevicePluginOptions;
    try {
      told = await within(options.signal, askLimitMs, (signal) => plugin.options(signal));
    } catch (error) {
      plugin[Symbol.dispose]();
      throw new AgentError('Unavailable', `failed to get device plugin options: ${messageOf(error)}`, { cause: error });
    }
    const before = plugins.get(resource);
    expiries.get(resource)?.[Symbol.dispose]();
    expiries.delete(resource);
    offers.set(resource, { devices: offers.get(resource)?.devices, stoppedAt: undefined });
    const connected: Connected = { plugin, options: told, controller, ended: follow(resource, plugin, controller) };
    plugins.set(resource, connected);
    if (before !== undefined) end(before);
    log.info({ resource, socket }, 'device plugin registered');
  }

  /** Ends a plugin's connection without a word about its devices. */
  function end({ plugin, controller, ended }: Connected): void {
    controller.abort(new AgentError('Canceled', 'the plugin is no longer used'));
    plugin[Symbol.dispose]();
    ending.add(ended);
    void ended.finally(() => ending.delete(ended));
  }

  /** Takes what the plugin tells until it goes away. It registers again when it is back; nobody asks it to. */
  async function follow(resource: string, plugin: DevicePlugin, controller: AbortController): Promise<void> {
    let why = 'it ended its list';
    try {
      for await (const told of plugin.watch(controller.signal)) {
        if (controller.signal.aborted) return;
        update(resource, devicesOf(told));
      }
    } catch (error) {
      why = messageOf(error);
    }
    if (controller.signal.aborted) return;
    log.warn({ resource, err: why }, 'device plugin is gone: its devices count as unhealthy');
    stopOffer(resource);
    plugins.delete(resource);
    plugin[Symbol.dispose]();
  }

  function stopOffer(resource: string): void {
    const offer = offers.get(resource);
    if (offer === undefined) return;
    const stopped = stoppedOffer(offer, clock.mono());
    replaceOffer(resource, stopped);
    expireLater(resource);
  }

  function update(resource: string, devices: ReadonlyMap<string, Device>): void {
    log.debug({ resource, devices: devices.size }, 'device plugin told its devices');
    replaceOffer(resource, { devices, stoppedAt: undefined });
  }

  function replaceOffer(resource: string, offer: Offer): void {
    const news = new Set(changedHealth(offers.get(resource)?.devices, offer.devices ?? new Map()));
    offers.set(resource, offer);
    changed();
    for (const [uid, own] of grants)
      if (own.some((grant) => grant.resource === resource && idsOf(grant).some((id) => news.has(id)))) options.healthChanged(uid);
  }

  function within<T>(signal: AbortSignal, ms: number, act: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const deadline = clock.deadline(signal, ms);
    return act(deadline.signal).finally(() => deadline[Symbol.dispose]());
  }

  function taken(resource: string): Set<string> {
    const all = takenDevices(grants, resource);
    for (const one of reserved.values()) if (one.resource === resource) for (const id of one.ids) all.add(id);
    return all;
  }

  /** One that plugins offer, or of which somebody has devices. */
  function isPlugged(resource: string): boolean {
    const offer = offers.get(resource);
    return (offer?.devices !== undefined && !isExpired(offer, clock.mono())) || taken(resource).size > 0;
  }

  function asked(container: Container): [resource: string, needed: number][] {
    return [...askedDevices(container)].filter(([resource]) => isPlugged(resource));
  }

  async function grantContainer(pod: AgentPod, container: Container, signal: AbortSignal): Promise<void> {
    const { uid } = pod.metadata;
    for (const [resource, needed] of asked(container)) {
      const choose = () => {
        const own = grants.get(uid) ?? [];
        const had = own.find((grant) => grant.container === container.name && grant.resource === resource);
        return chooseDevices({
          resource,
          needed,
          held: had === undefined ? undefined : idsOf(had),
          reusable: reusableDevices(pod, container.name, own, resource),
          offer: offers.get(resource),
          taken: taken(resource),
        });
      };
      const first = choose();
      if (first.kind === 'held') continue;
      if (first.kind === 'refused') throw new AgentError('Refused', first.message);
      const connected = plugins.get(resource);
      if (connected === undefined) throw new AgentError('Refused', `the plugin of ${resource} has been stopped`);
      const { plugin, options: can } = connected;
      let preferred: readonly string[] = [];
      if (first.missing > 0 && can.get_preferred_allocation_available === true) {
        const { available, reused } = first;
        preferred = await within(signal, askLimitMs, (s) => plugin.preferred([...reused, ...available], reused, needed, s)).catch(
          (error: unknown) => {
            throw new AgentError('Refused', `device plugin GetPreferredAllocation rpc failed with err: ${messageOf(error)}`, {
              cause: error,
            });
          },
        );
      }
      // Others may have chosen while the plugin was asked.
      const choice = preferred.length > 0 ? choose() : first;
      if (choice.kind === 'refused') throw new AgentError('Refused', choice.message);
      if (choice.kind === 'held') continue;
      const ids = fillChoice(choice, preferred);
      const key = Symbol(resource);
      reserved.set(key, { resource, ids });
      try {
        const startedAt = clock.mono();
        const response = await within(signal, allocateLimitMs, (s) => plugin.allocate(ids, s)).finally(() =>
          options.observe.allocated(resource, clock.mono() - startedAt),
        );
        signal.throwIfAborted();
        if (response === undefined) throw new AgentError('Refused', `no containers return in allocation response of ${resource}`);
        const devices = byNumaNode(ids, offers.get(resource)?.devices);
        grants.set(uid, [...(grants.get(uid) ?? []), { container: container.name, resource, devices, response }]);
      } finally {
        reserved.delete(key);
      }
    }
  }

  async function grant(pod: AgentPod, outer: AbortSignal): Promise<DeviceRefusal | undefined> {
    const { uid, namespace, name } = pod.metadata;
    const controller = new AbortController();
    const abort = (): void => controller.abort(outer.reason);
    if (outer.aborted) abort();
    outer.addEventListener('abort', abort, { once: true });
    granting.set(uid, controller);
    try {
      for (const container of devicedContainers(pod)) await grantContainer(pod, container, controller.signal);
      if (grants.has(uid)) {
        checkpoint.touch();
        // What the pod has outlives the agent, or its devices would be given away again.
        await checkpoint.written();
        log.info(
          { pod: `${namespace}/${name}`, podUid: uid, devices: (grants.get(uid) ?? []).flatMap(idsOf) },
          'pod was given its devices',
        );
      }
      return undefined;
    } catch (error) {
      if (granting.get(uid) === controller) drop(uid);
      return { reason: 'UnexpectedAdmissionError', message: `Allocate failed due to ${messageOf(error)}, which is unexpected` };
    } finally {
      outer.removeEventListener('abort', abort);
      if (granting.get(uid) === controller) granting.delete(uid);
    }
  }

  function drop(uid: string): void {
    if (grants.delete(uid)) checkpoint.touch();
  }

  return {
    hadCheckpoint: checkpoint.found !== undefined,
    register,
    deregister(resource) {
      const connected = plugins.get(resource);
      if (connected === undefined) return;
      plugins.delete(resource);
      end(connected);
      stopOffer(resource);
    },
    amounts: () => amountsOf(offers, clock.mono()),
    withTaken(node) {
      const allocatable: Record<string, string> = { ...node.status?.allocatable };
      for (const resource of new Set([...grants.values()].flat().map((grant) => grant.resource))) {
        const inUse = takenDevices(grants, resource).size;
        if (parseQuantity(ownValue(allocatable, resource) ?? '0') < inUse) setOwn(allocatable, resource, String(inUse));
      }
      return { ...node, status: { ...node.status, allocatable } };
    },
    concerns: (pod) => devicedContainers(pod).some((container) => asked(container).length > 0),
    grant,
    async prepare(pod, container, signal) {
      const { uid } = pod.metadata;
      const wrong = (error: unknown): AgentError => new AgentError('CreateContainerConfigError', messageOf(error), { cause: error });
      // Lost with a checkpoint that could not be read, perhaps.
      if (asked(container).some(([resource]) => grantOf(uid, container.name, resource) === undefined)) {
        await grantContainer(pod, container, signal).catch((error: unknown) => {
          throw wrong(error);
        });
        checkpoint.touch();
        await checkpoint.written();
      }
      for (const [resource] of asked(container)) {
        const connected = plugins.get(resource);
        const own = grantOf(uid, container.name, resource);
        if (connected?.options.pre_start_required !== true || own === undefined) continue;
        await within(signal, preStartLimitMs, (s) => connected.plugin.preStart(idsOf(own), s)).catch((error: unknown) => {
          throw wrong(`device plugin PreStartContainer rpc failed with err: ${messageOf(error)}`);
        });
      }
      return partsOf(grants.get(uid) ?? [], container.name);
    },
    health: (uid, container) => healthOf(grants.get(uid) ?? [], container, offers),
    release(uid) {
      granting.get(uid)?.abort(new AgentError('Canceled', 'the pod is gone'));
      granting.delete(uid);
      drop(uid);
    },
    prune(known) {
      for (const uid of [...grants.keys()]) if (!known(uid)) drop(uid);
    },
    async [Symbol.asyncDispose]() {
      closed = true;
      for (const timer of expiries.values()) timer[Symbol.dispose]();
      for (const connected of plugins.values()) end(connected);
      plugins.clear();
      for (const controller of granting.values()) controller.abort(new AgentError('Canceled', 'the agent is stopping'));
      await Promise.allSettled(ending);
      await checkpoint.written();
    },
  };

  function grantOf(uid: string, container: string, resource: string): Grant | undefined {
    return grants.get(uid)?.find((grant) => grant.container === container && grant.resource === resource);
  }
}
