// What two nodes do not tell alike, and which of it is known and accepted.

export type Agent = 'keelson' | 'upstream';

/** A line that only one of the two told. */
export type Difference = { readonly pod: string; readonly only: Agent; readonly line: string };

/** A difference that may be. `pod` and `line` are regular expressions of the whole text. */
export type Accepted = {
  readonly pod: string;
  readonly only: Agent | 'either';
  readonly line: string;
  readonly why: string;
  /** What may also be alike: it hangs on a race or on the load. */
  readonly sometimes?: boolean;
};

export function differences(pod: string, keelson: readonly string[], upstream: readonly string[]): Difference[] {
  const [ours, theirs] = [new Set(keelson), new Set(upstream)];
  return [
    ...upstream.filter((line) => !ours.has(line)).map((line) => ({ pod, only: 'upstream' as const, line })),
    ...keelson.filter((line) => !theirs.has(line)).map((line) => ({ pod, only: 'keelson' as const, line })),
  ];
}

const whole = (text: string): RegExp => new RegExp(`^(?:${text})$`, 's');

/** Told of every difference; `stale` are the lines that none of them needed. */
export type Acceptance = {
  accepts(difference: Difference): boolean;
  stale(): Accepted[];
};

export function createAcceptance(accepted: readonly Accepted[]): Acceptance {
  const rules = accepted.map((rule) => ({ rule, pod: whole(rule.pod), line: whole(rule.line), used: rule.sometimes === true }));
  return {
    accepts({ pod, only, line }) {
      let found = false;
      for (const each of rules) {
        if (each.rule.only !== 'either' && each.rule.only !== only) continue;
        if (!each.pod.test(pod) || !each.line.test(line)) continue;
        each.used = true;
        found = true;
      }
      return found;
    },
    stale: () => rules.filter(({ used }) => !used).map(({ rule }) => rule),
  };
}

/** For people: upstream's lines with a minus, ours with a plus. */
export const printed = ({ only, line }: Difference): string => `  ${only === 'upstream' ? '-' : '+'} ${line.replaceAll('\n', '\\n')}`;
