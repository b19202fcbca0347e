import { createHash } from 'node:crypto';
import { AgentError } from '../base/errors.ts';
import { ownValue } from '../base/own.ts';
import { withoutTagAndDigest } from '../model/image-name.ts';
import type { Credential } from './credentials.ts';

// Kubelet's records of what it pulled and with whose credentials (KEP-2535): files under <root-dir>/image_manager/{pulling,pulled}, so that a kubelet and
// this agent can take a node over from each other.

export interface PulledSecret {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly credentialHash: string;
}

export interface PulledServiceAccount {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
}

/** Who is known to be allowed an image. */
export interface PulledBy {
  readonly kubernetesSecrets?: readonly PulledSecret[] | undefined;
  readonly kubernetesServiceAccounts?: readonly PulledServiceAccount[] | undefined;
  readonly nodePodsAccessible?: boolean | undefined;
}

/** `credentialMapping` goes by image name without tag and digest, as pods write it. */
export interface PulledRecord {
  readonly imageRef: string;
  /** RFC 3339, whole seconds. */
  readonly lastUpdatedTime: string;
  readonly credentialMapping: Readonly<Record<string, PulledBy>>;
}

const apiVersion = 'kubelet.config.k8s.io/v1beta1';
const readableVersions = new Set([apiVersion, 'kubelet.config.k8s.io/v1alpha1']);

/** The file name of a record: the image (an intent) or its ID (a pulled record) hashed, because both hold slashes. */
export function recordFileName(key: string): string {
  return `sha256-${createHash('sha256').update(key).digest('hex')}`;
}

export function formatIntent(image: string): string {
  return `${JSON.stringify({ kind: 'ImagePullIntent', apiVersion, image })}\n`;
}

/** The image of an intent. Throws InvalidArgument when the text is none. */
export function parseIntent(text: string): string {
  const { image } = parseRecord(text, 'ImagePullIntent');
  if (typeof image !== 'string') throw new AgentError('InvalidArgument', 'ImagePullIntent without image');
  return image;
}

export function formatPulledRecord(record: PulledRecord): string {
  const { imageRef, lastUpdatedTime, credentialMapping } = record;
  const mapping = Object.keys(credentialMapping).length === 0 ? {} : { credentialMapping };
  return `${JSON.stringify({ kind: 'ImagePulledRecord', apiVersion, lastUpdatedTime, imageRef, ...mapping })}\n`;
}

/** Throws InvalidArgument when the text is no pulled record. */
export function parsePulledRecord(text: string): PulledRecord {
  const { imageRef, lastUpdatedTime, credentialMapping } = parseRecord(text, 'ImagePulledRecord');
  if (typeof imageRef !== 'string') throw new AgentError('InvalidArgument', 'ImagePulledRecord without imageRef');
  return {
    imageRef,
    lastUpdatedTime: typeof lastUpdatedTime === 'string' ? lastUpdatedTime : '1970-01-01T00:00:00Z',
    credentialMapping: (credentialMapping ?? {}) as Record<string, PulledBy>,
  };
}

function parseRecord(text: string, kind: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new AgentError('InvalidArgument', `${kind} is not JSON`, { cause: error });
  }
  const record = value as Record<string, unknown> | null;
  if (record?.kind !== kind || !readableVersions.has(String(record.apiVersion)))
    throw new AgentError('InvalidArgument', `expected an ${kind}, found ${String(record?.kind)} of ${String(record?.apiVersion)}`);
  return record;
}

/** Which images need proof that a pod may use them (imagePullCredentialsVerificationPolicy). */
export interface VerificationPolicy {
  readonly kind: 'NeverVerify' | 'NeverVerifyPreloadedImages' | 'NeverVerifyAllowlistedImages' | 'AlwaysVerify';
  /** For NeverVerifyAllowlistedImages: names without tag, or beginnings that end in "/*". */
  readonly allowlist: readonly string[];
}

function needsVerification(policy: VerificationPolicy, image: string, pulledByAgent: boolean): boolean {
  switch (policy.kind) {
    case 'NeverVerify':
      return false;
    case 'NeverVerifyPreloadedImages':
      return pulledByAgent;
    case 'AlwaysVerify':
      return true;
    case 'NeverVerifyAllowlistedImages': {
      const name = withoutTagAndDigest(image) ?? image;
      return !policy.allowlist.some((pattern) => (pattern.endsWith('/*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern));
    }
  }
}

/** What is wrong with an allowlist pattern, in kubelet's words; undefined when nothing is. */
export function allowlistTrouble(pattern: string): string | undefined {
  if (pattern.trim() !== pattern) return `leading/trailing spaces are not allowed: ${pattern}`;
  const wildcard = pattern.endsWith('/*');
  const fixed = wildcard ? pattern.slice(0, -1) : pattern;
  if (fixed === '') return `the supplied pattern is too short: ${pattern}`;
  if (fixed.includes('*')) return `not a valid wildcard pattern, only patterns ending with '/*' are allowed: ${pattern}`;
  if (wildcard) return fixed.length === 1 ? 'at least registry hostname is required' : undefined;
  const name = withoutTagAndDigest(fixed);
  if (name === undefined) return 'failed to parse as an image name: invalid reference format';
  return name === fixed ? undefined : `neither tag nor digest is accepted in an image reference: ${pattern}`;
}

/** The verdict on a present image, as far as the records alone give it. */
export type AccessVerdict = 'allowed' | 'mustPull' | 'needsCredentials';

/**
 * Whether a pod may use an image that is present. `hasIntent`: a pull of it began that is not recorded as done. `needsCredentials`: it depends on what
 * the pod has; ask `matchCredentials`.
 */
export function judgeAccess(
  policy: VerificationPolicy,
  image: string,
  record: PulledRecord | undefined,
  hasIntent: boolean,
): AccessVerdict {
  if (!needsVerification(policy, image, record !== undefined || hasIntent)) return 'allowed';
  const name = withoutTagAndDigest(image);
  const known = name === undefined ? undefined : ownValue(record?.credentialMapping, name);
  if (known === undefined) return 'mustPull';
  if (known.nodePodsAccessible === true) return 'allowed';
  return (known.kubernetesSecrets ?? []).length + (known.kubernetesServiceAccounts ?? []).length === 0 ? 'mustPull' : 'needsCredentials';
}

// writeRecordWhileMatchingLimit of upstream's pull manager: past it a match is not remembered any more.
const longestSecretList = 100;

/** Whether one of the pod's credentials is known for the image, and what to add to the record because it is known in another shape. */
export function matchCredentials(
  image: string,
  record: PulledRecord,
  credentials: readonly Credential[],
): { allowed: boolean; remember?: PulledBy | undefined } {
  const known = ownValue(record.credentialMapping, withoutTagAndDigest(image) ?? image);
  if (known === undefined) return { allowed: false };
  const secrets = known.kubernetesSecrets ?? [];
  for (const { source, hash } of credentials) {
    if (source?.kind !== 'secret') continue;
    const mine: PulledSecret = { uid: source.uid, namespace: source.namespace, name: source.name, credentialHash: hash };
    for (const secret of secrets) {
      const sameHash = secret.credentialHash !== '' && secret.credentialHash === hash;
      const sameObject = secret.uid === mine.uid && secret.namespace === mine.namespace && secret.name === mine.name;
      if (!sameHash && !sameObject) continue;
      // The same secret with new content stays trusted: it was allowed, and rotating it is ordinary.
      const isNews = !(sameHash && sameObject) && secrets.length < longestSecretList;
      if (isNews) return { allowed: true, remember: { kubernetesSecrets: [mine] } };
      if (sameHash) return { allowed: true };
    }
  }
  // A pod has one service account, whatever audiences its tokens are for.
  const account = credentials.map((credential) => credential.source).find((source) => source?.kind === 'serviceAccount');
  const allowed =
    account !== undefined &&
    (known.kubernetesServiceAccounts ?? []).some(
      (a) => a.uid === account.uid && a.namespace === account.namespace && a.name === account.name,
    );
  return { allowed };
}

/** What a successful pull proves. No credential, or one of the node's, means every pod of the node. */
export function pulledWith(credential: Credential | undefined): PulledBy {
  const source = credential?.source;
  if (credential === undefined || source === undefined) return { nodePodsAccessible: true };
  const { uid, namespace, name } = source;
  return source.kind === 'secret'
    ? { kubernetesSecrets: [{ uid, namespace, name, credentialHash: credential.hash }] }
    : { kubernetesServiceAccounts: [{ uid, namespace, name }] };
}

/**
 * The record after a pull of `image` that `by` describes; undefined when nothing changes. `by` undefined: pulled, nobody knows how (a restart in
 * between), so that the next pod must prove itself. `nowMs` is wall time.
 */
export function mergePulled(
  record: PulledRecord | undefined,
  imageRef: string,
  image: string,
  by: PulledBy | undefined,
  nowMs: number,
): PulledRecord | undefined {
  const name = withoutTagAndDigest(image);
  if (name === undefined) return undefined;
  const lastUpdatedTime = new Date(nowMs).toISOString().replace(/\.\d+Z$/, 'Z');
  const write = (mapping: Record<string, PulledBy>): PulledRecord => ({ imageRef, lastUpdatedTime, credentialMapping: mapping });
  if (record === undefined) return write(by === undefined ? {} : { [name]: by });
  if (by === undefined) return undefined;
  const known = ownValue(record.credentialMapping, name);
  if (known === undefined) return write({ ...record.credentialMapping, [name]: by });
  if (known.nodePodsAccessible === true) return undefined;
  const merged = mergeInto(known, by);
  return merged === undefined ? undefined : write({ ...record.credentialMapping, [name]: merged });
}

function mergeInto(known: PulledBy, by: PulledBy): PulledBy | undefined {
  if (by.nodePodsAccessible === true) return { nodePodsAccessible: true };
  const secrets = mergeByObject(known.kubernetesSecrets ?? [], by.kubernetesSecrets ?? [], (a, b) => a.credentialHash === b.credentialHash);
  const accounts = mergeByObject(known.kubernetesServiceAccounts ?? [], by.kubernetesServiceAccounts ?? [], () => true);
  if (secrets === undefined && accounts === undefined) return undefined;
  return {
    ...known,
    ...(secrets === undefined ? {} : { kubernetesSecrets: secrets }),
    ...(accounts === undefined ? {} : { kubernetesServiceAccounts: accounts }),
  };
}

/** One entry an object, the new one's content winning, sorted by namespace, name and UID; undefined when that is what was there. */
function mergeByObject<T extends PulledServiceAccount>(
  old: readonly T[],
  added: readonly T[],
  same: (a: T, b: T) => boolean,
): T[] | undefined {
  const keyOf = ({ namespace, name, uid }: T): string => `${namespace}\0${name}\0${uid}`;
  const all = new Map(old.map((item) => [keyOf(item), item]));
  let changed = false;
  for (const item of added) {
    const there = all.get(keyOf(item));
    if (there !== undefined && same(there, item)) continue;
    all.set(keyOf(item), item);
    changed = true;
  }
  return changed ? [...all].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, item]) => item) : undefined;
}
