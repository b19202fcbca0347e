// The real control plane: etcd, kube-apiserver, controller manager and scheduler, with certificates, tokens and ConfigMaps made by kubeadm itself.
import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { parseAllDocuments, stringify } from 'yaml';
import { kubernetesVersion } from './binaries.ts';
import { run } from './images-debian.ts';
import { credentialAudience } from './machine.ts';
import { controlPlaneAddress, podMask, podSubnets, serviceSubnets } from './network.ts';
import { clusterKubeletConfig, kubeProxyConfig } from './node.ts';
import { isAlive, tailOf } from './process.ts';
import { type ComponentSpec, enter, type LabRecord, labPaths, startComponent } from './record.ts';
import { GiveUp, waitFor } from './wait.ts';

export type ControlPlaneBinaries = Record<
  'etcd' | 'kube-apiserver' | 'kube-controller-manager' | 'kube-scheduler' | 'kubeadm' | 'kubectl',
  string
>;

const place = { network: 'cp' };

/** A bootstrap token in kubeadm's form, such as "abcdef.0123456789abcdef". */
export const newBootstrapToken = (): string => `${randomBytes(3).toString('hex')}.${randomBytes(8).toString('hex')}`;

const kubeadmConfig = (lab: LabRecord): string => {
  const { pki } = labPaths(lab.name);
  return [
    {
      apiVersion: 'kubeadm.k8s.io/v1beta4',
      kind: 'InitConfiguration',
      bootstrapTokens: [{ token: lab.bootstrapToken, ttl: '24h0m0s' }],
      localAPIEndpoint: { advertiseAddress: controlPlaneAddress.v4, bindPort: 6443 },
      // Named, or kubeadm looks for the machine's own.
      nodeRegistration: { name: 'control-plane', criSocket: 'unix:///run/containerd/containerd.sock' },
    },
    {
      apiVersion: 'kubeadm.k8s.io/v1beta4',
      kind: 'ClusterConfiguration',
      clusterName: `lab-${lab.name}`,
      kubernetesVersion,
      certificatesDir: pki,
      controlPlaneEndpoint: `${controlPlaneAddress.v4}:6443`,
      networking: {
        podSubnet: `${podSubnets.v4},${podSubnets.v6}`,
        serviceSubnet: `${serviceSubnets.v4},${serviceSubnets.v6}`,
        dnsDomain: 'cluster.local',
      },
      apiServer: { certSANs: [controlPlaneAddress.v6, 'localhost', '127.0.0.1'] },
    },
    clusterKubeletConfig(),
    kubeProxyConfig(lab),
  ]
    .map((document) => stringify(document))
    .join('---\n');
};

/** Makes the lab's certificates and kubeconfigs; takes a second or two. */
export const makeCertificates = async (lab: LabRecord, kubeadm: string): Promise<void> => {
  const { home, pki, kubeconfigs } = labPaths(lab.name);
  const config = join(home, 'kubeadm.yaml');
  mkdirSync(kubeconfigs, { recursive: true });
  mkdirSync(pki, { recursive: true });
  writeFileSync(config, kubeadmConfig(lab), { mode: 0o600 });
  await run(kubeadm, ['init', 'phase', 'certs', 'all', '--config', config]);
  for (const who of ['admin', 'super-admin', 'controller-manager', 'scheduler'])
    await run(kubeadm, ['init', 'phase', 'kubeconfig', who, '--config', config, '--kubeconfig-dir', kubeconfigs]);
  writeFileSync(
    join(kubeconfigs, 'kube-proxy.conf'),
    await run(kubeadm, ['kubeconfig', 'user', '--client-name', 'system:kube-proxy', '--config', config]),
    {
      mode: 0o600,
    },
  );
};

/** A kubeconfig that holds the CA and the bootstrap token, as kubeadm join writes it. */
export const bootstrapKubeconfig = (lab: LabRecord): string =>
  stringify({
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [
      { name: 'lab', cluster: { server: `https://${controlPlaneAddress.v4}:6443`, 'certificate-authority': '/etc/kubernetes/pki/ca.crt' } },
    ],
    users: [{ name: 'tls-bootstrap-token-user', user: { token: lab.bootstrapToken } }],
    contexts: [{ name: 'bootstrap', context: { cluster: 'lab', user: 'tls-bootstrap-token-user' } }],
    'current-context': 'bootstrap',
  });

const specs = (lab: LabRecord, binaries: ControlPlaneBinaries) => {
  const { home, pki, kubeconfigs, kubeconfig, apiSocket } = labPaths(lab.name);
  const p = (name: string): string => join(pki, name);
  const services = `${serviceSubnets.v4},${serviceSubnets.v6}`;
  const table = {
    etcd: [
      binaries.etcd,
      '--name=lab',
      `--data-dir=${join(home, 'etcd')}`,
      // The data need not outlive the machine, and its disk is slow to sync.
      '--unsafe-no-fsync',
      '--listen-client-urls=https://127.0.0.1:2379',
      '--advertise-client-urls=https://127.0.0.1:2379',
      '--listen-peer-urls=http://127.0.0.1:2380',
      '--initial-advertise-peer-urls=http://127.0.0.1:2380',
      '--initial-cluster=lab=http://127.0.0.1:2380',
      '--client-cert-auth',
      `--trusted-ca-file=${p('etcd/ca.crt')}`,
      `--cert-file=${p('etcd/server.crt')}`,
      `--key-file=${p('etcd/server.key')}`,
      '--listen-metrics-urls=http://127.0.0.1:2381',
    ],
    apiserver: [
      binaries['kube-apiserver'],
      `--advertise-address=${controlPlaneAddress.v4}`,
      '--bind-address=::',
      '--secure-port=6443',
      '--allow-privileged=true',
      '--authorization-mode=Node,RBAC',
      '--enable-admission-plugins=NodeRestriction',
      '--enable-bootstrap-token-auth=true',
      // Webhooks are reached at their pods: nobody programs Services in the control plane's namespace.
      '--enable-aggregator-routing=true',
      '--etcd-servers=https://127.0.0.1:2379',
      `--etcd-cafile=${p('etcd/ca.crt')}`,
      `--etcd-certfile=${p('apiserver-etcd-client.crt')}`,
      `--etcd-keyfile=${p('apiserver-etcd-client.key')}`,
      `--client-ca-file=${p('ca.crt')}`,
      `--tls-cert-file=${p('apiserver.crt')}`,
      `--tls-private-key-file=${p('apiserver.key')}`,
      `--kubelet-client-certificate=${p('apiserver-kubelet-client.crt')}`,
      `--kubelet-client-key=${p('apiserver-kubelet-client.key')}`,
      '--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname',
      `--proxy-client-cert-file=${p('front-proxy-client.crt')}`,
      `--proxy-client-key-file=${p('front-proxy-client.key')}`,
      `--requestheader-client-ca-file=${p('front-proxy-ca.crt')}`,
      '--requestheader-allowed-names=front-proxy-client',
      '--requestheader-extra-headers-prefix=X-Remote-Extra-',
      '--requestheader-group-headers=X-Remote-Group',
      '--requestheader-username-headers=X-Remote-User',
      '--service-account-issuer=https://kubernetes.default.svc.cluster.local',
      `--service-account-key-file=${p('sa.pub')}`,
      `--service-account-signing-key-file=${p('sa.key')}`,
      `--service-cluster-ip-range=${services}`,
    ],
    'controller-manager': [
      binaries['kube-controller-manager'],
      '--bind-address=127.0.0.1',
      '--leader-elect=false',
      '--controllers=*,bootstrapsigner,tokencleaner',
      '--use-service-account-credentials=true',
      // What the spec on the pods' garbage collector is written for.
      '--terminated-pod-gc-threshold=100',
      '--allocate-node-cidrs=true',
      `--cluster-cidr=${podSubnets.v4},${podSubnets.v6}`,
      `--node-cidr-mask-size-ipv4=${podMask.v4}`,
      `--node-cidr-mask-size-ipv6=${podMask.v6}`,
      `--service-cluster-ip-range=${services}`,
      `--cluster-name=lab-${lab.name}`,
      `--cluster-signing-cert-file=${p('ca.crt')}`,
      `--cluster-signing-key-file=${p('ca.key')}`,
      `--root-ca-file=${p('ca.crt')}`,
      `--client-ca-file=${p('ca.crt')}`,
      `--requestheader-client-ca-file=${p('front-proxy-ca.crt')}`,
      `--service-account-private-key-file=${p('sa.key')}`,
      ...['kubeconfig', 'authentication-kubeconfig', 'authorization-kubeconfig'].map(
        (flag) => `--${flag}=${join(kubeconfigs, 'controller-manager.conf')}`,
      ),
    ],
    scheduler: [
      binaries['kube-scheduler'],
      '--bind-address=127.0.0.1',
      '--leader-elect=false',
      ...['kubeconfig', 'authentication-kubeconfig', 'authorization-kubeconfig'].map(
        (flag) => `--${flag}=${join(kubeconfigs, 'scheduler.conf')}`,
      ),
    ],
    // Sockets in the file system cross network namespaces: programs on the machine reach the API here, as cluster administrator.
    'api-proxy': [
      binaries.kubectl,
      'proxy',
      `--kubeconfig=${kubeconfig}`,
      `--unix-socket=${apiSocket}`,
      '--reject-paths=^$',
      '--accept-hosts=.*',
    ],
  } satisfies Record<string, string[]>;
  return (name: keyof typeof table): ComponentSpec => ({ argv: table[name], place });
};

/** Resolves when `probe` does, and rejects at once, with the end of the log, when the component has ended. */
const waitForComponent = async (lab: LabRecord, name: string, probe: () => Promise<unknown>, timeoutMs = 60_000): Promise<void> => {
  const component = lab.components[name];
  if (component === undefined) throw new Error(`lab ${lab.name} has no ${name}`);
  await waitFor(`${name} to be ready`, timeoutMs, async () => {
    if (!isAlive(component)) throw new GiveUp(`${name} has ended; the end of ${component.logFile}:\n${tailOf(component.logFile)}`);
    await probe();
    return true;
  });
};

const curl = (lab: LabRecord, url: string): Promise<string> =>
  run(enter(lab, place)[0] ?? '', [...enter(lab, place).slice(1), 'curl', '-fsk', '--max-time', '3', url]);

/** Waits until the API server says it is ready. */
export const waitForApiserver = (lab: LabRecord): Promise<void> =>
  waitForComponent(lab, 'apiserver', () => curl(lab, 'https://127.0.0.1:6443/readyz'));

/** Starts etcd and everything above it; resolves when the API server is ready and knows the cluster's bootstrap objects. */
export const startControlPlane = async (lab: LabRecord, binaries: ControlPlaneBinaries): Promise<void> => {
  const spec = specs(lab, binaries);
  await startComponent(lab, 'etcd', spec('etcd'));
  await waitForComponent(lab, 'etcd', () => curl(lab, 'http://127.0.0.1:2381/health'));
  await startComponent(lab, 'apiserver', spec('apiserver'));
  await waitForApiserver(lab);
  await startComponent(lab, 'api-proxy', spec('api-proxy'));
  await startComponent(lab, 'controller-manager', spec('controller-manager'));
  await startComponent(lab, 'scheduler', spec('scheduler'));
  await waitForComponent(lab, 'api-proxy', () => api(lab, '/readyz'));
};

const clusterRoleBinding = (name: string, role: string, subject: { kind: 'User' | 'Group'; name: string }) => ({
  apiVersion: 'rbac.authorization.k8s.io/v1',
  kind: 'ClusterRoleBinding',
  metadata: { name },
  roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: role },
  subjects: [{ ...subject, apiGroup: 'rbac.authorization.k8s.io' }],
});

/** What `kubeadm init` does after its control plane is up: join tokens and their RBAC, ConfigMaps, CoreDNS, kube-proxy's objects without its DaemonSet. */
export const setUpCluster = async (lab: LabRecord, binaries: ControlPlaneBinaries): Promise<void> => {
  const { home, kubeconfig } = labPaths(lab.name);
  const config = join(home, 'kubeadm.yaml');
  const kubeadm = (...args: string[]): Promise<string> => {
    const [command = '', ...rest] = [...enter(lab, place), binaries.kubeadm, ...args];
    return run(command, rest);
  };
  const addOns = async (): Promise<void> => {
    const texts = await Promise.all(
      ['coredns', 'kube-proxy'].map((addOn) => kubeadm('init', 'phase', 'addon', addOn, '--config', config, '--print-manifest')),
    );
    const objects = parseAllDocuments(texts.join('\n---\n'))
      .map((document) => document.toJS() as { kind: string; spec?: { replicas?: number } } | null)
      .filter((object) => object !== null && object.kind !== 'DaemonSet');
    for (const object of objects) if (object?.kind === 'Deployment' && object.spec !== undefined) object.spec.replicas = 1;
    const bindings = [
      clusterRoleBinding('kubeadm:cluster-admins', 'cluster-admin', { kind: 'Group', name: 'kubeadm:cluster-admins' }),
      // Without it logs and exec are Forbidden by nodes that ask the API server who may.
      clusterRoleBinding('lab:kubelet-api-admin', 'system:kubelet-api-admin', { kind: 'User', name: 'kube-apiserver-kubelet-client' }),
      // Nodes may ask for tokens for no audience that is not named in a pod, but for those named here: the credential provider's.
      {
        apiVersion: 'rbac.authorization.k8s.io/v1',
        kind: 'ClusterRole',
        metadata: { name: 'lab:credential-provider' },
        rules: [{ apiGroups: [''], resources: [credentialAudience], verbs: ['request-serviceaccounts-token-audience'] }],
      },
      clusterRoleBinding('lab:credential-provider', 'lab:credential-provider', { kind: 'Group', name: 'system:nodes' }),
    ];
    await kubectl(
      lab,
      binaries.kubectl,
      ['apply', '--server-side', '-f', '-'],
      JSON.stringify({ apiVersion: 'v1', kind: 'List', items: [...bindings, ...objects] }),
    );
  };
  await Promise.all([
    addOns(),
    kubeadm('init', 'phase', 'bootstrap-token', '--config', config, '--kubeconfig', kubeconfig, '--skip-token-print'),
    kubeadm('init', 'phase', 'upload-config', 'all', '--config', config, '--kubeconfig', kubeconfig),
  ]);
};

/** Runs kubectl as cluster administrator beside the control plane, and resolves to what it prints. */
export const kubectl = (lab: LabRecord, binary: string, args: readonly string[], input?: string): Promise<string> => {
  const [command = '', ...rest] = [...enter(lab, place), binary, `--kubeconfig=${labPaths(lab.name).kubeconfig}`, ...args];
  return run(command, rest, { input, env: { KUBECACHEDIR: labPaths(lab.name).kubectlCache } });
};

export type ApiOptions = { method?: string; body?: unknown; contentType?: string };

/** Asks the lab's API server as cluster administrator; resolves to the parsed answer (text when it is not JSON). Rejects on a status of 400 and above. */
export const api = <T = unknown>(lab: { name: string }, path: string, options: ApiOptions = {}): Promise<T> =>
  new Promise((resolve, reject) => {
    const body = options.body === undefined ? undefined : JSON.stringify(options.body);
    const headers =
      body === undefined
        ? {}
        : { 'content-type': options.contentType ?? 'application/json', 'content-length': String(Buffer.byteLength(body)) };
    const call = request(
      { socketPath: labPaths(lab.name).apiSocket, path, method: options.method ?? 'GET', headers, timeout: 30_000 },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const text = Buffer.concat(chunks).toString();
          if ((response.statusCode ?? 500) >= 400)
            reject(new Error(`${options.method ?? 'GET'} ${path}: ${response.statusCode} ${text.trim().slice(0, 500)}`));
          else resolve((response.headers['content-type']?.includes('json') ? JSON.parse(text) : text) as T);
        });
      },
    );
    call.on('timeout', () => call.destroy(new Error(`${path}: no answer within 30 s`)));
    call.on('error', reject);
    call.end(body);
  });
