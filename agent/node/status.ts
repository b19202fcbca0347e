import type { Image, StatusResponse } from '../../cri-protos/generated/cri.ts';
import { ownValue } from '../base/own.ts';
import type { MachineFacts } from '../drivers/proc/machine.ts';
import type { ContainerImage, NodeAddress, NodeCondition, NodeStatus } from '../model/generated/api.ts';
import { kubernetesVersion } from '../model/kubernetes-version.ts';
import { isExtendedResource } from '../model/resources.ts';
import type { AddressPlan } from './addresses.ts';
import { type Amounts, allocatableOf, machineCapacity, type ReservationConfig, reservationOf } from './capacity.ts';

/** A runtime that has not answered well for this long is down (kubelet's maxWaitForContainerRuntime). */
const runtimeDownAfterMs = 30_000;

/** At most this many names of an image (pkg/kubelet/nodestatus MaxNamesPerImageInNodeStatus). */
const maxNamesPerImage = 5;

/** What is known of the container runtime. Monotonic times in ms. */
export interface RuntimeView {
  /** `containerd`, as the runtime calls itself; undefined until it first answered. */
  readonly name: string | undefined;
  readonly version: string | undefined;
  /** Its last answer about itself. */
  readonly status: StatusResponse | undefined;
  /** When it last said that it is ready; undefined when it never has. */
  readonly readyAtMono: number | undefined;
}

export interface Pressure {
  readonly memory: boolean;
  readonly disk: boolean;
  readonly pid: boolean;
}

export interface StatusInput {
  readonly nodeName: string;
  /** The status that the Node object has; empty for one that is being made. */
  readonly before: NodeStatus;
  readonly machine: MachineFacts;
  readonly addresses: AddressPlan;
  readonly runtime: RuntimeView;
  /** Images of the runtime; undefined while it has not told. */
  readonly images: readonly Image[] | undefined;
  readonly config: ReservationConfig & { readonly nodeStatusMaxImages: number };
  readonly port: number;
  readonly pressure: Pressure;
  /** Resources that device plugins offer. */
  readonly devices: { readonly capacity: Amounts; readonly allocatable: Amounts };
  /** What keeps the node from being ready besides the runtime: a relist that hangs, storage, a shutdown. */
  readonly problems: readonly string[];
  /** Features that this agent has and the scheduler may ask for; undefined: the field is left alone. */
  readonly declaredFeatures: readonly string[] | undefined;
  /** Unique names of volumes in use; undefined while the volumes are not known. */
  readonly volumesInUse: readonly string[] | undefined;
  readonly wallMs: number;
  readonly monoMs: number;
}

export interface NodeEvent {
  readonly type: 'Normal' | 'Warning';
  readonly reason: string;
  readonly message: string;
}

export interface StatusPlan {
  readonly status: NodeStatus;
  /** Events about what has changed. */
  readonly events: readonly NodeEvent[];
  /** What could not be told, for the log. */
  readonly problems: readonly string[];
}

/** The status that the node should show, built as kubelet builds it (pkg/kubelet/nodestatus/setters.go). Fields of others are kept. */
export function planNodeStatus(input: StatusInput): StatusPlan {
  const { before, machine, runtime } = input;
  const events: NodeEvent[] = [];
  const capacity = { ...before.capacity, ...machineCapacity(machine, input.config), ...input.devices.capacity };
  // A huge page size that the kernel no longer has would otherwise stay for good.
  for (const name of Object.keys(capacity))
    if (name.startsWith('hugepages-') && !Object.hasOwn(machineCapacity(machine, input.config), name)) delete capacity[name];
  const kept = Object.fromEntries(
    Object.entries(before.allocatable ?? {}).filter(
      ([name]) => Object.hasOwn(capacity, name) || !(isExtendedResource(name) || name.startsWith('hugepages-')),
    ),
  );
  const allocatable = { ...kept, ...allocatableOf(capacity, reservationOf(capacity, input.config)), ...input.devices.allocatable };

  const oldBoot = before.nodeInfo?.bootID ?? '';
  if (oldBoot !== '' && oldBoot !== machine.bootId)
    events.push({
      type: 'Warning',
      reason: 'Rebooted',
      message: `Node ${input.nodeName} has been rebooted, boot id: ${machine.bootId}`,
    });

  const features = runtime.status?.features;
  const status: NodeStatus = {
    ...before,
    addresses: input.addresses.kind === 'addresses' ? ([...input.addresses.addresses] as NodeAddress[]) : (before.addresses ?? []),
    capacity,
    allocatable,
    nodeInfo: {
      machineID: machine.machineId,
      systemUUID: machine.systemUuid,
      bootID: machine.bootId,
      kernelVersion: machine.kernelVersion,
      osImage: machine.osImage,
      containerRuntimeVersion: `${runtime.name ?? before.nodeInfo?.containerRuntimeVersion.split('://')[0] ?? 'containerd'}://${runtimeVersion(runtime.version)}`,
      // Checks of version skew compare it with the API server's.
      kubeletVersion: kubernetesVersion,
      // Deprecated and emptied by kubelet since 1.33 (DisableNodeKubeProxyVersion).
      kubeProxyVersion: '',
      operatingSystem: 'linux',
      architecture: machine.architecture,
      ...(machine.swapBytes > 0 ? { swap: { capacity: machine.swapBytes } } : {}),
    },
    daemonEndpoints: { kubeletEndpoint: { Port: input.port } },
    images: input.images === undefined ? before.images : imagesOf(input.images, input.config.nodeStatusMaxImages),
    ...(runtime.status === undefined ? {} : { runtimeHandlers: handlersOf(runtime.status) }),
    ...(features === undefined ? {} : { features: { supplementalGroupsPolicy: features.supplemental_groups_policy ?? false } }),
    ...(input.declaredFeatures === undefined ? {} : { declaredFeatures: [...input.declaredFeatures].sort() }),
    ...(input.volumesInUse === undefined ? {} : { volumesInUse: [...input.volumesInUse] }),
  };

  const now = rfc3339(input.wallMs);
  const conditions = [...(before.conditions ?? [])];
  const put = (condition: NodeCondition): void => {
    const at = conditions.findIndex((c) => c.type === condition.type);
    if (at < 0) conditions.push(condition);
    else conditions[at] = condition;
  };
  for (const { type, on, yes, no } of pressureConditions(input.pressure)) {
    const old = conditions.find((c) => c.type === type);
    const wanted = on ? 'True' : 'False';
    if (old?.status === wanted) put({ ...old, lastHeartbeatTime: now });
    else {
      const [word, reason, message] = on ? yes : no;
      put({ type, status: wanted, reason, message, lastHeartbeatTime: now, lastTransitionTime: now });
      events.push(statusEvent(input.nodeName, word));
    }
  }
  // Ready comes last in a new list: old control planes relied on it.
  const problems = readyProblems(input, status);
  const ready = problems.length === 0;
  const old = conditions.find((c) => c.type === 'Ready');
  const wanted = ready ? 'True' : 'False';
  put({
    type: 'Ready',
    status: wanted,
    reason: ready ? 'KubeletReady' : 'KubeletNotReady',
    message: ready ? 'kubelet is posting ready status' : aggregate(problems),
    lastHeartbeatTime: now,
    lastTransitionTime: old?.status === wanted ? old.lastTransitionTime : now,
  });
  if (old !== undefined && old.status !== wanted) events.push(statusEvent(input.nodeName, ready ? 'NodeReady' : 'NodeNotReady'));
  status.conditions = conditions;
  return { status, events, problems: input.addresses.kind === 'problem' ? [input.addresses.message] : [] };
}

function statusEvent(nodeName: string, reason: string): NodeEvent {
  return { type: 'Normal', reason, message: `Node ${nodeName} status is now: ${reason}` };
}

type Words = readonly [event: string, reason: string, message: string];

function pressureConditions(pressure: Pressure): { type: string; on: boolean; yes: Words; no: Words }[] {
  return [
    {
      type: 'MemoryPressure',
      on: pressure.memory,
      yes: ['NodeHasInsufficientMemory', 'KubeletHasInsufficientMemory', 'kubelet has insufficient memory available'],
      no: ['NodeHasSufficientMemory', 'KubeletHasSufficientMemory', 'kubelet has sufficient memory available'],
    },
    {
      type: 'DiskPressure',
      on: pressure.disk,
      yes: ['NodeHasDiskPressure', 'KubeletHasDiskPressure', 'kubelet has disk pressure'],
      no: ['NodeHasNoDiskPressure', 'KubeletHasNoDiskPressure', 'kubelet has no disk pressure'],
    },
    {
      type: 'PIDPressure',
      on: pressure.pid,
      yes: ['NodeHasInsufficientPID', 'KubeletHasInsufficientPID', 'kubelet has insufficient PID available'],
      no: ['NodeHasSufficientPID', 'KubeletHasSufficientPID', 'kubelet has sufficient PID available'],
    },
  ];
}

/** What keeps the runtime's part of Ready from being true, in kubelet's words; none when it is. */
export function runtimeProblems(runtime: RuntimeView, monoMs: number): string[] {
  const problems: string[] = [];
  if (runtime.readyAtMono === undefined) problems.push('container runtime status check may not have completed yet');
  else if (monoMs - runtime.readyAtMono >= runtimeDownAfterMs) problems.push('container runtime is down');
  if (runtime.status !== undefined) {
    const runtimeReady = conditionText(runtime.status, 'RuntimeReady');
    if (runtimeReady !== undefined) problems.push(`container runtime not ready: ${runtimeReady}`);
  }
  return problems;
}

function readyProblems(input: StatusInput, status: NodeStatus): string[] {
  const { runtime } = input;
  const problems = runtimeProblems(runtime, input.monoMs);
  // Before the runtime's first word, nothing is known of the network either.
  const network = runtime.status === undefined ? undefined : conditionText(runtime.status, 'NetworkReady');
  if (runtime.status === undefined) problems.push('container runtime network not ready: network state unknown');
  else if (network !== undefined) problems.push(`container runtime network not ready: ${network}`);
  problems.push(...input.problems);
  const required = ['cpu', 'memory', 'pods', ...(input.config.localStorageCapacityIsolation ? ['ephemeral-storage'] : [])];
  const missing = required.filter((name) => ownValue(status.capacity, name) === undefined);
  if (missing.length > 0) problems.push(`missing node capacity for resources: ${missing.join(', ')}`);
  return problems;
}

/** A runtime condition that is not true, as kubelet prints it; undefined when it is true. */
function conditionText(status: StatusResponse, type: string): string | undefined {
  const condition = status.status?.conditions?.find((c) => c.type === type);
  if (condition === undefined) return '<nil>';
  if (condition.status === true) return undefined;
  return `${type}=false reason:${condition.reason ?? ''} message:${condition.message ?? ''}`;
}

/** Several errors in one text, as apimachinery's Aggregate prints them: repeated ones once, in brackets when more than one. */
function aggregate(problems: readonly string[]): string {
  const unique = [...new Set(problems)];
  return unique.length === 1 ? (unique[0] ?? '') : `[${unique.join(', ')}]`;
}

/** The largest images first, each with at most five names, digests before tags; `max` -1 is no limit. */
export function imagesOf(images: readonly Image[], max: number): ContainerImage[] {
  const sorted = [...images].sort((a, b) => (b.size ?? 0) - (a.size ?? 0) || ((a.id ?? '') > (b.id ?? '') ? -1 : 1));
  return (max < 0 ? sorted : sorted.slice(0, max)).map((image) => ({
    names: [...(image.repo_digests ?? []), ...(image.repo_tags ?? [])].slice(0, maxNamesPerImage),
    sizeBytes: image.size ?? 0,
  }));
}

function handlersOf(status: StatusResponse): NonNullable<NodeStatus['runtimeHandlers']> {
  return (status.runtime_handlers ?? [])
    .map((handler) => ({
      name: handler.name ?? '',
      features: {
        recursiveReadOnlyMounts: handler.features?.recursive_read_only_mounts ?? false,
        userNamespaces: handler.features?.user_namespaces ?? false,
      },
    }))
    .sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
}

/** A runtime's version as kubelet prints it (apimachinery's util/version): `v1.6.20~ds1` → 1.6.20, `v2.1.9-rc.1+x` stays but for the v. */
export function runtimeVersion(version: string | undefined): string {
  const match = /^\s*v?(\d+(?:\.\d+)+)(.*)$/.exec(version ?? '');
  if (match === null) return 'Unknown';
  const [, numbers = '', extra = ''] = match;
  const semantic =
    numbers.split('.').length === 3 && /^(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?\s*$/.test(extra);
  return semantic ? numbers + extra.trim() : numbers;
}

/** A timestamp of the API: whole seconds, UTC. */
function rfc3339(wallMs: number): string {
  return `${new Date(wallMs).toISOString().slice(0, 19)}Z`;
}

/** A timestamp with microseconds, as leases have them. */
export function rfc3339Micro(wallMs: number): string {
  return `${new Date(wallMs).toISOString().slice(0, 23)}000Z`;
}
