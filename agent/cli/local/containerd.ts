import { readFileSync, statfsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { AgentError, hasCode, messageOf } from '../../base/errors.ts';
import { silentLog } from '../../base/log.ts';
import { connectCri } from '../../drivers/cri/client.ts';
import { writeAtomically } from '../../drivers/files/atomic.ts';
import { pauseImage } from './example-images.ts';
import type { Programs } from './packages.ts';
import { standalone } from './paths.ts';
import { isAlive, startDaemon, stopProcess, type Tracked, tailOf } from './process.ts';
import { toolPath } from './tool.ts';

export interface ContainerdSettings {
  readonly root: string;
  readonly state: string;
  readonly socket: string;
  readonly runc: string;
  readonly cniBinDir: string;
  readonly cniConfDir: string;
  readonly pauseImage: string;
  /** 1 or 2: version 2 moved the CRI plugin's settings. */
  readonly major: number;
  readonly snapshotter: 'overlayfs' | 'native';
  /** True when we may not give a process a lower OOM score than our own. */
  readonly restrictOomScore: boolean;
}

/** containerd's config.toml, for an instance that shares nothing with another one on the machine. */
export function containerdConfig(settings: ContainerdSettings): string {
  // Basic strings of TOML take JSON's escapes.
  const quote = (text: string): string => JSON.stringify(text);
  const two = settings.major >= 2;
  const images = two ? 'io.containerd.cri.v1.images' : 'io.containerd.grpc.v1.cri';
  const runtime = two ? 'io.containerd.cri.v1.runtime' : 'io.containerd.grpc.v1.cri';
  // NRI's socket is one fixed path for all instances of a machine; the others need devices or file systems that a plain machine lacks.
  const disabled = [
    ...['btrfs', 'zfs', 'devmapper', ...(two ? ['blockfile', 'erofs'] : ['aufs'])].map((name) => `io.containerd.snapshotter.v1.${name}`),
    ...(two ? ['io.containerd.nri.v1.nri', 'io.containerd.differ.v1.erofs'] : []),
    'io.containerd.internal.v1.tracing',
    'io.containerd.tracing.processor.v1.otlp',
  ];
  return [
    `version = ${two ? 3 : 2}`,
    `root = ${quote(settings.root)}`,
    `state = ${quote(settings.state)}`,
    `disabled_plugins = [${disabled.map(quote).join(', ')}]`,
    '[grpc]',
    `address = ${quote(settings.socket)}`,
    '[debug]',
    `address = ${quote(join(settings.state, 'debug.sock'))}`,
    '[plugins."io.containerd.internal.v1.opt"]',
    `path = ${quote(join(settings.root, 'opt'))}`,
    ...(two
      ? [
          '[plugins."io.containerd.image-verifier.v1.bindir"]',
          `bin_dir = ${quote(join(settings.root, 'verifiers'))}`,
          `[plugins.${quote(images)}]`,
          `snapshotter = ${quote(settings.snapshotter)}`,
          `[plugins.${quote(images)}.pinned_images]`,
          `sandbox = ${quote(settings.pauseImage)}`,
        ]
      : []),
    `[plugins.${quote(runtime)}]`,
    ...(two ? [] : [`sandbox_image = ${quote(settings.pauseImage)}`]),
    `restrict_oom_score_adj = ${settings.restrictOomScore}`,
    // /run/netns is everybody's.
    'netns_mounts_under_state_dir = true',
    `[plugins.${quote(runtime)}.containerd]`,
    ...(two ? [] : [`snapshotter = ${quote(settings.snapshotter)}`]),
    'default_runtime_name = "runc"',
    `[plugins.${quote(runtime)}.containerd.runtimes.runc]`,
    'runtime_type = "io.containerd.runc.v2"',
    `[plugins.${quote(runtime)}.containerd.runtimes.runc.options]`,
    `BinaryName = ${quote(settings.runc)}`,
    `Root = ${quote(join(settings.state, 'runc'))}`,
    'SystemdCgroup = false',
    `[plugins.${quote(runtime)}.cni]`,
    two ? `bin_dirs = [${quote(settings.cniBinDir)}]` : `bin_dir = ${quote(settings.cniBinDir)}`,
    `conf_dir = ${quote(settings.cniConfDir)}`,
    '',
  ].join('\n');
}

// statfs(2)'s f_type of an overlay, on which overlayfs cannot stack (a container as the machine).
const overlayMagic = 0x794c7630;
// capability.h
const capSysResource = 24n;

const startDeadlineMs = 30_000;
const stopGraceMs = 10_000;
const pollMs = 50;

/** Starts our containerd and resolves when pods could start in it. Throws AgentError with the end of its log. */
export async function startContainerd(
  programs: Programs,
  cgroupProcs: readonly string[],
  clock: Clock,
  signal: AbortSignal,
): Promise<Tracked> {
  const { containerdRoot: root, containerdState: state, containerdSocket: socket } = standalone;
  for (const folder of [root, state, dirname(socket)]) await mkdir(folder, { recursive: true, mode: 0o711 });
  const capabilities = /^CapEff:\s*([0-9a-f]+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  const config = containerdConfig({
    root,
    state,
    socket,
    runc: programs.runc,
    cniBinDir: programs.cniBinDir,
    cniConfDir: standalone.cniConfDir,
    pauseImage,
    major: programs.containerdMajor,
    snapshotter: statfsSync(root).type === overlayMagic ? 'native' : 'overlayfs',
    restrictOomScore: (BigInt(`0x${capabilities}`) & (1n << capSysResource)) === 0n,
  });
  await writeAtomically(standalone.containerdConfig, config, { mode: 0o600 });
  const tracked = startDaemon([programs.containerd, '--config', standalone.containerdConfig], {
    logFile: standalone.containerdLog,
    cgroupProcs,
    env: { PATH: `${dirname(programs.containerd)}:${toolPath}` },
  });
  try {
    await untilReady(socket, tracked, clock, signal);
    return tracked;
  } catch (error) {
    using deadline = clock.deadline(new AbortController().signal, startDeadlineMs);
    await stopProcess(tracked, stopGraceMs, clock, deadline.signal);
    throw error;
  }
}

async function untilReady(socket: string, tracked: Tracked, clock: Clock, signal: AbortSignal): Promise<void> {
  await using cri = connectCri({ endpoint: `unix://${socket}`, clock, log: silentLog });
  const giveUpAt = clock.mono() + startDeadlineMs;
  for (;;) {
    let trouble: string;
    let hopeless = !isAlive(tracked) || clock.mono() > giveUpAt;
    try {
      using deadline = clock.deadline(signal, 5000);
      const { status } = await cri.status({ verbose: false }, deadline.signal);
      const bad = status?.conditions?.find((condition) => condition.status !== true);
      if (bad === undefined) return;
      trouble = `${bad.type ?? ''}: ${bad.message ?? bad.reason ?? ''}`;
    } catch (error) {
      if (signal.aborted) throw error;
      trouble = messageOf(error);
      // It serves, and has no CRI: the plugin has failed to load.
      hopeless ||= hasCode(error, 'Unimplemented');
    }
    if (hopeless) throw new AgentError('Unavailable', whyNotUp(trouble, tailOf(standalone.containerdLog, 200)));
    await clock.sleep(pollMs, signal);
  }
}

/** The reason that containerd's log gives for a start that failed, with what to do where that is known. */
export function whyNotUp(trouble: string, log: string): string {
  const lines = log.split('\n');
  const told = lines.findLast((line) =>
    /failed to load plugin io\.containerd\.(grpc|cri)\S*\.(cri|images|runtime)"?.* error=|level=fatal/.test(line),
  );
  const reason = /error="(.*?)"(?: |$)/.exec(told ?? '')?.[1] ?? told;
  if (/fsnotify|inotify/.test(reason ?? '') && /too many open files/.test(reason ?? ''))
    return 'containerd did not come up: this machine has no inotify instances left; allow more (sysctl -w fs.inotify.max_user_instances=1024) and run keelson up again';
  return `containerd did not come up: ${reason ?? trouble}\nThe end of ${standalone.containerdLog}:\n${lines.slice(-10).join('\n')}`;
}
