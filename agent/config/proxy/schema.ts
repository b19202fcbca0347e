// The fields of KubeProxyConfiguration v1alpha1 as k8s.io/kube-proxy 0.36.1 has them (config/v1alpha1/types.go).
import * as z from 'zod';
import { duration, int32, logging, strings } from '../codecs.ts';

const iptables = z.strictObject({
  masqueradeBit: int32.optional(),
  masqueradeAll: z.boolean().optional(),
  localhostNodePorts: z.boolean().optional(),
  syncPeriod: duration.optional(),
  minSyncPeriod: duration.optional(),
});

const ipvs = z.strictObject({
  syncPeriod: duration.optional(),
  minSyncPeriod: duration.optional(),
  scheduler: z.string().optional(),
  excludeCIDRs: strings.optional(),
  strictARP: z.boolean().optional(),
  tcpTimeout: duration.optional(),
  tcpFinTimeout: duration.optional(),
  udpTimeout: duration.optional(),
});

const nftables = z.strictObject({
  masqueradeBit: int32.optional(),
  masqueradeAll: z.boolean().optional(),
  syncPeriod: duration.optional(),
  minSyncPeriod: duration.optional(),
});

const conntrack = z.strictObject({
  maxPerCore: int32.optional(),
  min: int32.optional(),
  tcpEstablishedTimeout: duration.optional(),
  tcpCloseWaitTimeout: duration.optional(),
  tcpBeLiberal: z.boolean().optional(),
  udpTimeout: duration.optional(),
  udpStreamTimeout: duration.optional(),
});

// For Windows; read so that a file that is shared with Windows nodes loads, and without effect here.
const winkernel = z.strictObject({
  networkName: z.string().optional(),
  sourceVip: z.string().optional(),
  enableDSR: z.boolean().optional(),
  rootHnsEndpointName: z.string().optional(),
  forwardHealthCheckVip: z.boolean().optional(),
});

const clientConnection = z.strictObject({
  kubeconfig: z.string().optional(),
  acceptContentTypes: z.string().optional(),
  contentType: z.string().optional(),
  qps: z.number().optional(),
  burst: int32.optional(),
});

export const proxyApiVersion = 'kubeproxy.config.k8s.io/v1alpha1';
export const proxyKind = 'KubeProxyConfiguration';

export const proxySchema = z.strictObject({
  apiVersion: z.literal(proxyApiVersion),
  kind: z.literal(proxyKind),
  featureGates: z.record(z.string(), z.boolean()).optional(),
  clientConnection: clientConnection.optional(),
  logging: logging.optional(),
  hostnameOverride: z.string().optional(),
  bindAddress: z.string().optional(),
  healthzBindAddress: z.string().optional(),
  metricsBindAddress: z.string().optional(),
  bindAddressHardFail: z.boolean().optional(),
  enableProfiling: z.boolean().optional(),
  showHiddenMetricsForVersion: z.string().optional(),
  mode: z.string().optional(),
  iptables: iptables.optional(),
  ipvs: ipvs.optional(),
  nftables: nftables.optional(),
  winkernel: winkernel.optional(),
  detectLocalMode: z.string().optional(),
  detectLocal: z.strictObject({ bridgeInterface: z.string().optional(), interfaceNamePrefix: z.string().optional() }).optional(),
  clusterCIDR: z.string().optional(),
  nodePortAddresses: strings.optional(),
  oomScoreAdj: int32.optional(),
  conntrack: conntrack.optional(),
  configSyncPeriod: duration.optional(),
  portRange: z.string().optional(),
  windowsRunAsService: z.boolean().optional(),
});

/** What a file or a command line says: everything optional, durations in milliseconds. */
export type GivenProxyConfiguration = Omit<z.output<typeof proxySchema>, 'apiVersion' | 'kind'>;
