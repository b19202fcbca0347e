import { join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { ReadonlyTable } from '../../base/table.ts';
import { readOomKills } from '../../drivers/cgroup/oom-kills.ts';
import { openCgroupReader } from '../../drivers/cgroup/readings.ts';
import { openJournal } from '../../drivers/journal/journal.ts';
import { type KernelLog, openKernelLog } from '../../drivers/sys/kernel-log.ts';
import type { RuntimePod } from '../../pods/observed.ts';
import { type OomWatch, type OomWatchOptions, watchOom } from '../../pods/oom-watch.ts';
import { type CgroupTree, podCgroupPlaces } from '../../resources/cgroup-names.ts';

export interface NodeOomOptions {
  readonly rootDir: string;
  readonly bootId: string;
  /** Undefined when pods have no cgroups of the agent's: then the kernel's log and the runtime tell alone. */
  readonly tree: CgroupTree | undefined;
  readonly log: Log;
  readonly runtime: ReadonlyTable<RuntimePod>;
  readonly childKilled: OomWatchOptions['childKilled'];
  readonly systemOom: OomWatchOptions['systemOom'];
}

/** The judge of OOM kills, with this machine's cgroups and kernel log. */
export async function openNodeOom(options: NodeOomOptions): Promise<OomWatch & AsyncDisposable> {
  const { log, tree } = options;
  await using stack = new AsyncDisposableStack();
  const journal = stack.use(
    await openJournal<NonNullable<ReturnType<OomWatchOptions['journal']['get']>>>(
      join(options.rootDir, 'keelson', 'oom-kills'),
      systemClock,
      log,
    ),
  );
  const reader = await openCgroupReader();
  let kernelLog: KernelLog | undefined;
  try {
    kernelLog = stack.use(openKernelLog());
  } catch (error) {
    // As a kubelet: it starts without (pkg/kubelet/oom), and there are other witnesses.
    log.warn(
      { err: messageOf(error) },
      "the kernel's log cannot be read: no SystemOOM events, and OOM kills are told by cgroups and the runtime",
    );
  }
  const watch = stack.use(
    watchOom({
      clock: systemClock,
      log,
      runtime: options.runtime,
      counts: (uid) => (tree === undefined ? { pod: undefined, containers: new Map() } : readOomKills(reader, podCgroupPlaces(tree, uid))),
      readLog: kernelLog && (() => kernelLog.read()),
      bootId: options.bootId,
      journal,
      childKilled: options.childKilled,
      systemOom: options.systemOom,
    }),
  );
  const open = stack.move();
  return { judge: watch.judge, [Symbol.dispose]: () => watch[Symbol.dispose](), [Symbol.asyncDispose]: () => open.disposeAsync() };
}
