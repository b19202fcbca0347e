// What a node tells of a pod, as lines that two nodes can have in common: times, IDs, addresses and names of the side it ran on are taken out.
import type { Event, Pod } from '../../agent/model/generated/api.ts';

/** What tells the two sides apart and must not count. */
export type Side = { readonly nodeName: string; readonly namespace: string };

/** A pod as the API shows it, and the events that its node recorded about it. */
export type View = { readonly pod: Pod | undefined; readonly events: readonly Event[] };

const ignoredFields = new Set(['lastTransitionTime', 'lastProbeTime', 'startTime', 'startedAt', 'finishedAt']);

const patterns: readonly [RegExp, string][] = [
  [/\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b/g, 'UID'],
  // A static pod's is a hash of its manifest.
  [/\b[0-9a-f]{32}\b/g, 'UID'],
  [/\b[0-9a-f]{64}\b/g, 'ID'],
  [/\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)/g, 'TIME'],
  // Addresses of the lab (test/testbed/network.ts).
  [/\b10\.244\.\d+\.\d+\b/g, 'POD-IP'],
  [/\bfd00:10:244:[0-9a-f:]+/g, 'POD-IP6'],
  [/\b172\.30\.0\.1\d\b/g, 'NODE-IP'],
  [/\bfd00:172:30::1\d\b/g, 'NODE-IP6'],
  [/\bkube-api-access-[a-z0-9]{5}\b/g, 'kube-api-access-X'],
  [/\bcurrent usage \(\d+\)/g, 'current usage (N)'],
  // Cluster DNS runs on one of the two nodes.
  [/\bused: \d+, capacity\b/g, 'used: N, capacity'],
  // The near end of a connection has a port of its own.
  [/((?:POD|NODE)-IP6?\]?):\d+->/g, '$1:PORT->'],
  [/\/proc\/(?:self|\d+)\/fd\/\d+/g, '/proc/N/fd/N'],
];

/** A text without what only one side can say. */
export function plain(text: string, side: Side): string {
  let result = text.replaceAll(side.namespace, 'NAMESPACE').replaceAll(side.nodeName, 'NODE');
  for (const [pattern, word] of patterns) result = result.replace(pattern, word);
  // Only pulls tell how long something took.
  if (result.startsWith('Successfully pulled image')) result = result.replace(/\b(?:\d+m)?\d+(?:\.\d+)?(?:ms|s)\b/g, 'TIME');
  return result;
}

/** By what an element of a list is called, where it has a name that means more than its place. */
const keyOf = (value: unknown): string | undefined => {
  if (typeof value !== 'object' || value === null) return undefined;
  const { type, name, mountPath, resourceID } = value as Record<string, unknown>;
  for (const key of [type, name, mountPath, resourceID]) if (typeof key === 'string') return key;
  return undefined;
};

function flatten(path: string, value: unknown, side: Side, into: string[]): void {
  if (Array.isArray(value)) {
    const keys = value.map(keyOf).map((key) => (key === undefined ? undefined : plain(key, side)));
    if (value.length > 0 && keys.every((key) => key !== undefined) && new Set(keys).size === keys.length) {
      into.push(`${path} order = ${keys.join(' ')}`);
      for (const [i, each] of value.entries()) flatten(`${path}{${keys[i]}}`, each, side, into);
    } else for (const [i, each] of value.entries()) flatten(`${path}[${i}]`, each, side, into);
  } else if (typeof value === 'object' && value !== null) {
    const entries = Object.entries(value).filter(([name]) => !ignoredFields.has(name));
    if (entries.length === 0) into.push(`${path} = {}`);
    for (const [name, each] of entries) flatten(`${path}.${name}`, each, side, into);
  } else into.push(`${path} = ${typeof value === 'string' ? plain(value, side) : String(value)}`);
}

/** An event of a kubelet, without how often and when it came. */
export function eventLine(event: Event, side: Side): string {
  const where = event.involvedObject.fieldPath === undefined ? '' : ` ${event.involvedObject.fieldPath}`;
  return `event ${event.type} ${event.reason}${where}: ${plain(event.message ?? '', side)}`;
}

/** True for what an agent recorded; the scheduler and the controllers speak of the same pods. */
export const isAgentEvent = (event: Event): boolean => event.source?.component === 'kubelet';

/** Status and events, each line once, in an order of its own. */
export function linesOf({ pod, events }: View, side: Side): string[] {
  const lines: string[] = [];
  flatten('status', pod?.status ?? {}, side, lines);
  return [...new Set([...lines, ...events.filter(isAgentEvent).map((event) => eventLine(event, side))])].toSorted();
}
