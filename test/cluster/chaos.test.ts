// Thirty pods of all sorts, and everything they stand on killed again and again while they start and run: the agent ten times, the container runtime and
// the API server twice each, one of each pair for a while with the agent started in the middle. No pod may notice, and nothing may be left of them in the end.
import assert from 'node:assert/strict';
import { cpSync, existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemClock } from '../../agent/base/clock.ts';
import { silentLog } from '../../agent/base/log.ts';
import { connectCri } from '../../agent/drivers/cri/client.ts';
import type { Container, ContainerStatus, Pod, PodSpec, Probe } from '../../agent/model/generated/api.ts';
import { api, waitForApiserver } from '../testbed/control-plane.ts';
import { ensureImages } from '../testbed/images.ts';
import { run, say } from '../testbed/images-debian.ts';
import { pauseImage } from '../testbed/images-recipes.ts';
import { compareInventories, type Inventory, isLostByRuntime, takeInventory } from '../testbed/inventory.ts';
import { openLab, restartAgent, restartApiserver, restartRuntime, startAgain, startLab, stopComponent, stopLab } from '../testbed/lab.ts';
import { type PodEvent, type PodWatch, watchPods } from '../testbed/pod-watch.ts';
import { tailOf } from '../testbed/process.ts';
import { seededRandom } from '../testbed/random.ts';
import { labPaths } from '../testbed/record.ts';
import { ensureRuntime } from '../testbed/runtimes.ts';
import { waitFor } from '../testbed/wait.ts';

const name = `chaos-${process.pid}`;
const node = 'n1';
const namespace = 'chaos';
const busybox = 'registry.k8s.io/e2e-test-images/busybox:1.37.0-1';
const signal = new AbortController().signal;
// The yardstick: the same with upstream's kubelet.
const agent = process.env.CHAOS_AGENT === 'upstream' ? 'upstream' : 'keelson';
// containerd 2.1 killed in the middle of a start may keep a container that nothing in the CRI can remove; CHAOS_RUNTIME_SIGNAL=SIGKILL shows what then happens.
const runtimeSignal = (process.env.CHAOS_RUNTIME_SIGNAL ?? 'SIGTERM') as NodeJS.Signals;
const seed = Number(process.env.CHAOS_SEED ?? Math.floor(Math.random() * 2 ** 32));

const startedAt = performance.now();
const tell = (message: string): void => say(`chaos [${((performance.now() - startedAt) / 1000).toFixed(1).padStart(5)} s] ${message}`);

const random = seededRandom(seed);
const between = (least: number, most: number): number => Math.round(least + random() * (most - least));

// ------------------------------------------------------------------------------------------------------------------------- the pods

/** Ends at once when asked to, as a shell in the foreground would not. */
const waits = 'trap "exit 0" TERM; sleep 1000000 & wait';
const shell = (containerName: string, script: string, more: Partial<Container> = {}): Container => ({
  name: containerName,
  image: busybox,
  command: ['sh', '-c', script],
  ...more,
});
// One late answer of a machine at its limit is no failure, three in a row are.
const probe = (how: Probe): Probe => ({ periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 3, ...how });

const sorts: { sort: string; count: number; spec: PodSpec }[] = [
  { sort: 'plain', count: 8, spec: { containers: [shell('main', waits)] } },
  {
    sort: 'volumes',
    count: 6,
    spec: {
      containers: [
        shell(
          'main',
          `test "$(cat /config/key)" = value && test "$(cat /secret/word)" = swordfish && echo mine > /scratch/file && ${waits}`,
          {
            volumeMounts: [
              { name: 'config', mountPath: '/config' },
              { name: 'secret', mountPath: '/secret' },
              { name: 'scratch', mountPath: '/scratch' },
              { name: 'memory', mountPath: '/memory' },
              { name: 'about', mountPath: '/about' },
            ],
          },
        ),
      ],
      volumes: [
        { name: 'config', configMap: { name: 'config' } },
        { name: 'secret', secret: { secretName: 'secret' } },
        { name: 'scratch', emptyDir: {} },
        { name: 'memory', emptyDir: { medium: 'Memory' } },
        { name: 'about', downwardAPI: { items: [{ path: 'name', fieldRef: { fieldPath: 'metadata.name' } }] } },
      ],
    },
  },
  {
    sort: 'http-probe',
    count: 4,
    spec: {
      containers: [
        shell('main', `mkdir /www; echo ok > /www/ready; httpd -p 8080 -h /www; ${waits}`, {
          readinessProbe: probe({ httpGet: { path: '/ready', port: 8080 } }),
          livenessProbe: probe({ httpGet: { path: '/ready', port: 8080 } }),
        }),
      ],
    },
  },
  {
    sort: 'exec-probe',
    count: 4,
    spec: {
      containers: [shell('main', `touch /ready; ${waits}`, { readinessProbe: probe({ exec: { command: ['test', '-e', '/ready'] } }) })],
    },
  },
  { sort: 'two', count: 3, spec: { containers: [shell('first', waits), shell('second', waits)] } },
  {
    sort: 'init',
    count: 3,
    spec: {
      initContainers: [shell('init', 'echo done > /shared/file', { volumeMounts: [{ name: 'shared', mountPath: '/shared' }] })],
      containers: [shell('main', `cat /shared/file && ${waits}`, { volumeMounts: [{ name: 'shared', mountPath: '/shared' }] })],
      volumes: [{ name: 'shared', emptyDir: {} }],
    },
  },
  {
    sort: 'sidecar',
    count: 2,
    spec: {
      initContainers: [
        shell('sidecar', `touch /up; ${waits}`, {
          restartPolicy: 'Always',
          startupProbe: probe({ exec: { command: ['test', '-e', '/up'] }, failureThreshold: 60 }),
        }),
      ],
      containers: [shell('main', waits)],
    },
  },
];

const podNamed = (podName: string, spec: PodSpec = { containers: [shell('main', waits)] }): Pod => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: podName, namespace },
  // Bound here: the scheduler, which waits for seconds when the API server was away, is not what is tested.
  spec: { ...spec, nodeName: `${name}-${node}`, terminationGracePeriodSeconds: 10 },
});

const pods = sorts.flatMap(({ sort, count, spec }) => Array.from({ length: count }, (_, i) => podNamed(`${sort}-${i + 1}`, spec)));

// ------------------------------------------------------------------------------------------------------- what a watcher must never see

const violations: string[] = [];
/** By pod/container: the ID it had when it was first seen running. */
const runningIds = new Map<string, string>();
const wasReady = new Map<string, boolean>();
let deleting = false;

const statusesOf = (pod: Pod): ContainerStatus[] => [
  ...(pod.status?.initContainerStatuses ?? []),
  ...(pod.status?.containerStatuses ?? []),
];
const conditionOf = (pod: Pod, type: string) => pod.status?.conditions?.find((condition) => condition.type === type);
const isReady = (pod: Pod): boolean => conditionOf(pod, 'Ready')?.status === 'True';

const endsByItself = (status: ContainerStatus): boolean => status.name === 'init';

/**
 * An init container that ended by itself while containerd was down, which then knows neither whether it did what it had to: it says 255 and Unknown, and it
 * has to run again. No agent can know better.
 */
const isLostEnd = (status: ContainerStatus): boolean => {
  const last = status.lastState?.terminated;
  return endsByItself(status) && status.restartCount === 1 && last?.exitCode === 255 && last.reason === 'Unknown';
};

/**
 * Containers ("pod/name") whose first start containerd cut short, killed or ended in the middle of it, and of which it then will not let go ("cannot delete running
 * task", test/testbed/inventory.ts isLostByRuntime): nobody ever saw them run, and their name is taken, so that the next instance bears the next number, kubelet's as ours.
 */
const lostStarts = new Set<string>();

const isLostStart = (key: string, status: ContainerStatus): boolean => {
  if (status.restartCount !== 1 || status.lastState?.terminated !== undefined) return false;
  if (!runningIds.has(key)) lostStarts.add(key);
  return lostStarts.has(key);
};

const judge = ({ type, pod }: PodEvent): void => {
  if (deleting) return;
  const podName = pod.metadata?.name ?? '';
  const complain = (what: string): void => {
    const text = `${podName}: ${what}`;
    if (violations.includes(text)) return;
    violations.push(text);
    tell(`VIOLATION ${text}`);
  };
  if (type === 'DELETED') complain('deleted by somebody');
  for (const status of statusesOf(pod)) {
    const key = `${podName}/${status.name}`;
    if (status.restartCount > 0 && !isLostEnd(status) && !isLostStart(key, status))
      complain(`${status.name} has restartCount ${status.restartCount}, last state ${JSON.stringify(status.lastState)}`);
    const known = runningIds.get(key);
    if (status.state?.running !== undefined) {
      if (known === undefined || isLostEnd(status)) runningIds.set(key, status.containerID ?? '');
      else if (known !== status.containerID) complain(`${status.name} was ${known} and is now ${status.containerID}`);
    } else if (known !== undefined && !endsByItself(status)) complain(`${status.name} ran and is now ${JSON.stringify(status.state)}`);
  }
  if (pod.status?.phase === 'Failed' || pod.status?.phase === 'Succeeded') complain(`phase is ${pod.status.phase}: ${pod.status.message}`);
  const ready = isReady(pod);
  if (wasReady.get(podName) === true && !ready) complain(`Ready went back to ${JSON.stringify(conditionOf(pod, 'Ready'))}`);
  wasReady.set(podName, ready);
};

// ----------------------------------------------------------------------------------------------------------------------- the blows

type Blow = 'agent' | 'runtime' | 'runtime-down' | 'apiserver' | 'apiserver-down';
const struck = { agent: 0, runtime: 0, apiserver: 0 };

const strike = async (blow: Blow): Promise<void> => {
  const killAgent = async (): Promise<void> => {
    struck.agent += 1;
    await restartAgent(name, { signal: 'SIGKILL' });
  };
  switch (blow) {
    case 'agent':
      return killAgent();
    case 'runtime':
      struck.runtime += 1;
      return restartRuntime(name, { signal: runtimeSignal });
    case 'runtime-down':
      struck.runtime += 1;
      await stopComponent(name, `${node}/containerd`, runtimeSignal);
      await killAgent();
      await sleep(between(500, 3000));
      return restartRuntime(name);
    case 'apiserver':
      struck.apiserver += 1;
      return restartApiserver(name, { signal: 'SIGKILL' });
    case 'apiserver-down':
      struck.apiserver += 1;
      await stopComponent(name, 'apiserver', 'SIGKILL');
      await killAgent();
      await sleep(between(500, 3000));
      await startAgain(name, 'apiserver');
      return waitForApiserver(openLab(name));
  }
};

const shuffled = <T>(list: readonly T[]): T[] => {
  const left = [...list];
  const mixed: T[] = [];
  while (left.length > 0) mixed.push(...left.splice(Math.floor(random() * left.length), 1));
  return mixed;
};

const readyPods = (): number => [...watch.pods.values()].filter(isReady).length;

/** Strikes in any order, at any moment: after a pause, and half the time not before a few more pods have become Ready, so that blows meet pods at all stages. */
const storm = async (phase: string, blows: readonly Blow[], longestPauseMs: number): Promise<void> => {
  for (const blow of shuffled(blows)) {
    const wanted = Math.min(pods.length, readyPods() + (random() < 0.5 ? 0 : between(1, 6)));
    await watch.until('a few more pods', 20_000, () => readyPods() >= wanted).catch((error: Error) => tell(error.message));
    await sleep(between(100, longestPauseMs));
    const ready = readyPods();
    const began = performance.now();
    await strike(blow);
    tell(`${phase}: ${blow} at ${ready} of ${pods.length} pods Ready, back after ${Math.round(performance.now() - began)} ms`);
  }
};

// ------------------------------------------------------------------------------------------------------------------------- the test

let watch: PodWatch;
let inventory: Inventory;
let foreignSandbox = '';

/** Containers that are none of the agent's business: one in a containerd namespace of its own, and a CRI pod that nothing marks as Kubernetes'. */
const startForeigners = async (): Promise<void> => {
  const paths = labPaths(name);
  const { socket } = paths.node(node);
  const { ctr } = await ensureRuntime(openLab(name).runtime);
  const foreign = ['--address', socket, '--namespace', 'foreign'];
  for (const tar of await ensureImages(['pause'])) await run(ctr, [...foreign, 'images', 'import', tar]);
  await run(ctr, [...foreign, 'run', '--detach', '--null-io', '--cgroup', `${paths.cgroup}/foreign/stranger`, pauseImage, 'stranger']);
  await using cri = connectCri({ endpoint: `unix://${socket}`, clock: systemClock, log: silentLog });
  const config = {
    metadata: { name: 'stranger', namespace: 'elsewhere', uid: 'not-a-pod-of-this-cluster', attempt: 0 },
    hostname: 'stranger',
    log_directory: '/tmp',
    linux: { cgroup_parent: `${paths.cgroup}/foreign` },
  };
  foreignSandbox = (await cri.runPodSandbox({ config, runtime_handler: '' }, signal)).pod_sandbox_id ?? '';
  const { container_id } = await cri.createContainer(
    {
      pod_sandbox_id: foreignSandbox,
      sandbox_config: config,
      config: {
        metadata: { name: 'main', attempt: 0 },
        image: { image: busybox },
        command: ['sh', '-c', waits],
        linux: { resources: { oom_score_adj: 1000 }, security_context: { run_as_user: { value: 0 } } },
      },
    },
    signal,
  );
  await cri.startContainer({ container_id: container_id ?? '' }, signal);
};

/** The first pod of its kind makes a node create what stays: cgroups of QoS classes, in hierarchies that only runc uses, too. */
const warmUp = async (): Promise<void> => {
  deleting = true;
  const fresh = await takeInventory(name, node);
  await api(openLab(name), `/api/v1/namespaces/${namespace}/pods`, { method: 'POST', body: podNamed('warm-up') });
  await watch.until('the first pod to be Ready', 60_000, () => isReady(watch.pods.get('warm-up') ?? {}));
  await api(openLab(name), `/api/v1/namespaces/${namespace}/pods/warm-up`, { method: 'DELETE' });
  await waitFor('the first pod to be gone', 60_000, async () => {
    const difference = compareInventories(fresh, await takeInventory(name, node));
    const left = difference.filter((line) => !/^cgroup left behind: .*\/kubepods(\/besteffort)?$/.test(line));
    if (left.length > 0) throw new Error(`\n${left.join('\n')}`);
    return true;
  });
  deleting = false;
};

before(
  async () => {
    tell(`agent ${agent}, seed ${seed} (CHAOS_SEED=${seed} deals the same blows)`);
    await startLab({ name, agent, registry: false, images: ['busybox'] });
    // Upstream's kubelet ends every CRI pod, also one that has no label of Kubernetes'.
    if (agent === 'keelson') await startForeigners();
    const create = (path: string, body: object): Promise<unknown> => api(openLab(name), path, { method: 'POST', body });
    await create('/api/v1/namespaces', { metadata: { name: namespace } });
    await create(`/api/v1/namespaces/${namespace}/configmaps`, { metadata: { name: 'config' }, data: { key: 'value' } });
    await create(`/api/v1/namespaces/${namespace}/secrets`, { metadata: { name: 'secret' }, stringData: { word: 'swordfish' } });
    await waitFor('the service account', 30_000, () => api(openLab(name), `/api/v1/namespaces/${namespace}/serviceaccounts/default`));
    watch = await watchPods({ name }, namespace, judge);
    await warmUp();
    inventory = await takeInventory(name, node);
    tell(`ready to begin: ${[...inventory].map(([kind, all]) => `${all.size} × ${kind}`).join(', ')}`);
  },
  { timeout: 600_000 },
);

after(async () => {
  await watch?.[Symbol.asyncDispose]();
  await stopLab(name);
});

/** What a person needs when it went wrong, before the lab and its logs are taken away. */
const keepEvidence = (): void => {
  const { logs } = labPaths(name);
  if (!existsSync(logs)) return;
  const kept = join(tmpdir(), `keelson-${name}-logs`);
  cpSync(logs, kept, { recursive: true });
  tell(`logs are kept in ${kept}; the end of the agent's:\n${tailOf(join(logs, `${node}-agent.log`), 30)}`);
};

const ifItFails = async (work: () => Promise<void>): Promise<void> => {
  try {
    await work();
  } catch (error) {
    keepEvidence();
    throw error;
  }
};

const unreadyPods = (): string =>
  pods
    .map(({ metadata }) => watch.pods.get(metadata?.name ?? '') ?? { metadata })
    .filter((pod) => !isReady(pod))
    .map(
      (pod) =>
        `${pod.metadata?.name}: ${pod.status?.phase} ${JSON.stringify(statusesOf(pod).map(({ name, state, ready }) => ({ name, state, ready })))}`,
    )
    .join('\n');

test('thirty pods start and run through it all', { timeout: 300_000 }, () =>
  ifItFails(async () => {
    const began = performance.now();
    // What is created while the server is down is created again; that it is there already is fine.
    const creating = Promise.all(
      pods.map((pod) =>
        waitFor(`creating ${pod.metadata?.name}`, 60_000, () =>
          api(openLab(name), `/api/v1/namespaces/${namespace}/pods`, { method: 'POST', body: pod }).catch((error: unknown) => {
            if (String(error).includes('AlreadyExists')) return true;
            throw error;
          }),
        ),
      ),
    );
    await storm('starting', ['agent', 'agent', 'agent', 'agent', 'runtime', 'apiserver-down'], 3000);
    await creating;
    const allReady = (): boolean => watch.pods.size === pods.length && [...watch.pods.values()].every(isReady);
    await watch.until('all pods to be Ready', 120_000, allReady, unreadyPods);
    tell(`all Ready ${((performance.now() - began) / 1000).toFixed(1)} s after the first was asked for`);
    await storm('running', ['agent', 'agent', 'agent', 'agent', 'runtime-down', 'apiserver'], 5000);
    assert.deepEqual(struck, { agent: 10, runtime: 2, apiserver: 2 });

    // The agent has caught up when it has heard of something new, and done it.
    await api(openLab(name), `/api/v1/namespaces/${namespace}/pods`, { method: 'POST', body: podNamed('afterwards') });
    await watch.until('one more pod to be Ready', 60_000, () => isReady(watch.pods.get('afterwards') ?? {}));

    // Another ten seconds: probes go round, the audit looks at everything.
    await sleep(10_000);
    assert.deepEqual(violations, []);
    for (const pod of watch.pods.values()) {
      assert.equal(pod.status?.phase, 'Running', `${pod.metadata?.name}`);
      assert.ok(isReady(pod), `${pod.metadata?.name}`);
      for (const status of statusesOf(pod))
        assert.equal(
          isLostEnd(status) || lostStarts.has(`${pod.metadata?.name}/${status.name}`) ? 0 : status.restartCount,
          0,
          `${pod.metadata?.name}/${status.name}`,
        );
    }
    const { items } = await api<{ items: { reason: string; type: string; message: string; involvedObject: { name: string } }[] }>(
      openLab(name),
      `/api/v1/namespaces/${namespace}/events`,
    );
    const warnings = new Map<string, number>();
    for (const { type, reason } of items) if (type === 'Warning') warnings.set(reason, (warnings.get(reason) ?? 0) + 1);
    tell(`warning events: ${[...warnings].map(([reason, count]) => `${reason} × ${count}`).join(', ') || 'none'}`);
    // One that the runtime had lost, that nobody ever saw run, may turn out to run beside the one that was started in its place.
    const isLostTwin = (pod: string, message: string): boolean => {
      const name = /^Stopping container (\S+): a newer instance of it exists$/.exec(message)?.[1];
      return name !== undefined && lostStarts.has(`${pod}/${name}`);
    };
    const killed = items.filter(
      ({ reason, involvedObject: { name: pod }, message }) =>
        reason === 'Killing' && pod !== 'warm-up' && !isHalfStarted(message) && !isLostTwin(pod, message),
    );
    const halfStarted = items.filter(({ reason, message }) => reason === 'Killing' && isHalfStarted(message)).length;
    tell(`containers whose first start the runtime lost and will not let go of: ${lostStarts.size}`);
    tell(`containers that a killed runtime knew no more whether it had started them: ${halfStarted}`);
    assert.deepEqual(
      killed.map(({ involvedObject, message }) => `${involvedObject.name}: ${message}`),
      [],
    );
  }),
);

/**
 * True for the end of a container that was being started when the runtime was killed: the runtime then calls its state unknown, and kubelet too ends it
 * before it starts another. A container that had been seen running and is ended so is among the violations.
 */
function isHalfStarted(message: string): boolean {
  return message === 'Container is in "unknown" state, try killing it before restart';
}

test('nothing is left of them, and strangers are left alone', { timeout: 180_000 }, () =>
  ifItFails(async () => {
    deleting = true;
    await api(openLab(name), `/api/v1/namespaces/${namespace}/pods`, { method: 'DELETE' });
    await sleep(between(100, 2000));
    await restartAgent(name, { signal: 'SIGKILL' });
    tell('agent killed once more, while the pods end');
    await watch.until(
      'all pods to be gone',
      90_000,
      () => watch.pods.size === 0,
      () => [...watch.pods.keys()].join(', '),
    );
    tell('all pods are gone from the API server');
    let lost = 0;
    await waitFor(
      'the node to be as it was',
      60_000,
      async () => {
        const now = await takeInventory(name, node);
        const all = compareInventories(inventory, now);
        lost = all.filter((line) => isLostByRuntime(line, inventory, now)).length;
        const difference = all.filter((line) => !isLostByRuntime(line, inventory, now));
        if (difference.length > 0) throw new Error(`\n${difference.join('\n')}`);
        return true;
      },
      1000,
    );
    // What was there before is there now: so were the strangers.
    const tasks = inventory.get('task') ?? new Set();
    assert.ok(agent === 'upstream' || (tasks.has(`k8s.io/${foreignSandbox} RUNNING`) && tasks.has('foreign/stranger RUNNING')));
    tell(`the node is as it was before${lost === 0 ? '' : `, but for ${lost} shims and notes of runc that containerd itself has lost`}`);
  }),
);
