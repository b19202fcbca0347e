import type { Container } from '../model/generated/api.ts';
import { type AgentPod, containersOf } from '../model/pod.ts';

/** The one user that all containers run as, who then owns the pod's tokens; undefined when one names none or they differ (pkg/volume/util FsUserFrom). */
export function fsUserOf(pod: AgentPod): number | undefined {
  let user: number | undefined;
  for (const { container } of containersOf(pod)) {
    const own = runAsUserOf(pod, container);
    if (own === undefined || (user !== undefined && user !== own)) return undefined;
    user = own;
  }
  return user;
}

function runAsUserOf(pod: AgentPod, container: Container): number | undefined {
  return container.securityContext?.runAsUser ?? pod.spec.securityContext?.runAsUser;
}

export function fsGroupOf(pod: AgentPod): number | undefined {
  return pod.spec.securityContext?.fsGroup;
}
