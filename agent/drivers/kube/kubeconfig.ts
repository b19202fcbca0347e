import { dirname, isAbsolute, join } from 'node:path';
import { AgentError, hasCode, messageOf } from '../../base/errors.ts';
import { ownValue } from '../../base/own.ts';
import { decodeFileText } from '../../model/file-text.ts';
import { readYaml } from '../../model/yaml.ts';
import { readBytes } from '../files/look.ts';
import { parseProxy } from './proxy.ts';

/** PEM text that came inside the kubeconfig, or the absolute path of a file that may be replaced while we run. */
export type PemSource = { readonly kind: 'data'; readonly pem: string } | { readonly kind: 'file'; readonly path: string };

/** A credential plugin: a program that prints an ExecCredential. */
export interface ExecPlugin {
  readonly command: string;
  readonly args: readonly string[];
  readonly env: readonly { readonly name: string; readonly value: string }[];
  readonly apiVersion: 'client.authentication.k8s.io/v1' | 'client.authentication.k8s.io/v1beta1';
  readonly provideClusterInfo: boolean;
  /** What the cluster's extension `client.authentication.k8s.io/exec` holds for the plugin; undefined without one. */
  readonly clusterConfig?: unknown;
  /** Shown to the user when the command is missing. */
  readonly installHint?: string | undefined;
  /** The directory against which a relative command with a slash is resolved. */
  readonly baseDir: string;
}

/** How to reach an API server and who to be there: what a kubeconfig's current context says. */
export interface KubeAuth {
  /** `https://host:port`, with a path prefix if the server has one, without a trailing slash. */
  readonly server: string;
  readonly tlsServerName?: string | undefined;
  readonly insecureSkipVerify?: boolean | undefined;
  /** Goes before what the environment says of proxies. May hold a password. */
  readonly proxyUrl?: string | undefined;
  readonly ca?: PemSource | undefined;
  readonly clientCert?: PemSource | undefined;
  readonly clientKey?: PemSource | undefined;
  readonly token?: string | undefined;
  /** Wins over `token` and is read again while we run. */
  readonly tokenFile?: string | undefined;
  readonly exec?: ExecPlugin | undefined;
  /** The default namespace of the context. */
  readonly namespace?: string | undefined;
}

/** Reads and parses a kubeconfig file. Throws AgentError `NotFound` or `InvalidConfig`, naming the file and the field. */
export async function loadKubeconfig(path: string): Promise<KubeAuth> {
  let text: string;
  try {
    text = decodeFileText(await readBytes(path));
  } catch (error) {
    const missing = hasCode(error, 'NotFound');
    throw new AgentError(missing ? 'NotFound' : 'InvalidConfig', `kubeconfig ${path}: ${missing ? 'no such file' : messageOf(error)}`, {
      cause: error,
    });
  }
  return parseKubeconfig(text, path);
}

/** Turns a kubeconfig's text into the current context's KubeAuth; relative paths are relative to the file. Throws AgentError `InvalidConfig`. */
export function parseKubeconfig(text: string, path: string): KubeAuth {
  const fail = (field: string, problem: string): never => {
    throw new AgentError('InvalidConfig', `kubeconfig ${path}: ${field === '' ? '' : `${field}: `}${problem}`);
  };
  let document: unknown;
  try {
    // The first document counts, and of two like keys the last, as client-go reads it (clientcmd/api/latest).
    document = readYaml(text)?.value;
  } catch (error) {
    throw new AgentError('InvalidConfig', `kubeconfig ${path}: not YAML: ${messageOf(error)}`, { cause: error });
  }
  if (document === undefined) fail('', 'the file is empty');
  const root = new Fields(document, '', fail);
  const kind = root.string('kind');
  if (kind !== undefined && kind !== 'Config') fail('kind', `expected Config, found ${kind}`);

  const contextName = root.string('current-context') ?? fail('current-context', 'is not set');
  const context = root.named('contexts', contextName, 'context');
  const clusterName = context.string('cluster') ?? fail(context.at('cluster'), 'is not set');
  const cluster = root.named('clusters', clusterName, 'cluster');
  const userName = context.string('user');
  const user = userName === undefined || userName === '' ? new Fields({}, 'users', fail) : root.named('users', userName, 'user');

  const server = serverUrl(cluster, fail);
  const proxyUrl = cluster.string('proxy-url') || undefined;
  if (proxyUrl !== undefined) parseProxy(proxyUrl, (problem) => fail(cluster.at('proxy-url'), problem));
  for (const field of ['username', 'password']) {
    if (user.string(field))
      fail(user.at(field), 'the API server no longer knows basic authentication; use a token or a client certificate');
  }
  if (user.has('auth-provider')) fail(user.at('auth-provider'), 'auth providers were removed from Kubernetes in 1.26; use an exec plugin');
  for (const field of ['as', 'as-uid', 'as-groups', 'as-user-extra']) {
    if (user.has(field)) fail(user.at(field), 'impersonation is not supported');
  }

  const base = dirname(path);
  const insecure = cluster.boolean('insecure-skip-tls-verify') ?? false;
  const ca = cluster.pem('certificate-authority', base);
  if (insecure && ca !== undefined) fail(cluster.at('insecure-skip-tls-verify'), 'cannot be set together with a certificate authority');
  const clientCert = user.pem('client-certificate', base);
  const clientKey = user.pem('client-key', base);
  if (clientCert !== undefined && clientKey === undefined) fail(user.at('client-key'), 'is not set, but client-certificate is');
  if (clientKey !== undefined && clientCert === undefined) fail(user.at('client-certificate'), 'is not set, but client-key is');
  const tokenFile = user.string('tokenFile');
  const token = user.string('token');
  if (token !== undefined && /[\r\n]/.test(token.trim())) fail(user.at('token'), 'contains a line break');
  const exec = user.has('exec') ? execPlugin(user.fields('exec'), cluster, base, fail) : undefined;
  if (exec !== undefined && (token || tokenFile)) fail(user.at('exec'), 'cannot be set together with a token');

  return {
    server,
    tlsServerName: cluster.string('tls-server-name') || undefined,
    insecureSkipVerify: insecure,
    proxyUrl,
    ca,
    clientCert,
    clientKey,
    token: token?.trim() || undefined,
    tokenFile: tokenFile ? resolvePath(base, tokenFile) : undefined,
    exec,
    namespace: context.string('namespace') || undefined,
  };
}

type Fail = (field: string, problem: string) => never;

function serverUrl(cluster: Fields, fail: Fail): string {
  const text = cluster.string('server') || fail(cluster.at('server'), 'is not set');
  // client-go takes a bare host:port as http (rest.DefaultServerURL).
  const url = URL.parse(text.includes('://') ? text : `http://${text}`) ?? fail(cluster.at('server'), `is not a URL: ${text}`);
  if (url.protocol !== 'https:' && url.protocol !== 'http:') fail(cluster.at('server'), `expected an https URL, found ${text}`);
  return `${url.origin}${url.pathname}`.replace(/\/+$/, '');
}

function execPlugin(fields: Fields, cluster: Fields, baseDir: string, fail: Fail): ExecPlugin {
  const apiVersion = fields.string('apiVersion');
  if (apiVersion !== 'client.authentication.k8s.io/v1' && apiVersion !== 'client.authentication.k8s.io/v1beta1') {
    return fail(fields.at('apiVersion'), `expected client.authentication.k8s.io/v1 or /v1beta1, found ${apiVersion ?? 'nothing'}`);
  }
  const mode = fields.string('interactiveMode');
  if (mode === undefined) {
    if (apiVersion === 'client.authentication.k8s.io/v1') fail(fields.at('interactiveMode'), 'is not set (Never or IfAvailable)');
  } else if (mode === 'Always') {
    fail(fields.at('interactiveMode'), 'Always needs a terminal, which a daemon has not; use Never or IfAvailable');
  } else if (mode !== 'Never' && mode !== 'IfAvailable') {
    fail(fields.at('interactiveMode'), `expected Never or IfAvailable, found ${mode}`);
  }
  return {
    command: fields.string('command') || fail(fields.at('command'), 'is not set'),
    args: fields.list('args').map((arg, i) => (typeof arg === 'string' ? arg : fail(fields.at(`args[${i}]`), 'is not a string'))),
    env: fields.list('env').map((entry, i) => {
      const env = new Fields(entry, fields.at(`env[${i}]`), fail);
      return { name: env.string('name') || fail(env.at('name'), 'is not set'), value: env.string('value') ?? '' };
    }),
    apiVersion,
    provideClusterInfo: fields.boolean('provideClusterInfo') ?? false,
    clusterConfig: cluster.extension('client.authentication.k8s.io/exec'),
    installHint: fields.string('installHint') || undefined,
    baseDir,
  };
}

function resolvePath(base: string, path: string): string {
  return isAbsolute(path) ? path : join(base, path);
}

/** A mapping of the file, with its place in the file for messages. */
class Fields {
  readonly #map: Record<string, unknown>;
  readonly #path: string;
  readonly #fail: Fail;

  constructor(value: unknown, path: string, fail: Fail) {
    this.#path = path;
    this.#fail = fail;
    if (value === null || typeof value !== 'object' || Array.isArray(value)) fail(path, 'expected a mapping');
    this.#map = value as Record<string, unknown>;
  }

  at(field: string): string {
    return this.#path === '' ? field : `${this.#path}.${field}`;
  }

  has(field: string): boolean {
    const value = ownValue(this.#map, field);
    return value !== undefined && value !== null && value !== '' && !(Array.isArray(value) && value.length === 0);
  }

  string(field: string): string | undefined {
    const value = ownValue(this.#map, field);
    if (value === undefined || value === null) return undefined;
    return typeof value === 'string' ? value : this.#fail(this.at(field), 'expected a string');
  }

  boolean(field: string): boolean | undefined {
    const value = ownValue(this.#map, field);
    if (value === undefined || value === null) return undefined;
    return typeof value === 'boolean' ? value : this.#fail(this.at(field), 'expected true or false');
  }

  list(field: string): unknown[] {
    const value = ownValue(this.#map, field);
    if (value === undefined || value === null) return [];
    return Array.isArray(value) ? value : this.#fail(this.at(field), 'expected a list');
  }

  fields(field: string): Fields {
    return new Fields(ownValue(this.#map, field), this.at(field), this.#fail);
  }

  /** The entry called `name` of a list of {name, <inner>: {…}}. */
  named(field: string, name: string, inner: string): Fields {
    for (const [i, entry] of this.list(field).entries()) {
      const item = new Fields(entry, `${field}[${i}]`, this.#fail);
      if (item.string('name') === name) return new Fields(ownValue(item.#map, inner) ?? {}, `${field}[${name}].${inner}`, this.#fail);
    }
    return this.#fail(field, `has no entry named ${name}`);
  }

  /** The extension of this name of a list of {name, extension}; undefined when there is none. */
  extension(name: string): unknown {
    const entries = this.list('extensions').map((entry, i) => new Fields(entry, this.at(`extensions[${i}]`), this.#fail));
    const found = entries.find((entry) => entry.string('name') === name);
    return found === undefined ? undefined : (found.#map.extension ?? undefined);
  }

  /** `<field>-data` (base64, wins as in client-go) or `<field>` (a file). */
  pem(field: string, base: string): PemSource | undefined {
    const data = this.string(`${field}-data`);
    if (data) {
      const pem = Buffer.from(data, 'base64').toString('utf8');
      if (!pem.includes('-----BEGIN ')) this.#fail(this.at(`${field}-data`), 'is not base64 of PEM text');
      return { kind: 'data', pem };
    }
    const path = this.string(field);
    return path ? { kind: 'file', path: resolvePath(base, path) } : undefined;
  }
}
