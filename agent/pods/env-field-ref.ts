import { AgentError } from '../base/errors.ts';
import { goQuote } from '../base/go-quote.ts';
import { ownValue } from '../base/own.ts';
import type { Container, ObjectFieldSelector, ResourceFieldSelector } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';
import { parseMilli, quantityOver } from '../model/quantity.ts';
import type { ResourceList } from '../model/resources.ts';

// The downward API: fields of a pod, and resources of its containers, as text. Throws AgentError InvalidField in upstream's words.

/** What the node knows of a running pod beyond its object. */
export interface RuntimeFacts {
  readonly nodeName: string;
  /** Of the preferred family first; a pod on the node's network has the node's. */
  readonly podIPs: readonly string[];
  readonly hostIPs: readonly string[];
}

const plainFields = new Set([
  'metadata.annotations',
  'metadata.labels',
  'metadata.name',
  'metadata.namespace',
  'metadata.uid',
  'spec.nodeName',
  'spec.restartPolicy',
  'spec.serviceAccountName',
  'spec.schedulerName',
  'status.phase',
  'status.hostIP',
  'status.hostIPs',
  'status.podIP',
  'status.podIPs',
]);

/** A field for an environment variable: those of the object, and those that only exist once it runs. */
export function envFieldValue(pod: AgentPod, ref: ObjectFieldSelector, facts: RuntimeFacts): string {
  const field = knownField(ref);
  switch (field) {
    case 'spec.nodeName':
      // Static pods name no node in their manifest; they run here.
      return pod.spec.nodeName ?? facts.nodeName;
    case 'spec.serviceAccountName':
      return pod.spec.serviceAccountName ?? '';
    case 'status.hostIP':
      return knownHostIPs(facts)[0] ?? '';
    case 'status.hostIPs':
      return knownHostIPs(facts).join(',');
    case 'status.podIP':
      return facts.podIPs[0] ?? '';
    case 'status.podIPs':
      return facts.podIPs.join(',');
    default:
      return objectFieldValue(pod, field);
  }
}

/** A node whose addresses a cloud has yet to tell: the container waits for them. */
function knownHostIPs({ hostIPs }: RuntimeFacts): readonly string[] {
  if (hostIPs.length === 0) throw new AgentError('InvalidField', 'host IP unknown; known addresses: []');
  return hostIPs;
}

/** A field for a file of a downwardAPI volume: metadata only (pkg/fieldpath). */
export function objectFieldValue(pod: AgentPod, field: string): string {
  const { path, subscript } = splitSubscript(field);
  const { metadata } = pod;
  if (subscript !== undefined) {
    switch (path) {
      case 'metadata.annotations':
        checkKey(field, subscript.toLowerCase());
        return ownValue(metadata.annotations, subscript) ?? '';
      case 'metadata.labels':
        checkKey(field, subscript);
        return ownValue(metadata.labels, subscript) ?? '';
      default:
        throw new AgentError('InvalidField', `fieldPath ${JSON.stringify(field)} does not support subscript`);
    }
  }
  switch (field) {
    case 'metadata.annotations':
      return formatMap(metadata.annotations ?? {});
    case 'metadata.labels':
      return formatMap(metadata.labels ?? {});
    case 'metadata.name':
      return metadata.name;
    case 'metadata.namespace':
      return metadata.namespace;
    case 'metadata.uid':
      return metadata.uid;
    default:
      throw new AgentError('InvalidField', `unsupported fieldPath: ${field}`);
  }
}

function knownField(ref: ObjectFieldSelector): string {
  if ((ref.apiVersion ?? 'v1') !== 'v1') throw new AgentError('InvalidField', `unsupported pod version: ${ref.apiVersion}`);
  const { path, subscript } = splitSubscript(ref.fieldPath);
  if (subscript !== undefined) {
    if (path === 'metadata.annotations' || path === 'metadata.labels') return ref.fieldPath;
    throw new AgentError('InvalidField', `field label does not support subscript: ${ref.fieldPath}`);
  }
  // What clients of the first v1 sent.
  if (ref.fieldPath === 'spec.host') return 'spec.nodeName';
  if (!plainFields.has(ref.fieldPath)) throw new AgentError('InvalidField', `field label not supported: ${ref.fieldPath}`);
  return ref.fieldPath;
}

/** `metadata.labels['a[b]c']` → metadata.labels and a[b]c; anything not of that form has no subscript. */
function splitSubscript(field: string): { path: string; subscript?: string } {
  const open = field.indexOf("['");
  if (!field.endsWith("']") || open <= 0 || open > field.length - 4) return { path: field };
  return { path: field.slice(0, open), subscript: field.slice(open + 2, -2) };
}

const qualifiedName = /^(?:([a-z0-9](?:[-a-z0-9.]*[a-z0-9])?)\/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/;

function checkKey(field: string, key: string): void {
  if (!qualifiedName.test(key)) throw new AgentError('InvalidField', `invalid key subscript in ${field}: not a qualified name`);
}

/** `key="value"` lines in order of their keys, values quoted as Go does. */
function formatMap(map: Record<string, string>): string {
  return Object.keys(map)
    .sort()
    .map((key) => `${key}=${goQuote(ownValue(map, key) ?? '')}`)
    .join('\n');
}

/**
 * A container's resource over the divisor, rounded up. `own` is the container that asks, for a reference without a name. Where a container has no limit,
 * it has what the node has (`allocatable`), or the pod's own limit.
 */
export function resourceFieldValue(
  pod: AgentPod,
  own: Container | undefined,
  ref: ResourceFieldSelector,
  allocatable: ResourceList,
): string {
  const named = ref.containerName ?? '';
  const container = named === '' ? own : [...pod.spec.containers, ...(pod.spec.initContainers ?? [])].find((c) => c.name === named);
  if (container === undefined) throw new AgentError('InvalidField', `container ${named} not found`);
  const [, kind, resource] = /^(requests|limits)\.(.+)$/.exec(ref.resource) ?? [];
  const known = resource === 'cpu' || resource === 'memory' || resource === 'ephemeral-storage';
  if (resource === undefined || (!known && !resource.startsWith('hugepages-'))) {
    throw new AgentError('InvalidField', `unsupported container resource : ${ref.resource}`);
  }
  let value = ownValue(kind === 'limits' ? container.resources?.limits : container.resources?.requests, resource);
  if (kind === 'limits' && known && (value === undefined || parseMilli(value) === 0)) {
    const podLimit = resource === 'ephemeral-storage' ? undefined : pod.spec.resources?.limits?.[resource];
    value =
      podLimit !== undefined && parseMilli(podLimit) !== 0 && allocatable[resource] !== undefined
        ? podLimit
        : (allocatable[resource] ?? value);
  }
  const divisor = ref.divisor ?? '0';
  return `${quantityOver(value ?? '0', parseMilli(divisor) === 0 ? '1' : divisor)}`;
}
