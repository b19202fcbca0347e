import type { ServiceAccountTokenProjection, TokenRequestSpec } from '../model/generated/api.ts';
import { defaultTokenSeconds } from '../model/held-token.ts';
import type { AgentPod } from '../model/pod.ts';

/** What is asked of the API server: a token that dies with the pod. */
export function tokenRequestSpec(pod: AgentPod, source: ServiceAccountTokenProjection): TokenRequestSpec {
  return {
    audiences: source.audience === undefined || source.audience === '' ? [] : [source.audience],
    expirationSeconds: source.expirationSeconds ?? defaultTokenSeconds,
    boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name: pod.metadata.name, uid: pod.metadata.uid },
  };
}
