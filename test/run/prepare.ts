// Installs and builds what a stage of the tests needs, once, into the cache: `node test/run/prepare.ts STAGE`. Its own process, so that it can be given a time limit.
import { existsSync } from 'node:fs';
import { ensureBinaries, ensureGo } from '../testbed/binaries.ts';
import { ensureCoreDnsImage } from '../testbed/coredns.ts';
import { ensureImages } from '../testbed/images.ts';
import { ensureTools, say } from '../testbed/images-debian.ts';
import { ensureRegistry } from '../testbed/registry.ts';
import { ensureRuntime } from '../testbed/runtimes.ts';
import { ensureVmParts } from '../testbed/vm.ts';

const kernelTools = {
  ip: 'iproute2',
  nft: 'nftables',
  iptables: 'iptables',
  ipset: 'ipset',
  conntrack: 'conntrack',
  curl: 'curl',
  nsenter: 'util-linux',
  mount: 'mount',
};

const lab = async (): Promise<void> => {
  await ensureTools({ ...kernelTools, openssl: 'openssl' });
  await ensureRuntime('containerd-2');
  await ensureRegistry();
  await ensureBinaries(['etcd', 'kube-apiserver', 'kube-controller-manager', 'kube-scheduler', 'kubeadm', 'kubectl', 'kube-proxy']);
  await ensureCoreDnsImage();
  await ensureImages();
};

const stages: Record<string, () => Promise<unknown>> = {
  unit: async () => {
    await ensureTools({ openssl: 'openssl' });
    await ensureGo();
  },
  proxy: () => ensureTools({ ...kernelTools, sysctl: 'procps' }),
  containerd: async () => {
    await ensureTools(kernelTools);
    await ensureRuntime('containerd-1.6');
    await ensureRuntime('containerd-2');
    await ensureRegistry();
    await ensureImages();
  },
  cluster: lab,
  e2e: async () => {
    await lab();
    await ensureBinaries(['e2e.test', 'ginkgo']);
  },
  vm: ensureVmParts,
};

const [stage = ''] = process.argv.slice(2);
const prepare = stages[stage];
if (prepare === undefined) throw new Error(`there is nothing to prepare for "${stage}": ${Object.keys(stages).join(', ')}`);
// Certificates of what is downloaded from are checked with Debian's bundle.
if (!existsSync('/etc/ssl/certs/ca-certificates.crt')) await ensureTools({ 'update-ca-certificates': 'ca-certificates' });
try {
  await prepare();
} catch (error) {
  say(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
