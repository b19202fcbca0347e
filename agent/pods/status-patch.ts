import { ownValue } from '../base/own.ts';
import type { PodStatus } from '../model/generated/api.ts';
import type { AgentPod } from '../model/pod.ts';
import { ownConditions } from './conditions.ts';

/** A strategic merge patch for /status. Bound to the UID: the API refuses it (Conflict) when the name now belongs to another pod. */
export interface StatusPatch {
  readonly metadata: { readonly uid: string };
  readonly status: Record<string, unknown>;
}

// Lists of addresses are merged by the API unless told to be replaced; an old address must not stay beside the new one.
const replace = { $patch: 'replace' };

/**
 * The whole of what the node agent owns of a pod's status, so that the patch is right whatever the API holds: fields that are absent are removed (null),
 * conditions of others are left alone.
 */
export function statusPatch(pod: AgentPod, status: PodStatus): StatusPatch {
  const addresses = (ips: { ip: string }[] | undefined): unknown[] | undefined => (ips === undefined ? undefined : [...ips, replace]);
  const had = pod.status ?? {};
  // A map is merged key by key: what it no longer has is said to be gone. ($patch: replace would lose a map that the API does not have yet.)
  type List = Record<string, string> | undefined;
  const whole = (now: List, before: List): Record<string, string | null> | undefined =>
    now === undefined ? undefined : { ...Object.fromEntries(Object.keys(before ?? {}).map((name) => [name, null])), ...now };
  const present = new Set((status.conditions ?? []).map((c) => c.type));
  const gone = (now: unknown, before: unknown): unknown => (now === undefined && before !== undefined ? null : now);
  return {
    metadata: { uid: pod.metadata.uid },
    status: {
      phase: status.phase,
      reason: status.reason ?? null,
      message: status.message ?? null,
      startTime: status.startTime,
      qosClass: status.qosClass,
      observedGeneration: status.observedGeneration,
      hostIP: status.hostIP,
      hostIPs: addresses(status.hostIPs),
      podIP: gone(status.podIP, had.podIP),
      podIPs: addresses(status.podIPs),
      resize: gone(status.resize, had.resize),
      allocatedResources: whole(status.allocatedResources, had.allocatedResources),
      resources: status.resources && {
        requests: whole(status.resources.requests, had.resources?.requests),
        limits: whole(status.resources.limits, had.resources?.limits),
      },
      conditions: [
        ...(status.conditions ?? [])
          .filter((c) => ownConditions.has(c.type) || c.type === 'DisruptionTarget')
          .map((c) => ({ ...c, lastProbeTime: c.lastProbeTime ?? null, reason: c.reason ?? null, message: c.message ?? null })),
        ...[...ownConditions].filter((type) => !present.has(type)).map((type) => ({ $patch: 'delete', type })),
      ],
      containerStatuses: status.containerStatuses,
      initContainerStatuses: gone(status.initContainerStatuses, had.initContainerStatuses),
      ephemeralContainerStatuses: gone(status.ephemeralContainerStatuses, had.ephemeralContainerStatuses),
    },
  };
}

/** True when the API already shows all of what the patch says. */
export function alreadyShown(pod: AgentPod, patch: StatusPatch): boolean {
  const shown = (pod.status ?? {}) as Record<string, unknown>;
  return Object.entries(patch.status).every(([field, value]) => shows(ownValue(shown, field), value, field));
}

function shows(have: unknown, want: unknown, field: string): boolean {
  if (want === undefined) return true;
  if (want === null || want === '') return have === undefined || have === null || have === '';
  if (Array.isArray(want)) {
    const list = Array.isArray(have) ? have : [];
    const elements = want.filter((w) => !(typeof w === 'object' && w !== null && '$patch' in w));
    if (field === 'conditions') {
      const dropped = want.filter((w) => isObject(w) && w.$patch === 'delete');
      return (
        elements.every((w) => list.some((h) => isObject(h) && isObject(w) && h.type === w.type && shows(h, w, ''))) &&
        !list.some((h) => isObject(h) && dropped.some((d) => isObject(d) && d.type === h.type))
      );
    }
    return list.length === elements.length && elements.every((w, i) => shows(list[i], w, ''));
  }
  if (isObject(want)) {
    if (!isObject(have)) return Object.values(want).every((v) => v === undefined || (isObject(v) && Object.keys(v).length === 0));
    const keys = new Set([...Object.keys(want), ...Object.keys(have)]);
    return [...keys].every((key) => shows(ownValue(have, key), ownValue(want, key) ?? null, key));
  }
  // The API leaves out what is false or zero in some places and keeps it in others.
  if (want === false || want === 0) return have === want || have === undefined;
  return have === want;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
