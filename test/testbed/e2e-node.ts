// Upstream's suite for one node by itself (test/e2e_node). It runs on the node, and starts what it needs there: etcd, an API server, and the kubelet, for
// which either agent stands in.
import { chmodSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { stringify } from 'yaml';
import { kubeletCommand } from './agents.ts';
import { ensureBinary } from './binaries.ts';
import { ensureImages, importImages, storedImages } from './images.ts';
import { ensureTools } from './images-debian.ts';
import { prepareLab, replaceLab, runIn, startImageRegistry } from './lab.ts';
import { nodeAddress, podMask } from './network.ts';
import { clusterKubeletConfig, startHolder, startRuntime, writeCniConfig, writeResolvConf } from './node.ts';
import { type AgentKind, bootId, componentCgroup, enter, type LabRecord, labPaths, type NodeRecord, writeRecord } from './record.ts';
import { splitName } from './registry.ts';
import { ensureRuntime, type RuntimeKind } from './runtimes.ts';

/** Starts a node without a cluster, after ending the lab of this name: containerd, network, images, a registry to pull from. */
export const startLoneNode = (options: {
  name: string;
  agent?: AgentKind | undefined;
  runtime?: RuntimeKind | undefined;
}): Promise<LabRecord> =>
  replaceLab(options.name, async (step) => {
    const kind = options.runtime ?? 'containerd-2';
    // Specs list processes, and ask for the machine's CPUs and IPC objects.
    await ensureTools({ ps: 'procps', lscpu: 'util-linux', ipcmk: 'util-linux' });
    const runtime = await ensureRuntime(kind);
    const tars = await ensureImages();
    const node: NodeRecord = {
      id: 'n1',
      index: 1,
      name: `${options.name}-n1`,
      podCidrs: [`10.244.16.0/${podMask.v4}`, `fd00:10:244:1::/${podMask.v6}`],
      ownCgroups: true,
    };
    const lab: LabRecord = {
      name: options.name,
      bootId: bootId(),
      agent: options.agent ?? 'keelson',
      proxyMode: 'nftables',
      runtime: kind,
      bootstrapToken: '',
      alone: true,
      nodes: [node],
      components: {},
      complete: false,
    };
    await prepareLab(lab);
    mkdirSync(join(labPaths(lab.name).node(node.id).run, 'systemd', 'system'), { recursive: true });
    await startHolder(lab, node);
    writeResolvConf(lab, node);
    writeCniConfig(lab, node);
    await Promise.all([
      startImageRegistry(lab).then((registry) => fetchLayer(lab, node, registry.url)),
      startRuntime(lab, node, runtime).then(() =>
        importImages({ ctr: runtime.ctr, socket: labPaths(lab.name).node(node.id).socket, tars }),
      ),
    ]);
    lab.complete = true;
    writeRecord(lab);
    step(`node ${node.name} is up, without a cluster: ${kind} ${runtime.version}`);
    return lab;
  });

/** Reads a layer from the registry: a spec wants a node whose network device has seen the pull of an image, and here images are imported. */
const fetchLayer = async (lab: LabRecord, node: NodeRecord, registry: string): Promise<void> => {
  const [image] = (await storedImages('small')).filter(({ name }) => name.includes('/busybox:'));
  const layer = image?.layers[0];
  if (image === undefined || layer === undefined) throw new Error('no image is called busybox');
  const url = `${registry}/v2/${splitName(image.name).repository}/blobs/${layer.digest}`;
  await runIn(lab, node.id, ['curl', '--silent', '--show-error', '--fail', '--output', '/dev/null', url]);
};

/** What the suite's base configuration says (test/e2e_node/jenkins/default-kubelet-config.yaml), and what the lab's nodes need. */
const kubeletConfig = (): Record<string, unknown> => {
  const { authentication, authorization, clusterDNS, rotateCertificates, staticPodPath, ...own } = clusterKubeletConfig();
  return {
    ...own,
    cgroupRoot: '/',
    podCIDR: '10.100.0.0/24',
    volumeStatsAggPeriod: '10s',
    fileCheckFrequency: '10s',
    evictionPressureTransitionPeriod: '30s',
    serializeImagePulls: false,
  };
};

/** Commands of a machine with systemd and sudo that the suite calls, see e2e-node-units.sh. */
const standIns = ['sudo', 'systemctl', 'systemd-run'];

/** How to run a suite: `prefix` comes before ginkgo's command line, `binary` is the suite, `args` are its own, and all is in `cgroup`. */
export type Harness = { prefix: string[]; binary: string; args: string[]; env: Record<string, string>; cgroup: string };

/** How to run the suite on a lone node. */
export const nodeSuite = async (lab: LabRecord, reports: string): Promise<Harness> => {
  const node = lab.nodes[0];
  if (lab.alone !== true || node === undefined) throw new Error(`lab ${lab.name} is a cluster: the suite wants a node by itself`);
  const home = join(labPaths(lab.name).home, 'e2e-node');
  const [tools, bin, work] = [join(home, 'tools'), join(home, 'bin'), join(home, 'work')];
  rmSync(home, { recursive: true, force: true });
  for (const folder of [tools, bin, work]) mkdirSync(folder, { recursive: true });
  for (const name of standIns) symlinkSync(resolve(import.meta.dirname, 'e2e-node-units.sh'), join(tools, name));
  const { argv, env } = await kubeletCommand(lab.agent);
  const exports = Object.entries(env).map(([key, value]) => `export ${key}=${quote(value)}`);
  writeFileSync(join(bin, 'kubelet'), ['#!/bin/sh', ...exports, `exec ${argv.map(quote).join(' ')} "$@"`, ''].join('\n'));
  chmodSync(join(bin, 'kubelet'), 0o755);
  // The suite writes its files where it lies: ginkgo starts it there.
  const binary = join(work, 'e2e_node.test');
  symlinkSync(await ensureBinary('e2e_node.test'), binary);
  writeFileSync(join(home, 'kubelet.yaml'), stringify(kubeletConfig()));
  const address = nodeAddress(node.index);
  const containerd = componentCgroup(lab, { node: node.id }, `${node.id}/containerd`);
  const kubeletFlags = [
    `--node-ip=${address.v4},${address.v6}`,
    // As the node sees it.
    `--runtime-cgroups=${containerd.slice(labPaths(lab.name).node(node.id).cgroup.length)}`,
  ];
  return {
    prefix: [...enter(lab, { node: node.id }), 'sh', '-c', 'cd "$1" && shift && exec "$@"', 'sh', work],
    binary,
    args: [
      `--k8s-bin-dir=${bin}`,
      `--kubelet-config-file=${join(home, 'kubelet.yaml')}`,
      `--kubelet-flags=${kubeletFlags.join(' ')}`,
      `--node-name=${node.name}`,
      '--dns-domain=cluster.local',
      '--container-runtime-endpoint=unix:///run/containerd/containerd.sock',
      // They are there: imported, as far as they can be made here. One is named by a digest, which is that of upstream's own.
      '--prepull-images=false',
      // A busy machine takes longer than the two minutes they get otherwise.
      '--server-start-timeout=5m',
      `--report-dir=${join(reports, 'logs')}`,
    ],
    env: {
      PATH: [tools, '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'].join(':'),
      KEELSON_LAB_UNITS: join(home, 'units'),
    },
    cgroup: componentCgroup(lab, { node: node.id }, 'e2e'),
  };
};

const quote = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
