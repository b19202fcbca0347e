import { createHash } from 'node:crypto';
import { parseAllDocuments } from 'yaml';
import { AgentError } from '../base/errors.ts';
import type { Pod, Toleration } from '../model/generated/api.ts';
import { type AgentPod, configFirstSeenAnnotation, configHashAnnotation, configSourceAnnotation } from '../model/pod.ts';
import { apiReference, checkShape, isMapping, validatePod } from './manifest-check.ts';
import { withDefaults } from './manifest-defaults.ts';

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
  readonly warnings: string[];
}

/**
 * Reads a manifest (YAML 1.1 or JSON; one Pod, a PodList or a List of Pods) as this node's static pods: defaults, name, UID and annotations as the kubelet
 * gives them (pkg/kubelet/config/common.go). Throws AgentError InvalidManifest naming the origin and each field that is wrong.
 */
export function parseManifest(text: string, context: ManifestContext): Manifest {
  const fail = (problems: readonly string[]): never => {
    throw new AgentError('InvalidManifest', `${context.origin}: ${problems.join('; ')}`);
  };
  // Timestamps stay text: Kubernetes' YAML gives strings for them too (sigs.k8s.io/yaml over goyaml.v2).
  const documents = parseAllDocuments(text, {
    version: '1.1',
    merge: true,
    uniqueKeys: true,
    customTags: (tags) =>
      tags.filter((tag) => tag !== 'timestamp' && !(typeof tag === 'object' && tag.tag === 'tag:yaml.org,2002:timestamp')),
  });
  const [first, ...others] = 'empty' in documents ? [] : documents;
  const [syntaxError] = first?.errors ?? [];
  if (syntaxError !== undefined) return fail([`not YAML: ${(syntaxError.message.split('\n')[0] ?? '').replace(/:$/, '')}`]);
  const document = withoutNulls(first?.toJS({ maxAliasCount: 100 }));
  if (document === undefined) return fail(['the file is empty: it should hold a Pod']);
  const warnings: string[] = [];
  // sigs.k8s.io/yaml reads the first document only, and says nothing.
  const ignored = others.filter((d) => d.contents !== null).length;
  if (ignored > 0)
    warnings.push(`${context.origin}: only the first YAML document is used; put the other ${ignored} into files of their own`);
  const problems: string[] = [];
  const pods: AgentPod[] = [];
  for (const { item, at } of podsOf(document, fail)) {
    const where = (problem: string): string => (at === '' ? problem : `${at}.${problem}`);
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
  return problems.length > 0 ? fail(problems) : { pods, warnings };
}

function podsOf(document: unknown, fail: (problems: string[]) => never): { item: unknown; at: string }[] {
  if (!isMapping(document)) return fail(['no Kubernetes object: the document is no mapping']);
  const kindOf = (object: Record<string, unknown>): string => `${String(object.apiVersion ?? '(none)')} ${String(object.kind ?? '(none)')}`;
  switch (kindOf(document)) {
    case 'v1 Pod':
      return [{ item: document, at: '' }];
    case 'v1 PodList':
    case 'v1 List': {
      const items = document.items ?? [];
      if (!Array.isArray(items)) return fail(['items: must be a list']);
      return items.map((item: unknown, i) => {
        // In a PodList the items need not say what they are.
        const plain = document.kind === 'PodList' && isMapping(item) ? { apiVersion: 'v1', kind: 'Pod', ...item } : item;
        if (!isMapping(plain) || kindOf(plain) !== 'v1 Pod')
          return fail([`items[${i}]: only Pods can run from a manifest, not ${isMapping(plain) ? kindOf(plain) : 'this'}`]);
        return { item: plain, at: `items[${i}]` };
      });
    }
    default:
      return fail([`only Pods can run from a manifest (apiVersion: v1, kind: Pod, PodList or List), not ${kindOf(document)}`]);
  }
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
