import type { Lease } from '../model/generated/api.ts';
import { rfc3339Micro } from './status.ts';

export const leaseNamespace = 'kube-node-lease';

/** The lease to write: a new one, or `base` renewed. Its owner is the Node, so that it goes with it. */
export function renewedLease(
  base: Lease | undefined,
  node: { readonly name: string; readonly uid: string | undefined },
  durationSeconds: number,
  wallMs: number,
): Lease {
  const owners = base?.metadata?.ownerReferences;
  return {
    apiVersion: 'coordination.k8s.io/v1',
    kind: 'Lease',
    metadata: {
      ...base?.metadata,
      name: node.name,
      namespace: leaseNamespace,
      ...(owners !== undefined && owners.length > 0
        ? {}
        : node.uid === undefined
          ? {}
          : { ownerReferences: [{ apiVersion: 'v1', kind: 'Node', name: node.name, uid: node.uid }] }),
    },
    spec: {
      ...base?.spec,
      holderIdentity: base?.spec?.holderIdentity ?? node.name,
      leaseDurationSeconds: durationSeconds,
      renewTime: rfc3339Micro(wallMs),
    },
  };
}
