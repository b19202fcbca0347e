import { ownValue, setOwn } from '../base/own.ts';
import type { Node, NodeStatus } from '../model/generated/api.ts';

/**
 * The strategic merge patch that turns one Node's labels, annotations and status into another's; undefined when nothing differs.
 * It goes to the status subresource, which takes metadata too; a node may not change its own spec.
 */
export function nodePatch(before: Node, after: Node): Record<string, unknown> | undefined {
  const metadata = objectPatch(
    { labels: before.metadata?.labels ?? {}, annotations: before.metadata?.annotations ?? {} },
    { labels: after.metadata?.labels ?? {}, annotations: after.metadata?.annotations ?? {} },
  );
  const status = statusPatch(before.status ?? {}, after.status ?? {});
  if (metadata === undefined && status === undefined) return undefined;
  return { ...(metadata === undefined ? {} : { metadata }), ...(status === undefined ? {} : { status }) };
}

// Lists of a NodeStatus that merge by a key of their elements; the others are replaced whole.
function statusPatch(before: NodeStatus, after: NodeStatus): Record<string, unknown> | undefined {
  const { conditions: oldConditions, addresses: oldAddresses, ...oldRest } = before;
  const { conditions: newConditions, addresses: newAddresses, ...newRest } = after;
  const patch: Record<string, unknown> = objectPatch(oldRest, newRest) ?? {};
  const conditions = (newConditions ?? []).flatMap((condition) => {
    const old = oldConditions?.find((c) => c.type === condition.type);
    if (old === undefined) return [condition];
    const changed = objectPatch(old, condition);
    return changed === undefined ? [] : [{ ...changed, type: condition.type }];
  });
  if (conditions.length > 0) patch.conditions = conditions;
  // Addresses are declared to merge by type, which two InternalIPs defy: the whole list replaces the old one (component-helpers node/util).
  if (!equal(oldAddresses ?? [], newAddresses ?? [])) patch.addresses = [...(newAddresses ?? []), { $patch: 'replace' }];
  return Object.keys(patch).length === 0 ? undefined : patch;
}

/** True when two statuses say the same but for the times of heartbeats. */
export function sameStatus(a: NodeStatus, b: NodeStatus): boolean {
  const bare = (status: NodeStatus): object => ({
    ...status,
    conditions: [...(status.conditions ?? [])]
      .sort((x, y) => (x.type < y.type ? -1 : 1))
      .map(({ lastHeartbeatTime: _, ...condition }) => condition),
  });
  return equal(bare(a), bare(b));
}

/** The merge patch between two objects (null removes a key); undefined when they are equal. */
function objectPatch(before: object, after: object): Record<string, unknown> | undefined {
  const old = before as Record<string, unknown>;
  const patch: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(after)) {
    const was = ownValue(old, key);
    if (equal(was, value)) continue;
    const inner = isObject(was) && isObject(value) ? objectPatch(was, value) : value;
    if (inner !== undefined) setOwn(patch, key, inner);
  }
  for (const [key, value] of Object.entries(old))
    if (!isEmpty(value) && ownValue(after as Record<string, unknown>, key) === undefined) setOwn(patch, key, null);
  return Object.keys(patch).length === 0 ? undefined : patch;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isEmpty(value: unknown): boolean {
  return (
    value === undefined ||
    value === null ||
    (Array.isArray(value) && value.length === 0) ||
    (isObject(value) && Object.values(value).every(isEmpty))
  );
}

/** Deep equality in which empty lists and maps count as absent, as they do on the wire. */
function equal(a: unknown, b: unknown): boolean {
  if (a === b || (isEmpty(a) && isEmpty(b))) return true;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((item, i) => equal(item, b[i]));
  if (isObject(a) && isObject(b))
    return [...new Set([...Object.keys(a), ...Object.keys(b)])].every((key) => equal(ownValue(a, key), ownValue(b, key)));
  return false;
}
