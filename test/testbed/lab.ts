// A lab: a real cluster in closed namespaces. This is what tests use; `test/lab` is the same at the keyboard.
import { existsSync, lstatSync, mkdirSync, readFileSync, rmdirSync, unlinkSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { agentCommand, joinCluster, proxyCommand } from './agents.ts';
import { type BinaryName, ensureBinaries } from './binaries.ts';
import { processesIn, removeCgroup } from './cgroups.ts';
import {
  api,
  bootstrapKubeconfig,
  type ControlPlaneBinaries,
  kubectl,
  makeCertificates,
  newBootstrapToken,
  setUpCluster,
  startControlPlane,
  waitForApiserver,
} from './control-plane.ts';
import { ensureCoreDnsImage } from './coredns.ts';
import { ensureImages, importImages } from './images.ts';
import { ensureTools, run, say, withLock } from './images-debian.ts';
import { startMachine } from './machine.ts';
import { makeNetwork, namespaceOf, outsideAddress, removeNetwork, routePods } from './network.ts';
import { mountPoints, registryHosts, startHolder, startRuntime, writeCniConfig, writeNodeConfig } from './node.ts';
import { endProcess, isAlive, tailOf } from './process.ts';
import {
  type AgentKind,
  bootId,
  endComponent,
  enter,
  type LabRecord,
  labNames,
  labPaths,
  type NodeRecord,
  type ProxyKind,
  type ProxyMode,
  readRecord,
  startComponent,
  writeRecord,
} from './record.ts';
import { type Registry, startRegistry, writeCertsDir } from './registry.ts';
import { ensureRuntime, type RuntimeKind } from './runtimes.ts';
import { GiveUp, waitFor } from './wait.ts';

export type LabOptions = {
  /** Lower-case letters, digits and dashes, at most 16; default "lab". */
  name?: string | undefined;
  agent?: AgentKind | undefined;
  /** The agent of each node, for a lab that compares them; default: `agent` on all. */
  agents?: readonly AgentKind[] | undefined;
  nodes?: number | undefined;
  /** Spreads the nodes over zones "zone-1", …; 0 means that nodes have no zone. */
  zones?: number | undefined;
  proxyMode?: ProxyMode | undefined;
  proxy?: ProxyKind | undefined;
  runtime?: RuntimeKind | undefined;
  /** Starts a registry to pull from; default true. */
  registry?: boolean | undefined;
  /** The nodes join by token with `keelson join`, as a machine of its own would; default: they are given a bootstrap kubeconfig. */
  join?: boolean | undefined;
  /** A lab of this name whose parts all run is left as it is. */
  reuse?: boolean | undefined;
  /** Nodes have a login by ssh and a journal, for those who look at them from outside; default: neither. */
  machines?: boolean | undefined;
  /** How long nodes and CoreDNS may take from the start of the agents. */
  readyTimeoutMs?: number | undefined;
  /** Images the nodes get, see ensureImages; default all. CoreDNS and pause always come along. */
  images?: readonly string[] | undefined;
};

const controlPlaneBinaries = [
  'etcd',
  'kube-apiserver',
  'kube-controller-manager',
  'kube-scheduler',
  'kubeadm',
  'kubectl',
] as const satisfies readonly BinaryName[];

const tools = {
  ip: 'iproute2',
  nft: 'nftables',
  iptables: 'iptables',
  ipset: 'ipset',
  conntrack: 'conntrack',
  curl: 'curl',
  nsenter: 'util-linux',
  mount: 'mount',
};

/** The state of a lab that is up, or that was when its record was written; undefined when there is none of this name. */
export const labState = (name: string): LabRecord | undefined => readRecord(name);

const requireLab = (name: string): LabRecord => {
  const lab = readRecord(name);
  if (lab === undefined)
    throw new Error(`no lab is called ${name}: start it with test/lab up --name ${name} (there are: ${labNames().join(', ') || 'none'})`);
  if (lab.bootId !== bootId())
    throw new Error(`lab ${name} is from before the machine's last boot: start it again with test/lab up --name ${name}`);
  return lab;
};

/** A lab that is up; throws, saying what to do, when there is none. */
export const openLab = (name: string): LabRecord => {
  const lab = requireLab(name);
  if (!lab.complete)
    throw new Error(`lab ${name} did not come up: see test/lab logs --name ${name}, and start it again with test/lab up --name ${name}`);
  return lab;
};

const nodeOf = (lab: LabRecord, id: string): NodeRecord => {
  const node = lab.nodes.find((each) => each.id === id || each.name === id);
  if (node === undefined) throw new Error(`lab ${lab.name} has no node ${id}; it has ${lab.nodes.map((each) => each.id).join(', ')}`);
  return node;
};

const lockOf = (name: string): string => join(dirname(labPaths(name).run), `.${name}.lock`);

/** Ends whatever runs under this name and starts a lab; resolves when all nodes are Ready and cluster DNS answers. Needs root. */
export const startLab = async (options: LabOptions = {}): Promise<LabRecord> => {
  const name = options.name ?? 'lab';
  return replaceLab(name, (step) => bringUp(name, options, step), { unless: options.reuse === true ? runs : undefined });
};

/** Tells of a step, and when it was reached. */
type Step = (message: string) => void;

/** Ends whatever runs under this name, and has `bring` start something new; a lab of which `unless` is true is left and resolved to. Needs root. */
export const replaceLab = async (
  name: string,
  bring: (step: Step) => Promise<LabRecord>,
  { unless }: { unless?: ((there: LabRecord) => boolean) | undefined } = {},
): Promise<LabRecord> => {
  if (!/^[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?$/.test(name))
    throw new Error(`"${name}" can't be a lab's name: use at most 16 lower-case letters, digits and dashes`);
  if (process.getuid?.() !== 0) throw new Error('the lab makes network namespaces and mounts: run it as root');
  return withLock(lockOf(name), async () => {
    const there = readRecord(name);
    if (there !== undefined && unless?.(there) === true) return there;
    await clear(name);
    const startedAt = performance.now();
    return bring((message) => say(`[${((performance.now() - startedAt) / 1000).toFixed(1).padStart(5)} s] ${message}`));
  });
};

/** Records a lab, so that its end finds everything from here on, and makes what its nodes stand on: mount points, network. */
export const prepareLab = async (lab: LabRecord): Promise<void> => {
  await ensureTools(tools);
  writeRecord(lab);
  mkdirSync(labPaths(lab.name).run, { recursive: true });
  await withLock(mountPointLock, async () => noteMountPoints(lab));
  allowInotify();
  await makeNetwork(lab.name, lab.nodes.length);
};

const runs = (lab: LabRecord): boolean => lab.complete && lab.bootId === bootId() && Object.values(lab.components).every(isAlive);

const bringUp = async (name: string, options: LabOptions, step: Step): Promise<LabRecord> => {
  const agent = options.agent ?? 'keelson';
  const agents = new Set([agent, ...(options.agents ?? [])]);
  const count = options.nodes ?? 1;
  const zones = options.zones ?? 0;
  const runtimeKind = options.runtime ?? 'containerd-2';
  if (options.join === true && agent !== 'keelson')
    throw new Error(`agent ${agent} does not join by token here: its nodes get a bootstrap kubeconfig`);
  await ensureTools(tools);
  if (options.proxyMode === 'ipvs' && !existsSync('/proc/net/ip_vs')) {
    await run('modprobe', ['ip_vs']).catch((cause: unknown) => {
      throw new Error("this machine's kernel has no IPVS (module ip_vs): use --proxy-mode nftables or iptables here", { cause });
    });
  }
  const binaries: ControlPlaneBinaries = await ensureBinaries(controlPlaneBinaries);
  await ensureBinaries(['kube-proxy', ...(agents.has('upstream') ? (['kubelet'] as const) : [])]);
  const runtime = await ensureRuntime(runtimeKind);
  const basicTars = [...(await ensureImages(['pause'])), await ensureCoreDnsImage()];
  const tars = [...new Set([...basicTars, ...(await ensureImages(options.images))])];

  const lab: LabRecord = {
    name,
    bootId: bootId(),
    agent,
    proxyMode: options.proxyMode ?? 'nftables',
    // What the suite proxy-iptables looks at, upstream's nfacct counters, ours has not.
    proxy: options.proxy ?? (agent === 'keelson' && (options.proxyMode ?? 'nftables') === 'nftables' ? 'keelson' : 'upstream'),
    runtime: runtimeKind,
    bootstrapToken: newBootstrapToken(),
    joins: options.join,
    machines: options.machines,
    nodes: Array.from({ length: count }, (_, i) => ({
      id: `n${i + 1}`,
      index: i + 1,
      name: `${name}-n${i + 1}`,
      zone: zones > 0 ? `zone-${(i % zones) + 1}` : undefined,
      podCidrs: [],
      agent: options.agents?.[i],
    })),
    components: {},
    complete: false,
  };
  step(
    `starting lab ${name}: ${count} node${count === 1 ? '' : 's'}, agent ${[...agents].join(' and ')}, ${runtimeKind} ${runtime.version}, proxy ${lab.proxy} (${lab.proxyMode})`,
  );
  await prepareLab(lab);
  await makeCertificates(lab, binaries.kubeadm);
  step('namespaces, certificates');

  const importing = Promise.all(
    lab.nodes.map(async (node) => {
      await startHolder(lab, node);
      writeNodeConfig(lab, node, bootstrapKubeconfig(lab));
      await startRuntime(lab, node, runtime);
      const { socket } = labPaths(name).node(node.id);
      await importImages({ ctr: runtime.ctr, socket, tars: basicTars });
      step(`${node.id}: containerd`);
      return async (): Promise<void> => {
        await importImages({ ctr: runtime.ctr, socket, tars });
        step(`${node.id}: images`);
      };
    }),
  );
  await Promise.all([
    importing,
    startControlPlane(lab, binaries).then(() => step('control plane')),
    ...(options.registry === false ? [] : [startImageRegistry(lab).then(() => step('registry'))]),
  ]);
  await setUpCluster(lab, binaries);
  step('cluster objects, CoreDNS');
  await Promise.all(lab.nodes.map((node) => startAgent(lab, node)));
  const deadline = options.readyTimeoutMs ?? 120_000;
  const images = importing.then((rest) => Promise.all(rest.map((each) => each())));
  await Promise.all([waitForNodes(lab, deadline, step), images]);
  await waitFor('CoreDNS to be available', deadline, async () => {
    const { status } = await api<{ status: { availableReplicas?: number } }>(
      lab,
      '/apis/apps/v1/namespaces/kube-system/deployments/coredns',
    );
    return (status.availableReplicas ?? 0) > 0 ? true : undefined;
  }).catch(async (error: unknown) => {
    const pods = await kubectl(lab, binaries.kubectl, ['--namespace=kube-system', 'describe', 'pods']).catch(() => '');
    throw new Error(`${error instanceof Error ? error.message : error}\n${pods}`, { cause: error });
  });
  lab.complete = true;
  writeRecord(lab);
  step(`lab ${name} is up: test/lab kubectl --name ${name} get pods -A`);
  return lab;
};

/** The registry that images can be pulled from: in the outside, standing in for the hosts that images name. */
export const startImageRegistry = async (lab: LabRecord): Promise<Registry> => {
  const names = ['registry', 'registry-front'];
  const registry = await startRegistry({
    listen: `${outsideAddress.v4}:5000`,
    netns: namespaceOf(lab.name, 'out'),
    dataDir: labPaths(lab.name).registry,
    spawn: (argv, { logFile, env }) =>
      startComponent(lab, names.shift() ?? 'registry-other', { argv, env, place: { network: 'out' }, logFile }),
  });
  for (const node of lab.nodes) await writeCertsDir({ certsDir: registryHosts(lab, node), registry: registry.url });
  return registry;
};

/** Starts what programs Services beside the node's agent; ends it where the agent does that itself. */
const startProxy = async (lab: LabRecord, node: NodeRecord): Promise<void> => {
  const name = `${node.id}/proxy`;
  const command = await proxyCommand(lab, node);
  if (lab.components[name] !== undefined) await endComponent(lab, name);
  if (command !== undefined) await startComponent(lab, name, { ...command, place: { node: node.id } });
};

const startAgent = async (lab: LabRecord, node: NodeRecord): Promise<void> => {
  const place = { node: node.id };
  const command = lab.joins === true ? await joinCluster(lab, node) : await agentCommand(lab, node);
  await startComponent(lab, `${node.id}/agent`, { ...command, place });
  await startProxy(lab, node);
  if (lab.machines === true) await startMachine(lab, node);
};

type NodeObject = {
  metadata: { name: string };
  spec: { podCIDRs?: string[] };
  status?: { conditions?: { type: string; status: string; reason?: string; message?: string }[] };
};

/** Waits for every node to register, gives it its network when it has its podCIDRs, and waits until it is Ready. */
const waitForNodes = async (lab: LabRecord, timeoutMs: number, step: (message: string) => void): Promise<void> => {
  const waiting = new Map(lab.nodes.map((node) => [node.name, node]));
  await waitFor(`nodes to be Ready`, timeoutMs, async () => {
    for (const node of waiting.values()) {
      for (const what of ['agent', 'proxy']) {
        const component = lab.components[`${node.id}/${what}`];
        if (component !== undefined && !isAlive(component))
          throw new GiveUp(`the ${what} of ${node.id} has ended; the end of ${component.logFile}:\n${tailOf(component.logFile)}`);
      }
    }
    const { items } = await api<{ items: NodeObject[] }>(lab, '/api/v1/nodes');
    for (const item of items) {
      const node = waiting.get(item.metadata.name);
      if (node === undefined) continue;
      const podCidrs = item.spec.podCIDRs ?? [];
      if (podCidrs.length > 0 && node.podCidrs.length === 0) {
        node.podCidrs = podCidrs;
        writeCniConfig(lab, node);
        await routePods(lab.name, lab.nodes.length, node.index, podCidrs);
        writeRecord(lab);
        step(`${node.id}: registered, pods get ${podCidrs.join(' and ')}`);
      }
      if (node.podCidrs.length > 0 && item.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True')) {
        waiting.delete(node.name);
        step(`${node.id}: Ready`);
      }
    }
    if (waiting.size === 0) return true;
    const notReady = [...waiting.values()].map(({ id, name }) => {
      const ready = items.find((item) => item.metadata.name === name)?.status?.conditions?.find(({ type }) => type === 'Ready');
      return `${id} ${ready === undefined ? 'has not registered' : `is not Ready (${ready.reason}: ${ready.message})`}; log: ${lab.components[`${id}/agent`]?.logFile}`;
    });
    throw new Error(notReady.join('; '));
  });
};

/** Ends a lab and removes everything it made; absence is success. */
export const stopLab = (name: string): Promise<void> => withLock(lockOf(name), () => clear(name));

const clear = async (name: string): Promise<void> => {
  const paths = labPaths(name);
  const lab = readRecord(name);
  if (lab !== undefined && lab.bootId === bootId()) {
    // A node's first process takes everything in the node with it, and with the last process its mounts go.
    const ranks = Object.keys(lab.components).sort((a, b) => Number(b.endsWith('/holder')) - Number(a.endsWith('/holder')));
    await Promise.all(ranks.map((component) => endComponent(lab, component, 'SIGKILL')));
  }
  await removeCgroup(paths.cgroup);
  if (existsSync('/run/netns')) await removeNetwork(name);
  await rm(paths.run, { recursive: true, force: true });
  await rm(paths.home, { recursive: true, force: true });
  await withLock(mountPointLock, async () => {
    if (labNames().length === 0) removeMountPoints();
  });
};

const mountPointNote = join(dirname(labPaths('x').home), '.mount-points.json');
const mountPointLock = join(dirname(labPaths('x').run), '.mount-points.lock');

/** Makes the folders and files that nodes mount theirs over, and notes which of them the machine did not have. */
const noteMountPoints = (lab: LabRecord): void => {
  const made = new Set<string>(existsSync(mountPointNote) ? (JSON.parse(readFileSync(mountPointNote, 'utf8')) as string[]) : []);
  for (const { path, isFile } of mountPoints(lab)) {
    for (let each = path; !existsSync(each); each = dirname(each)) made.add(each);
    mkdirSync(isFile ? dirname(path) : path, { recursive: true });
    if (isFile && !existsSync(path)) writeFileSync(path, '');
  }
  writeFileSync(mountPointNote, JSON.stringify([...made]));
};

/** Every containerd, agent and watching container takes instances; the kernel's 128 for root are soon used up by a few nodes on one machine. */
const allowInotify = (): void => {
  const setting = '/proc/sys/fs/inotify/max_user_instances';
  const wanted = 8192;
  if (Number(readFileSync(setting, 'utf8')) < wanted) writeFileSync(setting, String(wanted));
};

/** Only when no lab is left: removing a folder also removes what other mount namespaces have mounted over it. */
const removeMountPoints = (): void => {
  if (!existsSync(mountPointNote)) return;
  const made = (JSON.parse(readFileSync(mountPointNote, 'utf8')) as string[]).sort((a, b) => b.length - a.length);
  for (const folder of [...made, mountPointNote]) {
    try {
      if (folder === mountPointNote || (lstatSync(folder).isFile() && lstatSync(folder).size === 0)) unlinkSync(folder);
      else rmdirSync(folder);
    } catch {
      // in use by something that is not ours
    }
  }
};

export type RestartOptions = { signal?: NodeJS.Signals | undefined /** Default: every node. */; node?: string | undefined };

const nodesFor = (lab: LabRecord, id: string | undefined): NodeRecord[] => (id === undefined ? lab.nodes : [nodeOf(lab, id)]);

/** Ends a component and starts it again as it was. */
const restart = async (lab: LabRecord, name: string, signal: NodeJS.Signals | undefined): Promise<void> => {
  const component = lab.components[name];
  if (component === undefined) throw new Error(`lab ${lab.name} has no ${name}`);
  await endProcess(component, signal ?? 'SIGTERM');
  await startComponent(lab, name, { argv: component.argv, env: component.env, place: component.place });
};

const exclusively = <T>(name: string, work: (lab: LabRecord) => Promise<T>): Promise<T> =>
  withLock(`${lockOf(name)}.restart`, () => work(openLab(name)));

/** Ends the agents (default signal TERM) and starts them again; resolves when they run, not when they have caught up. */
export const restartAgent = (name: string, options: RestartOptions = {}): Promise<void> =>
  exclusively(name, async (lab) => {
    for (const node of nodesFor(lab, options.node)) await restart(lab, `${node.id}/agent`, options.signal);
  });

/** Ends the agents and starts the other one on the same nodes, over what the first left: containers, folders, certificates. */
export const switchAgent = (name: string, agent: AgentKind): Promise<void> =>
  exclusively(name, async (lab) => {
    lab.agent = agent;
    for (const node of lab.nodes) {
      await endComponent(lab, `${node.id}/agent`);
      await startComponent(lab, `${node.id}/agent`, { ...(await agentCommand(lab, node)), place: { node: node.id } });
      // Programmed by the agent or beside it: that is another process now.
      if (lab.proxy === 'keelson') await startProxy(lab, node);
    }
  });

/** Ends the proxies that run beside agents and starts them again. */
export const restartProxy = (name: string, options: RestartOptions = {}): Promise<void> =>
  exclusively(name, async (lab) => {
    for (const node of nodesFor(lab, options.node))
      if (lab.components[`${node.id}/proxy`] !== undefined) await restart(lab, `${node.id}/proxy`, options.signal);
  });

/** Ends the containerds and starts them again over what they left; resolves when they answer. */
export const restartRuntime = (name: string, options: RestartOptions = {}): Promise<void> =>
  exclusively(name, async (lab) => {
    const runtime = await ensureRuntime(lab.runtime);
    for (const node of nodesFor(lab, options.node)) {
      await endComponent(lab, `${node.id}/containerd`, options.signal);
      await startRuntime(lab, node, runtime);
    }
  });

/** Imports an archive of images into every node. */
export const loadImages = async (name: string, archive: string): Promise<void> => {
  const lab = openLab(name);
  const { ctr } = await ensureRuntime(lab.runtime);
  for (const { id } of lab.nodes)
    await run(ctr, ['--address', labPaths(name).node(id).socket, '--namespace', 'k8s.io', 'images', 'import', archive]);
};

/** Ends the API server and starts it again; resolves when it is ready. */
export const restartApiserver = (name: string, options: Pick<RestartOptions, 'signal'> = {}): Promise<void> =>
  exclusively(name, async (lab) => {
    await restart(lab, 'apiserver', options.signal);
    await waitForApiserver(lab);
  });

/** Ends a component ("n1/agent", "apiserver", …) and leaves it ended, for a test of what happens then; `startAgain` brings it back. */
export const stopComponent = (name: string, component: string, signal?: NodeJS.Signals): Promise<void> =>
  exclusively(name, (lab) => endComponent(lab, component, signal));

/** Starts a component that has ended as it was. */
export const startAgain = (name: string, component: string): Promise<void> =>
  exclusively(name, (lab) => restart(lab, component, 'SIGTERM'));

/** One line a component: name, pid, whether it runs; then how many processes the lab has in all. */
export const labStatus = (name: string): string => {
  const lab = readRecord(name);
  if (lab === undefined) return `no lab is called ${name}`;
  const current = lab.bootId === bootId();
  const lines = Object.entries(lab.components).map(
    ([component, tracked]) =>
      `  ${component.padEnd(20)} pid ${String(tracked.pid).padStart(6)}  ${current && isAlive(tracked) ? 'runs' : 'has ended'}`,
  );
  const nodes = lab.nodes.map(
    (node) => `  node ${node.name} (${node.id})${node.zone === undefined ? '' : `, ${node.zone}`}: pods ${node.podCidrs.join(' ') || '-'}`,
  );
  return [
    `lab ${name}: agent ${lab.agent}, ${lab.runtime}, kube-proxy ${lab.proxyMode}, ${lab.complete ? 'up' : 'not complete'}; kubeconfig ${labPaths(name).kubeconfig}`,
    ...nodes,
    ...lines,
    `  ${processesIn(labPaths(name).cgroup).length} processes in ${labPaths(name).cgroup}`,
  ].join('\n');
};

/** Runs a command inside a node, or in a network namespace of the lab ("cp", "out"); resolves to its stdout. */
export const runIn = (lab: LabRecord, where: string, argv: readonly string[], input?: string): Promise<string> => {
  const place = where === 'cp' || where === 'out' ? { network: where } : { node: nodeOf(lab, where).id };
  const [command = '', ...rest] = [...enter(lab, place), ...argv];
  return run(command, rest, { input });
};
