// What is done to a node behind the agent's back, and to the agent.
import { readdirSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CriClient } from '../../../agent/drivers/cri/client.ts';
import { waitForApiserver } from '../../testbed/control-plane.ts';
import { run } from '../../testbed/images-debian.ts';
import { openLab, restartAgent, restartApiserver, restartRuntime, startAgain, stopComponent } from '../../testbed/lab.ts';
import { signalTracked } from '../../testbed/process.ts';
import { enter, labPaths } from '../../testbed/record.ts';
import { ensureRuntime } from '../../testbed/runtimes.ts';

export type FaultContext = {
  readonly lab: string;
  readonly namespace: string;
  readonly cri: CriClient;
  readonly random: () => number;
};

export type Fault = {
  readonly name: string;
  readonly weight: number;
  /** It ends the agent, whose memory then starts anew. */
  readonly endsAgent?: true;
  /** Resolves, when it is over, to what was hit. */
  readonly strike: (context: FaultContext) => Promise<string>;
};

const node = 'n1';
const never = new AbortController().signal;
const pick = <T>(list: readonly T[], random: () => number): T | undefined => list[Math.floor(random() * list.length)];

/** The files in which the agent keeps what must outlive it. */
const journalFiles = (lab: string): string[] => {
  const root = join(labPaths(lab).node(node).home, 'kubelet');
  const found = [join(root, 'allocated_pods_state'), join(root, 'actuated_pods_state')];
  const walk = (folder: string): void => {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      if (entry.isDirectory()) walk(join(folder, entry.name));
      else if (entry.name.endsWith('.json')) found.push(join(folder, entry.name));
    }
  };
  walk(join(root, 'keelson'));
  return found;
};

const someContainer = async ({ cri, namespace, random }: FaultContext) => {
  const { containers = [] } = await cri.listContainers(
    { filter: { state: { state: 'CONTAINER_RUNNING' }, label_selector: { 'io.kubernetes.pod.namespace': namespace } } },
    never,
  );
  return pick(containers, random);
};

const someSandbox = async ({ cri, namespace, random }: FaultContext) => {
  const { items = [] } = await cri.listPodSandbox(
    { filter: { state: { state: 'SANDBOX_READY' }, label_selector: { 'io.kubernetes.pod.namespace': namespace } } },
    never,
  );
  return pick(items, random);
};

const nameOf = (labels: Record<string, string> | undefined): string =>
  `${labels?.['io.kubernetes.pod.name']}/${labels?.['io.kubernetes.container.name'] ?? 'sandbox'}`;

/** What is gone by the time that we strike has been struck by somebody else. */
const unlessGone = async (what: string, work: Promise<unknown>): Promise<string> => {
  try {
    await work;
    return what;
  } catch (error) {
    return `${what} (${String(error instanceof Error ? error.message : error)
      .split('\n')[0]
      ?.slice(0, 120)})`;
  }
};

const ctr = async (lab: string, ...args: string[]): Promise<string> => {
  const runtime = await ensureRuntime(openLab(lab).runtime);
  return run(runtime.ctr, ['--address', labPaths(lab).node(node).socket, '--namespace', 'k8s.io', ...args]);
};

export const faults: readonly Fault[] = [
  {
    name: 'agent killed',
    weight: 3,
    endsAgent: true,
    strike: async ({ lab }) => {
      await restartAgent(lab, { signal: 'SIGKILL' });
      return '';
    },
  },
  {
    name: 'agent asked to end',
    weight: 2,
    endsAgent: true,
    strike: async ({ lab }) => {
      await restartAgent(lab, { signal: 'SIGTERM' });
      return '';
    },
  },
  {
    name: 'agent killed, journal truncated',
    weight: 2,
    endsAgent: true,
    strike: async ({ lab, random }) => {
      await stopComponent(lab, `${node}/agent`, 'SIGKILL');
      const file = pick(journalFiles(lab), random) ?? '';
      truncateSync(file, Math.floor(statSync(file).size * random()));
      await startAgain(lab, `${node}/agent`);
      return file.split('/').slice(-2).join('/');
    },
  },
  {
    name: 'agent and runtime down together',
    weight: 1,
    endsAgent: true,
    strike: async ({ lab, random }) => {
      await stopComponent(lab, `${node}/containerd`);
      await restartAgent(lab, { signal: 'SIGKILL' });
      await sleep(500 + random() * 3000);
      await restartRuntime(lab);
      return '';
    },
  },
  {
    name: 'runtime restarted',
    weight: 2,
    strike: async ({ lab }) => {
      await restartRuntime(lab);
      return '';
    },
  },
  {
    name: 'API server killed',
    weight: 2,
    strike: async ({ lab }) => {
      await restartApiserver(lab, { signal: 'SIGKILL' });
      return '';
    },
  },
  {
    name: 'API server stopped for 20 s',
    weight: 1,
    strike: async ({ lab }) => {
      const apiserver = openLab(lab).components.apiserver;
      if (apiserver === undefined) throw new Error('the lab has no API server');
      signalTracked(apiserver, 'SIGSTOP');
      try {
        await sleep(20_000);
      } finally {
        signalTracked(apiserver, 'SIGCONT');
      }
      await waitForApiserver(openLab(lab));
      return '';
    },
  },
  {
    name: 'container killed through the runtime',
    weight: 3,
    strike: async (context) => {
      const found = await someContainer(context);
      if (found === undefined) return 'there is none';
      return unlessGone(nameOf(found.labels), ctr(context.lab, 'tasks', 'kill', '--signal', 'SIGKILL', found.id ?? ''));
    },
  },
  {
    name: 'process of a container killed',
    weight: 3,
    strike: async (context) => {
      const found = await someContainer(context);
      if (found === undefined) return 'there is none';
      const kill = async (): Promise<void> => {
        const { info } = await context.cri.containerStatus({ container_id: found.id ?? '', verbose: true }, never);
        const { pid } = JSON.parse(info?.info ?? '{}') as { pid?: number };
        if (pid === undefined || pid === 0) throw new Error('it has no process');
        const [nsenter = '', ...args] = enter(openLab(context.lab), { node });
        await run(nsenter, [...args, 'kill', '-9', String(pid)]);
      };
      return unlessGone(nameOf(found.labels), kill());
    },
  },
  {
    name: 'container removed from the runtime',
    weight: 1,
    strike: async (context) => {
      const found = await someContainer(context);
      if (found === undefined) return 'there is none';
      return unlessGone(nameOf(found.labels), context.cri.removeContainer({ container_id: found.id ?? '' }, never));
    },
  },
  {
    name: 'sandbox killed',
    weight: 2,
    strike: async (context) => {
      const found = await someSandbox(context);
      if (found === undefined) return 'there is none';
      return unlessGone(nameOf(found.labels), ctr(context.lab, 'tasks', 'kill', '--signal', 'SIGKILL', found.id ?? ''));
    },
  },
  {
    name: 'sandbox stopped through the runtime',
    weight: 1,
    strike: async (context) => {
      const found = await someSandbox(context);
      if (found === undefined) return 'there is none';
      return unlessGone(nameOf(found.labels), context.cri.stopPodSandbox({ pod_sandbox_id: found.id ?? '' }, never));
    },
  },
];
