import type { ContainerAllocateResponse } from '../../cri-protos/generated/device-plugin.ts';
import type { Container, ResourceStatus } from '../model/generated/api.ts';
import { type AgentPod, isSidecar } from '../model/pod.ts';
import { compareQuantity, parseQuantity } from '../model/quantity.ts';
import type { Device, Offer } from './offers.ts';

/** Devices of one resource that a container was given, with what its plugin wants it to have. */
export interface Grant {
  readonly container: string;
  readonly resource: string;
  /** Device IDs by NUMA node, `-1` for those of none: a device that is near to two stands twice. As kubelet's checkpoint has them. */
  readonly devices: Readonly<Record<string, readonly string[]>>;
  readonly response: ContainerAllocateResponse;
}

/** By pod UID. */
export type Grants = ReadonlyMap<string, readonly Grant[]>;

/** The IDs of the devices of a grant, each once. */
export function idsOf({ devices }: Pick<Grant, 'devices'>): string[] {
  return [...new Set(Object.values(devices).flat())];
}

/** The devices of a resource that some container has. */
export function takenDevices(grants: Grants, resource: string): Set<string> {
  return new Set([...grants.values()].flat().flatMap((grant) => (grant.resource === resource ? idsOf(grant) : [])));
}

/** Resource → how many, of what a container asks for with a domain; whole numbers, which the API sees to. */
export function askedDevices(container: Container): Map<string, number> {
  const asked = Object.entries(container.resources?.limits ?? {}).filter(
    ([name, amount]) => name.includes('/') && compareQuantity(amount, '0') > 0,
  );
  return new Map(asked.sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, amount]) => [name, parseQuantity(amount)]));
}

/** Containers that can have devices, in the order in which they are given them. */
export function devicedContainers(pod: AgentPod): Container[] {
  return [...(pod.spec.initContainers ?? []), ...pod.spec.containers];
}

/** Devices that init containers before this one have had and are done with: it takes these first. What a sidecar or an app container has it keeps. */
export function reusableDevices(pod: AgentPod, container: string, own: readonly Grant[], resource: string): string[] {
  const free = new Set<string>();
  for (const one of devicedContainers(pod)) {
    if (one.name === container) break;
    const had = own.filter((grant) => grant.container === one.name && grant.resource === resource).flatMap(idsOf);
    const isDone = (pod.spec.initContainers ?? []).includes(one) && !isSidecar(one);
    for (const id of had) {
      if (isDone) free.add(id);
      else free.delete(id);
    }
  }
  return [...free];
}

export interface ChoiceInput {
  readonly resource: string;
  readonly needed: number;
  /** What the container has already; undefined when it was never given any. */
  readonly held: readonly string[] | undefined;
  readonly reusable: readonly string[];
  readonly offer: Offer | undefined;
  readonly taken: ReadonlySet<string>;
}

export type Choice =
  /** In kubelet's words. */
  | { readonly kind: 'refused'; readonly message: string }
  /** It has them. */
  | { readonly kind: 'held' }
  /** All of `reused`, and `missing` more out of `available`. */
  | { readonly kind: 'take'; readonly reused: readonly string[]; readonly missing: number; readonly available: readonly string[] };

/** Which devices a container gets (devicemanager devicesToAllocate; there is no topology manager that would align them). */
export function chooseDevices({ resource, needed, held, reusable, offer, taken }: ChoiceInput): Choice {
  const refused = (message: string): Choice => ({ kind: 'refused', message });
  if (held !== undefined && held.length !== needed)
    return refused(`the container changed its request for resource ${resource} from ${held.length} to ${needed}`);
  if (offer?.devices === undefined) return refused(`cannot allocate unregistered device ${resource}`);
  const healthy = [...offer.devices.values()].filter((device) => device.healthy).map(({ id }) => id);
  if (healthy.length === 0) return refused(`no healthy devices present; cannot allocate unhealthy devices ${resource}`);
  if (held?.some((id) => !healthy.includes(id)) === true)
    return refused(`previously allocated devices are no longer healthy; cannot allocate unhealthy devices ${resource}`);
  if (held !== undefined) return { kind: 'held' };
  const reused = reusable.slice(0, needed);
  const missing = needed - reused.length;
  const available = healthy.filter((id) => !taken.has(id));
  if (available.length < missing)
    return refused(`requested number of devices unavailable for ${resource}. Requested: ${missing}, Available: ${available.length}`);
  return { kind: 'take', reused, missing, available };
}

/** The devices of a choice: what the plugin prefers of those available comes first. */
export function fillChoice({ reused, missing, available }: Choice & { kind: 'take' }, preferred: readonly string[]): string[] {
  const wanted = [...new Set([...preferred.filter((id) => available.includes(id)), ...available])];
  return [...reused, ...wanted.slice(0, missing)];
}

/** Device IDs by NUMA node. */
export function byNumaNode(ids: readonly string[], known: ReadonlyMap<string, Device> | undefined): Record<string, string[]> {
  const nodes: Record<string, string[]> = {};
  for (const id of ids) {
    const near = known?.get(id)?.numaNodes ?? [];
    for (const node of near.length === 0 ? [-1] : near) {
      const list = nodes[node] ?? [];
      nodes[node] = list;
      list.push(id);
    }
  }
  return nodes;
}

/** What a container gets so that it can use its devices. */
export interface DeviceParts {
  readonly envs: readonly { readonly name: string; readonly value: string }[];
  readonly mounts: readonly { readonly hostPath: string; readonly containerPath: string; readonly readonly: boolean }[];
  readonly devices: readonly { readonly hostPath: string; readonly containerPath: string; readonly permissions: string }[];
  readonly annotations: Readonly<Record<string, string>>;
  readonly cdiDevices: readonly string[];
}

/** All that the plugins want for a container. Where two want different things under one name, the first resource by name has its way. */
export function partsOf(own: readonly Grant[], container: string): DeviceParts {
  const responses = own
    .filter((grant) => grant.container === container)
    .sort((a, b) => (a.resource < b.resource ? -1 : 1))
    .map(({ response }) => response);
  const envs = firsts(responses.flatMap(({ envs }) => Object.entries(envs ?? {})));
  const mounts = firsts(responses.flatMap(({ mounts }) => (mounts ?? []).map((mount) => [mount.container_path ?? '', mount] as const)));
  const devices = firsts(responses.flatMap(({ devices }) => (devices ?? []).map((d) => [d.container_path ?? '', d] as const)));
  return {
    envs: [...envs].map(([name, value]) => ({ name, value })),
    mounts: [...mounts].map(([containerPath, { host_path, read_only }]) => ({
      containerPath,
      hostPath: host_path ?? '',
      readonly: read_only === true,
    })),
    devices: [...devices].map(([containerPath, { host_path, permissions }]) => ({
      containerPath,
      hostPath: host_path ?? '',
      permissions: permissions ?? '',
    })),
    annotations: Object.fromEntries(firsts(responses.flatMap(({ annotations }) => Object.entries(annotations ?? {})))),
    cdiDevices: [...new Set(responses.flatMap(({ cdi_devices }) => (cdi_devices ?? []).map(({ name }) => name ?? '')))],
  };
}

function firsts<V>(entries: readonly (readonly [string, V])[]): Map<string, V> {
  const map = new Map<string, V>();
  for (const [key, value] of entries) if (!map.has(key)) map.set(key, value);
  return map;
}

/** `status.allocatedResourcesStatus` of a container; undefined when it has no devices. A device that no plugin tells of passes for healthy, as with kubelet. */
export function healthOf(own: readonly Grant[], container: string, offers: ReadonlyMap<string, Offer>): ResourceStatus[] | undefined {
  const grants = own.filter((grant) => grant.container === container).sort((a, b) => (a.resource < b.resource ? -1 : 1));
  if (grants.length === 0) return undefined;
  return grants.map((grant) => ({
    name: grant.resource,
    resources: idsOf(grant).map((id) => ({
      resourceID: id,
      health: offers.get(grant.resource)?.devices?.get(id)?.healthy === false ? 'Unhealthy' : 'Healthy',
    })),
  }));
}
