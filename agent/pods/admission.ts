import type { NodeSelectorRequirement, NodeSelectorTerm } from '../model/generated/api.ts';
import type { AgentNode, AgentPod } from '../model/pod.ts';
import { compareQuantity, parseMilli, parseQuantity } from '../model/quantity.ts';
import { podRequests, type ResourceList } from '../model/resources.ts';
import type { Rejection } from './worker.ts';

export interface AdmissionInput {
  readonly pod: AgentPod;
  /** Pods that hold resources of the node already. */
  readonly active: readonly AgentPod[];
  /** Undefined while the Node is not known: then only what needs no node is checked. */
  readonly node: AgentNode | undefined;
  /** `allowedUnsafeSysctls`: names, or prefixes ending in `*`. */
  readonly allowedUnsafeSysctls: readonly string[];
}

/** Why the pod may not run here, in kubelet's words; undefined when it may. */
export function admitPod(input: AdmissionInput): Rejection | undefined {
  const { pod, node } = input;
  return (
    sysctlRejection(pod, input.allowedUnsafeSysctls) ??
    (node === undefined
      ? undefined
      : (nodeRejection(pod, node) ?? portRejection(pod, input.active) ?? resourceRejection(pod, input.active, node)))
  );
}

// Namespaced and harmless (pkg/kubelet/sysctl/safe_sysctls.go, the ones without a kernel version bound on supported kernels).
const safeSysctls = new Set([
  'kernel.shm_rmid_forced',
  'net.ipv4.ip_local_port_range',
  'net.ipv4.tcp_syncookies',
  'net.ipv4.ping_group_range',
  'net.ipv4.ip_unprivileged_port_start',
  'net.ipv4.ip_local_reserved_ports',
  'net.ipv4.tcp_keepalive_time',
  'net.ipv4.tcp_fin_timeout',
  'net.ipv4.tcp_keepalive_intvl',
  'net.ipv4.tcp_keepalive_probes',
  'net.ipv4.tcp_rmem',
  'net.ipv4.tcp_wmem',
]);

function sysctlRejection(pod: AgentPod, allowed: readonly string[]): Rejection | undefined {
  for (const { name: raw } of pod.spec.securityContext?.sysctls ?? []) {
    const name = raw.replaceAll('/', '.');
    const listed = allowed.some((a) => (a.endsWith('*') ? name.startsWith(a.slice(0, -1)) : a === name));
    if (!safeSysctls.has(name) && !listed) return { reason: 'SysctlForbidden', message: `forbidden sysctl: "${raw}" not allowlisted` };
  }
  return undefined;
}

function nodeRejection(pod: AgentPod, node: AgentNode): Rejection | undefined {
  const labels = node.metadata.labels ?? {};
  const affinity = { reason: 'NodeAffinity', message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector" };
  for (const [key, value] of Object.entries(pod.spec.nodeSelector ?? {})) if (labels[key] !== value) return affinity;
  const required = pod.spec.affinity?.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution;
  if (required !== undefined && !required.nodeSelectorTerms.some((term) => matchesTerm(term, labels, node.metadata.name))) return affinity;
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

function matchesTerm(term: NodeSelectorTerm, labels: Record<string, string>, nodeName: string): boolean {
  const expressions = term.matchExpressions ?? [];
  const fields = term.matchFields ?? [];
  if (expressions.length === 0 && fields.length === 0) return false;
  return (
    expressions.every((e) => matchesRequirement(e, labels[e.key])) &&
    fields.every((f) => matchesRequirement(f, f.key === 'metadata.name' ? nodeName : undefined))
  );
}

function matchesRequirement(requirement: NodeSelectorRequirement, value: string | undefined): boolean {
  const values = requirement.values ?? [];
  switch (requirement.operator) {
    case 'In':
      return value !== undefined && values.includes(value);
    case 'NotIn':
      return value === undefined || !values.includes(value);
    case 'Exists':
      return value !== undefined;
    case 'DoesNotExist':
      return value === undefined;
    case 'Gt':
      return value !== undefined && Number(value) > Number(values[0]);
    case 'Lt':
      return value !== undefined && Number(value) < Number(values[0]);
    default:
      return false;
  }
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

function resourceRejection(pod: AgentPod, active: readonly AgentPod[], node: AgentNode): Rejection | undefined {
  const allocatable: ResourceList = node.status?.allocatable ?? {};
  const podLimit = allocatable.pods === undefined ? Number.POSITIVE_INFINITY : parseQuantity(allocatable.pods);
  if (active.length + 1 > podLimit) return shortage('pods', 1, active.length, podLimit);
  const requests = podRequests(pod);
  const held = active.map((p) => podRequests(p));
  for (const [name, amount] of Object.entries(requests)) {
    const capacity = allocatable[name];
    // What the node does not advertise is a device or claim of somebody else's; the rooms that own those check them.
    if (capacity === undefined || compareQuantity(amount, '0') === 0) continue;
    const parse = name === 'cpu' ? parseMilli : parseQuantity;
    const used = held.reduce((sum, list) => sum + (list[name] === undefined ? 0 : parse(list[name])), 0);
    if (used + parse(amount) > parse(capacity)) return shortage(name, parse(amount), used, parse(capacity));
  }
  return undefined;
}

function shortage(resource: string, requested: number, used: number, capacity: number): Rejection {
  return {
    reason: `OutOf${resource}`,
    message: `Node didn't have enough resource: ${resource}, requested: ${requested}, used: ${used}, capacity: ${capacity}`,
  };
}
