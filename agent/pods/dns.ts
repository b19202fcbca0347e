import { isIPv6 } from 'node:net';
import type { DNSConfig } from '../../cri-protos/generated/cri.ts';
import { AgentError } from '../base/errors.ts';
import type { PodDNSConfigOption } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';

// A pod's resolv.conf and host name (pkg/kubelet/network/dns, kubelet_pods.go).

const maxNameservers = 3;
const maxSearchPaths = 32;
const maxSearchChars = 2048;
const maxSubdomain = 253;

/** The node's resolv.conf. */
export interface ResolvConf {
  readonly nameservers: readonly string[];
  readonly searches: readonly string[];
  readonly options: readonly string[];
}

export interface DnsSettings {
  /** The parsed `resolvConf` file; undefined when the setting is empty, which leaves pods with dnsPolicy Default a resolver on localhost only. */
  readonly resolvConf: ResolvConf | undefined;
  readonly clusterDNS: readonly string[];
  readonly clusterDomain: string;
  readonly nodeIPs: readonly string[];
}

/** A warning to record on the pod or the node. */
export interface DnsEvent {
  readonly on: 'pod' | 'node';
  readonly reason: 'DNSConfigForming' | 'MissingClusterDNS' | 'CheckLimitsForResolvConf';
  readonly message: string;
}

/** Reads a resolv.conf. Throws AgentError InvalidResolvConf for a nameserver line without an address. */
export function parseResolvConf(text: string): ResolvConf {
  const nameservers: string[] = [];
  let searches: string[] = [];
  const options = new Map<string, string>();
  for (const line of text.split('\n')) {
    const [keyword, ...fields] = line.trim().split(/\s+/);
    switch (keyword) {
      case 'nameserver': {
        const [address] = fields;
        if (address === undefined)
          throw new AgentError('InvalidResolvConf', 'Encountered error while parsing resolv conf file. Error: nameserver list is empty ');
        nameservers.push(address);
        break;
      }
      case 'search':
        // The last line wins. `a.` and `a` are the same domain and must count once.
        searches = fields.filter((field) => field !== '.').map((field) => field.replace(/\.$/, ''));
        break;
      case 'options':
        for (const option of fields) options.set(option.split(':')[0] ?? '', option);
        break;
    }
  }
  return { nameservers, searches, options: [...options.values()] };
}

type DnsType = 'cluster' | 'host' | 'none';

function dnsTypeOf(pod: AgentPod): DnsType {
  switch (pod.spec.dnsPolicy) {
    case 'None':
      return 'none';
    case 'Default':
      return 'host';
    case 'ClusterFirst':
    case undefined:
      // On the node's network, the node's resolver.
      return pod.spec.hostNetwork === true ? 'host' : 'cluster';
    default:
      return 'cluster';
  }
}

/** What the runtime writes into the pod's resolv.conf, and what to warn of. */
export function podDns(pod: AgentPod, settings: DnsSettings): { config: DNSConfig; events: DnsEvent[] } {
  const events: DnsEvent[] = [];
  let type = dnsTypeOf(pod);
  if (type === 'cluster' && settings.clusterDNS.length === 0) {
    const message =
      'kubelet does not have ClusterDNS IP configured and cannot create Pod using "ClusterFirst" policy. Falling back to "Default" policy.';
    const { name, namespace, uid } = pod.metadata;
    events.push({ on: 'node', reason: 'MissingClusterDNS', message });
    events.push({ on: 'pod', reason: 'MissingClusterDNS', message: `pod: "${name}_${namespace}(${uid})". ${message}` });
    type = 'host';
  }
  const base = baseConfig(type, pod, settings);
  const extra = pod.spec.dnsConfig;
  const servers = unique([...base.nameservers, ...(extra?.nameservers ?? [])], extra !== undefined);
  const searches = unique([...base.searches, ...(extra?.searches ?? [])], extra !== undefined);
  const options = extra === undefined ? [...base.options] : mergeOptions(base.options, extra.options ?? []);
  return { config: { servers: fitServers(servers, events), searches: fitSearches(searches, events), options }, events };
}

function baseConfig(type: DnsType, pod: AgentPod, settings: DnsSettings): ResolvConf {
  const host = settings.resolvConf ?? { nameservers: [], searches: [], options: [] };
  switch (type) {
    case 'none':
      return { nameservers: [], searches: [], options: [] };
    case 'cluster': {
      const domain = settings.clusterDomain;
      const cluster = domain === '' ? [] : [`${pod.metadata.namespace}.svc.${domain}`, `svc.${domain}`, domain];
      const searches = domain === '' ? host.searches : unique([...cluster, ...host.searches], true);
      return { nameservers: settings.clusterDNS, searches, options: ['ndots:5'] };
    }
    case 'host': {
      if (settings.resolvConf !== undefined) return host;
      const local = settings.nodeIPs.map((ip) => (isIPv6(ip) ? '::1' : '127.0.0.1'));
      return { nameservers: local.length === 0 ? ['127.0.0.1'] : local, searches: ['.'], options: [] };
    }
  }
}

function unique(values: string[], asked: boolean): string[] {
  return asked ? [...new Set(values)] : values;
}

function mergeOptions(base: readonly string[], own: readonly PodDNSConfigOption[]): string[] {
  const merged = new Map<string, string>();
  for (const option of base) {
    const colon = option.indexOf(':');
    merged.set(colon < 0 ? option : option.slice(0, colon), colon < 0 ? '' : option.slice(colon + 1));
  }
  for (const option of own) merged.set(option.name ?? '', option.value ?? '');
  return [...merged].map(([name, value]) => (value === '' ? name : `${name}:${value}`));
}

function fitServers(servers: string[], events: DnsEvent[]): string[] {
  if (servers.length <= maxNameservers) return servers;
  const kept = servers.slice(0, maxNameservers);
  const message = `Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: ${kept.join(' ')}`;
  events.push({ on: 'pod', reason: 'DNSConfigForming', message });
  return kept;
}

function fitSearches(searches: string[], events: DnsEvent[]): string[] {
  // glibc 2.28 aborts on a search path longer than a name may be.
  const kept = searches.slice(0, maxSearchPaths).filter((search) => search.length <= maxSubdomain);
  while (kept.join(' ').length > maxSearchChars) kept.pop();
  if (kept.length < searches.length) {
    const message = `Search Line limits were exceeded, some search paths have been omitted, the applied search line is: ${kept.join(' ')}`;
    events.push({ on: 'pod', reason: 'DNSConfigForming', message });
  }
  return kept;
}

/** What is wrong with the node's own search line, if anything: with the cluster's domains added it must still fit. */
export function checkResolvConf(file: string, resolvConf: ResolvConf, clusterDomain: string): DnsEvent | undefined {
  const limit = clusterDomain === '' ? maxSearchPaths : maxSearchPaths - 3;
  const { searches } = resolvConf;
  const event = (message: string): DnsEvent => ({ on: 'node', reason: 'CheckLimitsForResolvConf', message });
  if (searches.length > limit) return event(`Resolv.conf file '${file}' contains search line consisting of more than ${limit} domains!`);
  if (searches.some((search) => search.length > maxSubdomain)) {
    return event(`Resolv.conf file "${file}" contains a search path which length is more than allowed ${maxSubdomain} chars!`);
  }
  if (searches.join(' ').length > maxSearchChars) {
    return event(`Resolv.conf file '${file}' contains search line which length is more than allowed ${maxSearchChars} chars!`);
  }
  return undefined;
}

const label = '[a-z0-9]([-a-z0-9]*[a-z0-9])?';
const labelPattern = new RegExp(`^${label}$`);
const subdomainPattern = new RegExp(`^${label}(\\.${label})*$`);
const maxHostname = 63;

/** The host name of a pod and the domain below which DNS knows it (`''` for none). Throws AgentError InvalidHostname in upstream's words. */
export function podHostname(pod: AgentPod, clusterDomain: string): { hostname: string; domain: string } {
  const { hostnameOverride, hostname, subdomain } = pod.spec;
  if (hostnameOverride !== undefined) {
    const problem = subdomainProblem(hostnameOverride);
    if (problem !== '')
      throw new AgentError('InvalidHostname', `pod HostnameOverride "${hostnameOverride}" is not a valid DNS subdomain: ${problem}`);
    return { hostname: truncateHostname(pod.metadata.name, hostnameOverride), domain: '' };
  }
  let name = pod.metadata.name;
  if (hostname !== undefined && hostname !== '') {
    const problem = labelProblem(hostname);
    if (problem !== '') throw new AgentError('InvalidHostname', `pod Hostname "${hostname}" is not a valid DNS label: ${problem}`);
    name = hostname;
  }
  name = truncateHostname(pod.metadata.name, name);
  if (subdomain === undefined || subdomain === '') return { hostname: name, domain: '' };
  const problem = labelProblem(subdomain);
  if (problem !== '') throw new AgentError('InvalidHostname', `pod Subdomain "${subdomain}" is not a valid DNS label: ${problem}`);
  return { hostname: name, domain: `${subdomain}.${pod.metadata.namespace}.svc.${clusterDomain}` };
}

/**
 * What the kernel of the sandbox is told as host name: the short one, or the full one when the pod asks; `''` on the node's network, where it has the
 * node's. Throws AgentError InvalidHostname.
 */
export function sandboxHostname(pod: AgentPod, clusterDomain: string): string {
  if (pod.spec.hostNetwork === true) return '';
  const { hostname, domain } = podHostname(pod, clusterDomain);
  if (domain === '' || pod.spec.setHostnameAsFQDN !== true) return hostname;
  const fqdn = `${hostname}.${domain}`;
  // The kernel's nodename field (uts_namespace) holds 64.
  if (fqdn.length > 64) {
    throw new AgentError(
      'InvalidHostname',
      `failed to construct FQDN from pod hostname and cluster domain, FQDN ${fqdn} is too long (64 characters is the max, ${fqdn.length} characters requested)`,
    );
  }
  return fqdn;
}

function truncateHostname(podName: string, hostname: string): string {
  if (hostname.length <= maxHostname) return hostname;
  const cut = hostname.slice(0, maxHostname).replace(/[-.]+$/, '');
  if (cut === '') throw new AgentError('InvalidHostname', `hostname for pod "${podName}" was invalid: "${hostname}"`);
  return cut;
}

function labelProblem(text: string): string {
  const problems: string[] = [];
  if (text.length > 63) problems.push('must be no more than 63 characters');
  if (!labelPattern.test(text)) {
    problems.push(
      subdomainPattern.test(text)
        ? 'must not contain dots'
        : `a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '${label}')`,
    );
  }
  return problems.join(';');
}

function subdomainProblem(text: string): string {
  const problems: string[] = [];
  if (text.length > maxSubdomain) problems.push('must be no more than 253 characters');
  if (!subdomainPattern.test(text)) {
    problems.push(
      `a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '${label}(\\.${label})*')`,
    );
  }
  return problems.join(';');
}
