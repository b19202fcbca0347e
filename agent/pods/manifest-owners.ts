import { type AgentPod, podKey } from '../model/pod.ts';

// A copy beside a manifest (etcd-backup.yaml, etcd.yaml~, etcd.yaml.bak) holds a pod of the same name, and a kubelet takes whichever file comes first in the
// alphabet: the copy, often enough, and edits of the original are then without effect. Here a name belongs to the file that had it first.

/** A file and what it holds. */
export interface Claim {
  readonly file: string;
  /** When it was last written, ms since the epoch. */
  readonly modifiedAt: number;
  readonly pods: readonly AgentPod[];
}

/** A pod that does not run because another one has its name or its UID. */
interface IgnoredPod {
  readonly file: string;
  readonly pod: AgentPod;
  /** The file that has it; the same one when it holds it twice. */
  readonly owner: string;
  readonly same: 'name' | 'uid';
}

/**
 * Which file's pod runs where several hold one of the same namespace and name: the file that had it before; else (after a kubelet, or when a node is set up)
 * the one that is called as a manifest is, the oldest, the first by name. `before` and `owners` are by `namespace/name`, `wanted` by UID.
 */
export function ownersOf(
  claims: readonly Claim[],
  before: ReadonlyMap<string, string>,
): {
  readonly owners: ReadonlyMap<string, string>;
  readonly wanted: ReadonlyMap<string, AgentPod>;
  readonly ignored: readonly IgnoredPod[];
} {
  const candidates = new Map<string, { claim: Claim; pod: AgentPod }[]>();
  for (const claim of claims)
    for (const pod of claim.pods) {
      const key = podKey(pod);
      const list = candidates.get(key);
      if (list === undefined) candidates.set(key, [{ claim, pod }]);
      else list.push({ claim, pod });
    }
  const owners = new Map<string, string>();
  const wanted = new Map<string, AgentPod>();
  const ignored: IgnoredPod[] = [];
  const chosen: { claim: Claim; pod: AgentPod; had: boolean }[] = [];
  for (const [key, list] of candidates) {
    const had = before.get(key);
    const [first, ...others] = list.toSorted(
      (a, b) => Number(b.claim.file === had) - Number(a.claim.file === had) || inOrderOfAge(a.claim, b.claim),
    );
    if (first === undefined) continue;
    owners.set(key, first.claim.file);
    chosen.push({ ...first, had: first.claim.file === had });
    for (const { claim, pod } of others) ignored.push({ file: claim.file, pod, owner: first.claim.file, same: 'name' });
  }
  // A copy may have got a name of its own and still have the UID that the original says.
  const byUid = new Map<string, string>();
  for (const { claim, pod } of chosen.toSorted((a, b) => Number(b.had) - Number(a.had) || inOrderOfAge(a.claim, b.claim))) {
    const { uid } = pod.metadata;
    const owner = byUid.get(uid);
    if (owner === undefined) {
      byUid.set(uid, claim.file);
      wanted.set(uid, pod);
    } else {
      owners.delete(podKey(pod));
      ignored.push({ file: claim.file, pod, owner, same: 'uid' });
    }
  }
  return { owners, wanted, ignored };
}

/** The one that is called as a manifest is, the oldest, the first by name. */
function inOrderOfAge(a: Claim, b: Claim): number {
  return (
    Number(isNamedAsManifest(b.file)) - Number(isNamedAsManifest(a.file)) ||
    a.modifiedAt - b.modifiedAt ||
    (a.file < b.file ? -1 : a.file > b.file ? 1 : 0)
  );
}

/** Editors and people name copies otherwise: `etcd.yaml~`, `etcd.yaml.bak`, `etcd.yaml.orig`. */
function isNamedAsManifest(file: string): boolean {
  return /\.(ya?ml|json|manifest)$/.test(file);
}

/** True when the text says nothing: empty, blank, comments and document marks alone. */
export function isBlank(text: string): boolean {
  return text.split('\n').every((line) => /^\uFEFF?\s*(#.*|---.*|\.\.\.\s*)?$/.test(line) && !/^---\s+[^#\s]/.test(line));
}
