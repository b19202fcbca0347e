import { type ReadonlyTable, Table } from '../base/table.ts';
import type { PodSpecRow } from './worker.ts';

/**
 * One table of all the pods that the sources want here, by UID; synced once every source is: until then a pod that is missing may be another source's.
 * The sources' keys never clash: the API server and a static pod's hash give different UIDs.
 */
export function mergeSources(sources: readonly ReadonlyTable<PodSpecRow>[]): { table: ReadonlyTable<PodSpecRow> } & Disposable {
  const merged = new Table<PodSpecRow>('specs');
  const stack = new DisposableStack();
  const copy = (uid: string): void => {
    const row = sources.map((s) => s.get(uid)).find((r) => r !== undefined);
    if (row === undefined) merged.delete(uid);
    else merged.set(uid, row);
  };
  for (const source of sources) {
    stack.use(source.subscribe(copy));
    for (const uid of source.keys()) copy(uid);
    stack.use(
      source.onSynced(() => {
        if (sources.every((s) => s.synced)) merged.markSynced();
      }),
    );
  }
  if (sources.length === 0) merged.markSynced();
  return { table: merged, [Symbol.dispose]: () => stack.dispose() };
}
