// How well the proxy keeps up, as load balancers and probes read it (pkg/proxy/healthcheck/proxy_health.go). Times are wall ms.
import type { Family } from '../model/address.ts';

/** The cluster autoscaler sets it on a node that it is about to delete. */
const toBeDeletedTaint = 'ToBeDeletedByClusterAutoscaler';

/** How one family keeps up. */
export interface FamilyProgress {
  readonly family: Family;
  /** When the kernel last had all that had come in, wall ms; undefined before the first full sync. */
  readonly lastUpdatedMs: number | undefined;
  /** Since when the oldest change waits that the kernel does not have, wall ms; undefined while none does. */
  readonly waitingSinceMs: number | undefined;
}

export interface FamilyHealth {
  readonly family: Family;
  readonly lastUpdatedMs: number;
  readonly healthy: boolean;
}

export interface ProxierHealth {
  /** A change of a Service that waits for longer than the timeout makes the proxy unhealthy. */
  readonly healthy: boolean;
  /** Of the family that was updated last; undefined before any was. */
  readonly lastUpdatedMs: number | undefined;
  readonly families: readonly FamilyHealth[];
}

/** `timeoutMs`: how late a change may be; upstream takes twice the sync period. */
export function proxierHealth(progress: readonly FamilyProgress[], nowMs: number, timeoutMs: number): ProxierHealth {
  const families = progress.flatMap(({ family, lastUpdatedMs, waitingSinceMs }): FamilyHealth[] => {
    const healthy = waitingSinceMs === undefined || nowMs - waitingSinceMs < timeoutMs;
    // A family that was never updated is starting up, and counts from its first update on.
    return lastUpdatedMs === undefined ? [] : [{ family, lastUpdatedMs, healthy }];
  });
  return {
    healthy: families.every(({ healthy }) => healthy),
    lastUpdatedMs: families.length === 0 ? undefined : Math.max(...families.map(({ lastUpdatedMs }) => lastUpdatedMs)),
    families,
  };
}

/** What eligibility depends on; undefined: the Node is gone or was never seen. */
export interface EligibilityNode {
  readonly deleting: boolean;
  readonly taintKeys: readonly string[];
}

/** Whether load balancers may send new connections to this node. */
export function isNodeEligible(node: EligibilityNode | undefined): boolean {
  return node !== undefined && !node.deleting && !node.taintKeys.includes(toBeDeletedTaint);
}

export interface HealthReply {
  readonly status: 200 | 503;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

const jsonHeaders = { 'Content-Type': 'application/json', 'X-Content-Type-Options': 'nosniff' };

/** `/healthz`: 503 for a node that is about to go, so that load balancers leave it before it does. */
export function healthzReply(health: ProxierHealth, eligible: boolean, nowMs: number): HealthReply {
  return reply(health, health.healthy && eligible, nowMs, eligible);
}

/** `/livez`: whether the proxy works at all, whatever becomes of the node. */
export function livezReply(health: ProxierHealth, nowMs: number): HealthReply {
  return reply(health, health.healthy, nowMs, undefined);
}

function reply(health: ProxierHealth, ok: boolean, nowMs: number, nodeEligible: boolean | undefined): HealthReply {
  const at = (ms: number | undefined): string => (ms === undefined ? '0001-01-01T00:00:00Z' : new Date(ms).toISOString());
  const status = Object.fromEntries(
    health.families.map(({ family, lastUpdatedMs, healthy }) => [
      family === 'ip' ? 'IPv4' : 'IPv6',
      { lastUpdated: at(lastUpdatedMs), healthy },
    ]),
  );
  const body = {
    // A healthy proxy says "now": older releases did, and readers go by its age.
    lastUpdated: at(ok ? nowMs : health.lastUpdatedMs),
    currentTime: at(nowMs),
    ...(nodeEligible === undefined ? {} : { nodeEligible }),
    healthy: health.healthy,
    ...(health.families.length === 0 ? {} : { status }),
  };
  return { status: ok ? 200 : 503, headers: jsonHeaders, body: JSON.stringify(body) };
}

/**
 * What a load balancer learns on the health-check node port of a Service: how many ready pods of it are on this node
 * (pkg/proxy/healthcheck/service_health.go). `service` is `namespace/name`.
 */
export function serviceHealthReply(service: string, localEndpoints: number, proxyHealthy: boolean): HealthReply {
  const [namespace = '', name = ''] = service.split('/');
  // Upstream prints it by hand, tabs and all; some readers compare text.
  const body = [
    '{',
    '\t"service": {',
    `\t\t"namespace": ${JSON.stringify(namespace)},`,
    `\t\t"name": ${JSON.stringify(name)}`,
    '\t},',
    `\t"localEndpoints": ${localEndpoints},`,
    `\t"serviceProxyHealthy": ${proxyHealthy}`,
    '}',
  ].join('\n');
  return {
    status: localEndpoints > 0 && proxyHealthy ? 200 : 503,
    headers: { ...jsonHeaders, 'X-Load-Balancing-Endpoint-Weight': String(localEndpoints) },
    body,
  };
}
