import { ownValue } from '../base/own.ts';
import { type AgentNode, type AgentPod, containersOf, isStaticPod } from '../model/pod.ts';
import { isCriticalPod } from '../model/priority.ts';
import { compareQuantity, parseMilli, parseQuantity } from '../model/quantity.ts';
import { podRequests, type ResourceList } from '../model/resources.ts';
import { matchesNode } from './node-affinity.ts';
import { choosePreempted, shortfallText } from './preemption.ts';
import { appArmorProfileOf } from './security.ts';
import { sysctlName } from './sysctl-name.ts';

export interface AdmissionInput {
  readonly pod: AgentPod;
  /** Pods that hold resources of the node already. */
  readonly active: readonly AgentPod[];
  /** Undefined while the Node is not known: then only what needs no node is checked. */
  readonly node: AgentNode | undefined;
  /** `allowedUnsafeSysctls`: names, or prefixes ending in `*`. */
  readonly allowedUnsafeSysctls: readonly string[];
  /** As `uname -r` tells it. */
  readonly kernelVersion: string;
  /** Whether the kernel enforces AppArmor profiles. */
  readonly appArmor: boolean;
}

/** A refused pod: kubelet's reason (OutOfcpu, NodeAffinity, …) and message. */
export interface Rejection {
  readonly reason: string;
  readonly message: string;
}

/** The pod may run when these pods have ended. */
export interface Preemption {
  readonly victims: readonly AgentPod[];
  /** The first resource that is short. */
  readonly resource: string;
}

/** Why the pod may not run here, in kubelet's words, or what has to go first; undefined when it may run. */
export function admitPod(input: AdmissionInput): Rejection | Preemption | undefined {
  const { pod, node } = input;
  const rejection = sysctlRejection(input) ?? appArmorRejection(input) ?? claimRejection(pod);
  if (rejection !== undefined || node === undefined) return rejection;
  return osRejection(pod) ?? supplementalGroupsRejection(pod, node) ?? fitRejection(pod, input.active, node);
}

/** Resources, node and ports. Critical pods are refused for want of resources only where nothing less important could give way. */
function fitRejection(pod: AgentPod, active: readonly AgentPod[], node: AgentNode): Rejection | Preemption | undefined {
  const shortages = resourceShortages(pod, active, node);
  const other = nodeRejection(pod, node) ?? portRejection(pod, active);
  const [first] = shortages;
  if (first === undefined) return other;
  if (!isCriticalPod(pod)) {
    const { resource, requested, used, capacity } = first;
    return {
      reason: `OutOf${resource}`,
      message: `Node didn't have enough resource: ${resource}, requested: ${requested}, used: ${used}, capacity: ${capacity}`,
    };
  }
  if (other !== undefined) return other;
  const choice = choosePreempted(
    pod,
    active,
    shortages.map(({ resource, requested, used, capacity }) => ({ resource, amount: requested - (capacity - used) })),
  );
  if ('victims' in choice) return { victims: choice.victims, resource: first.resource };
  return {
    reason: 'UnexpectedAdmissionError',
    message: `Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: ${shortfallText(choice.unmet)}`,
  };
}

// Namespaced and harmless, with the kernel that first had them so (pkg/kubelet/sysctl/safe_sysctls.go, pkg/util/kernel/constants.go).
const safeSysctls: Readonly<Record<string, readonly [number, number]>> = {
  'kernel.shm_rmid_forced': [0, 0],
  'net.ipv4.ip_local_port_range': [0, 0],
  'net.ipv4.tcp_syncookies': [0, 0],
  'net.ipv4.ping_group_range': [0, 0],
  'net.ipv4.ip_unprivileged_port_start': [0, 0],
  'net.ipv4.ip_local_reserved_ports': [3, 16],
  'net.ipv4.tcp_keepalive_time': [4, 5],
  'net.ipv4.tcp_fin_timeout': [4, 6],
  'net.ipv4.tcp_keepalive_intvl': [4, 5],
  'net.ipv4.tcp_keepalive_probes': [4, 5],
  'net.ipv4.tcp_rmem': [4, 15],
  'net.ipv4.tcp_wmem': [4, 15],
};

function sysctlRejection({ pod, allowedUnsafeSysctls, kernelVersion }: AdmissionInput): Rejection | undefined {
  const [major = 0, minor = 0] = kernelVersion.split('.').map((part) => Number.parseInt(part, 10));
  for (const { name: raw } of pod.spec.securityContext?.sysctls ?? []) {
    const name = sysctlName(raw);
    const since = ownValue(safeSysctls, name);
    const safe = since !== undefined && (major > since[0] || (major === since[0] && minor >= since[1]));
    const listed = allowedUnsafeSysctls.some((a) => {
      const allowed = sysctlName(a);
      return allowed.endsWith('*') ? name.startsWith(allowed.slice(0, -1)) : allowed === name;
    });
    const refuse = (why: string): Rejection => ({ reason: 'SysctlForbidden', message: `forbidden sysctl: "${name}" ${why}` });
    if (!safe && !listed) return refuse('not allowlisted');
    // Set in a namespace that is the host's, it would be the host's setting.
    if (/^(kernel\.(shm|msg|sem)|fs\.mqueue\.)/.test(name)) {
      if (pod.spec.hostIPC === true) return refuse('not allowed with host ipc enabled');
    } else if (name.startsWith('net.') && pod.spec.hostNetwork === true) return refuse('not allowed with host net enabled');
  }
  return undefined;
}

function appArmorRejection({ pod, appArmor }: AdmissionInput): Rejection | undefined {
  // A pod that has been running keeps running.
  if (pod.status?.phase !== undefined && pod.status.phase !== 'Pending') return undefined;
  const profiles = containersOf(pod).flatMap(({ container }) => appArmorProfileOf(pod, container) ?? []);
  if (profiles.every((profile) => profile.type === 'Unconfined')) return undefined;
  const refuse = (why: string): Rejection => ({ reason: 'AppArmor', message: `Cannot enforce AppArmor: ${why}` });
  if (!appArmor) return refuse('AppArmor is not enabled on the host');
  const nameless = profiles.some((profile) => profile.type === 'Localhost' && (profile.localhostProfile ?? '').trim() === '');
  return nameless ? refuse('invalid empty AppArmor profile name: a profile of type Localhost needs localhostProfile') : undefined;
}

/** What this node cannot prepare is refused, lest the pod run without its devices. */
function claimRejection(pod: AgentPod): Rejection | undefined {
  const field = (pod.spec.resourceClaims ?? []).length > 0 ? 'spec.resourceClaims' : undefined;
  const asked = field ?? (pod.status?.extendedResourceClaimStatus === undefined ? undefined : 'status.extendedResourceClaimStatus');
  if (asked === undefined) return undefined;
  return {
    reason: 'ResourceClaimsNotSupported',
    message: `${asked}: this node cannot prepare resource claims (dynamic resource allocation); remove the claims, or keep the pod to nodes that can`,
  };
}

function osRejection(pod: AgentPod): Rejection | undefined {
  const selected = pod.metadata.labels?.['kubernetes.io/os'];
  if (selected !== undefined && selected !== 'linux') {
    return {
      reason: 'PodOSSelectorNodeLabelDoesNotMatch',
      message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
    };
  }
  if (pod.spec.os !== undefined && pod.spec.os.name !== 'linux')
    return { reason: 'PodOSNotSupported', message: "Failed to admit pod as the OS field doesn't match node OS" };
  return undefined;
}

function supplementalGroupsRejection(pod: AgentPod, node: AgentNode): Rejection | undefined {
  if (pod.spec.securityContext?.supplementalGroupsPolicy !== 'Strict' || node.status?.features?.supplementalGroupsPolicy === true)
    return undefined;
  return { reason: 'SupplementalGroupsPolicyNotSupported', message: 'SupplementalGroupsPolicy=Strict is not supported in this node' };
}

function nodeRejection(pod: AgentPod, node: AgentNode): Rejection | undefined {
  if (!matchesNode(pod, node))
    return { reason: 'NodeAffinity', message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector" };
  // A static pod is this node's own: no taint keeps it away.
  if (isStaticPod(pod)) return undefined;
  // Only NoExecute taints bind pods that are bound already: static pods and those of a scheduler that raced the taint.
  const untolerated = (node.spec?.taints ?? []).find(
    (taint) =>
      taint.effect === 'NoExecute' &&
      !(pod.spec.tolerations ?? []).some(
        (t) =>
          (t.effect === undefined || t.effect === '' || t.effect === taint.effect) &&
          (t.key === undefined || t.key === '' ? t.operator === 'Exists' : t.key === taint.key) &&
          (t.operator === 'Exists' || (t.value ?? '') === (taint.value ?? '')),
      ),
  );
  if (untolerated !== undefined) {
    return { reason: 'TaintToleration', message: `Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate` };
  }
  return undefined;
}

function hostPorts(pod: AgentPod): { ip: string; port: number; protocol: string }[] {
  const containers = [...pod.spec.containers, ...(pod.spec.initContainers ?? []).filter((c) => c.restartPolicy === 'Always')];
  return containers
    .flatMap((c) => c.ports ?? [])
    .map((p) => ({
      ip: p.hostIP ?? '',
      port: p.hostPort ?? (pod.spec.hostNetwork === true ? p.containerPort : 0),
      protocol: p.protocol ?? 'TCP',
    }))
    .filter((p) => p.port > 0);
}

function portRejection(pod: AgentPod, active: readonly AgentPod[]): Rejection | undefined {
  const wanted = hostPorts(pod);
  if (wanted.length === 0) return undefined;
  const isAny = (ip: string): boolean => ip === '' || ip === '0.0.0.0' || ip === '::';
  const taken = active.flatMap(hostPorts);
  const clash = wanted.some((w) =>
    taken.some((t) => t.port === w.port && t.protocol === w.protocol && (t.ip === w.ip || isAny(t.ip) || isAny(w.ip))),
  );
  return clash
    ? { reason: 'NodePorts', message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports" }
    : undefined;
}

interface Shortage {
  readonly resource: string;
  readonly requested: number;
  readonly used: number;
  readonly capacity: number;
}

/** What the node has too little of for the pod: cpu in millicores, all else in bytes or pieces. */
function resourceShortages(pod: AgentPod, active: readonly AgentPod[], node: AgentNode): Shortage[] {
  const allocatable: ResourceList = node.status?.allocatable ?? {};
  const shortages: Shortage[] = [];
  const podLimit = allocatable.pods === undefined ? Number.POSITIVE_INFINITY : parseQuantity(allocatable.pods);
  if (active.length + 1 > podLimit) shortages.push({ resource: 'pods', requested: 1, used: active.length, capacity: podLimit });
  const requests = podRequests(pod);
  const held = active.map((p) => podRequests(p));
  for (const [resource, amount] of Object.entries(requests)) {
    // An extended resource that the node does not advertise is not the node's: a device or claim of somebody else's. All else it would advertise.
    const capacity = ownValue(allocatable, resource) ?? (resource.includes('/') || allocatable.cpu === undefined ? undefined : '0');
    if (capacity === undefined || compareQuantity(amount, '0') === 0) continue;
    const parse = resource === 'cpu' ? parseMilli : parseQuantity;
    const used = held.reduce((sum, list) => sum + parse(ownValue(list, resource) ?? '0'), 0);
    if (used + parse(amount) > parse(capacity)) shortages.push({ resource, requested: parse(amount), used, capacity: parse(capacity) });
  }
  return shortages;
}
