import { type AgentPod, configHashAnnotation, configMirrorAnnotation } from '../model/pod.ts';

/** One step towards mirrors that show the static pods of this node as they are. A deletion is bound to the UID and has no grace: nothing ends with it. */
export type MirrorAction =
  | { readonly kind: 'deleteMirror'; readonly mirror: AgentPod; readonly reason: 'orphaned' | 'deleted' | 'outdated' }
  | { readonly kind: 'createMirror'; readonly pod: AgentPod };

export interface MirrorInput {
  /** The static pods of one full name: one, except while two sources clash. */
  readonly wanted: readonly AgentPod[];
  /** What the API shows under that full name. */
  readonly mirrors: readonly AgentPod[];
  /** Whether this node still holds something of the static pod of a hash. */
  readonly isHere: (hash: string) => boolean;
  /** Undefined while the node is not registered: it owns its mirrors. */
  readonly node: { readonly name: string; readonly uid: string } | undefined;
}

/** Identifies what a static pod's manifest says; its UID as well. */
export function hashOf(pod: AgentPod): string | undefined {
  return pod.metadata.annotations?.[configHashAnnotation];
}

/** The hash of the static pod that a mirror shows. */
export function mirroredHashOf(mirror: AgentPod): string | undefined {
  return mirror.metadata.annotations?.[configMirrorAnnotation];
}

/** The mirror that a static pod's status belongs to; undefined while there is none. */
export function mirrorOf(pod: AgentPod, mirrors: Iterable<AgentPod>): AgentPod | undefined {
  const hash = hashOf(pod);
  for (const mirror of mirrors) {
    const { name, namespace, deletionTimestamp } = mirror.metadata;
    const shows = name === pod.metadata.name && namespace === pod.metadata.namespace && mirroredHashOf(mirror) === hash;
    if (shows && deletionTimestamp === undefined) return mirror;
  }
  return undefined;
}

/**
 * What to delete and then to create, in order (tryReconcileMirrorPods and the clean-up of orphans, pkg/kubelet). A pod that still ends here keeps its
 * mirror: schedulers count what it holds by it.
 */
export function planMirrors({ wanted, mirrors, isHere, node }: MirrorInput): MirrorAction[] {
  const actions: MirrorAction[] = [];
  const pod = wanted.find((w) => mirrors.some((m) => mirroredHashOf(m) === hashOf(w))) ?? wanted[0];
  let nameTaken = false;
  for (const mirror of mirrors) {
    const hash = mirroredHashOf(mirror) ?? '';
    const current = pod !== undefined && hash === hashOf(pod);
    if (current && mirror.metadata.deletionTimestamp === undefined) nameTaken = true;
    else if (!current && isHere(hash)) nameTaken = true;
    else actions.push({ kind: 'deleteMirror', mirror, reason: pod === undefined ? 'orphaned' : current ? 'deleted' : 'outdated' });
  }
  if (pod !== undefined && node !== undefined && !nameTaken) actions.push({ kind: 'createMirror', pod: mirrorFor(pod, node) });
  return actions;
}

/** The Pod to create for a static pod: as it is, marked as a mirror and owned by the Node, without which NodeRestriction refuses it (KEP-1314). */
function mirrorFor(pod: AgentPod, node: { readonly name: string; readonly uid: string }): AgentPod {
  const { status: _, ...shown } = pod;
  return {
    ...shown,
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      ...pod.metadata,
      annotations: { ...pod.metadata.annotations, [configMirrorAnnotation]: hashOf(pod) ?? '' },
      ownerReferences: [{ apiVersion: 'v1', kind: 'Node', name: node.name, uid: node.uid, controller: true }],
    },
  };
}
