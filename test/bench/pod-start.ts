// How long a pod takes from its creation to Ready as a watch sees it: keelson, upstream's kubelet and the bare runtime in turn, pod by pod, so that the noise
// of the machine hits all three alike. Then what the two agents take of the machine while nothing happens.
//
//   node test/bench/pod-start.ts [--pods 40] [--steady-pods 30] [--seconds 60] [--json FILE]
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { systemClock } from '../../agent/base/clock.ts';
import { silentLog } from '../../agent/base/log.ts';
import { type CriClient, connectCri } from '../../agent/drivers/cri/client.ts';
import { api } from '../testbed/control-plane.ts';
import { say } from '../testbed/images-debian.ts';
import { pauseImage } from '../testbed/images-recipes.ts';
import { openLab, startLab, stopLab } from '../testbed/lab.ts';
import { type PodWatch, watchPods } from '../testbed/pod-watch.ts';
import { type AgentKind, labPaths } from '../testbed/record.ts';
import { waitFor } from '../testbed/wait.ts';
import { median, percentile, table } from './report.ts';

const { values } = parseArgs({
  options: {
    pods: { type: 'string', default: '40' },
    'steady-pods': { type: 'string', default: '30' },
    seconds: { type: 'string', default: '60' },
    json: { type: 'string' },
  },
});
const rounds = Number(values.pods);
const steadyPods = Number(values['steady-pods']);
const seconds = Number(values.seconds);
const warmUpRounds = 3;
const signal = new AbortController().signal;
const pods = '/api/v1/namespaces/default/pods';

type Side = { agent: AgentKind; lab: string; watch: PodWatch; readyAt: Map<string, number> };

/** What the operating system says of an agent and the processes it has started: bytes resident, and CPU seconds used so far. */
const usageOf = (lab: string): { residentBytes: number; cpuSeconds: number } => {
  const pid = openLab(lab).components['n1/agent']?.pid;
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  // Fields 14 to 17 of proc_pid_stat(5): own and waited-for children's time, in hundredths of a second.
  const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
  return { residentBytes: Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0) * 1024, cpuSeconds: ticks / 100 };
};

const podNamed = (name: string): object => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name },
  spec: { containers: [{ name: 'main', image: pauseImage }], terminationGracePeriodSeconds: 1 },
});

/** Creates a pod and resolves to the milliseconds until a watch showed it Ready. */
const startOnePod = async (side: Side, name: string): Promise<number> => {
  const began = performance.now();
  await api({ name: side.lab }, pods, { method: 'POST', body: podNamed(name) });
  await side.watch.until(`pod ${name} to be Ready on ${side.agent}`, 60_000, () => side.readyAt.has(name));
  return (side.readyAt.get(name) ?? 0) - began;
};

const removePods = async (side: Side): Promise<void> => {
  await api({ name: side.lab }, pods, { method: 'DELETE' });
  await side.watch.until(`pods to be gone from ${side.agent}`, 60_000, () => side.watch.pods.size === 0);
};

type Floor = { sandbox: number; create: number; start: number; total: number };

/** The same pod by bare calls to the runtime: what no agent can be faster than. */
const startBarePod = async (cri: CriClient, lab: string, name: string): Promise<{ took: Floor; sandboxId: string }> => {
  const config = {
    metadata: { name, namespace: 'floor', uid: `floor-${name}`, attempt: 0 },
    hostname: name,
    log_directory: `/var/log/pods/floor_${name}_0`,
    dns_config: { servers: ['10.96.0.10'], searches: ['default.svc.cluster.local'], options: ['ndots:5'] },
    linux: {
      cgroup_parent: `${labPaths(lab).node('n1').cgroup}/floor`,
      security_context: { namespace_options: { network: 'POD' as const, pid: 'CONTAINER' as const, ipc: 'POD' as const } },
    },
  };
  const marks = [performance.now()];
  const sandboxId = (await cri.runPodSandbox({ config, runtime_handler: '' }, signal)).pod_sandbox_id ?? '';
  marks.push(performance.now());
  const { container_id } = await cri.createContainer(
    {
      pod_sandbox_id: sandboxId,
      sandbox_config: config,
      config: {
        metadata: { name: 'main', attempt: 0 },
        image: { image: pauseImage },
        log_path: 'main/0.log',
        linux: {
          resources: { oom_score_adj: 1000, cpu_shares: 2 },
          security_context: { namespace_options: config.linux.security_context.namespace_options },
        },
      },
    },
    signal,
  );
  marks.push(performance.now());
  await cri.startContainer({ container_id: container_id ?? '' }, signal);
  marks.push(performance.now());
  const [a = 0, b = 0, c = 0, d = 0] = marks;
  return { took: { sandbox: b - a, create: c - b, start: d - c, total: d - a }, sandboxId };
};

const openSide = async (agent: AgentKind): Promise<Side> => {
  const lab = `${agent === 'keelson' ? 'bk' : 'bu'}-${process.pid}`;
  await startLab({ name: lab, agent, registry: false, images: ['pause'] });
  await waitFor('the service account', 30_000, () => api({ name: lab }, '/api/v1/namespaces/default/serviceaccounts/default'));
  const readyAt = new Map<string, number>();
  const watch = await watchPods({ name: lab }, 'default', ({ pod, at }) => {
    const name = pod.metadata?.name ?? '';
    const ready = pod.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True');
    if (ready === true && !readyAt.has(name)) readyAt.set(name, at);
  });
  return { agent, lab, watch, readyAt };
};

const measureStarts = async (sides: readonly Side[], cri: CriClient, floorLab: string) => {
  const took = { keelson: [] as number[], upstream: [] as number[], floor: [] as Floor[] };
  for (let round = -warmUpRounds; round < rounds; round++) {
    const kept = round >= 0;
    const name = `p${round + warmUpRounds}`;
    const turns = [
      async (): Promise<void> => {
        const { took: floor, sandboxId } = await startBarePod(cri, floorLab, name);
        if (kept) took.floor.push(floor);
        await cri.stopPodSandbox({ pod_sandbox_id: sandboxId }, signal);
        await cri.removePodSandbox({ pod_sandbox_id: sandboxId }, signal);
      },
      ...sides.map((side) => async (): Promise<void> => {
        const ms = await startOnePod(side, name);
        if (kept) took[side.agent].push(ms);
        await removePods(side);
      }),
    ];
    // Who comes first changes, and the machine comes to rest in between: an agent still tidies up when the pod is gone from the API.
    for (let i = 0; i < turns.length; i++) {
      await turns[(i + round + warmUpRounds) % turns.length]?.();
      await sleep(500);
    }
    if (kept && (round + 1) % 10 === 0) say(`${round + 1} of ${rounds} rounds`);
  }
  return took;
};

/** Resident memory and CPU of both agents over the same stretch of time. */
const measureRest = async (sides: readonly Side[]) => {
  const before = sides.map((side) => usageOf(side.lab));
  const began = performance.now();
  const peaks = sides.map(() => 0);
  for (let second = 0; second < seconds; second++) {
    await sleep(1000);
    sides.forEach((side, i) => {
      peaks[i] = Math.max(peaks[i] ?? 0, usageOf(side.lab).residentBytes);
    });
  }
  const elapsed = (performance.now() - began) / 1000;
  return sides.map((side, i) => {
    const now = usageOf(side.lab);
    return {
      agent: side.agent,
      residentMiB: now.residentBytes / 2 ** 20,
      peakMiB: (peaks[i] ?? 0) / 2 ** 20,
      cores: (now.cpuSeconds - (before[i]?.cpuSeconds ?? 0)) / elapsed,
    };
  });
};

const startMany = async (side: Side): Promise<number> => {
  const names = Array.from({ length: steadyPods }, (_, i) => `steady-${i}`);
  const began = performance.now();
  await Promise.all(names.map((name) => api({ name: side.lab }, pods, { method: 'POST', body: podNamed(name) })));
  await side.watch.until(`${steadyPods} pods to be Ready on ${side.agent}`, 180_000, () => names.every((name) => side.readyAt.has(name)));
  return performance.now() - began;
};

const sides: Side[] = [];
try {
  sides.push(await openSide('keelson'));
  sides.push(await openSide('upstream'));
  const floorLab = sides[0]?.lab ?? '';
  await using cri = connectCri({ endpoint: `unix://${labPaths(floorLab).node('n1').socket}`, clock: systemClock, log: silentLog });
  say(`${rounds} rounds of one pod each: bare runtime, keelson, upstream`);
  const took = await measureStarts(sides, cri, floorLab);
  say(`${seconds} s of rest without pods`);
  const idle = await measureRest(sides);
  const many: Record<string, number> = {};
  for (const side of sides) many[side.agent] = await startMany(side);
  say(`${seconds} s of rest with ${steadyPods} pods`);
  const steady = await measureRest(sides);

  const floors = took.floor.map(({ total }) => total);
  const row = (name: string, times: readonly number[]): string[] => [
    name,
    `${median(times).toFixed(0)}`,
    `${percentile(times, 0.9).toFixed(0)}`,
    `${Math.min(...times).toFixed(0)}`,
    `${(median(times) / median(floors)).toFixed(2)}`,
  ];
  console.log(
    `\n${new Date(performance.timeOrigin).toISOString()}  ${cpus().length} × ${cpus()[0]?.model}, ${rounds} pods each, in turn\n`,
  );
  console.log(
    table([
      ['one pod, create → Ready', 'p50 ms', 'p90 ms', 'best ms', '÷ floor'],
      row('bare runtime (the floor)', floors),
      row('keelson', took.keelson),
      row('upstream kubelet', took.upstream),
    ]),
  );
  const part = (key: keyof Floor): string => median(took.floor.map((each) => each[key])).toFixed(0);
  console.log(`\nthe floor is sandbox ${part('sandbox')} + create ${part('create')} + start ${part('start')} ms`);
  console.log(
    `keelson ÷ floor ${(median(took.keelson) / median(floors)).toFixed(2)} (aim 1.6), keelson ÷ upstream ${(median(took.keelson) / median(took.upstream)).toFixed(2)} (aim 0.46)`,
  );
  console.log(
    `${steadyPods} pods at once: keelson ${((many.keelson ?? 0) / 1000).toFixed(1)} s, upstream ${((many.upstream ?? 0) / 1000).toFixed(1)} s (one after the other)\n`,
  );
  const rest = (what: string, all: typeof idle): string[][] =>
    all.map(({ agent, residentMiB, peakMiB, cores }) => [
      `${agent}, ${what}`,
      residentMiB.toFixed(0),
      peakMiB.toFixed(0),
      cores.toFixed(4),
    ]);
  console.log(
    table([[`at rest, ${seconds} s`, 'RSS MiB', 'peak MiB', 'cores'], ...rest('no pods', idle), ...rest(`${steadyPods} pods`, steady)]),
  );
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify({ took, many, idle, steady }, undefined, 1)}\n`);
} finally {
  for (const side of sides) await side.watch[Symbol.asyncDispose]();
  for (const lab of [`bk-${process.pid}`, `bu-${process.pid}`]) await stopLab(lab);
}
