import { isIP } from 'node:net';
import { AgentError, messageOf } from '../base/errors.ts';
import { ownValue, setOwn } from '../base/own.ts';
import { parseQuantity } from '../model/quantity.ts';
import { parseDuration } from './duration.ts';
import type { KubeletField } from './kubelet-configuration.ts';
import { checkLabelValue, checkQualifiedName } from './names.ts';

type FlagKind =
  | 'bool'
  | 'string'
  | 'int'
  | 'float'
  | 'duration'
  | 'ip'
  /** Comma-separated, several occurrences add up. */
  | 'list'
  /** `key=value,…`; several occurrences add up. */
  | 'map'
  /** `key=value`, one pair an occurrence. */
  | 'pair'
  /** `key<value,…` */
  | 'thresholds'
  /** `key=true,…` */
  | 'gates'
  /** `key=value,…` where the value may be missing. */
  | 'labels'
  | 'taints'
  /** `name:value,…`, a name may come again. */
  | 'headers'
  | 'reservedMemory'
  | 'vmodule';

/** A field of KubeletConfiguration, dotted when it lies deeper. */
type FieldPath = KubeletField | `${KubeletField}.${string}`;

/** What a flag is to keelson: without effect only where upstream ignores it too, each with the reason. */
type Support = { kind: 'honoured' } | { kind: 'noEffect'; why: string } | { kind: 'unsupported'; why: string };

export interface Flag {
  readonly name: string;
  readonly kind: FlagKind;
  readonly field?: FieldPath | undefined;
  readonly support: Support;
  readonly help: string;
}

const honoured: Support = { kind: 'honoured' };

function own(name: string, kind: FlagKind, help: string): Flag {
  return { name, kind, support: honoured, help };
}

function noEffect(name: string, kind: FlagKind, why: string): Flag {
  return { name, kind, support: { kind: 'noEffect', why }, help: `accepted and without effect: ${why}` };
}

function unsupported(name: string, kind: FlagKind, why: string): Flag {
  return { name, kind, support: { kind: 'unsupported', why }, help: `not supported: ${why}` };
}

// Flags of cmd/kubelet/app/options AddKubeletConfigFlags and of component-base's logs options: flag, kind, the field it overrides.
const fieldFlags: readonly (readonly [string, FlagKind, FieldPath])[] = [
  ['enable-server', 'bool', 'enableServer'],
  ['fail-swap-on', 'bool', 'failSwapOn'],
  ['pod-manifest-path', 'string', 'staticPodPath'],
  ['sync-frequency', 'duration', 'syncFrequency'],
  ['file-check-frequency', 'duration', 'fileCheckFrequency'],
  ['http-check-frequency', 'duration', 'httpCheckFrequency'],
  ['manifest-url', 'string', 'staticPodURL'],
  ['manifest-url-header', 'headers', 'staticPodURLHeader'],
  ['address', 'ip', 'address'],
  ['port', 'int', 'port'],
  ['read-only-port', 'int', 'readOnlyPort'],
  ['fail-cgroupv1', 'bool', 'failCgroupV1'],
  ['container-runtime-endpoint', 'string', 'containerRuntimeEndpoint'],
  ['image-service-endpoint', 'string', 'imageServiceEndpoint'],
  ['anonymous-auth', 'bool', 'authentication.anonymous.enabled'],
  ['authentication-token-webhook', 'bool', 'authentication.webhook.enabled'],
  ['authentication-token-webhook-cache-ttl', 'duration', 'authentication.webhook.cacheTTL'],
  ['client-ca-file', 'string', 'authentication.x509.clientCAFile'],
  ['authorization-mode', 'string', 'authorization.mode'],
  ['authorization-webhook-cache-authorized-ttl', 'duration', 'authorization.webhook.cacheAuthorizedTTL'],
  ['authorization-webhook-cache-unauthorized-ttl', 'duration', 'authorization.webhook.cacheUnauthorizedTTL'],
  ['tls-cert-file', 'string', 'tlsCertFile'],
  ['tls-private-key-file', 'string', 'tlsPrivateKeyFile'],
  ['rotate-server-certificates', 'bool', 'serverTLSBootstrap'],
  ['tls-cipher-suites', 'list', 'tlsCipherSuites'],
  ['tls-min-version', 'string', 'tlsMinVersion'],
  ['rotate-certificates', 'bool', 'rotateCertificates'],
  ['registry-qps', 'int', 'registryPullQPS'],
  ['registry-burst', 'int', 'registryBurst'],
  ['event-qps', 'int', 'eventRecordQPS'],
  ['event-burst', 'int', 'eventBurst'],
  ['enable-debugging-handlers', 'bool', 'enableDebuggingHandlers'],
  ['contention-profiling', 'bool', 'enableContentionProfiling'],
  ['healthz-port', 'int', 'healthzPort'],
  ['healthz-bind-address', 'ip', 'healthzBindAddress'],
  ['oom-score-adj', 'int', 'oomScoreAdj'],
  ['cluster-domain', 'string', 'clusterDomain'],
  ['volume-plugin-dir', 'string', 'volumePluginDir'],
  ['cluster-dns', 'list', 'clusterDNS'],
  ['streaming-connection-idle-timeout', 'duration', 'streamingConnectionIdleTimeout'],
  ['node-status-update-frequency', 'duration', 'nodeStatusUpdateFrequency'],
  ['minimum-image-ttl-duration', 'duration', 'imageMinimumGCAge'],
  ['image-gc-high-threshold', 'int', 'imageGCHighThresholdPercent'],
  ['image-gc-low-threshold', 'int', 'imageGCLowThresholdPercent'],
  ['volume-stats-agg-period', 'duration', 'volumeStatsAggPeriod'],
  ['feature-gates', 'gates', 'featureGates'],
  ['kubelet-cgroups', 'string', 'kubeletCgroups'],
  ['system-cgroups', 'string', 'systemCgroups'],
  ['provider-id', 'string', 'providerID'],
  ['cgroups-per-qos', 'bool', 'cgroupsPerQOS'],
  ['cgroup-driver', 'string', 'cgroupDriver'],
  ['cgroup-root', 'string', 'cgroupRoot'],
  ['cpu-manager-policy', 'string', 'cpuManagerPolicy'],
  ['cpu-manager-policy-options', 'pair', 'cpuManagerPolicyOptions'],
  ['cpu-manager-reconcile-period', 'duration', 'cpuManagerReconcilePeriod'],
  ['qos-reserved', 'map', 'qosReserved'],
  ['topology-manager-policy', 'string', 'topologyManagerPolicy'],
  ['topology-manager-scope', 'string', 'topologyManagerScope'],
  ['topology-manager-policy-options', 'map', 'topologyManagerPolicyOptions'],
  ['runtime-request-timeout', 'duration', 'runtimeRequestTimeout'],
  ['hairpin-mode', 'string', 'hairpinMode'],
  ['max-pods', 'int', 'maxPods'],
  ['pod-cidr', 'string', 'podCIDR'],
  ['pod-max-pids', 'int', 'podPidsLimit'],
  ['resolv-conf', 'string', 'resolvConf'],
  ['runonce', 'bool', 'runOnce'],
  ['cpu-cfs-quota', 'bool', 'cpuCFSQuota'],
  ['cpu-cfs-quota-period', 'duration', 'cpuCFSQuotaPeriod'],
  ['enable-controller-attach-detach', 'bool', 'enableControllerAttachDetach'],
  ['make-iptables-util-chains', 'bool', 'makeIPTablesUtilChains'],
  ['container-log-max-size', 'string', 'containerLogMaxSize'],
  ['container-log-max-files', 'int', 'containerLogMaxFiles'],
  ['allowed-unsafe-sysctls', 'list', 'allowedUnsafeSysctls'],
  ['node-status-max-images', 'int', 'nodeStatusMaxImages'],
  ['kernel-memcg-notification', 'bool', 'kernelMemcgNotification'],
  ['local-storage-capacity-isolation', 'bool', 'localStorageCapacityIsolation'],
  ['max-open-files', 'int', 'maxOpenFiles'],
  ['kube-api-content-type', 'string', 'contentType'],
  ['kube-api-qps', 'int', 'kubeAPIQPS'],
  ['kube-api-burst', 'int', 'kubeAPIBurst'],
  ['serialize-image-pulls', 'bool', 'serializeImagePulls'],
  ['eviction-hard', 'thresholds', 'evictionHard'],
  ['eviction-soft', 'thresholds', 'evictionSoft'],
  ['eviction-soft-grace-period', 'map', 'evictionSoftGracePeriod'],
  ['eviction-pressure-transition-period', 'duration', 'evictionPressureTransitionPeriod'],
  ['eviction-max-pod-grace-period', 'int', 'evictionMaxPodGracePeriod'],
  ['eviction-minimum-reclaim', 'map', 'evictionMinimumReclaim'],
  ['pods-per-core', 'int', 'podsPerCore'],
  ['protect-kernel-defaults', 'bool', 'protectKernelDefaults'],
  ['reserved-cpus', 'string', 'reservedSystemCPUs'],
  ['system-reserved', 'map', 'systemReserved'],
  ['kube-reserved', 'map', 'kubeReserved'],
  ['enforce-node-allocatable', 'list', 'enforceNodeAllocatable'],
  ['system-reserved-cgroup', 'string', 'systemReservedCgroup'],
  ['kube-reserved-cgroup', 'string', 'kubeReservedCgroup'],
  ['memory-manager-policy', 'string', 'memoryManagerPolicy'],
  ['reserved-memory', 'reservedMemory', 'reservedMemory'],
  ['register-node', 'bool', 'registerNode'],
  ['register-with-taints', 'taints', 'registerWithTaints'],
  ['seccomp-default', 'bool', 'seccompDefault'],
  ['v', 'int', 'logging.verbosity'],
  ['vmodule', 'vmodule', 'logging.vmodule'],
  ['logging-format', 'string', 'logging.format'],
  ['log-flush-frequency', 'duration', 'logging.flushFrequency'],
  ['log-text-split-stream', 'bool', 'logging.options.text.splitStream'],
  ['log-text-info-buffer-size', 'string', 'logging.options.text.infoBufferSize'],
  ['log-json-split-stream', 'bool', 'logging.options.json.splitStream'],
  ['log-json-info-buffer-size', 'string', 'logging.options.json.infoBufferSize'],
];

const cadvisor = 'a flag of the cAdvisor library that upstream registered by mistake and whose storage it never starts';

const otherFlags: readonly Flag[] = [
  own('config', 'string', 'the KubeletConfiguration file to start from (YAML or JSON)'),
  own('config-dir', 'string', 'a folder of *.conf files that override the --config file, in lexical order'),
  own('kubeconfig', 'string', 'how to reach the API server; without it the node runs standalone'),
  own('bootstrap-kubeconfig', 'string', 'used to ask for a client certificate when the --kubeconfig file does not exist'),
  own('hostname-override', 'string', "the node's name instead of the host name"),
  own('node-ip', 'string', "the node's address, or a dual-stack pair of them; '0.0.0.0' or '::' to prefer a family"),
  own('cert-dir', 'string', 'the folder of the certificates made here (default /var/lib/kubelet/pki)'),
  own('cloud-provider', 'string', "'external' when a cloud controller manager initializes the node; empty for none"),
  own('root-dir', 'string', 'the folder of pods, volumes and plugins (default /var/lib/kubelet)'),
  own('node-labels', 'labels', 'labels for the Node when it registers: key=value,…'),
  own('image-credential-provider-config', 'string', 'the CredentialProviderConfig file, or a folder of them'),
  own('image-credential-provider-bin-dir', 'string', 'the folder of the credential provider plugins'),
  own('no-proxy', 'bool', "leave Services to a kube-proxy beside this agent (keelson's own flag)"),
  own('version', 'string', 'print the version and exit'),
  own('help', 'bool', 'print this help and exit'),
  own('runtime-cgroups', 'string', 'the cgroup that the container runtime is in: what it uses is told in /stats/summary'),
  unsupported('lock-file', 'string', 'running two agents in turns on one node is not supported yet'),
  unsupported('exit-on-lock-contention', 'bool', 'running two agents in turns on one node is not supported yet'),
  unsupported('minimum-container-ttl-duration', 'duration', 'dead containers are removed by count and pressure; deprecated upstream'),
  unsupported('maximum-dead-containers-per-container', 'int', 'dead containers are removed by count and pressure; deprecated upstream'),
  unsupported('maximum-dead-containers', 'int', 'dead containers are removed by count and pressure; deprecated upstream'),
  unsupported('experimental-mounter-path', 'string', 'the mount program is found by its name; deprecated upstream'),
  own('experimental-allocatable-ignore-eviction', 'bool', 'leave the hard eviction thresholds out of allocatable (deprecated)'),
  unsupported('housekeeping-interval', 'duration', 'stats are read when asked for, not in rounds'),
  unsupported('global-housekeeping-interval', 'duration', 'stats are read when asked for, not in rounds'),
  unsupported('log-cadvisor-usage', 'bool', 'there is no cAdvisor in this agent'),
  unsupported('enable-load-reader', 'bool', 'there is no cAdvisor in this agent'),
  unsupported('application-metrics-count-limit', 'int', 'there is no cAdvisor in this agent'),
  unsupported('boot-id-file', 'string', '/proc/sys/kernel/random/boot_id is read'),
  unsupported('machine-id-file', 'string', '/etc/machine-id and /var/lib/dbus/machine-id are read'),
  unsupported('container-hints', 'string', 'there is no cAdvisor in this agent'),
  unsupported('containerd', 'string', 'use --container-runtime-endpoint'),
  unsupported('containerd-namespace', 'string', 'containers are seen through the CRI'),
  unsupported('event-storage-age-limit', 'string', 'there is no cAdvisor in this agent'),
  unsupported('event-storage-event-limit', 'string', 'there is no cAdvisor in this agent'),
  ...['user', 'password', 'host', 'db', 'table'].map((name) => noEffect(`storage-driver-${name}`, 'string', cadvisor)),
  noEffect('storage-driver-secure', 'bool', cadvisor),
  noEffect('storage-driver-buffer-duration', 'duration', cadvisor),
];

// Flags that only kube-proxy has (cmd/kube-proxy/app/options.go); the others share a name with one of kubelet's.
const proxyFlags = [
  'write-config-to',
  'cleanup',
  'master',
  'bind-address',
  'metrics-bind-address',
  'bind-address-hard-fail',
  'profiling',
  'show-hidden-metrics-for-version',
  'init-only',
  'proxy-mode',
  'iptables-masquerade-bit',
  'masquerade-all',
  'iptables-localhost-nodeports',
  'iptables-sync-period',
  'iptables-min-sync-period',
  'ipvs-sync-period',
  'ipvs-min-sync-period',
  'ipvs-scheduler',
  'ipvs-exclude-cidrs',
  'ipvs-strict-arp',
  'ipvs-tcp-timeout',
  'ipvs-tcpfin-timeout',
  'ipvs-udp-timeout',
  'detect-local-mode',
  'pod-bridge-interface',
  'pod-interface-name-prefix',
  'cluster-cidr',
  'nodeport-addresses',
  'conntrack-max-per-core',
  'conntrack-min',
  'conntrack-tcp-timeout-established',
  'conntrack-tcp-timeout-close-wait',
  'conntrack-tcp-be-liberal',
  'conntrack-udp-timeout',
  'conntrack-udp-timeout-stream',
  'config-sync-period',
  'metrics-port',
];
const proxyOnly: Support = {
  kind: 'unsupported',
  why: 'it belongs to kube-proxy, whose part keelson does not do yet: run with --no-proxy beside a kube-proxy',
};

/** Every flag that `keelson run` knows. */
const flags: ReadonlyMap<string, Flag> = new Map(
  [
    ...fieldFlags.map(
      ([name, kind, field]): Flag => ({ name, kind, field, support: honoured, help: `sets ${field} of KubeletConfiguration` }),
    ),
    ...otherFlags,
    ...proxyFlags.map((name): Flag => ({ name, kind: 'string', support: proxyOnly, help: 'kube-proxy’s: not supported yet' })),
  ].map((flag) => [flag.name, flag]),
);

/** A flag's value after parsing; durations are milliseconds. */
type FlagValue = string | number | boolean | string[] | Record<string, unknown> | Record<string, unknown>[];

/** What a command line said. */
export interface ParsedFlags {
  /** Values of flags that override a field of KubeletConfiguration, by the field's dotted path. */
  readonly fields: ReadonlyMap<FieldPath, FlagValue>;
  /** Values of all other flags, by flag name. */
  readonly others: ReadonlyMap<string, FlagValue>;
  /** For the log: what was accepted and does nothing, and why. */
  readonly warnings: readonly string[];
}

/**
 * Parses a command line the way pflag does: `--flag value`, `--flag=value`, booleans without a value, `-v4`, underscores for hyphens.
 * Throws AgentError InvalidFlag naming the flag.
 */
export function parseFlags(argv: readonly string[]): ParsedFlags {
  const given = new Map<string, FlagValue>();
  const warnings: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i] ?? '';
    if (!word.startsWith('-') || word === '-') throw invalid(`unknown command ${word}`);
    if (word === '--') {
      const rest = argv[i + 1];
      if (rest !== undefined) throw invalid(`unknown command ${rest}`);
      break;
    }
    const { name, value: inline, shown } = split(word);
    const flag = flags.get(name);
    if (flag === undefined) throw unknownFlag(name, shown);
    if (flag.support.kind === 'unsupported') throw invalid(`flag --${name} is not supported: ${flag.support.why}`);
    let text = inline;
    if (text === undefined) {
      if (flag.kind === 'bool' || name === 'version') text = 'true';
      else {
        i++;
        text = argv[i];
        if (text === undefined) throw invalid(`flag needs an argument: ${shown}`);
      }
    }
    try {
      given.set(name, parseValue(flag, text, given.get(name)));
    } catch (error) {
      throw new AgentError('InvalidFlag', `invalid argument "${text}" for "${shown}" flag: ${messageOf(error)}`, { cause: error });
    }
    if (flag.support.kind === 'noEffect') warnings.push(`flag --${name} has no effect: ${flag.support.why}`);
  }
  const fields = new Map<FieldPath, FlagValue>();
  const others = new Map<string, FlagValue>();
  for (const [name, value] of given) {
    const field = flags.get(name)?.field;
    if (field === undefined) others.set(name, value);
    else fields.set(field, value);
  }
  return { fields, others, warnings };
}

function split(word: string): { name: string; value: string | undefined; shown: string } {
  if (word.startsWith('--')) {
    const equals = word.indexOf('=');
    const raw = equals < 0 ? word.slice(2) : word.slice(2, equals);
    // component-base's WordSepNormalizeFunc: underscores are hyphens.
    return { name: raw.replaceAll('_', '-'), value: equals < 0 ? undefined : word.slice(equals + 1), shown: `--${raw}` };
  }
  const letter = word.slice(1, 2);
  const rest = word.slice(2);
  if (letter === 'h') return { name: 'help', value: rest === '' ? undefined : rest.replace(/^=/, ''), shown: '-h' };
  if (letter !== 'v') {
    const whole = word.slice(1).split('=')[0] ?? '';
    throw invalid(
      `unknown shorthand flag: '${letter}' in -${rest === '' ? letter : letter + rest}${flags.has(whole) ? `; did you mean --${whole}?` : ''}`,
    );
  }
  return { name: 'v', value: rest === '' ? undefined : rest.replace(/^=/, ''), shown: '-v' };
}

function invalid(message: string): AgentError {
  return new AgentError('InvalidFlag', message);
}

function unknownFlag(name: string, shown: string): AgentError {
  let nearest: string | undefined;
  let best = Math.max(2, Math.floor(name.length / 4)) + 1;
  for (const known of flags.keys()) {
    const distance = editDistance(name, known);
    if (distance < best) [best, nearest] = [distance, known];
  }
  return invalid(`unknown flag: ${shown}${nearest === undefined ? '' : `; did you mean --${nearest}?`}`);
}

/** How many letters must be added, removed or changed to make one word of the other. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)));
    row = next;
  }
  return row[b.length] ?? 0;
}

const trueWords = ['1', 't', 'T', 'true', 'TRUE', 'True'];
const falseWords = ['0', 'f', 'F', 'false', 'FALSE', 'False'];

function parseBool(text: string): boolean {
  if (trueWords.includes(text)) return true;
  if (falseWords.includes(text)) return false;
  throw new AgentError('InvalidFlag', `strconv.ParseBool: parsing "${text}": invalid syntax`);
}

function parseValue(flag: Flag, text: string, before: FlagValue | undefined): FlagValue {
  switch (flag.kind) {
    case 'bool':
      return parseBool(text);
    case 'string':
      return text;
    case 'int': {
      if (!/^[+-]?\d+$/.test(text)) throw invalid(`strconv.ParseInt: parsing "${text}": invalid syntax`);
      return Number(text);
    }
    case 'float': {
      const value = Number(text);
      if (text.trim() === '' || Number.isNaN(value)) throw invalid(`strconv.ParseFloat: parsing "${text}": invalid syntax`);
      return value;
    }
    case 'duration':
      return parseDuration(text);
    case 'ip':
      if (text !== '' && isIP(text) === 0) throw invalid(`"${text}" is not a valid IP address`);
      return text;
    case 'list':
      return [...((before as string[] | undefined) ?? []), ...(text === '' ? [] : text.split(',').map((item) => item.trim()))];
    case 'map':
      return { ...(before as Record<string, string> | undefined), ...pairs(text, '=', 'malformed pair, expect string=string') };
    case 'thresholds':
      return { ...(before as Record<string, string> | undefined), ...pairs(text, '<', 'malformed pair, expect string<string') };
    case 'pair': {
      const at = text.indexOf('=');
      if (at < 0) throw invalid('malformed pair, expect string=string');
      return { ...(before as Record<string, string> | undefined), [text.slice(0, at).trim()]: text.slice(at + 1).trim() };
    }
    case 'gates': {
      const gates: Record<string, boolean> = { ...(before as Record<string, boolean> | undefined) };
      for (const [name, value] of Object.entries(pairs(text, '=', 'malformed pair, expect string=bool'))) {
        try {
          setOwn(gates, name, parseBool(value));
        } catch (error) {
          throw new AgentError('InvalidFlag', `invalid value of ${name}: ${value}, err: ${messageOf(error)}`, { cause: error });
        }
      }
      return gates;
    }
    case 'labels': {
      const labels: Record<string, string> = { ...(before as Record<string, string> | undefined) };
      for (const item of text.split(',').filter((part) => part !== '')) {
        const at = item.indexOf('=');
        setOwn(labels, (at < 0 ? item : item.slice(0, at)).trim(), at < 0 ? '' : item.slice(at + 1).trim());
      }
      return labels;
    }
    case 'taints':
      return text === '' ? [] : parseTaints(text);
    case 'headers': {
      const headers: Record<string, string[]> = { ...(before as Record<string, string[]> | undefined) };
      for (const item of text.split(',').filter((part) => part !== '')) {
        const at = item.indexOf(':');
        if (at < 0) throw invalid('malformed pair, expect string:string');
        const name = item.slice(0, at).trim();
        setOwn(headers, name, [...(ownValue(headers, name) ?? []), item.slice(at + 1).trim()]);
      }
      return headers;
    }
    case 'reservedMemory':
      return [...((before as Record<string, unknown>[] | undefined) ?? []), ...(text === '' ? [] : text.split(';').map(parseReservation))];
    case 'vmodule':
      return text
        .split(',')
        .filter((item) => item !== '')
        .map((item) => {
          const match = /^([^=]+)=(\d+)$/.exec(item.trim());
          if (match === null) throw invalid(`"${item}" does not have the pattern=N format`);
          return { filePattern: match[1], verbosity: Number(match[2]) };
        });
    default:
      return flag.kind satisfies never;
  }
}

function pairs(text: string, separator: string, problem: string): Record<string, string> {
  const map: Record<string, string> = {};
  for (const item of text.split(',')) {
    if (item === '') continue;
    const at = item.indexOf(separator);
    if (at < 0) throw invalid(problem);
    setOwn(map, item.slice(0, at).trim(), item.slice(at + 1).trim());
  }
  return map;
}

/** Taints of `key=value:Effect,key:Effect` (pkg/util/taints). Throws AgentError InvalidFlag. */
function parseTaints(text: string): { key: string; value?: string; effect: string }[] {
  const taints: { key: string; value?: string; effect: string }[] = [];
  for (const spec of text.split(',')) {
    const match = /^([^:=]+)(?:=([^:=]*))?:([^:]*)$/.exec(spec);
    if (match === null) throw invalid(`invalid taint spec: ${spec}`);
    const [, key = '', value, effect = ''] = match;
    if (!['NoSchedule', 'PreferNoSchedule', 'NoExecute'].includes(effect))
      throw invalid(`invalid taint effect: ${effect}, unsupported taint effect`);
    const problems = [...checkQualifiedName(key), ...(value === undefined ? [] : checkLabelValue(value))];
    if (problems.length > 0) throw invalid(`invalid taint spec: ${spec}, ${problems.join('; ')}`);
    if (taints.some((t) => t.key === key && t.effect === effect)) throw invalid(`duplicated taints with the same key and effect: ${spec}`);
    taints.push({ key, ...(value === undefined || value === '' ? {} : { value }), effect });
  }
  return taints;
}

function parseReservation(text: string): { numaNode: number; limits: Record<string, string> } {
  const match = /^(\d+):([^:]+)$/.exec(text);
  if (match === null)
    throw invalid(`the reserved memory has incorrect format, expected numaNodeID:type=quantity[,type=quantity...], got ${text}`);
  const limits = pairs(match[2] ?? '', '=', `the reserved limit has incorrect value, expected type=quantity, got ${match[2]}`);
  for (const [name, value] of Object.entries(limits)) {
    if (name !== 'memory' && !name.startsWith('hugepages-')) throw invalid(`memory type conversion error, unknown type: "${name}"`);
    parseQuantity(value);
  }
  return { numaNode: Number(match[1]), limits };
}

/** The text of `keelson run --help`: each flag with its kind and what it does. */
export function flagUsage(): string {
  const shown = [...flags.values()].filter((flag) => flag.support.kind === 'honoured').sort((a, b) => a.name.localeCompare(b.name));
  const lines = shown.map((flag) => {
    const name = flag.name === 'v' ? '-v, --v' : flag.name === 'help' ? '-h, --help' : `    --${flag.name}`;
    return `  ${`${name}${flag.kind === 'bool' ? '' : ` ${flag.kind}`}`.padEnd(56)} ${flag.help}`;
  });
  return `${lines.join('\n')}\n`;
}
