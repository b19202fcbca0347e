import { ownValue, setOwn } from '../base/own.ts';
import type { Node, NodeStatus, Taint } from '../model/generated/api.ts';
import type { AgentNode } from '../model/pod.ts';
import { sameQuantity } from '../model/quantity.ts';
import { isExtendedResource } from '../model/resources.ts';
import { providedIpAnnotation } from './addresses.ts';

/** What a node registers itself with. */
export interface RegistrationConfig {
  readonly nodeName: string;
  readonly hostname: string;
  readonly architecture: string;
  readonly nodeLabels: Readonly<Record<string, string>>;
  readonly registerWithTaints: readonly Taint[];
  readonly providerID: string;
  readonly nodeIPs: readonly string[];
  readonly cloudProviderExternal: boolean;
  readonly enableControllerAttachDetach: boolean;
}

const attachDetachAnnotation = 'volumes.kubernetes.io/controller-managed-attach-detach';
const providedIpAnnotationName = 'alpha.kubernetes.io/provided-node-ip';

/** The labels that a node gives itself without being asked. */
function ownLabels(config: RegistrationConfig): Record<string, string> {
  return {
    'kubernetes.io/hostname': config.hostname,
    'kubernetes.io/os': 'linux',
    'kubernetes.io/arch': config.architecture,
    'beta.kubernetes.io/os': 'linux',
    'beta.kubernetes.io/arch': config.architecture,
  };
}

/** The Node object of a node that registers for the first time. */
export function initialNode(config: RegistrationConfig, status: NodeStatus): AgentNode {
  const taints: Taint[] = [
    ...config.registerWithTaints,
    // Taken off by the cloud controller once it has filled in what it knows.
    ...(config.cloudProviderExternal
      ? [{ key: 'node.cloudprovider.kubernetes.io/uninitialized', value: 'true', effect: 'NoSchedule' }]
      : []),
  ];
  const provided = providedIpAnnotation(config.nodeIPs, config.cloudProviderExternal);
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: {
      name: config.nodeName,
      labels: { ...ownLabels(config), ...config.nodeLabels },
      annotations: {
        ...(config.enableControllerAttachDetach ? { [attachDetachAnnotation]: 'true' } : {}),
        ...(provided === undefined ? {} : { [providedIpAnnotationName]: provided }),
      },
    },
    spec: {
      ...(taints.length > 0 ? { taints } : {}),
      ...(config.providerID === '' ? {} : { providerID: config.providerID }),
    },
    status,
  };
}

// The labels that follow the node's own idea at each start; any other label of --node-labels counts only at the first registration.
const followedLabels = [
  'kubernetes.io/hostname',
  'topology.kubernetes.io/zone',
  'topology.kubernetes.io/region',
  'failure-domain.beta.kubernetes.io/zone',
  'failure-domain.beta.kubernetes.io/region',
  'node.kubernetes.io/instance-type',
  'beta.kubernetes.io/instance-type',
  'kubernetes.io/os',
  'kubernetes.io/arch',
  'beta.kubernetes.io/os',
  'beta.kubernetes.io/arch',
];

/**
 * An existing Node brought in line with this agent at its start, as kubelet does: default labels, the attach-detach annotation, huge pages; with
 * `resetExtendedResources` those of device plugins count as nothing until the plugins have come back.
 */
export function reconcileNode(initial: AgentNode, existing: AgentNode, resetExtendedResources: boolean): AgentNode {
  const labels: Record<string, string> = { ...existing.metadata.labels };
  for (const name of followedLabels) {
    const wanted = ownValue(initial.metadata.labels, name);
    if (wanted === undefined) continue;
    if (wanted === '') delete labels[name];
    else setOwn(labels, name, wanted);
  }
  const annotations: Record<string, string> = { ...existing.metadata.annotations };
  const attach = initial.metadata.annotations?.[attachDetachAnnotation];
  if (attach === undefined) delete annotations[attachDetachAnnotation];
  else annotations[attachDetachAnnotation] = attach;

  const status: NodeStatus = { ...existing.status };
  for (const field of ['capacity', 'allocatable'] as const) {
    const wanted = initial.status?.[field] ?? {};
    const amounts: Record<string, string> = { ...(existing.status?.[field] ?? wanted) };
    for (const [name, amount] of Object.entries(amounts)) {
      if (name.startsWith('hugepages-') && ownValue(wanted, name) === undefined) delete amounts[name];
      else if (resetExtendedResources && isExtendedResource(name) && !sameQuantity(amount, '0')) setOwn(amounts, name, '0');
    }
    for (const [name, amount] of Object.entries(wanted)) if (name.startsWith('hugepages-')) setOwn(amounts, name, amount);
    status[field] = amounts;
  }
  return { ...existing, metadata: { ...existing.metadata, labels, annotations }, status };
}

/** Labels and annotations that the node keeps on its own object while it runs, whoever changes them. */
export function keepMetadata(config: RegistrationConfig, node: Node): NonNullable<Node['metadata']> {
  const annotations = { ...node.metadata?.annotations };
  const provided = providedIpAnnotation(config.nodeIPs, config.cloudProviderExternal);
  if (provided === undefined) delete annotations[providedIpAnnotationName];
  else annotations[providedIpAnnotationName] = provided;
  return {
    ...node.metadata,
    labels: { ...node.metadata?.labels, 'kubernetes.io/os': 'linux', 'kubernetes.io/arch': config.architecture },
    annotations,
  };
}
