import type { ContainerStats as CriContainerStats, ImageFsInfoResponse, UInt64Value } from '../../cri-protos/generated/cri.ts';
import type { Clock } from '../base/clock.ts';
import { hasCode, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { ReadonlyTable } from '../base/table.ts';
import type { CgroupReader } from '../drivers/cgroup/readings.ts';
import type { DiskUsage, FileSystemSize } from '../drivers/sys/disk-usage.ts';
import { isLocalEphemeral } from '../model/local-volume.ts';
import type { AgentPod } from '../model/pod.ts';
import type { RuntimeContainer, RuntimePod } from '../pods/observed.ts';
import { type CgroupReading, cgroupFiles, parseCgroup, statsOf } from './cgroup-files.ts';
import { parseLoadavg, parseNetDev, parseNode } from './proc-files.ts';
import { createRates } from './rates.ts';
import {
  type ContainerStats,
  ephemeralStorage,
  type FsStats,
  type MemoryStats,
  type NetworkStats,
  type NodeStats,
  type PodStats,
  type Summary,
  type VolumeStats,
} from './summary.ts';

/** A directory of a pod whose content counts, such as an emptyDir. */
export interface VolumePath {
  readonly name: string;
  readonly path: string;
}

export interface StatsOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly nodeName: string;
  /** Wall, ms. */
  readonly bootTime: number;
  readonly memoryBytes: number;
  readonly maxPids: number;
  readonly cgroups: CgroupReader;
  /** The cgroup that all pods are in; undefined where they have none of their own. */
  readonly podsCgroup: string | undefined;
  /** Cgroups of the agent and of the runtime, as far as they have one of their own. */
  readonly systemCgroups: { readonly kubelet?: string | undefined; readonly runtime?: string | undefined };
  readonly podCgroup: (pod: AgentPod) => string | undefined;
  /** By UID: the pods that may run here. */
  readonly admitted: ReadonlyTable<{ readonly pod: AgentPod }>;
  /** By UID. */
  readonly runtime: ReadonlyTable<RuntimePod>;
  readonly listContainerStats: (
    request: { filter?: { pod_sandbox_id?: string } },
    signal: AbortSignal,
  ) => Promise<{ stats?: CriContainerStats[] | undefined }>;
  readonly imageFsInfo: (request: Record<string, never>, signal: AbortSignal) => Promise<ImageFsInfoResponse>;
  readonly fileSystemSize: (path: string) => Promise<FileSystemSize>;
  readonly diskUsage: (paths: readonly string[], signal: AbortSignal) => Promise<Map<string, DiskUsage>>;
  /** A file of /proc; undefined when there is none. */
  readonly readProc: (path: string) => string | undefined;
  readonly rootDir: string;
  /** The directories of a pod's volumes that are counted by walking them. */
  readonly volumePaths: (pod: AgentPod) => readonly VolumePath[];
  /** Where a container's logs lie, and the /etc/hosts that the agent wrote for the pod. */
  readonly logFolder: (pod: RuntimePod, container: string) => string;
  readonly hostsFile: (uid: string) => string;
  /** How old what was found on the disk may be when it is shown; 0 or less: a minute (volumeStatsAggPeriod). */
  readonly diskMaxAgeMs: number;
}

/** The file systems that pods use, and whether they are different ones. */
export interface FileSystems {
  readonly nodeFs: FsStats;
  readonly imageFs: FsStats | undefined;
  readonly containerFs: FsStats | undefined;
  /** Images are on another file system than the node's own. */
  readonly dedicatedImageFs: boolean;
  /** Containers' layers are on another file system than images. */
  readonly splitContainerFs: boolean;
}

/** What the node as a whole has left: cheap, for whoever looks often. */
export interface NodeReading {
  readonly memory: MemoryStats;
  readonly podsMemory: MemoryStats | undefined;
  readonly fileSystems: FileSystems;
  readonly rlimit: NodeStats['rlimit'];
}

export interface Stats {
  /** Memory, file systems and processes of the node, read now. */
  node(signal: AbortSignal): Promise<NodeReading>;
  /** Memory alone; a few microseconds. */
  memory(): Pick<NodeReading, 'memory' | 'podsMemory'>;
  /**
   * Pods of the runtime that run something; `uids` picks some. What lies on the disk is left out, or read when it is older than `diskMaxAgeMs`.
   */
  pods(
    options: { readonly uids?: ReadonlySet<string>; readonly diskMaxAgeMs: number | undefined },
    signal: AbortSignal,
  ): Promise<PodStats[]>;
  /** Everything, or CPU and memory only. */
  summary(onlyCpuAndMemory: boolean, signal: AbortSignal): Promise<Summary>;
}

// A walk over volumes may take this long; what it has found by then counts.
const walkTimeoutMs = 30_000;
const runtimeTimeoutMs = 10_000;
// Which file systems the runtime uses, and how much its images take: asked for anew when older.
const imageFsMaxAgeMs = 60_000;

/** Answers questions about what the node and its pods use. It reads when asked, and nothing on its own. */
export function createStats(options: StatsOptions): Stats {
  const { clock, cgroups, runtime } = options;
  const files = cgroupFiles[cgroups.version];
  const rates = createRates();
  // By path, and whose it is.
  const usage = new Map<string, DiskUsage & { readonly at: number; readonly uid: string }>();
  let imageFsInfo: { answer: ImageFsInfoResponse; atMono: number } | undefined;
  // The first reading, so that the next one has a rate.
  nodeCpu(readCgroup('/', files.all));
  const parts = Object.entries({ ...options.systemCgroups, pods: options.podsCgroup }).flatMap(([name, cgroup]) =>
    cgroup === undefined ? [] : [{ name, cgroup }],
  );
  for (const { cgroup } of parts) withRate(cgroup, readCgroup(cgroup, files.all));

  function readCgroup(cgroup: string, which: (typeof files)['all']): CgroupReading {
    return parseCgroup(cgroups.version, cgroups.read(cgroup, which), clock.wall());
  }

  function withRate(key: string, reading: CgroupReading, createdAt?: number): ReturnType<typeof statsOf> {
    const { cpuNs, at } = reading;
    const rate = cpuNs === undefined ? undefined : rates.rate(key, cpuNs, at, createdAt);
    return statsOf(reading, rate);
  }

  function proc(): ReturnType<typeof parseNode> {
    return parseNode(options.readProc('/proc/meminfo') ?? '', options.readProc('/proc/stat') ?? '');
  }

  /** The root cgroup counts all on v1; on v2 it has no memory file, and /proc tells. */
  function nodeMemory(root: CgroupReading): MemoryStats {
    const { workingSetBytes = 0, ...counted } = root.memory ?? {};
    if (root.memory !== undefined) {
      const availableBytes = Math.max(0, options.memoryBytes - workingSetBytes);
      return { time: root.at, availableBytes, ...counted, workingSetBytes, psi: root.psi.memory };
    }
    const node = proc();
    const texts = cgroups.read('/', files.memory);
    const { memory } = parseCgroup(cgroups.version, { ...texts, 'memory.current': String(node.usedBytes) }, root.at);
    return {
      time: root.at,
      availableBytes: Math.max(0, options.memoryBytes - node.workingSetBytes),
      ...memory,
      usageBytes: node.usedBytes,
      workingSetBytes: node.workingSetBytes,
      psi: root.psi.memory,
    };
  }

  function nodeCpu(root: CgroupReading): ReturnType<typeof statsOf>['cpu'] {
    const cpuNs = root.cpuNs ?? proc().cpuNs;
    return statsOf({ ...root, cpuNs }, rates.rate('/', cpuNs, root.at)).cpu;
  }

  function memory(): Pick<NodeReading, 'memory' | 'podsMemory'> {
    const { podsCgroup } = options;
    return {
      memory: nodeMemory(readCgroup('/', files.memory)),
      podsMemory: podsCgroup === undefined ? undefined : statsOf(readCgroup(podsCgroup, files.memory), undefined).memory,
    };
  }

  function rlimit(): NodeStats['rlimit'] {
    const curproc = parseLoadavg(options.readProc('/proc/loadavg') ?? '');
    return curproc === undefined ? undefined : { time: clock.wall(), maxpid: options.maxPids, curproc };
  }

  function fsStats(size: FileSystemSize, usedBytes?: number, inodesUsed?: number): FsStats {
    return {
      time: clock.wall(),
      availableBytes: size.availableBytes,
      capacityBytes: size.capacityBytes,
      usedBytes: usedBytes ?? size.usedBytes,
      inodesFree: size.inodesFree,
      inodes: size.inodes,
      inodesUsed: inodesUsed ?? size.inodes - size.inodesFree,
    };
  }

  async function fileSystems(signal: AbortSignal): Promise<FileSystems> {
    const root = await options.fileSystemSize(options.rootDir);
    const nodeFs = fsStats(root);
    try {
      if (imageFsInfo === undefined || clock.mono() - imageFsInfo.atMono > imageFsMaxAgeMs) {
        using deadline = clock.deadline(signal, runtimeTimeoutMs);
        imageFsInfo = { answer: await options.imageFsInfo({}, deadline.signal), atMono: clock.mono() };
      }
      const [imagesAt] = imageFsInfo.answer.image_filesystems ?? [];
      const containersAt = imageFsInfo.answer.container_filesystems?.[0] ?? imagesAt;
      const [images, containers] = await Promise.all(
        [imagesAt, containersAt].map(async (one) => {
          const mountpoint = one?.fs_id?.mountpoint;
          if (one === undefined || !mountpoint) return undefined;
          const size = await options.fileSystemSize(mountpoint);
          return { device: size.device, stats: fsStats(size, numberOf(one.used_bytes), numberOf(one.inodes_used)) };
        }),
      );
      return {
        nodeFs,
        imageFs: images?.stats,
        containerFs: containers?.stats ?? images?.stats,
        dedicatedImageFs: images !== undefined && images.device !== root.device,
        splitContainerFs: images !== undefined && containers !== undefined && images.device !== containers.device,
      };
    } catch (error) {
      if (signal.aborted) throw error;
      // The node's own file system must be watched all the same.
      options.log.warn({ err: messageOf(error) }, 'the file system of images could not be looked at');
      imageFsInfo = undefined;
      return { nodeFs, imageFs: undefined, containerFs: undefined, dedicatedImageFs: false, splitContainerFs: false };
    }
  }

  /** The containers of a pod that run, the newest of each name, and the cgroups of all that it has in the runtime. */
  function* runningPods(uids?: ReadonlySet<string>): Generator<{ row: RuntimePod; pod: AgentPod; running: RuntimeContainer[] }> {
    for (const row of runtime.values()) {
      if (uids !== undefined && !uids.has(row.uid)) continue;
      const pod = options.admitted.get(row.uid)?.pod;
      if (pod === undefined) continue;
      const named = new Set<string>();
      const running = row.containers.filter((c) => c.state === 'running' && !named.has(c.name) && named.add(c.name));
      if (running.length > 0) yield { row, pod, running };
    }
  }

  function podStats(row: RuntimePod, pod: AgentPod, running: readonly RuntimeContainer[], whole: boolean): PodStats {
    const parent = options.podCgroup(pod);
    const below = parent === undefined ? [] : cgroups.children(parent);
    // `<id>`, `cri-containerd-<id>.scope`, `crio-<id>`.
    const cgroupOf = (id: string): string | undefined => {
      const name = below.find((child) => child.includes(id));
      return name === undefined ? undefined : `${parent}/${name}`;
    };
    let processes = 0;
    const containers = running.map((c): ContainerStats => {
      const cgroup = cgroupOf(c.id);
      const startTime = c.createdAt;
      if (cgroup === undefined) return { name: c.name, startTime };
      const reading = readCgroup(cgroup, files.all);
      processes += reading.processes.length;
      const { cpu, memory, io, swap } = withRate(cgroup, reading, c.startedAt || c.createdAt);
      return { name: c.name, startTime, cpu, memory, ...(whole ? { io } : {}), swap };
    });
    const sandbox = row.sandboxes.find((s) => s.ready) ?? row.sandboxes[0];
    const base = {
      podRef: { name: row.name, namespace: row.namespace, uid: row.uid },
      startTime: sandbox?.createdAt ?? running.at(-1)?.createdAt ?? 0,
      containers,
    };
    if (parent === undefined) return base;
    const { cpu, memory, io, swap } = withRate(parent, readCgroup(parent, files.all), sandbox?.createdAt);
    if (!whole) return { ...base, cpu, memory, swap };
    const pause = sandbox === undefined ? undefined : cgroupOf(sandbox.id);
    const pauseReading = pause === undefined ? undefined : readCgroup(pause, files.all);
    return {
      ...base,
      cpu,
      memory,
      io,
      swap,
      network: sandbox?.hostNetwork === true ? undefined : networkOf(pauseReading?.processes[0]),
      process_stats: { process_count: processes },
    };
  }

  function networkOf(pid: number | string | undefined): NetworkStats | undefined {
    const text = pid === undefined ? undefined : options.readProc(`/proc/${pid}/net/dev`);
    return text === undefined ? undefined : parseNetDev(text, clock.wall());
  }

  /** Walks those paths, of the pods with these UIDs, whose usage is older than that; what cannot be walked in time keeps what was known of it. */
  async function walk(owners: ReadonlyMap<string, string>, maxAgeMs: number, signal: AbortSignal): Promise<void> {
    const now = clock.wall();
    for (const [path, { uid }] of usage) if (!options.admitted.has(uid)) usage.delete(path);
    const stale = [...owners.keys()].filter((path) => now - (usage.get(path)?.at ?? 0) > maxAgeMs);
    if (stale.length === 0) return;
    using deadline = clock.deadline(signal, walkTimeoutMs);
    const found = await options.diskUsage(stale, deadline.signal);
    signal.throwIfAborted();
    if (deadline.signal.aborted)
      options.log.warn({ paths: stale.length, counted: found.size }, 'walking the volumes of pods took too long');
    const at = clock.wall();
    for (const path of stale) {
      const one = found.get(path);
      if (one !== undefined) usage.set(path, { ...one, at, uid: owners.get(path) ?? '' });
      else if (!deadline.signal.aborted) usage.delete(path);
    }
  }

  function fsOf(path: string, on: FsStats): FsStats | undefined {
    const one = usage.get(path);
    return one === undefined ? undefined : { ...on, time: one.at, usedBytes: one.bytes, inodesUsed: one.inodes };
  }

  /** The file systems of those volumes that have one of their own, in memory. */
  async function memoryVolumes(paths: readonly string[]): Promise<Map<string, FsStats>> {
    const sizes = await Promise.all(
      // One that is not mounted yet or any more counts on the node's.
      paths.map(async (path) => [path, await options.fileSystemSize(path).catch(() => undefined)] as const),
    );
    return new Map(sizes.flatMap(([path, size]) => (size === undefined ? [] : [[path, fsStats(size)] as const])));
  }

  async function writableLayers(
    pods: readonly { row: RuntimePod }[],
    all: boolean,
    signal: AbortSignal,
  ): Promise<Map<string, CriContainerStats>> {
    using deadline = clock.deadline(signal, runtimeTimeoutMs);
    // Of a few pods each is asked for by itself: a runtime works out the statistics of every container that it tells.
    const requests = all
      ? [{}]
      : pods.flatMap(({ row }) => row.sandboxes.filter((s) => s.ready).map((s) => ({ filter: { pod_sandbox_id: s.id } })));
    const answers = await Promise.all(requests.map((request) => options.listContainerStats(request, deadline.signal)));
    return new Map(answers.flatMap(({ stats = [] }) => stats).map((s) => [s.attributes?.id ?? '', s]));
  }

  async function pods({ uids, diskMaxAgeMs }: Parameters<Stats['pods']>[0], signal: AbortSignal, known?: FileSystems): Promise<PodStats[]> {
    const found = [...runningPods(uids)];
    if (diskMaxAgeMs === undefined) return found.map(({ row, pod, running }) => podStats(row, pod, running, false));
    const places = found.map(({ row, pod, running }) => ({
      volumes: options.volumePaths(pod),
      logs: new Map(running.map((c) => [c.name, options.logFolder(row, c.name)])),
      hosts: options.hostsFile(row.uid),
    }));
    const owners = new Map(
      places.flatMap(({ volumes, logs, hosts }, i) =>
        [...volumes.map((v) => v.path), ...logs.values(), hosts].map((path) => [path, found[i]?.row.uid ?? ''] as const),
      ),
    );
    const [layers, systems, ownFs] = await Promise.all([
      writableLayers(found, uids === undefined, signal).catch((error: unknown) => {
        if (signal.aborted) throw error;
        // Without them, the rest still counts.
        if (!hasCode(error, 'Unimplemented'))
          options.log.warn({ err: messageOf(error) }, 'the runtime did not tell the size of containers');
        return new Map<string, CriContainerStats>();
      }),
      known ?? fileSystems(signal),
      memoryVolumes(places.flatMap(({ volumes }, i) => inMemory(found[i]?.pod, volumes))),
      walk(owners, diskMaxAgeMs, signal),
    ]);
    const { nodeFs, containerFs, imageFs } = systems;
    return found.map(({ row, pod, running }, i) => {
      const stats = podStats(row, pod, running, true);
      const place = places[i];
      const specs = new Map((pod.spec.volumes ?? []).map((v) => [v.name, v]));
      const containers = stats.containers.map((container, at): ContainerStats => {
        const layer = layers.get(running[at]?.id ?? '')?.writable_layer;
        return {
          ...container,
          rootfs: layer && {
            ...(containerFs ?? imageFs),
            time: (layer.timestamp ?? 0) / 1e6,
            usedBytes: numberOf(layer.used_bytes),
            inodesUsed: numberOf(layer.inodes_used),
          },
          logs: fsOf(place?.logs.get(container.name) ?? '', nodeFs),
        };
      });
      const volumes = (place?.volumes ?? []).flatMap(({ name, path }): VolumeStats[] => {
        const fs = fsOf(path, ownFs.get(path) ?? nodeFs);
        return fs === undefined ? [] : [{ ...fs, name }];
      });
      const local = volumes.filter(({ name }) => isLocalEphemeral(specs.get(name) ?? {}));
      return {
        ...stats,
        containers,
        volume: volumes.length === 0 ? undefined : volumes,
        'ephemeral-storage': ephemeralStorage(nodeFs, containers, local, [fsOf(place?.hosts ?? '', nodeFs)]),
      };
    });
  }

  function systemContainers(whole: boolean): ContainerStats[] {
    return parts.flatMap(({ name, cgroup }) => {
      const startTime = cgroups.createdAt(cgroup);
      if (startTime === undefined) return [];
      const { cpu, memory, io, swap } = withRate(cgroup, readCgroup(cgroup, files.all));
      return [{ name, startTime, cpu, memory, ...(whole ? { io } : {}), swap }];
    });
  }

  return {
    memory,
    async node(signal) {
      return { ...memory(), fileSystems: await fileSystems(signal), rlimit: rlimit() };
    },
    pods: (which, signal) => pods(which, signal),
    async summary(onlyCpuAndMemory, signal) {
      const root = readCgroup('/', files.all);
      const { memoryBytes: _, ...node } = proc();
      const base = {
        nodeName: options.nodeName,
        systemContainers: systemContainers(!onlyCpuAndMemory),
        startTime: options.bootTime,
        cpu: nodeCpu(root),
        memory: nodeMemory(root),
        swap: { time: root.at, swapUsageBytes: node.swapUsedBytes, swapAvailableBytes: node.swapBytes - node.swapUsedBytes },
      };
      if (onlyCpuAndMemory) return { node: base, pods: await pods({ diskMaxAgeMs: undefined }, signal) };
      const systems = await fileSystems(signal);
      const diskMaxAgeMs = options.diskMaxAgeMs > 0 ? options.diskMaxAgeMs : 60_000;
      return {
        node: {
          ...base,
          io: { time: root.at, psi: root.psi.io },
          network: networkOf('self'),
          fs: systems.nodeFs,
          runtime: { imageFs: systems.imageFs, containerFs: systems.containerFs },
          rlimit: rlimit(),
        },
        pods: await pods({ diskMaxAgeMs }, signal, systems),
      };
    },
  };
}

/** The paths of those volumes that are kept in memory: emptyDirs that ask for it, and what is secret. */
function inMemory(pod: AgentPod | undefined, volumes: readonly VolumePath[]): string[] {
  const names = new Set((pod?.spec.volumes ?? []).filter((v) => !isLocalEphemeral(v)).map((v) => v.name));
  return volumes.filter(({ name }) => names.has(name)).map(({ path }) => path);
}

function numberOf(value: UInt64Value | undefined): number | undefined {
  return value?.value;
}
