import { AgentError, messageOf } from '../base/errors.ts';
import { describeRepeated, type RepeatedKey } from '../model/repeated-key.ts';
import { readAllYaml, readYaml, type YamlDocument } from '../model/yaml.ts';
import { isMapping } from './manifest-check.ts';

/** A Pod as a manifest has it. */
export interface ManifestItem {
  readonly item: unknown;
  /** What to put before a problem of it; empty when the file holds nothing else. */
  readonly at: string;
}

export interface ManifestItems {
  readonly items: readonly ManifestItem[];
  /** Things accepted that deserve a line in the log. */
  readonly warnings: readonly string[];
  /** What is there and no Pod, and that nobody wants to run: a word for each. */
  readonly passedOver: readonly string[];
}

type Fail = (problem: string) => never;

/**
 * The Pods of a manifest as kubelet takes them: the first document that holds something, a Pod, PodList or List of Pods. Of two like keys the last counts, with
 * a warning: a node that is taken over must not lose its control plane. Throws AgentError InvalidManifest naming the origin.
 */
export function readFirst(text: string, origin: string): ManifestItems {
  const fail = failFor(origin);
  const document = reading(() => readYaml(text), fail);
  if (document === undefined) return fail('the file is empty: it should hold a Pod');
  const { value, repeated } = document;
  const warnings = repeated.map((key) => `${origin}: ${describeRepeated(key)}; the last one counts`);
  const others = documentsAfterFirst(text);
  if (others !== '') warnings.push(`${origin}: only the first YAML document is used; put ${others} into files of their own`);
  return { items: podsOf(value, '', fail), warnings, passedOver: [] };
}

/** What comes after the first document, in words; empty for nothing. Upstream does not look at it, so it may be broken. */
function documentsAfterFirst(text: string): string {
  try {
    const others = readAllYaml(text).length - 1;
    return others > 0 ? `the other ${others}` : '';
  } catch {
    return 'the others';
  }
}

/**
 * Every Pod of a file in a folder that a person runs by itself: what `helm template` and `kustomize build` print, and files that are no manifests, are
 * passed over. What is meant for a manifest and is none is an error, and so is a key that stands twice. Throws AgentError InvalidManifest.
 */
export function readEvery(text: string, origin: string): ManifestItems {
  const fail = failFor(origin);
  // By its name, any file is a manifest but one that has another kind of name; an address is one.
  const isManifest = /\.(ya?ml|json)$/i.test(origin) || origin.includes('://');
  const none: ManifestItems = { items: [], warnings: [], passedOver: [`${origin} is passed over: it is no manifest`] };
  let documents: readonly YamlDocument[];
  try {
    documents = readAllYaml(text);
  } catch (error) {
    return isManifest ? fail(`not YAML: ${messageOf(error)}`) : none;
  }
  if (!isManifest && !documents.some(({ value }) => isMapping(value) && value.apiVersion !== undefined && value.kind !== undefined))
    return none;
  if (documents.length === 0) return fail('the file is empty: it should hold a Pod');
  const items: ManifestItem[] = [];
  const passedOver: string[] = [];
  for (const [i, { value, repeated }] of documents.entries()) {
    const before = documents.length === 1 ? '' : `document ${i + 1}: `;
    const other = passedOverWord(value);
    if (other !== undefined) {
      passedOver.push(`${origin}: ${before}${other}`);
      continue;
    }
    refuseRepeated(repeated, fail);
    const { list, others } = splitList(value);
    passedOver.push(...others.map((word) => `${origin}: ${before}${word}`));
    items.push(...podsOf(list, before, fail));
  }
  return { items, warnings: [], passedOver };
}

function failFor(origin: string): Fail {
  return (problem) => {
    throw new AgentError('InvalidManifest', `${origin}: ${problem}`);
  };
}

function reading<T>(read: () => T, fail: Fail): T {
  try {
    return read();
  } catch (error) {
    return fail(`not YAML: ${messageOf(error)}`);
  }
}

function refuseRepeated(repeated: readonly RepeatedKey[], fail: Fail): void {
  if (repeated.length > 0) fail(repeated.map(describeRepeated).join('; '));
}

const podKinds = ['v1 Pod', 'v1 PodList', 'v1 List'];

function kindOf(object: Readonly<Record<string, unknown>>): string {
  return `${String(object.apiVersion ?? '(none)')} ${String(object.kind ?? '(none)')}`;
}

/** Why an object is passed over; undefined when it runs, or was meant to. */
function passedOverWord(value: unknown): string | undefined {
  if (!isMapping(value)) return undefined;
  const { apiVersion, kind, metadata } = value;
  // values.yaml, Chart.yaml and their like.
  if (apiVersion === undefined && kind === undefined) return 'is passed over: no Kubernetes object';
  if (
    typeof apiVersion !== 'string' ||
    typeof kind !== 'string' ||
    podKinds.includes(kindOf(value)) ||
    /^(pods?|podlist|list)$/i.test(kind)
  )
    return undefined;
  const name = isMapping(metadata) && typeof metadata.name === 'string' ? ` ${metadata.name}` : '';
  return `${kind}${name} is passed over: without a cluster only Pods run`;
}

/** A List without what is passed over, and a word for each of that. */
function splitList(value: unknown): { list: unknown; others: string[] } {
  if (!isMapping(value) || kindOf(value) !== 'v1 List' || !Array.isArray(value.items)) return { list: value, others: [] };
  const words = value.items.map(passedOverWord);
  return {
    list: { ...value, items: value.items.filter((_, i) => words[i] === undefined) },
    others: words.filter((word) => word !== undefined),
  };
}

function podsOf(document: unknown, before: string, fail: Fail): ManifestItem[] {
  if (!isMapping(document)) return fail(`${before}no Kubernetes object: the document is no mapping`);
  switch (kindOf(document)) {
    case 'v1 Pod':
      return [{ item: document, at: before }];
    case 'v1 PodList':
    case 'v1 List': {
      const items = document.items ?? [];
      if (!Array.isArray(items)) return fail(`${before}items: must be a list`);
      return items.map((item: unknown, i) => {
        // In a PodList the items need not say what they are.
        const plain = document.kind === 'PodList' && isMapping(item) ? { apiVersion: 'v1', kind: 'Pod', ...item } : item;
        if (!isMapping(plain) || kindOf(plain) !== 'v1 Pod')
          return fail(`${before}items[${i}]: only Pods can run from a manifest, not ${isMapping(plain) ? kindOf(plain) : 'this'}`);
        return { item: plain, at: `${before}items[${i}].` };
      });
    }
    default:
      return fail(`${before}only Pods can run from a manifest (apiVersion: v1, kind: Pod, PodList or List), not ${kindOf(document)}`);
  }
}
