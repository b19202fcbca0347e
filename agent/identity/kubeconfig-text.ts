import { AgentError, messageOf } from '../base/errors.ts';
import { readYaml, writeYaml } from '../model/yaml.ts';

/** One user of a kubeconfig, as far as it matters whether and how it authenticates. */
export interface KubeconfigUser {
  readonly token?: string | undefined;
  readonly tokenFile?: string | undefined;
  readonly 'client-certificate'?: string | undefined;
  readonly 'client-certificate-data'?: string | undefined;
  readonly 'client-key'?: string | undefined;
  readonly 'client-key-data'?: string | undefined;
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  readonly exec?: object | undefined;
}

/** The cluster that a kubeconfig points to, and its user. `caPem` from embedded data; `caFile` as written. */
export interface KubeconfigTarget {
  readonly server: string;
  readonly caPem: string | undefined;
  readonly caFile: string | undefined;
  readonly insecure: boolean;
  readonly proxyUrl: string | undefined;
  readonly user: KubeconfigUser | undefined;
}

interface KubeconfigCluster {
  server?: string;
  'certificate-authority'?: string;
  'certificate-authority-data'?: string;
  'insecure-skip-tls-verify'?: boolean;
  'proxy-url'?: string;
}

/**
 * Reads the cluster of the current context, or without one the only cluster: the kubeconfig in cluster-info has a nameless cluster and
 * no context. Throws AgentError `InvalidKubeconfig`; `where` says whose it is.
 */
export function readKubeconfigTarget(text: string, where: string): KubeconfigTarget {
  type Kubeconfig = {
    clusters?: { name?: string; cluster?: KubeconfigCluster }[];
    contexts?: { name?: string; context?: { cluster?: string; user?: string } }[];
    users?: { name?: string; user?: KubeconfigUser }[];
    'current-context'?: string;
  };
  let document: Kubeconfig | null | undefined;
  try {
    document = readYaml(text)?.value as Kubeconfig | null | undefined;
  } catch (error) {
    throw new AgentError('InvalidKubeconfig', `${where} is not YAML: ${messageOf(error)}`, { cause: error });
  }
  if (document === null || typeof document !== 'object') throw new AgentError('InvalidKubeconfig', `${where} is not a kubeconfig`);
  const clusters = document.clusters ?? [];
  const currentName = document['current-context'];
  const context = currentName ? document.contexts?.find((c) => c.name === currentName)?.context : undefined;
  if (currentName && context === undefined) {
    throw new AgentError('InvalidKubeconfig', `${where}: the current context ${JSON.stringify(currentName)} is not among its contexts`);
  }
  const cluster =
    context === undefined ? (clusters.length === 1 ? clusters[0] : undefined) : clusters.find((c) => c.name === context.cluster);
  const server = cluster?.cluster?.server;
  if (cluster === undefined || !server) throw new AgentError('InvalidKubeconfig', `${where} names no cluster with a server`);
  const data = cluster.cluster?.['certificate-authority-data'];
  return {
    server,
    caPem: data ? Buffer.from(data, 'base64').toString('utf8') : undefined,
    caFile: cluster.cluster?.['certificate-authority'] || undefined,
    insecure: cluster.cluster?.['insecure-skip-tls-verify'] === true,
    proxyUrl: cluster.cluster?.['proxy-url'] || undefined,
    user: context?.user === undefined ? undefined : (document.users?.find((u) => u.name === context.user)?.user ?? undefined),
  };
}

/** True when the user carries anything to authenticate with. */
export function hasCredentials(user: KubeconfigUser | undefined): user is KubeconfigUser {
  if (user === undefined) return false;
  return [user.token, user.tokenFile, user['client-certificate'], user['client-certificate-data'], user.username, user.exec].some(
    (value) => value !== undefined && value !== '',
  );
}

/** The text of bootstrap-kubelet.conf: names as kubeadm gives them (cluster `kubernetes`, user `tls-bootstrap-token-user`). */
export function bootstrapKubeconfig(server: string, caPem: string | undefined, user: KubeconfigUser, proxyUrl: string | undefined): string {
  return kubeconfig(
    'kubernetes',
    'tls-bootstrap-token-user',
    'tls-bootstrap-token-user@kubernetes',
    undefined,
    clusterFields(server, caPem, proxyUrl),
    user,
  );
}

/**
 * The text of kubelet.conf: names as kubelet gives them when it bootstraps, certificate and key in the file that rotation replaces. It keeps the proxy, which kubelet forgets:
 * without it the node would not reach the server that it has just asked.
 */
export function nodeKubeconfig(
  server: string,
  ca: { pem?: string | undefined; file?: string | undefined; insecure?: boolean },
  pairPath: string,
  proxyUrl?: string | undefined,
): string {
  const cluster = {
    ...clusterFields(server, ca.pem, proxyUrl),
    ...(ca.file === undefined ? {} : { 'certificate-authority': ca.file }),
    ...(ca.insecure === true ? { 'insecure-skip-tls-verify': true } : {}),
  };
  return kubeconfig('default-cluster', 'default-auth', 'default-context', 'default', cluster, {
    'client-certificate': pairPath,
    'client-key': pairPath,
  });
}

function clusterFields(server: string, caPem: string | undefined, proxyUrl: string | undefined): object {
  return {
    ...(caPem === undefined ? {} : { 'certificate-authority-data': Buffer.from(caPem, 'utf8').toString('base64') }),
    ...(proxyUrl === undefined ? {} : { 'proxy-url': proxyUrl }),
    server,
  };
}

function kubeconfig(
  clusterName: string,
  userName: string,
  contextName: string,
  namespace: string | undefined,
  cluster: object,
  user: object,
): string {
  return writeYaml({
    apiVersion: 'v1',
    clusters: [{ cluster, name: clusterName }],
    contexts: [{ context: { cluster: clusterName, ...(namespace === undefined ? {} : { namespace }), user: userName }, name: contextName }],
    'current-context': contextName,
    kind: 'Config',
    preferences: {},
    users: [{ name: userName, user }],
  });
}
