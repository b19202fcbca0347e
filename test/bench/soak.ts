// The soak: some forty pods of every shape come, change and go for an hour while agent, runtime and API server are killed and stopped and containers are taken
// away behind the agent's back. All along, what the API server is told is held against what the runtime has; in the end nothing may be left.
//
//   node test/bench/soak.ts [--minutes 60] [--pods 40] [--seed N] [--agent keelson|upstream] [--out FOLDER]
//
// The first part of the time has every fault; the rest, more than half, none that ends the agent, so that the slope of its memory means something.
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { parse, stringify } from 'yaml';
import { systemClock } from '../../agent/base/clock.ts';
import { silentLog } from '../../agent/base/log.ts';
import { connectCri } from '../../agent/drivers/cri/client.ts';
import type { Pod } from '../../agent/model/generated/api.ts';
import { api } from '../testbed/control-plane.ts';
import { say } from '../testbed/images-debian.ts';
import { compareInventories, type Inventory, isLostByRuntime, takeInventory } from '../testbed/inventory.ts';
import { openLab, restartAgent, startLab, stopLab } from '../testbed/lab.ts';
import { watchPods } from '../testbed/pod-watch.ts';
import { seededRandom } from '../testbed/random.ts';
import { labPaths } from '../testbed/record.ts';
import { waitFor } from '../testbed/wait.ts';
import { median, percentile, table } from './report.ts';
import { createChecker, runtimeUid } from './soak/checker.ts';
import { startDriver } from './soak/driver.ts';
import { faults } from './soak/faults.ts';
import { descriptorKinds, type Sample, sampleOf, slopeOf } from './soak/samples.ts';
import { shapes } from './soak/shapes.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    pods: { type: 'string', default: '40' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 32)) },
    agent: { type: 'string', default: 'keelson' },
    /** Agent's memory may grow by so much an hour, judged when the calm part is at least 15 minutes. */
    'max-slope': { type: 'string', default: '24' },
    out: { type: 'string' },
  },
});
const minutes = Number(values.minutes);
const seed = Number(values.seed);
const agent = values.agent === 'upstream' ? 'upstream' : 'keelson';
const stormShare = 0.4;
const faultGapMs: readonly [number, number] = [12_000, 35_000];
/** An agent that was just started has this long to catch up before what it shows counts. */
const quietAfterMs = 6000;

const lab = `soak-${process.pid}`;
const node = 'n1';
const nodeName = `${lab}-${node}`;
const namespace = 'soak';
const out = values.out ?? join(tmpdir(), `keelson-${lab}`);
const pods = `/api/v1/namespaces/${namespace}/pods`;
const startedAt = performance.now();
const tell = (message: string): void => say(`soak [${((performance.now() - startedAt) / 1000).toFixed(0).padStart(4)} s] ${message}`);
const failures: string[] = [];
const fail = (text: string): void => {
  failures.push(text);
  tell(`FAILED ${text}`);
};

const agentPid = (): number => openLab(lab).components[`${node}/agent`]?.pid ?? 0;
const statusSort = (pod: Pod): string => pod.metadata?.labels?.sort ?? '';

/** What makes an hour tell as much as a day: logs rotate at a megabyte, and containers that crash come back within 20 s. */
const hasten = async (): Promise<void> => {
  const file = join(labPaths(lab).node(node).home, 'etc-kubernetes', 'kubelet.yaml');
  const config = parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  const hastened = {
    ...config,
    containerLogMaxSize: '1Mi',
    containerLogMaxFiles: 3,
    containerLogMonitorInterval: '3s',
    featureGates: { KubeletCrashLoopBackOffMax: true },
    crashLoopBackOff: { maxContainerRestartPeriod: '20s' },
  };
  writeFileSync(file, stringify(hastened));
  await restartAgent(lab);
};

/** "True", or what the Node says instead. */
const readyNode = async (): Promise<string> => {
  type NodeObject = { status?: { conditions?: { type: string; status: string; reason?: string; message?: string }[] } };
  const { status } = await api<NodeObject>({ name: lab }, `/api/v1/nodes/${nodeName}`);
  const ready = status?.conditions?.find(({ type }) => type === 'Ready');
  return ready?.status === 'True' ? 'True' : `${ready?.status} (${ready?.reason}: ${ready?.message})`;
};

let active: string | undefined;
let lastFaultEnd = 0;
const isQuiet = (): boolean => active === undefined && performance.now() - lastFaultEnd > quietAfterMs;
const struck = new Map<string, number>();
const samples: (Sample & { part: string })[] = [];
const descriptors: Record<'before' | 'after', Record<string, number>> = { before: {}, after: {} };
let part = 'storm';

const soak = async (): Promise<void> => {
  mkdirSync(out, { recursive: true });
  await startLab({ name: lab, agent, registry: false, images: ['busybox', 'agnhost'] });
  if (agent === 'keelson') await hasten();
  await api({ name: lab }, '/api/v1/namespaces', { method: 'POST', body: { metadata: { name: namespace } } });
  await waitFor('the service account', 30_000, () => api({ name: lab }, `/api/v1/namespaces/${namespace}/serviceaccounts/default`));
  await using cri = connectCri({ endpoint: `unix://${labPaths(lab).node(node).socket}`, clock: systemClock, log: silentLog });

  // The first pods make what stays: cgroups of QoS classes, chains for host ports.
  const warmUpShapes = shapes.filter(({ sort }) => ['plain', 'resize', 'host-port'].includes(sort));
  for (const shape of warmUpShapes)
    await api({ name: lab }, pods, {
      method: 'POST',
      body: { metadata: { name: `warm-${shape.sort}` }, spec: { ...shape.spec(0), nodeName, terminationGracePeriodSeconds: 1 } },
    });
  await waitFor('the first pods to run', 60_000, async () => {
    const { items } = await api<{ items: Pod[] }>({ name: lab }, pods);
    return items.every(({ status }) => status?.phase === 'Running') ? true : undefined;
  });
  await api({ name: lab }, pods, { method: 'DELETE' });
  await waitFor('the first pods to be gone', 60_000, async () =>
    (await api<{ items: Pod[] }>({ name: lab }, pods)).items.length === 0 ? true : undefined,
  );
  let before: Inventory = await takeInventory(lab, node);
  await waitFor(
    'the node to be at rest',
    60_000,
    async () => {
      const now = await takeInventory(lab, node);
      const changes = compareInventories(before, now);
      before = now;
      return changes.length === 0 ? true : undefined;
    },
    5000,
  );
  descriptors.before = Object.fromEntries(descriptorKinds(agentPid()));

  const random = seededRandom(seed);
  const driverRandom = seededRandom(seed + 1);
  const driver = await startDriver({
    lab,
    namespace,
    nodeName,
    target: Number(values.pods),
    random: driverRandom,
    failed: (what, error) => {
      if (isQuiet()) tell(`${what}: ${error instanceof Error ? error.message : error}`);
    },
  });
  const checker = createChecker(
    namespace,
    (pod) => statusSort(pod) === 'static' || driver.shapeOf(pod.metadata?.name ?? '')?.starts !== false,
    tell,
  );
  let created = 0;
  await using watch = await watchPods({ name: lab }, namespace, ({ type, pod, at }) => {
    if (type === 'ADDED') created += 1;
    checker.event(pod, type === 'DELETED', at);
  });

  const podsDir = join(labPaths(lab).node(node).home, 'kubelet', 'pods');
  const staleFiles = (list: readonly Pod[]): Map<string, string> => {
    const found = new Map<string, string>();
    const wanted = driver.configValue;
    for (const pod of list) {
      if (statusSort(pod) !== 'volumes' || pod.status?.phase !== 'Running' || pod.metadata?.deletionTimestamp !== undefined) continue;
      const file = join(podsDir, pod.metadata?.uid ?? '', 'volumes', 'kubernetes.io~configmap', 'config', 'key');
      const has = existsSync(file) ? readFileSync(file, 'utf8') : 'no file';
      if (has !== wanted)
        found.set(
          `${pod.metadata?.uid} config ${wanted}`,
          `${pod.metadata?.name}: its configMap volume has ${has}, the configMap ${wanted}`,
        );
    }
    return found;
  };

  const looking = new AbortController();
  const look = async (): Promise<void> => {
    const begun = performance.now();
    const quietBefore = isQuiet();
    const [{ items: sandboxes = [] }, { containers = [] }, ready] = await Promise.all([
      cri.listPodSandbox({}, looking.signal),
      cri.listContainers({}, looking.signal),
      readyNode(),
    ]);
    const tookMs = performance.now() - begun;
    const list = [...watch.pods.values()];
    const addresses = new Map<string, string[]>();
    for (const pod of list.toSorted(() => Math.random() - 0.5).slice(0, 3)) {
      const newest = sandboxes
        .filter(({ labels, state }) => labels?.['io.kubernetes.pod.uid'] === runtimeUid(pod) && state === 'SANDBOX_READY')
        .toSorted((a, b) => (b.created_at ?? 0) - (a.created_at ?? 0))[0];
      if (newest === undefined) continue;
      const { status } = await cri.podSandboxStatus({ pod_sandbox_id: newest.id ?? '' }, looking.signal);
      addresses.set(
        runtimeUid(pod),
        [status?.network?.ip ?? '', ...(status?.network?.additional_ips ?? []).map(({ ip }) => ip ?? '')].filter((ip) => ip !== ''),
      );
    }
    // Not even a fault may make the node look unready: none lasts as long as its lease.
    if (ready !== 'True' && !failures.some((text) => text.startsWith('the node was not Ready')))
      fail(`the node was not Ready: ${ready}; fault: ${active ?? 'none'}`);
    checker.look({
      at: begun,
      tookMs,
      quiet: quietBefore && isQuiet(),
      pods: list,
      containers,
      sandboxes,
      addresses,
      further: staleFiles(list),
    });
  };
  const lookLoop = (async (): Promise<void> => {
    let nextSample = 0;
    let nextWord = performance.now() - startedAt + 60_000;
    while (!looking.signal.aborted) {
      const now = performance.now();
      // A runtime or an API server that is down answers nothing: there is nothing to hold against anything.
      await look().catch((error: unknown) => {
        if (isQuiet() && !looking.signal.aborted) tell(`no look: ${error instanceof Error ? error.message : error}`);
      });
      if (now - startedAt >= nextSample) {
        const sample = sampleOf(agentPid(), (now - startedAt) / 1000);
        if (sample !== undefined) samples.push({ ...sample, part });
        nextSample = now - startedAt + 5000;
      }
      if (now - startedAt >= nextWord) {
        const newest = samples.at(-1);
        tell(
          `${part}: ${watch.pods.size} pods, ${created} so far; agent ${newest?.rssMiB.toFixed(0)} MiB (${newest?.anonMiB.toFixed(0)} anonymous), ${newest?.fds} descriptors; ${checker.looks} looks, ${checker.violations.length} violations`,
        );
        nextWord = now - startedAt + 60_000;
      }
      await sleep(1000);
    }
  })();

  const faultsFor = async (durationMs: number, endsAgent: boolean): Promise<void> => {
    const until = performance.now() + durationMs;
    const deck = faults
      .filter((fault) => endsAgent || fault.endsAgent !== true)
      .flatMap((fault) => Array.from({ length: fault.weight }, () => fault));
    for (;;) {
      const gap = faultGapMs[0] + random() * (faultGapMs[1] - faultGapMs[0]);
      const left = until - performance.now();
      await sleep(Math.max(0, Math.min(gap, left)));
      if (gap >= left) return;
      const fault = deck[Math.floor(random() * deck.length)];
      if (fault === undefined) return;
      active = fault.name;
      const began = performance.now();
      const what = await fault
        .strike({ lab, namespace, cri, random })
        .catch((error: unknown) => `failed: ${error instanceof Error ? error.message : error}`);
      active = undefined;
      lastFaultEnd = performance.now();
      struck.set(fault.name, (struck.get(fault.name) ?? 0) + 1);
      tell(`${fault.name}${what === '' ? '' : `: ${what}`} (${Math.round(lastFaultEnd - began)} ms)`);
    }
  };

  tell(`${minutes} min, ${values.pods} pods of ${shapes.length} shapes and static ones, agent ${agent}, --seed ${seed}; logs in ${out}`);
  const totalMs = minutes * 60_000;
  await faultsFor(totalMs * stormShare, true);
  part = 'calm';
  await faultsFor(totalMs * (1 - stormShare), false);

  part = 'end';
  await driver.stop();
  await api({ name: lab }, pods, { method: 'DELETE' });
  tell('no more pods are made; those there are go');
  await watch
    .until(
      'all pods to be gone',
      120_000,
      () => watch.pods.size === 0,
      () => [...watch.pods.values()].map((pod) => `${pod.metadata?.name}: ${JSON.stringify(pod.status)}`).join('\n'),
    )
    .catch((error: Error) => fail(error.message));
  looking.abort();
  await lookLoop;

  let lost = 0;
  await waitFor(
    'the node to be as it was',
    120_000,
    async () => {
      const now = await takeInventory(lab, node);
      const all = compareInventories(before, now).filter((line) => !line.endsWith('.broken'));
      lost = all.filter((line) => isLostByRuntime(line, before, now)).length;
      const left = all.filter((line) => !isLostByRuntime(line, before, now));
      if (left.length > 0) throw new Error(`\n${left.join('\n')}`);
      return true;
    },
    2000,
  ).catch((error: Error) => fail(error.message));
  if (lost > 0) tell(`${lost} shims, notes of runc and network namespaces are left that containerd itself has lost`);
  await judgeDescriptors();
  report(checker, created, driver.done);
};

/** Connections come and go a little; one for each pod, or for each fault, would be a leak. */
const judgeDescriptors = async (): Promise<void> => {
  const most = 8;
  await waitFor(
    'the agent to close its files and sockets',
    90_000,
    () => {
      descriptors.after = Object.fromEntries(descriptorKinds(agentPid()));
      const grown = Object.entries(descriptors.after).filter(([kind, n]) => n > (descriptors.before[kind] ?? 0) + most);
      if (grown.length > 0)
        throw new Error(grown.map(([kind, n]) => `${kind}: ${descriptors.before[kind] ?? 0} before, ${n} after`).join('; '));
      return true;
    },
    3000,
  ).catch((error: Error) => fail(error.message));
};

const report = (checker: ReturnType<typeof createChecker>, created: number, done: ReadonlyMap<string, number>): void => {
  const list = (counts: ReadonlyMap<string, number>): string => [...counts].map(([what, n]) => `${what} × ${n}`).join(', ');
  console.log(`\n${created} pods; ${list(done)}`);
  console.log(`faults: ${list(struck)}`);
  console.log(
    `${checker.looks} looks; what contradicted longest before it was set right: ${(checker.longest.ms / 1000).toFixed(1)} s ${checker.longest.text}\n`,
  );
  const rows = [
    ['agent', 'from s', 'to s', 'RSS first', 'median', 'p90', 'last MiB', 'RSS MiB/h', 'anonymous MiB/h', 'descriptors', 'descriptors/h'],
  ];
  for (const pid of new Set(samples.map((sample) => sample.pid))) {
    const life = samples.filter((sample) => sample.pid === pid);
    const from = life[0]?.at ?? 0;
    const to = life.at(-1)?.at ?? 0;
    if (to - from < 60) continue;
    // The first quarter of a life, five minutes at most, is warm-up; and what goes at the end is not counted.
    const warm = life.filter((sample) => sample.part !== 'end' && sample.at >= from + Math.min(300, (to - from) / 4));
    const slope = (value: (sample: Sample) => number): number => slopeOf(warm.map((sample) => [sample.at / 3600, value(sample)] as const));
    const rss = slope(({ rssMiB }) => rssMiB);
    const all = warm.map(({ rssMiB }) => rssMiB);
    const seconds = (warm.at(-1)?.at ?? 0) - (warm[0]?.at ?? 0);
    rows.push([
      `pid ${pid}`,
      from.toFixed(0),
      to.toFixed(0),
      (life[0]?.rssMiB ?? 0).toFixed(0),
      median(all).toFixed(0),
      percentile(all, 0.9).toFixed(0),
      (life.at(-1)?.rssMiB ?? 0).toFixed(0),
      rss.toFixed(1),
      slope(({ anonMiB }) => anonMiB).toFixed(1),
      String(life.at(-1)?.fds ?? 0),
      slope(({ fds }) => fds).toFixed(1),
    ]);
    if (seconds >= 900 && rss > Number(values['max-slope']))
      fail(`the agent's memory grows by ${rss.toFixed(1)} MiB an hour (at most ${values['max-slope']})`);
  }
  console.log(table(rows));
  for (const [when, kinds] of Object.entries(descriptors))
    console.log(
      `descriptors ${when}: ${Object.entries(kinds)
        .map(([kind, n]) => `${kind} ${n}`)
        .join(', ')}`,
    );
  failures.push(...checker.violations);
};

try {
  await soak();
} catch (error) {
  fail(error instanceof Error ? (error.stack ?? error.message) : String(error));
} finally {
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, 'samples.jsonl'), samples.map((sample) => `${JSON.stringify(sample)}\n`).join(''));
  const { logs } = labPaths(lab);
  if (failures.length > 0 && existsSync(logs)) cpSync(logs, join(out, 'logs'), { recursive: true });
  await stopLab(lab);
}
for (const text of failures) console.log(`FAILED ${text}`);
const faultCount = [...struck.values()].reduce((sum, n) => sum + n, 0);
console.log(
  `soak: ${failures.length === 0 ? 'passed' : `${failures.length} failures`} (${minutes} min, seed ${seed}, ${faultCount} faults${failures.length === 0 ? '' : `, logs in ${out}`})`,
);
process.exit(failures.length === 0 ? 0 : 1);
