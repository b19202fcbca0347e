import { createHash } from 'node:crypto';
import { AgentError } from '../base/errors.ts';
import type { Pod, Toleration } from '../model/generated/api.ts';
import { type AgentPod, configFirstSeenAnnotation, configHashAnnotation, configSourceAnnotation } from '../model/pod.ts';
import { apiReference, checkShape, isMapping, validatePod } from './manifest-check.ts';
import { withDefaults } from './manifest-defaults.ts';
import { readEvery, readFirst } from './manifest-read.ts';

export interface ManifestContext {
  /** Path of the file or the URL: part of the pods' identity, and named in every error. */
  readonly origin: string;
  readonly source: 'file' | 'http';
  readonly nodeName: string;
  /** Wall time, ms. */
  readonly now: number;
  /** Upstream drops fields that it does not know; `refuse` takes them for the mistakes they are, `warn` runs the pod and says so. */
  readonly unknownFields: 'refuse' | 'warn';
  /** The feature gate PreventStaticPodAPIReferences. */
  readonly allowApiReferences: boolean;
}

export interface Manifest {
  readonly pods: AgentPod[];
  /** Things accepted that deserve a line in the log. */
  readonly warnings: readonly string[];
  /** What the file holds besides Pods, and that nobody wants to run. */
  readonly passedOver: readonly string[];
}

/**
 * Reads a manifest (YAML or JSON; a Pod, a PodList or a List of Pods) as this node's static pods: defaults, name, UID and annotations as the kubelet
 * gives them (pkg/kubelet/config/common.go). Throws AgentError InvalidManifest naming the origin and each field that is wrong.
 */
export function parseManifest(text: string, context: ManifestContext): Manifest {
  const fail = (problems: readonly string[]): never => {
    throw new AgentError('InvalidManifest', `${context.origin}: ${problems.join('; ')}`);
  };
  // Beside an API server a file means what it means to kubelet; by itself, what the person who put it there can mean.
  const read = context.unknownFields === 'warn' ? readFirst(text, context.origin) : readEvery(text, context.origin);
  const warnings = [...read.warnings];
  const problems: string[] = [];
  const pods: AgentPod[] = [];
  for (const { item: written, at } of read.items) {
    const item = withoutNulls(written);
    const where = (problem: string): string => `${at}${problem}`;
    const { pod, unknown, wrong } = checkShape(item);
    if (context.unknownFields === 'warn')
      warnings.push(...unknown.map((field) => `${context.origin}: ${where(field)}: unknown field, ignored`));
    else problems.push(...unknown.map((field) => where(`${field}: unknown field`)));
    problems.push(...wrong.map(where));
    if (wrong.length > 0) continue;
    if (!pod.metadata?.name) {
      problems.push(where('metadata.name: required'));
      continue;
    }
    const made = asStaticPod(pod, item, context);
    problems.push(...validatePod(made).map(where));
    const reference = context.allowApiReferences ? undefined : apiReference(made);
    if (reference !== undefined)
      problems.push(
        where(`${reference.field}: static pods may not reference ${reference.resource}; use hostPath, emptyDir or plain values instead`),
      );
    pods.push(made);
  }
  return problems.length > 0 ? fail(problems) : { pods, warnings, passedOver: read.passedOver };
}

function asStaticPod(pod: Pod, item: unknown, context: ManifestContext): AgentPod {
  const { metadata = {}, spec } = withDefaults(pod);
  const { nodeName } = context;
  const uid = metadata.uid || uidOf(item, context);
  const name = `${metadata.name}-${nodeName.toLowerCase()}`;
  const made: AgentPod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      ...metadata,
      name,
      namespace: metadata.namespace || 'default',
      uid,
      annotations: {
        ...metadata.annotations,
        [configHashAnnotation]: uid,
        [configSourceAnnotation]: context.source,
        [configFirstSeenAnnotation]: new Date(context.now).toISOString(),
      },
    },
    spec: { ...(spec ?? { containers: [] }), nodeName },
    status: { phase: 'Pending' },
  };
  // Static pods of files stay when the node is in trouble.
  if (context.source === 'file') made.spec.tolerations = withToleration(made.spec.tolerations ?? []);
  return made;
}

function withToleration(tolerations: readonly Toleration[]): Toleration[] {
  const wanted: Toleration = { operator: 'Exists', effect: 'NoExecute' };
  const same = (t: Toleration): boolean => t.operator === 'Exists' && t.effect === 'NoExecute' && !t.key && !t.value;
  return tolerations.some(same) ? tolerations.map((t) => (same(t) ? wanted : t)) : [...tolerations, wanted];
}

/**
 * 128 bits in hex over what the manifest says and where it came from, as the kubelet's: an edit is another pod. Over the manifest itself and not over the
 * defaults, so that an agent with newer defaults keeps the pods that run. (The kubelet hashes Go's own dump of its structs: the value differs.)
 */
function uidOf(item: unknown, context: ManifestContext): string {
  const hash = createHash('sha256').update(canonical(item));
  if (context.source === 'file') hash.update(`host:${context.nodeName}file:${context.origin}`);
  else hash.update(`url:${context.origin}`);
  return hash.digest('hex').slice(0, 32);
}

function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    isMapping(inner) ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))) : inner,
  );
}

function withoutNulls(value: unknown): unknown {
  if (value === null || value === undefined) return undefined;
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (!isMapping(value)) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, inner]) => {
      const kept = withoutNulls(inner);
      return kept === undefined ? [] : [[key, kept]];
    }),
  );
}
