import type { Event } from '../../model/generated/api.ts';

/** An Event as the recorder makes it: the fields that correlation looks at are there. */
export type NewEvent = Event & { type: string; reason: string; message: string; count: number };

/** What is to be sent for an event: nothing, a new Event, or a patch of the Event that said the same before. */
export type Correlated =
  | { readonly kind: 'skip' }
  | { readonly kind: 'create'; readonly key: string; readonly event: NewEvent }
  | {
      readonly kind: 'patch';
      readonly key: string;
      /** The whole Event, for the case that the one to patch has expired. */
      readonly event: NewEvent;
      readonly patch: { readonly count: number; readonly lastTimestamp: string | undefined; readonly message: string };
    };

/** Folds events like client-go's EventCorrelator (tools/record/events_cache.go), so that a crash loop does not flood the server. */
export interface EventCorrelator {
  /** `nowMs` is wall time. `aggregateName` names the Event if this becomes the first combined one. */
  correlate(event: NewEvent, nowMs: number, aggregateName: string): Correlated;
  /** Remembers the name and count under which the server has the event. */
  recorded(key: string, event: NewEvent): void;
}

const maxEntries = 4096;
// Events that differ only in their message are combined from the 10th different message on, while no 10 minutes pass without one.
const maxSimilar = 10;
const similarWindowMs = 600_000;
// A source may send 25 events about an object at once, then one each 5 minutes.
const spamBurst = 25;
const spamRefillMs = 300_000;

/** Makes a correlator; it remembers the 4096 most recent keys of each sort. */
export function createEventCorrelator(): EventCorrelator {
  const similar = new Lru<{ messages: Set<string>; at: number }>(maxEntries);
  const counts = new Lru<{ count: number; firstTimestamp: string | undefined; name: string }>(maxEntries);
  const buckets = new Lru<{ tokens: number; at: number }>(maxEntries);

  function aggregate(event: NewEvent, nowMs: number, aggregateName: string): { event: NewEvent; key: string } {
    const groupKey = JSON.stringify([
      ...objectKey(event),
      event.type,
      event.reason,
      event.reportingComponent ?? '',
      event.reportingInstance ?? '',
    ]);
    let group = similar.get(groupKey);
    if (group === undefined || nowMs - group.at > similarWindowMs) group = { messages: new Set(), at: nowMs };
    group.messages.add(event.message);
    group.at = nowMs;
    similar.set(groupKey, group);
    if (group.messages.size < maxSimilar) {
      return {
        event,
        key: JSON.stringify([...objectKey(event), event.involvedObject.fieldPath ?? '', event.type, event.reason, event.message]),
      };
    }
    for (const message of group.messages) {
      // Never more than the threshold: the next different message is combined too.
      group.messages.delete(message);
      break;
    }
    return {
      key: groupKey,
      event: {
        ...event,
        metadata: { ...event.metadata, name: aggregateName },
        message: `(combined from similar events): ${event.message}`,
      },
    };
  }

  function isSpam(event: NewEvent, nowMs: number): boolean {
    const key = JSON.stringify([...objectKey(event), event.type]);
    const bucket = buckets.get(key) ?? { tokens: spamBurst, at: nowMs };
    bucket.tokens = Math.min(spamBurst, bucket.tokens + Math.max(0, nowMs - bucket.at) / spamRefillMs);
    bucket.at = nowMs;
    buckets.set(key, bucket);
    if (bucket.tokens < 1) return true;
    bucket.tokens -= 1;
    return false;
  }

  return {
    correlate(incoming, nowMs, aggregateName) {
      const { event, key } = aggregate(incoming, nowMs, aggregateName);
      const last = counts.get(key);
      const observed: NewEvent =
        last === undefined
          ? event
          : {
              ...event,
              metadata: { ...event.metadata, name: last.name },
              firstTimestamp: last.firstTimestamp,
              count: last.count + 1,
            };
      counts.set(key, { count: observed.count, firstTimestamp: observed.firstTimestamp, name: observed.metadata.name as string });
      if (isSpam(observed, nowMs)) return { kind: 'skip' };
      if (observed.count <= 1) return { kind: 'create', key, event: observed };
      const patch = { count: observed.count, lastTimestamp: observed.lastTimestamp, message: observed.message };
      return { kind: 'patch', key, event: observed, patch };
    },
    recorded(key, event) {
      counts.set(key, { count: event.count, firstTimestamp: event.firstTimestamp, name: event.metadata.name as string });
    },
  };
}

function objectKey(event: NewEvent): string[] {
  const object = event.involvedObject;
  return [
    event.source?.component ?? '',
    event.source?.host ?? '',
    object.kind ?? '',
    object.namespace ?? '',
    object.name ?? '',
    object.uid ?? '',
    object.apiVersion ?? '',
  ];
}

/** Forgets the key that was not used for the longest time. */
class Lru<V> {
  readonly #max: number;
  readonly #rows = new Map<string, V>();

  constructor(max: number) {
    this.#max = max;
  }

  get(key: string): V | undefined {
    const value = this.#rows.get(key);
    if (value !== undefined) {
      this.#rows.delete(key);
      this.#rows.set(key, value);
    }
    return value;
  }

  set(key: string, value: V): void {
    this.#rows.delete(key);
    this.#rows.set(key, value);
    if (this.#rows.size <= this.#max) return;
    for (const oldest of this.#rows.keys()) {
      this.#rows.delete(oldest);
      break;
    }
  }
}
