import { getHeapStatistics } from 'node:v8';
import type { Clock } from '../../base/clock.ts';
import { messageOf } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { releaseProgramPages, residentFileBytes } from '../../drivers/sys/resident.ts';

/** What has been going on. */
export interface MemoryLook {
  /** What is resident of one kind of memory now, and the least it was since it was last given back; bytes. */
  readonly bytes: number;
  readonly keptBytes: number;
  /** CPU time used since the last look, as a share of one core. */
  readonly cores: number;
  /** Time since this kind of memory was last given back, ms. */
  readonly sinceMs: number;
}

const restingCores = 0.05;
// An agent that never rests gives back three times as much at once, and seldom: each time it stands still for a moment.
const busyFactor = 3;
const busyIntervalMs = 300_000;
const lookIntervalMs = 10_000;
// A collection that gives pages back takes an idle agent some 80 ms; it is worth that for a good part of what the agent weighs.
const worthHeapBytes = 5 * 2 ** 20;
// Letting go of pages of the program takes some 10 ms, and what is still needed of them is mapped again at the next use.
const worthFileBytes = 16 * 2 ** 20;

/** True when nothing much is going on and this kind of memory has grown (by garbage, by pages that are mostly empty, by what was used once), or when it has grown a lot. */
export function isWorthGivingBack({ bytes, keptBytes, cores, sinceMs }: MemoryLook, worthBytes: number): boolean {
  const grownBytes = bytes - keptBytes;
  return cores < restingCores ? grownBytes >= worthBytes : grownBytes >= busyFactor * worthBytes && sinceMs >= busyIntervalMs;
}

/**
 * Gives memory back, above all when the agent rests after work. V8 itself collects when more is asked for, and keeps the pages, so that 20 MiB of what thirty pods' start
 * has left behind stay resident for hours; its heap is left alone unless Node was started with --expose-gc, as the launcher does. And more than 40 MiB of
 * Node's own file (code and tables that only starting reads, and their neighbours, which the kernel maps along) stay mapped for as long as nobody else wants the memory.
 */
export function startGivingMemoryBack(clock: Clock, log: Log): Disposable {
  const { gc } = globalThis;
  const heapBytes = (): number => getHeapStatistics().total_physical_size;
  let keptHeapBytes = 0;
  let keptFileBytes = 0;
  // What of the program is still needed comes back at once; only then can it be told how much that is.
  let comesBack = false;
  let releases = true;
  let cpu = process.cpuUsage();
  let lookedAt = clock.mono();
  let collectedAt = lookedAt;
  let releasedAt = lookedAt;
  let timer: Disposable;

  function release(cores: number, now: number): void {
    const fileBytes = residentFileBytes();
    keptFileBytes = comesBack ? fileBytes : Math.min(keptFileBytes, fileBytes);
    comesBack = false;
    if (!isWorthGivingBack({ bytes: fileBytes, keptBytes: keptFileBytes, cores, sinceMs: now - releasedAt }, worthFileBytes)) return;
    releaseProgramPages();
    releasedAt = now;
    comesBack = true;
    log.debug({ mib: (fileBytes - residentFileBytes()) / 2 ** 20 }, 'pages of the program that were no longer in use let go');
  }

  const look = (): void => {
    const { user, system } = process.cpuUsage(cpu);
    const now = clock.mono();
    const cores = (user + system) / 1000 / (now - lookedAt);
    const bytes = heapBytes();
    keptHeapBytes = Math.min(keptHeapBytes, bytes);
    const heap = { bytes, keptBytes: keptHeapBytes, cores, sinceMs: now - collectedAt };
    if (gc !== undefined && isWorthGivingBack(heap, worthHeapBytes)) {
      // The ordinary flavour keeps the emptied pages.
      gc({ type: 'major', flavor: 'last-resort', execution: 'sync' });
      collectedAt = now;
      keptHeapBytes = heapBytes();
    }
    if (releases) {
      try {
        release(cores, now);
      } catch (error) {
        // It costs some memory, and will not go better the next time.
        releases = false;
        log.warn({ err: messageOf(error) }, 'pages of the program that are no longer in use stay resident');
      }
    }
    cpu = process.cpuUsage();
    lookedAt = clock.mono();
    timer = clock.after(lookIntervalMs, look);
  };
  timer = clock.after(lookIntervalMs, look);
  return { [Symbol.dispose]: () => timer[Symbol.dispose]() };
}
