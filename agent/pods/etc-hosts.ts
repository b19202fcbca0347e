import type { HostAlias } from '../model/generated/api.ts';

/** The /etc/hosts of a pod with a network of its own: its IPs by its name, then its host aliases. */
export function managedHosts(
  podIPs: readonly string[],
  hostname: string,
  domain: string,
  aliases: readonly HostAlias[] | undefined,
): string {
  const names = domain === '' ? hostname : `${hostname}.${domain}\t${hostname}`;
  return [
    '# Kubernetes-managed hosts file.\n',
    '127.0.0.1\tlocalhost\n',
    '::1\tlocalhost ip6-localhost ip6-loopback\n',
    'fe00::0\tip6-localnet\n',
    'fe00::0\tip6-mcastprefix\n',
    'fe00::1\tip6-allnodes\n',
    'fe00::2\tip6-allrouters\n',
    ...podIPs.map((ip) => `${ip}\t${names}\n`),
    aliasLines(aliases),
  ].join('');
}

/** The /etc/hosts of a pod on the node's network: the node's own file, then its host aliases. */
export function hostNetworkHosts(nodeHosts: string, aliases: readonly HostAlias[] | undefined): string {
  return `# Kubernetes-managed hosts file (host network).\n${nodeHosts}${aliasLines(aliases)}`;
}

function aliasLines(aliases: readonly HostAlias[] = []): string {
  if (aliases.length === 0) return '';
  const lines = aliases.map((alias) => `${alias.ip}\t${(alias.hostnames ?? []).join('\t')}\n`);
  return `\n# Entries added by HostAliases.\n${lines.join('')}`;
}
