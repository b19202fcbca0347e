import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageSpec, Mount, PodSandboxConfig } from '../../../cri-protos/generated/cri.ts';
import type { Clock } from '../../base/clock.ts';
import { AgentError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { ReadonlyTable } from '../../base/table.ts';
import type { DeviceParts } from '../../devices/grants.ts';
import type { Devices } from '../../devices/worker.ts';
import type { CriClient } from '../../drivers/cri/client.ts';
import { readText } from '../../drivers/files/look.ts';
import { httpGet } from '../../drivers/http/get.ts';
import type { Mounts } from '../../drivers/mounts/mounts.ts';
import { removeFolder, removePodFolder } from '../../drivers/mounts/pod-folder.ts';
import type { Images } from '../../images/worker.ts';
import type { Container, ImageVolumeSource, RuntimeClass, Service } from '../../model/generated/api.ts';
import type { AgentPod } from '../../model/pod.ts';
import type { ResourceList } from '../../model/resources.ts';
import { type Occurrence, type RecordEvent, targetOf } from '../../pods/apply.ts';
import { containerConfig, terminationPath } from '../../pods/container-config.ts';
import { type DnsSettings, podDns, podHostname, sandboxHostname } from '../../pods/dns.ts';
import { type EnvVarValue, makeEnvironment, type ObjectLookup } from '../../pods/env.ts';
import { expandAll, expandSubPath } from '../../pods/env-expand.ts';
import { checkProcess } from '../../pods/env-limits.ts';
import { hostNetworkHosts, managedHosts } from '../../pods/etc-hosts.ts';
import { podAddresses, type RuntimePod, usableSandbox } from '../../pods/observed.ts';
import { sandboxConfig } from '../../pods/sandbox-config.ts';
import { containerSecurity, type ImageUser, type SecurityOptions, verifyNonRoot } from '../../pods/security.ts';
import type { PodsOptions } from '../../pods/worker.ts';
import { type CgroupTree, podCgroupParent } from '../../resources/cgroup-names.ts';
import { type ContainerPolicy, containerResources, overheadResources, sandboxResources } from '../../resources/container-resources.ts';
import type { Resources } from '../../resources/worker.ts';
import { podDir as podDirOf } from '../../volumes/layout.ts';
import type { Volumes } from '../../volumes/worker.ts';
import { type ContainerCommands, createContainerCommands } from './container-environment.ts';
import { readEnvFiles } from './env-files.ts';
import type { PodObjects } from './pod-objects.ts';
import type { UserNamespaces } from './user-namespaces.ts';

export interface PodApplyOptions {
  readonly cri: CriClient;
  readonly clock: Clock;
  readonly log: Log;
  readonly recordEvent: RecordEvent;
  readonly count: (what: Occurrence) => void;
  readonly nodeEvent: (type: 'Warning', reason: string, message: string) => void;
  readonly rootDir: string;
  readonly podLogsDir: string;
  readonly nodeName: string;
  readonly hostIps: () => readonly string[];
  /** Read anew for each sandbox: the node's resolv.conf may change under a running agent. */
  readonly dns: () => Promise<DnsSettings>;
  readonly clusterDomain: string;
  readonly allocatable: () => ResourceList;
  readonly cgroupTree: CgroupTree | undefined;
  readonly policy: () => ContainerPolicy;
  readonly security: SecurityOptions;
  /** What runs, by pod UID. */
  readonly runtime: ReadonlyTable<RuntimePod>;
  readonly resources: Resources;
  readonly volumes: Volumes;
  readonly images: Images;
  readonly mounts: Mounts;
  /** Undefined in standalone mode. */
  readonly objects: PodObjects | undefined;
  /** Whether a runtime handler can make mounts read-only all the way down. */
  readonly recursiveReadOnly: (handler: string) => boolean;
  readonly userNamespaces: UserNamespaces;
  readonly devices: Devices;
  /** ContainerStopSignals gate. */
  readonly stopSignals: boolean;
  readonly services: ReadonlyTable<Service> | undefined;
  readonly runtimeClasses: ReadonlyTable<RuntimeClass> | undefined;
}

/** The volumes of type image that a container mounts. */
function mountedImages(pod: AgentPod, container: Container): { name: string; image: ImageVolumeSource }[] {
  const mounted = new Set(container.volumeMounts?.map((mount) => mount.name));
  return (pod.spec.volumes ?? []).flatMap(({ name, image }) => (image !== undefined && mounted.has(name) ? [{ name, image }] : []));
}

const asMount = ({ hostPath, containerPath, readonly }: DeviceParts['mounts'][number]): Mount => ({
  host_path: hostPath,
  container_path: containerPath,
  readonly,
});

/** What the pods room needs of the other rooms, put together. */
export function createPodApply(options: PodApplyOptions): PodsOptions['apply'] & Pick<ContainerCommands, 'expandProbe'> {
  const { cri, clock, resources, volumes, images, recordEvent } = options;
  const podDir = (uid: string): string => podDirOf(options.rootDir, uid);
  // An image ID names a content: its user never changes.
  const imageUsers = new Map<string, ImageUser>();
  // Pods whose DNS warnings have been recorded: the config is made more than once.
  const dnsTold = new Set<string>();
  // By pod, then by volume: images that are mounted. They are pulled with those of the containers that mount them.
  const imageVolumes = new Map<string, Map<string, ImageSpec>>();

  async function imageUser(imageRef: string, signal: AbortSignal): Promise<ImageUser> {
    const known = imageUsers.get(imageRef);
    if (known !== undefined) return known;
    const { image } = await cri.imageStatus({ image: { image: imageRef } }, signal);
    if (image === undefined) throw new AgentError('CreateContainerConfigError', `image ${imageRef} is no longer on this node`);
    const username = image.username ?? '';
    // An image that names no user runs as root (kuberuntime getImageUser).
    const user: ImageUser = { uid: image.uid?.value ?? (username === '' ? 0 : undefined), username };
    if (imageUsers.size > 1000) imageUsers.clear();
    imageUsers.set(imageRef, user);
    return user;
  }

  function runtimeHandlerOf(pod: AgentPod): string {
    const name = pod.spec.runtimeClassName;
    if (name === undefined || name === '') return '';
    const found = options.runtimeClasses?.get(name);
    if (found === undefined) {
      const why = options.runtimeClasses === undefined ? 'there is no API server to ask' : 'not found';
      throw new AgentError('FailedCreatePodSandBox', `failed to get sandbox runtime: RuntimeClass "${name}": ${why}`);
    }
    return found.handler;
  }

  async function makeSandboxConfig(pod: AgentPod, attempt: number): Promise<PodSandboxConfig> {
    const settings = await options.dns();
    const { config, events } = podDns(pod, settings);
    if (!dnsTold.has(pod.metadata.uid)) {
      dnsTold.add(pod.metadata.uid);
      for (const event of events) {
        if (event.on === 'pod') recordEvent(pod, 'Warning', event.reason, event.message);
        else options.nodeEvent('Warning', event.reason, event.message);
      }
    }
    const policy = options.policy();
    return sandboxConfig(pod, {
      attempt,
      podLogsDir: options.podLogsDir,
      hostname: sandboxHostname(pod, settings.clusterDomain),
      dns: config,
      cgroupParent: options.cgroupTree === undefined ? '' : podCgroupParent(options.cgroupTree, pod),
      overhead: overheadResources(pod, policy),
      resources: sandboxResources(pod, policy),
      users: await options.userNamespaces.of(pod, runtimeHandlerOf(pod)),
    });
  }

  function podIps(pod: AgentPod, runtime: RuntimePod): readonly string[] {
    return pod.spec.hostNetwork === true ? options.hostIps() : podAddresses(usableSandbox(runtime)?.ips ?? [], options.hostIps()[0]);
  }

  /** The hosts file, made by us so that it lasts over container restarts; not where the container brings its own. */
  async function hostsMount(pod: AgentPod, container: Container, ips: readonly string[]): Promise<Mount[]> {
    if (container.volumeMounts?.some((m) => m.mountPath.replace(/\/$/, '') === '/etc/hosts') === true) return [];
    if (pod.spec.hostNetwork !== true && ips.length === 0) return [];
    const path = join(podDir(pod.metadata.uid), 'etc-hosts');
    const { hostname, domain } = podHostname(pod, options.clusterDomain);
    const text =
      pod.spec.hostNetwork === true
        ? hostNetworkHosts(await readText('/etc/hosts'), pod.spec.hostAliases)
        : managedHosts(ips, hostname, domain, pod.spec.hostAliases);
    // Written in place: containers that run have this very file bound. Any user of the image may read it; a umask must not say otherwise.
    await writeFile(path, text, { mode: 0o644 });
    await chmod(path, 0o644);
    return [{ host_path: path, container_path: '/etc/hosts', readonly: false, selinux_relabel: true }];
  }

  /** A fresh file for the container's last words. */
  async function terminationMount(pod: AgentPod, container: Container, attempt: number): Promise<Mount[]> {
    const target = terminationPath(container.terminationMessagePath ?? '');
    if (target === '') return [];
    const folder = join(podDir(pod.metadata.uid), 'containers', container.name);
    await mkdir(folder, { recursive: true, mode: 0o750 });
    const random = Math.floor(Math.random() * 2 ** 32);
    const path = join(folder, (random ^ attempt).toString(16).replace('-', '').padStart(8, '0'));
    // Any user of the image may write it; a umask must not say otherwise.
    await writeFile(path, '', { mode: 0o666 });
    await chmod(path, 0o666);
    return [{ host_path: path, container_path: target, readonly: false, selinux_relabel: true }];
  }

  async function environmentOf(
    pod: AgentPod,
    container: Container,
    known: { readonly ips: readonly string[]; readonly objects: ObjectLookup | undefined },
    signal: AbortSignal,
  ): Promise<EnvVarValue[]> {
    const { ips, objects } = known;
    const envFile = await readEnvFiles(volumes, pod, container, signal);
    return makeEnvironment({
      pod,
      container,
      facts: { nodeName: options.nodeName, podIPs: ips, hostIPs: options.hostIps() },
      services: options.services === undefined || !options.services.synced ? undefined : options.services.values(),
      objects,
      allocatable: options.allocatable(),
      envFile,
    });
  }

  const commands = createContainerCommands({
    log: options.log,
    cri,
    async environment(pod, container, signal) {
      const runtime = options.runtime.get(pod.metadata.uid);
      const objects = await options.objects?.lookup(pod, container, signal);
      return await environmentOf(pod, container, { ips: runtime === undefined ? [] : podIps(pod, runtime), objects }, signal);
    },
  });

  return {
    cri,
    clock,
    httpGet,
    hostIp: () => options.hostIps()[0],
    expandHook: commands.expandHook,
    expandProbe: commands.expandProbe,
    log: options.log,
    recordEvent,
    count: options.count,
    podLogsDir: options.podLogsDir,
    containerLogsDir: '/var/log/containers',
    podDir,
    async ensureCgroup(pod, signal) {
      options.objects?.hold(pod);
      await resources.ensurePodCgroup(pod, signal);
    },
    updateCgroup: (pod, resource, signal) => resources.updatePodCgroup(pod, resource, signal),
    memoryUsage: (pod) => resources.podMemoryUsage(pod),
    containerResources: (pod, container) => containerResources(pod, container, options.policy()),
    podResources: (pod) => ({ overhead: overheadResources(pod, options.policy()), resources: sandboxResources(pod, options.policy()) }),
    async removeCgroup(uid, signal) {
      options.objects?.release(uid);
      dnsTold.delete(uid);
      imageVolumes.delete(uid);
      await resources.removePodCgroup(uid, signal);
    },
    async mountVolumes(pod, signal) {
      await volumes.mount(pod, signal);
    },
    unmountVolumes: (uid, signal) => volumes.unmount(uid, signal),
    async removePodDir(uid, signal) {
      await removePodFolder(podDir(uid), options, signal);
      options.userNamespaces.release(uid);
    },
    removeFolder: (folder, signal) => removeFolder(folder, options, signal),
    runtimeHandler: async (pod) => runtimeHandlerOf(pod),
    sandboxConfig: makeSandboxConfig,
    async ensureImage(pod, container, podSandboxConfig, signal) {
      const { found: pullSecrets, failed } = (await options.objects?.pullSecrets(pod, signal)) ?? { found: [], failed: [] };
      if (failed.length > 0) {
        const what = `Unable to retrieve some image pull secrets (${failed.join(', ')})`;
        recordEvent(pod, 'Warning', 'FailedToRetrieveImagePullSecret', `${what}; attempting to pull the image may not succeed.`);
      }
      const [{ imageRef }] = await Promise.all([
        images.ensureImage({ pod, container, pullSecrets, podSandboxConfig }, signal),
        ...mountedImages(pod, container).map(async ({ name, image }) => {
          const volume = await images.ensureImage({ pod, imageVolume: image, mountedBy: container, pullSecrets, podSandboxConfig }, signal);
          const ofPod = imageVolumes.get(pod.metadata.uid) ?? new Map<string, ImageSpec>();
          imageVolumes.set(pod.metadata.uid, ofPod);
          ofPod.set(name, {
            image: volume.imageRef,
            user_specified_image: image.reference ?? '',
            // As it was pulled: images by runtime are behind the gate RuntimeClassInImageCriAPI, which is off.
            runtime_handler: '',
            annotations: pod.metadata.annotations ?? {},
          });
        }),
      ]);
      return imageRef;
    },
    async containerConfig(pod, container, { attempt, imageRef, runtime }, signal) {
      const ips = podIps(pod, runtime);
      const [user, objects, users] = await Promise.all([
        imageUser(imageRef, signal),
        options.objects?.lookup(pod, container, signal),
        options.userNamespaces.of(pod, usableSandbox(runtime)?.runtimeHandler ?? ''),
      ]);
      verifyNonRoot(pod, container, user);
      const envs = await environmentOf(pod, container, { ips, objects }, signal);
      const parts = await options.devices.prepare(pod, container, signal);
      // Where a plugin and the pod name the same variable, the pod's comes later and counts (kubelet_pods.go GenerateRunContainerOptions).
      const allEnvs = [...parts.envs, ...envs];
      const command = expandAll(container.command, allEnvs);
      const args = expandAll(container.args, allEnvs);
      checkProcess([command, args], allEnvs);
      const [hosts, termination] = await Promise.all([hostsMount(pod, container, ips), terminationMount(pod, container, attempt)]);
      const partMounts = parts.mounts.map(asMount);
      const volumeMounts = await volumes.mountsFor(
        pod,
        container,
        {
          expandSubPath: (expression) => expandSubPath(expression, allEnvs),
          recursiveReadOnlySupported: options.recursiveReadOnly(usableSandbox(runtime)?.runtimeHandler ?? ''),
          images: imageVolumes.get(pod.metadata.uid),
          others: [...partMounts, ...hosts, ...termination],
        },
        signal,
      );
      return containerConfig(pod, container, {
        attempt,
        imageRef,
        command,
        args,
        envs: allEnvs.map(({ name, value }) => ({ key: name, value })),
        // Where a plugin and the pod mount at one path, the pod's comes later and counts.
        mounts: [...partMounts, ...volumeMounts, ...hosts, ...termination],
        devices: parts.devices,
        cdiDevices: parts.cdiDevices,
        deviceAnnotations: parts.annotations,
        resources: containerResources(pod, container, options.policy()),
        security: containerSecurity(pod, container, user, options.security, users),
        targetContainerId: targetOf(pod, container.name, runtime),
        stopSignals: options.stopSignals,
      });
    },
  };
}
