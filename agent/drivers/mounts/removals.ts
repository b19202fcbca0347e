import { type RemoveOptions, removeTreeHere } from './remove-tree.ts';

/** Removes a tree that may be large, without the event loop's waiting for it. */
export type RemoveTree = (
  target: string,
  options: RemoveOptions & { readonly progress?: ((removed: number) => void) | undefined },
  signal: AbortSignal,
) => Promise<void>;

// What the agent wrote itself is a handful of small files: some milliseconds here, where a process costs sixty and 45 MiB.
const atOnce = { entries: 100, bytes: 1 << 20 };
// Children at a time. A pod that left millions of files holds up one of them at most.
const places = 2;

/** `inChild` removes a tree in a process that its signal kills. */
export function createRemoveTree(inChild: RemoveTree, alwaysInChild: boolean): RemoveTree {
  let free = places;
  const waiting = new Set<() => void>();

  async function place(signal: AbortSignal): Promise<Disposable> {
    while (free === 0) {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const onAbort = (): void => reject(signal.reason);
      waiting.add(resolve);
      signal.addEventListener('abort', onAbort, { once: true });
      try {
        await promise;
      } finally {
        waiting.delete(resolve);
        signal.removeEventListener('abort', onAbort);
      }
    }
    free--;
    return {
      [Symbol.dispose]: () => {
        free++;
        const [next] = waiting;
        if (next === undefined) return;
        waiting.delete(next);
        next();
      },
    };
  }

  return async (target, options, signal) => {
    signal.throwIfAborted();
    if (!alwaysInChild && removeTreeHere(target, { ...options, progress: undefined, budget: atOnce })) return;
    using _place = await place(signal);
    await inChild(target, options, signal);
  };
}
