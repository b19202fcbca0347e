// OOM kills on real containerds, judged by this kernel's counts: on cgroup v1 a container's own count and the kernel's log, on v2 the pod's count as well.
// The runtime's word is hidden from the agent: it comes late or never, as users tell every month.
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../agent/base/clock.ts';
import { silentLog } from '../../agent/base/log.ts';
import { Table } from '../../agent/base/table.ts';
import { createLastWords } from '../../agent/cli/wiring/last-words.ts';
import { openCgroups } from '../../agent/drivers/cgroup/cgroups.ts';
import { readOomKills } from '../../agent/drivers/cgroup/oom-kills.ts';
import { openCgroupReader } from '../../agent/drivers/cgroup/readings.ts';
import { openMounts } from '../../agent/drivers/mounts/mounts.ts';
import { openKernelLog } from '../../agent/drivers/sys/kernel-log.ts';
import type { RuntimePod } from '../../agent/pods/observed.ts';
import { type OomWatchOptions, watchOom } from '../../agent/pods/oom-watch.ts';
import { type RuntimeView, watchRuntime } from '../../agent/pods/runtime-watch.ts';
import { cgroupTree, podCgroupPlaces } from '../../agent/resources/cgroup-names.ts';
import type { ContainerStatus } from '../../cri-protos/generated/cri.ts';
import type { RuntimeKind } from '../testbed/runtimes.ts';
import { waitFor } from '../testbed/wait.ts';
import { startPrivateRuntime } from './private-runtime.ts';

const never = new AbortController().signal;
const kinds: RuntimeKind[] = ['containerd-2', 'containerd-1.6'];
const mib = 1 << 20;
const hog = 'x=$(tr "\\0" x < /dev/zero | head -c 100000000)';

function memoryJournal(): OomWatchOptions['journal'] {
  const values = new Map<string, NonNullable<ReturnType<OomWatchOptions['journal']['get']>>>();
  return {
    get: (key) => values.get(key),
    set: (key, value) => void values.set(key, value),
    delete: (key) => void values.delete(key),
    entries: () => values.entries(),
  };
}

for (const kind of kinds)
  test(`OOM kills on ${kind}`, { timeout: 180_000 }, async () => {
    await using bed = await startPrivateRuntime(kind, 'oom', ['busybox', 'pause']);
    const { client } = bed;
    const { images } = await client.listImages({}, never);
    const image = images?.flatMap((i) => i.repo_tags ?? []).find((tag) => tag.includes('busybox')) ?? '';
    const cgroups = await openCgroups(systemClock);
    const tree = cgroupTree('cgroupfs', `/${bed.id}`);
    const reader = await openCgroupReader();
    const events: string[] = [];
    const mute = (status: ContainerStatus | undefined): ContainerStatus | undefined =>
      status?.reason === 'OOMKilled' ? { ...status, reason: 'Error' } : status;
    const cri: RuntimeView = {
      listPodSandbox: (request, signal) => client.listPodSandbox(request, signal),
      listContainers: (request, signal) => client.listContainers(request, signal),
      podSandboxStatus: (request, signal) => client.podSandboxStatus(request, signal),
      containerStatus: async (request, signal) => ({ status: mute((await client.containerStatus(request, signal)).status) }),
      containerEvents: (signal) => client.containerEvents(signal),
    };

    const journal = memoryJournal();
    /** An agent's eyes: opened anew, they are those of an agent that was restarted. */
    const watch = () => {
      const stack = new AsyncDisposableStack();
      const table = new Table<RuntimePod>('runtime');
      const kernelLog = stack.use(openKernelLog());
      const oom = stack.use(
        watchOom({
          clock: systemClock,
          log: silentLog,
          runtime: table,
          counts: (uid) => readOomKills(reader, podCgroupPlaces(tree, uid)),
          readLog: () => kernelLog.read(),
          bootId: 'this',
          journal,
          childKilled: (_, container, message) => void events.push(`${container.name}: ${message}`),
          systemOom: () => undefined,
        }),
      );
      stack.use(
        watchRuntime({
          cri,
          clock: systemClock,
          log: silentLog,
          table,
          signal: never,
          auditIntervalMs: 1000,
          relistIntervalMs: 500,
          lastWords: createLastWords('/none', openMounts()),
          judgeEnd: oom.judge,
        }),
      );
      return { table, [Symbol.asyncDispose]: () => stack.disposeAsync() };
    };

    const makePod = async (uid: string, memoryLimitBytes: number) => {
      const parent = podCgroupPlaces(tree, uid)[0] ?? '';
      await cgroups.create(parent, { memoryLimitBytes }, never);
      const labels = { 'io.kubernetes.pod.uid': uid, 'io.kubernetes.pod.name': uid, 'io.kubernetes.pod.namespace': 'test' };
      const folder = join(bed.folder, 'logs', uid);
      mkdirSync(folder, { recursive: true });
      const config = {
        metadata: { name: uid, namespace: 'test', uid, attempt: 0 },
        labels,
        log_directory: folder,
        linux: {
          cgroup_parent: parent,
          security_context: { namespace_options: { network: 'NODE' as const, pid: 'CONTAINER' as const, ipc: 'POD' as const } },
        },
      };
      const { pod_sandbox_id: sandbox = '' } = await client.runPodSandbox({ config }, never);
      return async (name: string, script: string, limit?: number): Promise<void> => {
        const { container_id: id = '' } = await client.createContainer(
          {
            pod_sandbox_id: sandbox,
            sandbox_config: config,
            config: {
              metadata: { name, attempt: 0 },
              labels: { ...labels, 'io.kubernetes.container.name': name },
              image: { image },
              command: ['/bin/sh', '-c', script],
              log_path: `${name}.log`,
              linux: { resources: limit === undefined ? {} : { memory_limit_in_bytes: limit } },
            },
          },
          never,
        );
        await client.startContainer({ container_id: id }, never);
      };
    };

    const reasons = (table: Table<RuntimePod>, uid: string): Record<string, string> =>
      Object.fromEntries(
        (table.get(uid)?.containers ?? []).map((c) => [c.name, c.state === 'exited' ? `${c.exitCode} ${c.reason}` : c.state]),
      );
    const settled = (table: Table<RuntimePod>, uid: string, wanted: Record<string, string>) =>
      waitFor(
        `${uid} to be ${JSON.stringify(wanted)}`,
        40_000,
        () => {
          assert.deepEqual(reasons(table, uid), wanted);
          return Promise.resolve(true);
        },
        100,
      );

    // What is in the kernel's log of earlier containers has other IDs.
    const first = watch();
    {
      await using _first = first;
      await waitFor('the first look', 10_000, () => (first.table.synced ? true : undefined), 20);
      const own = await makePod('own', 200 * mib);
      await own('main', `exec sh -c '${hog}'`, 20 * mib);
      await own('parent', `(${hog}); sleep 1000`, 20 * mib);
      await own('killed', 'kill -9 $$', 20 * mib);
      await own('well', 'exit 3', 20 * mib);
      await settled(first.table, 'own', { main: '137 OOMKilled', parent: 'running', killed: '137 Error', well: '3 Error' });

      // The pod's limit, with none of the containers'.
      const whole = await makePod('whole', 30 * mib);
      await whole('small', 'sleep 1000');
      await whole('big', `exec sh -c '${hog}'`);
      await settled(first.table, 'whole', { small: 'running', big: '137 OOMKilled' });

      // Two that die within a moment, one of them by somebody's hand.
      const two = await makePod('two', 200 * mib);
      await Promise.all([two('eats', `exec sh -c '${hog}'`, 20 * mib), two('killed', 'sleep 0.3; kill -9 $$', 20 * mib)]);
      await settled(first.table, 'two', { eats: '137 OOMKilled', killed: '137 Error' });

      await waitFor('the event of the child', 30_000, () => (events.length > 0 ? true : undefined), 200);
    }
    assert.match(
      events.join('\n'),
      /^parent: Memory limit reached: the kernel killed 1 process of container parent, its main process runs on, victim process: \w+, pid: \d+$/,
    );

    // Killed while no agent looks.
    const away = await makePod('away', 200 * mib);
    await away('main', `exec sh -c '${hog}'`, 20 * mib);
    await waitFor('the end', 20_000, async () =>
      (await client.listContainers({ filter: { label_selector: { 'io.kubernetes.pod.uid': 'away' } } }, never)).containers?.[0]?.state ===
      'CONTAINER_EXITED'
        ? true
        : undefined,
    );
    await using second = watch();
    await settled(second.table, 'away', { main: '137 OOMKilled' });
    await settled(second.table, 'own', { main: '137 OOMKilled', parent: 'running', killed: '137 Error', well: '3 Error' });
    assert.equal(events.length, 1, events.join('\n'));
  });
