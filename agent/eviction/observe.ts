import type { FsStats, MemoryStats } from '../stats/summary.ts';
import type { NodeReading } from '../stats/worker.ts';
import type { Observation, Observations, Signal } from './thresholds.ts';

/** What a reading of the node says about each signal; one that it says nothing about is left out. */
export function observationsOf(reading: NodeReading): Observations {
  const { memory, podsMemory, fileSystems, rlimit } = reading;
  const found = new Map<Signal, Observation>();
  const put = (signal: Signal, observation: Observation | undefined): void => {
    if (observation !== undefined) found.set(signal, observation);
  };
  put('memory.available', memoryOf(memory));
  put('allocatableMemory.available', memoryOf(podsMemory));
  for (const [name, fs] of [
    ['nodefs', fileSystems.nodeFs],
    ['imagefs', fileSystems.imageFs],
    ['containerfs', fileSystems.containerFs],
  ] as const) {
    put(`${name}.available`, left(fs?.availableBytes, fs?.capacityBytes, fs));
    // A file system without a fixed number of inodes (btrfs) tells 0 of them.
    put(`${name}.inodesFree`, (fs?.inodes ?? 0) > 0 ? left(fs?.inodesFree, fs?.inodes, fs) : undefined);
  }
  if (rlimit !== undefined) put('pid.available', { available: rlimit.maxpid - rlimit.curproc, capacity: rlimit.maxpid, at: rlimit.time });
  return found;
}

function memoryOf(memory: MemoryStats | undefined): Observation | undefined {
  const { availableBytes, workingSetBytes, time } = memory ?? {};
  if (availableBytes === undefined || workingSetBytes === undefined) return undefined;
  return { available: availableBytes, capacity: availableBytes + workingSetBytes, at: time };
}

function left(available: number | undefined, capacity: number | undefined, fs: FsStats | undefined): Observation | undefined {
  return available === undefined || capacity === undefined ? undefined : { available, capacity, at: fs?.time };
}
