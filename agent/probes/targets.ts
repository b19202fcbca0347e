import { isIPv6 } from 'node:net';
import type { Container, HTTPGetAction } from '../model/generated/api.ts';
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

/** The number of a port that may be given by name. Undefined with a `problem` in upstream's words when there is none. */
export function resolveProbePort(port: number | string, container: Container): { port: number } | { problem: string } {
  const named = typeof port === 'string' ? container.ports?.find((p) => p.name === port)?.containerPort : port;
  const number = named ?? (/^[+-]?\d+$/.test(String(port)) ? Number(port) : undefined);
  if (number === undefined) return { problem: `strconv.Atoi: parsing "${port}": invalid syntax` };
  return number > 0 && number < 65536 ? { port: number } : { problem: `invalid port number: ${number}` };
}

/** `host:port`, brackets around IPv6. */
export function joinHostPort(host: string, port: number): string {
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;
}

/** An HTTP probe's first request. */
export interface HttpTarget {
  readonly secure: boolean;
  readonly host: string;
  readonly port: number;
  /** With query, ready to be sent. */
  readonly path: string;
  readonly url: string;
  /** Name, value, name, value, …: a name may come several times. */
  readonly headers: readonly string[];
}

const notSent = new Set(['content-length', 'transfer-encoding', 'trailer']);

/** The request that an httpGet asks for, with kubelet's defaults (pkg/probe/http/request.go). */
export function httpTarget(
  action: HTTPGetAction,
  container: Container,
  podIp: string,
  userAgent: string,
): HttpTarget | { problem: string } {
  const resolved = resolveProbePort(action.port, container);
  if ('problem' in resolved) return resolved;
  const scheme = (action.scheme || 'HTTP').toLowerCase();
  const host = action.host || podIp;
  const withoutFragment = (action.path ?? '').replace(/#.*$/, '');
  const escaped = withoutFragment.replace(/[^\x21-\x7e]/gu, (c) => encodeURIComponent(c.isWellFormed() ? c : '\ufffd'));
  const path = escaped === '' ? '' : escaped.startsWith('/') || escaped.startsWith('?') ? escaped : `/${escaped}`;
  const authority = joinHostPort(host, resolved.port);
  const headers: string[] = [];
  const given = new Set<string>();
  for (const { name, value } of action.httpHeaders ?? []) {
    const key = name.toLowerCase();
    // What belongs to the connection is not the caller's to say in Go's client: a length without a body would keep the server waiting for one.
    if (notSent.has(key) || (key === 'host' && value === '')) continue;
    given.add(key);
    // Empty means: send none.
    if ((key === 'accept' || key === 'user-agent') && value === '') continue;
    // Node writes a character a byte, and refuses those that do not fit.
    headers.push(name, Buffer.from(value, 'utf8').toString('latin1'));
  }
  if (!given.has('host')) headers.push('Host', authority);
  if (!given.has('user-agent')) headers.push('User-Agent', userAgent);
  if (!given.has('accept')) headers.push('Accept', '*/*');
  headers.push('Connection', 'close');
  return {
    secure: scheme === 'https',
    host,
    port: resolved.port,
    path: path.startsWith('?') ? `/${path}` : path || '/',
    url: `${scheme}://${authority}${path}`,
    headers,
  };
}
