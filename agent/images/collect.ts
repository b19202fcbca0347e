import type { Image } from '../../cri-protos/generated/cri.ts';
import { type Clock, pause } from '../base/clock.ts';
import { AgentError, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import {
  bytesToFree,
  type DiskState,
  forSpace,
  type GcPolicy,
  type ImageRecord,
  type ImageUsers,
  insufficientText,
  noteImages,
  tooOld,
} from './gc.ts';

export interface CollectOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly policy: () => GcPolicy;
  readonly listImages: (signal: AbortSignal) => Promise<readonly Image[]>;
  readonly removeImage: (id: string, signal: AbortSignal) => Promise<void>;
  /** Whoever uses images now; undefined while that is not known. */
  readonly users: (signal: AbortSignal) => Promise<ImageUsers | undefined>;
  /** The file system of images; undefined when the runtime does not tell. */
  readonly disk: (signal: AbortSignal) => Promise<DiskState | undefined>;
  /** Events about the Node. */
  readonly event: (type: 'Normal' | 'Warning', reason: string, message: string) => void;
  /** An image was removed. */
  readonly removed: (reason: 'age' | 'space') => void;
  /** Told the IDs of those left after some were removed, and the wall time when they were listed. */
  readonly left: (ids: ReadonlySet<string>, listedAt: number) => Promise<void>;
}

export interface ImageCollector extends AsyncDisposable {
  /** Removes every image that may go, whatever room there is. Rejects when the runtime cannot be asked, or will not remove some. */
  removeUnused(signal: AbortSignal): Promise<void>;
}

// kubelet's ImageGCPeriod; and the wait for those who know which images are in use.
const periodMs = 300_000;
const notReadyMs = 1000;

/** Looks after the room that images take, every five minutes. */
export function startImageCollector(options: CollectOptions): ImageCollector {
  const { clock, log } = options;
  const startedAt = clock.mono();
  let records: ReadonlyMap<string, ImageRecord> = new Map();
  let listedAt = 0;
  let failed = false;
  let chain: Promise<unknown> = Promise.resolve();

  /** One at a time: two that free room for the same need would free twice. */
  function serially<T>(work: () => Promise<T>): Promise<T> {
    const mine = chain.then(work, work);
    chain = mine.catch(() => undefined);
    return mine;
  }

  /** False while it is not known who uses images: then none may go. */
  async function look(signal: AbortSignal): Promise<boolean> {
    // Before the listing: what arrives while it is made may not be in it.
    const askedAt = clock.wall();
    const [images, users] = await Promise.all([options.listImages(signal), options.users(signal)]);
    if (users === undefined) return false;
    listedAt = askedAt;
    for (const image of images) {
      if (image.id) continue;
      options.event('Warning', 'InvalidImageID', `ImageID is not valid, skipping, image: ${image.repo_tags?.[0] ?? ''}`);
    }
    records = noteImages(records, images, users, clock.mono());
    return true;
  }

  /** Removes those images until enough is free; the bytes freed. */
  async function remove(images: readonly ImageRecord[], enough: number, reason: 'age' | 'space', signal: AbortSignal): Promise<number> {
    let freed = 0;
    const failures: unknown[] = [];
    const left = new Map(records);
    for (const image of images) {
      if (freed >= enough) break;
      signal.throwIfAborted();
      try {
        await options.removeImage(image.id, signal);
      } catch (error) {
        signal.throwIfAborted();
        failures.push(error);
        continue;
      }
      left.delete(image.id);
      freed += image.sizeBytes;
      options.removed(reason);
      log.info({ image: image.id, sizeBytes: image.sizeBytes, reason }, 'unused image removed');
    }
    if (left.size < records.size) {
      records = left;
      await options.left(new Set(left.keys()), listedAt);
    }
    if (failures.length > 0) {
      const errors = failures.map(messageOf).join(', ');
      const message =
        reason === 'age'
          ? `wanted to free images older than ${options.policy().maxAgeMs / 1000}s, encountered errors in image deletion: [${errors}]`
          : `wanted to free ${enough} bytes, but freed ${freed} bytes space with errors in image deletion: [${errors}]`;
      throw new AgentError('ImageGCFailed', message, { cause: failures[0] });
    }
    return freed;
  }

  /** False while nothing can be said. */
  async function collect(signal: AbortSignal): Promise<boolean> {
    const policy = options.policy();
    if (!(await look(signal))) return false;
    // 100 % and no greatest age switch it off; images are looked at all the same, so that it is known how old they are.
    if (policy.highPercent >= 100 && policy.maxAgeMs <= 0) return true;
    const now = clock.mono();
    const old = tooOld(records, policy, startedAt, now);
    if (old.length > 0) await remove(old, Number.MAX_SAFE_INTEGER, 'age', signal);
    const disk = await options.disk(signal);
    if (disk === undefined) return true;
    if (disk.capacityBytes === 0) {
      options.event('Warning', 'InvalidDiskCapacity', 'invalid capacity 0 on image filesystem');
      throw new AgentError('ImageGCFailed', 'invalid capacity 0 on image filesystem');
    }
    const need = bytesToFree(disk, policy);
    if (need === undefined) return true;
    log.info({ usedPercent: need.percent, bytesToFree: need.bytes }, 'the file system of images is full: unused images go');
    const freed = await remove(forSpace(records, policy, now), need.bytes, 'space', signal);
    if (freed >= need.bytes) return true;
    const message = insufficientText(need.percent, disk.capacityBytes, freed);
    options.event('Warning', 'FreeDiskSpaceFailed', message);
    throw new AgentError('ImageGCFailed', message);
  }

  async function round(): Promise<boolean> {
    try {
      const done = await serially(() => collect(options.signal));
      failed = false;
      return done;
    } catch (error) {
      if (options.signal.aborted) return true;
      log.warn({ err: messageOf(error) }, 'unused images could not be removed as they should');
      // As kubelet: the first failure may be the start's, before all is there.
      if (failed) options.event('Warning', 'ImageGCFailed', messageOf(error));
      failed = true;
      return true;
    }
  }

  async function run(): Promise<void> {
    while (!options.signal.aborted) {
      const done = await round();
      await pause(clock, done ? periodMs : notReadyMs, options.signal);
    }
  }
  const running = run();

  return {
    removeUnused: (signal) =>
      serially(async () => {
        if (!(await look(signal))) throw new AgentError('Unavailable', 'it is not known yet which images are in use');
        await remove(forSpace(records, options.policy(), clock.mono()), Number.MAX_SAFE_INTEGER, 'space', signal);
      }),
    async [Symbol.asyncDispose]() {
      await running;
    },
  };
}
