import type { Clock } from '../base/clock.ts';
import { AgentError, messageOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Credential } from './credentials.ts';
import {
  formatIntent,
  formatPulledRecord,
  judgeAccess,
  matchCredentials,
  mergePulled,
  type PulledBy,
  type PulledRecord,
  parseIntent,
  parsePulledRecord,
  pulledWith,
  recordFileName,
  type VerificationPolicy,
} from './records.ts';

/** The two folders of records. Names are those of `recordFileName`; other files are nobody's business here. */
export interface RecordFiles {
  list(folder: 'pulling' | 'pulled'): Promise<string[]>;
  /** Undefined when there is no such file. */
  read(folder: 'pulling' | 'pulled', name: string): Promise<string | undefined>;
  /** Whole or not at all. */
  write(folder: 'pulling' | 'pulled', name: string, text: string): Promise<void>;
  /** Absence is success. */
  remove(folder: 'pulling' | 'pulled', name: string): Promise<void>;
}

/** The ID of an image, if it is there. */
type Inspect = () => Promise<string | undefined>;

/** Remembers who pulled what, and answers who may use it. Images are named as pods name them; `imageRef` is the runtime's ID. */
export interface Pulled {
  /**
   * Before a pull: so that after a crash the image still counts as pulled. What an earlier pull has brought whose end nobody saw is recorded first.
   * Throws ErrImagePull when that cannot be written.
   */
  begin(image: string, inspect: Inspect): Promise<void>;
  /**
   * After a pull that failed. With `arrived`, nobody knows whether it did: what it gives is recorded, though not for whom, and while it cannot be asked
   * the image goes on counting as pulled.
   */
  failed(image: string, arrived?: Inspect): Promise<void>;
  succeeded(image: string, imageRef: string, credential: Credential | undefined): Promise<void>;
  /** Whether a pod may use a present image. Its credentials are asked for only when they decide. */
  mayUse(image: string, imageRef: string, credentials: () => Promise<readonly Credential[]>): Promise<boolean>;
  /** After a start: pulls that were under way and did arrive are recorded, though not for whom. `inspect` gives an image's ID, if it is there. */
  adopt(inspect: (image: string) => Promise<string | undefined>): Promise<void>;
  /** Drops the records of images that are gone, unless they were written after `beforeMs` (wall time). */
  prune(imageRefs: ReadonlySet<string>, beforeMs: number): Promise<void>;
}

export function createPulled(options: { files: RecordFiles; policy: () => VerificationPolicy; clock: Clock; log: Log }): Pulled {
  const { files, clock, log } = options;
  // Nobody else writes these files while the agent runs, so what was read stays true. Undefined: known to be absent.
  const known = new Map<string, PulledRecord | undefined>();
  const underWay = new Map<string, number>();
  const chains = new Map<string, Promise<unknown>>();

  /** Runs `work` after all that was asked for the same key before. */
  function serially<T>(key: string, work: () => Promise<T>): Promise<T> {
    const mine = (chains.get(key) ?? Promise.resolve()).then(work, work);
    chains.set(key, mine);
    const done = (): void => {
      if (chains.get(key) === mine) chains.delete(key);
    };
    mine.then(done, done);
    return mine;
  }

  // A pod may name an image by its ID: records must not queue behind the pull of that name.
  const recordKey = (imageRef: string): string => `record ${imageRef}`;

  async function recordOf(imageRef: string): Promise<PulledRecord | undefined> {
    if (known.has(imageRef)) return known.get(imageRef);
    const text = await files.read('pulled', recordFileName(imageRef));
    const record = text === undefined ? undefined : parsePulledRecord(text);
    known.set(imageRef, record);
    return record;
  }

  async function hasIntent(image: string): Promise<boolean> {
    if ((underWay.get(image) ?? 0) > 0) return true;
    const text = await files.read('pulling', recordFileName(image));
    return text !== undefined && parseIntent(text) === image;
  }

  function remember(image: string, imageRef: string, by: PulledBy | undefined): Promise<void> {
    return serially(recordKey(imageRef), async () => {
      const old = await recordOf(imageRef).catch((error: unknown) => {
        log.warn({ imageRef, err: messageOf(error) }, 'unreadable record of a pulled image is written anew');
        return undefined;
      });
      const record = mergePulled(old, imageRef, image, by, clock.wall());
      if (record === undefined) return;
      await files.write('pulled', recordFileName(imageRef), formatPulledRecord(record));
      known.set(imageRef, record);
    });
  }

  function end(image: string, arrived?: Inspect): Promise<void> {
    return serially(image, async () => {
      const left = (underWay.get(image) ?? 0) - 1;
      if (left > 0) {
        underWay.set(image, left);
        return;
      }
      try {
        const imageRef = await arrived?.();
        if (imageRef !== undefined) await remember(image, imageRef, undefined);
      } catch (error) {
        log.warn({ image, err: messageOf(error) }, 'it is not known whether a pull that was interrupted has brought the image');
        return;
      } finally {
        underWay.delete(image);
      }
      try {
        await files.remove('pulling', recordFileName(image));
      } catch (error) {
        log.error({ image, err: messageOf(error) }, 'the record of an ended pull could not be removed');
      }
    });
  }

  return {
    begin(image, inspect) {
      return serially(image, async () => {
        const count = underWay.get(image) ?? 0;
        try {
          const before = count === 0 && (await files.read('pulling', recordFileName(image))) !== undefined ? await inspect() : undefined;
          if (before !== undefined) await remember(image, before, undefined);
          if (count === 0) await files.write('pulling', recordFileName(image), formatIntent(image));
        } catch (error) {
          const why = `Failed to record image pull intent for container image ${JSON.stringify(image)}: ${messageOf(error)}`;
          throw new AgentError('ErrImagePull', why, { cause: error });
        }
        underWay.set(image, count + 1);
      });
    },
    failed: (image, arrived) => end(image, arrived),
    async succeeded(image, imageRef, credential) {
      try {
        await remember(image, imageRef, pulledWith(credential));
      } catch (error) {
        // The intent stays: the image goes on counting as pulled, and the next start makes a record of it.
        log.error({ image, imageRef, err: messageOf(error) }, 'the record of a pulled image could not be written');
        return;
      }
      await end(image);
    },
    async mayUse(image, imageRef, credentials) {
      let record: PulledRecord | undefined;
      let intent = false;
      try {
        // Between a look at the record and one at the intent no pull may end: neither would be seen, and the image would pass for a preloaded one.
        [record, intent] = await serially(recordKey(imageRef), async () => {
          const found = await recordOf(imageRef);
          return [found, found === undefined && (await hasIntent(image))];
        });
      } catch (error) {
        log.error({ image, imageRef, err: messageOf(error) }, 'records of pulled images could not be read; the image is pulled again');
        return false;
      }
      const verdict = judgeAccess(options.policy(), image, record, intent);
      if (verdict !== 'needsCredentials' || record === undefined) return verdict === 'allowed';
      const match = matchCredentials(image, record, await credentials());
      if (match.remember !== undefined) {
        try {
          await remember(image, imageRef, match.remember);
        } catch (error) {
          log.error({ image, imageRef, err: messageOf(error) }, 'the record of a pulled image could not be written');
        }
      }
      return match.allowed;
    },
    async adopt(inspect) {
      for (const name of await files.list('pulling')) {
        try {
          const image = parseIntent((await files.read('pulling', name)) ?? '');
          if ((underWay.get(image) ?? 0) > 0) continue;
          const imageRef = await inspect(image);
          // An intent without an image stays, as upstream leaves it: the next pull of it ends it.
          if (imageRef === undefined) continue;
          await remember(image, imageRef, undefined);
          await files.remove('pulling', name);
        } catch (error) {
          log.error({ file: name, err: messageOf(error) }, 'an interrupted pull could not be taken over');
        }
      }
    },
    async prune(imageRefs, beforeMs) {
      for (const name of await files.list('pulled')) {
        try {
          const record = parsePulledRecord((await files.read('pulled', name)) ?? '');
          // Records tell whole seconds: one of the second of `beforeMs` may be newer.
          if (imageRefs.has(record.imageRef) || Date.parse(record.lastUpdatedTime) + 1000 > beforeMs) continue;
          await serially(recordKey(record.imageRef), async () => {
            await files.remove('pulled', name);
            known.delete(record.imageRef);
          });
        } catch (error) {
          log.error({ file: name, err: messageOf(error) }, 'the record of a removed image could not be removed');
        }
      }
    },
  };
}
