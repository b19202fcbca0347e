// When pods became Ready, to the millisecond: the API's condition tells seconds.
import type { ReadonlyTable } from '../../base/table.ts';

interface Row {
  readonly status: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] | undefined };
}

export interface ReadyTimes extends Disposable {
  /** Wall ms; undefined for a pod that is not Ready, or was before anybody looked. */
  of(podUid: string): number | undefined;
}

/** Notes the times while it is open. `statuses` is by pod UID. */
export function watchReadyTimes(statuses: ReadonlyTable<Row>, wall: () => number): ReadyTimes {
  const isReady = (row: Row | undefined): boolean =>
    row?.status.conditions?.some((each) => each.type === 'Ready' && each.status === 'True') === true;
  // Undefined: Ready when it was first seen. Pods that are not Ready have no entry.
  const times = new Map<string, number | undefined>();
  const seen = new Set<string>();
  for (const [uid, row] of statuses.entries()) note(uid, row);
  const subscription = statuses.subscribe((uid) => note(uid, statuses.get(uid)));

  function note(uid: string, row: Row | undefined): void {
    const before = seen.has(uid);
    if (row === undefined) seen.delete(uid);
    else seen.add(uid);
    if (!isReady(row)) times.delete(uid);
    else if (!times.has(uid)) times.set(uid, before ? wall() : undefined);
  }

  return { of: (uid) => times.get(uid), [Symbol.dispose]: () => subscription[Symbol.dispose]() };
}
