// The configuration of `keelson proxy`, and of the proxy in `keelson run`: a file over defaults, or flags over defaults.
import path from 'node:path';
import type * as z from 'zod';
import { AgentError, messageOf } from '../../base/errors.ts';
import { ownValue, setOwn } from '../../base/own.ts';
import { leniently, parseConfigDocument, pathText } from '../decode.ts';
import { formatDuration } from '../duration.ts';
import { isObject, withoutNulls } from '../kubelet-configuration.ts';
import { checkDns1123Subdomain } from '../names.ts';
import type { ParsedFlags } from '../pflag.ts';
import { type ProxyConfiguration, type ProxyMode, withPort, withProxyDefaults } from './defaults.ts';
import { parseProxyFlags } from './flags.ts';
import { type GivenProxyConfiguration, proxyApiVersion, proxyKind, proxySchema } from './schema.ts';
import { validateProxyConfiguration } from './validate.ts';

/** What a command line asks `keelson proxy` to do. */
export type ProxyTask =
  | { readonly kind: 'help' }
  | { readonly kind: 'version' }
  | { readonly kind: 'writeConfig'; readonly file: string; readonly text: string }
  | { readonly kind: 'run' | 'cleanup' | 'init'; readonly settings: ProxySettings };

export interface ProxySettings {
  readonly config: ProxyConfiguration & { readonly mode: ProxyMode };
  /** Overrides the server of the kubeconfig. */
  readonly master: string | undefined;
  /** For the log. */
  readonly warnings: readonly string[];
}

/** Where nobody chose a mode: a file means upstream's default; without one, ours is the best that the kernel has. */
const modeOfFiles: ProxyMode = 'iptables';
const modeWithoutFile: ProxyMode = 'nftables';

/**
 * Reads the command line of `keelson proxy`. With --config all other flags are ignored, as upstream, but for the log level,
 * --hostname-override, --master and what says what to do. Throws AgentError InvalidFlag or InvalidConfig.
 */
export async function loadProxyTask(argv: readonly string[], readFile: (path: string) => Promise<string>): Promise<ProxyTask> {
  const flags = parseProxyFlags(argv);
  const text = (name: string): string | undefined => {
    const value = flags.others.get(name);
    return typeof value === 'string' && value !== '' ? value : undefined;
  };
  if (flags.others.get('help') === true) return { kind: 'help' };
  const version = flags.others.get('version');
  if (version !== undefined && version !== 'false') return { kind: 'version' };
  const file = text('config');
  const loaded =
    file === undefined
      ? { config: withoutPorts(withProxyDefaults(givenByFlags(flags), modeWithoutFile), flags), warnings: [] }
      : await loadProxyFile(path.resolve(file), readFile);
  const target = text('write-config-to');
  if (target !== undefined) return { kind: 'writeConfig', file: target, text: proxyDocumentText(loaded.config) };
  const settings: ProxySettings = {
    config: checked({
      ...loaded.config,
      hostnameOverride: hostnameOf(text('hostname-override')) ?? loaded.config.hostnameOverride,
      logging: { ...loaded.config.logging, verbosity: verbosityOf(flags) ?? loaded.config.logging.verbosity },
    }),
    master: text('master'),
    warnings: [...flags.warnings, ...loaded.warnings],
  };
  if (flags.others.get('cleanup') === true) return { kind: 'cleanup', settings };
  return { kind: flags.others.get('init-only') === true ? 'init' : 'run', settings };
}

/** The node knows which addresses its pods have, and nobody has to be told the cluster's. */
const unchosen: GivenProxyConfiguration = { detectLocalMode: 'NodeCIDR' };

/** The configuration of a proxy that runs in the node's agent: a file, or defaults where there is none. */
export async function loadProxySettings(file: string | undefined, readFile: (path: string) => Promise<string>): Promise<ProxySettings> {
  const { config, warnings } =
    file === undefined
      ? { config: withProxyDefaults(unchosen, modeWithoutFile), warnings: [] }
      : await loadProxyFile(path.resolve(file), readFile);
  return { config: checked(config), master: undefined, warnings };
}

async function loadProxyFile(
  file: string,
  readFile: (path: string) => Promise<string>,
): Promise<{ config: ProxyConfiguration; warnings: readonly string[] }> {
  let text: string;
  try {
    text = await readFile(file);
  } catch (error) {
    throw new AgentError('InvalidConfig', `failed to read kube-proxy config file "${file}": ${messageOf(error)}`, { cause: error });
  }
  const { document, warnings: repeated } = parseConfigDocument(text, file, 'kube-proxy config file');
  const { given, warnings } = decodeProxyConfiguration(document, file);
  return { config: withProxyDefaults(given, modeOfFiles), warnings: [...repeated, ...warnings] };
}

/** Reads a document strictly, and leniently with a warning for each field that this version does not know (loadConfig of options.go). */
function decodeProxyConfiguration(document: unknown, file: string): { given: GivenProxyConfiguration; warnings: readonly string[] } {
  const fail = (problem: string): never => {
    throw new AgentError('InvalidConfig', `${file}: ${problem}`);
  };
  if (!isObject(document)) return fail('not a KubeProxyConfiguration: the document is no mapping');
  const { apiVersion, kind } = document;
  if (apiVersion !== proxyApiVersion || kind !== proxyKind)
    return fail(`unknown apiVersion/kind: ${String(apiVersion)}, Kind=${String(kind)} (want ${proxyApiVersion}, Kind=${proxyKind})`);
  const { result, unknown } = leniently((plain) => proxySchema.safeDecode(plain as z.input<typeof proxySchema>), withoutNulls(document));
  if (!result.success) return fail(result.error.issues.map((issue) => `${pathText(issue.path)}: ${issue.message}`).join('; '));
  const { apiVersion: _, kind: __, ...given } = result.data;
  return { given, warnings: unknown.map((field) => `${file}: unknown field "${field}", ignored`) };
}

function givenByFlags(flags: ParsedFlags): GivenProxyConfiguration {
  const given: Record<string, unknown> = {};
  for (const [field, value] of flags.fields) setPath(given, field, value);
  const result = given as GivenProxyConfiguration;
  if (flags.others.get('masquerade-all') !== true) return result;
  return {
    ...result,
    iptables: { ...result.iptables, masqueradeAll: true },
    nftables: { ...result.nftables, masqueradeAll: true },
  };
}

function setPath(target: Record<string, unknown>, dotted: string, value: unknown): void {
  const parts = dotted.split('.');
  const last = parts.pop() ?? '';
  let at = target;
  for (const part of parts) {
    const inner = (ownValue(at, part) ?? {}) as Record<string, unknown>;
    setOwn(at, part, inner);
    at = inner;
  }
  setOwn(at, last, value);
}

/** --healthz-port and --metrics-port, deprecated: 0 switches the server off (addressFromDeprecatedFlags of options.go). */
function withoutPorts(config: ProxyConfiguration, flags: ParsedFlags): ProxyConfiguration {
  const address = (name: string, configured: string, given: boolean): string => {
    const port = flags.others.get(name);
    if (typeof port !== 'number') return configured;
    if (port === 0) return '';
    return given ? configured : withPort(configured.replace(/:\d+$/, ''), port);
  };
  const has = (field: string): boolean => flags.fields.has(field);
  return {
    ...config,
    healthzBindAddress: address('healthz-port', config.healthzBindAddress, has('healthzBindAddress')),
    metricsBindAddress: address('metrics-port', config.metricsBindAddress, has('metricsBindAddress')),
  };
}

function verbosityOf(flags: ParsedFlags): number | undefined {
  const value = flags.fields.get('logging.verbosity');
  return typeof value === 'number' ? value : undefined;
}

function hostnameOf(text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  const name = text.trim().toLowerCase();
  const problems = name === '' ? ['empty hostname-override is invalid'] : checkDns1123Subdomain(name);
  if (problems.length > 0) throw new AgentError('InvalidFlag', `invalid --hostname-override "${text}": ${problems.join('; ')}`);
  return name;
}

function checked(config: ProxyConfiguration): ProxyConfiguration & { readonly mode: ProxyMode } {
  const problems = validateProxyConfiguration(config);
  if (problems.length > 0) throw new AgentError('InvalidConfig', problems.join('; '));
  return config as ProxyConfiguration & { readonly mode: ProxyMode };
}

/** The v1alpha1 document of a configuration, as --write-config-to writes it: JSON, which is YAML too. */
function proxyDocumentText(config: ProxyConfiguration): string {
  return `${JSON.stringify(proxyDocument(config), undefined, 2)}\n`;
}

/** The v1alpha1 document: durations as text, what depends on the mode in the mode's own part. */
export function proxyDocument(config: ProxyConfiguration): Record<string, unknown> {
  const periods = { syncPeriod: formatDuration(config.syncPeriod), minSyncPeriod: formatDuration(config.minSyncPeriod) };
  const marks = { masqueradeAll: config.masqueradeAll, masqueradeBit: config.masqueradeBit };
  const { conntrack, ipvs, logging, detectLocal } = config;
  return {
    apiVersion: proxyApiVersion,
    kind: proxyKind,
    bindAddress: config.bindAddress,
    bindAddressHardFail: config.bindAddressHardFail,
    clientConnection: config.clientConnection,
    clusterCIDR: detectLocal.clusterCIDRs.join(','),
    configSyncPeriod: formatDuration(config.configSyncPeriod),
    conntrack: {
      maxPerCore: conntrack.maxPerCore,
      min: conntrack.min,
      tcpBeLiberal: conntrack.tcpBeLiberal,
      tcpCloseWaitTimeout: formatDuration(conntrack.tcpCloseWaitTimeout),
      tcpEstablishedTimeout: formatDuration(conntrack.tcpEstablishedTimeout),
      udpStreamTimeout: formatDuration(conntrack.udpStreamTimeout),
      udpTimeout: formatDuration(conntrack.udpTimeout),
    },
    detectLocal: { bridgeInterface: detectLocal.bridgeInterface, interfaceNamePrefix: detectLocal.interfaceNamePrefix },
    detectLocalMode: config.detectLocalMode,
    enableProfiling: config.enableProfiling,
    featureGates: config.featureGates,
    healthzBindAddress: config.healthzBindAddress,
    hostnameOverride: config.hostnameOverride,
    iptables: {
      localhostNodePorts: config.localhostNodePorts,
      ...(config.mode === 'nftables' ? {} : marks),
      ...(config.mode === 'iptables' ? periods : {}),
    },
    ipvs: {
      excludeCIDRs: ipvs.excludeCIDRs,
      scheduler: ipvs.scheduler,
      strictARP: ipvs.strictARP,
      tcpFinTimeout: formatDuration(ipvs.tcpFinTimeout),
      tcpTimeout: formatDuration(ipvs.tcpTimeout),
      udpTimeout: formatDuration(ipvs.udpTimeout),
      ...(config.mode === 'ipvs' ? periods : {}),
    },
    logging: { ...logging, flushFrequency: formatDuration(logging.flushFrequency) },
    metricsBindAddress: config.metricsBindAddress,
    mode: config.mode,
    nftables: config.mode === 'nftables' ? { ...marks, ...periods } : {},
    nodePortAddresses: config.nodePortAddresses,
    oomScoreAdj: config.oomScoreAdj,
    showHiddenMetricsForVersion: config.showHiddenMetricsForVersion,
  };
}
