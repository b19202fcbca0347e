import { join } from 'node:path';
import type { LinuxContainerSecurityContext, NamespaceOption, SecurityProfile, UserNamespace } from '../../cri-protos/generated/cri.ts';
import { AgentError } from '../base/errors.ts';
import { ownValue } from '../base/own.ts';
import type { AppArmorProfile, Container, SeccompProfile, SecurityContext } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';

export interface SecurityOptions {
  /** Folder of Localhost seccomp profiles: `<root-dir>/seccomp`. */
  readonly seccompRoot: string;
  /** `seccompDefault`: containers without a profile get the runtime's. */
  readonly seccompDefault: boolean;
  /** Folders of the CPUs' heat counters (`…/cpu0/thermal_throttle`), which are masked: they tell what neighbours do. */
  readonly thermalThrottles: readonly string[];
}

/** The user an image names: a number, a name, or neither. */
export interface ImageUser {
  readonly uid: number | undefined;
  readonly username: string;
}

/** The pod's security context overlaid with the container's. */
function effectiveSecurityContext(pod: AgentPod, container: Container): SecurityContext {
  const p = pod.spec.securityContext;
  const c = container.securityContext;
  return {
    ...c,
    seLinuxOptions: c?.seLinuxOptions ?? p?.seLinuxOptions,
    runAsUser: c?.runAsUser ?? p?.runAsUser,
    runAsGroup: c?.runAsGroup ?? p?.runAsGroup,
    runAsNonRoot: c?.runAsNonRoot ?? p?.runAsNonRoot,
  };
}

/** Refuses a container that must not run as root and would, or might. Throws CreateContainerConfigError with kubelet's words. */
export function verifyNonRoot(pod: AgentPod, container: Container, image: ImageUser): void {
  const sc = effectiveSecurityContext(pod, container);
  if (sc.runAsNonRoot !== true) return;
  const where = `(pod: "${pod.metadata.name}_${pod.metadata.namespace}(${pod.metadata.uid})", container: ${container.name})`;
  const refuse = (why: string): never => {
    throw new AgentError('CreateContainerConfigError', `${why} ${where}`);
  };
  if (sc.runAsUser !== undefined) {
    if (sc.runAsUser === 0) refuse("container's runAsUser breaks non-root policy");
    return;
  }
  if (image.uid === undefined && image.username !== '') {
    refuse(`container has runAsNonRoot and image has non-numeric user (${image.username}), cannot verify user is non-root`);
  }
  if (image.uid === undefined) return;
  if (image.uid === 0) refuse('container has runAsNonRoot and image will run as root');
  if (image.uid < 0 || image.uid > maxUserId) {
    const range = `must be between 0 and ${maxUserId}, inclusive`;
    refuse(`container has runAsNonRoot and image has an invalid user id (${image.uid}). (Must be 1-(${maxUserId})): ${range}`);
  }
}

const maxUserId = 2 ** 31 - 1;

/** Which namespaces a pod's sandbox and containers share with whom. */
export function namespacesOf(pod: AgentPod, users: UserNamespace | undefined): NamespaceOption {
  return {
    // Said although it is the default: CRI-O looks for annotations where nothing is said.
    userns_options: users ?? { mode: 'NODE' },
    network: pod.spec.hostNetwork === true ? 'NODE' : 'POD',
    ipc: pod.spec.hostIPC === true ? 'NODE' : 'POD',
    pid: pod.spec.hostPID === true ? 'NODE' : pod.spec.shareProcessNamespace === true ? 'POD' : 'CONTAINER',
  };
}

/** The security context of one container, for the runtime. Throws CreateContainerConfigError for profiles that name no file. */
export function containerSecurity(
  pod: AgentPod,
  container: Container,
  image: ImageUser,
  options: SecurityOptions,
  users: UserNamespace | undefined,
): LinuxContainerSecurityContext {
  const sc = effectiveSecurityContext(pod, container);
  const podSc = pod.spec.securityContext;
  const apparmor = apparmorProfile(pod, container);
  return {
    capabilities: sc.capabilities && { add_capabilities: sc.capabilities.add ?? [], drop_capabilities: sc.capabilities.drop ?? [] },
    privileged: sc.privileged === true,
    namespace_options: namespacesOf(pod, users),
    selinux_options: sc.seLinuxOptions,
    ...userOf(sc, image),
    run_as_group: sc.runAsGroup === undefined ? undefined : { value: sc.runAsGroup },
    readonly_rootfs: sc.readOnlyRootFilesystem === true,
    supplemental_groups: [...(podSc?.fsGroup === undefined ? [] : [podSc.fsGroup]), ...(podSc?.supplementalGroups ?? [])],
    supplemental_groups_policy: podSc?.supplementalGroupsPolicy === 'Strict' ? 'Strict' : 'Merge',
    no_new_privs: sc.allowPrivilegeEscalation === false,
    ...procPaths(sc.procMount, options.thermalThrottles),
    seccomp: seccompProfile(container.securityContext?.seccompProfile ?? podSc?.seccompProfile, options),
    ...apparmor,
  };
}

function userOf(sc: SecurityContext, image: ImageUser): Pick<LinuxContainerSecurityContext, 'run_as_user' | 'run_as_username'> {
  if (sc.runAsUser !== undefined) return { run_as_user: { value: sc.runAsUser } };
  if (image.uid !== undefined) return { run_as_user: { value: image.uid } };
  return image.username === '' ? {} : { run_as_username: image.username };
}

/** The seccomp profile in the runtime's terms. Throws CreateContainerConfigError for a Localhost profile without a file. */
function seccompProfile(profile: SeccompProfile | undefined, options: SecurityOptions): SecurityProfile {
  switch (profile?.type) {
    case 'RuntimeDefault':
      return { profile_type: 'RuntimeDefault' };
    case 'Localhost':
      if (profile.localhostProfile === undefined || profile.localhostProfile === '') {
        throw new AgentError('CreateContainerConfigError', 'localhostProfile must be set if seccompProfile type is Localhost.');
      }
      return { profile_type: 'Localhost', localhost_ref: join(options.seccompRoot, profile.localhostProfile) };
    case undefined:
      return { profile_type: options.seccompDefault ? 'RuntimeDefault' : 'Unconfined' };
    default:
      return { profile_type: 'Unconfined' };
  }
}

// The annotation that older clients set instead of the field.
const apparmorAnnotationPrefix = 'container.apparmor.security.beta.kubernetes.io/';

/** The AppArmor profile that a container asks for: its own, the old annotation's, or its pod's. */
export function appArmorProfileOf(pod: AgentPod, container: Container): AppArmorProfile | undefined {
  return (
    container.securityContext?.appArmorProfile ??
    fromAnnotation(ownValue(pod.metadata.annotations, apparmorAnnotationPrefix + container.name)) ??
    pod.spec.securityContext?.appArmorProfile
  );
}

function apparmorProfile(pod: AgentPod, container: Container): Pick<LinuxContainerSecurityContext, 'apparmor' | 'apparmor_profile'> {
  const profile = appArmorProfileOf(pod, container);
  if (profile === undefined) return {};
  switch (profile.type) {
    case 'RuntimeDefault':
      return { apparmor: { profile_type: 'RuntimeDefault' }, apparmor_profile: 'runtime/default' };
    case 'Localhost':
      if (profile.localhostProfile === undefined)
        throw new AgentError('CreateContainerConfigError', 'missing localhost apparmor profile name');
      return {
        apparmor: { profile_type: 'Localhost', localhost_ref: profile.localhostProfile },
        apparmor_profile: `localhost/${profile.localhostProfile}`,
      };
    case 'Unconfined':
      return { apparmor: { profile_type: 'Unconfined' }, apparmor_profile: 'unconfined' };
    default:
      throw new AgentError('CreateContainerConfigError', `unknown apparmor profile type: "${profile.type}"`);
  }
}

function fromAnnotation(text: string | undefined): AppArmorProfile | undefined {
  if (text === 'runtime/default') return { type: 'RuntimeDefault' };
  if (text === 'unconfined') return { type: 'Unconfined' };
  if (text?.startsWith('localhost/') === true) return { type: 'Localhost', localhostProfile: text.slice('localhost/'.length) };
  // Nonsense says nothing, and must not lift the pod's own profile.
  return undefined;
}

// What containers must not read or write under /proc and /sys unless procMount is Unmasked (pkg/securitycontext/util.go; containerd's own defaults agree).
const maskedPaths = [
  '/proc/asound',
  '/proc/acpi',
  '/proc/interrupts',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/sys/firmware',
  '/sys/devices/virtual/powercap',
];
const readonlyPaths = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

function procPaths(
  procMount: string | undefined,
  thermalThrottles: readonly string[],
): Pick<LinuxContainerSecurityContext, 'masked_paths' | 'readonly_paths'> {
  if (procMount === 'Unmasked') return { masked_paths: [], readonly_paths: [] };
  return { masked_paths: [...maskedPaths, ...thermalThrottles], readonly_paths: readonlyPaths };
}
