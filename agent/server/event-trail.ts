import type { Clock } from '../base/clock.ts';

/** An event of a pod as it was recorded on this node; repeats are counted. */
export interface TrailEvent {
  /** Wall time of the last occurrence, ms. */
  readonly at: number;
  readonly type: 'Normal' | 'Warning';
  readonly reason: string;
  readonly message: string;
  readonly count: number;
}

/** The last events of each pod, for a person on the node who has no API server to ask. */
export interface EventTrail {
  record(podUid: string, type: TrailEvent['type'], reason: string, message: string): void;
  /** Oldest first. */
  of(podUid: string): readonly TrailEvent[];
  forget(podUid: string): void;
}

const keptEvents = 32;

export function createEventTrail(clock: Clock): EventTrail {
  const trails = new Map<string, TrailEvent[]>();
  return {
    record(podUid, type, reason, message) {
      const events = trails.get(podUid) ?? [];
      trails.set(podUid, events);
      const same = events.findIndex((e) => e.type === type && e.reason === reason && e.message === message);
      const count = same < 0 ? 1 : (events.splice(same, 1)[0]?.count ?? 0) + 1;
      events.push({ at: clock.wall(), type, reason, message, count });
      if (events.length > keptEvents) events.shift();
    },
    of: (podUid) => trails.get(podUid) ?? [],
    forget: (podUid) => void trails.delete(podUid),
  };
}
