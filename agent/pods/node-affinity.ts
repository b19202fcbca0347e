import { ownValue } from '../base/own.ts';
import type { NodeSelectorRequirement, NodeSelectorTerm } from '../model/generated/api.ts';
import type { AgentNode, AgentPod } from '../model/pod.ts';

// Whether a pod's nodeSelector and required node affinity take this node (k8s.io/component-helpers scheduling/corev1/nodeaffinity, k8s.io/apimachinery labels).

/** A term with a requirement that cannot be read matches nothing, as upstream skips it. */
export function matchesNode(pod: AgentPod, node: AgentNode): boolean {
  const labels = node.metadata.labels;
  const selected = Object.entries(pod.spec.nodeSelector ?? {}).every(([key, value]) => ownValue(labels, key) === value);
  const required = pod.spec.affinity?.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution;
  return selected && (required === undefined || required.nodeSelectorTerms.some((term) => matchesTerm(term, labels, node.metadata.name)));
}

function matchesTerm(term: NodeSelectorTerm, labels: Readonly<Record<string, string>> | undefined, nodeName: string): boolean {
  const expressions = term.matchExpressions ?? [];
  const fields = term.matchFields ?? [];
  if (expressions.length === 0 && fields.length === 0) return false;
  return (
    expressions.every((e) => isLabelRequirement(e) && matchesLabel(e, ownValue(labels, e.key))) &&
    fields.every((f) => matchesField(f, f.key === 'metadata.name' ? nodeName : ''))
  );
}

/** Fields have no operators but these, and one value (nodeSelectorRequirementsAsFieldSelector). */
function matchesField({ operator, values = [] }: NodeSelectorRequirement, actual: string): boolean {
  if (values.length !== 1) return false;
  return operator === 'In' ? values[0] === actual : operator === 'NotIn' && values[0] !== actual;
}

function matchesLabel({ operator, values = [] }: NodeSelectorRequirement, actual: string | undefined): boolean {
  switch (operator) {
    case 'In':
      return actual !== undefined && values.includes(actual);
    case 'NotIn':
      return actual === undefined || !values.includes(actual);
    case 'Exists':
      return actual !== undefined;
    case 'DoesNotExist':
      return actual === undefined;
    default: {
      const [have, bound] = [parseInt64(actual), parseInt64(values[0])];
      if (have === undefined || bound === undefined) return false;
      return operator === 'Gt' ? have > bound : operator === 'Lt' && have < bound;
    }
  }
}

const qualifiedName = /^(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?\/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/;
const labelValue = /^(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$/;

/** What labels.NewRequirement takes. */
function isLabelRequirement({ key, operator, values = [] }: NodeSelectorRequirement): boolean {
  if (!qualifiedName.test(key) || !values.every((value) => labelValue.test(value))) return false;
  switch (operator) {
    case 'In':
    case 'NotIn':
      return values.length > 0;
    case 'Exists':
    case 'DoesNotExist':
      return values.length === 0;
    default:
      return values.length === 1;
  }
}

/** Go's strconv.ParseInt(text, 10, 64); undefined where that is an error: `''`, `1.5`, `0x10`, ` 1`, 2^63. */
function parseInt64(text: string | undefined): bigint | undefined {
  if (text === undefined || !/^[+-]?[0-9]+$/.test(text)) return undefined;
  const value = BigInt(text.replace(/^\+/, ''));
  return BigInt.asIntN(64, value) === value ? value : undefined;
}
