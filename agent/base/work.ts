import { AsyncLocalStorage } from 'node:async_hooks';

/** Names alone, and of one step back: whatever holds on to more would grow with each run that starts the next. */
interface Work {
  readonly what: string;
  readonly startedBy: string | undefined;
}

const current = new AsyncLocalStorage<Work>();

/**
 * Runs `run` as the work that `what` names, such as `loop pods, key 7f3…`. Whatever it starts or awaits belongs to it, so that an error which reaches the
 * top of the process can be told with what was running. A name must hold no secret.
 */
export function during<T>(what: string, run: () => T): T {
  return current.run({ what, startedBy: current.getStore()?.what }, run);
}

/** The name of the work at hand, and of the one that started it; empty outside of all. */
export function workAtHand(): string[] {
  const work = current.getStore();
  return [work?.what, work?.startedBy].filter((name) => name !== undefined);
}
