import type { Clock } from '../base/clock.ts';

/** Answers remembered for a while; questions asked twice at once are put once. */
export interface TtlCache<T> {
  /** The remembered answer for `key`, or that of `ask`. What `ask` throws is remembered for nobody. */
  get(key: string, ask: () => Promise<T>): Promise<T>;
}

/** `ttlMs` says how long an answer holds. At most `capacity` answers are kept, the oldest go first. */
export function createTtlCache<T>(clock: Clock, ttlMs: (answer: T) => number, capacity: number): TtlCache<T> {
  const answers = new Map<string, { answer: T; until: number }>();
  const asked = new Map<string, Promise<T>>();
  return {
    get(key, ask) {
      const known = answers.get(key);
      if (known !== undefined && known.until > clock.mono()) return Promise.resolve(known.answer);
      answers.delete(key);
      const pending = asked.get(key);
      if (pending !== undefined) return pending;
      const question = ask()
        .then((answer) => {
          answers.set(key, { answer, until: clock.mono() + ttlMs(answer) });
          for (const oldest of answers.keys()) {
            if (answers.size <= capacity) break;
            answers.delete(oldest);
          }
          return answer;
        })
        .finally(() => asked.delete(key));
      asked.set(key, question);
      return question;
    },
  };
}
