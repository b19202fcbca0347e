// A containerd for one test: its own network namespace, folders and cgroup, all gone afterwards.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '../../agent/base/clock.ts';
import { silentLog } from '../../agent/base/log.ts';
import { type CriClient, connectCri } from '../../agent/drivers/cri/client.ts';
import { removeCgroup } from '../testbed/cgroups.ts';
import { ensureImages, importImages } from '../testbed/images.ts';
import { pauseImage } from '../testbed/images-recipes.ts';
import { endProcess, spawnTracked, type Tracked } from '../testbed/process.ts';
import { ensureRuntime, type Runtime, type RuntimeKind, startContainerd } from '../testbed/runtimes.ts';

export interface PrivateRuntime extends AsyncDisposable {
  /** Unique on the machine: name of the network namespace and of the cgroup below the root. */
  readonly id: string;
  /** Short enough for sockets; gone afterwards. */
  readonly folder: string;
  readonly netns: string;
  readonly certsDir: string;
  readonly runtime: Runtime;
  readonly client: CriClient;
  stop(): Promise<void>;
  start(): Promise<void>;
}

/** Starts containerd with these images imported (short names, see ensureImages) and pods on a bridge of 10.99.0.0/24. Needs root. */
export async function startPrivateRuntime(kind: RuntimeKind, purpose: string, images: readonly string[]): Promise<PrivateRuntime> {
  const never = new AbortController().signal;
  const runtime = await ensureRuntime(kind);
  const tars = await ensureImages(images);
  const id = `kt-${purpose}-${process.pid}-${kind === 'containerd-2' ? 2 : 1}`;
  // The path of a unix socket holds 108 bytes.
  mkdirSync('/run/kt', { recursive: true });
  const folder = mkdtempSync('/run/kt/c-');
  const socket = join(folder, 'c.sock');
  const cniConfDir = join(folder, 'cni');
  const certsDir = join(folder, 'certs');
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rmSync(folder, { recursive: true, force: true }));
  execFileSync('ip', ['netns', 'add', id]);
  undo.defer(() => void execFileSync('ip', ['netns', 'del', id]));
  undo.defer(() => removeCgroup(`/${id}`));
  execFileSync('ip', ['-n', id, 'link', 'set', 'lo', 'up']);
  mkdirSync(cniConfDir);
  const ipam = { type: 'host-local', dataDir: join(folder, 'ipam'), ranges: [[{ subnet: '10.99.0.0/24' }]] };
  writeFileSync(
    join(cniConfDir, '10-test.conflist'),
    JSON.stringify({ cniVersion: '0.4.0', name: id, plugins: [{ type: 'bridge', bridge: 'ktest0', ipam }] }),
  );
  let containerd: Tracked | undefined;
  const start = async (): Promise<void> => {
    await startContainerd({
      runtime,
      root: join(folder, 'root'),
      state: join(folder, 'state'),
      socket,
      cniConfDir,
      certsDir,
      netns: id,
      pauseImage,
      logFile: join(folder, 'containerd.log'),
      spawn: async (argv, options) => {
        containerd = await spawnTracked(argv, options);
        return containerd;
      },
    });
  };
  const stop = async (): Promise<void> => {
    if (containerd !== undefined) await endProcess(containerd);
  };
  undo.defer(stop);
  await start();
  await importImages({ ctr: runtime.ctr, socket, tars });
  const client = undo.use(connectCri({ endpoint: `unix://${socket}`, clock: systemClock, log: silentLog }));
  undo.defer(async () => {
    const { items } = await client.listPodSandbox({}, never);
    for (const item of items ?? []) {
      await client.stopPodSandbox({ pod_sandbox_id: item.id }, never);
      await client.removePodSandbox({ pod_sandbox_id: item.id }, never);
    }
  });
  const all = undo.move();
  return { id, folder, netns: id, certsDir, runtime, client, start, stop, [Symbol.asyncDispose]: () => all.disposeAsync() };
}
