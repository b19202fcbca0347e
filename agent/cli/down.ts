import { existsSync, globSync, lstatSync, readdirSync, readFileSync, readlinkSync, realpathSync, rmdirSync, rmSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { systemClock } from '../base/clock.ts';
import { hasCode, messageOf } from '../base/errors.ts';
import { silentLog } from '../base/log.ts';
import { connectCri } from '../drivers/cri/client.ts';
import { parseMountinfo } from '../drivers/mounts/mountinfo.ts';
import { type Mounts, openMounts } from '../drivers/mounts/mounts.ts';
import { isErrno } from '../drivers/sys/errno.ts';
import { clearCgroups } from './local/cgroup.ts';
import { agent } from './local/client.ts';
import { hasCluster, stopCluster } from './local/cluster.ts';
import { shortName } from './local/describe.ts';
import { takeLock } from './local/lock.ts';
import { removeBridge } from './local/network.ts';
import { localSocket, standalone } from './local/paths.ts';
import { isAlive, stopProcess } from './local/process.ts';
import { createProgress, type Progress } from './local/progress.ts';
import { readState, requireRoot, type StandaloneState } from './local/state.ts';
import { findTool } from './local/tool.ts';

const clock = systemClock;

const help = `Usage: keelson down

Ends what "keelson up" has started (pods with their grace period, then agent and containerd) and removes everything it made. Packages that it installed and
downloads in its cache stay.
`;

/** `keelson down`. Safe to run when nothing, or only half of it, is up. */
export async function down(args: readonly string[], signal: AbortSignal): Promise<number> {
  const { values } = parseArgs({ args: [...args], options: { help: { type: 'boolean', short: 'h' } } });
  if (values.help === true) {
    process.stdout.write(help);
    return 0;
  }
  requireRoot('down');
  const progress = createProgress(process.stdout, clock);
  let found = hasCluster();
  if (found) await progress.step('end the cluster', () => stopCluster(signal));
  {
    using _lock = takeLock();
    let state: StandaloneState | undefined;
    try {
      state = readState();
    } catch (error) {
      progress.line(`  ${messageOf(error)}`);
    }
    if (state !== undefined || existsSync(standalone.lib) || existsSync(standalone.run)) {
      await clear(state ?? {}, progress, signal);
      found = true;
    }
  }
  removeEmpty(standalone.parents, await mountPointsOfOthers());
  progress.line(found ? 'Everything is gone.' : 'Nothing is up.');
  return 0;
}

async function clear(state: StandaloneState, progress: Progress, signal: AbortSignal): Promise<void> {
  if (isAlive(state.agent)) {
    await progress.step('end the pods', () => endPods(signal));
    await progress.step('stop the agent', () => stopProcess(state.agent, 20_000, clock, signal));
  }
  if (isAlive(state.containerd)) {
    const left = await leftSandboxes(signal);
    // After an agent that was killed, or a pod that would not end.
    if (left.length > 0) await progress.step(`end ${left.length} pods that are left`, () => endSandboxes(left, signal));
  }
  const shimSockets = findShimSockets();
  if (isAlive(state.containerd)) await progress.step('stop containerd', () => stopProcess(state.containerd, 20_000, clock, signal));
  await progress.step(
    'clear up',
    async () => {
      const killed = await clearCgroups(clock, signal);
      const mounts = openMounts();
      for (const folder of [standalone.lib, standalone.run]) await mounts.unmountUnder(realOf(folder), signal);
      const ip = findTool('ip');
      if (ip !== undefined) await removeBridge(ip, signal);
      removeLogLinks();
      removeCniResults();
      for (const socket of shimSockets) rmSync(socket, { force: true });
      if (!(await otherAgentAnswers(signal))) rmSync(localSocket(), { force: true });
      await removeOurs(standalone.run, mounts, signal);
      // The state goes last: what was interrupted can be done again.
      for (const name of existsSync(standalone.lib) ? readdirSync(standalone.lib) : [])
        if (join(standalone.lib, name) !== standalone.state) await mounts.removeTree(join(standalone.lib, name), {}, signal);
      removeEmpty(state.madeFolders ?? [], await mountPointsOfOthers());
      await removeOurs(standalone.lib, mounts, signal);
      return killed;
    },
    (killed) => (killed === 0 ? '' : `${killed} processes that were left have been killed`),
  );
}

/** Where a folder of ours really is: its owner may have made it a link to a larger disk. */
function realOf(folder: string): string {
  return existsSync(folder) ? realpathSync(folder) : folder;
}

/** Removes a folder with all that is in it; a link in its place is not ours, and stays with an empty folder behind it. */
async function removeOurs(folder: string, mounts: Mounts, signal: AbortSignal): Promise<void> {
  const isLink = lstatSync(folder, { throwIfNoEntry: false })?.isSymbolicLink() === true;
  await mounts.removeTree(realOf(folder), { keepTop: isLink }, signal);
}

const pollMs = 100;
// Over a pod's own grace period: for its hooks, its sandbox and its volumes.
const graceMarginMs = 30_000;

/** Has the agent end all pods; gives up (and leaves the rest to the clearing up) when it takes too long. */
async function endPods(signal: AbortSignal): Promise<void> {
  try {
    const { pods } = await agent.status(signal, localSocket());
    const graceMs = Math.max(0, ...pods.map(({ pod }) => (pod.spec?.terminationGracePeriodSeconds ?? 30) * 1000));
    const giveUpAt = clock.mono() + graceMs + graceMarginMs;
    await agent.drain(signal, localSocket());
    for (;;) {
      const left = await agent.status(signal, localSocket());
      if (left.pods.length === 0) return;
      if (clock.mono() > giveUpAt) {
        const names = left.pods.map(({ pod }) => shortName(pod, left.node)).join(', ');
        process.stderr.write(`  ${names} did not end in time: killing the rest\n`);
        return;
      }
      await clock.sleep(pollMs, signal);
    }
  } catch (error) {
    // It crashes or hangs: nothing is left to ask, and the clearing up kills.
    if (!hasCode(error, 'Unavailable', 'DeadlineExceeded')) throw error;
  }
}

async function otherAgentAnswers(signal: AbortSignal): Promise<boolean> {
  try {
    await agent.status(signal, localSocket());
    return true;
  } catch (error) {
    if (hasCode(error, 'Unavailable')) return false;
    // It hangs, but it is there.
    if (hasCode(error, 'DeadlineExceeded')) return true;
    throw error;
  }
}

/** Links to our pods' logs in /var/log/containers; others' stay. */
function removeLogLinks(): void {
  const folder = '/var/log/containers';
  if (!existsSync(folder)) return;
  const ours = [standalone.lib, realOf(standalone.lib)].map((lib) => `${lib}/`);
  for (const name of readdirSync(folder)) {
    const file = join(folder, name);
    if (!lstatSync(file).isSymbolicLink()) continue;
    const target = readlinkSync(file);
    if (ours.some((lib) => target.startsWith(lib))) rmSync(file, { force: true });
  }
}

/** What the CNI library remembers of our network's pods, when they were killed and not ended. */
function removeCniResults(): void {
  const folder = '/var/lib/cni/results';
  if (!existsSync(folder)) return;
  for (const name of readdirSync(folder)) {
    const sandbox = /^keelson-([0-9a-f]{64})-/.exec(name)?.[1];
    if (sandbox === undefined) continue;
    for (const file of [name, `cni-loopback-${sandbox}-lo`]) rmSync(join(folder, file), { force: true });
  }
}

/** The sockets of our containers' shims: they are in a folder that all instances of containerd share, and a killed shim leaves its own. */
function findShimSockets(): string[] {
  const files = globSync(join(standalone.containerdState, 'io.containerd.runtime.v2.task/*/*/address'));
  return files
    .map((file) => readFileSync(file, 'utf8').trim().replace('unix://', ''))
    .filter((path) => path.startsWith('/run/containerd/s/'));
}

const sandboxDeadlineMs = 30_000;

async function leftSandboxes(signal: AbortSignal): Promise<string[]> {
  await using cri = connectCri({ endpoint: `unix://${standalone.containerdSocket}`, clock, log: silentLog });
  using deadline = clock.deadline(signal, sandboxDeadlineMs);
  try {
    return ((await cri.listPodSandbox({}, deadline.signal)).items ?? []).map(({ id }) => id ?? '');
  } catch (error) {
    if (signal.aborted) throw error;
    // A containerd that does not answer is killed with all that it runs.
    return [];
  }
}

/** Ends sandboxes through the runtime, so that the network plugins take back what they gave. */
async function endSandboxes(ids: readonly string[], signal: AbortSignal): Promise<void> {
  await using cri = connectCri({ endpoint: `unix://${standalone.containerdSocket}`, clock, log: silentLog });
  using deadline = clock.deadline(signal, sandboxDeadlineMs);
  const ended = await Promise.allSettled(
    ids.map(async (id) => {
      await cri.stopPodSandbox({ pod_sandbox_id: id }, deadline.signal);
      await cri.removePodSandbox({ pod_sandbox_id: id }, deadline.signal);
    }),
  );
  for (const result of ended) if (result.status === 'rejected') process.stderr.write(`  ${messageOf(result.reason)}\n`);
}

/** Removes folders that are empty, inner ones first. One that is a mount point elsewhere stays: removing it would unmount it there. So does a link. */
function removeEmpty(folders: readonly string[], mountPoints: ReadonlySet<string>): void {
  for (const folder of [...folders].sort((a, b) => b.length - a.length)) {
    if (mountPoints.has(realOf(folder))) continue;
    try {
      rmdirSync(folder);
    } catch (error) {
      if (!isErrno(error, 'ENOENT', 'ENOTDIR', 'ENOTEMPTY', 'EEXIST', 'EBUSY')) throw error;
    }
  }
}

/** The mount points in every mount namespace of this machine. */
async function mountPointsOfOthers(): Promise<Set<string>> {
  const found = new Set<string>();
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      for (const { mountPoint } of parseMountinfo(await readFile(`/proc/${name}/mountinfo`))) found.add(mountPoint);
    } catch (error) {
      // It has ended meanwhile, or is a zombie.
      if (!isErrno(error, 'ENOENT', 'ESRCH', 'EINVAL')) throw error;
    }
  }
  return found;
}
