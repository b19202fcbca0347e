import type { Container } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';
import { containerStatusOf, containersOf, isSidecar } from '../model/pod.ts';
import { type ProbeVerdicts, probeKinds, probeOf } from './verdict.ts';

/** What probing needs to know of a container of the runtime. */
export interface RunningContainer {
  readonly id: string;
  readonly name: string;
  readonly state: string;
  /** Milliseconds on the wall clock. */
  readonly startedAt: number;
}

/** What probing needs to know of a pod in the runtime, newest first in both lists. */
export interface RunningPod {
  readonly containers: readonly RunningContainer[];
  readonly sandboxes: readonly { readonly ready: boolean; readonly ips: readonly string[] }[];
}

/** A running container instance that has probes. */
export interface ProbeTarget {
  readonly id: string;
  readonly pod: AgentPod;
  readonly container: Container;
  /** For events: `spec.containers{name}`. */
  readonly fieldPath: string;
  /** Undefined until the pod has one. */
  readonly podIp: string | undefined;
  readonly startedAt: number;
  /** The pod is going: only readiness still matters. */
  readonly terminating: boolean;
  /** What the pod's published status says of this very instance: found by whoever ran the node before us. */
  readonly published: ProbeVerdicts;
}

/** The container instances of a pod that are to be probed now: newest of their name, running, app or sidecar. */
export function probeTargets(pod: AgentPod, runtime: RunningPod | undefined, hostIp: string | undefined, ending: boolean): ProbeTarget[] {
  if (runtime === undefined) return [];
  const targets: ProbeTarget[] = [];
  for (const { kind, container } of containersOf(pod)) {
    if (kind === 'ephemeral' || (kind === 'init' && !isSidecar(container))) continue;
    if (!probeKinds.some((k) => probeOf(container, k) !== undefined)) continue;
    const newest = runtime.containers.find((c) => c.name === container.name);
    if (newest === undefined || newest.state !== 'running') continue;
    const status = containerStatusOf(pod, container.name);
    const same = status?.containerID?.endsWith(`//${newest.id}`) === true;
    targets.push({
      id: newest.id,
      pod,
      container,
      fieldPath: `spec.${kind === 'init' ? 'initContainers' : 'containers'}{${container.name}}`,
      podIp: pod.spec.hostNetwork === true ? hostIp : runtime.sandboxes.find((s) => s.ready)?.ips[0],
      startedAt: newest.startedAt,
      terminating: ending || pod.metadata.deletionTimestamp !== undefined,
      published: same
        ? {
            ...(status.started === true && container.startupProbe !== undefined ? { startup: true } : {}),
            ...(status.ready && container.readinessProbe !== undefined ? { ready: true } : {}),
          }
        : {},
    });
  }
  return targets;
}
