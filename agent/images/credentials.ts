import { createHash } from 'node:crypto';
import { AgentError, messageOf } from '../base/errors.ts';
import type { Secret } from '../model/generated/api.ts';

/** One user of a registry, as docker configs and plugins give it. */
export interface RegistryUser {
  readonly username: string;
  readonly password: string;
  readonly email: string;
}

/** Patterns (host with globs, optional port and path) → user. */
export type DockerConfig = ReadonlyMap<string, RegistryUser>;

/** Where a credential came from; undefined is the node itself, so every pod of the node may use it. */
export type CredentialSource =
  | { readonly kind: 'secret'; readonly uid: string; readonly namespace: string; readonly name: string }
  | { readonly kind: 'serviceAccount'; readonly uid: string; readonly namespace: string; readonly name: string };

export interface Credential {
  readonly user: RegistryUser;
  readonly source: CredentialSource | undefined;
  /** Equal for equal credentials; kubelet's own hash, so that its records mean the same to us. */
  readonly hash: string;
}

/** Credentials by registry key, most specific key first when looked up. */
export type Keyring = ReadonlyMap<string, readonly Credential[]>;

/** SHA-256 (hex) of the credential as kubelet serialises it: Go's JSON of an AuthConfig, empty fields left out. */
export function hashCredential(user: RegistryUser): string {
  const fields = {
    ...(user.username === '' ? {} : { username: user.username }),
    ...(user.password === '' ? {} : { password: user.password }),
    ...(user.email === '' ? {} : { email: user.email }),
  };
  // Go's encoder escapes these five characters, JavaScript's does not.
  const json = JSON.stringify(fields).replace(/[<>&\u2028\u2029]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
  return createHash('sha256').update(json).digest('hex');
}

/** Reads `.dockercfg` (the map itself). Throws when it is no such thing. */
export function parseDockerCfg(text: string): DockerConfig {
  return readEntries(parseObject(text));
}

/** Reads `config.json` (the map under `auths`). Throws when it is no such thing. */
export function parseDockerConfigJson(text: string): DockerConfig {
  const { auths } = parseObject(text);
  return auths === undefined || auths === null ? new Map() : readEntries(asObject(auths));
}

function parseObject(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // Not the parser's own words: they may quote a piece of the secret.
    throw new AgentError('InvalidArgument', 'not valid JSON');
  }
  return asObject(value);
}

function asObject(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new AgentError('InvalidArgument', 'not a JSON object');
  return value as Record<string, unknown>;
}

function readEntries(entries: Record<string, unknown>): DockerConfig {
  const config = new Map<string, RegistryUser>();
  for (const [location, value] of Object.entries(entries)) {
    const { username, password, email, auth } = asObject(value);
    const user = { username: textOf(username), password: textOf(password), email: textOf(email) };
    config.set(location, textOf(auth) === '' ? user : { ...user, ...decodeAuth(textOf(auth)) });
  }
  return config;
}

const textOf = (value: unknown): string => (typeof value === 'string' ? value : '');

/** `auth` is base64 of user:password, padded or not. */
function decodeAuth(auth: string): { username: string; password: string } {
  const bare = auth.trim().replace(/[\r\n]/g, '');
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(bare)) throw new AgentError('InvalidArgument', 'the auth field is not base64');
  const decoded = Buffer.from(bare, 'base64').toString();
  const colon = decoded.indexOf(':');
  if (colon === -1) throw new AgentError('InvalidArgument', 'unable to parse auth field, must be formatted as base64(username:password)');
  return { username: decoded.slice(0, colon), password: decoded.slice(colon + 1) };
}

/** The docker configs of pull secrets, each with its secret as source. Other types of secrets are passed over. Throws ErrImagePull naming a broken one. */
export function configsOfSecrets(secrets: readonly Secret[]): { config: DockerConfig; source: CredentialSource }[] {
  const found: { config: DockerConfig; source: CredentialSource }[] = [];
  for (const secret of secrets) {
    const kind = secret.type === 'kubernetes.io/dockerconfigjson' ? 'json' : secret.type === 'kubernetes.io/dockercfg' ? 'cfg' : undefined;
    const data = kind === undefined ? undefined : secret.data?.[kind === 'json' ? '.dockerconfigjson' : '.dockercfg'];
    if (kind === undefined || data === undefined || data === '') continue;
    const { uid = '', namespace = '', name = '' } = secret.metadata ?? {};
    try {
      const text = Buffer.from(data, 'base64').toString();
      found.push({
        config: kind === 'json' ? parseDockerConfigJson(text) : parseDockerCfg(text),
        source: { kind: 'secret', uid, namespace, name },
      });
    } catch (error) {
      throw new AgentError('ErrImagePull', `image pull secret ${namespace}/${name} cannot be read: ${messageOf(error)}`, { cause: error });
    }
  }
  return found;
}

/** Files credentials under the registries that they are for. Locations that are no URLs are passed over, as docker does. */
export function buildKeyring(configs: readonly { config: DockerConfig; source: CredentialSource | undefined }[]): Keyring {
  const keyring = new Map<string, Credential[]>();
  for (const { config, source } of configs) {
    for (const [location, user] of config) {
      const url = parseSchemeless(location.replace(/^https?:\/\//, ''));
      if (url === undefined) continue;
      // Docker takes /v1/ and /v2/ for the host itself, whatever follows counts.
      const path = /^\/v[12]\//.test(url.path) ? url.path.slice(3) : url.path;
      const key = path === '' || path === '/' ? url.host : url.host + path;
      const credentials = keyring.get(key) ?? [];
      credentials.push({ user, source, hash: hashCredential(user) });
      keyring.set(key, credentials);
    }
  }
  return keyring;
}

/** Every credential that fits, best first. `repository` has its domain ("docker.io/library/busybox") and neither tag nor digest. */
export function lookUp(keyring: Keyring, repository: string): readonly Credential[] {
  // In reverse order a longer path comes before its beginning, and a letter before a glob.
  const keys = [...keyring.keys()].sort((a, b) => (a < b ? 1 : a > b ? -1 : 0));
  const found = keys.filter((key) => matchesImage(key, repository)).flatMap((key) => keyring.get(key) ?? []);
  if (found.length > 0 || !isDefaultRegistry(repository)) return found;
  return keyring.get('index.docker.io') ?? [];
}

function isDefaultRegistry(repository: string): boolean {
  const [first = '', ...rest] = repository.split('/');
  if (first === '') return false;
  return rest.length === 0 || first === 'docker.io' || first === 'index.docker.io' || !/[.:]/.test(first);
}

/**
 * Whether a pattern (host with globs in its parts, port, path) covers an image: as many host parts, each matching; the same port; the pattern's path a
 * prefix of the image's. Both come without a scheme.
 */
export function matchesImage(pattern: string, repository: string): boolean {
  const glob = parseSchemeless(pattern);
  const target = parseSchemeless(repository);
  if (glob === undefined || target === undefined) return false;
  const [globHost, globPort] = splitPort(glob.host);
  const [targetHost, targetPort] = splitPort(target.host);
  if (globPort !== targetPort || !target.path.startsWith(glob.path)) return false;
  const globParts = globHost.split('.');
  const targetParts = targetHost.split('.');
  return globParts.length === targetParts.length && globParts.every((part, i) => globRegexp(part)?.test(targetParts[i] ?? '') === true);
}

/** Host and path of a URL without a scheme, as Go's url.Parse sees them; undefined where that fails. */
export function parseSchemeless(text: string): { host: string; path: string } | undefined {
  const hasControl = [...text].some((c) => c.charCodeAt(0) < 0x20 || c.charCodeAt(0) === 0x7f);
  const match = /^(?:[^/?#]*@)?([^/?#]*)([^?#]*)/.exec(text);
  if (hasControl || match === null) return undefined;
  const [, host = '', rawPath = ''] = match;
  if (/[ %\\^`{|}]/.test(host)) return undefined;
  if (host.startsWith('[') ? !/^\[[^\]]*\](:\d*)?$/.test(host) : host.includes(':') && !/:\d*$/.test(host)) return undefined;
  try {
    return { host, path: decodeURIComponent(rawPath) };
  } catch {
    return undefined;
  }
}

function splitPort(host: string): [host: string, port: string] {
  const match = /^(?:\[([^\]]*)\]|([^:]*)):(\d*)$/.exec(host);
  return match === null ? [host, ''] : [match[1] ?? match[2] ?? '', match[3] ?? ''];
}

/** One host part with Go's filepath.Match wildcards (*, ?, [a-z], [^a-z], \x); undefined when it is malformed. */
function globRegexp(glob: string): RegExp | undefined {
  const source = glob.replace(/\\(.)|\[(\^?)([^\]]+)\]|[*?]|[.+^$(){}|[\]\\/]/g, (text, escaped?: string, not?: string, set?: string) => {
    if (escaped !== undefined) return `\\u${escaped.charCodeAt(0).toString(16).padStart(4, '0')}`;
    if (set !== undefined) return `[${not}${set.replace(/[\\[\]^]/g, '\\$&')}]`;
    return text === '*' ? '[^/]*' : text === '?' ? '[^/]' : `\\${text}`;
  });
  try {
    return new RegExp(`^${source}$`, 'u');
  } catch {
    return undefined;
  }
}
