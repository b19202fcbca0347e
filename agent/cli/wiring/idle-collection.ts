import { getHeapStatistics } from 'node:v8';
import type { Clock } from '../../base/clock.ts';

/** What has been going on since the last look. */
export interface HeapLook {
  /** What V8's heap occupies now, used or not, and what it did after the last collection; bytes. */
  readonly heapBytes: number;
  readonly keptBytes: number;
  /** CPU time used, as a share of one core. */
  readonly cores: number;
}

// A collection that gives pages back takes an idle agent some 80 ms; it is worth that for a good part of what the agent weighs.
const worthBytes = 5 * 2 ** 20;
const restingCores = 0.05;
const lookIntervalMs = 10_000;

/** True when nothing much is going on and the heap has grown: by garbage, or by pages that are mostly empty. */
export function isWorthCollecting({ heapBytes, keptBytes, cores }: HeapLook): boolean {
  return cores < restingCores && heapBytes - keptBytes >= worthBytes;
}

/**
 * Gives memory back when the agent rests after work: V8 itself collects when more is asked for, and keeps the pages, so that 20 MiB of what thirty
 * pods' start has left behind stay resident for hours. Does nothing unless Node was started with --expose-gc, as the launcher does.
 */
export function startIdleCollection(clock: Clock): Disposable {
  const { gc } = globalThis;
  if (gc === undefined) return { [Symbol.dispose]: () => undefined };
  let keptBytes = 0;
  let cpu = process.cpuUsage();
  let lookedAt = clock.mono();
  let timer: Disposable;
  const look = (): void => {
    const { user, system } = process.cpuUsage(cpu);
    const now = clock.mono();
    const cores = (user + system) / 1000 / (now - lookedAt);
    if (isWorthCollecting({ heapBytes: getHeapStatistics().total_physical_size, keptBytes, cores })) {
      // The ordinary flavour keeps the emptied pages.
      gc({ type: 'major', flavor: 'last-resort', execution: 'sync' });
      keptBytes = getHeapStatistics().total_physical_size;
    }
    cpu = process.cpuUsage();
    lookedAt = clock.mono();
    timer = clock.after(lookIntervalMs, look);
  };
  timer = clock.after(lookIntervalMs, look);
  return { [Symbol.dispose]: () => timer[Symbol.dispose]() };
}
