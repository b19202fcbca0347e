// One node: namespaces of its own (network, mount, pid, host name) in which the agent's well-known folders are the node's own, as on a machine for itself.
import { copyFileSync, existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { stringify } from 'yaml';
import { cgroupMounts, makeCgroup } from './cgroups.ts';
import { pauseImage } from './images-recipes.ts';
import { machineBinds, writeCredentialProvider } from './machine.ts';
import { dnsAddress, outsideAddress, podSubnets } from './network.ts';
import { type LabRecord, labPaths, type NodeRecord, startComponent } from './record.ts';
import { privateRegistry } from './registry.ts';
import type { Runtime } from './runtimes.ts';
import { startContainerd } from './runtimes.ts';
import { waitFor } from './wait.ts';

/** Folders of the node and where its processes see them. Those in `run` hold sockets. */
const binds = (lab: LabRecord, node: NodeRecord): { from: string; to: string }[] => {
  const { home, run } = labPaths(lab.name).node(node.id);
  return [
    { from: join(home, 'kubelet'), to: '/var/lib/kubelet' },
    { from: join(home, 'pod-logs'), to: '/var/log/pods' },
    { from: join(home, 'container-logs'), to: '/var/log/containers' },
    { from: join(home, 'etc-kubernetes'), to: '/etc/kubernetes' },
    { from: join(home, 'cni-conf'), to: '/etc/cni/net.d' },
    { from: join(home, 'cni'), to: '/var/lib/cni' },
    { from: join(home, 'etc-containerd'), to: '/etc/containerd' },
    { from: join(home, 'keelson'), to: '/var/lib/keelson' },
    { from: join(run, 'keelson'), to: '/run/keelson' },
    { from: join(run, 'containerd'), to: '/run/containerd' },
    { from: join(run, 'cdi'), to: '/run/cdi' },
    ...machineBinds(lab, node),
    // By its folder "system" programs know a machine that systemd runs.
    ...(node.ownCgroups === true ? [{ from: join(run, 'systemd'), to: '/run/systemd' }] : []),
  ];
};

/** Every folder and file on the machine that a node's own are mounted over, inside the node only. */
export const mountPoints = (lab: LabRecord): { path: string; isFile: boolean }[] =>
  lab.nodes.flatMap((node) =>
    binds(lab, node).map(({ from, to }) => ({ path: to, isFile: statSync(from, { throwIfNoEntry: false })?.isFile() === true })),
  );

// Runs as pid 1 of the node. A fresh /sys shows the node's network devices; the machine's cgroup mounts stay below it, or the node's own take their
// place ("own", then a mount point, type and options each, then "--"). The namespaces of other labs under
// /run/netns are dropped, or this node would keep them alive. Everything is private to the node, and shared inside it, as systemd has it.
const holderScript = `
set -e
ready=$1 host=$2 cgroup=$3
mount --make-rprivate /
umount --recursive --lazy /run/netns
hostname "$host"
if [ "$cgroup" = own ]; then
  mount -t sysfs sysfs /sys
  # On v1 hierarchies are folders below it.
  [ "$4" = /sys/fs/cgroup ] || mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  shift 3
  while [ "$1" != -- ]; do
    mkdir -p "$1"
    mount -t "$2" -o "$3" cgroup "$1"
    shift 3
  done
  shift
else
  shift 3
  mkdir -p "$cgroup"
  mount --rbind /sys/fs/cgroup "$cgroup"
  mount -t sysfs sysfs /sys
  mount --rbind "$cgroup" /sys/fs/cgroup
  umount --recursive --lazy "$cgroup"
fi
while [ $# -gt 0 ]; do
  mount --bind "$1" "$2"
  shift 2
done
mount --make-rshared /
touch "$ready"
while :; do sleep infinity & wait $!; done
`;

/** Makes a node's namespaces and folders; its first process holds them, and its end ends everything in the node. */
export const startHolder = async (lab: LabRecord, node: NodeRecord): Promise<void> => {
  const { run, cgroup } = labPaths(lab.name).node(node.id);
  const pairs = binds(lab, node);
  for (const { from } of pairs) if (!existsSync(from)) mkdirSync(from, { recursive: true });
  await makeCgroup(cgroup);
  const ready = join(run, 'ready');
  const own = node.ownCgroups === true;
  const cgroups = own
    ? ['own', ...cgroupMounts().flatMap(({ point, type, options }) => [point, type, options]), '--']
    : [join(run, 'cgroup')];
  const script = ['sh', '-c', holderScript, 'node', ready, node.name, ...cgroups, ...pairs.flatMap(({ from, to }) => [from, to])];
  const namespaces = ['--mount', '--uts', '--pid', ...(own ? ['--cgroup'] : [])];
  await startComponent(
    lab,
    `${node.id}/holder`,
    {
      argv: ['unshare', ...namespaces, '--fork', '--mount-proc', '--propagation', 'private', ...script],
      place: { network: node.id },
    },
    // The cgroup in which a process asks for a cgroup namespace becomes its root.
    { forks: true, ...(own ? { cgroup } : {}) },
  );
  await waitFor(`the namespaces of node ${node.id}`, 60_000, () => (existsSync(ready) ? true : undefined), 10);
};

/** containerd's certs.d of a node. */
export const registryHosts = (lab: LabRecord, node: NodeRecord): string => join(labPaths(lab.name).node(node.id).home, 'registry-hosts');

/** Starts the node's containerd, or starts it again over what it left. */
export const startRuntime = async (lab: LabRecord, node: NodeRecord, runtime: Runtime): Promise<void> => {
  const { home, run, socket } = labPaths(lab.name).node(node.id);
  await startContainerd({
    runtime,
    root: join(home, 'containerd'),
    state: join(run, 'containerd-state'),
    socket,
    cniConfDir: join(home, 'cni-conf'),
    certsDir: registryHosts(lab, node),
    cdiSpecDirs: [join(run, 'cdi')],
    pauseImage,
    // Where a node of a real cluster has it, and a spec looks for the extra runtime handler.
    configFile: join(home, 'etc-containerd', 'config.toml'),
    logFile: join(labPaths(lab.name).logs, `${node.id}-containerd.log`),
    spawn: (argv, { env }) => startComponent(lab, `${node.id}/containerd`, { argv, env, place: { node: node.id } }),
  });
};

/** Writes the CNI configuration, which makes the node's network ready: a bridge, host ports, and an address of each family out of the node's podCIDRs. */
export const writeCniConfig = (lab: LabRecord, node: NodeRecord): void => {
  const file = join(labPaths(lab.name).node(node.id).home, 'cni-conf', '10-lab.conflist');
  const config = {
    cniVersion: '1.0.0',
    name: 'lab',
    plugins: [
      {
        type: 'bridge',
        bridge: 'cni0',
        isDefaultGateway: true,
        // A pod reaches itself through its Service.
        hairpinMode: true,
        ipam: { type: 'host-local', ranges: node.podCidrs.map((subnet) => [{ subnet }]) },
      },
      { type: 'portmap', capabilities: { portMappings: true }, snat: true },
    ],
  };
  writeFileSync(file, `${JSON.stringify(config, undefined, 2)}\n`);
};

/** The cluster's KubeletConfiguration, as kubeadm would put it in the ConfigMap kubelet-config. */
export const clusterKubeletConfig = (): Record<string, unknown> => ({
  apiVersion: 'kubelet.config.k8s.io/v1beta1',
  kind: 'KubeletConfiguration',
  authentication: {
    anonymous: { enabled: false },
    webhook: { enabled: true, cacheTTL: '0s' },
    x509: { clientCAFile: '/etc/kubernetes/pki/ca.crt' },
  },
  authorization: { mode: 'Webhook', webhook: { cacheAuthorizedTTL: '0s', cacheUnauthorizedTTL: '0s' } },
  clusterDNS: [dnsAddress],
  clusterDomain: 'cluster.local',
  containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock',
  cgroupDriver: 'cgroupfs',
  healthzBindAddress: '127.0.0.1',
  healthzPort: 10248,
  rotateCertificates: true,
  staticPodPath: '/etc/kubernetes/manifests',
  resolvConf: '/etc/kubernetes/resolv.conf',
  volumePluginDir: '/var/lib/kubelet/volume-plugins',
  // Off by default; what it serves is the node's journal.
  enableSystemLogQuery: true,
  failSwapOn: false,
  // The machine the lab runs on may have cgroup v1, which 1.36 refuses otherwise.
  failCgroupV1: false,
  // How full this machine's disk is must not evict pods or remove the images that were made for the node and can't be pulled again.
  evictionHard: {
    'memory.available': '100Mi',
    'nodefs.available': '0%',
    'nodefs.inodesFree': '0%',
    'imagefs.available': '0%',
    'imagefs.inodesFree': '0%',
  },
  imageGCHighThresholdPercent: 100,
  imageGCLowThresholdPercent: 99,
});

/** Nobody answers there: a name outside the cluster fails at once, by an ICMP refusal. */
export const writeResolvConf = (lab: LabRecord, node: NodeRecord): void => {
  const file = join(labPaths(lab.name).node(node.id).home, 'etc-kubernetes', 'resolv.conf');
  writeFileSync(file, `nameserver ${outsideAddress.v4}\n`, { mode: 0o600 });
};

/** Puts what a node is given into /etc/kubernetes: CA, bootstrap kubeconfig, configuration files. One that joins by token fetches those of its agent itself. */
export const writeNodeConfig = (lab: LabRecord, node: NodeRecord, bootstrapKubeconfig: string): void => {
  const paths = labPaths(lab.name);
  const { home, cgroup } = paths.node(node.id);
  const etc = join(home, 'etc-kubernetes');
  const put = (name: string, text: string): void => {
    mkdirSync(dirname(join(etc, name)), { recursive: true });
    writeFileSync(join(etc, name), text, { mode: 0o600 });
  };
  mkdirSync(join(etc, 'pki'), { recursive: true });
  mkdirSync(join(etc, 'manifests'), { recursive: true });
  if (lab.joins !== true) {
    copyFileSync(join(paths.pki, 'ca.crt'), join(etc, 'pki', 'ca.crt'));
    put('bootstrap-kubelet.conf', bootstrapKubeconfig);
    writeCredentialProvider(etc, privateRegistry);
    put('kubelet.yaml', stringify({ ...clusterKubeletConfig(), cgroupRoot: cgroup }));
  }
  writeResolvConf(lab, node);
  copyFileSync(join(paths.kubeconfigs, 'kube-proxy.conf'), join(etc, 'kube-proxy.conf'));
  put('kube-proxy.yaml', stringify({ ...kubeProxyConfig(lab), hostnameOverride: node.name }));
};

/** The cluster's KubeProxyConfiguration, as in the ConfigMap kube-proxy. */
export const kubeProxyConfig = (lab: LabRecord): Record<string, unknown> => ({
  apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
  kind: 'KubeProxyConfiguration',
  mode: lab.proxyMode,
  clusterCIDR: `${podSubnets.v4},${podSubnets.v6}`,
  clientConnection: { kubeconfig: '/etc/kubernetes/kube-proxy.conf' },
  // How many connections may be tracked belongs to the machine, not to a network namespace. The timeouts are kube-proxy's own defaults.
  conntrack: { maxPerCore: 0, min: 0, tcpCloseWaitTimeout: '1h', tcpEstablishedTimeout: '24h' },
});
