import type { PodSpec } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';
import type { RuntimeContainer, RuntimePod } from './observed.ts';
import { latestContainer } from './observed.ts';
import { matchingRestartAction } from './restart.ts';

// `restartPolicyRules` with the action RestartAllContainers (KEP-5532): one container's exit code starts the whole pod anew in its sandbox, volumes kept.

function ruled(spec: PodSpec): { name: string; fires: (exitCode: number) => boolean }[] {
  return [...spec.containers, ...(spec.initContainers ?? [])].map((container) => ({
    name: container.name,
    fires: (exitCode) => matchingRestartAction(container, exitCode) === 'RestartAllContainers',
  }));
}

/** True when some rule of the pod may ask for this: only such pods have the condition AllContainersRestarting. */
export function couldRestartAll(spec: PodSpec): boolean {
  return [...spec.containers, ...(spec.initContainers ?? [])].some((c) =>
    c.restartPolicyRules?.some((rule) => rule.action === 'RestartAllContainers'),
  );
}

/** True while a container whose latest end fired such a rule is still in the runtime: it is removed last, so all others are gone by then. */
export function isRestartingAll(pod: AgentPod, runtime: RuntimePod | undefined): boolean {
  if (runtime === undefined || !couldRestartAll(pod.spec)) return false;
  return ruled(pod.spec).some(({ name, fires }) => {
    const latest = latestContainer(runtime, name);
    return latest?.state === 'exited' && fires(latest.exitCode);
  });
}

/**
 * Every instance of the pod's init and app containers in the order in which they are to be taken away: the last started first, app containers before
 * init containers, and those whose end fired the rule after all others, so that the runtime itself remembers that the restart is under way.
 */
export function resetOrder(pod: AgentPod, runtime: RuntimePod): { instance: RuntimeContainer; source: boolean }[] {
  const targets: { instance: RuntimeContainer; source: boolean }[] = [];
  const sources: { instance: RuntimeContainer; source: boolean }[] = [];
  const inOrder = [...(pod.spec.initContainers ?? []), ...pod.spec.containers];
  for (const container of inOrder.toReversed()) {
    const latest = latestContainer(runtime, container.name);
    for (const instance of runtime.containers.filter((c) => c.name === container.name)) {
      const source =
        instance === latest &&
        instance.state === 'exited' &&
        matchingRestartAction(container, instance.exitCode) === 'RestartAllContainers';
      (source ? sources : targets).push({ instance, source });
    }
  }
  return [...targets, ...sources];
}
