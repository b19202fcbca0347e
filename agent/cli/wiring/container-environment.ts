import type { ContainerStatusResponse } from '../../../cri-protos/generated/cri.ts';
import { messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { Container } from '../../model/generated/api.ts';
import type { AgentPod } from '../../model/pod.ts';
import type { EnvVarValue } from '../../pods/env.ts';
import { expandAll, expandHookCommand, madeEnvironment, referredNames } from '../../pods/env-expand.ts';

/** Commands that are run in a container that runs already: its exec probes and hooks. */
export interface ContainerCommands {
  /** As the container's own command: kubelet knows variables with a literal value only (pkg/kubelet/prober). */
  expandProbe(pod: AgentPod, container: Container, id: string, command: readonly string[], signal: AbortSignal): Promise<readonly string[]>;
  /** References to variables that there are; all else stays, since kubelet runs a hook as it is written. */
  expandHook(pod: AgentPod, container: Container, id: string, command: readonly string[], signal: AbortSignal): Promise<string[]>;
}

export interface ContainerCommandsOptions {
  readonly log: Log;
  readonly cri: {
    containerStatus(request: { container_id: string; verbose: boolean }, signal: AbortSignal): Promise<ContainerStatusResponse>;
  };
  /** The environment that the container would get if it were made now. */
  readonly environment: (pod: AgentPod, container: Container, signal: AbortSignal) => Promise<readonly EnvVarValue[]>;
}

// A node runs fewer containers than that; what is kept of one is only the variables that its commands name.
const mostKept = 2000;

/** Expands commands by what containers were made with: the runtime is asked once for each container whose commands name variables. */
export function createContainerCommands({ log, cri, environment }: ContainerCommandsOptions): ContainerCommands {
  const kept = new Map<string, Promise<ReadonlyMap<string, string>>>();

  async function ask(pod: AgentPod, container: Container, id: string, names: ReadonlySet<string>, signal: AbortSignal) {
    const { info } = await cri.containerStatus({ container_id: id, verbose: true }, signal);
    const all = madeEnvironment(info?.info) ?? (await anew(pod, container, signal));
    return new Map([...all].filter(([name]) => names.has(name)));
  }

  /** For a runtime that does not tell (cri-dockerd): what the objects say now, or else what the pod says by itself. */
  async function anew(pod: AgentPod, container: Container, signal: AbortSignal): Promise<Iterable<readonly [string, string]>> {
    try {
      return (await environment(pod, container, signal)).map(({ name, value }) => [name, value] as const);
    } catch (error) {
      if (signal.aborted) throw error;
      const facts = { pod: pod.metadata.name, podUid: pod.metadata.uid, container: container.name, err: messageOf(error) };
      log.debug(facts, 'variables of a probe or hook cannot be read: those with a literal value count');
      return (container.env ?? []).flatMap(({ name, value, valueFrom }) => (valueFrom === undefined ? [[name, value ?? ''] as const] : []));
    }
  }

  function valuesOf(pod: AgentPod, container: Container, id: string, signal: AbortSignal): Promise<ReadonlyMap<string, string>> {
    const known = kept.get(id);
    if (known !== undefined) return known;
    const asked = ask(pod, container, id, referredNames(commandsOf(container)), signal);
    kept.set(id, asked);
    const [oldest] = kept.keys();
    if (kept.size > mostKept && oldest !== undefined) kept.delete(oldest);
    // Whoever asks next is not to get the failure, or the aborted signal, of somebody else.
    asked.catch(() => kept.delete(id));
    return asked;
  }

  return {
    async expandProbe(pod, container, id, command, signal) {
      if (!command.some((text) => text.includes('$'))) return command;
      const refers = referredNames(command).size > 0;
      const values = refers ? await valuesOf(pod, container, id, signal) : new Map<string, string>();
      return expandAll(
        command,
        [...values].map(([name, value]) => ({ name, value })),
      );
    },
    async expandHook(pod, container, id, command, signal) {
      if (referredNames(command).size === 0) return [...command];
      return expandHookCommand(command, await valuesOf(pod, container, id, signal));
    },
  };
}

/** All commands of a container that may name variables of its environment, besides its own. */
function commandsOf(container: Container): string[] {
  const { startupProbe, readinessProbe, livenessProbe, lifecycle } = container;
  return [startupProbe, readinessProbe, livenessProbe, lifecycle?.postStart, lifecycle?.preStop].flatMap(
    (handler) => handler?.exec?.command ?? [],
  );
}
