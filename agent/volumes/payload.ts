import { posix } from 'node:path';
import { AgentError, messageOf } from '../base/errors.ts';
import type { ConfigMap, DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Secret } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';

// The files of volumes that hold API data. Throws AgentErrors in kubelet's words; none of them has I/O.

/** One file. Where no mode is asked for, the volume's. */
interface PayloadFile {
  readonly data: Uint8Array;
  readonly mode: number;
  /** Only tokens have an owner of their own. */
  readonly uid?: number | undefined;
}

/** Path in the volume → file. */
export type Payload = ReadonlyMap<string, PayloadFile>;

/** An API object as far as it is known: not asked for yet, not there, there, or not to be had for a reason. */
export type Known<T> =
  | { readonly kind: 'unknown' }
  | { readonly kind: 'absent' }
  | { readonly kind: 'found'; readonly value: T }
  | { readonly kind: 'failed'; readonly message: string };

/** What downwardAPI files show; throws AgentError for what cannot be shown. */
export type DownwardValue = (pod: AgentPod, file: DownwardAPIVolumeFile) => string;

export interface PayloadSources {
  readonly configMap: (name: string) => Known<ConfigMap>;
  readonly secret: (name: string) => Known<Secret>;
  /** The token for a projected source, by its place in the volume. */
  readonly token: (volume: string, sourceIndex: number) => Known<string>;
  readonly downward: DownwardValue;
}

// API defaulting sets it; a static pod's manifest may leave it out.
const defaultFileMode = 0o644;

/** The object, an empty one for `undefined` results of optional references. Throws NotFound, Failed, or Pending while it is not known. */
function need<T>(known: Known<T>, kind: 'configmap' | 'secret', name: string, optional: boolean): T | undefined {
  switch (known.kind) {
    case 'found':
      return known.value;
    case 'absent':
      if (optional) return undefined;
      throw new AgentError('NotFound', `${kind} "${name}" not found`);
    case 'failed':
      throw new AgentError('Failed', known.message);
    case 'unknown':
      throw new AgentError('Pending', `${kind} "${name}" has not been read yet`);
  }
}

export function configMapPayload(
  known: Known<ConfigMap>,
  name: string,
  items: readonly KeyToPath[] | undefined,
  defaultMode: number | undefined,
  optional: boolean,
): Payload {
  const configMap = need(known, 'configmap', name, optional);
  const content = new Map<string, Uint8Array>();
  for (const [key, text] of Object.entries(configMap?.data ?? {})) content.set(key, Buffer.from(text));
  for (const [key, base64] of Object.entries(configMap?.binaryData ?? {})) {
    // A key in both is an API error; data wins in items, binaryData without them, as upstream.
    if (items === undefined || items.length === 0 || !content.has(key)) content.set(key, Buffer.from(base64, 'base64'));
  }
  return chosen(content, items, defaultMode, optional, (key) => `configmap references non-existent config key: ${key}`);
}

export function secretPayload(
  known: Known<Secret>,
  name: string,
  items: readonly KeyToPath[] | undefined,
  defaultMode: number | undefined,
  optional: boolean,
): Payload {
  const secret = need(known, 'secret', name, optional);
  const content = new Map(Object.entries(secret?.data ?? {}).map(([key, base64]) => [key, Buffer.from(base64, 'base64')] as const));
  return chosen(content, items, defaultMode, optional, (key) => `references non-existent secret key: ${key}`);
}

function chosen(
  content: ReadonlyMap<string, Uint8Array>,
  items: readonly KeyToPath[] | undefined,
  defaultMode: number = defaultFileMode,
  optional: boolean,
  missing: (key: string) => string,
): Payload {
  if (items === undefined || items.length === 0) return new Map([...content].map(([key, data]) => [key, { data, mode: defaultMode }]));
  const files = new Map<string, PayloadFile>();
  for (const { key, path, mode } of items) {
    const data = content.get(key);
    if (data !== undefined) files.set(path, { data, mode: mode ?? defaultMode });
    else if (!optional) throw new AgentError('NotFound', missing(key));
  }
  return files;
}

export function downwardPayload(
  pod: AgentPod,
  items: readonly DownwardAPIVolumeFile[] | undefined,
  defaultMode: number | undefined,
  value: DownwardValue,
): Payload {
  const files = new Map<string, PayloadFile>();
  const problems: AgentError[] = [];
  for (const item of items ?? []) {
    try {
      files.set(posix.normalize(item.path), { data: Buffer.from(value(pod, item)), mode: item.mode ?? defaultMode ?? defaultFileMode });
    } catch (error) {
      problems.push(asAgentError(error));
    }
  }
  throwAll(problems);
  return files;
}

/** All sources of a projected volume together; `owner` and `fsGroup` decide who may read tokens. */
export function projectedPayload(
  pod: AgentPod,
  volume: string,
  source: ProjectedVolumeSource,
  sources: PayloadSources,
  owner: { readonly fsUser: number | undefined; readonly fsGroup: number | undefined },
): Payload {
  const mode = source.defaultMode ?? defaultFileMode;
  // A pod with one user of its own, or a group that is given access, need not let others read its credentials.
  const tokenMode = owner.fsUser !== undefined || owner.fsGroup !== undefined ? 0o600 : mode;
  const files = new Map<string, PayloadFile>();
  const problems: AgentError[] = [];
  for (const [index, part] of (source.sources ?? []).entries()) {
    try {
      for (const [path, file] of projectionPayload(index, part)) files.set(path, file);
    } catch (error) {
      problems.push(asAgentError(error));
    }
  }
  throwAll(problems);
  return files;

  function projectionPayload(index: number, part: NonNullable<ProjectedVolumeSource['sources']>[number]): Payload {
    if (part.secret !== undefined) {
      const { name = '', items, optional } = part.secret;
      return secretPayload(sources.secret(name), name, items, mode, optional === true);
    }
    if (part.configMap !== undefined) {
      const { name = '', items, optional } = part.configMap;
      return configMapPayload(sources.configMap(name), name, items, mode, optional === true);
    }
    if (part.downwardAPI !== undefined) return downwardPayload(pod, part.downwardAPI.items, mode, sources.downward);
    if (part.serviceAccountToken !== undefined) {
      const token = sources.token(volume, index);
      if (token.kind === 'failed') throw new AgentError('Failed', token.message);
      if (token.kind !== 'found') throw new AgentError('Pending', 'the service account token has not been issued yet');
      return new Map([[part.serviceAccountToken.path, { data: Buffer.from(token.value), mode: tokenMode, uid: owner.fsUser }]]);
    }
    if (part.clusterTrustBundle !== undefined) {
      throw new AgentError(
        'NotSupported',
        'ClusterTrustBundle projection is not supported because the ClusterTrustBundleProjection feature gate is off',
      );
    }
    if (part.podCertificate !== undefined) {
      throw new AgentError(
        'NotSupported',
        'podCertificate projection is not supported because the PodCertificateRequest feature gate is off',
      );
    }
    return new Map();
  }
}

function asAgentError(error: unknown): AgentError {
  return error instanceof AgentError ? error : new AgentError('Failed', messageOf(error), { cause: error });
}

/** Several problems read as upstream's aggregate: `[a, b]`. One that only waits yields to one that needs somebody to act. */
function throwAll(problems: readonly AgentError[]): void {
  const [first] = problems;
  if (first === undefined) return;
  const real = problems.filter((problem) => problem.code !== 'Pending');
  const told = real.length > 0 ? real : problems;
  if (told.length === 1) throw told[0];
  throw new AgentError((told[0] ?? first).code, `[${told.map((problem) => problem.message).join(', ')}]`);
}
