/** A question about a pod whose answer takes time: it is asked once, and the pod is looked at again when it is answered. */
export interface Question<Answer> {
  /** The answer; undefined while it is awaited. Asks when nobody has. */
  answer(uid: string, ask: () => Promise<Answer>): { readonly is: Answer } | undefined;
  /** True from when it was asked until it is forgotten. */
  has(uid: string): boolean;
  /** An answer that is still awaited is nobody's then. */
  forget(uid: string): void;
}

/** `ask` must not reject. `answered` is told of each answer that is still wanted; `track` of each that is awaited, so that nobody leaves before. */
export function createQuestion<Answer>(answered: (uid: string) => void, track: (asking: Promise<void>) => void): Question<Answer> {
  const asked = new Map<string, 'awaited' | { readonly is: Answer }>();
  const awaited = new Map<string, Promise<void>>();
  return {
    answer(uid, ask) {
      const before = asked.get(uid);
      if (before !== undefined) return before === 'awaited' ? undefined : before;
      asked.set(uid, 'awaited');
      const asking = ask().then((is) => {
        if (awaited.get(uid) !== asking) return;
        awaited.delete(uid);
        asked.set(uid, { is });
        answered(uid);
      });
      awaited.set(uid, asking);
      track(asking);
      return undefined;
    },
    has: (uid) => asked.has(uid),
    forget(uid) {
      asked.delete(uid);
      awaited.delete(uid);
    },
  };
}
