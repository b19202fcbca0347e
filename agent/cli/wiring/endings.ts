import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import { type ReadonlyTable, Table } from '../../base/table.ts';
import { openJournal } from '../../drivers/journal/journal.ts';
import type { Ending } from '../../pods/lifecycle.ts';

/**
 * The table of pods that somebody on the node wants ended. It outlives the agent: one that is killed while it ends a pod goes on with that when it is back,
 * and does not start the pod's containers again. Rows of pods that nobody knows any more go when the sources have told all they know.
 */
export async function openEndings(
  folder: string,
  clock: Clock,
  log: Log,
  specs: ReadonlyTable<unknown>,
  runtime: ReadonlyTable<unknown>,
): Promise<AsyncDisposable & { readonly table: Table<Ending> }> {
  await using stack = new AsyncDisposableStack();
  const journal = stack.use(await openJournal<Ending>(folder, clock, log));
  const table = new Table<Ending>('endings');
  for (const [uid, ending] of journal.entries()) table.set(uid, ending);
  stack.use(
    table.subscribe((uid) => {
      const ending = table.get(uid);
      if (ending === undefined) journal.delete(uid);
      else journal.set(uid, ending);
    }),
  );
  const prune = (): void => {
    if (!specs.synced || !runtime.synced) return;
    for (const uid of [...table.keys()]) if (!specs.has(uid) && !runtime.has(uid)) table.delete(uid);
  };
  stack.use(specs.onSynced(prune));
  stack.use(runtime.onSynced(prune));
  const open = stack.move();
  return { table, [Symbol.asyncDispose]: () => open.disposeAsync() };
}
