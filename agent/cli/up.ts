import { accessSync, constants, existsSync, readdirSync, statfsSync, statSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { systemClock } from '../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../base/errors.ts';
import { writeAtomically } from '../drivers/files/atomic.ts';
import { writeYaml } from '../model/yaml.ts';
import type { LocalPod, LocalStatus } from '../server/local.ts';
import { ensureDaemonCgroup } from './local/cgroup.ts';
import { agent } from './local/client.ts';
import { applyManifests, loadExampleImages, startCluster } from './local/cluster.ts';
import { startContainerd } from './local/containerd.ts';
import { formatTook, isReady, isSettled, isStuck, shortName } from './local/describe.ts';
import { importExampleImages } from './local/example-images.ts';
import { takeLock } from './local/lock.ts';
import { ensureBridge, writeCniConfig } from './local/network.ts';
import { findPrograms, installPackages, missingPackages } from './local/packages.ts';
import { localCluster, localSocket, socketToAsk, standalone } from './local/paths.ts';
import { isAlive, startDaemon, stopProcess, type Tracked, tailOf } from './local/process.ts';
import { createProgress, type Progress } from './local/progress.ts';
import { readState, requireRoot, type StandaloneState, writeState } from './local/state.ts';

const clock = systemClock;
const repository = resolve(import.meta.dirname, '../..');
const defaultTimeoutSeconds = 180;

const help = `Usage: keelson up [--manifests DIR] [--timeout SECONDS]
       keelson up --cluster [--manifests DIR] [--timeout SECONDS]

Runs the pods of a folder of manifests on this machine, without a cluster: installs what is missing, starts a containerd and an agent of its own, and shows
what each pod is doing. Safe to run again. "keelson down" takes everything away.

  --manifests DIR    each file holds a Pod; edits take effect at once (default: the examples folder)
  --timeout SECONDS  how long to wait for the pods (default: ${defaultTimeoutSeconds}); they go on starting afterwards
  --cluster          starts a real control plane on this machine, joins it by token, and applies the manifests there; keelson kubectl is ready to use
`;

/** `keelson up`. Exit code 1 when a pod is not up in time. */
export async function up(args: readonly string[], signal: AbortSignal): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      manifests: { type: 'string' },
      timeout: { type: 'string' },
      cluster: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help === true) {
    process.stdout.write(help);
    return 0;
  }
  requireRoot('up');
  const timeoutSeconds = Number(values.timeout ?? defaultTimeoutSeconds);
  if (!(timeoutSeconds > 0)) throw new AgentError('Usage', `--timeout must be a number of seconds, not "${values.timeout}"`);
  if (values.cluster === true) return await upCluster(values.manifests, timeoutSeconds, signal);
  const progress = createProgress(process.stdout, clock);
  const startedAt = clock.mono();
  {
    using _lock = takeLock();
    await start(values.manifests, progress, signal);
  }
  return await waitForPods({ timeoutSeconds, startedAt, progress, socket: localSocket(), expected: [] }, signal);
}

/** The folder that is meant. Throws AgentError NotFound with what to do. */
function manifestFolder(wanted: string | undefined): string {
  const folder = resolve(wanted ?? join(repository, 'examples'));
  const found = statSync(folder, { throwIfNoEntry: false });
  if (found?.isDirectory() === true) return folder;
  const what = found === undefined ? `there is no ${folder}` : `${folder} is not a folder`;
  throw new AgentError('NotFound', `${what}: name a folder of manifests with --manifests`);
}

async function start(wanted: string | undefined, progress: Progress, signal: AbortSignal): Promise<void> {
  let state = readState() ?? {};
  const manifests = manifestFolder(wanted ?? state.manifests);
  const keep = async (more: Partial<StandaloneState>): Promise<void> => {
    state = { ...state, ...more };
    await writeState(state);
  };
  requireRoom();
  await refuseOtherAgent(state, signal);

  progress.line('Preparing this machine');
  const missing = missingPackages();
  if (missing.length > 0) await progress.step(`install ${missing.join(', ')} with apt`, () => installPackages(missing, signal));
  const programs = await findPrograms(signal);
  await keep({ manifests, madeFolders: state.madeFolders ?? foldersToMake() });
  await progress.step(
    'network for pods',
    async () => {
      await keep({ subnet: await ensureBridge(programs.ip, state.subnet, signal) });
      await writeCniConfig(state.subnet ?? '');
    },
    () => `${state.subnet} on bridge ${standalone.bridge}`,
  );
  if (!isAlive(state.containerd)) {
    // An agent that has lost its runtime would see a new one as empty: it starts again beside it.
    await stopProcess(state.agent, 20_000, clock, signal);
    await progress.step(
      'start containerd',
      async () =>
        keep({ containerd: await startContainerd(programs, await ensureDaemonCgroup('containerd', clock, signal), clock, signal) }),
      () => programs.containerdVersion,
    );
  }
  await progress.step(
    'example image',
    () => importExampleImages(programs.ctr, standalone.containerdSocket, standalone.lib, signal),
    (made) => (made ? 'made on the spot' : 'there already'),
  );
  const status = isAlive(state.agent) ? await agent.status(signal, localSocket()).catch(() => undefined) : undefined;
  if (status?.manifests !== manifests) {
    await stopProcess(state.agent, 20_000, clock, signal);
    await progress.step(
      'start the agent',
      () => startAgent(manifests, (started) => keep({ agent: started }), signal),
      () => `manifests from ${manifests}`,
    );
  }
}

// containerd's store, two small images and what the pods write at first.
const neededBytes = 64 * 2 ** 20;

/** Throws AgentError Io, saying what to do, when our folders cannot be written or are as good as full. */
function requireRoom(): void {
  for (const folder of standalone.parents) {
    let there: string = folder;
    while (!existsSync(there)) there = dirname(there);
    try {
      accessSync(there, constants.W_OK);
    } catch (cause) {
      throw new AgentError('Io', `keelson up keeps its files below ${folder}, and ${there} cannot be written: ${messageOf(cause)}`, {
        cause,
      });
    }
    const { bavail, bsize } = statfsSync(there);
    const free = bavail * bsize;
    if (free < neededBytes)
      throw new AgentError(
        'Io',
        `only ${Math.floor(free / 2 ** 20)} MiB are free where ${folder} is (df ${there}), and keelson up needs ${neededBytes / 2 ** 20} MiB: make room, then run it again`,
      );
  }
}

/** The socket must be ours: another agent on this machine keeps its own. */
async function refuseOtherAgent(state: StandaloneState, signal: AbortSignal): Promise<void> {
  if (isAlive(state.agent)) return;
  let other: LocalStatus;
  try {
    other = await agent.status(signal, localSocket());
  } catch (error) {
    if (hasCode(error, 'Unavailable')) return;
    throw error;
  }
  throw new AgentError('Conflict', `an agent that keelson up has not started runs here already (node ${other.node}): stop it first`);
}

// Folders that the runtime and the agent make outside of our own.
const foreignFolders = [
  '/var/log/containers',
  '/var/lib/cni',
  '/var/lib/cni/results',
  '/run/containerd',
  '/run/containerd/s',
  '/run/containerd/fifo',
];

function foldersToMake(): string[] {
  return [...foreignFolders, ...standalone.parents].filter(
    (folder) => !existsSync(folder) || folder === '/var/lib/keelson' || folder === '/run/keelson',
  );
}

/** KubeletConfiguration of the standalone agent: everything below our own folder, nothing listening on the network. */
export function standaloneConfig(manifests: string): Record<string, unknown> {
  return {
    apiVersion: 'kubelet.config.k8s.io/v1beta1',
    kind: 'KubeletConfiguration',
    staticPodPath: manifests,
    podLogsDir: standalone.podLogs,
    containerRuntimeEndpoint: `unix://${standalone.containerdSocket}`,
    cgroupDriver: 'cgroupfs',
    cgroupRoot: standalone.cgroup,
    enableServer: false,
    healthzPort: 0,
    authentication: { anonymous: { enabled: false }, webhook: { enabled: false } },
    authorization: { mode: 'AlwaysAllow' },
    resolvConf: existsSync('/etc/resolv.conf') ? '/etc/resolv.conf' : '',
    volumePluginDir: `${standalone.kubeletRoot}/volume-plugins`,
    failSwapOn: false,
    failCgroupV1: false,
    // down leaves nothing behind, and nobody here asks for these chains.
    makeIPTablesUtilChains: false,
    // The images are made here and could not be pulled again.
    imageGCHighThresholdPercent: 100,
    imageGCLowThresholdPercent: 99,
    evictionHard: {
      'memory.available': '100Mi',
      'nodefs.available': '0%',
      'nodefs.inodesFree': '0%',
      'imagefs.available': '0%',
      'imagefs.inodesFree': '0%',
    },
  };
}

const agentDeadlineMs = 60_000;
const pollMs = 100;

/** Resolves when the agent answers; `started` is told before, so that whatever happens meanwhile, the next `up` and `down` know it for ours. */
async function startAgent(manifests: string, started: (agent: Tracked) => Promise<void>, signal: AbortSignal): Promise<void> {
  await writeAtomically(standalone.kubeletConfig, writeYaml(standaloneConfig(manifests)), { mode: 0o600 });
  await mkdir(standalone.kubeletRoot, { recursive: true });
  // As this command was started: by the launcher, with what it has found to weigh least.
  const [main = join(repository, 'agent/main.ts')] = process.argv.slice(1);
  const flags = [
    `--config=${standalone.kubeletConfig}`,
    `--root-dir=${standalone.kubeletRoot}`,
    `--cert-dir=${standalone.kubeletRoot}/pki`,
  ];
  const tracked = startDaemon([process.execPath, ...process.execArgv, main, 'run', ...flags], {
    logFile: standalone.agentLog,
    cgroupProcs: await ensureDaemonCgroup('agent', clock, signal),
  });
  await started(tracked);
  const giveUpAt = clock.mono() + agentDeadlineMs;
  for (;;) {
    try {
      await agent.status(signal, localSocket());
      return;
    } catch (error) {
      if (!hasCode(error, 'Unavailable')) throw error;
    }
    if (!isAlive(tracked) || clock.mono() > giveUpAt) {
      await stopProcess(tracked, 5000, clock, signal);
      throw new AgentError(
        'Unavailable',
        `the agent did not come up on ${localSocket()}. The end of ${standalone.agentLog}:\n${tailOf(standalone.agentLog)}`,
      );
    }
    await clock.sleep(pollMs, signal);
  }
}

// How long a manifest that has just been put there may take to show up as a pod.
const emptyFolderMs = 2000;

interface Wait {
  readonly timeoutSeconds: number;
  readonly startedAt: number;
  readonly progress: Progress;
  /** The agent's. */
  readonly socket: string;
  /** Names of pods that have to show up. */
  readonly expected: readonly string[];
}

async function waitForPods(wait: Wait, signal: AbortSignal): Promise<number> {
  const { timeoutSeconds, startedAt, progress, socket, expected } = wait;
  progress.line('Starting pods');
  const begunAt = clock.mono();
  const giveUpAt = begunAt + timeoutSeconds * 1000;
  for (;;) {
    const status = await agent.status(signal, socket);
    progress.pods(status);
    const now = clock.mono();
    const missing = expected.filter((name) => !status.pods.some(({ pod }) => pod.metadata.name === name));
    const settled = missing.length === 0 && status.pods.every(isSettled) && (status.pods.length > 0 || now > begunAt + emptyFolderMs);
    const hopeless = missing.length === 0 && status.pods.length > 0 && status.pods.every((local) => isSettled(local) || isStuck(local));
    if (!settled && !hopeless && now < giveUpAt) {
      await clock.sleep(pollMs, signal);
      continue;
    }
    progress.settle();
    const bad = status.pods.filter((local) => !isSettled(local)).map(({ pod }) => shortName(pod, status.node));
    const took = formatTook(now - startedAt);
    if (bad.length > 0)
      progress.line(`\n${bad.join(', ')} not up after ${took}. To see why:\n${bad.map((name) => `  ./keelson why ${name}`).join('\n')}`);
    else if (missing.length === 0)
      progress.line(`\n${status.pods.length === 0 ? 'The agent runs, and there are no pods yet' : 'Everything is up'} (${took}).`);
    if (missing.length > 0)
      progress.line(
        `\n${missing.join(', ')} not on this node after ${took}. To see why:\n${missing.map((name) => `  ./keelson kubectl describe pod ${name}`).join('\n')}`,
      );
    for (const { pod } of status.standalone ? status.pods : [])
      if (pod.spec?.hostNetwork !== true && pod.spec?.containers.some((c) => c.ports?.some((p) => (p.hostPort ?? 0) !== 0)) === true)
        progress.line(`Note: the hostPort of ${shortName(pod, status.node)} is not served standalone; reach the pod by its IP.`);
    progress.line(`\n${(status.standalone ? nextCommands(status) : clusterCommands(status)).join('\n')}`);
    return bad.length > 0 || missing.length > 0 || status.problems.length > 0 ? 1 : 0;
  }
}

/** What to try next, for the pods that there are. */
export function nextCommands(status: LocalStatus): string[] {
  const lines = ['Try next:', '  ./keelson status'];
  const web = status.pods.find((local) => portOf(local) !== undefined);
  const any = web ?? status.pods[0];
  if (any !== undefined) {
    const name = shortName(any.pod, status.node);
    lines.push(`  ./keelson logs ${name}`, `  ./keelson exec -it ${name} -- sh`, `  ./keelson why ${name}`);
  }
  const port = web && portOf(web);
  if (web !== undefined && port !== undefined) lines.push(`  curl ${urlOf(web, port)}`);
  if (status.manifests !== undefined) {
    const [file] = existsSync(status.manifests) ? manifestsIn(status.manifests) : [];
    lines.push(
      `  edit ${file === undefined ? `a file in ${status.manifests}` : join(status.manifests, file)}: it takes effect when you save`,
    );
  }
  lines.push('  ./keelson down');
  return lines;
}

/** A TCP port that a pod with an address serves on. */
function portOf({ pod }: LocalPod): number | undefined {
  if (!pod.status?.podIP) return undefined;
  return pod.spec?.containers.flatMap((c) => c.ports ?? []).find((p) => (p.protocol ?? 'TCP') === 'TCP')?.containerPort;
}

function urlOf({ pod }: LocalPod, port: number): string {
  const ip = pod.status?.podIP ?? '';
  return `http://${ip.includes(':') ? `[${ip}]` : ip}${port === 80 ? '' : `:${port}`}`;
}

function manifestsIn(folder: string): string[] {
  const names = readdirSync(folder).filter((name) => /\.(ya?ml|json)$/.test(name));
  return names.sort((a, b) => Number(b.startsWith('web')) - Number(a.startsWith('web')));
}

/** A real control plane of the test bed, a node with this agent that joins it by token, and the manifests' pods on it. */
async function upCluster(wanted: string | undefined, timeoutSeconds: number, signal: AbortSignal): Promise<number> {
  const progress = createProgress(process.stdout, clock);
  const manifests = manifestFolder(wanted);
  const startedAt = clock.mono();
  progress.line('Starting a control plane on this machine, in network namespaces of its own, and a node that joins it');
  progress.line('(the first time this builds Kubernetes from source, which takes many minutes on two cores)');
  const code = await startCluster(signal);
  if (code !== 0) {
    process.stderr.write('error: the cluster did not come up, see above; ./keelson down removes what there is of it\n');
    return code;
  }
  await progress.step('example image', () => loadExampleImages(signal));
  const applied = await progress.step(
    `kubectl apply -f ${manifests}`,
    () => applyManifests(manifests, clock, signal),
    (names) => names.join(', '),
  );
  const expected = applied.filter((name) => name.startsWith('pod/')).map((name) => name.slice('pod/'.length));
  return await waitForPods({ timeoutSeconds, startedAt, progress, socket: localCluster.nodeSocket, expected }, signal);
}

/** What to try next with a cluster. */
function clusterCommands(status: LocalStatus): string[] {
  const own = status.pods.filter((local) => local.pod.metadata.namespace === 'default' && isReady(local));
  const web = own.find((local) => portOf(local) !== undefined) ?? own[0];
  const lines = ['Try next:', '  ./keelson kubectl get nodes,pods -A -o wide'];
  if (web !== undefined) {
    const { name } = web.pod.metadata;
    // Beside a standalone node, which commands are about otherwise.
    const which = socketToAsk() === localCluster.nodeSocket ? '' : `KEELSON_SOCKET=${localCluster.nodeSocket} `;
    lines.push(`  ./keelson kubectl exec -it ${name} -- sh`, `  ${which}./keelson why ${name}`);
    const port = portOf(web);
    if (port !== undefined)
      lines.push(
        `  test/lab exec --name ${localCluster.name} cp curl -s ${urlOf(web, port)}    (the cluster's network is closed: this asks from within)`,
      );
  }
  lines.push('  ./keelson kubectl create deployment hello --image=keelson.local/example:1 -- sleep infinity', '  ./keelson down');
  return lines;
}
