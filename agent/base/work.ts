import { AsyncLocalStorage } from 'node:async_hooks';

interface Work {
  readonly what: string;
  readonly within: Work | undefined;
}

const current = new AsyncLocalStorage<Work>();

/**
 * Runs `run` as the work that `what` names, such as `loop pods, key 7f3…`. Whatever it starts or awaits belongs to it, so that an error which reaches the
 * top of the process can be told with what was running. A name must hold no secret.
 */
export function during<T>(what: string, run: () => T): T {
  return current.run({ what, within: current.getStore() }, run);
}

/** The names of the work at hand, the innermost first; empty outside of all. */
export function workAtHand(): string[] {
  const names: string[] = [];
  for (let work = current.getStore(); work !== undefined; work = work.within) names.push(work.what);
  return names;
}
