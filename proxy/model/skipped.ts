/** Why a part of an object is not proxied. The object's other parts are. */
export type SkipReason =
  | 'InvalidAddress'
  | 'InvalidPort'
  | 'InvalidProtocol'
  | 'InvalidRange'
  | 'DuplicatePort'
  | 'WrongFamily'
  | 'NoAddress'
  | 'UnnamedPort';

export interface Skipped {
  readonly reason: SkipReason;
  /** How many parts of the object were skipped for this reason. */
  readonly count: number;
  /** The first of them, as it was written, cut to 100 characters. */
  readonly example: string;
}

/** Collects what is skipped: one row a reason, however much of it there is. */
export interface SkipCounter {
  skip(reason: SkipReason, example: unknown): void;
  /** Undefined when nothing was skipped. */
  rows(): readonly Skipped[] | undefined;
}

export function skipCounter(): SkipCounter {
  const counts = new Map<SkipReason, { count: number; example: string }>();
  return {
    skip(reason, example) {
      const row = counts.get(reason);
      if (row !== undefined) row.count += 1;
      else counts.set(reason, { count: 1, example: textOf(example).slice(0, 100) });
    },
    rows: () => (counts.size === 0 ? undefined : [...counts].map(([reason, row]) => ({ reason, ...row }))),
  };
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? 'undefined');
}
