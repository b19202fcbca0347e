import { isIP } from 'node:net';
import path from 'node:path';
import { AgentError, messageOf } from '../base/errors.ts';
import { ownValue, setOwn } from '../base/own.ts';
import { decodeKubeletConfiguration, parseConfigDocument } from './decode.ts';
import { type FeatureGateName, gateEnabled } from './feature-gates.ts';
import { parseFlags } from './flags.ts';
import {
  encodeKubeletConfiguration,
  fullDocument,
  type KubeletConfiguration,
  mergePatch,
  resolvePaths,
  validateKubeletConfiguration,
  withDefaults,
} from './kubelet-configuration.ts';
import { checkDns1123Subdomain, checkLabelValue, checkQualifiedName } from './names.ts';
import type { ParsedFlags } from './pflag.ts';
import { checkSupport } from './support.ts';

/** What the configuration reads files with. Both reject with an errno `code` when the path can't be read. */
export interface ConfigFiles {
  /** The text of a file. */
  readFile(path: string): Promise<string>;
  /** The paths of all files below a folder, at any depth. */
  listFiles(folder: string): Promise<string[]>;
}

/** The agent's configuration at one moment: frozen, every default filled in. */
export interface Config {
  /** Path of the kubeconfig; absent means standalone: no API server. */
  readonly kubeconfig?: string | undefined;
  readonly bootstrapKubeconfig?: string | undefined;
  /** The node's name instead of the host name. */
  readonly hostnameOverride?: string | undefined;
  /** Addresses of --node-ip: none, one, or one of each family; `0.0.0.0` and `::` only state a preference of family. */
  readonly nodeIPs: readonly string[];
  /** True when --cloud-provider=external: a cloud controller manager fills in the addresses. */
  readonly cloudProviderExternal: boolean;
  readonly nodeLabels: Readonly<Record<string, string>>;
  readonly rootDir: string;
  readonly certDir: string;
  /** The cgroup whose use is told as the container runtime's (--runtime-cgroups). */
  readonly runtimeCgroups?: string | undefined;
  readonly imageCredentialProviderConfig?: string | undefined;
  readonly imageCredentialProviderBinDir?: string | undefined;
  /** True leaves the hard eviction thresholds out of allocatable. */
  readonly allocatableIgnoresEviction: boolean;
  /** True leaves Services to a kube-proxy beside this agent. */
  readonly noProxy: boolean;
  /** The KubeProxyConfiguration file of the proxy in this agent. */
  readonly proxyConfig?: string | undefined;
  /** Who the proxy in this agent is to the API server; absent: the node itself. */
  readonly proxyKubeconfig?: string | undefined;
  /** How much is logged: kubelet's -v, 0 to 10. */
  readonly verbosity: number;
  /** KubeletConfiguration with every default: durations in milliseconds, quantities as text. */
  readonly kubelet: KubeletConfiguration;
  /** The same as a v1beta1 document, for /configz. */
  readonly kubeletDocument: Readonly<Record<string, unknown>>;
  /** Things accepted that deserve a line in the log. */
  readonly warnings: readonly string[];
}

/** True when a feature gate is on. */
export function isEnabled(config: Config, gate: FeatureGateName): boolean {
  return gateEnabled(config.kubelet.featureGates, gate);
}

/** What a command line asks for before anything is read; undefined means: run. Throws AgentError InvalidFlag. */
export function askedFor(argv: readonly string[]): 'help' | 'version' | undefined {
  const { others } = parseFlags(argv);
  if (others.get('help') === true) return 'help';
  const version = others.get('version');
  return version !== undefined && version !== 'false' ? 'version' : undefined;
}

/**
 * The configuration of a command line: flags over drop-ins over the file over defaults.
 * Throws AgentError InvalidFlag or InvalidConfig, its message naming every flag or field that is unknown, wrong or can't be honoured.
 */
export async function loadConfig(argv: readonly string[], files: ConfigFiles): Promise<Config> {
  const flags = parseFlags(argv);
  const text = (name: string): string | undefined => {
    const value = flags.others.get(name);
    return typeof value === 'string' && value !== '' ? value : undefined;
  };
  const nodeLabels = (flags.others.get('node-labels') ?? {}) as Record<string, string>;
  const labelProblem = checkNodeLabels(nodeLabels);
  if (labelProblem !== undefined) throw new AgentError('InvalidFlag', labelProblem);
  const nodeIPs = parseNodeIPs(text('node-ip'));
  const hostnameOverride = text('hostname-override')?.trim();
  if (hostnameOverride !== undefined) {
    const problems = checkDns1123Subdomain(hostnameOverride.toLowerCase());
    if (problems.length > 0)
      throw new AgentError('InvalidFlag', `invalid --hostname-override "${hostnameOverride}": ${problems.join('; ')}`);
  }
  const cloudProvider = text('cloud-provider');
  // pkg/volume and cloud-provider: the in-tree providers are gone, and a kubelet refuses their names at start.
  if (cloudProvider !== undefined && cloudProvider !== 'external')
    throw new AgentError('InvalidFlag', `unsupported --cloud-provider "${cloudProvider}": only "external" or empty`);

  const { kubelet, warnings } = await loadKubeletConfiguration(flags, text('config'), text('config-dir'), files);
  const problems = [...validateKubeletConfiguration(kubelet)];
  if (problems.length > 0) throw new AgentError('InvalidConfig', `failed to validate kubelet configuration: ${problems.join('; ')}`);
  const unsupported = checkSupport(kubelet);
  if (unsupported.length > 0) throw new AgentError('InvalidConfig', unsupported.join('; '));

  return deepFreeze({
    kubeconfig: text('kubeconfig'),
    bootstrapKubeconfig: text('bootstrap-kubeconfig'),
    hostnameOverride,
    nodeIPs,
    cloudProviderExternal: cloudProvider === 'external',
    nodeLabels,
    rootDir: path.resolve(text('root-dir') ?? '/var/lib/kubelet'),
    certDir: path.resolve(text('cert-dir') ?? '/var/lib/kubelet/pki'),
    runtimeCgroups: text('runtime-cgroups'),
    imageCredentialProviderConfig: text('image-credential-provider-config'),
    imageCredentialProviderBinDir: text('image-credential-provider-bin-dir'),
    allocatableIgnoresEviction: flags.others.get('experimental-allocatable-ignore-eviction') === true,
    noProxy: flags.others.get('no-proxy') === true,
    proxyConfig: text('proxy-config'),
    proxyKubeconfig: text('proxy-kubeconfig'),
    verbosity: kubelet.logging.verbosity,
    kubelet,
    kubeletDocument: encodeKubeletConfiguration(kubelet),
    warnings: [...flags.warnings, ...warnings],
  });
}

async function loadKubeletConfiguration(
  flags: ParsedFlags,
  file: string | undefined,
  folder: string | undefined,
  files: ConfigFiles,
): Promise<{ kubelet: KubeletConfiguration; warnings: string[] }> {
  let kubelet = withDefaults({});
  const warnings: string[] = [];
  if (file !== undefined) {
    const at = path.resolve(file);
    const { document, warnings: repeated } = parseConfigDocument(await read(files, at, 'kubelet config file'), at);
    const { config, warnings: unknown } = decodeKubeletConfiguration(document, at);
    warnings.push(...repeated, ...unknown);
    kubelet = withDefaults(resolvePaths(config, path.dirname(at)));
  }
  if (folder !== undefined) {
    const merged = await applyDropIns(kubelet, path.resolve(folder), files);
    warnings.push(...merged.warnings);
    kubelet = merged.kubelet;
  }
  return { kubelet: override(kubelet, flags), warnings };
}

async function read(files: ConfigFiles, at: string, what: string): Promise<string> {
  try {
    return await files.readFile(at);
  } catch (error) {
    throw new AgentError('InvalidConfig', `failed to read ${what} "${at}": ${messageOf(error)}`, { cause: error });
  }
}

// Drop-ins are JSON merge patches on the file's configuration with its defaults already filled in, so a default that depends on another
// field (nodeStatusReportFrequency) doesn't follow a drop-in: that is upstream's order too (cmd/kubelet/app mergeKubeletConfigurations).
async function applyDropIns(
  base: KubeletConfiguration,
  folder: string,
  files: ConfigFiles,
): Promise<{ kubelet: KubeletConfiguration; warnings: string[] }> {
  let listed: string[];
  try {
    listed = await files.listFiles(folder);
  } catch (error) {
    throw new AgentError('InvalidConfig', `failed to walk through kubelet drop-in directory "${folder}": ${messageOf(error)}`, {
      cause: error,
    });
  }
  let document: unknown = fullDocument(base);
  const warnings: string[] = [];
  for (const at of listed.sort(byPathParts)) {
    if (!at.endsWith('.conf')) {
      warnings.push(`${at} is not read: drop-ins of the kubelet's configuration are named *.conf`);
      continue;
    }
    const patch = parseConfigDocument(await read(files, at, 'drop-in kubelet config file'), at);
    warnings.push(...patch.warnings, ...decodeKubeletConfiguration(patch.document, at).warnings);
    document = mergePatch(document, patch.document);
  }
  // What is unknown in it was told of by its file.
  return { kubelet: withDefaults(decodeKubeletConfiguration(document, folder).config), warnings };
}

// Go's WalkDir goes by lexical order in each folder: `a/b` comes before `a.conf`'s successor by part, not by whole text.
function byPathParts(a: string, b: string): number {
  const [left, right] = [a.split('/'), b.split('/')];
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const [x = '', y = ''] = [left[i], right[i]];
    if (x !== y) return x < y ? -1 : 1;
  }
  return left.length - right.length;
}

// Flags are set on the finished configuration, so that a flag's zero is a zero and not "unset". Gates add to those of the files.
function override(kubelet: KubeletConfiguration, flags: ParsedFlags): KubeletConfiguration {
  const result = structuredClone(kubelet) as Record<string, unknown>;
  for (const [field, value] of flags.fields) {
    const parts = field.split('.');
    const last = parts.pop() ?? '';
    let at = result;
    for (const part of parts) at = ownValue(at, part) as Record<string, unknown>;
    setOwn(at, last, field === 'featureGates' ? { ...(ownValue(at, last) as object), ...(value as object) } : value);
  }
  // A gate switched by flag moves the default that hangs on it.
  return withGateDefaults(result as unknown as KubeletConfiguration);
}

function withGateDefaults(kubelet: KubeletConfiguration): KubeletConfiguration {
  const backOff = kubelet.crashLoopBackOff.maxContainerRestartPeriod;
  return {
    ...kubelet,
    crashLoopBackOff: {
      maxContainerRestartPeriod:
        backOff === 300_000 && !gateEnabled(kubelet.featureGates, 'KubeletCrashLoopBackOffMax') ? undefined : backOff,
    },
    imagePullCredentialsVerificationPolicy:
      kubelet.imagePullCredentialsVerificationPolicy === 'NeverVerifyPreloadedImages' &&
      !gateEnabled(kubelet.featureGates, 'KubeletEnsureSecretPulledImages')
        ? ''
        : kubelet.imagePullCredentialsVerificationPolicy,
  };
}

function parseNodeIPs(text: string | undefined): string[] {
  if (text === undefined) return [];
  const ips = text.split(',').map((part) => part.trim());
  for (const ip of ips) if (isIP(ip) === 0) throw new AgentError('InvalidFlag', `bad --node-ip "${text}": "${ip}" is no IP address`);
  if (ips.length > 2 || (ips.length === 2 && isIP(ips[0] ?? '') === isIP(ips[1] ?? '')))
    throw new AgentError('InvalidFlag', `bad --node-ip "${text}": must contain either a single IP or a dual-stack pair of IPs`);
  if (ips.length === 2 && ips.some((ip) => ip === '0.0.0.0' || ip === '::'))
    throw new AgentError('InvalidFlag', `dual-stack --node-ip "${text}" cannot include '0.0.0.0' or '::'`);
  return ips;
}

// k8s.io/kubelet/pkg/apis: the labels of kubernetes.io and k8s.io that a node may give itself.
const allowedLabels: ReadonlySet<string> = new Set([
  'beta.kubernetes.io/arch',
  'beta.kubernetes.io/instance-type',
  'beta.kubernetes.io/os',
  'failure-domain.beta.kubernetes.io/region',
  'failure-domain.beta.kubernetes.io/zone',
  'kubernetes.io/arch',
  'kubernetes.io/hostname',
  'kubernetes.io/os',
  'node.kubernetes.io/instance-type',
  'topology.kubernetes.io/region',
  'topology.kubernetes.io/zone',
]);
const allowedNamespaces = ['kubelet.kubernetes.io', 'node.kubernetes.io'];

/** What is wrong with the labels of --node-labels, in upstream's words; undefined when nothing is. */
function checkNodeLabels(labels: Readonly<Record<string, string>>): string | undefined {
  const within = (namespace: string, domain: string): boolean => namespace === domain || namespace.endsWith(`.${domain}`);
  const unknown = Object.keys(labels).filter((key) => {
    const namespace = key.includes('/') ? (key.split('/')[0] ?? '') : '';
    return (
      (within(namespace, 'kubernetes.io') || within(namespace, 'k8s.io')) &&
      !allowedLabels.has(key) &&
      !allowedNamespaces.some((domain) => within(namespace, domain))
    );
  });
  if (unknown.length > 0)
    return (
      `unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [${unknown.sort().join(' ')}]\n` +
      `--node-labels in the 'kubernetes.io' namespace must begin with an allowed prefix (${allowedNamespaces.join(', ')}) ` +
      `or be in the specifically allowed set (${[...allowedLabels].join(', ')})`
    );
  const invalid = Object.entries(labels).flatMap(([key, value]) => [
    ...checkQualifiedName(key).map((p) => `'${key}' - ${p}`),
    ...checkLabelValue(value).map((p) => `'${value}' - ${p}`),
  ]);
  return invalid.length > 0 ? `invalid node labels: ${invalid.join('; ')}` : undefined;
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) deepFreeze(inner);
  }
  return value;
}
