import { isIP } from 'node:net';
import { type ParseArgsConfig, parseArgs } from 'node:util';
import * as z from 'zod';
import { AgentError, messageOf } from '../base/errors.ts';
import { ownValue, setOwn } from '../base/own.ts';
import { leniently } from '../config/decode.ts';
import { parseDuration } from '../config/duration.ts';
import { readBootstrapToken } from '../identity/bootstrap-token.ts';
import { readPins } from '../identity/x509.ts';
import { describeRepeated } from '../model/repeated-key.ts';
import { readAllYaml, type YamlDocument } from '../model/yaml.ts';

/** A flag of a command, for parsing and for `--help`. */
export interface CommandFlag {
  readonly name: string;
  readonly kind: 'string' | 'bool' | 'list';
  /** What stands for the value in help. */
  readonly value?: string;
  readonly help: string;
  /** Set for flags that are known and cannot be honoured: says why and what to do. */
  readonly refused?: string;
  /** May stand beside `--config`. */
  readonly withConfig?: true;
}

const controlPlaneOnly = 'it is for control-plane nodes, and keelson joins workers: use kubeadm join on a control-plane machine';

/** The flags of `kubeadm join`, and our own for places and patience. */
export const joinFlags: readonly CommandFlag[] = [
  { name: 'token', kind: 'string', value: 'TOKEN', help: 'bootstrap token for discovery and for TLS bootstrap' },
  { name: 'discovery-token', kind: 'string', value: 'TOKEN', help: 'bootstrap token that vouches for the cluster information' },
  { name: 'discovery-token-ca-cert-hash', kind: 'list', value: 'sha256:HEX', help: "hash of the cluster CA's public key; may be repeated" },
  {
    name: 'discovery-token-unsafe-skip-ca-verification',
    kind: 'bool',
    help: 'join without a CA hash: whoever has the token can pose as the cluster',
  },
  {
    name: 'discovery-file',
    kind: 'string',
    value: 'PATH|URL',
    help: 'kubeconfig (a file or an https URL) to learn the cluster from, instead of a token',
  },
  { name: 'tls-bootstrap-token', kind: 'string', value: 'TOKEN', help: 'bootstrap token to request the client certificate with' },
  { name: 'node-name', kind: 'string', value: 'NAME', help: 'name of the node (default: the host name in lower case)', withConfig: true },
  {
    name: 'cri-socket',
    kind: 'string',
    value: 'SOCKET',
    help: 'CRI socket, such as unix:///run/containerd/containerd.sock (default: the one that is found)',
  },
  {
    name: 'ignore-preflight-errors',
    kind: 'list',
    value: 'CHECKS',
    help: "checks whose errors only warn, comma-separated; 'all' for every one",
    withConfig: true,
  },
  { name: 'config', kind: 'string', value: 'FILE', help: 'kubeadm JoinConfiguration (v1beta4 or v1beta3)', withConfig: true },
  { name: 'dry-run', kind: 'bool', help: 'discover, check and fetch, but change nothing', withConfig: true },
  { name: 'kubernetes-dir', kind: 'string', value: 'DIR', help: 'where kubeconfigs and CA go (default /etc/kubernetes)', withConfig: true },
  { name: 'root-dir', kind: 'string', value: 'DIR', help: 'where the node keeps its state (default /var/lib/kubelet)', withConfig: true },
  {
    name: 'kube-proxy-dir',
    kind: 'string',
    value: 'DIR',
    help: "where kube-proxy's configuration goes (default /var/lib/kube-proxy, or kube-proxy below another --root-dir)",
    withConfig: true,
  },
  {
    name: 'discovery-timeout',
    kind: 'string',
    value: 'DURATION',
    help: 'how long to try to reach the cluster (default 5m)',
    withConfig: true,
  },
  {
    name: 'tls-bootstrap-timeout',
    kind: 'string',
    value: 'DURATION',
    help: 'how long to wait for the client certificate (default 5m)',
    withConfig: true,
  },
  { name: 'control-plane', kind: 'bool', help: '', refused: controlPlaneOnly },
  { name: 'certificate-key', kind: 'string', help: '', refused: controlPlaneOnly },
  { name: 'apiserver-advertise-address', kind: 'string', help: '', refused: controlPlaneOnly },
  { name: 'apiserver-bind-port', kind: 'string', help: '', refused: controlPlaneOnly },
  { name: 'patches', kind: 'string', help: '', refused: 'keelson applies no kubeadm patches: change config.yaml after joining' },
  { name: 'skip-phases', kind: 'list', help: '', refused: 'joining has no phases here; --dry-run shows what would be done' },
  { name: 'rootfs', kind: 'string', help: '', refused: 'give --kubernetes-dir, --root-dir and --kube-proxy-dir instead' },
];

/** Everything that a join was asked to do. */
export interface JoinSettings {
  readonly discovery:
    | { readonly kind: 'token'; readonly endpoint: string; readonly token: string; readonly pins: readonly string[] }
    | { readonly kind: 'file'; readonly path: string };
  /** Wins over credentials in a discovery file. */
  readonly tlsBootstrapToken: string | undefined;
  readonly nodeName: string | undefined;
  readonly criSocket: string | undefined;
  readonly taints: readonly { key: string; value?: string | undefined; effect: string }[];
  readonly extraArgs: readonly { name: string; value: string }[];
  /** Lower case; may hold `all`. */
  readonly ignoredChecks: ReadonlySet<string>;
  readonly dryRun: boolean;
  readonly kubernetesDir: string;
  readonly rootDir: string;
  readonly kubeProxyDir: string;
  /** Where the cluster CA goes. */
  readonly caPath: string;
  readonly discoveryTimeoutMs: number;
  readonly tlsBootstrapTimeoutMs: number;
  /** What was accepted of the configuration file and deserves a word. */
  readonly warnings: readonly string[];
}

type Values = Record<string, string | boolean | string[] | undefined>;

const usage = (message: string): AgentError => new AgentError('Usage', message);

/** What the command line says; `help` when that is asked for. `readFile` is only called for `--config`. Throws AgentError `Usage`. */
export function parseJoinArguments(
  args: readonly string[],
  readFile: (path: string) => string,
): { kind: 'help' } | { kind: 'join'; settings: JoinSettings } {
  const { values, positionals } = split(args);
  if (values.help === true) return { kind: 'help' };
  for (const flag of joinFlags) {
    if (flag.refused !== undefined && ownValue(values, flag.name) !== undefined)
      throw usage(`--${flag.name} is not supported: ${flag.refused}`);
  }
  if (positionals.length > 1)
    throw usage(`one API server endpoint (HOST:PORT) is expected, not ${positionals.length}: ${positionals.join(' ')}`);
  const text = (name: string): string | undefined => ownValue(values, name) as string | undefined;
  const list = (name: string): string[] =>
    ((ownValue(values, name) as string[] | undefined) ?? []).flatMap((item) => item.split(',')).filter((item) => item !== '');

  const configPath = text('config');
  let file: JoinConfiguration | undefined;
  let warnings: readonly string[] = [];
  if (configPath !== undefined) {
    const mixed = joinFlags
      .filter((flag) => flag.withConfig === undefined && ownValue(values, flag.name) !== undefined)
      .map((flag) => `--${flag.name}`);
    if (positionals.length > 0) mixed.unshift(positionals[0] as string);
    if (mixed.length > 0) throw usage(`--config cannot be mixed with ${mixed.join(', ')}: write that into ${configPath}`);
    ({ config: file, warnings } = readJoinConfiguration(readFile(configPath), configPath));
  }

  const token = text('token');
  const fileToken = file?.discovery.bootstrapToken;
  const endpoint = positionals[0] ?? fileToken?.apiServerEndpoint;
  const discoveryFile = text('discovery-file') ?? file?.discovery.file?.kubeConfigPath;
  const discoveryToken = text('discovery-token') ?? token ?? fileToken?.token;
  const bootstrapToken = text('tls-bootstrap-token') ?? token ?? file?.discovery.tlsBootstrapToken;
  const given = [...list('discovery-token-ca-cert-hash'), ...(fileToken?.caCertHashes ?? [])];
  const skip = values['discovery-token-unsafe-skip-ca-verification'] === true || fileToken?.unsafeSkipCAVerification === true;

  if (endpoint !== undefined && discoveryFile !== undefined)
    throw usage('give either an API server endpoint with a token, or --discovery-file, not both');
  let discovery: JoinSettings['discovery'];
  if (discoveryFile !== undefined) {
    discovery = { kind: 'file', path: discoveryFilePath(discoveryFile) };
  } else {
    if (endpoint === undefined) {
      throw usage(
        'whom to join? Give the API server as HOST:PORT with --token and --discovery-token-ca-cert-hash ("kubeadm token create --print-join-command" on the control plane prints all of it), or --discovery-file',
      );
    }
    const checked = checkedEndpoint(endpoint);
    if (discoveryToken === undefined)
      throw usage(
        'a token is needed: --token (or --discovery-token and --tls-bootstrap-token); "kubeadm token create" on the control plane makes one',
      );
    asUsage(() => readBootstrapToken(discoveryToken));
    const pins = asUsage(() => readPins(given));
    if (pins.length === 0 && !skip) {
      throw usage(
        'joining by token without --discovery-token-ca-cert-hash can be unsafe: give the hash, or say --discovery-token-unsafe-skip-ca-verification',
      );
    }
    discovery = { kind: 'token', endpoint: checked, token: discoveryToken, pins };
  }
  const tlsBootstrapToken = bootstrapToken ?? (discovery.kind === 'token' ? discovery.token : undefined);
  if (tlsBootstrapToken !== undefined) asUsage(() => readBootstrapToken(tlsBootstrapToken));

  const kubernetesDir = directory(text('kubernetes-dir') ?? '/etc/kubernetes', 'kubernetes-dir');
  const rootDir = directory(text('root-dir') ?? '/var/lib/kubelet', 'root-dir');
  const registration = file?.nodeRegistration;
  const timeout = (flag: string, fromFile: string | undefined): number => {
    const value = text(flag) ?? fromFile ?? '5m';
    const ms = asUsage(() => parseDuration(value));
    if (ms <= 0) throw usage(`--${flag} must be a positive duration, not ${value}`);
    return ms;
  };
  const nodeName = text('node-name') ?? registration?.name;
  if (nodeName !== undefined) checkNodeName(nodeName);
  return {
    kind: 'join',
    settings: {
      discovery,
      tlsBootstrapToken,
      nodeName,
      criSocket: text('cri-socket') ?? registration?.criSocket,
      taints: registration?.taints ?? [],
      extraArgs: registration?.kubeletExtraArgs ?? [],
      ignoredChecks: new Set(
        [...list('ignore-preflight-errors'), ...(registration?.ignorePreflightErrors ?? [])].map((c) => c.toLowerCase()),
      ),
      dryRun: values['dry-run'] === true || file?.dryRun === true,
      kubernetesDir,
      rootDir,
      kubeProxyDir: directory(
        text('kube-proxy-dir') ?? (rootDir === '/var/lib/kubelet' ? '/var/lib/kube-proxy' : `${rootDir}/kube-proxy`),
        'kube-proxy-dir',
      ),
      caPath: file?.caCertPath ?? `${kubernetesDir}/pki/ca.crt`,
      discoveryTimeoutMs: timeout('discovery-timeout', file?.timeouts?.discovery),
      tlsBootstrapTimeoutMs: timeout('tls-bootstrap-timeout', file?.timeouts?.tlsBootstrap),
      warnings,
    },
  };
}

function split(args: readonly string[]): { values: Values; positionals: string[] } {
  const options: NonNullable<ParseArgsConfig['options']> = { help: { type: 'boolean', short: 'h' } };
  for (const flag of joinFlags) {
    setOwn(options, flag.name, flag.kind === 'bool' ? { type: 'boolean' } : { type: 'string', multiple: flag.kind === 'list' });
  }
  // pflag's --flag=true and --flag=false, which parseArgs does not know.
  const booleans = new Set(joinFlags.filter((flag) => flag.kind === 'bool').map((flag) => flag.name));
  const plain: string[] = [];
  for (const arg of args) {
    const match = /^--([a-z-]+)=(true|false)$/.exec(arg);
    if (match === null || !booleans.has(match[1] ?? '')) plain.push(arg);
    else if (match[2] === 'true') plain.push(`--${match[1]}`);
  }
  try {
    return parseArgs({ args: plain, options, allowPositionals: true, strict: true }) as { values: Values; positionals: string[] };
  } catch (error) {
    throw new AgentError('Usage', messageOf(error), { cause: error });
  }
}

function asUsage<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new AgentError('Usage', messageOf(error), { cause: error });
  }
}

function checkedEndpoint(endpoint: string): string {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:/[\]]+)):(\d{1,5})$/.exec(endpoint);
  const port = Number(match?.[3]);
  if (match === null || port < 1 || port > 65_535 || (match[1] !== undefined && isIP(match[1]) !== 6)) {
    throw usage(`the API server endpoint must be HOST:PORT (an IPv6 address in brackets), not ${JSON.stringify(endpoint)}`);
  }
  return endpoint;
}

function discoveryFilePath(path: string): string {
  if (path.startsWith('file://')) return path.slice('file://'.length);
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(path) && !path.startsWith('https://'))
    throw usage(`--discovery-file: a URL must be https, not ${path}`);
  return path;
}

function directory(path: string, flag: string): string {
  if (!path.startsWith('/')) throw usage(`--${flag} must be an absolute path, not ${JSON.stringify(path)}`);
  return path.length > 1 ? path.replace(/\/+$/, '') : path;
}

/** A node's name is a DNS subdomain. Throws AgentError `Usage`. */
export function checkNodeName(name: string): void {
  if (name.length > 253 || !/^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/.test(name)) {
    throw usage(`${JSON.stringify(name)} is not a valid node name: lower-case letters, digits, - and . only, at most 253 characters`);
  }
}

const argument = z.strictObject({ name: z.string(), value: z.string().default('') });
const joinConfiguration = z.strictObject({
  apiVersion: z.enum(['kubeadm.k8s.io/v1beta4', 'kubeadm.k8s.io/v1beta3']),
  kind: z.literal('JoinConfiguration'),
  dryRun: z.boolean().optional(),
  caCertPath: z.string().startsWith('/', 'must be an absolute path').optional(),
  controlPlane: z.undefined({ error: controlPlaneOnly }).optional(),
  skipPhases: z.array(z.never({ error: 'joining has no phases here: leave it out' })).optional(),
  patches: z.undefined({ error: 'keelson applies no kubeadm patches: leave it out' }).optional(),
  discovery: z.strictObject({
    bootstrapToken: z
      .strictObject({
        token: z.string(),
        apiServerEndpoint: z.string().optional(),
        caCertHashes: z.array(z.string()).optional(),
        unsafeSkipCAVerification: z.boolean().optional(),
      })
      .optional(),
    file: z.strictObject({ kubeConfigPath: z.string() }).optional(),
    tlsBootstrapToken: z.string().optional(),
    // v1beta3 has its timeout here.
    timeout: z.string().optional(),
  }),
  nodeRegistration: z
    .strictObject({
      name: z.string().optional(),
      criSocket: z.string().optional(),
      taints: z
        .array(z.strictObject({ key: z.string(), value: z.string().optional(), effect: z.string(), timeAdded: z.string().optional() }))
        .nullish()
        .transform((taints) => taints ?? []),
      // A map in v1beta3, a list since.
      kubeletExtraArgs: z
        .union([
          z.array(argument),
          z.record(z.string(), z.string()).transform((map) => Object.entries(map).map(([name, value]) => ({ name, value }))),
        ])
        .optional(),
      ignorePreflightErrors: z.array(z.string()).optional(),
      // Of no concern to workers: they say how to pull control-plane images.
      imagePullPolicy: z.string().optional(),
      imagePullSerial: z.boolean().optional(),
    })
    .optional(),
  timeouts: z
    .strictObject({
      discovery: z.string().optional(),
      tlsBootstrap: z.string().optional(),
      kubeletHealthCheck: z.string().optional(),
      kubernetesAPICall: z.string().optional(),
      controlPlaneComponentHealthCheck: z.string().optional(),
      etcdAPICall: z.string().optional(),
      upgradeManifests: z.string().optional(),
    })
    .optional(),
});

type JoinConfiguration = z.infer<typeof joinConfiguration>;

/**
 * The JoinConfiguration among the documents of a kubeadm configuration file. Fields that are unknown or stand twice are warnings, as with kubeadm.
 * Throws AgentError `Usage` naming file and field.
 */
function readJoinConfiguration(text: string, path: string): { config: JoinConfiguration; warnings: readonly string[] } {
  let documents: YamlDocument[];
  try {
    documents = readAllYaml(text);
  } catch (error) {
    throw new AgentError('Usage', `${path} is not YAML: ${messageOf(error)}`, { cause: error });
  }
  const found = documents.find(({ value }) => (value as { kind?: unknown }).kind === 'JoinConfiguration');
  if (found === undefined) throw usage(`${path} holds no JoinConfiguration (apiVersion kubeadm.k8s.io/v1beta4)`);
  const { result, unknown } = leniently((document) => joinConfiguration.safeParse(document), found.value);
  if (!result.success) {
    throw usage(`${path}: ${result.error.issues.map((issue) => `${issue.path.join('.') || 'the document'}: ${issue.message}`).join('; ')}`);
  }
  const config = result.data;
  return {
    config:
      config.discovery.timeout === undefined
        ? config
        : { ...config, timeouts: { discovery: config.discovery.timeout, ...config.timeouts } },
    warnings: [
      ...found.repeated.map((repeated) => `${path}: ${describeRepeated(repeated)}; the last one counts`),
      ...unknown.map((field) => `${path}: unknown field "${field}", ignored`),
    ],
  };
}
