// The command line of `keelson proxy`: kube-proxy's flags (cmd/kube-proxy/app/options.go and init_others.go).
import { type Flag, type FlagKind, flagTable, flagUsageOf, honoured, own, type ParsedFlags, parseFlagsOf } from '../pflag.ts';

// Flag, kind, and the field of KubeProxyConfiguration v1alpha1 that it sets.
const fieldFlags: readonly (readonly [string, FlagKind, string])[] = [
  ['feature-gates', 'gates', 'featureGates'],
  ['kubeconfig', 'string', 'clientConnection.kubeconfig'],
  ['kube-api-content-type', 'string', 'clientConnection.contentType'],
  ['kube-api-burst', 'int', 'clientConnection.burst'],
  ['kube-api-qps', 'float', 'clientConnection.qps'],
  ['bind-address', 'ip', 'bindAddress'],
  ['healthz-bind-address', 'string', 'healthzBindAddress'],
  ['metrics-bind-address', 'string', 'metricsBindAddress'],
  ['bind-address-hard-fail', 'bool', 'bindAddressHardFail'],
  ['profiling', 'bool', 'enableProfiling'],
  ['show-hidden-metrics-for-version', 'string', 'showHiddenMetricsForVersion'],
  ['proxy-mode', 'string', 'mode'],
  ['iptables-masquerade-bit', 'int', 'iptables.masqueradeBit'],
  ['iptables-localhost-nodeports', 'bool', 'iptables.localhostNodePorts'],
  ['iptables-sync-period', 'duration', 'iptables.syncPeriod'],
  ['iptables-min-sync-period', 'duration', 'iptables.minSyncPeriod'],
  ['ipvs-sync-period', 'duration', 'ipvs.syncPeriod'],
  ['ipvs-min-sync-period', 'duration', 'ipvs.minSyncPeriod'],
  ['ipvs-scheduler', 'string', 'ipvs.scheduler'],
  ['ipvs-exclude-cidrs', 'list', 'ipvs.excludeCIDRs'],
  ['ipvs-strict-arp', 'bool', 'ipvs.strictARP'],
  ['ipvs-tcp-timeout', 'duration', 'ipvs.tcpTimeout'],
  ['ipvs-tcpfin-timeout', 'duration', 'ipvs.tcpFinTimeout'],
  ['ipvs-udp-timeout', 'duration', 'ipvs.udpTimeout'],
  ['detect-local-mode', 'string', 'detectLocalMode'],
  ['pod-bridge-interface', 'string', 'detectLocal.bridgeInterface'],
  ['pod-interface-name-prefix', 'string', 'detectLocal.interfaceNamePrefix'],
  ['cluster-cidr', 'string', 'clusterCIDR'],
  ['nodeport-addresses', 'list', 'nodePortAddresses'],
  ['oom-score-adj', 'int', 'oomScoreAdj'],
  ['conntrack-max-per-core', 'int', 'conntrack.maxPerCore'],
  ['conntrack-min', 'int', 'conntrack.min'],
  ['conntrack-tcp-timeout-established', 'duration', 'conntrack.tcpEstablishedTimeout'],
  ['conntrack-tcp-timeout-close-wait', 'duration', 'conntrack.tcpCloseWaitTimeout'],
  ['conntrack-tcp-be-liberal', 'bool', 'conntrack.tcpBeLiberal'],
  ['conntrack-udp-timeout', 'duration', 'conntrack.udpTimeout'],
  ['conntrack-udp-timeout-stream', 'duration', 'conntrack.udpStreamTimeout'],
  ['config-sync-period', 'duration', 'configSyncPeriod'],
  ['v', 'int', 'logging.verbosity'],
  ['vmodule', 'vmodule', 'logging.vmodule'],
  ['logging-format', 'string', 'logging.format'],
  ['log-flush-frequency', 'duration', 'logging.flushFrequency'],
  ['log-text-split-stream', 'bool', 'logging.options.text.splitStream'],
  ['log-text-info-buffer-size', 'string', 'logging.options.text.infoBufferSize'],
  ['log-json-split-stream', 'bool', 'logging.options.json.splitStream'],
  ['log-json-info-buffer-size', 'string', 'logging.options.json.infoBufferSize'],
];

const table = flagTable([
  ...fieldFlags.map(
    ([name, kind, field]): Flag => ({ name, kind, field, support: honoured, help: `sets ${field} of KubeProxyConfiguration` }),
  ),
  own(
    'config',
    'string',
    'the KubeProxyConfiguration file (YAML or JSON); other flags but -v, --hostname-override and --cleanup are then ignored',
  ),
  own('write-config-to', 'string', 'write the configuration with its defaults to this file and exit'),
  own('cleanup', 'bool', 'remove what any kube-proxy or keelson has programmed on this machine and exit'),
  own('master', 'string', 'the address of the API server instead of the one in the kubeconfig'),
  own('hostname-override', 'string', "the node's name instead of the host name"),
  own('init-only', 'bool', 'set the sysctls that take full root privileges and exit'),
  own('masquerade-all', 'bool', 'masquerade all traffic to cluster IPs'),
  own('healthz-port', 'int', 'the port of the health check server; 0: none (deprecated: --healthz-bind-address)'),
  own('metrics-port', 'int', 'the port of the metrics server; 0: none (deprecated: --metrics-bind-address)'),
  own('version', 'string', 'print the version and exit'),
  own('help', 'bool', 'print this help and exit'),
]);

/** Parses the command line of `keelson proxy`. Throws AgentError InvalidFlag naming the flag. */
export function parseProxyFlags(argv: readonly string[]): ParsedFlags {
  return parseFlagsOf(table, argv);
}

/** The flags' part of `keelson proxy --help`. */
export function proxyFlagUsage(): string {
  return flagUsageOf(table);
}
